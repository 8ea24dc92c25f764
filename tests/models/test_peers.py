"""The peers that solvers are held against: diffusers' own schedulers, on the level grids that diffusers offers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from distributions import MIXTURE
from torch import Tensor

from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.models.schedulers.peers import SCHEDULERS, betas, calls_of, grids, lay, lay_default, peer, steps_of
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.sampling.solvers import euler
from underpaint.sampling.trajectory import initial_noise, sample

DIMENSION = 6


def own_loop(scheduler: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What diffusers itself makes of a state: its last denoised image, and where it ends."""
    denoised, level = x, scheduler_levels(scheduler)
    for t, here in zip(scheduler.timesteps, level, strict=False):
        denoised = MIXTURE(x, here)
        x = scheduler.step(denoised, t, x).prev_sample
    return denoised, x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_peer_is_the_scheduler_of_diffusers(name: str) -> None:
    """On its default levels, and on those of Karras."""
    eps = initial_noise((0, 1, 2), DIMENSION, NoiseLevel(0.0, 1.0), torch.float64)
    kind, options = SCHEDULERS[name]
    for karras in (False, True):
        scheduler = getattr(diffusers, kind)(prediction_type="sample", use_karras_sigmas=karras, **options)
        scheduler.set_timesteps(7)
        level = scheduler_levels(scheduler)
        denoised, end = own_loop(scheduler, eps)
        if karras:  # whose last two are one in DEIS
            level = NoiseLevel.join(level[:-1], NoiseLevel.clean())
        final = sample(MIXTURE, level[0].norm * eps, level, peer(name)).final
        if level[-1].sigma == 0:
            torch.testing.assert_close(final, denoised, rtol=1e-5, atol=1e-5)
        if not karras and bool(end.isfinite().all()):
            torch.testing.assert_close(final, level[-1].norm * end, rtol=1e-5, atol=1e-5)
        assert bool(end.isfinite().all()) or name.endswith("bh1")  # which divides by zero in its last step
        if not karras and name != "DDIM":  # whose default levels are those of another scheduler
            torch.testing.assert_close(lay_default(DDPM(), name, 7).ratio, level.ratio, rtol=3e-3, atol=1e-9)


def test_first_order_is_ddim() -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(8)
    level = lay_default(DDPM(), "DDIM", 8)
    eps = initial_noise((0, 1, 2), DIMENSION, NoiseLevel(0.0, 1.0), torch.float64)
    final = sample(MIXTURE, eps, level, peer("DDIM")).final
    torch.testing.assert_close(final, own_loop(scheduler, eps)[1], rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(final, sample(MIXTURE, eps, level, euler).final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
def test_first_order_is_ddim_on_any_schedule(schedule: Schedule) -> None:
    level = lay(schedule, "log", 8)
    x = initial_noise((0, 1, 2), DIMENSION, level[0], torch.float64)
    finals = [sample(MIXTURE, x, level, solver).final for solver in (peer("DDIM"), euler)]
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_peer_does_not_mind_the_scale_of_the_state(name: str) -> None:
    """EDM's levels, and the same ratios in variance preserving form."""
    level = EDM().grid(8)
    scaled = NoiseLevel(level.alpha / level.norm, level.sigma / level.norm)
    finals = []
    for there in (level, scaled):
        x = initial_noise((0, 1, 2), DIMENSION, there[0], torch.float64)
        finals.append(sample(MIXTURE, x, there, peer(name)).final)
    torch.testing.assert_close(*finals, rtol=1e-5, atol=1e-5)


def test_heun_is_that_of_diffusers() -> None:
    scheduler = diffusers.HeunDiscreteScheduler(trained_betas=betas(DDPM()).numpy())
    scheduler.set_timesteps(4)  # whole times
    level = lay_default(DDPM(), "heun", 4)
    eps = initial_noise((0, 1, 2), DIMENSION, NoiseLevel(0.0, 1.0), torch.float64)
    x = eps * scheduler.sigmas[0]
    for t, here in zip(scheduler.timesteps, scheduler_levels(scheduler), strict=False):
        x = scheduler.step((x - MIXTURE(x, here)) / here.sigma, t, x).prev_sample
    run = sample(MIXTURE, level[0].sigma * eps, level, peer("heun"))
    torch.testing.assert_close(run.final, x, rtol=2e-3, atol=2e-3)
    assert run.nfe == len(scheduler.timesteps) == calls_of("heun", 4)


@pytest.mark.parametrize("schedule", [DDPM(), DDPM.stable_diffusion(), DDPM("cosine")])
def test_grids_are_those_of_diffusers(schedule: DDPM) -> None:
    options = {spacing: {"timestep_spacing": spacing} for spacing in ("linspace", "leading", "trailing")}
    options |= {"karras": {"use_karras_sigmas": True}, "beta": {"use_beta_sigmas": True}}
    laid = [*options.items(), ("log", {"use_exponential_sigmas": True}), ("log", {"use_lu_lambdas": True})]
    for name, option in laid:
        if isinstance(schedule.betas, str) and schedule.betas == "cosine" and "timestep_spacing" not in option:
            continue  # its first levels lie above the highest that grids in sigma begin with here
        scheduler = diffusers.DPMSolverMultistepScheduler(trained_betas=betas(schedule).numpy(), **option)
        scheduler.set_timesteps(9)
        ours, theirs = lay(schedule, name, 9), scheduler_levels(scheduler)
        torch.testing.assert_close(ours.ratio, theirs.ratio, rtol=3e-3, atol=0)


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow(), Flow(shift=3.0), DDPM("cosine")])
def test_every_grid_falls_to_zero_and_every_solver_runs_on_it(schedule: Schedule) -> None:
    noise = initial_noise((0,), DIMENSION, NoiseLevel(0.0, 1.0), torch.float64)
    for grid in grids(schedule):
        level = lay(schedule, grid, 5)
        assert len(level) == 6
        assert level.ratio[-1] == 0
        assert bool((level.ratio.diff() < 0).all())
        for name in ("UniPC-3 bh1", "DEIS-3", "DPM-Solver++ 3M", "heun"):
            run = sample(MIXTURE, level[0].sigma * noise, level, peer(name))
            assert run.nfe == calls_of(name, 5)
    assert torch.equal(lay(EDM(), "karras", 5).sigma, EDM().grid(5).sigma)
    assert len(lay_default(schedule, "UniPC-2 bh2", 5)) == 6


