"""The main job: hold a network's sampling against the closed-form theory. Computes; draws nothing."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import Any

from ...analysis.perturbation import Perturbation
from ...models.load import load_model
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import find_solver
from ...sampling.trajectory import Trajectory
from ..shared.model_and_data import ModelAndData, load_model_and_data
from ..shared.request import Request, cases
from ..shared.results import picture
from .claims import Claim, judge
from .decided import Decided, measure_decided
from .network_against_theory import (
    Agreement,
    Frechet,
    Hybrid,
    measure_agreement,
    measure_frechet,
    measure_hybrid,
    measure_perturbation,
)
from .settings import Settings
from .trajectories import (
    Conditions,
    Emergence,
    Geometry,
    Modes,
    compare_cases,
    measure_emergence,
    measure_geometry,
    mode_curves,
)


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that the figures show and the claims rest on."""

    setup: dict[str, Any]
    level: NoiseLevel
    geometry: Geometry
    modes: Modes
    emergence: Emergence
    agreement: Agreement
    hybrid: Hybrid
    frechet: Frechet | None
    perturbation: Perturbation
    conditions: Conditions | None
    decided: Decided | None
    claims: tuple[Claim, ...]
    trajectory: Trajectory = picture()
    subject: ModelAndData = picture()


def report(settings: Settings, progress: Progress = silent) -> Report:
    """Sample, measure, compare: everything behind `underpaint report`.

    Raises:
        ValueError: as `load_model_and_data`, or settings that leave too little to measure.
    """
    began = time.monotonic()
    asked = Request(settings.model, settings.conditions, settings.guidance, settings.negative)
    model = load_model(settings.model)
    listed = cases(asked, model)
    subject = load_model_and_data(
        model,
        settings.data,
        case=listed[0],
        progress=progress,
        split=settings.split,
        column=settings.column,
        gaussian=settings.gaussian,
    )
    level = subject.model.schedule.grid(settings.steps)
    solver = find_solver(settings.solver)
    trajectory = subject.sample(subject.denoise, settings.seeds, level, solver, "network", progress)
    parts: dict[str, Any] = {
        "geometry": measure_geometry(trajectory),
        "modes": mode_curves(subject, trajectory),
        "emergence": measure_emergence(subject, trajectory),
        "agreement": measure_agreement(subject, trajectory, settings, progress),
        "hybrid": measure_hybrid(subject, trajectory, settings, progress),
        "frechet": measure_frechet(subject, settings.samples, settings.respent, progress),
        "perturbation": measure_perturbation(subject, trajectory, settings, progress),
        "conditions": compare_cases(subject, listed, settings, progress),
        "decided": measure_decided(subject, progress=progress),
    }
    setup = describe(settings, subject, trajectory, time.monotonic() - began)
    return Report(setup=setup, level=level, trajectory=trajectory, subject=subject, claims=judge(parts), **parts)


def describe(settings: Settings, subject: ModelAndData, trajectory: Trajectory, seconds: float) -> dict[str, Any]:
    """Who, what and with which versions."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("underpaint", "torch", "diffusers", "numpy")}
    return subject.described(settings.solver, settings.steps) | {
        "images": list(subject.model.image_shape),
        "denoisers": subject.about,
        "prediction": subject.model.prediction,
        "left_off": subject.model.notes.get("left off"),
        "nfe": trajectory.nfe * subject.calls,
        "seeds": list(settings.seeds),
        "seconds": round(seconds, 1),
        "versions": packages | {"python": platform.python_version()},
    }
