"""A denoiser made of several, with weights that depend on the noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel
from .denoiser import Denoiser


@dataclass(frozen=True, eq=False)
class Stitched:
    """Several denoisers as one: at each noise level the best of them, or a blend.

    D(x, level) = sum_k w_k D_k(x, level), with the weights of that of M stated levels which lies nearest in log
    sigma/alpha. Only denoisers whose weight there is not 0 are asked.
    Source: blends are stacked regressions (Wolpert 1992; Breiman 1996), here one for each level.

    Attributes:
        level: M levels.
        denoisers: K denoisers by name.
        weights: [M, K]; a row with a single 1 takes that denoiser alone.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> points = torch.tensor([[-1.0], [1.0]])
        >>> level = up.NoiseLevel(alpha=torch.ones(2), sigma=torch.tensor([10.0, 0.1]))
        >>> both = {"Gaussian": up.Gaussian.fit(points), "exact": up.PointCloud(points)}
        >>> stitched = up.Stitched(level, both, torch.eye(2))
        >>> stitched(torch.tensor([[0.5]]), up.EDM()(0.1))
        tensor([[1.]])
    """

    level: NoiseLevel
    denoisers: Mapping[str, Denoiser]
    weights: Tensor

    def __post_init__(self) -> None:
        if self.level.sigma.ndim != 1 or not len(self.level):
            raise ValueError("A stitched denoiser needs a row of noise levels, such as a grid; got a single one.")
        if tuple(self.weights.shape) != (len(self.level), len(self.denoisers)):
            raise ValueError(
                f"Expected weights for {len(self.level)} levels and {len(self.denoisers)} denoisers, got "
                f"{tuple(self.weights.shape)}."
            )
        if not bool(torch.isfinite(self.weights).all()) or bool((self.weights == 0).all(1).any()):
            raise ValueError("The weights of a stitched denoiser must be finite, and some of each level other than 0.")

    def __repr__(self) -> str:
        return f"Stitched({', '.join(self.denoisers)}; {len(self.level)} levels)"

    @staticmethod
    def best(level: NoiseLevel, denoisers: Mapping[str, Denoiser], score: Tensor) -> Stitched:
        """At each of M levels the denoiser of the highest score [K, M], such as what it explains of a network."""
        if tuple(score.shape) != (len(denoisers), len(level)):
            raise ValueError(
                f"Expected scores of {len(denoisers)} denoisers at {len(level)} levels, got {tuple(score.shape)}."
            )
        chosen = score.nan_to_num(nan=-torch.inf).argmax(0)
        return Stitched(level, denoisers, torch.nn.functional.one_hot(chosen, len(denoisers)).double())

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The blend's estimate of x0 for rows [B, D] at one level or at one level a row."""
        known = self.level.log_ratio
        wanted = level.log_ratio.to(known).clamp(known.min(), known.max())  # without noise it is infinite
        nearest = (known - wanted.unsqueeze(-1)).abs().argmin(-1)
        if nearest.ndim == 0:
            return self._blend(x, level, int(nearest))
        denoised = torch.empty_like(x)
        for index in nearest.unique().tolist():
            rows = nearest == index
            denoised[rows] = self._blend(x[rows], NoiseLevel(level.alpha[rows], level.sigma[rows]), index)
        return denoised

    def named(self) -> list[str]:
        """For each level the names of those that are asked, the heaviest first, with their weights where they blend."""
        return [self._name(row) for row in self.weights]

    def _blend(self, x: Tensor, level: NoiseLevel, index: int) -> Tensor:
        total = torch.zeros_like(x)
        for weight, denoise in zip(self.weights[index].tolist(), self.denoisers.values(), strict=True):
            if weight:
                total += weight * denoise(x, level)
        return total

    def _name(self, weights: Tensor) -> str:
        names, order = list(self.denoisers), weights.abs().argsort(descending=True, stable=True).tolist()
        asked = [k for k in order if weights[k] != 0]
        if len(asked) == 1 and weights[asked[0]] == 1:
            return names[asked[0]]
        return " + ".join(f"{float(weights[k]):.2f} {names[k]}" for k in asked)
