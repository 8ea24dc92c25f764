"""Which training images a sample resembles on its way, and whether a model has learnt them by heart."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..analysis.retrieval import apart_from, closeness, copy_distance, nearest, other_nearest, ranks, repeated
from ..analysis.summary import Summary
from ..bounds import MOST_ITEMS, check_several_seeds, integer
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..sampling.solvers import find_solver
from ..sampling.trajectory import Trajectory
from .shared.model_and_data import ModelAndData, Sources, load_model_and_data
from .shared.request import Conditioning
from .shared.results import picture, quantity

#: A sample whose nearest data point is nearer than this share of the distance to the second is a copy of it.
#: Source: Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize".
COPY = 1 / 3


@dataclass(frozen=True)
class Settings:
    """What to sample and to look up.

    ``label`` is a class, for models that know classes. ``seeds`` are followed on their way, the first ``shown`` of them
    drawn; the memorisation check takes ``samples`` final images, the seeds' own among them, and as many of the data.
    """

    sources: Sources = field(default_factory=Sources)
    label: int | None = None
    seeds: tuple[int, ...] = tuple(range(16))
    steps: int = 25
    solver: str = "dpmpp-2m"
    samples: int = 128
    shown: int = 4

    def __post_init__(self) -> None:
        check_several_seeds(self.seeds, "Retrieval")
        if self.samples < len(self.seeds):
            raise ValueError(f"The seeds are samples too: ask for at least {len(self.seeds)}, not {self.samples}.")
        integer(self.samples, "number of samples", 2, MOST_ITEMS)
        find_solver(self.solver)

    @property
    def every_seed(self) -> tuple[int, ...]:
        """Seeds of all samples, the followed ones first."""
        others = (seed for seed in range(self.samples + len(self.seeds)) if seed not in self.seeds)
        return (*self.seeds, *others)[: self.samples]


@dataclass(frozen=True, eq=False)
class Way:
    """The nearest data points of the endpoint estimates; distances are root mean squares per number."""

    distance: Summary = quantity("distance of x0-hat to its nearest data point, by level")
    rank: Summary = quantity("place of the last x0-hat's nearest data point in the order of distance, by level")
    final: Tensor = quantity("share of seeds whose nearest data point is that of the last x0-hat, by level")
    distinct: Summary = quantity("different nearest data points on the way of a seed")
    settled: Summary = quantity("sigma/alpha from which the nearest data point stays the same")
    index: Tensor = quantity("nearest data point, by its place in the data, [level, seed]")


@dataclass(frozen=True, eq=False)
class Memory:
    """Final images ("samples") beside images of the data ("data"), both against all *other* images of the data; those
    that are copies of each other, or nearly so, count as one."""

    distance: dict[str, Tensor] = quantity("distance to the nearest, root mean square per number, by image")
    ratio: dict[str, Tensor] = quantity(
        "distance to the nearest over that to the second nearest that differs, by image"
    )
    copies: dict[str, float] = quantity(f"share of images with a ratio below {COPY:.3g}")
    copied: tuple[int, ...] = quantity(f"seeds of samples with a ratio below {COPY:.3g}")
    closer: float = quantity(
        "probability that a sample is closer to the data than an image of the data is to the others"
    )
    closer_error: float = quantity("standard error of that, were it 0.5")
    repeated: int = quantity("images of the data that are another one again, number by number")
    alike: float = quantity("share of images of the data, of those looked at, with another one nearer than apart")
    apart: float = quantity("distance below which two images of the data count as one, root mean square per number")


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Everything that the figures show.

    Pictures [..., C, H, W]: endpoint estimates of some seeds at some times and their neighbours [T, S]; the samples of
    smallest ratio and their neighbours [S].
    """

    setup: dict[str, Any]
    level: NoiseLevel = quantity()
    way: Way = quantity("see fields")
    memory: Memory = quantity("see fields")
    times: Tensor = picture()
    estimates: Tensor = picture()
    neighbours: Tensor = picture()
    suspects: Tensor = picture()
    originals: Tensor = picture()

    @property
    def finding(self) -> str:
        """Whether samples are copies, and how the nearest training image changes on the way."""
        memory, way = self.memory, self.way
        shares = {name: f"{100 * share:.3g} %" for name, share in memory.copies.items()}
        seeds = f" (seeds {', '.join(map(str, memory.copied))})" if memory.copied else ""
        return (
            f"{shares['samples']} of {len(memory.ratio['samples']):,} samples are copies of training images{seeds}; of "
            f"as many images of the data, {shares['data']} are copies of others. (An image counts as a copy if the "
            f"nearest training image is at most {COPY:.3g} times as far as the nearest one that differs from it.) "
            f"{_duplicates(memory)}A sample is closer to the data than an image of the data is to the others with "
            f"probability {memory.closer:.2f} (0.5 ± {memory.closer_error:.2f} if alike). On the way from noise to "
            f"image, the nearest training image changes {float(way.distinct.mean) - 1:.1f} times on average, for the "
            f"last time at σ/α {float(way.settled.mean):.3g}. The image that is nearest in the end ranked number "
            f"{float(way.rank.mean[0]):,.0f} at the start."
        )


