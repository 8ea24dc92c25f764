"""Small problems with known answers, shared by all tests; float64 unless a test asks for something else."""

from __future__ import annotations

import torch
from torch import Tensor

from underpaint.noise import DDPM, EDM, Flow, Schedule
from underpaint.theory.cloud import PointCloud
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture


def standard_normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


_BASIS = torch.linalg.qr(standard_normal(6, 6)).Q
_VARIANCES = torch.tensor([9.0, 2.0, 0.5, 0.1, 0.01, 0.001], dtype=torch.float64)
_MEAN = standard_normal(6, seed=1)

#: Every shape of the one spectral covariance; 'paper' has no variance outside three directions.
GAUSSIANS: dict[str, Gaussian] = {
    "full": Gaussian(_MEAN, Covariance(_VARIANCES, _BASIS)),
    "low-rank": Gaussian(_MEAN, Covariance(_VARIANCES[:3], _BASIS[:, :3], residual=0.05)),
    "paper": Gaussian(_MEAN, Covariance(_VARIANCES[:3], _BASIS[:, :3])),
    "isotropic": Gaussian.isotropic(_MEAN, 0.7),
}
MIXTURE = Mixture(
    torch.tensor([5.0, 3.0, 2.0]),
    (
        GAUSSIANS["full"],
        Gaussian(-_MEAN, GAUSSIANS["low-rank"].covariance),
        Gaussian.isotropic(2 * standard_normal(6, seed=2), 0.7),
    ),
)
DISTRIBUTIONS: dict[str, Gaussian | Mixture | PointCloud] = {
    **GAUSSIANS,
    "mixture": MIXTURE,
    "cloud": PointCloud(standard_normal(40, 6, seed=3), chunk=16),
}
SCHEDULES: dict[str, Schedule] = {
    "ddpm": DDPM(),
    "stable-diffusion": DDPM.stable_diffusion(),
    "cosine": DDPM("cosine"),
    "edm": EDM(),
    "flow": Flow(),
    "shifted-flow": Flow(shift=3.0),
}
