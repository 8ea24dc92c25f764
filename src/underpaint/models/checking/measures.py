"""The measures of `check`: each a number of a `Probe`, the bound at which it holds, and what a failure usually means.

Bounds are conventions, settled on networks that are known to be sound (those of the box, Gaussians, a mixture, a score
network of another science) and on the same with one thing wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ...noise import NoiseLevel
from ...prediction import Prediction, from_denoised, to_denoised
from ..model import Model
from .probe import WORTHLESS, Probe, energy_ratios

Verdict = Literal["holds", "weak", "fails"]

#: What is measured in the place of all that goes by the variance of samples, where these are all alike.
ALIKE = "spread of samples, over the least noise looked at"

#: By how much a state is scaled, and factors on the noise-to-signal ratio that is told.
_SCALE, _TOLD = 1.2, (0.5, 0.7, 1.0, 1.4, 2.0)


@dataclass(frozen=True)
class Finding:
    """One measure: its name, value, the bound at which it holds, the verdict, and what a failure usually means."""

    name: str
    value: float
    bound: str
    verdict: Verdict
    means: str


def measure(probe: Probe, flow_only: bool = False) -> list[Finding]:
    """All measures, from the coarsest on; the first alone where it fails. ``flow_only`` leaves out those that call the
    network or look at its errors."""
    first = _finite(probe)
    if first.verdict == "fails":
        return [first]
    findings = [first, _energy(probe), size_of(probe.model, probe.run.final)]
    if probe.alike < 1:
        findings += [_alike(probe)]
        return findings if flow_only else [*findings, _company(probe), _heard(probe), _slope(probe)]
    findings += [_structure(probe)]
    if flow_only:
        return findings
    return [
        *findings,
        _error(probe),
        _mean(probe),
        _company(probe),
        _heard(probe),
        _slope(probe),
        _level_told(probe),
        _prediction(probe),
    ]


def _judged(name: str, value: float, bound: str, holds: bool, means: str, weak: bool = False) -> Finding:
    return Finding(name, value, bound, "holds" if holds else "weak" if weak else "fails", means)


def _finite(probe: Probe) -> Finding:
    share = min(float(values.isfinite().double().mean()) for values in (probe.run.x, probe.estimates))
    means = "The network gives NaN or infinity: weights are broken, or it runs in a dtype that is too small for it."
    return _judged("share of finite numbers", share, "1", share == 1, means)


def _energy(probe: Probe) -> Finding:
    """The energy of the state over what it should be, at the level where it is furthest off."""
    ratios = energy_ratios(probe.run).clamp(min=1e-30)
    worst = float(ratios[ratios.log().abs().argmax()])
    return _judged(
        "energy of states along the flow, over that of a denoiser's",
        worst,
        "0.9 to 1.1",
        0.9 <= worst <= 1.1,
        "The flow does not carry noise into data: the prediction type, the schedule or the time is another than "
        "stated, or the network is untrained.",
    )


def size_of(model: Model, rows: Tensor) -> Finding:
    """How large samples are, in half widths of the range of the data; latents have no range, and about unit size."""
    final = rows.double()
    low, high = model.data_range if model.autoencoder is None else (-3.0, 3.0)
    scaled = (final - (high + low) / 2) / ((high - low) / 2)
    size, outside = float(scaled.square().mean().sqrt()), float((scaled.abs() > 1.5).double().mean())
    return _judged(
        "size of samples, in half widths of the data's range",
        size,
        "at most 1.5, with at most 5 % of numbers beyond that",
        size <= 1.5 and outside <= 0.05,
        f"Samples run from {float(final.min()):.3g} to {float(final.max()):.3g}, and data from {low:g} to {high:g} are "
        "stated: the prediction type or the scale is another than stated, or wrap is not told the data_range.",
        weak=size <= 5,
    )


def _alike(probe: Probe) -> Finding:
    """The spread of samples that are all alike. A condition that fixes its image makes those of a sound network so."""
    least = f"the least noise looked at, σ/α = {float(probe.level.ratio[-2]):.3g}"
    known = "the network knows a single image, or its data are in another unit than stated"
    held = "the condition that is held fixes what it paints; ask for another, or for none"
    return _judged(
        ALIKE,
        probe.alike,
        "above 1",
        False,
        f"Samples differ by less than {least}: {known if probe.model.held is None else held}. What goes by their "
        "variance is not measured.",
        weak=probe.model.held is not None,
    )


def structure(probe: Probe) -> float:
    """D tr(S^2)/tr(S)^2 of the samples' covariance S, without bias: 1 for white noise, D for a single direction."""
    centred = (probe.run.final - probe.run.final.mean(0)).double()
    gram, (count, dimension) = centred @ centred.T, centred.shape
    apart = (gram.square().sum() - gram.diagonal().square().sum()) / (count * (count - 1))
    size = gram.diagonal().mean().square().clamp(min=1e-60)
    return float(dimension * (apart / size - 1 / (count - 1) ** 2))