def test_heun_never_takes_more_calls_than_it_is_given() -> None:
    assert [calls_of("heun", steps_of("heun", calls)) for calls in (5, 6, 7, 8)] == [5, 5, 7, 7]
    assert steps_of("DDIM", 6) == calls_of("DDIM", 6) == 6


# What diffusers does where peers are not left to it: what docs/peers.md says of 0.42


@pytest.mark.parametrize(
    ("kind", "options"), [("DEISMultistepScheduler", {}), ("SASolverScheduler", {"tau_func": lambda t: 0})]
)
def test_two_schedulers_leave_noise_in_samples_of_flow_models(kind: str, options: dict[str, Any]) -> None:
    """Data of zeros, for which every step is exact, but the last one ends at 1/N."""
    for steps in (10, 20):
        scheduler = getattr(diffusers, kind)(prediction_type="flow_prediction", use_flow_sigmas=True, **options)
        scheduler.set_timesteps(steps)
        x = torch.ones(1, 4)
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            x = scheduler.step(x / sigma, t, x).prev_sample
        torch.testing.assert_close(x, torch.full_like(x, 1 / steps), rtol=1e-3, atol=0)
    level = lay(Flow(), "own", 10)
    assert not bool(sample(lambda x, _: 0 * x, torch.ones(1, 4), level, peer("DEIS-3")).final.any())


@pytest.mark.parametrize("levels", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
def test_the_third_order_stopped_at_the_lowest_level_is_nan_from_15_steps(levels: str) -> None:
    for steps, finite in ((14, True), (15, False)):
        options = {"final_sigmas_type": "sigma_min", "prediction_type": "sample", levels: True}
        scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, **options)
        scheduler.set_timesteps(steps)
        x = torch.ones(1, 4)
        for t in scheduler.timesteps:
            x = scheduler.step(0.5 * x, t, x).prev_sample
        assert bool(x.isfinite().all()) == finite


def test_ddim_with_linspace_misses_its_own_levels() -> None:
    """For eps = x it goes down to the level of t - T/N, which is not the next that it is called at."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(10)
    times, bar = scheduler.timesteps.tolist(), scheduler.alphas_cumprod
    x = torch.ones(1, 4)
    for t, after in ((times[1], times[1] - 100), (times[1], times[2])):
        there = ((bar[after] / bar[t]).sqrt() * (1 - (1 - bar[t]).sqrt()) + (1 - bar[after]).sqrt()).expand(1, 4)
        close = torch.allclose(scheduler.step(x, t, x).prev_sample, there, rtol=1e-5)
        assert close == (after != times[2])


def test_the_first_call_of_ipndm_has_no_effect() -> None:
    ends = []
    for first in (0.0, 5.0):
        scheduler, x = diffusers.IPNDMScheduler(), torch.ones(1, 4)
        scheduler.set_timesteps(4)
        for k, t in enumerate(scheduler.timesteps):
            x = scheduler.step(0.3 * x if k else torch.full_like(x, first), t, x).prev_sample
        ends.append(x)
    assert torch.equal(*ends)


def test_deis_of_third_order_gets_worse_from_some_60_steps() -> None:
    """Its coefficients are differences of logarithms in single precision. UniPC of the same order goes on."""
    fine = lay(EDM(), "log", 300)
    noise = initial_noise(range(8), DIMENSION, fine[0], torch.float64)
    wanted = sample(MIXTURE, noise, fine, peer("UniPC-3 bh2"), every=300).final

    def error(name: str, steps: int) -> float:
        level = lay(EDM(), "karras", steps)
        return float((sample(MIXTURE, noise, level, peer(name), every=steps).final - wanted).square().mean().sqrt())

    assert error("DEIS-3", 100) > 1.2 * error("DEIS-3", 60)
    assert error("UniPC-3 bh2", 100) < 0.3 * error("UniPC-3 bh2", 60)
