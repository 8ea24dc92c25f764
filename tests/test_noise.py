"""Noise levels, and every schedule as a map between its own time and levels; tables checked against diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule, make_betas, spaced_ratios

diffusers = pytest.importorskip("diffusers")

#: Within the range of every schedule; that of Stable Diffusion is the narrowest.
ratios = st.floats(0.05, 14.0)


# Levels


def test_a_level_is_a_float64_pair_with_ratio_and_norm() -> None:
    level = NoiseLevel(torch.tensor([0.6, 1.0, 0.0]), torch.tensor([0.8, 0.5, 2.0]))
    assert level.alpha.dtype == level.sigma.dtype == torch.float64
    assert_close(level.ratio.tolist(), [4 / 3, 0.5, math.inf], rtol=1e-7, atol=0)
    assert_close(level.log_ratio.tolist(), [math.log(4 / 3), math.log(0.5), math.inf], rtol=1e-6, atol=0)
    assert_close(level.norm.tolist(), [1.0, math.sqrt(1.25), 2.0], rtol=1e-7, atol=0)


def test_levels_index_slice_iterate_and_join() -> None:
    grid = EDM().grid(4)
    assert len(grid) == 5
    assert torch.equal(NoiseLevel.join(*grid).sigma, grid.sigma)
    assert torch.equal(NoiseLevel.join(grid[:2], grid[2], grid[torch.tensor([3, 4])]).sigma, grid.sigma)
    clean = NoiseLevel.clean()
    assert (float(clean.alpha), float(clean.sigma)) == (1.0, 0.0)


def test_a_number_is_broadcast_against_a_grid() -> None:
    level = NoiseLevel(1.0, torch.tensor([2.0, 1.0]))
    assert level.alpha.tolist() == [1.0, 1.0]


def test_columns_multiply_rows() -> None:
    x = torch.ones(3, 2)
    alpha, sigma = EDM()(0.5).columns(x)
    assert alpha.shape == sigma.shape == ()
    assert sigma.dtype == torch.float32
    alpha, sigma = EDM()(torch.tensor([1.0, 2.0, 3.0])).columns(x)
    assert (sigma * x).tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]


def test_repr_names_one_level_by_its_pair_and_a_grid_by_its_range() -> None:
    assert repr(Flow()(0.25)) == "NoiseLevel(alpha=0.75, sigma=0.25)"
    assert repr(EDM().grid(3)) == "NoiseLevel(4 levels, sigma/alpha 80 to 0)"


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        (-1.0, 1.0, "finite alpha >= 0, got -1.0"),
        (1.0, -0.5, "finite sigma >= 0, got -0.5"),
        (math.nan, 1.0, "finite alpha >= 0, got nan"),
        (1.0, math.inf, "finite sigma >= 0, got inf"),
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), "both are zero"),
    ],
)
def test_levels_must_be_finite_and_not_negative(alpha: float, sigma: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseLevel(alpha, sigma)


def test_levels_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        NoiseLevel(torch.ones(3), torch.ones(2))


# What every schedule promises


def test_a_schedule_is_one(schedule: Schedule) -> None:
    assert isinstance(schedule, Schedule)


@given(ratio=ratios)
def test_a_family_has_a_level_for_every_ratio_and_time_inverts_it(schedule: Schedule, ratio: float) -> None:
    level = schedule.level(ratio)
    assert_close(float(level.ratio), ratio, rtol=1e-12, atol=0)
    again = schedule(schedule.time(level))
    for name in ("alpha", "sigma"):
        assert_close(getattr(again, name), getattr(level, name), rtol=1e-9, atol=1e-12)


@given(share=st.floats(0.0, 1.0))
def test_time_is_the_inverse_of_the_schedule(schedule: Schedule, share: float) -> None:
    first, last = {DDPM: (0.0, 999.0), EDM: (0.002, 80.0), Flow: (0.0, 1.0)}[type(schedule)]
    t = first + share * (last - first)
    assert_close(float(schedule.time(schedule(t))), t, rtol=1e-8, atol=1e-9)


def test_time_depends_on_the_ratio_alone_and_takes_tensors(schedule: Schedule) -> None:
    level = schedule.level(torch.tensor([12.0, 1.0, 0.1]))
    scaled = NoiseLevel(3 * level.alpha, 3 * level.sigma)
    assert_close(schedule.time(scaled), schedule.time(level), rtol=1e-12, atol=0)
    assert_close(schedule(schedule.time(scaled)).ratio, level.ratio, rtol=1e-9, atol=0)


def test_time_stays_in_the_range_of_the_schedule(schedule: Schedule) -> None:
    first, last = {DDPM: (0.0, 999.0), EDM: (0.002, 80.0), Flow: (0.0, 1.0)}[type(schedule)]
    assert float(schedule.time(NoiseLevel.clean())) == first
    assert float(schedule.time(Flow()(1.0))) == last


@pytest.mark.parametrize("steps", [1, 2, 3, 18, 50])
@pytest.mark.parametrize("start", [None, 12.0])
def test_grids_fall_to_zero_noise_exactly_once(schedule: Schedule, steps: int, start: float | None) -> None:
    grid = schedule.grid(steps, start)
    assert len(grid) == steps + 1
    assert bool((grid.ratio.diff() < 0).all())
    assert (grid.sigma == 0).tolist() == [False] * steps + [True]
    assert float(grid.alpha[-1]) == 1.0
    if start is not None:
        assert_close(float(grid.ratio[0]), start, rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [0, -3])
def test_grids_need_a_step(schedule: Schedule, steps: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 step, got {steps}"):
        schedule.grid(steps)


# DDPM

KINDS = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "first", "last"), [(1000, 1e-4, 0.02), (1000, 0.00085, 0.012), (50, 1e-3, 0.2)])
def test_ddpm_tables_are_those_of_diffusers(kind, steps: int, first: float, last: float) -> None:
    """Which keeps betas in float32 and multiplies them up in float32: hence 1e-4."""
    peer = diffusers.DDPMScheduler(steps, first, last, beta_schedule=KINDS[kind])
    assert_close(make_betas(kind, steps, first, last), peer.betas.double(), rtol=1e-5, atol=1e-7)
    level = DDPM(kind, steps, first, last)(torch.arange(steps))
    assert_close(level.alpha**2, peer.alphas_cumprod.double(), rtol=1e-4, atol=1e-12)
    assert_close(level.sigma**2, 1 - peer.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)


def test_ddpm_is_the_product_of_its_betas_to_float64() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    level = DDPM(betas)(torch.arange(1000))
    bar = (1 - betas).cumprod(0)
    assert_close(level.alpha, bar.sqrt(), rtol=1e-12, atol=0)
    assert_close(level.sigma, (1 - bar).sqrt(), rtol=1e-11, atol=0)
    assert torch.equal(level.alpha, DDPM("linear")(torch.arange(1000)).alpha)


def test_ddpm_interpolates_the_log_ratio_between_its_steps() -> None:
    schedule = DDPM()
    low, high, between = (float(schedule(t).log_ratio) for t in (400, 401, 400.3))
    assert_close(between, 0.7 * low + 0.3 * high, rtol=1e-12, atol=0)


@given(t=st.floats(0, 999))
def test_ddpm_and_its_levels_preserve_variance(t: float) -> None:
    for schedule in (DDPM(), DDPM.stable_diffusion(), DDPM("cosine")):
        assert_close(float(schedule(t).norm), 1.0, rtol=1e-14, atol=0)
        assert_close(float(schedule.level(t + 0.01).norm), 1.0, rtol=1e-14, atol=0)


@pytest.mark.parametrize("steps", [10, 11, 28, 1000])
def test_ddpm_grids_keep_to_whole_times(steps: int) -> None:
    """The times of diffusers' 'linspace' spacing."""
    times = np.linspace(0, 999, steps).round()[::-1].copy()
    assert_close(DDPM().time(DDPM().grid(steps)[:-1]), torch.from_numpy(times), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    "betas",
    [torch.tensor([0.1]), torch.tensor([0.1, 1.0]), torch.tensor([0.0, 0.1]), torch.ones(2, 2) / 3, torch.tensor(0.5)],
)
def test_betas_must_be_a_list_of_shares(betas: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"at least two numbers inside \(0, 1\)"):
        DDPM(betas)(0)


