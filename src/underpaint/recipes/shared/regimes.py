"""The three regimes of a data set along the noise, of a model with its data and a run of it: predicted from statistics,
and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...analysis.agreement import denoised_at, explained_shares
from ...analysis.regimes import chance_alike, class_means, clone, crossing, nearest_class, nudge, posterior_entropy
from ...analysis.retrieval import closeness, nearest
from ...analysis.summary import Summary, share_interval
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import Solver, dpmpp_2m
from ...sampling.trajectory import Trajectory
from ...theory.denoiser import Denoiser
from ...theory.regimes import collapse_ratio, speciation_ratio
from .model_and_data import ModelAndData, cluster
from .results import picture, quantity

#: Seeds that are cloned together, and images that class means are taken of.
_BATCH, _FOR_MEANS = 64, 5000
#: Ratio to clone about where the data do not vary.
_SMALLEST = 1e-12
#: Levels to clone at, held-out images to noise, and levels to noise them to, unless told.
LEVELS, IMAGES, FINE = 8, 64, 20
#: complete(denoise, x, level, seeds, callback=...): two ends [2, B, D] of each state x [B, D] at level[0].
Complete = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Speciation:
    """When classes are decided: pairs of samples that share their state down to a level, and nothing after it."""

    predicted: float = quantity("sigma/alpha, square root of the leading variance of the data")
    measured: float = quantity("sigma/alpha at which the share is half-way from chance to 1")
    ratio: Tensor = quantity("sigma/alpha of the shared state, falling")
    share: Tensor = quantity("share of pairs that end in one class, by level")
    low: Tensor = quantity("where it lies to 95 %, lower end")
    high: Tensor = quantity("where it lies to 95 %, upper end")
    chance: float = quantity("share of pairs of different seeds that end in one class")
    classes: str = quantity("what a class is")
    nudge: float = quantity("by what share of the noise clones are moved; 0: they take a stochastic completion")


@dataclass(frozen=True, eq=False)
class Collapse:
    """When the exact score is drawn to one data point, for N data points: at noised held-out images."""

    counts: tuple[int, ...] = quantity("data points N, drawn at random")
    predicted: tuple[float, ...] = quantity("sigma/alpha at which a state tells log N nats of its point, by N")
    measured: tuple[float, ...] = quantity("sigma/alpha below which the perplexity stays at 2 or less, by N")
    ratio: Tensor = quantity("sigma/alpha of the states, falling")
    perplexity: Summary = quantity("exp(entropy of the exact posterior), geometric mean over states, [N, level]")


@dataclass(frozen=True, eq=False)
class Departure:
    """Where the network leaves the exact score of its data, on its own states."""

    ratio: Tensor = quantity("sigma/alpha of the states, falling")
    explained: dict[str, Summary] = quantity(
        "share of the network's denoised image, about the data mean, that a denoiser of the data explains, by level"
    )
    left: float = quantity("sigma/alpha below which the Gaussian of the data explains more than their exact score")


@dataclass(frozen=True, eq=False)
class Generalisation:
    """Whether the network's samples lie nearer to the data than new images do."""

    samples: Summary = quantity("distance of samples to their nearest data point, root mean square per number")
    held_out: Summary = quantity("the same of held-out images")
    closer: float = quantity("probability that a sample is closer to the data than a held-out image is")
    error: float = quantity("standard error of that, were it 0.5")


@dataclass(frozen=True, eq=False)
class Regimes:
    """Everything that the figure shows; ``strips`` are pictures [L, C, H, W] of the first seed, by what they are, at
    the levels that clones begin at."""

    setup: dict[str, Any]
    speciation: Speciation = quantity("see fields")
    collapse: Collapse = quantity("see fields")
    departure: Departure = quantity("see fields")
    generalisation: Generalisation = quantity("see fields")
    strips: dict[str, Tensor] = picture()

    @property
    def finding(self) -> str:
        """Where the regimes begin and end, measured and predicted."""
        born, fallen, new, left = self.speciation, self.collapse, self.generalisation, self.departure.left
        where = "at each of them" if math.isinf(left) else "below it"
        more = "" if math.isnan(left) else f": {where}, the Gaussian of the data explains more of the network's image"
        return (
            f"Classes are decided {_found('at about', born.measured)} (predicted: {born.predicted:.3g}). The exact "
            f"score of all {fallen.counts[-1]:,} points is drawn to a single one of them "
            f"{_found('below', fallen.measured[-1])} (predicted: {fallen.predicted[-1]:.3g}). The network leaves the "
            f"exact score {_found('at about', left)}{more}. With probability {new.closer:.2f}, a sample is closer to "
            f"the data than a held-out image is (0.5 ± {new.error:.2f} if they are alike)."
        )


