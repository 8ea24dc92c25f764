"""What the benchmark is made of: cells, each a solver on a grid, and the workbench that solves them and keeps what it
finds.

A cell is solved for a batch of seeds at a time; each batch is a file, whole or not there, named by a fingerprint of all
that its numbers depend on. So a run that was stopped continues, and nothing is solved twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...bounds import MOST_ITEMS, MOST_STEPS, check_seeds, integer, shown
from ...metrics.features import FeatureSet
from ...metrics.frechet import Statistics
from ...models.fingerprint import digest, fingerprint
from ...models.schedulers.peers import FAMILIES, GRIDS, calls_of, grids, lay, lay_default, peer, steps_of
from ...noise import NoiseLevel
from ...sampling.exponential import EXPONENTIALS, named_exponential
from ...sampling.fitted import Calibration
from ...sampling.linear import LearnedRules, LinearRule
from ...sampling.solvers import Solver
from ...sampling.teleport import steps_above
from ...sampling.trajectory import NotFinite, initial_noise, sample
from ...sampling.use import in_turn
from ...theory.denoiser import Denoiser
from ...theory.gaussian import Gaussian
from ..shared.checkpoints import checkpoint_name, gaussian_tensors, load_or_make
from ..shared.request import Conditioning, Sampler, describe, find_denoiser, network_calls

#: Families of ours: from the first level; after a jump; and as a calibration has planned it.
OURS = ("exponential", "teleported", "calibrated")
#: The family of those that were learned as published ones are, by benchmarks/learned.py: no peer that anyone has at
#: hand, and none of ours.
LEARNED = "learned"
#: Where to jump to, in units of the largest standard deviation of the data, and the grids that follow.
LANDINGS, TELEPORTED = (2.0, 1.0, 0.5), ("karras", "log")

#: What is kept of samples: they themselves, or the features of their images.
Keep = Literal["rows", "features"]


@dataclass(frozen=True)
class Cell:
    """One way to solve.

    Attributes:
        solver: a peer, a solver of this library, one of `EXPONENTIALS`, "calibrated", or "learned".
        grid: one of `GRIDS`, "default" for what diffusers lays unless told, "plan" for that of the calibration, or
            "rule" for levels that were learned.
        steps: of the grid.
        skip: the ratio sigma/alpha down to which the Gaussian's flow goes first; 0 for no jump.
        saved: the grid is laid from the first level, and what lies above the ratio is saved; else it is laid from
            there, and all of its steps are spent.
    """

    solver: str
    grid: str
    steps: int
    skip: float = 0.0
    saved: bool = False

    def __str__(self) -> str:
        return f"{self.solver}, {self.grid}" + (f" from {self.skip:.3g}" if self.skip else "")


@dataclass(frozen=True)
class Settings:
    """What is compared. Grids and variants are chosen on the ``tuning`` seeds and measured on the others.

    Attributes:
        calls: numbers of calls of the denoiser.
        seeds, tuning: held-out seeds, and those that choices are made on.
        solvers: families, of `FAMILIES` and `OURS`, and "learned"; none means all that can be run.
        grids: of `GRIDS`; those that the model's schedule has.
        fine: steps of the solution that all are compared with: diffusers' UniPC of order 3, which is nearer to the
            limit of ever more steps than Heun is with as many calls.
        samples: for Fréchet distances; 0 for none.
        own: steps of the solution by which the network's own images are made, which Fréchet distances are measured to.
        batch: seeds solved and stored at a time.
    """

    calls: tuple[int, ...] = (3, 4, 5, 6, 8, 10)
    seeds: tuple[int, ...] = tuple(range(2000, 2016))
    tuning: tuple[int, ...] = tuple(range(16))
    solvers: tuple[str, ...] = ()
    grids: tuple[str, ...] = GRIDS
    fine: int = 200
    samples: int = 0
    own: int = 100
    batch: int = 64

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        check_seeds(self.tuning, "Seeds to tune on")
        if not self.calls or min(self.calls) < 2 or max(self.calls) >= self.fine:
            raise ValueError(
                f"Calls must lie between 2 and the steps of the fine solution, {self.fine}; got {self.calls}."
            )
        if len(self.seeds) < 2 or not self.tuning:
            raise ValueError(f"Give at least 2 seeds and 1 to tune on, got {len(self.seeds)} and {len(self.tuning)}.")
        both = set(self.seeds) & set(self.tuning)
        if both:
            raise ValueError(
                f"Seeds that choices are made on prove nothing: {min(both)} is among both; give other --seeds."
            )
        for kind, given, known in (("solver", self.solvers, (*FAMILIES, LEARNED, *OURS)), ("grid", self.grids, GRIDS)):
            for name in given:
                if name not in known:
                    raise ValueError(f"There is no {kind} {shown(name)} to compare; choose from {', '.join(known)}.")
        if self.own < 2:
            raise ValueError(f"The network's own images need at least 2 steps, got {self.own}.")
        if self.samples and self.own <= max(self.calls):
            raise ValueError(
                f"The network's own images need more steps than the {max(self.calls)} calls that are judged by them, "
                f"got {self.own}; give more with --own."
            )
        if self.samples == 1 or self.samples < 0 or self.batch < 1:
            raise ValueError(
                f"Give 0 or at least 2 samples, in batches of at least 1; got {self.samples}, {self.batch}."
            )
        integer(self.samples, "number of samples", 0, MOST_ITEMS)
        integer(self.batch, "number of seeds of a batch", 1, MOST_ITEMS)
        for steps in (self.fine, self.own):
            integer(steps, "number of steps of a fine solution", 2, MOST_STEPS)


@dataclass(frozen=True, eq=False)
class Workbench:
    """A model, and all that it takes to solve cells for it; results are kept in a folder.

    Of several cases, seed s is run in case s modulo their number. ``features`` and ``reference`` judge images; None
    where nothing does. ``place`` is where the model was loaded from, ``judge`` what was asked to judge: the name of the
    features, and the file of the reference.
    """

    sampler: Sampler
    cases: tuple[Conditioning, ...]
    settings: Settings
    folder: Path
    calibration: Calibration | None = None
    features: FeatureSet | None = None
    reference: Statistics | None = None
    place: str = ""
    judge: tuple[str | None, str | None] = (None, None)
    learned: LearnedRules | None = None

    @cached_property
    def gaussian(self) -> Gaussian | None:
        """That of the one case where it has a closed form, else of all the data; None if no statistics are known."""
        own = self.sampler.theory.guided(self.cases[0]) if len(self.cases) == 1 else None
        return own if isinstance(own, Gaussian) else self.sampler.theory.everything

    @property
    def grids(self) -> tuple[str, ...]:
        return tuple(grid for grid in grids(self.sampler.model.schedule) if grid in self.settings.grids)

    @property
    def families(self) -> tuple[str, ...]:
        """Those asked for, or all that can be run."""
        able: dict[str, Any] = {"exponential": self.gaussian, "teleported": self.gaussian}
        able |= {"calibrated": self.calibration, LEARNED: self.learned}
        listed = [
            name for name in (*FAMILIES, LEARNED, *OURS) if not self.settings.solvers or name in self.settings.solvers
        ]
        return tuple(name for name in listed if able.get(name, name) is not None)

    @property
    def fine(self) -> Cell:
        """The solution that all are compared with."""
        return self._long(self.settings.fine)

    @property
    def half(self) -> Cell:
        """The same with half as many steps: how far it is from the fine one is how fine that is."""
        return self._long(self.settings.fine // 2)

    @property
    def own(self) -> Cell:
        """The solution whose images are taken for the network's own; a shorter one, for many samples."""
        return self._long(self.settings.own)

    @staticmethod
    def _long(steps: int) -> Cell:
        return Cell("UniPC-3 bh2", "log", steps)

    @property
    def calls_each(self) -> int:
        """Calls of the network for each call of the denoiser."""
        return network_calls(self.sampler.model, self.cases[0])

    def denoiser(self, seeds: Sequence[int]) -> Denoiser:
        """The network for rows of these seeds, each in its case."""
        return in_turn([find_denoiser(self.sampler.model, case) for case in self.cases], seeds)

    def candidates(self, family: str, calls: int) -> list[Cell]:
        """Every way of a family to spend so many calls at most; the first of a peer is diffusers' default."""
        if family == "calibrated":
            planned = self.calibration.plans if self.calibration else ()
            return [Cell(family, "plan", calls) for plan in planned if plan.calls == calls]
        if family == LEARNED:
            rules = self.learned.rules if self.learned else ()
            return [Cell(family, "rule", calls) for rule in rules if rule.calls == calls]
        if family == "exponential":
            return [Cell(solver, grid, calls) for solver in EXPONENTIALS for grid in self.grids]
        if family == "teleported":
            laid = [grid for grid in TELEPORTED if grid in self.grids] or self.grids[-1:]
            return [Cell(s, grid, calls, to) for s in EXPONENTIALS for grid in laid for to in self.landings]
        variants = {solver: steps_of(solver, calls) for solver in FAMILIES[family]}
        first = FAMILIES[family][0]
        listed = [Cell(solver, grid, steps) for solver, steps in variants.items() for grid in self.grids]
        return [Cell(first, "default", variants[first]), *listed]

    @property
    def landings(self) -> list[float]:
        """Ratios sigma/alpha to jump to, below the first of the schedule."""
        assert self.gaussian is not None
        deviation = float(self.gaussian.covariance.variances.max()) ** 0.5
        first = float(self.sampler.model.schedule.grid(1).ratio[0])
        return [share * deviation for share in LANDINGS if 0 < share * deviation < first]

    def level(self, cell: Cell) -> NoiseLevel:
        """The cell's levels, from that at which noise is drawn to sigma = 0."""
        schedule = self.sampler.model.schedule
        if cell.grid == "plan":
            return self._plan(cell)[1]
        if cell.grid == "rule":
            return schedule.grid(cell.steps)  # whose first level noise is drawn at; the others are the rule's own
        if cell.grid == "default":
            return lay_default(schedule, cell.solver, cell.steps)
        if cell.skip and not cell.saved:
            return NoiseLevel.join(schedule.grid(1)[0], lay(schedule, cell.grid, cell.steps, cell.skip))
        return lay(schedule, cell.grid, cell.steps)

    def solver(self, cell: Cell) -> Solver:
        if cell.grid == "plan":
            return self._plan(cell)[0]
        if cell.grid == "rule":
            return self._rule(cell).solve
        if cell.solver in EXPONENTIALS:
            assert self.gaussian is not None
            return named_exponential(cell.solver, self.gaussian)
        return peer(cell.solver)

    def _plan(self, cell: Cell) -> tuple[Solver, NoiseLevel]:
        assert self.calibration is not None
        assert self.sampler.theory.everything is not None
        return self.calibration.solver(self.sampler.theory.everything, cell.steps)

    def _rule(self, cell: Cell) -> LinearRule:
        assert self.learned is not None
        return self.learned.rule(cell.steps)

    def solve(self, cell: Cell, seeds: Sequence[int]) -> tuple[Tensor, int]:
        """Final rows [B, D], and calls of the denoiser. All begin with the same noise, and on the grids of
        `lay` end with the denoised image at their last level above 0. Rows of a solver that ends in NaN are NaN; the
        long solutions may not."""
        level = self.level(cell)
        x = initial_noise(seeds, self.sampler.model.dimension, level[0])
        if cell.skip:
            assert self.gaussian is not None
            skip = steps_above(level, cell.skip) if cell.saved else 1
            x, level = self.gaussian.flow(x, level[0], level[skip]), level[skip:]
        try:
            run = sample(self.denoiser(seeds), x, level, self.solver(cell), every=len(level))
        except NotFinite:
            if cell in (self.fine, self.half, self.own):
                raise
            return torch.full_like(x, torch.nan), calls_of(cell.solver, len(level) - 1)
        return run.final, run.nfe

    def batches(self, seeds: Sequence[int]) -> list[Sequence[int]]:
        return [seeds[start : start + self.settings.batch] for start in range(0, len(seeds), self.settings.batch)]

    def measured(self, cell: Cell, seeds: Sequence[int], keep: Keep = "rows") -> dict[str, Tensor]:
        """What is kept of one batch, ``values`` [B, D or F] and ``calls``: from disk, or solved and then on disk."""
        settings = self._fingerprint(cell, seeds, keep)

        def make() -> dict[str, Tensor]:
            rows, calls = self.solve(cell, seeds)
            return {"values": rows if keep == "rows" else self._seen(rows), "calls": torch.tensor(calls)}

        name = checkpoint_name(f"{self.sampler.model.name} {cell} {cell.steps}", seeds, settings)
        return load_or_make(self.folder / name, settings, make)

    def values(self, cell: Cell, seeds: Sequence[int], keep: Keep = "rows") -> Tensor:
        """What is kept of all seeds, [B, D or F]."""
        return torch.cat([self.measured(cell, part, keep)["values"] for part in self.batches(seeds)])

    def errors(self, cell: Cell, seeds: Sequence[int]) -> Tensor:
        """Root mean square distance to the fine solution, for each seed; infinite where the solver ended in NaN. [B]
        float64."""
        difference = self.values(cell, seeds).double() - self.values(self.fine, seeds).double()
        return difference.square().mean(1).sqrt().nan_to_num(nan=torch.inf)

    def calls(self, cell: Cell, seeds: Sequence[int], keep: Keep = "rows") -> int:
        """Calls of the network for each sample, as they were counted."""
        return self.calls_each * int(self.measured(cell, self.batches(seeds)[0], keep)["calls"])

    def _seen(self, rows: Tensor) -> Tensor:
        assert self.features is not None
        return self.features.extract(2 * self.sampler.model.images(rows).flatten(1) - 1)

    @cached_property
    def weights(self) -> str:
        """What tells the network from others."""
        return fingerprint(self.sampler.model)

    @cached_property
    def _statistics(self) -> list[str]:
        known = (self.gaussian, self.sampler.theory.everything)
        return [digest(gaussian_tensors(gaussian)) for gaussian in known if gaussian is not None]

    def _fingerprint(self, cell: Cell, seeds: Sequence[int], keep: Keep) -> dict[str, Any]:
        """Everything that a batch's numbers depend on, in JSON types."""
        level, ours = self.level(cell), cell.skip or cell.grid == "plan" or cell.solver in EXPONENTIALS
        tensors = {"alpha": level.alpha, "sigma": level.sigma}
        plan = self.calibration.plan(cell.steps) if self.calibration and cell.grid == "plan" else None
        if plan is not None and plan.coefficients is not None:
            tensors["coefficients"] = plan.coefficients
            tensors |= {} if plan.slopes is None else {"slopes": plan.slopes}
        if cell.grid == "rule":
            rule = self._rule(cell)
            tensors |= {"weights": rule.weights, "told alpha": rule.told.alpha, "told sigma": rule.told.sigma}
        about = describe(self.sampler, self.cases[0], seeds)
        left_out = {"solver", "steps", "statistics", "condition", "guidance", "negative"}
        return {name: value for name, value in about.items() if name not in left_out} | {
            "cases": [asdict(case) for case in self.cases],
            "diffusers": _diffusers(),
            "cell": asdict(cell),
            "plan": plan and plan.solver,
            "kept": keep if keep == "rows" or self.features is None else self.features.name,
            "weights": self.weights,
            "levels": digest(tensors),
            "gaussian": self._statistics if ours else None,
            **({"ending": "denoised"} if cell.solver in EXPONENTIALS else {}),
        }


@cache
def _diffusers() -> str:
    return version("diffusers")
