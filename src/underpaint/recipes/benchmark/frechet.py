"""The benchmark's Fréchet distances: of any cell, and of a grid with fewer and fewer of its first steps.

Each is measured to images of the data, and to the network's own images, from a long solution and the same noise. The
second says what the solver does; the first, what the network does, too: where its own images are not those that score
best, a solver that misses them can score less than one that does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...metrics.frechet import FrechetScore, Statistics, frechet_distance, frechet_score
from ...theory.moments import Moments
from ..shared.results import quantity
from .cells import Cell, Workbench

#: Seeds of the samples.
_FROM = 10_000


@dataclass(frozen=True, eq=False)
class Skipped:
    """Fréchet distances after a jump over the first steps of a grid, *saved* or *re-spent*."""

    skip: int
    accounting: str
    cell: Cell
    nfe: int
    frechet: FrechetScore
    to_own: float = quantity("Fréchet distance to the network's own images of the same seeds")


def judged_seeds(workbench: Workbench) -> Sequence[int]:
    """Seeds of the samples, none of which anything was chosen on."""
    return range(_FROM, _FROM + workbench.settings.samples)


def seen(workbench: Workbench, cell: Cell) -> Statistics:
    """What a cell's images look like; features are added up a batch at a time."""
    assert workbench.features is not None
    parts = (
        workbench.measured(cell, part, "features")["values"] for part in workbench.batches(judged_seeds(workbench))
    )
    return Statistics.of(Moments.of(parts), workbench.features.name)


def frechet_of(workbench: Workbench, images: Statistics) -> FrechetScore:
    """The distance of images to those of the data."""
    assert workbench.reference is not None
    return frechet_score(images, workbench.reference)


def skips(workbench: Workbench) -> list[tuple[int, str, Cell]]:
    """Steps of the sampler's grid that are skipped, the accounting, and the cell."""
    sampler = workbench.sampler
    plain = Cell(sampler.solver, "own", len(sampler.level) - 1)
    shortened = range(2, plain.steps - 3, 2) if workbench.gaussian is not None else ()
    return [(0, "saved", plain)] + [
        (skip, accounting, replace(plain, skip=float(sampler.level.ratio[skip]), saved=accounting == "saved"))
        for skip in shortened
        for accounting in ("saved", "re-spent")
    ]


def skipping(workbench: Workbench, own: Statistics) -> Iterator[Skipped]:
    """The distances after each skip; ``own`` are the network's own images."""
    for skip, accounting, cell in skips(workbench):
        nfe, images = workbench.calls(cell, judged_seeds(workbench), "features"), seen(workbench, cell)
        yield Skipped(skip, accounting, cell, nfe, frechet_of(workbench, images), frechet_distance(images, own))
