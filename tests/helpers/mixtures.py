"""Data that are no Gaussian, whose exact score is known."""

from __future__ import annotations

import torch

from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture


def mixture(dimension: int = 12, seed: int = 5, apart: float = 2.0) -> Mixture:
    """Three Gaussians of one spectrum, about ``apart`` from each other along every axis, with axes of their own."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(3):
        basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
        mean = apart * torch.randn(dimension, generator=generator, dtype=torch.float64)
        parts.append(Gaussian(mean, Covariance(torch.logspace(0, -3, dimension, dtype=torch.float64), basis, 0.0)))
    return Mixture(torch.tensor([0.5, 0.3, 0.2]), tuple(parts))


def gaussian_of(data: Mixture, dtype: torch.dtype = torch.float32) -> Gaussian:
    """Fitted to samples of it."""
    return Gaussian.fit(data.sample(4000, torch.Generator().manual_seed(1)), dtype=dtype)
