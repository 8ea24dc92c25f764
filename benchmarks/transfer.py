"""What a plan holds for: plans that were fitted to prompts at guidance 3, used elsewhere.

    python benchmarks/transfer.py                                   # shows the table
    python benchmarks/transfer.py --write docs/guides/speed_up.md   # puts it between the page's marks
    python benchmarks/transfer.py --json --keep plans.json          # errors by seed; plans, with what they lose
    python benchmarks/transfer.py --range --write docs/guides/speed_up.md  # plans for a range of guidance instead

On emoji-scenes. Each use has its own fine solution, its best plain solver (of diffusers', on the grids on which `bench`
finds them best here; chosen on held-out seeds), and a plan fitted for it; the errors of all are those of further seeds.
Another resolution takes another Gaussian, of the network's own samples there. Each use is kept in --parts as it is
measured, and is not measured again.

With --range the plans are fitted to the same prompts at four weights of guidance together, on as many seeds for each
weight, and used at these and between them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pages import check_page, put
from torch import Tensor

import underpaint as up
from underpaint.bounds import check_integers, integer
from underpaint.cli.base import in_a_sentence
from underpaint.files import check_targets, write_text
from underpaint.models.schedulers.peers import lay, peer
from underpaint.recipes.benchmark.benchmark import bootstrap_ratio
from underpaint.sampling.fitted import Calibration, read_calibration, write_calibration
from underpaint.sampling.use import differences, in_turn, use_of

MODEL, MARKS = "emoji-scenes", ("<!-- table of transfer -->\n", "<!-- end of the table -->\n")
#: Weights of guidance that plans for a range are fitted to, those that they are used at, and the marks of their table.
WEIGHTS, USED = (1.5, 3.0, 5.0, 7.5), (1.5, 2.0, 3.0, 4.0, 5.0, 7.5)
RANGE_MARKS = ("<!-- table of a range -->\n", "<!-- end of the range -->\n")
SEEN = ("a frog on a purple background", "a gift on a blue background")
UNSEEN = ("a fox on a green background", "a pizza and a cup of coffee on a brown background")
SEEDS, HELD_OUT, JUDGED = range(8), range(1000, 1004), range(2000, 2016)
HELD_OUT_OF_ALL = range(1000, 1016)
CALLS, FINE, EFFORT = (5, 8), 30, 8
#: Plain solvers, their grids, the held-out seeds that choose among them, and steps of the solution that all are held
#: against.
SOLVERS, GRIDS = ("DPM-Solver++ 2M heun", "UniPC-2 bh2", "DEIS-2"), ("trailing", "karras")
CHOOSING, REFERENCE = range(1000, 1004), 40
#: Another edge of the latents, and samples that the Gaussian there is of.
EDGE, SAMPLES = 16, 192


@dataclass(frozen=True, eq=False)
class Place:
    """A use of the network: what it is called, the model, and what is asked of it."""

    name: str
    model: up.Model
    given: up.Gaussian
    prompts: Sequence[str] = SEEN
    guidance: float = 3.0

    @cached_property
    def gaussian(self) -> up.Gaussian:
        """The one of the data, or where that is of another dimension, of the network's own samples."""
        return self.given if self.given.dimension == self.model.dimension else own_gaussian(self.model)

    @cached_property
    def denoise(self) -> up.Denoiser:
        return in_turn([self.model.conditional(prompt, self.guidance) for prompt in self.prompts])

    def ends(self, level: up.NoiseLevel, solver: Any, seeds: Sequence[int]) -> Tensor:
        x = up.initial_noise(seeds, self.model.dimension, level[0])
        return up.sample(self.denoise, x, level, solver, every=len(level)).final

    def errors(self, level: up.NoiseLevel, solver: Any, seeds: Sequence[int]) -> Tensor:
        """Root mean square distance to the fine solution, for each seed; infinite where a solver fails."""
        try:
            found = self.ends(level, solver, seeds)
        except ValueError:
            return torch.full((len(seeds),), torch.inf, dtype=torch.float64)
        return (found - self.fine[seeds[0]]).double().square().mean(1).sqrt()

    @cached_property
    def fine(self) -> dict[int, Tensor]:
        """The network's own solutions, as `underpaint bench` makes them, by the first of their seeds."""
        level = lay(self.model.schedule, "karras", REFERENCE)
        return {seeds[0]: self.ends(level, peer("UniPC-3 bh2"), seeds) for seeds in (CHOOSING, JUDGED)}

    @cached_property
    def plans(self) -> Calibration:
        """Those that are fitted for this use."""
        how: dict[str, Any] = {"fine": FINE, "effort": EFFORT}
        return up.calibrate(self.denoise, self.gaussian, self.model.schedule, CALLS, SEEDS, HELD_OUT, **how)

    def planned(self, plans: Calibration, calls: int) -> Tensor:
        """Errors of plans that were fitted somewhere."""
        solver, level = Calibration(plans.at(self.guidance).plans, {}).solver(self.gaussian, calls)
        return self.errors(level, solver, JUDGED)

    def plain(self, calls: int) -> tuple[str, Tensor]:
        """The best plain solver, and its errors."""
        tried = {
            (name, grid): self.errors(lay(self.model.schedule, grid, calls), peer(name), CHOOSING)
            for name, grid in product(SOLVERS, GRIDS)
        }
        name, grid = min(tried, key=lambda one: float(tried[one].square().mean()))
        return f"{name}, {grid}", self.errors(lay(self.model.schedule, grid, calls), peer(name), JUDGED)


