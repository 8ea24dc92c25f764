"""The main job: hold a network's sampling against the closed-form theory. Computes; draws nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..analysis import agreement, emergence, geometry
from ..analysis.perturbation import Perturbation, perturb
from ..analysis.retrieval import nearest
from ..analysis.summary import Summary
from ..noise import NoiseLevel
from ..sampling.solvers import dpmpp_2m, find_solver
from ..sampling.teleport import respend, teleport
from ..sampling.trajectory import Trajectory, initial_noise
from ..theory import modes
from ..theory.denoiser import Denoiser
from .claims import Claim, judge
from .progress import Progress, silent
from .results import picture, quantity
from .subject import Subject, load_subject


@dataclass(frozen=True)
class Settings:
    """What to run: ``samples`` for each Fréchet distance, and whether the *re-spent* accounting is measured too."""

    model: str = "fashion-mnist"
    data: str | None = None
    seeds: tuple[int, ...] = tuple(range(64))
    steps: int = 51
    solver: str = "euler"
    samples: int = 300
    respent: bool = False

    def __post_init__(self) -> None:
        if len(self.seeds) < 8:
            raise ValueError(f"The report needs at least 8 seeds to measure spreads, got {len(self.seeds)}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("Seeds must differ from each other.")
        if self.steps < 12:
            raise ValueError(f"The report needs at least 12 steps to follow a trajectory, got {self.steps}.")
        if self.samples < 2:
            raise ValueError(f"A Fréchet distance needs at least 2 samples, got {self.samples}.")
        find_solver(self.solver)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Figure 1: how few directions a single trajectory uses, and how nearly it is a rotation."""

    needed: dict[str, Summary] = quantity("principal components for 99.9 % of the variance over time")
    shares: dict[str, Summary] = quantity("cumulative share of variance by number of components")
    plane_residual: Summary = quantity("share of |x_t|^2 outside span(x_0, x_T), by level")
    rotation_error: Summary = quantity("|x_t - alpha x_0 - sigma x_T|^2 / |x_t|^2, by level")
    rotation_error_squared: Summary = quantity("the same with alpha^2 for alpha, as in the authors' script")
    coordinates: Tensor = quantity("least-squares (a, b) of x_t = a x_0 + b x_T, [level, seed, 2]")
    lags: tuple[int, ...] = quantity("steps")
    difference_cosines: Summary = quantity("cosine of differences, by lag")
    edge_angle: Summary = quantity("degrees between x_0 and x_T")
    principal_coordinates: Tensor = quantity("first two principal coordinates of the first seeds, [seed, level, 2]")


@dataclass(frozen=True, eq=False)
class Modes:
    """Figures 2 and 3: closed forms for the model's schedule and the data's spectrum."""

    time: Tensor = quantity("schedule time")
    level: NoiseLevel = quantity()
    components: Tensor = quantity("index of the principal component")
    eigenvalues: Tensor = quantity("variance, pixels in [-1, 1]")
    spectrum: Tensor = quantity("variance of every component")
    psi: Tensor = quantity("[level, component]")
    xi: Tensor = quantity("[level, component]")
    xi_rate: Tensor = quantity("per unit of schedule time, [level, component]")
    gain: Tensor = quantity("[level, component]")
    state: Tensor = quantity("measured u_k.(x_t - alpha mu) of the first seeds, [level, seed, component]")
    estimate: Tensor = quantity("measured u_k.(x0-hat - mu) of the first seeds, [level, seed, component]")
    basis: Tensor = picture()


@dataclass(frozen=True, eq=False)
class Emergence:
    """Figure 3: when the principal components appear in the endpoint estimate."""

    level: NoiseLevel = quantity()
    measured: Tensor = quantity("variance over seeds as a share of its last value, [level, component]")
    predicted: Tensor = quantity("lambda/(lambda + ratio^2), [level, component]")
    measured_half: Tensor = quantity("sigma/alpha at half variance, by component")
    predicted_half: Tensor = quantity("sqrt(lambda), by component")
    rank_correlation: float = quantity("Spearman")
    slope: float = quantity("of log measured against log predicted")


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
    claims: tuple[Claim, ...]
    trajectory: Trajectory = picture()
    subject: Subject = picture()