def _structure(probe: Probe) -> Finding:
    """White noise gives 1, with a standard deviation of 2/N over N samples; data of a flat spectrum may give little
    more."""
    value, noise = structure(probe), 1 + 6 / len(probe.run.final)
    means = "Its samples are white noise: the network is untrained, or something is read as it is not meant."
    name, bound = (
        "structure of samples, against white noise",
        f"above 2, or above {noise:.3g} for data of a flat spectrum",
    )
    return _judged(name, value, bound, value > 2, means, weak=value > noise)


def _error(probe: Probe) -> Finding:
    """The error beside that of the mean: a failure at levels where the leading direction shows, else a weak point."""
    seen = probe.level.ratio[:-1] <= max(0.5 * probe.largest, float(probe.level.ratio[-2]))
    fails = not bool((probe.errors[seen] <= WORTHLESS).all())
    worst = float((probe.errors[seen] if fails else probe.errors).max())
    good = f"It is good from σ/α = {probe.good_below:.3g} on down." if probe.good_below else "It is good at no level."
    return _judged(
        "error of x̂₀ over that of the mean, at its worst level",
        worst,
        f"at most {WORTHLESS}",
        worst <= WORTHLESS,
        f"Its estimate is further from the truth than the mean of all images is. {good}"
        + ("" if fails else " Noise prediction magnifies small errors where nearly all is noise."),
        weak=not fails,
    )


def _mean(probe: Probe) -> Finding:
    """The mean estimate at the highest good level against the mean of the rows, over their spread."""
    at = 0 if math.isinf(probe.good_below) else int((probe.level.ratio[:-1] - probe.good_below).abs().argmin())
    off = (probe.estimates[at] - probe.x0).double().mean(0).square().sum()
    value = float((off / probe.x0.double().var(0).sum().clamp(min=1e-30)).sqrt())
    return _judged(
        "distance of the mean x̂₀ at high noise from the mean image",
        value,
        "at most 0.7 standard deviations",
        value <= 0.7,
        "Where it knows least, its estimates are not about the mean of what it paints.",
        weak=True,
    )


def _company(probe: Probe) -> Finding:
    """An answer alone against the same in a batch."""
    at = probe.middle
    together = probe.estimates[at][:2]
    alone = torch.cat([probe.model(row.unsqueeze(0), probe.level[at]) for row in probe.noised[at][:2]])
    change = _relative(alone - together, together)
    return _judged(
        "change of an answer by the rest of its batch",
        change,
        "at most 0.01",
        change <= 0.01,
        "The answer depends on the other states of a batch, or on chance: batch statistics, or dropout that stays on.",
    )