def retrieve(settings: Settings, progress: Progress = silent) -> Retrieval:
    """Sample, look up the nearest training images on the way, and check final images for copies.

    Raises:
        ValueError: as `load_model_and_data`, or data of fewer than three images.
    """
    began = time.monotonic()
    subject = load_model_and_data(settings.sources, case=Conditioning(settings.label), progress=progress)
    if len(subject.rows) < 3:
        raise ValueError(f"A second nearest image needs at least 3 images, got {len(subject.rows)}.")
    grid, solver = subject.model.schedule.grid(settings.steps), find_solver(settings.solver)
    run = subject.sample(subject.denoise, settings.seeds, grid, solver, "sampling", progress)
    finals, seeds = run.final, settings.every_seed
    if len(seeds) > len(finals):
        others = seeds[len(finals) :]
        more = subject.sample(subject.denoise, others, grid, solver, "more samples", progress, every=settings.steps)
        finals = torch.cat([finals, more.final])
    way = follow(subject.rows, run)
    memory, index = remember(subject.rows, finals, seeds)
    suspects = memory.ratio["samples"].argsort()[:12]
    times = torch.linspace(0, len(run) - 1, min(12, len(run))).round().long()
    return Retrieval(
        setup=describe(settings, subject, time.monotonic() - began),
        level=run.level[:-1],
        way=way,
        memory=memory,
        times=times,
        estimates=subject.images(run.denoised[times][:, : settings.shown]),
        neighbours=subject.images(subject.rows[way.index[times][:, : settings.shown]]),
        suspects=subject.images(finals[suspects]),
        originals=subject.images(subject.rows[index[suspects]]),
    )


def follow(rows: Tensor, run: Trajectory) -> Way:
    """The nearest of the data rows to every endpoint estimate of a trajectory."""
    steps, seeds, dimension = run.denoised.shape
    estimates = run.denoised.flatten(0, 1)
    distance, index = (found[:, 0].view(steps, seeds) for found in nearest(rows, estimates))
    place = ranks(rows, estimates, index[-1].repeat(steps)).view(steps, seeds)
    last = index == index[-1]
    # the first step after which it is never another
    first = torch.where(last, 0, torch.arange(1, steps + 1).unsqueeze(1)).amax(0)
    return Way(
        distance=Summary.of(distance / dimension**0.5),
        rank=Summary.of(place),
        final=last.double().mean(1),
        distinct=Summary.of(torch.tensor([len(column.unique()) for column in index.T])),
        settled=Summary.of(run.level.ratio[first]),
        index=index,
    )


def remember(rows: Tensor, finals: Tensor, seeds: tuple[int, ...]) -> tuple[Memory, Tensor]:
    """Distances of samples [S, D] to their two nearest distinct data rows beside those between data rows, and which row
    is the nearest, [S].

    A copy of a picture that is twice in the data is as near to the second as to the first: so the second neighbour is
    the nearest that differs from the first.
    """
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: len(seeds)]
    apart = copy_distance(rows)
    first, index = (found[:, 0] for found in nearest(rows, finals))
    second, _ = apart_from(rows, finals, index.unsqueeze(1), apart)
    found = {"samples": torch.stack([first, second], 1), "data": other_nearest(rows, chosen, 2, apart)}
    ratio = {name: pair[:, 0] / pair[:, 1].clamp(min=1e-300) for name, pair in found.items()}
    closer, error = closeness(found["samples"][:, 0], found["data"][:, 0])
    root = rows.shape[1] ** 0.5
    memory = Memory(
        distance={name: pair[:, 0] / root for name, pair in found.items()},
        ratio=ratio,
        copies={name: float((values < COPY).double().mean()) for name, values in ratio.items()},
        copied=tuple(seed for seed, value in zip(seeds, ratio["samples"].tolist(), strict=True) if value < COPY),
        closer=closer,
        closer_error=error,
        repeated=repeated(rows),
        alike=float((other_nearest(rows, chosen)[:, 0] < apart).double().mean()),
        apart=apart / root,
    )
    return memory, index


def describe(settings: Settings, subject: ModelAndData, seconds: float) -> dict[str, Any]:
    """Who, what, and from which data, in JSON types."""
    return subject.described(settings.solver, settings.steps) | {
        "seeds": list(settings.every_seed),
        "followed": len(settings.seeds),
        "seconds": round(seconds, 1),
    }


def _duplicates(memory: Memory) -> str:
    """A sentence on copies among the data themselves, if there are any."""
    if not memory.repeated and not memory.alike:
        return ""
    looked = f"{100 * memory.alike:.3g} % of {len(memory.distance['data'])} looked at"
    return (
        f"The data repeat themselves: {memory.repeated:,} images are another one again, and {looked} have another one "
        f"nearer than {memory.apart:.3g}. Such count as one here. "
    )