def report(settings: Settings, progress: Progress = silent) -> Report:
    """Sample, measure, compare: everything behind `underpaint report`.

    Raises:
        ValueError: as `load_subject`, or settings that leave too little to measure.
    """
    began = time.monotonic()
    subject = load_subject(settings.model, settings.data, progress=progress)
    level = subject.model.schedule.grid(settings.steps)
    solver = find_solver(settings.solver)
    trajectory = subject.sample(subject.model, settings.seeds, level, solver, "network", progress)
    parts: dict[str, Any] = {
        "geometry": measure_geometry(trajectory),
        "modes": mode_curves(subject, trajectory),
        "emergence": measure_emergence(subject, trajectory),
        "agreement": measure_agreement(subject, trajectory, settings, progress),
        "hybrid": measure_hybrid(subject, trajectory, settings, progress),
        "frechet": measure_frechet(subject, settings.samples, settings.respent, progress),
        "perturbation": measure_perturbation(subject, trajectory, settings, progress),
    }
    setup = describe(settings, subject, trajectory, time.monotonic() - began)
    return Report(setup=setup, level=level, trajectory=trajectory, subject=subject, claims=judge(parts), **parts)


def describe(settings: Settings, subject: Subject, trajectory: Trajectory, seconds: float) -> dict[str, Any]:
    """Who, what and with which versions."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("underpaint", "torch", "diffusers", "numpy")}
    return {
        "model": subject.model.name,
        "shape": list(subject.model.shape),
        "data": subject.data.source,
        "denoisers": subject.about,
        "schedule": type(subject.model.schedule).__name__,
        "prediction": subject.model.prediction,
        "solver": settings.solver,
        "steps": settings.steps,
        "nfe": trajectory.nfe,
        "seeds": list(settings.seeds),
        "seconds": round(seconds, 1),
        "versions": packages | {"python": platform.python_version()},
    }


def measure_geometry(trajectory: Trajectory, lags: tuple[int, ...] = (1, 2, 5, 10)) -> Geometry:
    x = trajectory.x
    stacks = {"x": x, "difference": x.diff(dim=0), "eps": trajectory.eps}
    return Geometry(
        needed={name: Summary.of(geometry.components_needed(rows)) for name, rows in stacks.items()},
        shares={name: Summary.of(geometry.variance_shares(rows).cumsum(1)[:, :10], 0) for name, rows in stacks.items()},
        plane_residual=Summary.of(geometry.plane_residual(x)),
        rotation_error=Summary.of(geometry.rotation_error(x, trajectory.level)),
        rotation_error_squared=Summary.of(geometry.rotation_error(x, trajectory.level, squared=True)),
        coordinates=geometry.rotation_coordinates(x),
        lags=lags,
        difference_cosines=Summary.of(geometry.difference_cosines(x, lags)),
        edge_angle=Summary.of(geometry.edge_angle(x)),
        principal_coordinates=torch.stack([geometry.principal_plane(x[:, i])[0] for i in range(4)]),
    )


def mode_curves(subject: Subject, trajectory: Trajectory, points: int = 200, shown: int = 8) -> Modes:
    """Closed forms on a fine grid of times, and the network's own components for a few seeds."""
    gaussian, schedule = subject.gaussian, subject.model.schedule
    components = spread_components(len(gaussian.eigenvalues))
    values = gaussian.eigenvalues[components]
    first, last = (float(schedule.time(trajectory.level[i])) for i in (0, -2))
    times = torch.linspace(first, last, points, dtype=torch.float64)
    level = schedule(times)
    alpha = trajectory.level.alpha[:, None, None].to(trajectory.x)
    rows = trajectory.rows(slice(0, shown))
    # coordinates() takes away mu; the state's mean is alpha mu
    state = (rows.x - alpha * gaussian.mean) @ gaussian.basis[:, components]
    return Modes(
        time=times,
        level=level,
        components=components,
        eigenvalues=values,
        spectrum=gaussian.eigenvalues,
        psi=modes.psi(values, level[0], level),
        xi=modes.xi(values, level[0], level),
        xi_rate=modes.xi_rate(values, level[0], schedule, times),
        gain=modes.gain(values, level),
        state=state,
        estimate=gaussian.coordinates(rows.denoised)[..., components],
        basis=gaussian.basis[:, components].T,
    )


