"""Gaussian data N(mu, Sigma): denoiser, score, and the probability flow in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..bounds import a, integer, number
from ..devices import Device, Dtype, find_device, find_dtype
from ..noise import NoiseLevel
from . import modes
from .covariance import Covariance
from .denoiser import check_states, check_weight
from .moments import Moments, check_rows
from .shrinkage import shrink


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean [D], covariance). Rows keep their dtype and device, which must be those of the basis (see `to`).

    Source: WV23, eqs. for the denoiser, the solution of the probability-flow ODE and the endpoint estimate; checked
    against Pierret24. Directions outside the basis have the residual variance; 0 there is the setting of the paper.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> rows = noise * torch.tensor([2.0, 1.0, 0.1])
        >>> gaussian = up.Gaussian.fit(rows, rank=2)
        >>> gaussian
        Gaussian(dimension 3, rank 2, total variance 5.12)
        >>> here, there = up.EDM()(80.0), up.NoiseLevel.clean()
        >>> gaussian.flow(torch.ones(1, 3), here, there).shape
        torch.Size([1, 3])
    """

    mean: Tensor
    covariance: Covariance

    def __post_init__(self) -> None:
        if self.mean.shape != (self.covariance.dimension,):
            raise ValueError(f"The mean has shape {tuple(self.mean.shape)}, expected ({self.covariance.dimension},).")
        if not self.mean.is_floating_point():
            raise ValueError(f"The mean of a Gaussian is of a floating-point dtype, got {self.mean.dtype}.")
        if not bool(torch.isfinite(self.mean).all()):
            raise ValueError("The mean of a Gaussian is finite, but this one holds NaN or infinities.")

    def __repr__(self) -> str:
        return repr(self.covariance).replace("Covariance", "Gaussian")

    @staticmethod
    def fit(
        data: Tensor | Moments | Iterable[Tensor], rank: int | None = None, dtype: Dtype = torch.float32
    ) -> Gaussian:
        """Fit mean and covariance to rows [N, D], batches of rows, or moments.

        With ``rank`` the leading directions are kept and the rest get their mean variance. N rows have no variance in
        more than N - 1 directions, and no others are kept; see `shrunk` for what that means for few rows. Moments are
        taken and eigendecomposed in float64, once: O(D^3), or O(N^2 D) for no more rows than dimensions. The basis is
        kept in ``dtype``.
        """
        kept = find_dtype(dtype) or torch.float32
        if isinstance(data, Tensor) and 2 <= len(check_rows(data)) <= data.shape[1]:
            rows = data.detach().cpu()
            mean = rows.double().mean(0)
            return Gaussian(mean.to(kept), Covariance.of_rows(rows, mean, rank, kept))
        moments = data if isinstance(data, Moments) else Moments.of(data)
        covariance = Covariance.of(moments.covariance, rank, kept, most=moments.count - 1)
        return Gaussian(moments.mean.to(kept), covariance)

    @staticmethod
    def isotropic(mean: Tensor, variance: float) -> Gaussian:
        """N(mean [D], variance * I)."""
        if mean.ndim != 1:
            raise ValueError(f"A mean has the shape [D], got {tuple(mean.shape)}.")
        return Gaussian(mean, Covariance.isotropic(len(mean), variance, mean.dtype).to(mean.device))

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @property
    def eigenvalues(self) -> Tensor:
        """Variances along the basis, [R] float64, descending when fitted."""
        return self.covariance.eigenvalues

    @property
    def basis(self) -> Tensor:
        """Orthonormal directions [D, R]."""
        return self.covariance.basis

    def to(self, device: Device | None = None, dtype: Dtype | None = None) -> Gaussian:
        """On a device and in a dtype, each as torch has it or by its name."""
        there, kept = find_device(device), find_dtype(dtype)
        mean, covariance = self.mean.to(device=there, dtype=kept), self.covariance.to(there, kept)
        return self if mean is self.mean and covariance is self.covariance else Gaussian(mean, covariance)

    def shrunk(self, count: int) -> Gaussian:
        """With the eigenvalues shrunk to what they probably are, if this was fitted to ``count`` rows; see `shrink`."""
        return replace(self, covariance=shrink(self.covariance, count))

    def truncate(self, rank: int) -> Gaussian:
        """Keep the leading directions; see `Covariance.truncate`."""
        return replace(self, covariance=self.covariance.truncate(rank))

    def _centred(self, x: Tensor, level: NoiseLevel) -> Tensor:
        check_states(x, self.dimension)
        if x.device != self.mean.device:
            raise ValueError(
                f"Rows are on {x.device}, the Gaussian on {self.mean.device}; move it with .to({str(x.device)!r})."
            )
        return x - level.columns(x)[0] * self.mean.to(x.dtype)

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """Denoise: a Gaussian is a `Denoiser`."""
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] = mu + sum_k alpha lambda_k/(alpha^2 lambda_k + sigma^2) u_k u_k^T (x - alpha mu), rows [B, D]."""
        rows = self._centred(x, level)
        return self.mean.to(x.dtype) + self.covariance.spectral(lambda v: modes.shrinkage(v, level), rows)

    def score(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """Gradient of log p(x) at the level: -(alpha^2 Sigma + sigma^2)^-1 (x - alpha mu). Finite at alpha = 0; needs
        sigma > 0 where a direction has no variance."""
        alpha, sigma = level.alpha.unsqueeze(-1), level.sigma.unsqueeze(-1)
        return self.covariance.spectral(lambda v: -1 / (alpha**2 * v + sigma**2), self._centred(x, level))

    def flow(self, x: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
        """Exact solution of the probability-flow ODE from here to there: alpha' mu + psi(Sigma) (x - alpha mu)."""
        rows = self._centred(x, here)
        moved = self.covariance.spectral(lambda v: modes.psi(v, here, there), rows)
        return there.columns(x)[0] * self.mean.to(x.dtype) + moved

    def transition(
        self,
        x: Tensor,
        here: NoiseLevel,
        there: NoiseLevel,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One exact step of the SDE with the marginals of the forward process, of strength eta, from here to there:
        x' = alpha' mu + psi c^(eta^2)(Sigma) (x - alpha mu) + noise of variance (alpha'^2 Sigma + sigma'^2)
        (1 - c^(2 eta^2)), with psi of `flow` and c the correlation of both states (`modes.transition`).

        A step to less noise is of the reverse SDE, one to more noise of the forward process; eta = 0 is `flow`. States
        of N(alpha mu, alpha^2 Sigma + sigma^2 I) stay distributed so at every level for any eta, and two steps are
        one. Two products with the basis for the mean and two for the noise, which is drawn on the device of x.

        Raises:
            ValueError: eta is no number from 0 to 1000.
        """
        if number(eta, "strength eta of the added noise", 0.0, 1e3) == 0:
            return self.flow(x, here, there)
        rows = self._centred(x, here)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        moved = self.covariance.spectral(lambda v: modes.transition(v, here, there, eta)[0], rows)
        added = self.covariance.spectral(lambda v: modes.transition(v, here, there, eta)[1].sqrt(), noise)
        return there.columns(x)[0] * self.mean.to(x.dtype) + moved + added

    def posterior(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """log density at the level [B] (float64) and denoised rows [B, D], sharing the projection on the basis.

        The squared norm outside the basis is taken of the difference itself, not as |y|^2 - |U^T y|^2, which would
        cancel.
        """
        cov = self.covariance
        alpha, sigma = level.alpha.unsqueeze(-1), level.sigma.unsqueeze(-1)
        centred = self._centred(x, level).to(cov.basis.dtype)
        coordinates = centred @ cov.basis
        variance = alpha**2 * cov.eigenvalues + sigma**2
        total = alpha**2 * cov.spectrum + sigma**2
        if not bool((total > 0).all()):
            raise ValueError("Without noise there is no density along directions of no variance; ask at sigma > 0.")
        squared = (coordinates.double().square() / variance.to(x.device)).sum(1)
        pulled = (coordinates * modes.shrinkage(cov.eigenvalues, level).to(coordinates)) @ cov.basis.T
        if not cov.full:
            outside = centred - coordinates @ cov.basis.T
            rest = torch.tensor([cov.residual], dtype=torch.float64)
            variance = (alpha**2 * rest + sigma**2).squeeze(-1).to(x.device)
            squared = squared + outside.double().square().sum(1) / variance
            pulled = pulled + modes.shrinkage(rest, level).to(outside) * outside
        log_det = total.log().sum(-1).to(x.device)
        log_density = -0.5 * (squared + log_det + self.dimension * math.log(2 * math.pi))
        return log_density, self.mean.to(x.dtype) + pulled.to(x.dtype)

    def log_prob(self, x: Tensor, level: NoiseLevel | None = None) -> Tensor:
        """log density of rows [B, D] at a level (default: of the data). [B] float64."""
        return self.posterior(x, NoiseLevel.clean() if level is None else level)[0]

    def sample(self, count: int, generator: torch.Generator | None = None, level: NoiseLevel | None = None) -> Tensor:
        """``count`` rows of N(alpha mu, alpha^2 Sigma + sigma^2 I) at a level (default: of the data)."""
        level, count = NoiseLevel.clean() if level is None else level, integer(count, "number of rows", 0, 2**40)
        noise = torch.randn(count, self.dimension, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        alpha, sigma = level.alpha, level.sigma
        return alpha.to(noise) * self.mean + self.covariance.spectral(lambda v: (alpha**2 * v + sigma**2).sqrt(), noise)

    def coordinates(self, rows: Tensor) -> Tensor:
        """u_k^T (x0 - mu) of images [..., D]: [..., R]."""
        return (rows.to(self.mean.dtype) - self.mean) @ self.basis

    def rotation(self, x: Tensor, here: NoiseLevel, there: NoiseLevel) -> tuple[Tensor, Tensor]:
        """Split the flow's state at ``there`` into a rotation in the plane of start and end, and what that leaves out.

        Returns ``alpha' x0 + (sigma'/sigma) x`` and the exact correction, whose sum is ``flow(x, here, there)``. With
        alpha = 0 and sigma = 1 at the start the correction on mode k is sqrt(sigma'^2 + lambda alpha'^2) - alpha'
        sqrt(lambda) - sigma' times c_k: zero for lambda = 0, and nothing against the state for lambda to infinity.
        Source: WV23, section on rotation.
        """
        share = (there.sigma / here.sigma).unsqueeze(-1)
        alpha = here.alpha.unsqueeze(-1)
        rows = self._centred(x, here)
        clean = NoiseLevel.clean()
        plane = there.columns(x)[0] * self.flow(x, here, clean) + share.to(x) * x

        def left_out(v: Tensor) -> Tensor:
            return modes.psi(v, here, there) - there.alpha.unsqueeze(-1) * modes.psi(v, here, clean) - share

        correction = self.covariance.spectral(left_out, rows) - (share * alpha).to(x) * self.mean.to(x.dtype)
        return plane, correction


def check_gaussian(given: Gaussian) -> Gaussian:
    """What is given, if it is a Gaussian.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(given, Gaussian):
        raise ValueError(
            f"Expected a Gaussian of the data, got {a(type(given).__name__)}; Gaussian.fit, load_gaussian and "
            "fit_from_model make one."
        )
    return given


def guided_gaussian(uncond: Gaussian, cond: Gaussian, weight: float) -> Gaussian:
    """The Gaussian whose denoiser is D_u + w (D_c - D_u), for equal covariances: its mean is mu_u + w (mu_c - mu_u).

    Raises:
        ValueError: the covariances differ; then the guided ODE is linear but has no such closed form: use `guide`. Or
            the weight is beyond `check_weight`.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> anything = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> asked = up.Gaussian.isotropic(torch.ones(2), variance=1.0)
        >>> up.guided_gaussian(anything, asked, weight=3.0).mean
        tensor([3., 3.])
    """
    check_weight(weight)
    a, b = uncond.covariance, cond.covariance
    same = a is b or (
        a.residual == b.residual and torch.equal(a.eigenvalues, b.eigenvalues) and torch.equal(a.basis, b.basis)
    )
    if not same:
        raise ValueError(
            "Guidance has a closed form only for equal covariances; use guide(uncond, cond, weight) and integrate."
        )
    return Gaussian(uncond.mean + weight * (cond.mean - uncond.mean), a)
