"""The main job: hold a network's sampling against the closed-form theory. Computes; draws nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...analysis.perturbation import Perturbation
from ...analysis.summary import Summary
from ...keeping import Keep, make_only
from ...models.checking.check import Check
from ...models.checking.measures import Finding
from ...models.fingerprint import digest, fingerprint
from ...noise import NoiseLevel
from ...progress import Progress, numbered, silent
from ...sampling.solvers import find_solver
from ...sampling.trajectory import Trajectory
from ..shared.check import check_case
from ..shared.checkpoints import Parts, gaussian_tensors
from ..shared.model_and_data import ModelAndData, load_model_and_data
from ..shared.regimes import IMAGES, Collapse, Departure, Generalisation, Regimes, Speciation
from ..shared.request import Conditioning, Request, cases
from ..shared.results import PICTURE, picture
from .claims import HIGH_NOISE, Claim, judge
from .decided import Decided, calls_of_decided, measure_decided
from .network_against_theory import (
    Agreement,
    Frechet,
    Hybrid,
    calls_of_frechet,
    calls_of_hybrid,
    calls_of_perturbation,
    measure_agreement,
    measure_frechet,
    measure_hybrid,
    measure_perturbation,
)
from .regimes import calls_of_regimes, regimes_of, shows_regimes
from .settings import Settings
from .trajectories import (
    COMPARED,
    Conditions,
    Emergence,
    Geometry,
    Modes,
    compare_cases,
    measure_emergence,
    measure_geometry,
    mode_curves,
)

#: The network's trajectories, and the ten that `_sections` gives.
_SECTIONS = 11
#: What the sections that are kept are made of.
_KEPT = (
    Agreement,
    Check,
    Collapse,
    Conditions,
    Decided,
    Departure,
    Finding,
    Generalisation,
    Geometry,
    Hybrid,
    NoiseLevel,
    Perturbation,
    Regimes,
    Speciation,
    Summary,
    Trajectory,
)


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that the figures show and the claims rest on. A network that fails the check has no claims: they are
    about diffusion models.

    Where the report is about a prompt or a class, ``plain_claims`` are the same claims about the network that is asked
    for nothing, from the same noise. The closed forms are those of all the data, so these are the ones to hold against
    them. ``plain`` is all that figures show of that network.
    """

    setup: dict[str, Any]
    check: Check
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
    regimes: Regimes | None
    claims: tuple[Claim, ...]
    plain_claims: tuple[Claim, ...]
    left_out: dict[str, str]
    trajectory: Trajectory = picture()
    subject: ModelAndData = picture()
    plain: Report | None = field(default=None, metadata=PICTURE, repr=False)


