"""Fixtures of the problems with known answers in `distributions`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from distributions import DISTRIBUTIONS, GAUSSIANS, MIXTURE, SCHEDULES, standard_normal
from hypothesis import settings
from torch import Tensor

from underpaint.noise import Schedule
from underpaint.theory.cloud import PointCloud
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

settings.register_profile("underpaint", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("underpaint")

Normal = Callable[..., Tensor]


@pytest.fixture(scope="session")
def normal() -> Normal:
    """normal(*shape, seed=0): float64 standard normal numbers."""
    return standard_normal


@pytest.fixture(scope="session", params=GAUSSIANS.values(), ids=GAUSSIANS)
def gaussian(request: pytest.FixtureRequest) -> Gaussian:
    return request.param


@pytest.fixture(scope="session")
def full() -> Gaussian:
    return GAUSSIANS["full"]


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    return MIXTURE


@pytest.fixture(scope="session", params=DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def distribution(request: pytest.FixtureRequest) -> Gaussian | Mixture | PointCloud:
    return request.param


@pytest.fixture(scope="session", params=SCHEDULES.values(), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param
