"""How one sample is painted: its states and estimates, its path, and when which components stand; beside the theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...analysis import emergence, geometry
from ...models.model import Model
from ...noise import DDPM, EDM, Flow, NoiseLevel, Schedule, spaced_ratios
from ...progress import Progress, silent
from ...sampling.trajectory import Trajectory, initial_noise
from ...theory import modes
from ...theory.denoiser import Denoiser
from ...theory.gaussian import Gaussian
from ..shared.request import Request, Sampler, describe, find_denoiser, network_calls, only
from ..shared.results import picture, quantity

#: Schedules to compare a model's own with, by name.
SCHEDULES: dict[str, Schedule] = {
    "DDPM, linear betas": DDPM(),
    "DDPM, scaled-linear betas": DDPM.stable_diffusion(),
    "DDPM, cosine": DDPM("cosine"),
    "EDM": EDM(),
    "rectified flow": Flow(),
}


@dataclass(frozen=True, eq=False)
class Bands:
    """When octaves of principal components (1, 2-3, 4-7, ...) of the finished picture stand in the estimate."""

    first: tuple[int, ...] = quantity("number of the first component, from 1")
    last: tuple[int, ...] = quantity("number of the last component")
    measured: Tensor = quantity("share of the finished band that stands in the network's x0-hat, [level, band]")
    predicted: Tensor = quantity("the same when each component has emerged as the Gaussian says, [level, band]")
    measured_half: Tensor = quantity("sigma/alpha at which half of the band stands")
    predicted_half: Tensor = quantity("the same in theory")
    rank_correlation: float = quantity("Spearman, of the half levels")
    features: Tensor = picture()


@dataclass(frozen=True, eq=False)
class Painting:
    """One sample on its way. ``bands`` and ``predicted`` are None where no statistics of the data are known."""

    setup: dict[str, Any]
    level: NoiseLevel = quantity()
    nfe: int = quantity("calls of the network")
    plane: dict[str, Tensor] = quantity("coordinates in the principal plane of the network's states, [level, 2]")
    plane_share: float = quantity("share of the states' variance over time in that plane")
    bands: Bands | None = quantity()
    states: Tensor = picture()
    changes: Tensor = picture()
    estimates: Tensor = picture()
    predicted: Tensor | None = picture()


def paint(sampler: Sampler, request: Request, progress: Progress = silent) -> Painting:
    """Sample one seed, and the theory from the same noise. Images are [level, C, H, W]: states (by their norm), what
    the step to each changed (stretched), and the endpoint estimates of the network and of the theory; the last
    estimates are the finished pictures.

    Memory: two trajectories and their images.

    Raises:
        ValueError: several seeds or conditions, or fewer than 2 steps.
    """
    case, model, level = only(request, sampler), sampler.model, sampler.level
    if len(request.seeds) != 1 or len(level) < 3:
        raise ValueError(
            f"A painting is of one seed, in 2 steps or more; got {len(request.seeds)} and {len(level) - 1}."
        )
    run = sampler.sample(find_denoiser(model, case), request.seeds, progress)
    theory, words = sampler.theory.nearest(case)
    foreseen = None if theory is None else foresee(sampler, theory, run.x[0])
    x, changes = run.x[:, 0], run.x[:, 0].diff(dim=0)
    stretched = changes / changes.abs().amax(1, keepdim=True).clamp(min=1e-12)
    return Painting(
        setup=describe(sampler, case, request.seeds) | {"predicted from": words},
        level=level,
        nfe=run.nfe * network_calls(model, case),
        plane=paths_in_plane(run, foreseen),
        plane_share=float(geometry.variance_shares(run.x)[0, :2].sum()),
        bands=None if sampler.theory.everything is None else measure_bands(model, run, sampler.theory.everything),
        states=model.images(x / level.norm.unsqueeze(1).to(x)),
        changes=model.images(torch.cat([stretched[:1], stretched])),
        estimates=model.images(estimates(run)),
        predicted=None if foreseen is None else model.images(estimates(foreseen)),
    )


def foresee(sampler: Sampler, theory: Denoiser, start: Tensor) -> Trajectory:
    """The trajectory of an affine denoiser from start states [B, D], on the sampler's grid."""
    x, level = sampler.predict(theory, start), sampler.level
    denoised = torch.stack([theory(*pair) for pair in zip(x[:-1], level[:-1], strict=True)])
    return Trajectory(x, denoised, level, 0)


