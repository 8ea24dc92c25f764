"""The network against the closed forms: denoisers, hybrids, quality, and nudges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...analysis import agreement, geometry
from ...analysis.perturbation import Perturbation, perturb
from ...analysis.retrieval import nearest
from ...analysis.summary import Summary, by_group
from ...keeping import Keep, make_only
from ...noise import NoiseLevel
from ...progress import Progress, Whole
from ...sampling.solvers import dpmpp_2m, find_solver
from ...sampling.teleport import respend, teleport
from ...sampling.trajectory import Trajectory, initial_noise
from ...theory.denoiser import Denoiser
from ..shared.model_and_data import ModelAndData
from ..shared.results import picture, quantity
from .settings import Settings
from .trajectories import spread_components

#: Seeds of hybrids and of nudges, and steps of the grid that Fréchet distances are measured on.
_SHOWN, _NUDGED, _STEPS = 16, 8, 20


@dataclass(frozen=True, eq=False)
class Agreement:
    """Figure 4: the analytic denoisers against the network, on its states and from the same start."""

    level: NoiseLevel = quantity()
    explained: dict[str, Tensor] = quantity("explained variance of the denoised image about the data mean, by level")
    signal: Tensor = quantity("mean square of the network's denoised image about the data mean, by level")
    exact_explained: Tensor = quantity("explained variance of the exact denoiser by the Gaussian, by level")
    exact_signal: Tensor = quantity("mean square of the exact denoised image about the data mean, by level")
    gaussian_angle: Summary = quantity("degrees between x_0 and x_T of the Gaussian's flow")
    score_explained: dict[str, Tensor] = quantity("explained variance of the score, by level")
    state_error: dict[str, Summary] = quantity("mean square of x_t against the network's, by level")
    estimate_error: dict[str, Summary] = quantity("mean square of x0-hat against the network's, by level")
    retrieved: Summary = quantity("distance of final samples to the nearest data point, root mean square per pixel")
    retrieved_exact: Summary = quantity("the same for the exact score's samples")
    shares: dict[str, Tensor] = picture()
    exact_shares: Tensor = picture()
    strips: dict[str, Tensor] = picture()
    finals: dict[str, Tensor] = picture()
    neighbours: Tensor = picture()


@dataclass(frozen=True, eq=False)
class Hybrid:
    """Figure 4: teleport, then the network, in the *saved* accounting on the report's own grid."""

    skip: tuple[int, ...] = quantity("steps")
    ratio: Tensor = quantity("sigma/alpha landed on")
    nfe: tuple[int, ...] = quantity("calls of the network for each sample")
    error: Summary = quantity("mean square of the final image against plain sampling, by skip")
    finals: Tensor = picture()


@dataclass(frozen=True, eq=False)
class Frechet:
    """Figure 4: Fréchet distance against skipped steps."""

    features: str = quantity("feature space")
    samples: int = quantity("samples")
    solver: str = quantity("name")
    steps: int = quantity("steps of the grid")
    skip: tuple[int, ...] = quantity("steps")
    ratio: Tensor = quantity("sigma/alpha landed on")
    nfe: tuple[int, ...] = quantity("calls of the network for each sample, saved")
    saved: tuple[float, ...] = quantity("Fréchet distance to the test split")
    respent: tuple[float, ...] = quantity("Fréchet distance to the test split; empty unless asked for")
    baselines: dict[str, float] = quantity("Fréchet distance to the test split of as many samples")
    saved_left_out: Tensor = quantity("saved, without some of the samples, [group, skip]")