def places() -> Iterator[Place]:
    """The use that the plans are fitted for, and others."""
    gaussian, model = up.load_gaussian(MODEL), up.load_model(MODEL)
    home = Place("what it was fitted for: two prompts, guidance 3", model, gaussian)
    yield home
    yield replace(home, name="two other prompts", prompts=UNSEEN)
    for guidance in (1.0, 1.5, 5.0, 7.5):
        yield replace(home, name=f"guidance {guidance:g}", guidance=guidance)
    yield replace(home, name="the network in bfloat16", model=up.load_model(MODEL).to(dtype=torch.bfloat16))
    yield replace(home, name="weights changed by 1 %", model=changed(up.load_model(MODEL), 0.01))
    wide = replace(model, shape=(model.shape[0], EDGE, EDGE))
    yield replace(home, name=f"latents of {EDGE} x {EDGE} in place of 12 x 12", model=wide)


def weights() -> Iterator[Place]:
    """The uses of plans for a range."""
    home = next(places())
    yield from (replace(home, name=f"guidance {weight:g}", guidance=weight) for weight in USED)


def for_range() -> Calibration:
    """Plans for all weights, from as many seeds for each as those for one."""
    home, how = next(places()), {"fine": FINE, "effort": EFFORT}
    cases = [home.model.conditional(prompt, weight) for prompt in home.prompts for weight in WEIGHTS]
    seeds = range(len(SEEDS) * len(WEIGHTS))
    return up.calibrate(in_turn(cases), home.gaussian, home.model.schedule, CALLS, seeds, HELD_OUT_OF_ALL, **how)


def changed(model: up.Model, share: float) -> up.Model:
    """The model with noise in its weights, of a share of each: what stands for a copy that was tuned further."""
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.network.parameters():  # type: ignore[attr-defined]
            weights.mul_(1 + share * torch.randn(weights.shape, generator=made))
    return model


def own_gaussian(model: up.Model) -> up.Gaussian:
    """The Gaussian of a network's own samples."""
    level = model.schedule.grid(12)
    x = up.initial_noise(range(5000, 5000 + SAMPLES), model.dimension, level[0])
    return up.Gaussian.fit(up.sample(model, x, level, every=len(level)).final, rank=64)


