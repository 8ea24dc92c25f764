"""The statistics of a model where its data are not at hand: from its denoiser at high noise, and from its samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..bounds import MOST_ITEMS, SEEDS, check_seeds, integer
from ..noise import NoiseLevel
from ..sampling.solvers import Solver
from ..sampling.trajectory import initial_noise, sample
from ..theory.covariance import Covariance
from ..theory.denoiser import Denoiser, checked
from ..theory.gaussian import Gaussian
from ..theory.sums import Full, LowRank, Sums
from .own_samples import compare_with_samples

#: Columns beyond the rank that the subspace iteration carries, so that the last of the rank converge too.
_SPARE = 8
#: Random vectors for the trace.
_PROBES = 8

#: A symmetric operator on columns [D, K], float64.
Product = Callable[[Tensor], Tensor]


def fit_from_model(
    denoise: Denoiser,
    dimension: int,
    level: NoiseLevel,
    rank: int = 64,
    *,
    points: int = 4,
    sweeps: int = 4,
    agreement: float = 1.5,
    samples: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Gaussian:
    """Mean and leading covariance of what a denoiser was trained on, from its Jacobian at one level of high noise.

    For Gaussian data J = alpha Sigma (alpha^2 Sigma + sigma^2)^-1, symmetric, and an eigenvalue j of alpha J belongs to
    the variance (sigma/alpha)^2 j/(1 - j). The leading ones are found by randomised subspace iteration with products
    J v = [D(x + sigma v) - D(x - sigma v)]/(2 sigma), averaged over random states x; the variance of the other
    directions is their mean, from the trace (Hutchinson, outside the subspace). From the average D' over pairs
    alpha m +- sigma eps, the mean is D' + (alpha/sigma)^2 Sigma (D' - m), which for a Gaussian is exact for any m.

    At any noise, data have the covariance (sigma^2/alpha) E[J] + Cov[D]; the higher the noise, the less of it is in the
    second term, for which the Gaussian's is taken. Too high, and small variances drown in rounding: j is
    lambda/(lambda + (sigma/alpha)^2). A network's own error drowns them sooner: an error of one part in a thousand in
    its noise estimate is a variance of (sigma/alpha)^2/1000. So the variances that are found have to be those that the
    network states at half the ratio; `variances_along` gives them at any levels. And they have to be those of a few
    samples of the network, which `compare_with_samples` draws. A class or a prompt is fitted by its own denoiser,
    `Model.conditional`. Source: Halko, Martinsson & Tropp 2011 (subspace iteration).

    Args:
        dimension: D.
        level: alpha > 0, and sigma/alpha several times the largest standard deviation of the data; or several levels,
            of which the first is taken whose variances agree.
        rank: directions to find.
        points: pairs of states to average over.
        sweeps: iterations of the subspace.
        agreement: the factor up to which variances count as agreeing: those at the level and at half its ratio, in the
            mean over directions by their variance; and those of samples, which disagree where they are surely farther
            off. Where they are surely not 1, but within the factor, a warning says so.
        samples: of the network to compare with; 0 for none, as for a network that is good at high noise alone.

    Calls: 2 points (sweeps (rank + 8) + 10 + rank) rows a level, and 24 a sample. Memory: a few [rank + 8, D].

    Raises:
        ValueError: a level has no signal or no noise, the rank does not fit, the noise is too low (the denoiser hands
            on a direction of the state undiminished), or the variances of no level agree: the network cannot tell.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> network = gaussian  # or a model
        >>> found = up.fit_from_model(network, dimension=2, level=up.EDM()(20.0), rank=2)
        >>> found.eigenvalues.round(decimals=2)
        tensor([4.0000, 0.2500], dtype=torch.float64)
    """
    levels = [level] if level.alpha.ndim == 0 else list(level)
    if not all(at.alpha > 0 and at.sigma > 0 for at in levels):
        raise ValueError(f"The statistics are taken at levels with alpha > 0 and sigma > 0, got {level!r}.")
    integer(dimension, "dimension", 1, 2**40)
    if not 1 <= rank <= dimension:
        raise ValueError(f"rank must lie between 1 and the dimension {dimension}, got {rank}.")
    for value, what in ((rank, "rank"), (points, "number of points"), (sweeps, "number of sweeps")):
        integer(value, what, 1, MOST_ITEMS)
    integer(samples, "number of samples", 0, MOST_ITEMS)
    if samples == 1:
        raise ValueError("A variance needs at least 2 samples, got 1; 0 compares with none.")
    denoise, seen = checked(denoise), []
    for at in levels:
        noise = torch.randn(points, dimension, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device)
        found = _at_level(denoise, at, noise, rank, sweeps, seed)
        half = _along(denoise, found, NoiseLevel(at.alpha, at.sigma / 2), noise)
        why = f"{_few(found.eigenvalues)} at {float(at.ratio):.3g} and {_few(half)} at half of it"
        if _disagreement(found.eigenvalues, half) <= agreement:
            why = _samples_disagree(denoise, found, at, samples, agreement, seed)
            if not why:
                return found
        seen.append(why)
    raise ValueError(
        f"The network does not tell the covariance of its data: along the same directions it states the variances "
        f"{'; '.join(seen)} (in sigma/alpha). Take lower levels, or fit_from_samples."
    )


def _samples_disagree(
    denoise: Denoiser, found: Gaussian, level: NoiseLevel, samples: int, agreement: float, seed: int
) -> str:
    """What is wrong with variances found at a level beside those of a few samples; empty if nothing is."""
    if not samples:
        return ""
    if not float(level.ratio) > float(found.eigenvalues[0]) ** 0.5:
        return f"{_few(found.eigenvalues)} at {float(level.ratio):.3g}, less noise than the standard deviation they say"
    compared = compare_with_samples(denoise, found, level, samples, seed)
    words = f"{_few(found.eigenvalues)} at {float(level.ratio):.3g}, of which its own samples have {compared}"
    if compared.least_factor > agreement:
        return words
    if compared.least_factor > 1:
        warnings.warn(f"The network states the variances {words}: take them for no more than that.", stacklevel=3)
    return ""


def variances_along(denoise: Denoiser, gaussian: Gaussian, level: NoiseLevel, points: int = 4, seed: int = 0) -> Tensor:
    """The variances that a denoiser states at each level along the directions of a Gaussian, [L, R] float64.

    (sigma/alpha)^2 j/(1 - j) with j = alpha u^T J u, as in `fit_from_model`. Of a Gaussian's own denoiser they are the
    same at every level; how far they lie apart says how well the variances are known.

    Calls: 2 points R rows a level.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> level = up.EDM()(torch.tensor([10.0, 1.0]))
        >>> up.variances_along(gaussian, gaussian, level).round(decimals=2)
        tensor([[4.0000, 0.2500],
                [4.0000, 0.2500]], dtype=torch.float64)
    """
    made = torch.Generator().manual_seed(seed)
    noise = torch.randn(points, gaussian.dimension, generator=made, dtype=gaussian.mean.dtype).to(gaussian.mean.device)
    levels = [level] if level.alpha.ndim == 0 else list(level)
    with torch.no_grad():
        return torch.stack([_along(denoise, gaussian, at, noise) for at in levels])


def _at_level(denoise: Denoiser, level: NoiseLevel, noise: Tensor, rank: int, sweeps: int, seed: int) -> Gaussian:
    """`fit_from_model` at one level, with the states alpha m +- sigma of the rows of noise."""
    alpha, sigma, dimension = float(level.alpha), float(level.sigma), noise.shape[1]
    generator = torch.Generator().manual_seed(seed + 1)

    def average(centre: Tensor) -> Tensor:
        states = torch.cat([alpha * centre + sigma * noise, alpha * centre - sigma * noise])
        return denoise(states, level).mean(0)

    with torch.no_grad():
        centre = average(torch.zeros_like(noise[0]))
        if not bool(torch.isfinite(centre).all()):
            raise ValueError("The denoiser gave NaN or infinite values; check the model, and the level it is asked at.")
        product = _product(denoise, level, centre, noise)
        shares, basis = _leading(product, dimension, min(rank + _SPARE, dimension), sweeps, generator)
        rest = _rest(product, basis, generator)
        if not float(shares.max()) < 1:
            raise ValueError(
                f"At sigma/alpha = {sigma / alpha:.3g} the denoiser keeps {float(shares.max()):.3g} of a direction of "
                "the state, not less than 1: take a level of more noise."
            )
        covariance = Covariance(_variance(shares, level), basis.to(noise), float(_variance(rest, level))).truncate(rank)
        shifted = average(centre)
        mean = shifted + covariance.spectral(lambda v: v * (alpha / sigma) ** 2, (shifted - centre).unsqueeze(0))[0]
    return Gaussian(mean, covariance)


def _product(denoise: Denoiser, level: NoiseLevel, centre: Tensor, noise: Tensor) -> Product:
    """alpha J V for V [D, K] in float64, averaged over states about alpha ``centre``, one at a time."""
    alpha, sigma = float(level.alpha), float(level.sigma)

    def product(columns: Tensor) -> Tensor:
        steps, moved = sigma * columns.T.to(noise), torch.zeros_like(columns)
        for eps in noise:
            state = alpha * centre + sigma * eps
            moved += (denoise(state + steps, level) - denoise(state - steps, level)).T.to(moved)
        return alpha / (2 * sigma * len(noise)) * moved

    return product


def _along(denoise: Denoiser, gaussian: Gaussian, level: NoiseLevel, noise: Tensor) -> Tensor:
    """The variances that a denoiser states at one level along a Gaussian's directions, [R] float64."""
    basis = (torch.eye(len(gaussian.eigenvalues)).to(gaussian.mean) @ gaussian.covariance.basis.T).T.double()
    with torch.no_grad():
        moved = _product(denoise, level, gaussian.mean.to(noise), noise)(basis)
    return _variance((basis * moved).sum(0), level)