def estimates(run: Trajectory) -> Tensor:
    """Endpoint estimates of the first sample, [N+1, D]; the last is the final state."""
    return torch.cat([run.denoised[:, 0], run.final[:1]])


def paths_in_plane(run: Trajectory, foreseen: Trajectory | None) -> dict[str, Tensor]:
    """The first sample's path, the theory's, and the rotation alpha x_0 + sigma eps, as coordinates [N+1, 2] in the
    principal plane of the path."""
    x = run.x[:, 0].double()
    own, basis = geometry.principal_plane(x)
    alpha, sigma = run.level.alpha.unsqueeze(1), run.level.sigma.unsqueeze(1)
    eps = (x[0] - alpha[0] * x[-1]) / sigma[0]
    others = {"rotation": alpha * x[-1] + sigma * eps}
    if foreseen is not None:
        others["Gaussian"] = foreseen.x[:, 0].double()
    return {"network": own} | {name: (path - x.mean(0)) @ basis for name, path in others.items()}


def octaves(rank: int) -> list[slice]:
    """Components 1, 2-3, 4-7, ... up to ``rank``, as slices from 0."""
    firsts = [2**i for i in range(rank.bit_length())]
    return [slice(first - 1, min(2 * first - 1, rank)) for first in firsts]


def settled(coordinates: Tensor, final: Tensor, bands: Sequence[slice]) -> Tensor:
    """1 - |c(t) - c|^2 / |c|^2 in each band, for coordinates c(t) [N, R] and their final values c [R]. [N, band]
    float64."""
    missing, size = (coordinates - final).double().square(), final.double().square()
    parts = [1 - missing[:, band].sum(1) / size[band].sum().clamp(min=1e-300) for band in bands]
    return torch.stack(parts, 1)


def measure_bands(model: Model, run: Trajectory, gaussian: Gaussian) -> Bands:
    """The first sample's bands. The theory's are those of the finished picture with each component attenuated to what
    has emerged of it, phi_k = sqrt(lambda/(lambda + ratio^2))."""
    level, values = run.level[:-1], gaussian.eigenvalues
    bands = octaves(len(values))
    coordinates, final = gaussian.coordinates(run.denoised[:, 0]), gaussian.coordinates(run.final[0])
    measured = settled(coordinates, final, bands)
    predicted = settled(modes.emergence(values, level).to(final) * final, final, bands)
    half, predicted_half = (emergence.half_ratio(shares, level) for shares in (measured, predicted))
    return Bands(
        first=tuple(band.start + 1 for band in bands),
        last=tuple(band.stop for band in bands),
        measured=measured,
        predicted=predicted,
        measured_half=half,
        predicted_half=predicted_half,
        rank_correlation=emergence.rank_correlation(half, predicted_half),
        features=draw_components(model, gaussian, [band.start for band in bands]),
    )


def draw_components(model: Model, gaussian: Gaussian, components: Sequence[int]) -> Tensor:
    """What components look like, about grey and each stretched to fill [0, 1]: [K, C, H, W].

    A pixel model's are pictures themselves; a latent one's are what two standard deviations to either side change.
    """
    rows = gaussian.basis[:, list(components)].T
    if model.autoencoder is None:
        return model.images(rows / rows.abs().amax(1, keepdim=True))
    moves = 2 * gaussian.eigenvalues[list(components)].sqrt().unsqueeze(1).to(rows) * rows
    change = model.images(gaussian.mean + moves) - model.images(gaussian.mean - moves)
    return 0.5 + 0.5 * change / change.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)


@dataclass(frozen=True)
class Curves:
    """Which closed forms to draw.

    Attributes:
        schedule: a name of `SCHEDULES`; None is the model's own.
        variance: the eigenvalue lambda that is looked at.
        at: the time that is looked at, as a share of the way from noise (0) to the image (1).
    """

    schedule: str | None = None
    variance: float = 1.0
    at: float = 0.5

    def __post_init__(self) -> None:
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise ValueError(f"Unknown schedule {self.schedule!r}; choose one of {', '.join(SCHEDULES)}.")
        if not 0 < self.variance < float("inf"):
            raise ValueError(f"A variance must be positive and finite, got {self.variance}.")
        if not 0 <= self.at <= 1:
            raise ValueError(f"The time is a share of the way, 0 to 1, got {self.at}.")