@dataclass(frozen=True)
class Row:
    """Errors by seed of so many calls in a use: of the plan fitted at home, of the one fitted for the use, and of the
    best plain solver."""

    use: str
    calls: int
    plan: list[float]
    fitted: list[float]
    plain: list[float]
    solver: str

    def over(self, other: str) -> tuple[float, float, float, float]:
        """Ratio of root mean squares to another's, 5 % and 95 % of it over seeds, and ratio of medians."""
        mine, theirs = (torch.tensor(errors, dtype=torch.float64) for errors in (self.plan, getattr(self, other)))
        return *bootstrap_ratio(mine, theirs), float(mine.median() / theirs.median())

    def cell(self, other: str) -> str:
        value, low, high, medians = self.over(other)
        return "1" if self.plan == getattr(self, other) else f"{value:.2f} ({low:.2f} to {high:.2f}), {medians:.2f}"


def measured(place: Place, plans: Calibration, home: bool) -> Iterator[Row]:
    """What becomes of plans in a use, or at home, where they were fitted."""
    for calls in CALLS:
        solver, plain = place.plain(calls)
        own = plans if home else place.plans
        errors = [one.tolist() for one in (place.planned(plans, calls), place.planned(own, calls), plain)]
        yield Row(place.name, calls, *errors, solver)


def measure(parts: Path, only: Sequence[int] = (), ranged: bool = False) -> tuple[Calibration, list[Row]]:
    """The plans, and what becomes of them in each use; what the folder holds is not measured again."""
    parts.mkdir(parents=True, exist_ok=True)
    listed, rows, name = list(weights() if ranged else places()), list[Row](), "range-" if ranged else ""
    known = parts / f"{name}plans.json"
    if not known.exists():
        write_calibration(known, for_range() if ranged else listed[0].plans)
    plans = read_calibration(known)
    for i, place in enumerate(listed):
        file = parts / f"{name}{i}.json"
        if not file.exists() and (not only or i in only):
            found = [asdict(row) for row in measured(place, plans, home=not (ranged or i))]
            write_text(file, json.dumps(found) + "\n")
        if file.exists():
            rows += [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    return plans, rows


def table(rows: Sequence[Row]) -> str:
    """As markdown: a row for each use."""
    others = {"plain": "over the best plain solver", "fitted": "over a plan fitted for it"}
    names = [f"{calls} calls, {words}" for calls in CALLS for words in others.values()]
    lines = [f"| used for | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for use in dict.fromkeys(row.use for row in rows):
        cells = [row.cell(other) for row in rows if row.use == use for other in others]
        lines.append(f"| {use} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_losses(plans: Calibration, rows: Sequence[Row]) -> Calibration:
    """The plans, with what was measured of them in uses that they were not fitted for."""
    losses, used = [], {place.name: use_of(place.denoise) for place in places()}
    for row in rows:
        differ = differences(plans.fitted_for, used[row.use])
        if differ:
            value, low, high, _ = row.over("fitted")
            told = {"calls": row.calls, "use": used[row.use].only(differ).known}
            losses.append(told | {"ratio": value, "low": low, "high": high})
    return Calibration(plans.plans, plans.about | {"losses": losses})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    parser.add_argument("--json", action="store_true", help="print errors by seed as JSON")
    parser.add_argument("--keep", type=Path, help="a file for the plans, with what was measured of them")
    parser.add_argument("--parts", type=Path, default=Path("transfer.part"), help="a folder for what is measured")
    parser.add_argument("--only", type=int, nargs="+", default=[], help="numbers of uses to measure now")
    parser.add_argument("--range", action="store_true", help="plans for a range of guidance")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(integer(asked.threads, "number of threads", 1, 1024))
    if asked.range and asked.keep is not None:
        raise ValueError("--keep writes the plans for one guidance with what they lose; give it without --range.")
    marks, listed = (RANGE_MARKS, weights()) if asked.range else (MARKS, places())
    check_integers(vars(asked), only=(0, len([*listed]) - 1))
    check_page(asked.write, marks)
    check_targets(asked.parts / "plans.json", *([asked.keep] if asked.keep else []))
    plans, rows = measure(asked.parts, asked.only, asked.range)
    print(json.dumps([asdict(row) for row in rows]) if asked.json else table(rows))
    if asked.keep is not None:
        write_calibration(asked.keep, with_losses(plans, rows))
    if asked.write is not None:
        put(table(rows), asked.write, marks)


if __name__ == "__main__":
    with in_a_sentence("transfer.py"):
        main()
