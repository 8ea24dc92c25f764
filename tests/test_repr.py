"""Every public object prints as one short line that a person can read."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from distributions import DISTRIBUTIONS, GAUSSIANS, MIXTURE, standard_normal

import underpaint as up
from underpaint.data.datasets import ImageData
from underpaint.metrics.frechet import Statistics
from underpaint.models.checking.measures import Finding
from underpaint.sampling.fitted import Plan

GAUSSIAN, CLOUD = GAUSSIANS["low-rank"], DISTRIBUTIONS["cloud"]
LEVEL = up.EDM().grid(4)
#: All but the protocol, and networks, which print as torch has it.
CLASSES = [name for name in up.__all__ if inspect.isclass(getattr(up, name)) and name != "Schedule"]
CLASSES = [name for name in CLASSES if not issubclass(getattr(up, name), torch.nn.Module)]
TRAJECTORY = up.sample(GAUSSIAN, standard_normal(2, 6), LEVEL, up.euler)


def objects() -> dict[str, tuple[Any, str]]:
    """An object of each public class, and what it prints as."""
    plan = Plan(LEVEL, solver="exponential-2c")
    model = up.wrap(lambda x, t: x, (1, 2, 3), up.DDPM(), "v", name="tiny")
    from diffusers import DDIMScheduler

    scheduler = up.GaussianExponentialScheduler.from_config(DDIMScheduler().config, gaussian=GAUSSIAN)
    recording = up.Recording(TRAJECTORY, LEVEL[:-1], None, torch.arange(4), (6,), None, None)
    return {
        "Calibration": (up.Calibration((plan,), {}), "Calibration(plans of 4 calls)"),
        "Check": (
            up.Check("it", (Finding("size", 9.0, "at most 1", "fails", "It is too large."),), 0.0),
            "Check(it: fails, 1 measures)",
        ),
        "Covariance": (GAUSSIAN.covariance, "Covariance(dimension 6, rank 3, total variance 11.7)"),
        "DDPM": (up.DDPM(torch.tensor([0.1, 0.2, 0.3])), "DDPM(table, 3 steps)"),
        "EDM": (up.EDM(), "EDM(sigma_min=0.002, sigma_max=80.0, rho=7.0)"),
        "EDMScaling": (up.EDMScaling(), "EDMScaling(sigma_min=0.0, sigma_max=inf, sigma_data=0.5)"),
        "VarianceRatio": (
            up.VarianceRatio(torch.tensor([[0.5, 1.0], [1.0, 1.5]])),
            "VarianceRatio(1.00 ± 0.25 along the first 2 directions, 2 samples)",
        ),
        "VPSDE": (up.VPSDE(), "VPSDE(beta_min=0.1, beta_max=20.0, epsilon=1e-05)"),
        "Interpolant": (
            up.Interpolant(lambda t: 1 - t, lambda t: t),
            "Interpolant(alpha and sigma (0, 1) at t = 1 to (1, 0) at t = 0)",
        ),
        "Truncated": (
            up.Truncated(up.Flow(), 0.1, 10.0),
            "Truncated(schedule=Flow(shift=1.0), low=0.1, high=10.0)",
        ),
        "Flow": (up.Flow(3.0), "Flow(shift=3.0)"),
        "Gaussian": (GAUSSIAN, "Gaussian(dimension 6, rank 3, total variance 11.7)"),
        "GaussianExponentialScheduler": (
            scheduler,
            "GaussianExponentialScheduler(Gaussian(dimension 6, rank 3, total variance 11.7), levels of "
            "DPMSolverMultistepScheduler)",
        ),
        "ImagePath": (up.ImagePath(torch.zeros(5, 6)), "ImagePath(5 pictures, dimension 6)"),
        "Mixture": (MIXTURE, "Mixture(3 Gaussians, dimension 6, rank 0 to 6)"),
        "Model": (
            model,
            "Model(tiny, 1 x 2 x 3, DDPM(linear, 1000 steps), v, no condition, float32 on cpu)",
        ),
        "Moments": (up.Moments.of(standard_normal(5, 6)), "Moments(5 rows, dimension 6)"),
        "NoiseLevel": (LEVEL, "NoiseLevel(5 levels, sigma/alpha 80 to 0)"),
        "PointCloud": (CLOUD, "PointCloud(40 points, dimension 6)"),
        "Recording": (
            recording,
            "Recording(Trajectory(4 steps, 2 samples, dimension 6, 4 calls), shape (6,), no halves of guidance)",
        ),
        "Stitched": (
            up.Stitched(LEVEL[:2], {"a": GAUSSIAN, "b": CLOUD}, torch.eye(2)),
            "Stitched(a, b; 2 levels)",
        ),
        "SkipChoice": (
            up.SkipChoice(1, LEVEL, 0.02, torch.full((4, 2), 0.01)),
            "SkipChoice(skip 1 of 4 steps, down to sigma/alpha = 9.72: error predicted 0.01, allowed 0.02 standard "
            "deviations of the data)",
        ),
        "Spectrum": (
            up.Spectrum("Euler", 5, 5, 0, torch.ones(2), torch.tensor([0.5, 1.0]), torch.ones(2), torch.ones(2)),
            "Spectrum(Euler, 5 steps: 0.5 to 1 of the data's variance)",
        ),
        "Trajectory": (TRAJECTORY, "Trajectory(4 steps, 2 samples, dimension 6, 4 calls)"),
        "Plan": (plan, "Plan(4 calls, exponential-2c)"),
        "ImageData": (
            ImageData(torch.zeros(2, 1, 4, 4), "toy", "made"),
            "ImageData(toy, 2 images 1 x 4 x 4, no labels)",
        ),
        "Statistics": (Statistics("toy", torch.zeros(3), torch.eye(3), 9), "Statistics(toy, 3 features, 9 items)"),
    }


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[Any, str]]:
    return objects()


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_class_is_among_them(name: str, known: dict[str, tuple[Any, str]]) -> None:
    assert type(known[name][0]) is getattr(up, name)


def test_each_prints_as_one_line(known: dict[str, tuple[Any, str]]) -> None:
    assert {name: repr(value) for name, (value, _) in known.items()} == {
        name: line for name, (_, line) in known.items()
    }
