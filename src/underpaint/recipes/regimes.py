"""The three regimes of a data set along the noise: predicted from its statistics, and measured on data and network."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..analysis.agreement import denoised_at, explained_shares
from ..analysis.regimes import chance_alike, class_means, clone, crossing, nearest_class, nudge, posterior_entropy
from ..analysis.retrieval import closeness, nearest
from ..analysis.summary import Summary, share_interval
from ..bounds import MOST_ITEMS, MOST_STEPS, check_several_seeds, integer, number
from ..models.model import Condition
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..sampling.solvers import find_solver
from ..sampling.trajectory import Callback, Trajectory
from ..theory.denoiser import Denoiser
from ..theory.regimes import collapse_ratio, speciation_ratio
from .shared.model_and_data import ModelAndData, Sources, cluster, load_model_and_data, with_labels
from .shared.request import Conditioning
from .shared.results import quantity, table

#: States that are completed together, and images that class means are taken of.
_BATCH, _FOR_MEANS = 64, 5000


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
    levels: int = 8
    images: int = 64
    fine: int = 20
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
    """Everything that the figure shows."""

    setup: dict[str, Any]
    speciation: Speciation = quantity("see fields")
    collapse: Collapse = quantity("see fields")
    departure: Departure = quantity("see fields")
    generalisation: Generalisation = quantity("see fields")

    @property
    def finding(self) -> str:
        """Where the regimes begin and end, measured and predicted."""
        born, fallen, new, left = self.speciation, self.collapse, self.generalisation, self.departure.left
        more = "" if math.isnan(left) else ": below it, the Gaussian of the data explains more of the network's image"
        return (
            f"Classes are decided {_found('at about', born.measured)} (predicted: {born.predicted:.3g}). The exact "
            f"score of all {fallen.counts[-1]:,} points is drawn to a single one of them "
            f"{_found('below', fallen.measured[-1])} (predicted: {fallen.predicted[-1]:.3g}). The network leaves the "
            f"exact score {_found('at about', left)}{more}. With probability {new.closer:.2f}, a sample is closer to "
            f"the data than a held-out image is (0.5 ± {new.error:.2f} if they are alike)."
        )


def regimes(settings: Settings, progress: Progress = silent) -> Regimes:
    """Sample the seeds, clone them at several levels, and weigh the data at noised held-out images.

    Raises:
        ValueError: as `load_model_and_data`; the data have fewer than two images, or do not vary.
    """
    began = time.monotonic()
    case = Conditioning(settings.condition, settings.guidance)
    subject = load_model_and_data(settings.sources, case=case, progress=progress, held_out=settings.images)
    assert subject.held is not None
    counts = known_counts(len(subject.rows))
    predicted = tuple(collapse_ratio(subject.gaussian, count) for count in counts)
    grid = subject.model.schedule.grid(settings.steps)
    run = subject.sample(subject.denoise, settings.seeds, grid, find_solver(settings.solver), "sampling", progress)
    return Regimes(
        speciation=speciate(subject, run, settings, progress),
        collapse=collapse(subject, counts, predicted, settings, progress),
        departure=departure(subject, run),
        generalisation=generalise(subject.rows, run.final, subject.held.rows),
        setup=describe(settings, subject, time.monotonic() - began),
    )


def known_counts(count: int) -> tuple[int, ...]:
    """Numbers of data points to know, by tens from 100 on, and all."""
    return (*(10**power for power in range(2, 7) if 10**power < count), count)


def speciate(subject: ModelAndData, run: Trajectory, settings: Settings, progress: Progress = silent) -> Speciation:
    """Clone the states of a run at some of its levels, and see which pairs end in one class."""
    predicted = speciation_ratio(subject.gaussian)
    places, (kind, means) = clone_at(run.level, predicted, settings.levels), find_classes(subject)
    parts = [slice(start, start + _BATCH) for start in range(0, len(settings.seeds), _BATCH)]
    advance = progress("cloning", sum(len(run) - place for place in places) * len(parts))
    ends = []
    for place in places:
        rows = [(run.x[place][part], run.level[place:], settings.seeds[part]) for part in parts]
        finals = torch.cat([_two(subject.denoise, row, settings, lambda *_: advance()) for row in rows], 1)
        ends.append(torch.stack([nearest_class(means, _features(subject, copy)) for copy in finals]))
    hits = [int((first == second).sum()) for first, second in ends]
    share = torch.tensor(hits, dtype=torch.float64) / len(settings.seeds)
    low, high = torch.tensor([share_interval(hit, len(settings.seeds)) for hit in hits], dtype=torch.float64).T
    ratio = run.level.ratio[torch.tensor(places)]
    # clones at the noisiest level have forgotten all: they, and the runs themselves, are independent samples
    chance = chance_alike(nearest_class(means, _features(subject, run.final)))
    measured = crossing(ratio, share, (1 + chance) / 2)
    return Speciation(predicted, measured, ratio, share, low, high, chance, kind, settings.nudge)


def _two(
    denoise: Denoiser, states: tuple[Tensor, NoiseLevel, tuple[int, ...]], settings: Settings, callback: Callback
) -> Tensor:
    """Where two clones of states [B, D] at the first of the levels end, for seeds: [2, B, D]."""
    if settings.nudge:
        return nudge(denoise, *states, settings.nudge, find_solver(settings.solver), callback)
    return clone(denoise, *states, callback)


def clone_at(level: NoiseLevel, about: float, count: int) -> list[int]:
    """Places of a grid whose ratios are nearest to ``count`` from four times a ratio to a twentieth of it.

    A sixth of the steps is left from there, and two at least: the last one adds no noise, and clones would be equal.
    """
    steps = len(level) - 1
    usable = [i for i in range(steps + 1 - max(2, steps // 6)) if math.isfinite(float(level.ratio[i]))]
    logs = level.ratio[torch.tensor(usable)].log()
    wanted = torch.linspace(math.log(4 * about), math.log(about / 20), count, dtype=torch.float64)
    return [usable[i] for i in sorted({int((logs - value).abs().argmin()) for value in wanted})]


def find_classes(subject: ModelAndData) -> tuple[str, Tensor]:
    """What a class is, in words, and the means [K, F] that stand for the classes."""
    chosen = torch.randperm(len(subject.rows), generator=torch.Generator().manual_seed(0))[:_FOR_MEANS]
    labels = with_labels(subject.data) if subject.data.labels is not None else cluster(subject.rows, 10)
    kind = "class" if subject.data.labels is not None else "k-means cluster"
    space = "of the numbers" if subject.features is None else f"in the features of {subject.features.name}"
    return f"the nearest mean of a {kind}, {space}", class_means(
        _features(subject, subject.rows[chosen]), labels[chosen]
    )


def _features(subject: ModelAndData, rows: Tensor) -> Tensor:
    return rows if subject.features is None else subject.features_of(rows)


def collapse(
    subject: ModelAndData,
    counts: tuple[int, ...],
    predicted: tuple[float, ...],
    settings: Settings,
    progress: Progress = silent,
) -> Collapse:
    """The perplexity of the exact posterior at noised held-out images, by number of data points and level."""
    assert subject.held is not None
    first, last = 4 * max(speciation_ratio(subject.gaussian), *predicted), min(predicted) / 4
    ratio = torch.logspace(math.log10(first), math.log10(last), settings.fine, dtype=torch.float64)
    held, generator = subject.held.rows, torch.Generator().manual_seed(0)
    order = torch.randperm(len(subject.rows), generator=generator)
    noise = torch.randn(held.shape, generator=generator, dtype=torch.float64)
    advance, found = progress("weighing the data", len(ratio)), []
    for value in ratio:
        level = NoiseLevel(torch.ones_like(value), value)
        found.append(posterior_entropy(subject.rows, held + value * noise, level, counts, order))
        advance()
    entropy = torch.stack(found, 1)
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


def describe(settings: Settings, subject: ModelAndData, seconds: float) -> dict[str, Any]:
    """Who, what, and from which data, in JSON types."""
    assert subject.held is not None
    return subject.described(settings.solver, settings.steps) | {
        "held_out": subject.held.source,
        "gaussian": subject.about["Gaussian"],
        "seeds": list(settings.seeds),
        "seconds": round(seconds, 1),
    }


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


def _found(where: str, ratio: float) -> str:
    return "at none of the levels looked at" if math.isnan(ratio) else f"{where} σ/α {ratio:.3g}"
