"""Figures of a report whose lines have to be of one scale."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from underpaint.figures.curves import _rotation
from underpaint.figures.style import new_figure
from underpaint.noise import DDPM, EDM, Flow, Schedule
from underpaint.recipes.report.trajectories import measure_geometry
from underpaint.sampling.solvers import euler
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.gaussian import Gaussian


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()], ids=["ddpm", "edm", "flow"])
def test_the_rotation_is_a_quarter_of_a_circle_on_every_schedule(schedule: Schedule) -> None:
    gaussian = Gaussian.isotropic(torch.zeros(6), 1.0)
    level = schedule.grid(20)
    run = sample(gaussian, initial_noise(range(4), 6, level[0]), level, euler)
    _, axes = new_figure(3, 3)
    _rotation(axes, SimpleNamespace(geometry=measure_geometry(run), trajectory=run, level=level))  # type: ignore[arg-type]
    (quarter,) = [line for line in axes.lines if line.get_label() == "$(α_t, σ_t)$"]
    radius = torch.as_tensor(quarter.get_xydata()).square().sum(1).sqrt()
    torch.testing.assert_close(radius, torch.ones_like(radius), rtol=0, atol=1e-6)
