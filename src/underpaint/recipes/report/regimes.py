"""The three regimes along the noise, as a section of the report: for its first seeds, on its own run."""

from __future__ import annotations

from ...progress import Progress
from ...sampling.trajectory import Trajectory
from ..shared import regimes as shared
from ..shared.model_and_data import ModelAndData
from .settings import Settings

#: Seeds that are cloned.
_CLONED = 32


def shows_regimes(settings: Settings, subject: ModelAndData) -> bool:
    """Whether they are asked for, and images are there that the data do not hold."""
    return settings.regimes and subject.held is not None


def calls_of_regimes(settings: Settings, subject: ModelAndData) -> int:
    """Calls of the network in its case, for one image, that `regimes_of` makes."""
    level = subject.model.schedule.grid(settings.steps)
    return shared.calls_of_regimes(subject, level, len(settings.seeds[:_CLONED]))


def regimes_of(
    subject: ModelAndData,
    trajectory: Trajectory,
    settings: Settings,
    progress: Progress,
    fallen: shared.Collapse | None = None,
) -> shared.Regimes:
    """Of the first seeds of a trajectory; ``fallen`` is the collapse of the data, where it is known."""
    run, seeds = trajectory.rows(slice(0, _CLONED)), settings.seeds[:_CLONED]
    return shared.measure_regimes(subject, run, seeds, progress=progress, fallen=fallen)
