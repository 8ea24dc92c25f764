"""The continuous VP-SDE, schedules of two functions, and parts of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.schedules import VPSDE, Interpolant, Truncated


def cosine() -> Interpolant:
    """Its ratio tan(pi t/2) is infinite at t = 1 and 0 at t = 0."""
    return Interpolant(lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t))


def reversed_flow() -> Interpolant:
    """Data at t = 1."""
    return Interpolant(lambda t: t, lambda t: 1 - t, noise=0.0, data=1.0)


def exploding() -> Interpolant:
    """alpha = 1 and sigma geometric from .01 to 50 in whole times up to 1000; a function that returns a number."""
    return Interpolant(lambda t: 1.0, lambda t: 0.01 * 5000 ** (t / 1000), noise=1000.0)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "vp-sde": VPSDE,
    "constant beta": lambda: VPSDE(12.0, 12.0),
    "cosine": cosine,
    "reversed flow": reversed_flow,
    "exploding": exploding,
    "truncated": lambda: Truncated(DDPM(), 0.02, 60.0),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return SCHEDULES[request.param]()


def test_each_is_a_schedule(schedule: Schedule) -> None:
    assert isinstance(schedule, Schedule)


@given(ratio=st.floats(0.03, 40.0))
@settings(deadline=None, max_examples=20)
def test_a_level_has_its_ratio_and_time_inverts_it(ratio: float) -> None:
    for make in SCHEDULES.values():
        made = make()
        level = made.level(ratio)
        assert_close(float(level.ratio), ratio, rtol=1e-12, atol=0)
        again = made(made.time(level))
        assert_close(again.alpha, level.alpha, rtol=1e-8, atol=1e-11)
        assert_close(again.sigma, level.sigma, rtol=1e-8, atol=1e-11)


def test_time_depends_on_the_ratio_alone_and_takes_tensors(schedule: Schedule) -> None:
    level = schedule.level(torch.tensor([12.0, 1.0, 0.1]))
    scaled = NoiseLevel(3 * level.alpha, 3 * level.sigma)
    assert_close(schedule.time(scaled), schedule.time(level), rtol=1e-9, atol=0)
    assert schedule.time(level).shape == (3,)


@pytest.mark.parametrize("steps", [1, 2, 3, 18])
@pytest.mark.parametrize("start", [None, 12.0])
def test_grids_fall_to_data_exactly_once(schedule: Schedule, steps: int, start: float | None) -> None:
    grid = schedule.grid(steps, start)
    assert len(grid) == steps + 1
    assert bool((grid.ratio.diff() < 0).all())
    assert (grid.sigma == 0).tolist() == [False] * steps + [True]
    assert float(grid.alpha[-1]) == 1.0
    if start is not None:
        assert_close(float(grid.ratio[0]), start, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        schedule.grid(0)


def test_times_stay_within_their_ends() -> None:
    pure, clean = Flow()(1.0), NoiseLevel.clean()
    for made, noise, data in ((VPSDE(), 1.0, 1e-5), (cosine(), 1.0, 0.0), (reversed_flow(), 0.0, 1.0)):
        assert (float(made.time(pure)), float(made.time(clean))) == pytest.approx((noise, data), rel=1e-12)


def test_the_vp_sde_solves_its_equation() -> None:
    """d log alpha/dt = -beta(t)/2, by differences, from alpha(0) = 1; and it preserves variance."""
    made, t = VPSDE(0.3, 12.0), torch.linspace(0.01, 1, 50, dtype=torch.float64)
    step = 1e-5
    slope = (made(t + step).alpha.log() - made(t - step).alpha.log()) / (2 * step)
    assert_close(slope, -(0.3 + (12.0 - 0.3) * t) / 2, rtol=1e-7, atol=0)
    assert_close(made(t).norm, torch.ones_like(t))
    assert_close(float(made(1e-9).sigma) ** 2, 0.3e-9, rtol=1e-6, atol=0)


def test_the_vp_sde_is_the_limit_of_ddpm() -> None:
    """Betas beta(t)/N, for large N."""
    steps = 20000
    betas = torch.linspace(0.1 / steps, 20.0 / steps, steps, dtype=torch.float64)
    at = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert_close(DDPM(betas)(at * steps - 1).alpha, VPSDE()(at).alpha, rtol=2e-3, atol=0)


def test_an_interpolant_is_the_family_that_its_functions_are() -> None:
    flow, ratio = reversed_flow(), torch.tensor([0.02, 0.7, 30.0], dtype=torch.float64)
    assert_close(flow.level(ratio).alpha, Flow().level(ratio).alpha)
    assert_close(flow.time(flow.level(ratio)), 1 - Flow().time(Flow().level(ratio)), rtol=0, atol=1e-12)
    assert_close(flow.grid(7).sigma, Flow().grid(7).sigma)
    assert_close(exploding().level(ratio).sigma, EDM().level(ratio).sigma)
    beyond = exploding().level(1e5)
    assert_close(float(beyond.ratio), 1e5)
    assert float(cosine().level(math.inf).alpha) == 0.0


@pytest.mark.parametrize(
    ("alpha", "sigma", "options", "message"),
    [
        (lambda t: t, lambda t: 1 - t, {}, "must fall from noise .t = 1. to data .t = 0.; it does not from t = 1 on"),
        (lambda t: 1 + 0 * t, lambda t: (t - 0.3).abs() + 0.1, {}, "does not from t = 0.2998"),
        (lambda t: 1.0, lambda t: 1.0, {}, "must fall"),
        (lambda t: 1 - t, lambda t: t, {"noise": 0.5, "data": 0.5}, "must fall"),
        (lambda t: 1 - 2 * t, lambda t: t, {}, "finite alpha >= 0"),
        (lambda t: 1 - t, lambda t: t.log(), {}, "finite sigma >= 0"),
    ],
)
def test_functions_that_make_no_schedule_get_a_sentence(alpha, sigma, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interpolant(alpha, sigma, **options)


@pytest.mark.parametrize("options", [{"beta_min": 0.0}, {"beta_max": math.inf}, {"epsilon": 0.0}, {"epsilon": 1.0}])
def test_a_vp_sde_needs_positive_betas_and_times(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"positive, finite betas|inside \(0, 1\)"):
        VPSDE(**options)


def logs(grid: NoiseLevel) -> Tensor:
    return grid.ratio[:-1].log()


def test_a_truncated_schedule_keeps_to_its_part() -> None:
    whole, part = EDM(), Truncated(EDM(), 0.1, 20.0)
    grid = part.grid(9)
    assert_close(grid.ratio[[0, 8]], torch.tensor([20.0, 0.1], dtype=torch.float64))
    inner = whole.grid(9, 20.0)
    shares = (logs(inner) - logs(inner)[0]) / (logs(inner)[-1] - logs(inner)[0])
    assert_close((logs(grid) - logs(grid)[0]) / (logs(grid)[-1] - logs(grid)[0]), shares)  # spacing in proportion
    assert_close(Truncated(EDM(), high=20.0).grid(9).ratio, inner.ratio)
    assert_close(Truncated(DDPM(), low=1e-4).grid(9).ratio, DDPM().grid(9).ratio)  # nothing is cut
    assert float(Truncated(Flow(), 0.1).grid(4).ratio[0]) == math.inf
    assert_close(Truncated(Flow(), 0.5).grid(2).ratio[1:], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert part.ratios == (0.1, 20.0)
    assert_close(part(3.0).sigma, whole(3.0).sigma)
    with pytest.raises(ValueError, match="cut at sigma/alpha = 20; a grid cannot start at 40"):
        part.grid(9, 40.0)
    for low, high in ((-1.0, 2.0), (3.0, 3.0), (5.0, 2.0)):
        with pytest.raises(ValueError, match="cut to 0 <= low < high"):
            Truncated(EDM(), low, high)
