"""When background, layout, identity and detail of a picture are decided, in the network and in the theory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...analysis import decided, emergence
from ...analysis.summary import left_out
from ...metrics.scenes import Reader
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import dpmpp_2m
from ...theory import modes
from ..shared.model_and_data import ModelAndData
from ..shared.results import picture, quantity

#: Samples whose pictures are read, and steps of their grid.
_SAMPLES, _STEPS = 200, 30


@dataclass(frozen=True, eq=False)
class Decided:
    """How much of each feature of the finished picture stands at each level, and the level at which half of it does."""

    samples: int = quantity("samples")
    level: NoiseLevel = quantity()
    measured: Tensor = quantity("share of the finished feature in the network's x0-hat, [level, feature]")
    predicted: Tensor = quantity("the same when each component has emerged as the Gaussian says, [level, feature]")
    measured_half: Tensor = quantity("sigma/alpha at which half of each feature stands")
    predicted_half: Tensor = quantity("sigma/alpha at which half of each feature stands, in theory")
    features: tuple[str, ...] = quantity("names")
    half_left_out: Tensor = quantity("measured_half without some of the samples, [group, feature]")
    strips: Tensor = picture()
    predicted_strips: Tensor = picture()

    def order(self, half: Tensor) -> tuple[str, ...]:
        """The features by falling level; those that are never undecided on the grid come first."""
        keys = torch.where(torch.isfinite(half), half, torch.inf).tolist()
        return tuple(name for _, name in sorted(zip(keys, self.features, strict=True), key=lambda pair: -pair[0]))


def calls_of_decided(subject: ModelAndData) -> int:
    """Calls of the network for one image that `measure_decided` makes."""
    return 0 if subject.reader is None else _SAMPLES * _STEPS


def measure_decided(
    subject: ModelAndData, count: int = _SAMPLES, steps: int = _STEPS, progress: Progress = silent, shown: int = 3
) -> Decided | None:
    """Sample without a condition, and read every estimate and its prediction; None where nothing reads these pictures.

    The theory's picture at a level is the network's own final sample with each principal component of the data
    attenuated to what has emerged of it, mu + sum_k phi_k u_k u_k.(x_0 - mu), phi_k = sqrt(lambda/(lambda + ratio^2))
    (WV23): the same reading then says when the theory would have decided each feature. Memory:
    2 N B rows, and images of one level at a time.
    """
    if subject.reader is None:
        return None
    level = subject.model.schedule.grid(steps)
    run = subject.sample(subject.model, range(count), level, dpmpp_2m, "undirected samples", progress)
    noisy = level[:-1]
    advance = progress("reading pictures", 2 * len(noisy))

    def painted(index: int) -> Tensor:
        return emerged(subject, run.final, noisy[index])

    measured = read_features(subject, lambda i: run.denoised[i], run.final, len(noisy), advance)
    predicted = read_features(subject, painted, run.final, len(noisy), advance)
    return Decided(
        samples=count,
        level=noisy,
        measured=measured[0],
        predicted=predicted[0],
        measured_half=emergence.half_ratio(measured[0], noisy),
        predicted_half=emergence.half_ratio(predicted[0], noisy),
        features=decided.FEATURES,
        half_left_out=torch.stack([emergence.half_ratio(part, noisy) for part in measured[1:]]),
        strips=run.denoised[:, :shown],
        predicted_strips=torch.stack([painted(i)[:shown] for i in range(len(noisy))]),
    )


def emerged(subject: ModelAndData, final: Tensor, level: NoiseLevel) -> Tensor:
    """The rows [B, D] as far as the Gaussian would have settled them at a level."""
    gaussian = subject.gaussian
    covariance = gaussian.covariance
    share = modes.emergence(covariance.variances, level).to(final)
    return gaussian.mean + covariance.synthesise(share * covariance.analyse(final - gaussian.mean)).to(final)


def read_features(
    subject: ModelAndData, rows: Callable[[int], Tensor], final: Tensor, count: int, advance: Callable[[], None]
) -> Tensor:
    """Shares [1 + G, N, 4] of the finished features in ``rows(0)`` .. ``rows(count - 1)``, a level at a time: of all
    samples, and without each of G groups of them in turn. float64."""
    reader: Reader | None = subject.reader
    assert reader is not None
    finished = subject.images(final)
    reading = reader.read(finished)
    layout, found = reading.layout, reading.found
    colours, weight = decided.background_colours(finished, layout)
    fine = decided.detail(finished, layout)
    chosen = [torch.arange(len(final)), *left_out(len(final))]
    shares = []
    for index in range(count):
        images = subject.images(rows(index))
        now, early = reader.read(images), decided.background_colours(images, layout)[0]
        close = decided.detail(images, layout)

        def of(k: Tensor, now: Any = now, early: Tensor = early, close: Tensor = close) -> Tensor:
            parts = (
                decided.explained(early[None, k], colours[k], weight[k]),
                decided.overlap(now.layout[None, k], layout[k]),
                decided.recall(now.found[None, k], found[k]),
                decided.explained(close[None, k], fine[k]),
            )
            return torch.cat([part.double() for part in parts])

        shares.append(torch.stack([of(kept) for kept in chosen]))
        advance()
    return torch.stack(shares, 1)