def measure_agreement(
    subject: ModelAndData, trajectory: Trajectory, settings: Settings, progress: Progress
) -> Agreement:
    """Each analytic denoiser at the network's states, and its own trajectory from the same start."""
    mean, level = subject.gaussian.mean, trajectory.level
    said, shares, score, states, estimates = {}, {}, {}, {}, {}
    strips, finals = {"network": trajectory.denoised[:, :4]}, {"network": trajectory.final}
    for name, denoise in subject.analytic().items():
        said[name] = agreement.along(trajectory, denoise)
        shares[name] = agreement.explained_shares(trajectory.denoised, said[name], mean)
        score[name] = agreement.score_explained_variance(trajectory, said[name])
        own = analytic_trajectory(subject, name, denoise, trajectory, settings, progress)
        states[name] = Summary.of(agreement.mean_squared_error(own.x, trajectory.x))
        estimates[name] = Summary.of(agreement.mean_squared_error(own.denoised, trajectory.denoised))
        strips[name], finals[name] = own.denoised[:, :4], own.final
    distance, index = nearest(subject.cloud.points, trajectory.final)
    exact_distance, _ = nearest(subject.cloud.points, finals["exact"])
    root = subject.model.dimension**0.5
    flow = torch.stack([trajectory.x[0], finals["Gaussian"]])  # an angle is one on any scale
    exact_shares = agreement.explained_shares(said["exact"], said["Gaussian"], mean)
    return Agreement(
        level=level,
        explained={name: share.mean(1) for name, share in shares.items()},
        signal=agreement.mean_squared_error(trajectory.denoised, mean).mean(1),
        exact_explained=exact_shares.mean(1),
        exact_signal=agreement.mean_squared_error(said["exact"], mean).mean(1),
        gaussian_angle=Summary.of(geometry.edge_angle(flow)),
        score_explained=score,
        state_error=states,
        estimate_error=estimates,
        retrieved=Summary.of(distance[:, 0] / root),
        retrieved_exact=Summary.of(exact_distance[:, 0] / root),
        shares=shares,
        exact_shares=exact_shares,
        strips=strips,
        finals=finals,
        neighbours=subject.cloud.points[index[:, 0]],
    )


def analytic_trajectory(
    subject: ModelAndData, name: str, denoise: Denoiser, trajectory: Trajectory, settings: Settings, progress: Progress
) -> Trajectory:
    """The Gaussian's flow in closed form; the others by the report's solver on its grid."""
    start, level = trajectory.x[0], trajectory.level
    if name != "Gaussian":
        return subject.sample(denoise, settings.seeds, level, find_solver(settings.solver), name, progress)
    x = torch.stack([subject.gaussian.flow(start, level[0], there) for there in level])
    denoised = torch.stack([subject.gaussian.denoise(*pair) for pair in zip(x[:-1], level[:-1], strict=True)])
    return Trajectory(x, denoised, level, 0)


def _skips(steps: int) -> tuple[int, ...]:
    """A tenth of the steps to eight."""
    return tuple(sorted({round(steps * share) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}))


def calls_of_hybrid(settings: Settings) -> int:
    """Calls of the network for one image that `measure_hybrid` makes."""
    return min(_SHOWN, len(settings.seeds)) * sum(settings.steps - skip for skip in _skips(settings.steps))


def measure_hybrid(
    subject: ModelAndData, trajectory: Trajectory, settings: Settings, progress: Progress, shown: int = _SHOWN
) -> Hybrid:
    """Final images for several skips on the report's grid, from the first seeds."""
    steps = settings.steps
    skips = _skips(steps)
    start, solver = trajectory.x[0, :shown], find_solver(settings.solver)
    advance = progress("hybrid samples", sum(steps - skip for skip in skips))
    runs = [
        teleport(subject.gaussian, subject.denoise, start, trajectory.level, k, solver, lambda *_: advance(), steps)
        for k in skips
    ]
    finals = torch.stack([run.final for run in runs])
    return Hybrid(
        skip=skips,
        ratio=trajectory.level.ratio[list(skips)],
        nfe=tuple(run.nfe * subject.calls for run in runs),
        error=Summary.of(agreement.mean_squared_error(finals, trajectory.final[:shown])),
        finals=finals,
    )


def _judged(subject: ModelAndData) -> bool:
    return subject.features is not None and subject.case.condition is None


def _calls_a_sample(steps: int, skips: Sequence[int], both: bool) -> int:
    return sum(steps - k for k in skips) + (steps * (len(skips) - 1) if both else 0)


def calls_of_frechet(subject: ModelAndData, count: int, both: bool) -> int:
    """Calls of the network for one image that `measure_frechet` makes."""
    return count * _calls_a_sample(_STEPS, range(0, _STEPS - 3, 2), both) if _judged(subject) else 0


