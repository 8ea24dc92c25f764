"""The paper's claims, each with the measure that tests it and the bound at which we say that it holds.

The claims are those of WV23 in our own words. A bound is a convention of this project, the same for every model; the
measures and some bounds were settled while the report was made on the Fashion-MNIST model in the box, so that for that
model they are no blind test. A claim that fails its bound is reported as failing; where the interval of its value, over
seeds or samples, crosses the bound, these are too few to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...analysis.emergence import rank_correlation
from ...analysis.summary import Summary, by_group, interval, jackknife
from ...noise import NoiseLevel

#: Noise-to-signal ratio above which the paper's "high noise" is tested, in units of pixels in [-1, 1].
HIGH_NOISE = 10.0
#: The verdict where the interval crosses the bound.
TOO_FEW = "too few to say"
#: A value that misses its bound by less than this share of it just misses.
NEAR = 0.05
_ABOVE_0, _BELOW_1 = math.nextafter(0, 1), math.nextafter(1, 0)


@dataclass(frozen=True)
class Bound:
    """From ``low`` to ``high``, both included, in words."""

    words: str
    low: float = -math.inf
    high: float = math.inf

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def misses(self, value: float) -> float:
        """By how much the value misses the bound, as a share of the bound; 0 where it holds."""
        bound = self.low if value < self.low else self.high if value > self.high else value
        return abs(value - bound) / max(abs(bound), 1e-300)

    def crossed_by(self, interval: tuple[float, float]) -> bool:
        """Whether some of the interval lies within and some without."""
        low, high = interval
        inside, outside = self.low <= low and high <= self.high, high < self.low or low > self.high
        return not (inside or outside)


@dataclass(frozen=True)
class Claim:
    """What the paper says, what was measured, the bound, and whether it holds here.

    Attributes:
        spread: 5 % and 95 % quantile over seeds, where there is one value a seed.
        interval: where the value lies, to 95 %, by how much it differs among seeds or samples; None where it does not
            depend on these, or cannot be told.
        holds: whether the value keeps the bound.
        verdict: holds, does not hold ("just misses" if by less than 5 % of the bound), or "too few to say" where the
            interval crosses the bound, and of how many.
    """

    statement: str
    measure: str
    value: float
    spread: tuple[float, float] | None
    bound: str
    holds: bool
    interval: tuple[float, float] | None = None
    verdict: str = ""

    @property
    def open(self) -> bool:
        """Whether there were too few seeds or samples to say."""
        return self.verdict.startswith(TOO_FEW)


def _claim(
    statement: str,
    measure: str,
    value: float,
    bound: Bound,
    interval: tuple[float, float] | None,
    of: str,
    spread: tuple[float, float] | None = None,
) -> Claim:
    holds = bound.holds(value)
    verdict = "holds" if holds else "does not hold (just misses)" if bound.misses(value) < NEAR else "does not hold"
    if interval is not None and bound.crossed_by(interval):
        verdict = f"{TOO_FEW} ({of})"
    return Claim(statement, measure, value, spread, bound.words, holds, interval, verdict)


def _of_summary(statement: str, measure: str, summary: Summary, bound: Bound, what: str = "seeds") -> Claim:
    """A claim about a mean over seeds."""
    spread = (float(summary.low), float(summary.high))
    of = f"{summary.count} {what}"
    return _claim(statement, measure, float(summary.mean), bound, summary.interval(), of, spread)


def judge(parts: dict[str, Any], own: bool = False) -> tuple[Claim, ...]:
    """Test each claim on the sections of a report; those on the training data only where these are not the model's own
    samples."""
    angle = float(parts["agreement"].gaussian_angle.mean)
    sections = [_geometry(parts["geometry"], angle), _emergence(parts["emergence"]), _agreement(parts["agreement"])]
    sections += [] if own else [_trained(parts["agreement"])]
    sections += [_hybrid(parts["hybrid"]), _perturbation(parts["perturbation"])]
    if parts["frechet"] is not None:
        sections.append(_frechet(parts["frechet"]))
    if parts["decided"] is not None:
        sections.append(_decided(parts["decided"]))
    return tuple(claim for section in sections for claim in section)


def count_verdicts(claims: Sequence[Claim]) -> str:
    """How many hold, and for how many the seeds or samples are too few to say."""
    held, open_ones = sum(claim.holds and not claim.open for claim in claims), sum(claim.open for claim in claims)
    left = f", for {open_ones} there are too few seeds or samples to say" if open_ones else ""
    return f"{held} of {len(claims)} claims hold{left}"


def _geometry(part: Any, gaussian_angle: float) -> list[Claim]:
    residual, rotation = part.plane_residual, part.rotation_error
    return [
        _of_summary(
            "A single sampling trajectory is nearly two-dimensional, although pixel space is not.",
            "share of the variance of x_t over time in two principal components, mean over seeds",
            part.shares["x"][1],
            Bound("at least 0.99", low=0.99),
        ),
        _of_summary(
            "The plane is the one spanned by the starting noise and the final image.",
            "largest share over time of |x_t|² outside span(x_0, x_T), mean over seeds",
            residual[int(residual.mean.argmax())],
            Bound("at most 0.05", high=0.05),
        ),
        _of_summary(
            "Within the plane the state rotates from noise to image, x_t = α_t x_0 + σ_t x_T.",
            "largest |x_t − α_t x_0 − σ_t x_T|² / |x_t|² over time, mean over seeds",
            rotation[int(rotation.mean.argmax())],
            Bound("at most 0.05", high=0.05),
        ),
        _of_summary(
            "The starting noise and the final image are nearly orthogonal.",
            f"angle between x_0 and x_T in degrees, mean over seeds (the Gaussian's flow: {gaussian_angle:.1f})",
            part.edge_angle,
            Bound("within 10 of 90", low=80, high=100),
        ),
        _of_summary(
            "The path is smooth: neighbouring steps point almost the same way.",
            "cosine of successive differences x_{t−1} − x_t, mean over time and seeds",
            part.difference_cosines[0],
            Bound("at least 0.9", low=0.9),
        ),
    ]


def _emergence(part: Any) -> list[Claim]:
    def factor(half: Tensor) -> float:
        seen = torch.isfinite(half)
        return float(2 ** (half[seen] / part.predicted_half[seen]).log2().abs().median())

    ranks = torch.tensor([rank_correlation(half, part.predicted_half) for half in part.half_left_out])
    factors, of = torch.tensor([factor(half) for half in part.half_left_out]), f"{part.seeds} seeds"
    value = factor(part.measured_half)
    return [
        _claim(
            "Outline first, details later: features of larger variance are settled earlier.",
            f"rank correlation of the level at which a component shows half its variance with its variance, first "
            f"{len(part.measured_half)} components",
            part.rank_correlation,
            Bound("at least 0.9", low=0.9),
            jackknife(part.rank_correlation, ranks),
            of,
        ),
        _claim(
            "A component appears when σ/α passes the square root of its variance.",
            "median factor, either way, between measured and predicted σ/α at half variance",
            value,
            Bound("at most 1.5", high=1.5),
            jackknife(value, factors),
            of,
        ),
    ]


def _agreement(part: Any) -> list[Claim]:
    level: NoiseLevel = part.level[:-1]
    high = level.ratio >= HIGH_NOISE
    # by seed: what they explain of each seed's own path, whose mean is what is explained of all
    ideal = pooled(part.exact_shares, part.exact_signal, high)
    learned, best = (pooled(part.shares[name], part.signal, high) for name in ("Gaussian", "exact"))
    gaussian, mixture = (part.shares[name] for name in ("Gaussian", "mixture"))
    measured = [
        (
            "At high noise the data's exact score is that of their Gaussian.",
            f"explained variance of the exact denoiser about the mean, pooled over σ/α ≥ {HIGH_NOISE:g}"
            f"{nothing(ideal)}",
            ideal,
            Bound("at least 0.9", low=0.9),
        ),
        (
            "At high noise a trained network is its data's Gaussian denoiser.",
            f"explained variance of the network's x̂_0 about the mean, pooled over σ/α ≥ {HIGH_NOISE:g} "
            f"(the exact score explains {float(best.mean()):.3f}){nothing(learned)}",
            learned,
            Bound("at least 0.9", low=0.9),
        ),
        (
            "A mixture of Gaussians follows the network further than one Gaussian does.",
            "explained variance by the mixture less that by the Gaussian, mean over all levels",
            (mixture - gaussian).mean(0),
            Bound("above 0", low=_ABOVE_0),
        ),
    ]
    return [
        _claim(statement, measure, float(values.mean()), bound, interval(values), f"{len(values)} seeds")
        for statement, measure, values, bound in measured
    ]


def _trained(part: Any) -> list[Claim]:
    """What is said of the network and the very data that it was trained on."""
    low = part.level[:-1].ratio <= 0.5
    fewer = (part.shares["Gaussian"] - part.shares["exact"])[low].mean(0)
    return [
        _claim(
            "At low noise the network is not the exact score of its training set: the Gaussian explains it better.",
            "explained variance by the Gaussian less that by the exact score, mean over σ/α ≤ 0.5",
            float(fewer.mean()),
            Bound("above 0", low=_ABOVE_0),
            interval(fewer),
            f"{len(fewer)} seeds",
        ),
        _of_summary(
            "So the network generalises: its samples are new, where the exact score's are training images.",
            "distance of samples to the nearest data point, root mean square per pixel "
            f"(of the exact score's samples {float(part.retrieved_exact.mean):.2g})",
            part.retrieved,
            Bound("at least 0.05", low=0.05),
        ),
    ]


def nothing(shares: Tensor) -> str:
    """What a mean of explained variances below 0 means, in words; nothing of others."""
    return "; below 0 it explains nothing: the data mean is nearer" if float(shares.mean()) < 0 else ""


def pooled(shares: Tensor, signal: Tensor, chosen: Tensor) -> Tensor:
    """Explained variance [...] over several levels together, of that at each [N, ...]: each level weighs as much as
    there is to explain in it, [N]."""
    weight = signal[chosen] / signal[chosen].sum()
    return torch.tensordot(weight, shares[chosen], 1)


def _hybrid(part: Any) -> list[Claim]:
    skipped = int((part.ratio >= HIGH_NOISE).sum()) - 1
    if skipped < 0:
        return []
    return [
        _of_summary(
            "The early steps can be skipped in closed form with hardly a change to the image.",
            f"mean square change of the final image when {part.skip[skipped]} steps are skipped (to σ/α = "
            f"{float(part.ratio[skipped]):.3g})",
            part.error[skipped],
            Bound("at most 0.02", high=0.02),
        )
    ]


def _frechet(part: Any) -> list[Claim]:
    safe = [i for i, ratio in enumerate(part.ratio.tolist()) if ratio >= HIGH_NOISE and part.skip[i] > 0]
    if not safe:
        return []
    best = max(safe)
    change, others = part.saved[best] / part.saved[0], part.saved_left_out
    return [
        _claim(
            "Skipping the early steps saves calls and costs no quality.",
            f"Fréchet distance ({part.features}, {part.samples} samples) after skipping {part.skip[best]} of "
            f"{part.steps} steps, over that of none",
            change,
            Bound("at most 1.05", high=1.05),
            jackknife(change, others[:, best] / others[:, 0]) if len(others) else (-math.inf, math.inf),
            f"{part.samples} samples",
        )
    ]


def _perturbation(part: Any) -> list[Claim]:
    seeds = part.along.shape[-1]

    def factor(kept: Tensor) -> Tensor:
        return 2 ** (part.along[..., kept].mean(-1) / part.predicted).clamp(min=1e-6).log2().abs().median()

    def weak(kept: Tensor) -> Tensor:
        last = part.along[-1][..., kept]
        return last[-1].abs().mean() / last[0].abs().mean()

    everything, claims = torch.arange(seeds), []
    for statement, measure, statistic, bound in (
        (
            "A nudge along a feature moves the final image by the predicted gain.",
            "median factor, either way, between measured and predicted gain over components and times",
            factor,
            Bound("at most 1.5", high=1.5),
        ),
        (
            "Late nudges off the image manifold die out, along it they stay.",
            "gain of the component of least variance shown over that of the first, at the latest nudge",
            weak,
            Bound("below 1", high=_BELOW_1),
        ),
    ):
        value = float(statistic(everything))
        spread = jackknife(value, by_group(statistic, seeds))
        claims.append(_claim(statement, measure, value, bound, spread, f"{seeds} seeds"))
    return claims


def _decided(part: Any) -> list[Claim]:
    theory = part.order(part.predicted_half)

    def agreeing(half: Tensor) -> float:
        network = part.order(half)
        pairs = [(a, b) for i, a in enumerate(theory) for b in theory[i + 1 :]]
        return sum(network.index(a) < network.index(b) for a, b in pairs) / len(pairs)

    value, others = agreeing(part.measured_half), [agreeing(half) for half in part.half_left_out]
    network = part.order(part.measured_half)
    return [
        _claim(
            f"Features are decided in the order that the theory predicts: {', '.join(theory)}.",
            f"share of pairs of features in that order; the network's is {', '.join(network)} ({part.samples} samples)",
            value,
            Bound("1", low=1),
            # an order does not vary smoothly: it is sure if it is the same whichever group of samples is left out
            (min(value, *others), max(value, *others)),
            f"{part.samples} samples",
        )
    ]
