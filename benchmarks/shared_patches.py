"""Are size and temperature of shared patches that are chosen with few images the best with more, too?

    python benchmarks/shared_patches.py

On states such as `underpaint compare` tunes on (half as many noised images that are held out as seeds of the network's
own trajectories), every setting is asked with each number of images. By level: the setting that is chosen with the
fewest, what it explains with each number, and how much more the best setting of all explains with the most.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from underpaint.bounds import MOST_ITEMS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.recipes.compare.comparison import Settings, gather_states
from underpaint.recipes.compare.families import Sweeps, local_families
from underpaint.recipes.compare.tuning import States, tune
from underpaint.recipes.shared.model_and_data import ModelAndData, Sources, load_model_and_data


def explained(subject: ModelAndData, sweeps: Sweeps, states: States) -> tuple[list[str], Tensor]:
    """The settings by name, and what they explain, [setting, level]."""
    family, count = local_families(subject, sweeps)["shared patches"], sweeps.shared
    found = tune("size", family, states, torch.arange(1), lambda: None)[0]
    print(f"asked with {count:,} images", flush=True)
    return [name for name, _ in family.members("size")], found.explained.flatten(0, 1)


def main() -> None:
    """Print a table of levels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--counts", type=int, nargs="+", default=[142, 1000])
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    check_integers(vars(args), counts=(1, MOST_ITEMS), seeds=(2, 10_000))
    settings = Settings(Sources(args.model), images=args.seeds, seeds=tuple(range(100, 100 + args.seeds)))
    subject = load_model_and_data(settings.sources, held_out=7 * args.seeds)
    states = gather_states(subject, settings, subject.model.schedule.grid(settings.steps))[1]
    counts = sorted(args.counts)
    found = [explained(subject, replace(settings.sweeps, shared=n, tune_shared=n), states) for n in counts]
    names, values = found[0][0], torch.stack([value for _, value in found])
    heads = ["σ/α", f"chosen with {counts[0]:,}", *(f"{n:,}" for n in counts), f"best with {counts[-1]:,}", "more"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for at, by_count in zip(states.level, values.unbind(2), strict=True):
        chosen, best = int(by_count[0].argmax()), int(by_count[-1].argmax())
        cells = " | ".join(f"{value:.3f}" for value in by_count[:, chosen].tolist())
        more = float(by_count[-1, best] - by_count[-1, chosen])
        print(f"| {float(at.ratio):.3g} | {names[chosen]} | {cells} | {names[best]} | {more:.3f} |")


if __name__ == "__main__":
    with in_a_sentence("shared_patches.py"):
        main()