def measure_regimes(
    subject: ModelAndData,
    run: Trajectory,
    seeds: Sequence[int],
    levels: int = LEVELS,
    nudged: float = 0.0,
    solver: Solver = dpmpp_2m,
    fine: int = FINE,
    progress: Progress = silent,
    fallen: Collapse | None = None,
) -> Regimes:
    """Clone the states of a run at several of its levels, and weigh the data at noised held-out images.

    Args:
        subject: a model with its data, of which some are held out.
        run: of the model, from ``seeds``.
        levels: of the run that clones begin at.
        nudged: the share of the noise by which clones are moved; 0: they take a stochastic completion.
        solver: that nudged clones follow the flow by.
        fine: levels that held-out images are noised to.
        progress: told of each stretch.
        fallen: the collapse of these data, where it is known; it does not depend on the network.

    Raises:
        ValueError: no images are held out, or the data do not vary.
    """
    held = subject.held
    if held is None:
        raise ValueError("Regimes need images that the data do not hold; load the data with held_out.")
    fallen = fallen or collapse(subject, held.rows, fine, progress)
    complete: Complete = partial(nudge, size=nudged, solver=solver) if nudged else clone
    places = clone_at(run.level, speciation_ratio(subject.gaussian), levels)
    ends = complete_all(subject.denoise, run, places, seeds, complete, progress)
    return Regimes(
        setup={"held_out": held.source, "gaussian": subject.about["Gaussian"], "seeds": list(seeds)},
        speciation=speciate(subject, run, places, ends, nudged),
        collapse=fallen,
        departure=departure(subject, run),
        generalisation=generalise(subject.rows, run.final, held.rows),
        strips=strips(subject, run, places, ends),
    )


def calls_of_regimes(subject: ModelAndData, level: NoiseLevel, seeds: int, levels: int = LEVELS) -> int:
    """Calls of ``subject.denoise`` for one state that `measure_regimes` makes, given a run along the levels."""
    places = clone_at(level, speciation_ratio(subject.gaussian), levels)
    return 2 * seeds * sum(len(level) - 1 - place for place in places)


def known_counts(count: int) -> tuple[int, ...]:
    """Numbers of data points to know, by tens from 100 on, and all."""
    return (*(10**power for power in range(2, 7) if 10**power < count), count)