def measure_frechet(
    subject: ModelAndData,
    count: int,
    both: bool,
    progress: Progress,
    keep: Keep = make_only,
    steps: int = _STEPS,
    batch: int = 100,
) -> Frechet | None:
    """Fréchet distance to the test split for several skips; None of no samples, where the box has no features for these
    data, or for one condition, which is not meant to give all of them. The features of each set of samples are kept."""
    features, gaussian, network, of = subject.features, subject.gaussian, subject.denoise, subject.frechet
    if features is None or not count or not _judged(subject):
        return None
    schedule = subject.model.schedule
    level = schedule.grid(steps)
    skips = tuple(range(0, steps - 3, 2))
    seeds = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    whole = Whole(progress, f"Fréchet distance, {count} samples", len(seeds) * _calls_a_sample(steps, skips, both))

    def samples(grid: NoiseLevel, skip: int) -> Tensor:
        starts = (initial_noise(part, subject.model.dimension, grid[0]) for part in seeds)
        runs = [
            teleport(gaussian, network, x, grid, skip, dpmpp_2m, lambda *_: whole.advance(), len(grid)).final
            for x in starts
        ]
        return subject.features_of(torch.cat(runs))

    def kept(what: str, grid: NoiseLevel, skip: int) -> Tensor:
        end = whole.done + len(seeds) * (len(grid) - 1 - skip)
        features = keep(f"features of {count} samples, {what}", partial(samples, grid, skip))
        whole.reach(end)
        return features

    def spent_again(skip: int) -> float:
        grid = respend(schedule, level, float(level.ratio[skip]))
        return subject.distance(kept(f"{skip} skipped, re-spent", grid, 1))

    found = [kept(f"{skip} skipped", level, skip) for skip in skips]
    return Frechet(
        features=features.name,
        samples=count,
        solver="dpmpp-2m",
        steps=steps,
        skip=skips,
        ratio=level.ratio[list(skips)],
        nfe=tuple(steps - k for k in skips),
        saved=tuple(subject.distance(part) for part in found),
        respent=tuple(map(spent_again, skips[1:])) if both else (),
        baselines={name: of(rows) for name, rows in _baselines(subject, count)},
        saved_left_out=without(found, subject) if count >= 8 else torch.empty(0, len(skips)),
    )


def _baselines(subject: ModelAndData, count: int) -> Iterator[tuple[str, Tensor]]:
    """So many rows of the data, and of the closed forms that can be sampled."""
    generator = torch.Generator().manual_seed(0)
    yield "training images", subject.rows[torch.randperm(len(subject.rows), generator=generator)[:count]]
    yield "mixture", subject.mixture.sample(count, generator)
    yield "Gaussian", subject.gaussian.sample(count, generator)


def without(features: Sequence[Tensor], subject: ModelAndData) -> Tensor:
    """Fréchet distances of several sets of features [N, F] from the same seeds, without some of these, [group, set]."""
    return by_group(lambda kept: torch.tensor([subject.distance(part[kept]) for part in features]), len(features[0]))


def _nudges(settings: Settings, subject: ModelAndData) -> tuple[list[int], list[int]]:
    """After which steps, and along which components."""
    steps = [round(settings.steps * share) for share in (0.1, 0.5, 0.8)]
    return steps, [int(k) for k in spread_components(len(subject.gaussian.eigenvalues))]


def calls_of_perturbation(settings: Settings, subject: ModelAndData) -> int:
    """Calls of the network for one image that `measure_perturbation` makes."""
    steps, components = _nudges(settings, subject)
    return _NUDGED * len(components) * sum(settings.steps - step for step in steps)


def measure_perturbation(
    subject: ModelAndData, trajectory: Trajectory, settings: Settings, progress: Progress
) -> Perturbation:
    """Nudge the first seeds early, in the middle and late, along components of large to small variance."""
    steps, components = _nudges(settings, subject)
    advance = progress("perturbations", sum(settings.steps - step for step in steps))
    rows = trajectory.rows(slice(0, _NUDGED))
    solver: Sequence[Any] = (find_solver(settings.solver), lambda *_: advance())
    return perturb(subject.denoise, rows, subject.gaussian, steps, components, 1.0, *solver)