def test_a_grid_has_no_more_steps_than_the_schedule() -> None:
    assert len(DDPM(steps=50).grid(50)) == 51
    with pytest.raises(ValueError, match="A schedule of 50 steps has no grid of 51; take 50 at most"):
        DDPM(steps=50).grid(51)


def test_unknown_betas_are_named() -> None:
    with pytest.raises(
        ValueError, match="Unknown beta schedule 'sigmoid'; choose 'linear', 'scaled-linear' or 'cosine'"
    ):
        DDPM("sigmoid")(0)  # type: ignore[arg-type]


# EDM


@pytest.mark.parametrize("scheduler", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.01, 50.0, 3.0)])
def test_edm_grids_are_those_of_diffusers(scheduler: str, low: float, high: float, rho: float) -> None:
    peer = getattr(diffusers, scheduler)(sigma_min=low, sigma_max=high, rho=rho)
    peer.set_timesteps(18)
    assert_close(EDM(low, high, rho).grid(18).sigma, peer.sigmas.double(), rtol=5e-6, atol=0)


def test_edm_grid_is_equation_5_of_karras22() -> None:
    i = torch.arange(18, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert_close(EDM().grid(18).sigma[:-1], sigma, rtol=1e-12, atol=0)
    assert EDM().grid(18).alpha.tolist() == [1.0] * 19


@pytest.mark.parametrize(("low", "high"), [(0.0, 80.0), (-1.0, 80.0), (80.0, 0.002)])
def test_edm_range_must_rise_from_above_zero(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"0 < sigma_min < sigma_max, got {low} and {high}"):
        EDM(low, high)


@given(
    count=st.integers(2, 40), low=st.floats(1e-3, 1.0), factor=st.floats(1.5, 1e4), rho=st.sampled_from([1.0, 3.0, 7.0])
)
def test_ratios_are_even_in_their_root(count: int, low: float, factor: float, rho: float) -> None:
    root = spaced_ratios(count, low * factor, low, rho) ** (1 / rho)
    assert_close(root.diff(), (root[-1] - root[0]).expand(count - 1) / (count - 1), rtol=1e-6, atol=0)
    assert_close((root[[0, -1]] ** rho).tolist(), [low * factor, low], rtol=1e-9, atol=0)


def test_ratios_are_even_in_log_by_default() -> None:
    assert_close(spaced_ratios(3, 100.0, 1.0).tolist(), [100.0, 10.0, 1.0], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("high", "low"), [(1.0, 2.0), (1.0, 0.0), (2.0, 2.0)])
def test_ratios_must_fall(high: float, low: float) -> None:
    with pytest.raises(ValueError, match=f"from a high to a lower positive value, got {high} to {low}"):
        spaced_ratios(4, high, low)


# Flow


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_grids_are_those_of_diffusers(shift: float) -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    peer.set_timesteps(sigmas=np.linspace(1.0, 1 / 12, 12))
    grid = Flow(shift).grid(12)
    assert_close(grid.sigma, peer.sigmas.double(), rtol=5e-6, atol=0)
    assert_close(grid.alpha + grid.sigma, torch.ones(13, dtype=torch.float64), rtol=1e-15, atol=0)


def test_the_shift_moves_the_grid_and_not_the_meaning_of_time() -> None:
    assert torch.equal(Flow(3.0)(0.3).sigma, Flow()(0.3).sigma)
    assert_close(float(Flow(3.0).grid(2).sigma[1]), 0.75, rtol=1e-12, atol=0)


def test_a_flow_grid_that_starts_lower_is_still_shifted() -> None:
    """Unshifting its times gives even steps."""
    t = Flow(3.0).grid(6, start=2.0).sigma
    u = t / (3 - 2 * t)
    assert_close(u.diff(), (-u[0] / 6).expand(6), rtol=1e-9, atol=0)


def test_flow_reaches_pure_noise() -> None:
    assert (float(Flow().level(math.inf).alpha), float(Flow().level(math.inf).sigma)) == (0.0, 1.0)
