"""The network on its own: the shape of its paths, the components along them, and what a condition changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...analysis import agreement, emergence, geometry
from ...analysis.summary import Summary, by_group
from ...noise import NoiseLevel
from ...progress import Progress
from ...sampling.solvers import find_solver
from ...sampling.trajectory import Trajectory
from ...theory import modes
from ..shared.model_and_data import ModelAndData
from ..shared.request import Conditioning, find_denoiser, network_calls
from ..shared.results import picture, quantity
from .settings import Settings

#: Seeds that each of several conditions is run from.
COMPARED = 16


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
    half_left_out: Tensor = quantity("sigma/alpha at half variance without some of the seeds, [group, component]")
    seeds: int = quantity("seeds")


@dataclass(frozen=True, eq=False)
class Conditions:
    """The same noise under each condition and guidance weight: geometry, and what was painted."""

    cases: tuple[str, ...] = quantity("condition and guidance")
    nfe: tuple[int, ...] = quantity("calls of the network for each sample")
    geometry: tuple[Geometry, ...] = quantity()
    gaussian_error: tuple[Summary, ...] = quantity("mean square of x_t against the data's Gaussian flow, by level")
    strips: Tensor = picture()
    finals: Tensor = picture()


def measure_geometry(trajectory: Trajectory, lags: tuple[int, ...] = (1, 2, 5, 10)) -> Geometry:
    """Of the run in variance-preserving form, whatever its schedule."""
    trajectory = trajectory.preserving
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


def mode_curves(subject: ModelAndData, trajectory: Trajectory, points: int = 200, shown: int = 8) -> Modes:
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


def measure_emergence(subject: ModelAndData, trajectory: Trajectory, count: int = 100) -> Emergence:
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
    seeds = trajectory.denoised.shape[1]

    def without(kept: Tensor) -> Tensor:
        shares = emergence.feature_shares(trajectory.denoised[:, kept], subject.gaussian, count)
        return emergence.half_ratio(shares, level)

    others = by_group(without, seeds)
    return Emergence(level, measured, predicted_shares, half, predicted, correlation, slope, others, seeds)


def compare_cases(
    subject: ModelAndData, listed: Sequence[Conditioning], settings: Settings, progress: Progress, shown: int = 8
) -> Conditions | None:
    """Run each case from the report's first seeds; None where there is but one."""
    if len(listed) < 2:
        return None
    level, solver, seeds = subject.model.schedule.grid(settings.steps), find_solver(settings.solver), settings.seeds
    runs = []
    for case in listed:
        denoise = find_denoiser(subject.model, case)
        runs.append(subject.sample(denoise, seeds[:COMPARED], level, solver, str(case)[:34], progress))
    flow = torch.stack([subject.gaussian.flow(runs[0].x[0], level[0], there) for there in level])
    return Conditions(
        cases=tuple(str(case) for case in listed),
        nfe=tuple(run.nfe * network_calls(subject.model, case) for run, case in zip(runs, listed, strict=True)),
        geometry=tuple(measure_geometry(run) for run in runs),
        gaussian_error=tuple(Summary.of(agreement.mean_squared_error(run.x, flow)) for run in runs),
        strips=torch.stack([run.denoised[:, 0] for run in runs]),
        finals=torch.stack([run.final[:shown] for run in runs]),
    )