def report(
    settings: Settings,
    progress: Progress = silent,
    parts: Path | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> Report:
    """Sample, measure, compare: everything behind `underpaint report`.

    Args:
        settings: what to run.
        progress: told of each stretch.
        parts: folder in which each section is kept as it is found; asked again, the report goes on from them.
        tell: told in a sentence how many calls of the network it takes, before it begins.

    Raises:
        ValueError: as `load_model_and_data`, or settings that leave too little to measure.
    """
    began = time.monotonic()
    asked = Request(settings.sources.place, settings.conditions, settings.guidance, settings.negative)
    model = settings.sources.load()
    listed = cases(asked, model)
    own = max(settings.seeds) + 1  # the first seed of samples that stand for data
    held = IMAGES if settings.regimes else 0
    subject = load_model_and_data(
        settings.sources, case=listed[0], progress=progress, held_out=held, model=model, first=own
    )
    check_components(subject)
    keep = make_only if parts is None else Parts(parts, _identity(settings, subject), _KEPT)
    checked = keep("check", partial(check_case, model, listed[0], progress))
    level = subject.model.schedule.grid(settings.steps)
    solver = find_solver(settings.solver)
    tell(words_on_calls(settings, subject, len(listed)))
    also = checked.sound and asks_for_nothing(subject)
    at = partial(numbered, progress, of=_SECTIONS + also)
    trajectory = keep(
        "trajectory", partial(subject.sample, subject.denoise, settings.seeds, level, solver, "network", at(1))
    )
    sections: dict[str, Any] = dict(_sections(subject, listed, trajectory, settings, keep, at))
    plain = _plain(subject, settings, keep, at(_SECTIONS + 1), sections["regimes"]) if also else {}
    setup = describe(settings, subject, trajectory, time.monotonic() - began)
    found = Report(
        setup=setup,
        check=checked,
        level=level,
        trajectory=trajectory,
        subject=subject,
        claims=judge(sections, subject.own) if checked.sound else (),
        left_out=left_out(settings, subject, sections),
        plain_claims=judge(sections | plain) if plain else (),
        **sections,
    )
    return replace(found, plain=beside(found, plain)) if plain else found


def check_components(subject: ModelAndData) -> None:
    """Refuse data that do not vary."""
    if not len(subject.gaussian.eigenvalues):
        raise ValueError(
            f"A report follows principal components of the data, and the {subject.about['Gaussian']} has none; give "
            "data that vary, or other statistics (--gaussian)."
        )


def beside(found: Report, plain: Mapping[str, Any]) -> Report:
    """The report with the sections of the network that is asked for nothing in place of its own, and without others."""
    setup = found.setup | {"condition": str(plain["subject"].case)}
    left = replace(found, setup=setup, claims=found.plain_claims, plain_claims=(), frechet=None)
    return replace(left, conditions=None, decided=None, **plain)


def _sections(
    subject: ModelAndData,
    listed: Sequence[Conditioning],
    trajectory: Trajectory,
    settings: Settings,
    keep: Keep,
    at: Callable[[int], Progress],
) -> Iterator[tuple[str, Any]]:
    """Each section by its name; those that take long are kept, and say by their number how far the report is."""
    given = (subject, trajectory, settings)
    yield "geometry", measure_geometry(trajectory)
    yield "modes", mode_curves(subject, trajectory)
    yield "emergence", measure_emergence(subject, trajectory)
    yield "agreement", keep("agreement", partial(measure_agreement, *given, at(5)))
    yield "hybrid", keep("hybrid", partial(measure_hybrid, *given, at(6)))
    yield "frechet", measure_frechet(subject, settings.samples, settings.respent, at(7), keep)
    yield "perturbation", keep("perturbation", partial(measure_perturbation, *given, at(8)))
    yield "conditions", keep("conditions", partial(compare_cases, subject, listed, settings, at(9)))
    yield "decided", keep("decided", partial(measure_decided, subject, progress=at(10)))
    shown = shows_regimes(settings, subject)
    yield "regimes", keep("regimes", partial(regimes_of, *given, at(11))) if shown else None


def asks_for_nothing(subject: ModelAndData) -> bool:
    """Whether the network can also be asked without the prompt or class that the report is about."""
    return subject.case.condition is not None and subject.model.null is not None


def _plain(
    subject: ModelAndData, settings: Settings, keep: Keep, progress: Progress, known: Regimes | None = None
) -> dict[str, Any]:
    """The sections on which claims rest and that figures show, once more for the network that is asked for nothing;
    ``known`` are the regimes of that which is asked for something, if they are shown."""
    anything = replace(subject, case=Conditioning())
    level, solver = anything.model.schedule.grid(settings.steps), find_solver(settings.solver)
    run = partial(anything.sample, anything.denoise, settings.seeds, level, solver, "without a condition", progress)
    trajectory = keep("plain-trajectory", run)
    given = (anything, trajectory, settings, progress)
    return {
        "subject": anything,
        "trajectory": trajectory,
        "geometry": measure_geometry(trajectory),
        "modes": mode_curves(anything, trajectory),
        "emergence": measure_emergence(anything, trajectory),
        "agreement": keep("plain-agreement", partial(measure_agreement, *given)),
        "hybrid": keep("plain-hybrid", partial(measure_hybrid, *given)),
        "perturbation": keep("plain-perturbation", partial(measure_perturbation, *given)),
        "regimes": known and keep("plain-regimes", partial(regimes_of, *given, known.collapse)),
    }


def calls_of_report(settings: Settings, subject: ModelAndData, conditions: int) -> int:
    """Calls of the network, for one image each, that all sections make together."""
    seeds, compared = len(settings.seeds), conditions * (conditions > 1)
    run = seeds * settings.steps + calls_of_hybrid(settings) + calls_of_perturbation(settings, subject)
    run += calls_of_regimes(settings, subject) if shows_regimes(settings, subject) else 0
    plain = calls_of_frechet(subject, settings.samples, settings.respent) + calls_of_decided(subject)
    plain += run if asks_for_nothing(subject) else 0
    return subject.calls * (run + compared * min(seeds, COMPARED) * settings.steps) + plain


def words_on_calls(settings: Settings, subject: ModelAndData, conditions: int) -> str:
    """How many calls a report takes, and how many of these are for Fréchet distances."""
    calls, judging = (
        calls_of_report(settings, subject, conditions),
        calls_of_frechet(subject, settings.samples, settings.respent),
    )
    words = f"The report takes about {calls:,} calls of the network for one image"
    if not judging:
        return f"{words}."
    return (
        f"{words}, {judging:,} of them for Fréchet distances of {settings.samples:,} samples each (--frechet changes "
        "that number)."
    )


def left_out(settings: Settings, subject: ModelAndData, sections: dict[str, Any]) -> dict[str, str]:
    """Why a section is not there, by its title; and a claim, where no measured level is in its range."""
    why = {}
    if sections["frechet"] is None:
        why["Fréchet distances"] = (
            "none were asked for"
            if not settings.samples
            else "the box has no features for these data; `underpaint bench --features` measures them in others"
            if subject.features is None
            else "of one condition; images of it are not meant to be like all of the data"
        )
    if subject.own:
        why["claims on the training data"] = "samples of the model stand for them"
    if sections["decided"] is None:
        why["what is decided when"] = "nothing in the box finds the objects of these pictures"
    if sections["regimes"] is None:
        more = subject.calls * calls_of_regimes(settings, subject)
        why["three regimes along the noise"] = (
            "samples of the model stand for the data, and no image is known that those lack"
            if subject.own
            else f"they take about {more:,} more calls of the network for one image; ask for them with --regimes"
        )
    if sections["conditions"] is None:
        why["prompts and guidance"] = "one condition and guidance were asked for; give several to compare them"
    if subject.case.condition is not None and not asks_for_nothing(subject):
        why["claims without a condition"] = "the network has no class or prompt that means anything at all"
    if float(sections["hybrid"].ratio[0]) < HIGH_NOISE:
        why["claims on skipping early steps"] = (
            f"no tenth of the steps lies above σ/α = {HIGH_NOISE:g}; take more steps"
        )
    return why


def _identity(settings: Settings, subject: ModelAndData) -> dict[str, Any]:
    """Everything that the sections depend on, in JSON types."""
    labels = {} if subject.data.labels is None else {"labels": subject.data.labels}
    known = {"weights": fingerprint(subject.model), "data": digest({"rows": subject.rows} | labels)}
    versions = {name: version(name) for name in ("torch", "diffusers")}
    statistics = digest(gaussian_tensors(subject.gaussian))
    anywhere = replace(settings, sources=replace(settings.sources, device=None, model=settings.sources.place))
    return asdict(anywhere) | known | versions | {"gaussian": statistics, "source": subject.data.source}


def describe(settings: Settings, subject: ModelAndData, trajectory: Trajectory, seconds: float) -> dict[str, Any]:
    """Who, what and with which versions."""
    packages = {name: version(name) for name in ("underpaint", "torch", "diffusers", "numpy")}
    asked = {"place": settings.sources.place, "own_samples": settings.sources.samples}
    return (
        subject.described(settings.solver, settings.steps)
        | asked
        | {
            "images": list(subject.model.image_shape),
            "denoisers": subject.about,
            "prediction": subject.model.prediction,
            "left_off": subject.model.notes.get("left off"),
            "nfe": trajectory.nfe * subject.calls,
            "seeds": list(settings.seeds),
            "seconds": round(seconds, 1),
            "versions": packages | {"python": platform.python_version()},
        }
    )
