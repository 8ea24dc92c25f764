"""The strip of the README: the same seeds in many calls, and in few by the best of diffusers' solvers and by a plan.

    underpaint calibrate emoji-scenes --prompt "a red apple and a teddy bear on a blue background" \\
        --prompt "a penguin on white ground under a blue sky" --prompt "a sunflower on a purple background" \\
        --prompt "a fox and a pine tree on green ground under a grey sky" --guidance 3 --calls 5 --budget 6000 \\
        --out plans.json
    python benchmarks/strip.py plans.json --out docs/images/few-calls-strip.png

The seeds are the first of those that neither plan nor choice has seen: none is picked. The solver of diffusers, its
variant and its grid are those that come nearest to the fine solution on the seeds 3000 to 3003. Both distances are
printed.
"""

from __future__ import annotations

import argparse
import re

import matplotlib.pyplot as plt
import torch
from matplotlib import rc_context
from torch import Tensor

from underpaint import initial_noise, load_gaussian, load_model, read_calibration, sample
from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.figures.pictures import show
from underpaint.figures.style import RC
from underpaint.files import check_targets
from underpaint.models.schedulers.peers import SCHEDULERS, lay, lay_default, peer
from underpaint.noise import NoiseLevel
from underpaint.recipes.shared.request import Conditioning, find_denoiser
from underpaint.sampling.solvers import Solver
from underpaint.sampling.use import in_turn

GRIDS = ("linspace", "leading", "trailing", "karras")
#: What a plan is held against: so many steps of diffusers' UniPC of order 3.
MANY, FINE = 40, "UniPC-3 bh2"
TUNING, SHOWN = range(3000, 3004), range(2000, 2016)


def case_of(words: str) -> Conditioning:
    """A case from what a calibration says of it."""
    prompt, weight = re.fullmatch(r"(.*?)(?:, guidance ([\d.]+))?", words).groups()
    return Conditioning(None if prompt == "unconditional" else prompt, float(weight or 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calibration")
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--count", type=int, default=8, help="images of each row")
    parser.add_argument("--out", default="few-calls-strip.png")
    given = parser.parse_args()
    check_integers(vars(given), count=(1, len(SHOWN)))
    check_targets(given.out)
    plans = read_calibration(given.calibration)
    plans.plan(given.calls)  # a mistake in it shows before the work
    model, gaussian = load_model(plans.about["place"]), load_gaussian(plans.about["statistics"]["all"])
    denoise = in_turn([find_denoiser(model, case_of(words)) for words in plans.about["cases"]])

    def ends(solver: Solver, level: NoiseLevel, seeds: range) -> Tensor:
        x = initial_noise(seeds, model.dimension, level[0])
        return sample(denoise, x, level, solver, every=len(level)).final

    def distance(found: Tensor, fine: Tensor) -> float:
        return float((found - fine).square().mean().sqrt())

    many = lay(model.schedule, "karras", MANY)
    fine = ends(peer(FINE), many, TUNING)
    tried = {}
    for name in SCHEDULERS:
        levels = {grid: lay(model.schedule, grid, given.calls) for grid in GRIDS}
        for grid, level in {**levels, "default": lay_default(model.schedule, name, given.calls)}.items():
            tried[name, grid] = distance(ends(peer(name), level, TUNING), fine), level
    (name, grid), (_, level) = min(tried.items(), key=lambda item: item[1][0])

    fine = ends(peer(FINE), many, SHOWN)
    solver, planned = plans.solver(gaussian, given.calls)
    rows = {
        f"{MANY} calls": fine,
        f"{given.calls} calls, {name}": ends(peer(name), level, SHOWN),
        f"{given.calls} calls, calibrated": ends(solver, planned, SHOWN),
    }
    for words, found in rows.items():
        print(f"{words}: {distance(found, fine):.3f} from {MANY} calls, over {len(SHOWN)} seeds")
    print(f"{name} on the grid {grid}")
    images = torch.stack([model.images(found[: given.count]) for found in rows.values()])
    with rc_context(RC):
        figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
        show(axes, images, list(rows))
        figure.savefig(given.out, dpi=130)


if __name__ == "__main__":
    with in_a_sentence("strip.py"):
        main()
