"""Analytic denoisers on a GPU: the results of the CPU, found on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from underpaint.noise import EDM, NoiseLevel
from underpaint.theory.cloud import PointCloud
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.local import LocalCloud, Smoothed
from underpaint.theory.mixture import Mixture
from underpaint.theory.released import BatchPosterior, FreshlySmoothed, GoldDiff, NearestPoints, PCALocality
from underpaint.theory.stitched import Stitched

SHAPE, COUNT = (1, 12, 12), 400
DEVICE = "cuda"
_PLACE = torch.arange(12.0)
_ROOT = torch.linalg.cholesky(torch.exp(-(_PLACE.unsqueeze(1) - _PLACE).abs() / 6))


def images(count: int, seed: int) -> Tensor:
    noise = torch.randn(count, 12, 12, generator=torch.Generator().manual_seed(seed))
    return (_ROOT @ noise @ _ROOT.T).clamp(-1, 1).flatten(1)


POINTS = images(COUNT, 0)
GAUSSIAN = Gaussian.fit(POINTS)
MIXTURE = Mixture.fit(POINTS, torch.arange(COUNT) % 3, 8)


def bytes_of(points: Tensor) -> Tensor:
    return ((points + 1) * 127.5).round().to(torch.uint8)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


#: Each from points and Gaussian on a device.
DENOISERS: dict[str, Callable[[Tensor, Gaussian], Denoiser]] = {
    "Gaussian": lambda points, gaussian: gaussian,
    "Gaussian of rank 9": lambda points, gaussian: gaussian.truncate(9),
    "mixture": lambda points, gaussian: MIXTURE.to(points.device),
    "cloud": lambda points, gaussian: PointCloud(points),
    "cloud, certain": lambda points, gaussian: PointCloud(points, error=1e-3),
    "cloud of bytes": lambda points, gaussian: PointCloud(bytes_of(points)),
    "smoothed": lambda points, gaussian: Smoothed(PointCloud(points), 0.5),
    "patches of 3": lambda points, gaussian: LocalCloud.patches(points, SHAPE, 3, False),
    "patches of 9": lambda points, gaussian: LocalCloud.patches(points, SHAPE, 9, False),
    "equivariant": lambda points, gaussian: LocalCloud.patches(points[:60], SHAPE, 5),
    "equivariant, certain": lambda points, gaussian: LocalCloud.patches(points, SHAPE, 3, error=1e-3),
    "wiener": lambda points, gaussian: LocalCloud.wiener(points, gaussian, 0.1),
    "PCA locality": lambda points, gaussian: PCALocality(points, gaussian, 0.05, batch=150),
    "200 nearest": lambda points, gaussian: NearestPoints(points),
    "freshly smoothed": lambda points, gaussian: FreshlySmoothed(NearestPoints(points), generator=generator()),
    "GoldDiff": lambda points, gaussian: GoldDiff(points, gaussian, SHAPE, generator=generator()),
    "batches": lambda points, gaussian: BatchPosterior(points, 150),
    "stitched": lambda points, gaussian: Stitched(
        EDM()(torch.tensor([2.0, 0.3])),
        {"a": gaussian, "b": PointCloud(points)},
        torch.tensor([[1.0, 0.0], [0.5, 0.5]]),
    ),
}


class Fetched(TorchDispatchMode):
    """The largest tensor that a call brings from the GPU to the CPU."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, Tensor)]
        if isinstance(result, Tensor) and result.device.type == "cpu" and any(t.device.type != "cpu" for t in tensors):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("level", [EDM()(0.2), EDM()(1.5), EDM()(torch.tensor([0.2, 5.0, 0.2]))], ids=repr)
@pytest.mark.parametrize("name", DENOISERS)
def test_a_gpu_says_what_the_cpu_says(name: str, level: NoiseLevel) -> None:
    """In float32, and states and results stay there: nothing as large as the states of all places is fetched."""
    x = images(3, 1) + level.sigma.reshape(-1, 1).float() * torch.randn(3, 144, generator=generator())
    make = DENOISERS[name]
    expected = make(POINTS, GAUSSIAN)(x, level)
    denoise, rows = make(POINTS.to(DEVICE), GAUSSIAN.to(DEVICE)), x.to(DEVICE)
    with torch.no_grad():
        found = denoise(rows, level)  # what is made once may be made on the CPU
        with Fetched() as fetched:
            denoise(rows, level)
    assert found.device.type == DEVICE
    assert_close(found.cpu(), expected, rtol=0, atol=2e-3)
    assert fetched.numel <= 144
