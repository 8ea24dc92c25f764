"""Three and four calls, the fewest that rivals publish: plans, the scheduler, and the benchmark's solvers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixtures import gaussian_of, mixture
from tiny_calls import denoiser, noise, pipeline, run, statistics
from torch.testing import assert_close

from underpaint.calibration.calibrate import calibrate
from underpaint.calibration.solution import solve_finely
from underpaint.models.pipelines.record import record
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.models.schedulers.peers import FAMILIES, calls_of, grids, lay, lay_default, peer, steps_of
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.sampling.exponential import EXPONENTIALS, named_exponential
from underpaint.sampling.fitted import Calibration, Plan, fingerprint, read_calibration, write_calibration
from underpaint.sampling.trajectory import initial_noise, sample

pytestmark = pytest.mark.filterwarnings("ignore:__array")


def test_plans_of_three_and_four_calls_are_nearer_than_plain_solvers(tmp_path: Path) -> None:
    """On seeds that they never saw; also from their file."""
    data = mixture()
    gaussian = gaussian_of(data)
    found = calibrate(data, gaussian, DDPM(), (3, 4), range(16), range(100, 108), fine=60, effort=20)
    write_calibration(tmp_path / "plans.json", found)
    exact = solve_finely(data, gaussian, DDPM(), range(500, 516), 120)
    for plan in read_calibration(tmp_path / "plans.json").plans:
        solver, grid = found.solver(gaussian, plan.calls)
        x = initial_noise(range(500, 516), data.dimension, grid[0], gaussian.mean.dtype)
        run = sample(data, x, grid, solver)
        error = (gaussian.covariance.analyse(run.final - gaussian.mean) - exact.final).square().mean(1).sqrt().mean()
        assert run.nfe == plan.calls
        assert float(error) < 0.7 * plan.errors["plain"]
    assert [plan.calls for plan in found.plans] == [3, 4]


@pytest.mark.parametrize("calls", [3, 4])
def test_a_pipeline_with_a_plan_of_so_many_calls(calls: int) -> None:
    """It gives what our own loop gives; the plan is made up, of as many past calls as there are."""
    gaussian, pipe = statistics("sd"), pipeline("sd")
    coefficients = 0.3 * torch.randn(calls, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    levels = DDPM.stable_diffusion().grid(1000)[torch.tensor([0, 300, 600, 850, 960][: calls + 1])]
    made = Calibration(
        (Plan(NoiseLevel.join(levels, NoiseLevel.clean()), coefficients),), {"gaussian": fingerprint(gaussian)}
    )
    pipe.scheduler = GaussianExponentialScheduler.from_config(
        pipe.scheduler.config, gaussian=gaussian, calibration=made
    )
    recording = run(lambda **given: record(pipe, **{**given, "num_inference_steps": calls}), "sd")
    assert recording.trajectory.nfe == calls
    solver, level = made.solver(gaussian, calls)
    own = sample(denoiser("sd"), noise("sd")[0].flatten(1) * level[0].sigma.float(), level, solver)
    final = recording.trajectory.final
    assert_close(final, own.final[: len(final)], rtol=0, atol=3e-4 * float(own.x.abs().max()))


@pytest.mark.parametrize("calls", [3, 4])
@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
def test_every_solver_of_the_benchmark_has_so_few_calls(schedule: Schedule, calls: int) -> None:
    """Every variant on every grid and at its default takes no more calls than it is given, and ends in numbers."""
    data = mixture()
    gaussian = gaussian_of(data)
    for name in (variant for variants in FAMILIES.values() for variant in variants):
        steps = steps_of(name, calls)
        laid = [lay(schedule, grid, steps) for grid in grids(schedule)]
        for level in [*laid, lay_default(schedule, name, steps)]:
            x = initial_noise((0, 1), data.dimension, level[0], gaussian.mean.dtype)
            assert sample(data, x, level, peer(name)).nfe == calls_of(name, steps) <= calls
    level = lay(schedule, "log", calls)
    x = initial_noise((0, 1), data.dimension, level[0], gaussian.mean.dtype)
    for name in EXPONENTIALS:
        assert sample(data, x, level, named_exponential(name, gaussian)).nfe == calls
