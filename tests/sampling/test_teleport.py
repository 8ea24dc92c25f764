"""Teleport: exact on Gaussian data, plain sampling without a skip, and calls saved or re-spent as stated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, NoiseLevel, Schedule
from underpaint.sampling.solvers import SOLVERS, Solver, dpmpp_2m, euler, find_solver, heun
from underpaint.sampling.teleport import respend, steps_above, teleport
from underpaint.sampling.trajectory import check_grid, sample
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

#: A ratio inside the range of every schedule.
RATIO = 8.0


@pytest.mark.parametrize("skip", [1, 4, 7])
def test_the_jump_is_the_exact_flow(full: Gaussian, mixture: Mixture, schedule: Schedule, skip: int, normal) -> None:
    """And the rest is plain sampling from where it lands; the jump's endpoint estimate is the Gaussian's."""
    grid = schedule.grid(8)
    x = grid[0].norm * normal(4, 6)
    trajectory = teleport(full, mixture, x, grid, skip, euler)
    landed = full.flow(x, grid[0], grid[skip])
    tail = sample(mixture, landed, grid[skip:], euler)
    assert torch.equal(trajectory.x, torch.cat([x.unsqueeze(0), tail.x]))
    assert torch.equal(trajectory.denoised, torch.cat([full(x, grid[0]).unsqueeze(0), tail.denoised]))
    assert_close(trajectory.level.ratio, torch.cat([grid.ratio[:1], grid.ratio[skip:]]), rtol=0, atol=0)
    assert trajectory.nfe == tail.nfe == 8 - skip


@pytest.mark.parametrize("name", SOLVERS)
def test_no_skip_is_plain_sampling(full: Gaussian, mixture: Mixture, name: str, normal) -> None:
    x, grid = 80 * normal(4, 6), EDM().grid(6)
    plain, skipped = sample(mixture, x, grid, find_solver(name)), teleport(full, mixture, x, grid, 0, find_solver(name))
    assert torch.equal(plain.x, skipped.x)
    assert torch.equal(plain.denoised, skipped.denoised)
    assert skipped.nfe == plain.nfe


def test_the_default_is_that_of_sample(full: Gaussian, mixture: Mixture, normal) -> None:
    x, grid = 80 * normal(4, 6), EDM().grid(6)
    assert torch.equal(teleport(full, mixture, x, grid, 2).x, teleport(full, mixture, x, grid, 2, dpmpp_2m).x)


@pytest.mark.parametrize("solver", [euler, heun])
def test_on_gaussian_data_a_skip_leaves_only_the_error_of_the_tail(gaussian: Gaussian, solver: Solver, normal) -> None:
    """So it falls with the skip; a jump to the last level above zero leaves one step of the size of that level."""
    x, grid = 80 * normal(16, 6), EDM().grid(24)
    exact = gaussian.flow(x, grid[0], grid[-1])
    finals = [teleport(gaussian, gaussian, x, grid, skip, solver).final for skip in (0, 6, 12, 18, 23)]
    errors = [float((final - exact).norm(dim=1).mean()) for final in finals]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < float(grid.sigma[23])


@pytest.mark.parametrize(("skip", "calls"), [(0, 35), (2, 31), (4, 27), (5, 25), (6, 23), (7, 21), (8, 19), (10, 15)])
def test_saved_calls_in_the_protocol_of_wv24(full: Gaussian, normal, skip: int, calls: int) -> None:
    """Heun with 18 steps on the EDM grid: where a skip lands, and what is left to call."""
    grid = EDM().grid(18)
    trajectory = teleport(full, full, 80 * normal(1, 6), grid, skip, heun)
    assert trajectory.nfe == calls
    landing = {0: 80, 2: 40.8, 4: 19.4, 5: 12.9, 6: 8.4, 7: 5.3, 8: 3.3, 10: 1.1}[skip]
    assert float(grid.sigma[skip]) == pytest.approx(landing, abs=0.06)


def test_the_callback_sees_the_steps_of_the_denoiser(full: Gaussian, normal) -> None:
    seen: list[tuple[int, Tensor, Tensor]] = []
    trajectory = teleport(full, full, 80 * normal(2, 6), EDM().grid(8), 3, euler, lambda *step: seen.append(step))
    assert [index for index, _, _ in seen] == list(range(5))
    assert torch.equal(torch.stack([x for _, x, _ in seen]), trajectory.x[2:])


@pytest.mark.parametrize("skip", [-1, 8, 9])
def test_a_skip_leaves_a_step_to_the_denoiser(full: Gaussian, normal, skip: int) -> None:
    with pytest.raises(ValueError, match=f"skip must lie between 0 and 7 for a grid of 8 steps, got {skip}"):
        teleport(full, full, normal(1, 6), EDM().grid(8), skip)


def test_the_grid_is_checked_before_the_jump(full: Gaussian, normal) -> None:
    with pytest.raises(ValueError, match="must fall in noise"):
        teleport(full, full, normal(1, 6), EDM()(torch.tensor([1.0, 2.0, 0.5, 0.0])), 1)


# Saved: the tail of the grid


def test_steps_above_lands_on_the_last_level_not_below_the_ratio(schedule: Schedule) -> None:
    grid = schedule.grid(20)
    skip = steps_above(grid, RATIO)
    assert float(grid.ratio[skip]) >= RATIO > float(grid.ratio[skip + 1])


def test_steps_above_takes_a_level_of_the_grid_for_itself(schedule: Schedule) -> None:
    """Also when its ratio has been through float arithmetic."""
    grid = schedule.grid(20)
    for i in range(1, 20):
        for nudge in (1 - 1e-12, 1.0, 1 + 1e-12):
            assert steps_above(grid, nudge * float(grid.ratio[i])) == i


def test_a_jump_that_skips_nothing_says_so() -> None:
    with pytest.warns(
        UserWarning, match=r"skips nothing, and all steps are taken: the grid begins below that, at 80\. Jump to"
    ):
        assert steps_above(EDM().grid(18), 100.0) == 0
    coarse = DDPM("cosine").grid(16)  # from 20290 straight to 9.5
    with pytest.warns(UserWarning, match=r"the grid goes from 2.* to 9\.542, .* Jump to 9\.542 to skip one"):
        assert steps_above(coarse, 12.0) == 0
    with pytest.warns(UserWarning, match="the grid has one step"):
        assert steps_above(EDM().grid(1), 12.0) == 0


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_the_ratio_to_skip_to_is_positive_and_finite(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"positive noise-to-signal ratio, got {ratio}"):
        steps_above(EDM().grid(4), ratio)


# Re-spent: a fresh grid from the landing


def test_a_respent_grid_spends_the_same_calls_from_the_landing(
    full: Gaussian, mixture: Mixture, schedule: Schedule, normal
) -> None:
    grid = schedule.grid(9)
    fresh = respend(schedule, grid, RATIO)
    check_grid(fresh)
    assert len(fresh) == len(grid) + 1
    assert_close(fresh.ratio[:2].tolist(), [float(grid.ratio[0]), RATIO], rtol=1e-9, atol=0)
    assert_close(fresh.ratio[1:], schedule.grid(9, start=RATIO).ratio, rtol=0, atol=0)
    assert (fresh.sigma == 0).sum() == 1
    x = grid[0].norm * normal(2, 6)
    trajectory = teleport(full, mixture, x, fresh, skip=1, solver=euler)
    assert trajectory.nfe == sample(mixture, x, grid, euler).nfe == 9
    assert_close(trajectory.x[1], full.flow(x, grid[0], schedule.level(RATIO)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ratio", [80.0, 100.0, math.inf, math.nan])
def test_a_respent_grid_starts_below_the_first_level(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"to skip to, {ratio}, must lie below the first level of the grid, 80"):
        respend(EDM(), EDM().grid(4), ratio)


def test_levels_of_the_jump_may_come_from_another_family(full: Gaussian, normal) -> None:
    """From EDM's pure start down to the range of a DDPM network."""
    grid = NoiseLevel.join(EDM()(80.0), DDPM().grid(5, start=20.0))
    x = 80 * normal(2, 6)
    trajectory = teleport(full, full, x, grid, 1)
    assert_close(trajectory.x[1], full.flow(x, EDM()(80.0), DDPM().level(20.0)), rtol=1e-9, atol=1e-9)