def _heard(probe: Probe) -> Finding:
    """How much the network's own output changes when its state is scaled, at the level where that is most."""
    last = len(probe.errors) - 1
    changes = []
    for at in sorted({last // 3, probe.middle, 2 * last // 3}):
        x, level = probe.noised[at][:4], probe.level[at]
        plain, larger = (_output(probe.model, scale * x, level) for scale in (1, _SCALE))
        changes.append(_relative(larger - plain, plain))
    return _judged(
        f"change of the output for a state {_SCALE} times as large",
        max(changes),
        "above 0.002",
        max(changes) > 2e-3,
        "The network does not hear the scale of its state: it normalises its input first. So it is the denoiser of no "
        "level.",
    )


def _slope(probe: Probe) -> Finding:
    """The answer of the noise estimate to a larger state, where the state is nearly all noise."""
    signal = float(probe.x0.double().square().mean())
    noisy = (probe.level.ratio[:-1].square() >= 10 * signal).nonzero().flatten()
    at = int(noisy[-1]) if len(noisy) else 0
    x, level = probe.noised[at], probe.level[at]
    plain = from_denoised(probe.estimates[at], x, level, "eps").double()
    larger = from_denoised(probe.model(_SCALE * x, level), _SCALE * x, level, "eps").double()
    value = float((plain * larger).sum() / plain.square().sum())
    return _judged(
        f"noise estimate of a state {_SCALE} times as large, over the plain one",
        value,
        "1.1 to 1.3",
        1.1 <= value <= 1.3,
        "The noise estimate does not grow with the noise: the network normalises its input, or its output is something "
        "else than stated.",
    )


def _level_told(probe: Probe) -> Finding:
    """The factor on the noise-to-signal ratio told at which its error is least, at the middle level."""
    model, at = probe.model, probe.middle
    moved, own = model.at_own_level(probe.noised[at], probe.level[at])
    low, high = model.ratios
    errors = {}
    for factor in _TOLD:
        if low <= factor * float(own.ratio) <= high:
            other = model.schedule(model.schedule.time(model.schedule.level(factor * own.ratio)))
            output = from_denoised(model(moved, other), moved, other, model.prediction)
            errors[factor] = _square_error(to_denoised(output, moved, own, model.prediction), probe.x0)
    value = _least(torch.tensor([*errors], dtype=torch.float64).log(), torch.tensor([*errors.values()]).double())
    return _judged(
        "σ/α that fits best, over the one told",
        value,
        "0.7 to 1.4",
        0.7 <= value <= 1.4,
        "Told another level it denoises better: the schedule, or the unit of its time, is another than stated.",
    )


def _prediction(probe: Probe) -> Finding:
    """The error as stated over the least of all types that the output can be read as, at the middle level."""
    model, at = probe.model, probe.middle
    moved, own = model.at_own_level(probe.noised[at], probe.level[at])
    output = _output(model, probe.noised[at], probe.level[at])
    kinds: tuple[Prediction, ...] = get_args(Prediction)
    errors = {kind: _square_error(to_denoised(output, moved, own, kind), probe.x0) for kind in kinds}
    best = min(kinds, key=lambda kind: errors[kind])
    value = errors[model.prediction] / max(errors[best], 1e-30)
    return _judged(
        f"error as {model.prediction} over the least, as {best}",
        value,
        "at most 1.1",
        value <= 1.1,
        f"Read as {best}, its output denoises better than as {model.prediction}, which is stated.",
    )


def halves(model: Model, probe: Probe) -> Finding:
    """How far the estimates for a class and for any class lie apart, at the middle level."""
    x, level = probe.noised[probe.middle][:8], probe.level[probe.middle]
    away, towards = (model.denoise(x, level, label) for label in (model.null, 0))
    value = _relative(towards - away, away)
    return _judged(
        "difference between the two halves of guidance",
        value,
        "above 0.001",
        value > 1e-3,
        "The estimate for a class is that for any class: labels are not heard, and guidance does nothing.",
        weak=True,
    )


def _output(model: Model, x: Tensor, level: NoiseLevel) -> Tensor:
    """What the network itself puts out for rows at a level."""
    moved, own = model.at_own_level(x, level)
    return from_denoised(model(x, level), moved, own, model.prediction)


def _square_error(estimate: Tensor, truth: Tensor) -> float:
    return float((estimate - truth).double().square().mean())


def _relative(change: Tensor, whole: Tensor) -> float:
    return float(change.double().square().mean().sqrt() / whole.double().square().mean().sqrt().clamp(min=1e-30))


def _least(at: Tensor, errors: Tensor) -> float:
    """exp of where the parabola through the least error and its neighbours has its bottom; of the place itself at an
    end."""
    i = int(errors.argmin())
    if i in (0, len(errors) - 1):
        return float(at[i].exp())
    before, after = at[i] - at[i - 1], at[i + 1] - at[i]
    fall, rise = (errors[i] - errors[i - 1]) / before, (errors[i + 1] - errors[i]) / after
    return float((at[i] - (after * fall + before * rise) / (2 * (rise - fall))).exp())
