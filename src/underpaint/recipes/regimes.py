"""Where the three regimes of a data set lie, for a model: sampled, measured, and told."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch

from ..bounds import MOST_ITEMS, MOST_STEPS, check_several_seeds, integer, number
from ..models.model import Condition
from ..progress import Progress, silent
from ..sampling.solvers import find_solver
from .shared.model_and_data import Sources, load_model_and_data
from .shared.regimes import FINE, IMAGES, LEVELS, Regimes, measure_regimes
from .shared.request import Conditioning
from .shared.results import table


@dataclass(frozen=True)
class Settings:
    """What to sample and to look at.

    Each seed is cloned at ``levels`` levels of the sampling grid. ``images`` held-out images are noised at
    ``fine`` levels, to ask how many data points share the posterior. The network is asked under a ``condition``, a
    class or a prompt, where one is given; the data are all of them. With a ``nudge`` clones do not take a stochastic
    completion: each is moved by this share of the noise, and follows the flow.
    """

    sources: Sources = field(default_factory=Sources)
    seeds: tuple[int, ...] = tuple(range(32))
    steps: int = 30
    solver: str = "dpmpp-2m"
    levels: int = LEVELS
    images: int = IMAGES
    fine: int = FINE
    condition: Condition | None = None
    guidance: float = 1.0
    nudge: float = 0.0

    def __post_init__(self) -> None:
        check_several_seeds(self.seeds, "Regimes")
        number(self.nudge, "nudge of clones, as a share of the noise,", 0, 100)
        integer(self.steps, "number of steps", 3, MOST_STEPS)
        integer(self.levels, "number of levels to clone at", 2, 1000)
        integer(self.images, "number of held-out images", 2, MOST_ITEMS)
        integer(self.fine, "number of levels of the posterior", 2, 1000)
        find_solver(self.solver)


def regimes(settings: Settings, progress: Progress = silent) -> Regimes:
    """Sample the seeds, and measure; see `measure_regimes`.

    Raises:
        ValueError: as `load_model_and_data`; the data have fewer than two images, or do not vary.
    """
    began, solver, seeds = time.monotonic(), find_solver(settings.solver), settings.seeds
    case = Conditioning(settings.condition, settings.guidance)
    subject = load_model_and_data(settings.sources, case=case, progress=progress, held_out=settings.images)
    grid = subject.model.schedule.grid(settings.steps)
    run = subject.sample(subject.denoise, seeds, grid, solver, "sampling", progress)
    found = measure_regimes(subject, run, seeds, settings.levels, settings.nudge, solver, settings.fine, progress)
    about = subject.described(settings.solver, settings.steps) | found.setup
    return replace(found, setup=about | {"seconds": round(time.monotonic() - began, 1)})


def tables(result: Regimes) -> str:
    """The numbers behind the finding, as people read them."""
    born, fallen = result.speciation, result.collapse
    shares = torch.stack([born.share, born.low, born.high])
    names = ["share of pairs", "from (95 %)", "to"]
    columns = [f"{value:.3g}" for value in born.ratio.tolist()]
    lines = torch.tensor([fallen.predicted, fallen.measured], dtype=torch.float64).T
    points = [f"{count:,}" for count in fallen.counts]
    return "\n\n".join(
        [
            f"Pairs of samples share their state down to a σ/α{_then(born.nudge)} and go on apart. A class is "
            f"{born.classes}. Pairs of different seeds end in one class in {100 * born.chance:.3g} % of cases; classes "
            "count as decided where the share is half-way from there to 1.",
            table("Share of pairs that end in one class", "σ/α", names, columns, shares, ".2f"),
            table(
                "σ/α below which the exact score is drawn to one point",
                "points",
                points,
                ["predicted", "measured"],
                lines,
            ),
        ]
    )


def _then(nudge: float) -> str:
    return f", but for a nudge of {nudge:g} of the noise," if nudge else ""
