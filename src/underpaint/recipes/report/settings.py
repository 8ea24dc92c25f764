"""What a report is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...bounds import MOST_ITEMS, check_seeds, integer
from ...models.model import Condition
from ...noise import check_steps
from ...sampling.solvers import find_solver
from ..shared.model_and_data import Sources


@dataclass(frozen=True)
class Settings:
    """What to run: ``samples`` for each Fréchet distance (0 leaves these out), whether the *re-spent* accounting is
    measured too, and whether the three ``regimes`` along the noise are, for which images are held out of the data.

    Of several conditions (prompts, classes) and guidance weights, the report is about the first of each; all of them
    are compared in a section of their own.
    """

    sources: Sources = field(default_factory=Sources)
    seeds: tuple[int, ...] = tuple(range(64))
    steps: int = 51
    solver: str = "euler"
    samples: int = 300
    respent: bool = False
    conditions: tuple[Condition, ...] = ()
    guidance: tuple[float, ...] = (1.0,)
    negative: str | None = None
    regimes: bool = False

    def __post_init__(self) -> None:
        if len(self.seeds) < 8:
            raise ValueError(f"The report needs at least 8 seeds to measure spreads, got {len(self.seeds)}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("Seeds must differ from each other.")
        check_seeds(self.seeds)
        if self.steps < 12:
            raise ValueError(f"The report needs at least 12 steps to follow a trajectory, got {self.steps}.")
        if self.samples == 1:
            raise ValueError("A Fréchet distance needs at least 2 samples, or 0 to leave it out; got 1.")
        if self.respent and not self.samples:
            raise ValueError(
                "Saved calls are spent again for Fréchet distances (--full); leave that out, or give samples for them "
                "(--frechet)."
            )
        check_steps(self.steps)
        integer(self.samples, "number of samples for Fréchet distances", 0, MOST_ITEMS)
        find_solver(self.solver)