def spread_components(rank: int, count: int = 6) -> Tensor:
    """Indices of ``count`` components, evenly spaced in log rank over the leading third."""
    spaced = torch.logspace(0, torch.tensor(max(2.0, rank / 3)).log10().item(), count).round().long() - 1
    return spaced.unique().clamp(max=rank - 1).unique()


def measure_emergence(subject: Subject, trajectory: Trajectory, count: int = 100) -> Emergence:
    level = trajectory.level[:-1]
    values = subject.gaussian.eigenvalues[:count]
    measured = emergence.feature_shares(trajectory.denoised, subject.gaussian, count)
    half, predicted = emergence.half_ratio(measured, level), modes.emergence_ratio(values)
    # levels outside the grid cannot be measured: neither counts for the fit
    seen = torch.isfinite(half) & (predicted < level.ratio[0]) & (predicted > level.ratio[-1])
    x, y = predicted[seen].log(), half[seen].log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    predicted_shares = modes.emergence(values, level) ** 2
    correlation = emergence.rank_correlation(half, predicted)
    return Emergence(level, measured, predicted_shares, half, predicted, correlation, slope)


def measure_agreement(subject: Subject, trajectory: Trajectory, settings: Settings, progress: Progress) -> Agreement:
    """Each analytic denoiser at the network's states, and its own trajectory from the same start."""
    mean, level = subject.gaussian.mean, trajectory.level
    said, explained, score, states, estimates = {}, {}, {}, {}, {}
    strips, finals = {"network": trajectory.denoised[:, :4]}, {"network": trajectory.final}
    for name, denoise in subject.analytic().items():
        said[name] = agreement.along(trajectory, denoise)
        explained[name] = agreement.explained_variance(trajectory.denoised, said[name], mean)
        score[name] = agreement.score_explained_variance(trajectory, said[name])
        own = analytic_trajectory(subject, name, denoise, trajectory, settings, progress)
        states[name] = Summary.of(agreement.mean_squared_error(own.x, trajectory.x))
        estimates[name] = Summary.of(agreement.mean_squared_error(own.denoised, trajectory.denoised))
        strips[name], finals[name] = own.denoised[:, :4], own.final
    distance, index = nearest(subject.cloud.points, trajectory.final)
    exact_distance, _ = nearest(subject.cloud.points, finals["exact"])
    root = subject.model.dimension**0.5
    flow = torch.stack([trajectory.x[0], finals["Gaussian"]])
    return Agreement(
        level=level,
        explained=explained,
        signal=agreement.mean_squared_error(trajectory.denoised, mean).mean(1),
        exact_explained=agreement.explained_variance(said["exact"], said["Gaussian"], mean),
        exact_signal=agreement.mean_squared_error(said["exact"], mean).mean(1),
        gaussian_angle=Summary.of(geometry.edge_angle(flow)),
        score_explained=score,
        state_error=states,
        estimate_error=estimates,
        retrieved=Summary.of(distance[:, 0] / root),
        retrieved_exact=Summary.of(exact_distance[:, 0] / root),
        strips=strips,
        finals=finals,
        neighbours=subject.cloud.points[index[:, 0]],
    )


