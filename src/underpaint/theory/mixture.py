"""Mixtures of Gaussians: denoiser, score and density in log space. There is no closed-form flow: integrate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..devices import Device, Dtype
from ..noise import NoiseLevel
from . import modes
from .denoiser import check_states
from .gaussian import Gaussian
from .moments import check_rows


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k weight_k N(mu_k, Sigma_k); weights [K], K components of one dimension.

    The bases of all components are the rows of one matrix [R, D], R the sum of their ranks, of which the components'
    own are views: a call is two products with it, whatever K. Memory of a call: O(B (D + R)).

    Attributes:
        mean: of the data, [D] float64.
        ranks: of the components' bases.
        directions: the bases, [R, D].

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> means = torch.tensor([-1.0]), torch.tensor([1.0])
        >>> parts = tuple(up.Gaussian.isotropic(mean, variance=0.01) for mean in means)
        >>> mixture = up.Mixture(torch.tensor([0.5, 0.5]), parts)
        >>> mixture(torch.tensor([[0.8], [-0.8]]), up.EDM()(0.5)).round(decimals=2)
        tensor([[ 0.9900],
                [-0.9900]])
    """

    weights: Tensor
    components: tuple[Gaussian, ...]
    mean: Tensor = field(init=False)
    ranks: list[int] = field(init=False)
    directions: Tensor = field(init=False, repr=False)
    _centres: Tensor = field(init=False, repr=False)
    _offsets: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.components or self.weights.shape != (len(self.components),):
            raise ValueError(
                f"Expected one weight per component, got {tuple(self.weights.shape)} for {len(self.components)}."
            )
        if len({component.dimension for component in self.components}) != 1:
            raise ValueError("All components of a mixture must have the same dimension.")
        if self.weights.is_complex():
            raise ValueError(f"Mixture weights must be positive, got numbers of {self.weights.dtype}.")
        weights = self.weights.detach().to("cpu", torch.float64)
        if not bool((weights > 0).all()) or not bool(torch.isfinite(weights).all()):
            raise ValueError(f"Mixture weights must be positive, got {weights.tolist()}.")
        weights = weights / weights.sum()
        means = torch.stack([component.mean.double() for component in self.components])
        mean, ranks = weights.to(means) @ means, [component.covariance.rank for component in self.components]
        directions = torch.cat([component.basis[:, :].T for component in self.components])
        parts = list(zip(self.components, means - mean, directions.split(ranks), strict=True))
        fields = {
            "weights": weights,
            "components": tuple(_with_basis(component, rows.T) for component, _, rows in parts),
            "mean": mean,
            "ranks": ranks,
            "directions": directions,
            "_centres": means - mean,
            "_offsets": torch.cat([rows.double() @ centre for _, centre, rows in parts]),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        ranks = f"{min(self.ranks)} to {max(self.ranks)}" if len({*self.ranks}) > 1 else self.ranks[0]
        return f"Mixture({len(self.components)} Gaussians, dimension {len(self.mean)}, rank {ranks})"

    @staticmethod
    def fit(data: Tensor, labels: Tensor, rank: int | None = None, dtype: Dtype = torch.float32) -> Mixture:
        """One Gaussian for each value of labels [N], weighted by its share of the rows [N, D].

        Labels are classes, or the clusters of k-means. With ``rank`` a component keeps its leading directions, and the
        others get their mean variance.

        Raises:
            ValueError: labels do not match the rows, or a class has fewer than two.
        """
        check_rows(data)
        labels = torch.as_tensor(labels)  # k-means gives arrays
        if labels.is_complex() or bool((labels != labels).any()):
            raise ValueError("The label of a row is a number, but some of these are none.")
        if labels.shape != data.shape[:1]:
            raise ValueError(f"Expected {len(data)} labels, got {tuple(labels.shape)}.")
        classes, counts = labels.unique(return_counts=True)
        if int(counts.min()) < 2:
            raise ValueError(
                f"Class {classes[counts.argmin()].item()} has {int(counts.min())} row; a Gaussian needs at least 2."
            )
        return Mixture(counts.double(), tuple(Gaussian.fit(data[labels == c], rank, dtype) for c in classes))

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @property
    def eigenvalues(self) -> Tensor:
        """Variance along each of the directions, [R] float64."""
        return torch.cat([component.eigenvalues for component in self.components])

    @property
    def residuals(self) -> Tensor:
        """Variance of each component outside the span of its directions, [K] float64."""
        return torch.tensor([component.covariance.residual for component in self.components], dtype=torch.float64)

    def to(self, device: Device | None = None, dtype: Dtype | None = None) -> Mixture:
        """On a device and in a dtype, each as torch has it or by its name."""
        return Mixture(self.weights, tuple(component.to(device, dtype) for component in self.components))

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def posterior(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """log(weight_k p_k(x)) [B, K] float64, and u_j.(x - alpha mu_k) for the directions j of all components [B, R].

        By Woodbury, (x - alpha mu)^T (alpha^2 Sigma + sigma^2)^-1 (x - alpha mu) is the sum of c_j^2 over the variances
        plus |outside|^2 over that of the residual, with |outside|^2 = |x - alpha mu|^2 - sum c_j^2 in float64; its
        rounding is that of c_j: in float32 some 1e-6 |x - alpha mu|^2, to be seen against alpha^2 rho + sigma^2.
        """
        check_states(x, self.dimension)
        alpha, sigma = (v.unsqueeze(-1).to(x.device) for v in (level.alpha, level.sigma))
        centred = x - (alpha * self.mean).to(x.dtype)
        coordinates = centred.to(self.directions.dtype) @ self.directions.T
        coordinates = coordinates - (alpha * self._offsets).to(coordinates)
        variance, rest = (alpha**2 * v.to(x.device) + sigma**2 for v in (self.eigenvalues, self.residuals))
        free = torch.tensor([self.dimension - rank for rank in self.ranks], device=x.device)
        rest = torch.where(free > 0, rest, 1.0)
        if not bool((variance > 0).all() and (rest > 0).all()):
            raise ValueError("Without noise there is no density along directions of no variance; ask at sigma > 0.")
        inside = coordinates.square()
        outside = (self.squared_distances(x, level) - self._gathered(inside)).clamp(min=0) * (free > 0)
        squared = self._gathered(inside / variance.to(inside)) + outside / rest
        log_det = self._gathered(variance.log()) + free * rest.log()
        log_density = -0.5 * (squared + log_det + self.dimension * math.log(2 * math.pi))
        return self.weights.log().to(x.device) + log_density, coordinates

    def squared_distances(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """|x - alpha mu_k|^2 of rows [B, D] to all components, [B, K] float64."""
        alpha = level.alpha.unsqueeze(-1).to(x.device)
        centred = x.double() - alpha * self.mean
        products = centred @ self._centres.T
        return centred.square().sum(1, keepdim=True) - 2 * alpha * products + alpha**2 * self._centres.square().sum(1)

    def responsibilities(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """P(component | x) at the level, [B, K] float64."""
        return self.posterior(x, level)[0].softmax(1)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] = sum_k r_k(x) D_k(x), rows [B, D].

        D_k(x) = mu_k + a_k (x - alpha mu_k) + sum_j (a_j - a_k) c_j u_j, where a_k and a_j are the gains
        alpha v/(alpha^2 v + sigma^2) of component k's residual variance and of those along its directions.
        """
        joint, coordinates = self.posterior(x, level)
        shares = joint.softmax(1)
        rest = modes.shrinkage(self.residuals, level)
        gains = modes.shrinkage(self.eigenvalues, level) - self.each_direction(rest)
        rest = rest.to(x.device)
        alpha = level.alpha.unsqueeze(-1).to(x.device)
        means = (shares * (1 - alpha * rest)) @ (self._centres + self.mean)
        weighted = self.each_direction(shares.to(coordinates.dtype)) * gains.to(coordinates) * coordinates
        pulled = means.to(x.dtype) + (weighted @ self.directions).to(x.dtype)
        return pulled + (shares * rest).sum(1, keepdim=True).to(x.dtype) * x

    def score(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """(alpha D(x) - x) / sigma^2, rows [B, D]; needs sigma > 0."""
        alpha, sigma = level.columns(x)
        return (alpha * self.denoise(x, level) - x) / sigma**2

    def log_prob(self, x: Tensor, level: NoiseLevel | None = None) -> Tensor:
        """log density of rows [B, D] at a level (default: of the data). [B] float64."""
        return self.posterior(x, NoiseLevel.clean() if level is None else level)[0].logsumexp(1)

    def sample(self, count: int, generator: torch.Generator | None = None, level: NoiseLevel | None = None) -> Tensor:
        """``count`` rows at a level (default: of the data), in random order of components."""
        picked = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        rows = self.components[0].mean.new_empty(count, self.dimension)
        for k, component in enumerate(self.components):
            chosen = (picked == k).nonzero().squeeze(1).to(rows.device)
            rows[chosen] = component.sample(len(chosen), generator, level)
        return rows

    def each_direction(self, values: Tensor) -> Tensor:
        """A value for each component [..., K] as one for each of its directions [..., R]."""
        return values.repeat_interleave(torch.tensor(self.ranks, device=values.device), dim=-1)

    def _gathered(self, values: Tensor) -> Tensor:
        """Sums over each component's directions, [..., R] -> [..., K] float64."""
        return torch.stack([part.sum(-1, dtype=torch.float64) for part in values.split(self.ranks, -1)], -1)


def _with_basis(component: Gaussian, basis: Tensor) -> Gaussian:
    return replace(component, covariance=replace(component.covariance, basis=basis))
