"""What denoisers that know data points do with none, with bad ones, and with states and levels that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import EDM
from underpaint.theory.cloud import PointCloud
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.local import LocalCloud, Smoothed
from underpaint.theory.released import BatchPosterior, GoldDiff, NearestPoints, PCALocality

SHAPE = (1, 4, 4)


def gaussian() -> Gaussian:
    return Gaussian.isotropic(torch.zeros(16), variance=1.0)


MAKERS: dict[str, Callable[[Tensor], Denoiser]] = {
    "cloud": PointCloud,
    "certain": lambda points: PointCloud(points, error=1e-3),
    "local": lambda points: LocalCloud.patches(points, SHAPE, 3, False),
    "shared": lambda points: LocalCloud.patches(points, SHAPE, 3, error=1e-3),
    "wiener": lambda points: LocalCloud.wiener(points, gaussian()),
    "nearest": lambda points: NearestPoints(points, 2),
    "batches": lambda points: BatchPosterior(points, 3),
    "PCA locality": lambda points: PCALocality(points, gaussian()),
    "GoldDiff": lambda points: GoldDiff(points, gaussian(), SHAPE),
    "smoothed": lambda points: Smoothed(PointCloud(points), 0.1),
}
pytestmark = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def test_points_that_are_none_are_refused(make: Callable[[Tensor], Denoiser], normal) -> None:
    points = normal(7, 16).float()
    for bad, message in (
        (points[:0], "needs at least one point"),
        (torch.where(torch.arange(16) == 3, math.nan, points), "Data holds . NaN or infinite values"),
        (torch.where(torch.arange(16) == 3, math.inf, points), "Data holds . NaN or infinite values"),
        (points.long(), "Expected floating-point rows, got torch.int64"),
    ):
        with pytest.raises(ValueError, match=message):
            make(bad)(points, EDM()(0.5))


def test_no_state_gives_no_image(make: Callable[[Tensor], Denoiser], normal) -> None:
    points = normal(7, 16).float()
    for level in (EDM()(0.5), EDM().grid(3)[:0]):
        assert make(points)(points[:0], level).shape == (0, 16)


def test_levels_are_one_or_as_many_as_rows(make: Callable[[Tensor], Denoiser], normal) -> None:
    points = normal(7, 16).float()
    with pytest.raises(ValueError, match="one noise level, or one for each of 3 rows; got 4"):
        make(points)(points[:3], EDM().grid(3))


def test_states_are_rows_of_fractions(make: Callable[[Tensor], Denoiser], normal) -> None:
    points = normal(7, 16).float()
    with pytest.raises(ValueError, match="Expected rows"):
        make(points)(points[0], EDM()(0.5))
    with pytest.raises(ValueError, match="floating-point dtype"):
        make(points)(points.long(), EDM()(0.5))


def test_one_point_is_every_image(make: Callable[[Tensor], Denoiser], normal) -> None:
    """A flat one, for patches may be moved: many times over, too, without noise and with next to nothing else."""
    point, x = torch.full((1, 16), 0.3), normal(3, 16, seed=1).float()
    for points in (point, point.repeat(7, 1)):
        for sigma in (0.0, 1e-12, 0.5, 1e10):
            assert_close(make(points)(x, EDM()(sigma)), point.expand(3, -1), rtol=1e-5, atol=1e-5)