def analytic_trajectory(
    subject: Subject, name: str, denoise: Denoiser, trajectory: Trajectory, settings: Settings, progress: Progress
) -> Trajectory:
    """The Gaussian's flow in closed form; the others by the report's solver on its grid."""
    start, level = trajectory.x[0], trajectory.level
    if name != "Gaussian":
        return subject.sample(denoise, settings.seeds, level, find_solver(settings.solver), name, progress)
    x = torch.stack([subject.gaussian.flow(start, level[0], there) for there in level])
    denoised = torch.stack([subject.gaussian.denoise(*pair) for pair in zip(x[:-1], level[:-1], strict=True)])
    return Trajectory(x, denoised, level, 0)


def measure_hybrid(
    subject: Subject, trajectory: Trajectory, settings: Settings, progress: Progress, shown: int = 16
) -> Hybrid:
    """Final images for several skips on the report's grid, from the first seeds."""
    steps = settings.steps
    skips = tuple(sorted({round(steps * share) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}))
    start, solver = trajectory.x[0, :shown], find_solver(settings.solver)
    advance = progress("hybrid samples", sum(steps - skip for skip in skips))
    runs = [
        teleport(subject.gaussian, subject.model, start, trajectory.level, k, solver, lambda *_: advance())
        for k in skips
    ]
    finals = torch.stack([run.final for run in runs])
    return Hybrid(
        skip=skips,
        ratio=trajectory.level.ratio[list(skips)],
        nfe=tuple(run.nfe for run in runs),
        error=Summary.of(agreement.mean_squared_error(finals, trajectory.final[:shown])),
        finals=finals,
    )


def measure_frechet(
    subject: Subject, count: int, both: bool, progress: Progress, steps: int = 20, batch: int = 100
) -> Frechet | None:
    """Fréchet distance to the test split for several skips; None where the box has no features for these data."""
    features, reference, gaussian = subject.features, subject.reference, subject.gaussian
    if features is None or reference is None:
        return None
    level = subject.model.schedule.grid(steps)
    skips = tuple(range(0, steps - 3, 2))
    seeds = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    calls = sum(steps - k for k in skips) + (steps * (len(skips) - 1) if both else 0)
    advance = progress(f"Fréchet distance, {count} samples", len(seeds) * calls)

    def of(rows: Tensor) -> float:
        return features.score(rows, reference).value

    def distance(grid: NoiseLevel, skip: int) -> float:
        starts = (initial_noise(part, subject.model.dimension, grid[0]) for part in seeds)
        runs = [teleport(gaussian, subject.model, x, grid, skip, dpmpp_2m, lambda *_: advance()).final for x in starts]
        return of(torch.cat(runs))

    generator = torch.Generator().manual_seed(0)
    schedule = subject.model.schedule
    return Frechet(
        features=features.name,
        samples=count,
        solver="dpmpp-2m",
        steps=steps,
        skip=skips,
        ratio=level.ratio[list(skips)],
        nfe=tuple(steps - k for k in skips),
        saved=tuple(distance(level, k) for k in skips),
        respent=tuple(distance(respend(schedule, level, float(level.ratio[k])), 1) for k in skips[1:]) if both else (),
        baselines={
            "training images": of(subject.data.take(count).rows()),
            "mixture": of(subject.mixture.sample(count, generator)),
            "Gaussian": of(gaussian.sample(count, generator)),
        },
    )


def measure_perturbation(
    subject: Subject, trajectory: Trajectory, settings: Settings, progress: Progress
) -> Perturbation:
    """Nudge the first seeds early, in the middle and late, along components of large to small variance."""
    steps = [round(settings.steps * share) for share in (0.1, 0.5, 0.8)]
    components = [int(k) for k in spread_components(len(subject.gaussian.eigenvalues))]
    advance = progress("perturbations", sum(settings.steps - step for step in steps))
    rows = trajectory.rows(slice(0, 8))
    solver: Sequence[Any] = (find_solver(settings.solver), lambda *_: advance())
    return perturb(subject.model, rows, subject.gaussian, steps, components, 1.0, *solver)
