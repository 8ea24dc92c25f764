"""The one loop and what it records; start noise by seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.sampling.solvers import dpmpp_2m, euler, heun
from underpaint.sampling.trajectory import Trajectory, check_grid, initial_noise, sample
from underpaint.theory.gaussian import Gaussian


@pytest.fixture(scope="module")
def trajectory(full: Gaussian, normal) -> Trajectory:
    return sample(full, 80 * normal(5, 6), EDM().grid(7), euler)


def test_state_i_pairs_with_level_i(full: Gaussian, trajectory: Trajectory, normal) -> None:
    assert len(trajectory) == 7
    assert len(trajectory.level) == 8
    assert trajectory.x.shape == (8, 5, 6)
    assert trajectory.denoised.shape == (7, 5, 6)
    assert torch.equal(trajectory.x[0], 80 * normal(5, 6))
    assert torch.equal(trajectory.final, trajectory.x[7])
    for x, denoised, level in zip(trajectory.x, trajectory.denoised, trajectory.level, strict=False):
        assert torch.equal(denoised, full(x, level))


@pytest.mark.parametrize("solver", [heun, dpmpp_2m])
def test_estimates_are_those_at_the_recorded_states_for_any_solver(solver, mixture, normal) -> None:
    """Not those of the second call of a step."""
    trajectory = sample(mixture, normal(3, 6), DDPM().grid(5), solver)
    for x, denoised, level in zip(trajectory.x, trajectory.denoised, trajectory.level, strict=False):
        assert torch.equal(denoised, mixture(x, level))


def test_eps_is_the_noise_that_the_estimate_leaves(full: Gaussian, schedule: Schedule, normal) -> None:
    """x = alpha D + sigma eps."""
    trajectory = sample(full, normal(5, 6), schedule.grid(4))
    alpha, sigma = trajectory.level.alpha[:-1].view(-1, 1, 1), trajectory.level.sigma[:-1].view(-1, 1, 1)
    assert trajectory.eps.shape == (4, 5, 6)
    assert_close(alpha * trajectory.denoised + sigma * trajectory.eps, trajectory.x[:-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_every_keeps_first_last_and_each_so_many(full: Gaussian, trajectory: Trajectory, every: int) -> None:
    thin = sample(full, trajectory.x[0], trajectory.level, euler, every=every)
    kept = sorted({*range(0, 8, every), 7})
    assert torch.equal(thin.x, trajectory.x[kept])
    assert torch.equal(thin.denoised, trajectory.denoised[kept[:-1]])
    assert torch.equal(thin.level.sigma, trajectory.level.sigma[kept])
    assert thin.nfe == trajectory.nfe == 7


def test_the_callback_sees_each_step_with_the_state_after_it(full: Gaussian, trajectory: Trajectory) -> None:
    seen: list[tuple[int, Tensor, Tensor]] = []
    sample(full, trajectory.x[0], trajectory.level, euler, callback=lambda *step: seen.append(step), every=3)
    assert [index for index, _, _ in seen] == list(range(7))
    assert torch.equal(torch.stack([x for _, x, _ in seen]), trajectory.x[1:])
    assert torch.equal(torch.stack([denoised for _, _, denoised in seen]), trajectory.denoised)


def test_the_default_is_dpm_solver_2m(full: Gaussian, trajectory: Trajectory) -> None:
    x, grid = trajectory.x[0], trajectory.level
    assert torch.equal(sample(full, x, grid).x, sample(full, x, grid, dpmpp_2m).x)


def test_no_graph_is_kept(normal) -> None:
    weight = torch.ones(6, dtype=torch.float64, requires_grad=True)
    assert not sample(lambda x, level: weight * x / 2, normal(2, 6), EDM().grid(3)).x.requires_grad


@pytest.mark.parametrize("index", [2, slice(1, 4), torch.tensor([4, 0])], ids=str)
def test_rows_of_a_trajectory(trajectory: Trajectory, index: int | slice | Tensor) -> None:
    part = trajectory.rows(index)
    assert part.x.ndim == part.denoised.ndim == 3
    rows = [index] if isinstance(index, int) else index
    assert torch.equal(part.x, trajectory.x[:, rows])
    assert torch.equal(part.denoised, trajectory.denoised[:, rows])
    assert part.level is trajectory.level
    assert part.nfe == trajectory.nfe


def test_the_last_row_of_a_trajectory(trajectory: Trajectory) -> None:
    assert torch.equal(trajectory.rows(-1).x, trajectory.x[:, 4:])


def test_batches_join_to_what_one_batch_gives(full: Gaussian, trajectory: Trajectory) -> None:
    parts = [sample(full, x, trajectory.level, euler) for x in trajectory.x[0].split([2, 3])]
    joined = Trajectory.join(parts)
    assert_close(joined.x, trajectory.x, rtol=1e-12, atol=1e-12)
    assert_close(joined.denoised, trajectory.denoised, rtol=1e-12, atol=1e-12)
    assert torch.equal(joined.level.sigma, trajectory.level.sigma)
    assert joined.nfe == trajectory.nfe
    for i in range(5):
        assert torch.equal(joined.rows(i).x, torch.cat([part.x for part in parts], 1)[:, i : i + 1])


@pytest.mark.parametrize("level", [EDM()(80.0), DDPM()(999), Flow()(1.0)], ids=repr)
def test_a_seed_gives_the_same_noise_in_any_batch(level: NoiseLevel) -> None:
    together = initial_noise([3, 1, 4], 500, level)
    assert together.shape == (3, 500)
    assert together.dtype == torch.float32
    for row, seed in zip(together, [3, 1, 4], strict=True):
        assert torch.equal(row, initial_noise([seed], 500, level)[0])
        noise = torch.randn(500, generator=torch.Generator().manual_seed(seed))
        assert_close(row, float(level.sigma) * noise, rtol=1e-6, atol=0)
    assert not torch.equal(together[0], together[1])
    assert initial_noise([0], 3, level, torch.float64).dtype == torch.float64


def nan_denoiser(x: Tensor, level: NoiseLevel) -> Tensor:
    return torch.full_like(x, math.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(6)}, r"start states \[B, D\], got a tensor of shape \(6,\)"),
        ({"x": torch.zeros(1, 1, 2, 3)}, r"start states \[B, D\], got a tensor of shape \(1, 1, 2, 3\)"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"level": EDM()(1.0)}, "at least two levels"),
        ({"level": EDM().grid(3)[:1]}, "at least two levels"),
        ({"level": EDM()(torch.tensor([1.0, 2.0, 0.0]))}, "must fall in noise from first to last"),
        ({"level": EDM()(torch.tensor([1.0, 1.0, 0.0]))}, "must fall in noise from first to last"),
        ({"level": EDM()(torch.tensor([1.0, 0.0, 0.0]))}, "must fall in noise from first to last"),
        ({"denoise": nan_denoiser}, "NaN or infinite values; check the model's prediction type"),
    ],
)
def test_what_cannot_be_sampled_is_refused(full: Gaussian, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "denoise": full,
        "x": torch.zeros(2, 6, dtype=torch.float64),
        "level": EDM().grid(3),
    }
    call: Callable[..., Trajectory] = sample
    with pytest.raises(ValueError, match=message):
        call(**{**arguments, **change})


def test_a_grid_may_start_from_pure_noise() -> None:
    check_grid(Flow().grid(2))


def test_but_only_once() -> None:
    with pytest.raises(ValueError, match="must fall in noise"):
        check_grid(NoiseLevel(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])))
