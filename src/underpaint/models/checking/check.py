"""Is it a denoiser? What a network must do at all if it is E[x0 | x] at the levels of its stated schedule.

Nothing is compared with data, unless some are given: a network is held against what it makes itself. A flow that is one
carries the energy E|x|^2 = alpha^2 E|x0|^2 + sigma^2 D from level to level; a denoiser's error on noised samples is
below that of their mean; it hears the scale of its state, and fits best at the level that it is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...noise import NoiseLevel
from ...prediction import PREDICTIONS
from ..model import Condition, Model
from .measures import ALIKE, Finding, Verdict, halves, measure, structure
from .probe import Probe, energy_ratios, flow

#: Numbers that the samples have together, so that energies are known to about 1 %; and the fewest and most samples.
_NUMBERS, _FEWEST, _MOST = 12288, 12, 64
#: Samples and levels by which another reading of a network is tried.
_TRIED, _LEVELS = 8, 8


@dataclass(frozen=True)
class Check:
    """What was found of a model; `str` of it is a table, and ``short`` one sentence.

    Attributes:
        model: its name.
        findings: one for each measure.
        good_below: the highest sigma/alpha from which on down its error is below that of the mean image; infinite where
            it is at every level.
        suggestion: what would make it a denoiser, or where it is one, if something is wrong.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> def network(x, sigma):  # of even grey pictures, of variance 0.1
        ...     gain = 6.4 / (6.4 + sigma**2)
        ...     return x.mean((1, 2, 3), keepdim=True).expand_as(x) * gain.view(-1, 1, 1, 1)
        ...
        >>> model = up.wrap(network, (1, 8, 8), up.EDM(), "x0", time="sigma")
        >>> found = up.check(model)
        >>> found.sound
        True
    """

    model: str
    findings: tuple[Finding, ...]
    good_below: float
    suggestion: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of all findings."""
        found = {finding.verdict for finding in self.findings}
        return "fails" if "fails" in found else "weak" if "weak" in found else "holds"

    @property
    def sound(self) -> bool:
        """Whether nothing fails; weak points may remain."""
        return self.verdict != "fails"

    @property
    def short(self) -> str:
        """One sentence or two, to begin a report with."""
        wrong = [finding for finding in self.findings if finding.verdict == self.verdict]
        named = "; ".join(f"{finding.name} {finding.value:.3g} (expected: {finding.bound})" for finding in wrong)
        if [finding.name for finding in wrong] == [ALIKE]:
            return f"{self.model}: {wrong[0].means} {self.suggestion}".strip()
        said = {
            "holds": f"{self.model} behaves as a denoiser of its schedule in all {len(self.findings)} measures.",
            "weak": f"{self.model} behaves as a denoiser of its schedule, with a weak point: {named}.",
            "fails": f"{self.model} is no denoiser of its stated schedule, and numbers about it describe no diffusion "
            f"model: {named}.",
        }[self.verdict]
        return f"{said} {self.suggestion}".strip()

    def __repr__(self) -> str:
        return f"Check({self.model}: {self.verdict}, {len(self.findings)} measures)"

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [
            f"{found.verdict:<5}  {found.name:<{width}}  {found.value:>9.3g}  {found.bound}" for found in self.findings
        ]
        meant = [f"{found.name}: {found.means}" for found in self.findings if found.verdict != "holds"]
        return "\n".join([*lines, "", *meant, self.short])


