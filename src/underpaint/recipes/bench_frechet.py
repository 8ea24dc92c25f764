"""The benchmark's Fréchet distances: of any cell, and of a grid with fewer and fewer of its first steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..metrics.frechet import FrechetScore, Statistics, frechet_score
from ..theory.moments import Moments
from .bench_cells import Cell, Workbench

#: Seeds of the samples.
_FROM = 10_000


@dataclass(frozen=True, eq=False)
class Skipped:
    """Fréchet distance after a jump over the first steps of a grid, *saved* or *re-spent*."""

    skip: int
    accounting: str
    cell: Cell
    nfe: int
    frechet: FrechetScore


def judged_seeds(workbench: Workbench) -> Sequence[int]:
    """Seeds of the samples, none of which anything was chosen on."""
    return range(_FROM, _FROM + workbench.settings.samples)


def frechet_of(workbench: Workbench, cell: Cell) -> FrechetScore:
    """The Fréchet distance of a cell; features are added up a batch at a time."""
    assert workbench.features is not None
    assert workbench.reference is not None
    parts = (
        workbench.measured(cell, part, "features")["values"] for part in workbench.batches(judged_seeds(workbench))
    )
    return frechet_score(Statistics.of(Moments.of(parts), workbench.features.name), workbench.reference)


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


def skipping(workbench: Workbench) -> Iterator[Skipped]:
    """The distance after each skip, if any are to be measured."""
    for skip, accounting, cell in skips(workbench) if workbench.settings.samples else ():
        nfe = workbench.calls(cell, judged_seeds(workbench), "features")
        yield Skipped(skip, accounting, cell, nfe, frechet_of(workbench, cell))