def clone_at(level: NoiseLevel, about: float, count: int) -> list[int]:
    """Places of a grid whose ratios are nearest to ``count`` from four times a ratio to a twentieth of it.

    A sixth of the steps is left from there, and two at least: the last one adds no noise, and clones would be equal.
    """
    steps = len(level) - 1
    usable = [i for i in range(steps + 1 - max(2, steps // 6)) if math.isfinite(float(level.ratio[i]))]
    logs, top = level.ratio[torch.tensor(usable)].log(), math.log(4 * max(about, _SMALLEST))
    wanted = torch.linspace(top, top - math.log(80), count, dtype=torch.float64)
    return [usable[i] for i in sorted({int((logs - value).abs().argmin()) for value in wanted})]


def complete_all(
    denoise: Denoiser,
    run: Trajectory,
    places: Sequence[int],
    seeds: Sequence[int],
    complete: Complete,
    progress: Progress = silent,
) -> Tensor:
    """Where two clones of each state of a run end, by the place they part at, [L, 2, B, D]."""
    parts = [slice(start, start + _BATCH) for start in range(0, len(seeds), _BATCH)]
    advance = progress("cloning", sum(len(run) - place for place in places) * len(parts))

    def ends(place: int, part: slice) -> Tensor:
        return complete(denoise, run.x[place][part], run.level[place:], seeds[part], callback=lambda *_: advance())

    return torch.stack([torch.cat([ends(place, part) for part in parts], 1) for place in places])


def speciate(
    subject: ModelAndData, run: Trajectory, places: Sequence[int], ends: Tensor, nudged: float = 0.0
) -> Speciation:
    """Which pairs of clones [L, 2, B, D] that parted at places of a run end in one class."""
    kind, means = find_classes(subject)
    found = torch.stack([nearest_class(means, _features(subject, rows)) for rows in ends.flatten(0, 1)])
    first, second = found.unflatten(0, ends.shape[:2]).unbind(1)
    hits = (first == second).sum(1).tolist()
    share = torch.tensor(hits, dtype=torch.float64) / ends.shape[2]
    low, high = torch.tensor([share_interval(hit, ends.shape[2]) for hit in hits], dtype=torch.float64).T
    ratio = run.level.ratio[torch.tensor(places)]
    # clones at the noisiest level have forgotten all: they, and the runs themselves, are independent samples
    chance = chance_alike(nearest_class(means, _features(subject, run.final)))
    measured = crossing(ratio, share, (1 + chance) / 2)
    return Speciation(speciation_ratio(subject.gaussian), measured, ratio, share, low, high, chance, kind, nudged)


def find_classes(subject: ModelAndData) -> tuple[str, Tensor]:
    """What a class is, in words, and the means [K, F] that stand for the classes: those of labels, where there are
    several, else clusters by k-means."""
    labels, generator = subject.data.labels, torch.Generator().manual_seed(0)
    labelled = labels is not None and len(labels[labels >= 0].unique()) > 1
    among = (labels >= 0).nonzero().flatten() if labels is not None and labelled else torch.arange(len(subject.rows))
    chosen = among[torch.randperm(len(among), generator=generator)[:_FOR_MEANS]]
    rows = subject.rows[chosen]
    kinds = labels[chosen] if labels is not None and labelled else cluster(rows, 10)
    kind = "class" if labelled else "k-means cluster"
    space = "of the numbers" if subject.features is None else f"in the features of {subject.features.name}"
    return f"the nearest mean of a {kind}, {space}", class_means(_features(subject, rows), kinds)


def _features(subject: ModelAndData, rows: Tensor) -> Tensor:
    return rows if subject.features is None else subject.features_of(rows)


def collapse(subject: ModelAndData, held: Tensor, fine: int = FINE, progress: Progress = silent) -> Collapse:
    """The perplexity of the exact posterior at noised held-out images [H, D], by number of data points and level."""
    counts = known_counts(len(subject.rows))
    predicted = tuple(collapse_ratio(subject.gaussian, count) for count in counts)
    first, last = 4 * max(speciation_ratio(subject.gaussian), *predicted), min(predicted) / 4
    ratio = torch.logspace(math.log10(first), math.log10(last), fine, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(subject.rows), generator=generator)
    noise = torch.randn(held.shape, generator=generator, dtype=torch.float64)
    states = (held + ratio[:, None, None] * noise).flatten(0, 1)
    every = ratio.repeat_interleave(len(held))
    level = NoiseLevel(torch.ones_like(every), every)
    entropy = posterior_entropy(subject.rows, states, level, counts, order, progress=progress).unflatten(1, (fine, -1))
    spread = Summary.of(entropy)
    return Collapse(
        counts=counts,
        predicted=predicted,
        measured=tuple(crossing(ratio, -line, -math.log(2)) for line in spread.mean),
        ratio=ratio,
        perplexity=Summary(spread.mean.exp(), spread.low.exp(), spread.high.exp(), count=len(held)),
    )


def departure(subject: ModelAndData, run: Trajectory) -> Departure:
    """What exact score and Gaussian explain of the network on the states of a run, at finite levels with noise."""
    use = (run.level.ratio[:-1].isfinite() & (run.level.ratio[:-1] > 0)).nonzero().flatten()
    level = NoiseLevel(run.level.alpha[use], run.level.sigma[use])
    states, network = run.x[use], run.denoised[use]
    explained = {
        name: Summary.of(explained_shares(network, denoised_at(denoise, states, level), subject.gaussian.mean))
        for name, denoise in (("exact", subject.cloud), ("Gaussian", subject.gaussian))
    }
    margin = explained["Gaussian"].mean - explained["exact"].mean
    return Departure(level.ratio, explained, crossing(level.ratio, margin, 0.0))


def generalise(rows: Tensor, finals: Tensor, held: Tensor) -> Generalisation:
    """Distances of samples [S, D] and held-out images [H, D] to the nearest of the data rows [N, D]."""
    samples, others = (nearest(rows, x)[0][:, 0] / rows.shape[1] ** 0.5 for x in (finals, held))
    return Generalisation(Summary.of(samples), Summary.of(others), *closeness(samples, others))


def strips(subject: ModelAndData, run: Trajectory, places: Sequence[int], ends: Tensor) -> dict[str, Tensor]:
    """Of the first seed's states at places of a run: what the exact score and the network expect, and where both of the
    clones [L, 2, B, D] end. Pictures [L, C, H, W]."""
    index = torch.tensor(places)
    level = NoiseLevel(run.level.alpha[index], run.level.sigma[index])
    rows = {
        "exact": denoised_at(subject.cloud, run.x[index, :1], level)[:, 0],
        "network": run.denoised[index, 0],
        "one end": ends[:, 0, 0],
        "another": ends[:, 1, 0],
    }
    return {name: subject.images(part) for name, part in rows.items()}


def _found(where: str, ratio: float) -> str:
    if math.isnan(ratio):
        return "at none of the levels looked at"
    return "above all of the levels looked at" if math.isinf(ratio) else f"{where} σ/α {ratio:.3g}"