def _variance(share: Tensor | float, level: NoiseLevel) -> Tensor:
    """The variance whose eigenvalue of alpha J is ``share``; that of none where it is negative."""
    share = torch.as_tensor(share, dtype=torch.float64).clamp(0, 1 - 1e-12)
    return level.ratio.to(share) ** 2 * share / (1 - share)


def _disagreement(found: Tensor, other: Tensor) -> float:
    """The factor between variances, either way, in the geometric mean by the variance found."""
    found, other = found.double().cpu(), other.double().cpu()
    if not float(found.sum()) > 0:
        return math.inf
    logs = (found.clamp(min=1e-30).log() - other.clamp(min=1e-30).log()).abs()
    return math.exp(min(700.0, float((found * logs).sum() / found.sum())))


def _few(values: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values[:3].tolist())


def _leading(
    product: Product, dimension: int, width: int, sweeps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The leading eigenvalues [width], descending, and eigenvectors [D, width] of a symmetric operator, float64."""
    image = torch.randn(dimension, width, generator=generator, dtype=torch.float64)
    for _ in range(sweeps):
        basis = torch.linalg.qr(image).Q
        image = product(basis)
    small = basis.T @ image
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    return values.flip(0).clamp(min=0), basis @ vectors.flip(1)


def _rest(product: Product, basis: Tensor, generator: torch.Generator) -> float:
    """The mean eigenvalue outside a basis, by Hutchinson's estimate of the trace there."""
    dimension, width = basis.shape
    if width == dimension:
        return 0.0
    probes = torch.randint(2, (dimension, _PROBES), generator=generator).double() * 2 - 1
    probes = (probes - basis @ (basis.T @ probes)) / dimension**0.5
    trace = dimension * (probes * product(probes)).sum(0).mean()
    return max(0.0, float(trace)) / (dimension - width)


def fit_from_samples(
    denoise: Denoiser,
    dimension: int,
    level: NoiseLevel,
    count: int,
    rank: int | None = None,
    *,
    solver: Solver | None = None,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Gaussian:
    """Mean and covariance of a model's own samples, drawn along a grid from seeds ``seed`` .. ``seed + count - 1``.

    With a rank nothing of the size D x D is made; see `LowRank`. A covariance of few samples is noisy along its leading
    directions and has nothing beyond ``count - 1``.

    Raises:
        ValueError: fewer than two samples.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.ones(2), variance=0.25)
        >>> found = up.fit_from_samples(gaussian, 2, up.EDM().grid(steps=10), count=500)
        >>> bool((found.mean - 1).abs().max() < 0.1)
        True
    """
    if count < 2:
        raise ValueError(f"A covariance needs at least 2 samples, got {count}.")
    integer(count, "number of samples", 2, MOST_ITEMS)
    check_seeds(range(integer(seed, "seed", 0, SEEDS - 1), seed + count))
    if rank is not None:
        integer(rank, "rank", 1, dimension)
    sums: Sums | None = None
    for start in range(seed, seed + count, batch):
        noise = initial_noise(range(start, min(start + batch, seed + count)), dimension, level[0]).to(device)
        rows = sample(denoise, noise, level, solver, every=len(level)).final.cpu()
        if sums is None:
            sums = Sums(Full(dimension) if rank is None else LowRank(dimension, rank), rows.mean(0))
        sums.add(rows)
    assert sums is not None  # count >= 2
    return Gaussian(sums.mean.float(), sums.covariance())
