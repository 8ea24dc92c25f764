"""Mixtures of Gaussians: denoiser, score and density in log space. There is no closed-form flow: integrate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel
from .gaussian import Gaussian
from .moments import check_rows


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k weight_k N(mu_k, Sigma_k); weights [K], K components of one dimension. Memory of a call: O(B D + B K)."""

    weights: Tensor
    components: tuple[Gaussian, ...]

    def __post_init__(self) -> None:
        if not self.components or self.weights.shape != (len(self.components),):
            raise ValueError(
                f"Expected one weight per component, got {tuple(self.weights.shape)} for {len(self.components)}."
            )
        if len({component.dimension for component in self.components}) != 1:
            raise ValueError("All components of a mixture must have the same dimension.")
        weights = self.weights.detach().to("cpu", torch.float64)
        if not bool((weights > 0).all()):
            raise ValueError(f"Mixture weights must be positive, got {weights.tolist()}.")
        object.__setattr__(self, "weights", weights / weights.sum())

    @staticmethod
    def fit(data: Tensor, labels: Tensor, rank: int | None = None, dtype: torch.dtype = torch.float32) -> Mixture:
        """One Gaussian for each value of labels [N], weighted by its share of the rows [N, D].

        Raises:
            ValueError: labels do not match the rows, or a class has fewer than two.
        """
        check_rows(data)
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
        return self.components[0].dimension

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Mixture:
        return Mixture(self.weights, tuple(component.to(device, dtype) for component in self.components))

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def _joint(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """log(weight_k p_k(x)) [B, K] float64 and the denoisers' weighted sum [B, D], in one pass over the components.

        The running sum is rescaled when a larger log-density turns up, so each component is projected only once.
        """
        joint: list[Tensor] = []
        top = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        mass = torch.zeros_like(top)
        mean = torch.zeros_like(x)
        for log_weight, component in zip(self.weights.log().tolist(), self.components, strict=True):
            log_density, denoised = component.posterior(x, level)
            joint.append(log_weight + log_density)
            peak = torch.maximum(top, joint[-1])
            old, new = mass * (top - peak).exp(), (joint[-1] - peak).exp()
            top, mass = peak, old + new
            mean = torch.lerp(mean, denoised, (new / mass).to(x.dtype).unsqueeze(1))
        return torch.stack(joint, 1), mean

    def responsibilities(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """P(component | x) at the level, [B, K] float64."""
        return self._joint(x, level)[0].softmax(1)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] = sum_k r_k(x) D_k(x), rows [B, D]."""
        return self._joint(x, level)[1]

    def score(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """(alpha D(x) - x) / sigma^2, rows [B, D]; needs sigma > 0."""
        alpha, sigma = level.columns(x)
        return (alpha * self.denoise(x, level) - x) / sigma**2

    def log_prob(self, x: Tensor, level: NoiseLevel | None = None) -> Tensor:
        """log density of rows [B, D] at a level (default: of the data). [B] float64."""
        return self._joint(x, NoiseLevel.clean() if level is None else level)[0].logsumexp(1)

    def sample(self, count: int, generator: torch.Generator | None = None, level: NoiseLevel | None = None) -> Tensor:
        """``count`` rows at a level (default: of the data), in random order of components."""
        picked = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        rows = self.components[0].mean.new_empty(count, self.dimension)
        for k, component in enumerate(self.components):
            chosen = (picked == k).nonzero().squeeze(1).to(rows.device)
            rows[chosen] = component.sample(len(chosen), generator, level)
        return rows