def check(
    model: Model, data: Tensor | None = None, condition: Condition | Tensor | None = None, seed: int = 0
) -> Check:
    """Whether a model's network is a denoiser of its stated schedule: a number and a verdict for each measure.

    Calls: 40 of 12 to 64 rows (the fewer, the more numbers a state has); and where something fails, 96 of 8 rows to
    find another prediction type or time that fits.

    Args:
        data: rows [N, D] of what it was trained on, if at hand; else its own samples are denoised.
        condition: what a conditional network is asked for; by default what it holds, "any", or its first class.
        seed: of the noise.

    Raises:
        ValueError: data of another dimension, or a network that takes tensors as conditions and holds none.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> def network(x, sigma):  # of even grey pictures, of variance 0.1
        ...     gain = 6.4 / (6.4 + sigma**2)
        ...     return x.mean((1, 2, 3), keepdim=True).expand_as(x) * gain.view(-1, 1, 1, 1)
        ...
        >>> model = up.wrap(network, (1, 8, 8), up.EDM(), "eps", time="sigma")  # it is x0
        >>> found = up.check(model)
        >>> found.sound
        False
        >>> found.suggestion[:15]
        "Read as 'x0' it"
    """
    if data is not None and (data.ndim != 2 or data.shape[1] != model.dimension or len(data) < 2):
        raise ValueError(
            f"Data are rows [N, {model.dimension}] of {model.name}, at least 2, got a tensor of {tuple(data.shape)}."
        )
    asked = _asked(model, condition)
    count = min(_MOST, max(_FEWEST, -(-_NUMBERS // model.dimension)))
    probe = Probe.of(asked, count, seed, data)
    findings = measure(probe)
    wrong = any(finding.verdict == "fails" for finding in findings)
    other = _other_reading(asked) if wrong else ""
    if not other:  # one that holds at all levels is not wrong at its highest ones alone
        findings = _below(asked, probe, findings, count, seed, data)
    if condition is None and model.held is None and model.null_class is not None and probe.finite:
        findings.append(halves(model, probe))
    found = Check(model.name, tuple(findings), probe.good_below)
    return replace(found, suggestion=_jump(found) if found.sound else other)


def _below(
    model: Model, probe: Probe, findings: list[Finding], count: int, seed: int, data: Tensor | None
) -> list[Finding]:
    """The findings, where what fails is a weak point if it holds at the levels at which the estimates are good, and
    these are all levels where something is to be seen."""
    failed, good = [found for found in findings if found.verdict == "fails"], probe.good_below
    if not failed or not probe.finite or math.isinf(good) or good < 0.5 * probe.largest:
        return findings
    below = measure(Probe.of(model.truncated(model.ratios[0], good), count, seed, data))
    if any(found.verdict == "fails" for found in below):
        return findings
    where = f"At its highest levels something is wrong. From σ/α = {good:.3g} on down, this holds."
    return [replace(found, verdict="weak", means=where) if found in failed else found for found in findings]


def _asked(model: Model, condition: Condition | Tensor | None) -> Model:
    """The model for one condition."""
    if condition is not None:
        return model.holding(condition)
    if model.held is None and model.null is None:
        if model.condition is not None:
            raise ValueError(f"{model.name} takes a tensor as its condition and holds none; give one to check.")
        return model.holding(0) if model.classes else model
    return model


def _jump(found: Check) -> str:
    """How to call a network only where it is a denoiser."""
    if math.isinf(found.good_below):
        return ""
    return (
        f"Let the data's Gaussian jump over its highest levels, with respend(model.schedule, grid, "
        f"{found.good_below:.3g}) and teleport: then it is called at σ/α ≤ {found.good_below:.3g} alone."
    )


def _other_reading(model: Model) -> str:
    """Another prediction type, time or sign by which it is a denoiser, in words; empty if none is found."""
    tried = {**_other_predictions(model), **_other_times(model), **_other_signs(model)}
    scores = {words: _score(other) for words, other in tried.items()}
    best = min(scores, key=lambda words: scores[words])
    if scores[best] <= 0.1 and scores[best] < _score(model):
        return f"{best} it carries noise into data as a denoiser does: is that what it was trained on?"
    return ""


def _other_predictions(model: Model) -> dict[str, Model]:
    kinds: list[Any] = [kind for kind in PREDICTIONS if kind != model.prediction]
    return {f"Read as {kind!r}": replace(model, prediction=kind) for kind in kinds}


def _other_times(model: Model) -> dict[str, Model]:
    """The same network, told its time otherwise."""
    first, last = _times(model)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "With its time reversed": lambda t: first + last - t,
        "With its time times 1000": lambda t: 1000 * t,
        "With its time over 1000": lambda t: t / 1000,
        "Told σ/α as its time": lambda t: model.schedule(t.double()).ratio.to(t),
        "Told log(σ/α)/4 as its time": lambda t: (model.schedule(t.double()).log_ratio / 4).to(t),
    }
    return {words: replace(model, network=_changed(model, way)) for words, way in ways.items()}


def _other_signs(model: Model) -> dict[str, Model]:
    first, last = _times(model)
    return {
        "With its output negated": replace(model, network=_changed(model, lambda t: t, -1)),
        "With its output negated and its time reversed": replace(
            model, network=_changed(model, lambda t: first + last - t, -1)
        ),
    }


def _times(model: Model) -> tuple[float, float]:
    """Its time at the highest noise and at the data."""
    return float(model.schedule.time(model.schedule.grid(1)[0])), float(model.schedule.time(NoiseLevel.clean()))


def _changed(model: Model, way: Callable[[Tensor], Tensor], sign: float = 1.0) -> Callable[..., Tensor]:
    return lambda states, times, given=None: sign * model.network(states, way(times), given)


def _score(model: Model) -> float:
    """How far the energies of a few samples are from those of a denoiser, the largest of their logarithms; infinite
    where the samples are white noise, all alike, far outside the data's range, or no numbers."""
    try:
        probe = Probe(model, run := flow(model, _TRIED, 0, _LEVELS), run.final, run.x[:-1], run.denoised)
        if any(finding.verdict == "fails" for finding in measure(probe, flow_only=True)):
            return math.inf
        if probe.alike < 1 or structure(probe) < 5:
            return math.inf
    except (ValueError, RuntimeError, IndexError):  # told or read otherwise, a network may refuse
        return math.inf
    return float(energy_ratios(run).log().abs().max())