@dataclass(frozen=True, eq=False)
class ClosedForms:
    """psi, xi, d xi/dt and gain along a schedule, [level, variance], the first variance being the one looked at;
    ``spectrum`` and ``emerged`` are None where no statistics of the data are known."""

    schedule: str
    time: Tensor = quantity("schedule time")
    level: NoiseLevel = quantity()
    index: int = quantity("which of the levels is looked at")
    variance: Tensor = quantity("eigenvalue")
    psi: Tensor = quantity("state relative to its start")
    xi: Tensor = quantity("endpoint estimate relative to the start of the state")
    xi_rate: Tensor = quantity("per unit of schedule time")
    gain: Tensor = quantity("displacement of the final image for a unit of nudge")
    spectrum: Tensor | None = quantity("variance of each component of the data")
    emerged: Tensor | None = quantity("share of the data's variance in the endpoint estimate, by level")


def closed_forms(sampler: Sampler, curves: Curves | None = None, points: int = 160) -> ClosedForms:
    """The closed forms for a schedule: no network is called."""
    curves = curves or Curves()
    schedule = sampler.model.schedule if curves.schedule is None else SCHEDULES[curves.schedule]
    level = schedule.grid(points)[:-1]
    level = level[1:] if level.alpha[0] == 0 else level  # at alpha = 0 the rate is 0 times infinity
    time = schedule.time(level)
    variance = torch.tensor([curves.variance, 100.0, 10.0, 1.0, 0.1, 0.01, 0.001], dtype=torch.float64)
    everything = sampler.theory.everything
    spectrum = None if everything is None else everything.covariance.spectrum
    return ClosedForms(
        schedule=curves.schedule or f"that of {sampler.model.name}",
        time=time,
        level=level,
        index=round(curves.at * (len(level) - 1)),
        variance=variance,
        psi=modes.psi(variance, level[0], level),
        xi=modes.xi(variance, level[0], level),
        xi_rate=modes.xi_rate(variance, level[0], schedule, time),
        gain=modes.gain(variance, level),
        spectrum=spectrum,
        emerged=None if spectrum is None else (modes.emergence(spectrum, level) ** 2 @ spectrum) / spectrum.sum(),
    )


@dataclass(frozen=True, eq=False)
class Features:
    """What the Gaussian of the data paints from one seed, and which component it is just painting."""

    setup: dict[str, Any]
    level: NoiseLevel = quantity()
    component: tuple[int, ...] = quantity("number of the component with sqrt(lambda) nearest to sigma/alpha, from 1")
    variance: Tensor = quantity("its eigenvalue")
    estimates: Tensor = picture()
    components: Tensor = picture()


def paint_by_theory(sampler: Sampler, request: Request, shown: int = 9) -> Features:
    """The Gaussian's estimate of one seed's picture at ``shown`` levels, evenly spaced in log(sigma/alpha) from
    where next to nothing has emerged to where the components with 99 % of the variance have.

    Raises:
        ValueError: no statistics of the model's data are known.
    """
    case, model, gaussian = only(request, sampler), sampler.model, known_gaussian(sampler)
    values = gaussian.eigenvalues
    half, last = modes.emergence_ratio(values), int((values.cumsum(0) < 0.99 * values.sum()).sum())
    ratios = spaced_ratios(shown, min(4 * float(half[0]), float(sampler.level.ratio[0])), float(half[last]))
    level = model.schedule.level(ratios)
    start = initial_noise(request.seeds[:1], model.dimension, sampler.level[0])
    states = [(gaussian.flow(start, sampler.level[0], there), there) for there in level]
    nearest = [int((half.clamp(min=1e-12).log() - ratio.log()).abs().argmin()) for ratio in ratios]
    return Features(
        setup=describe(sampler, case, request.seeds[:1]),
        level=level,
        component=tuple(k + 1 for k in nearest),
        variance=values[nearest],
        estimates=model.images(torch.cat([gaussian.denoise(x, there) for x, there in states])),
        components=draw_components(model, gaussian, nearest),
    )


def known_gaussian(sampler: Sampler) -> Gaussian:
    """The Gaussian of all the model's data; ValueError where its statistics are not known."""
    if sampler.theory.everything is None:
        raise ValueError(
            f"No statistics of the data of {sampler.model.name} are known; take them with `underpaint stats`, and give "
            "the file with --gaussian."
        )
    return sampler.theory.everything
