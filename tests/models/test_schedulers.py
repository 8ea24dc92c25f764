"""Levels of diffusers' schedulers, against what their steps do to data of which every answer is known.

For a single point of data x0 the denoiser is x0 itself, and the probability flow is x = alpha x0 + sigma eps with one
and the same eps: any solver has to land there exactly, whatever its steps, if the levels are right. With noise added,
the mean and spread of many states are known. For a Gaussian the flow is known too,
and each solver nears it at its order.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import schedulers as peers
from diffusers.utils import logging
from torch import Tensor
from torch.testing import assert_close

from underpaint.models.schedulers.levels import (
    initial_scale,
    level_at,
    prediction_of,
    scales_input,
    scheduler_denoised,
    scheduler_levels,
    step_index,
    told_levels,
)
from underpaint.noise import NoiseLevel
from underpaint.prediction import from_denoised
from underpaint.theory.covariance import Covariance
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian

logging.set_verbosity_error()
pytestmark = [  # of diffusers with numpy 2, and of torchsde with rounded times
    pytest.mark.filterwarnings("ignore:__array"),
    pytest.mark.filterwarnings("ignore:Should have t"),
]

TYPES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample", "flow": "flow_prediction"}
VP = ("eps", "v", "x0")
CLEAN = {"clip_sample": False}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW_SIGMAS = {"use_flow_sigmas": True, "flow_shift": 3.0}
LISTED = ("Euler", "Heun", "LMS", "KDPM2")  # states x0 + sigma eps
STRIDERS = ("DDIM", "DDIMParallel", "CogVideoXDDIM")  # 990 timesteps make no 20 strides, nor does 'linspace'
TOLD = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")


#: These interpolate once for every training timestep when they are built, in Python.
SHORT_TABLE = {"num_train_timesteps": 200, "beta_start": 0.0005, "beta_end": 0.1}


def make(name: str, options: dict[str, Any] | None = None, kind: str = "", steps: int = 20) -> Any:
    """A scheduler by the short form of its name, for a prediction type, with its timesteps set."""
    cls = getattr(peers, f"{name}DiscreteScheduler" if name in LISTED else f"{name}Scheduler")
    options = (SHORT_TABLE if "KDPM2" in name else {}) | (options or {})
    if kind in TYPES and "prediction_type" in inspect.signature(cls.__init__).parameters:
        options["prediction_type"] = TYPES[kind]
    scheduler = cls(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def network_output(scheduler: Any, denoised: Tensor, x: Tensor, level: NoiseLevel, kind: str) -> Tensor:
    """What a perfect network says at a scheduler's state, by the definitions of each kind and not by our code for it:
    'edm' is Karras22's F, 'data' the velocity from noise to data."""
    if kind == "edm":
        sigma, width = level.sigma.to(x), scheduler.config.sigma_data
        sign = -1 if scheduler.config.prediction_type == "v_prediction" else 1
        skip, scale = width**2 / (sigma**2 + width**2), sign * sigma * width / (sigma**2 + width**2) ** 0.5
        return (denoised - skip * x) / scale
    if kind == "data":
        return -from_denoised(denoised, x, level, "flow")
    if kind == "v":  # of the state that the network sees: scaled to alpha^2 + sigma^2 = 1
        norm = torch.hypot(level.alpha, level.sigma)
        return from_denoised(denoised, x / norm.to(x), NoiseLevel(level.alpha / norm, level.sigma / norm), "v")
    return from_denoised(denoised, x, level, kind)  # type: ignore[arg-type]


def solve(scheduler: Any, x: Tensor, denoise: Denoiser, kind: str, **given: Any) -> Tensor:
    """All states [N+1, B, D] that the scheduler visits; on the way its reading of the outputs is compared with ours."""
    levels, states = told_levels(scheduler), [x]
    twice = len(scheduler.timesteps.unique()) < len(scheduler.timesteps)
    for i, (t, level) in enumerate(zip(scheduler.timesteps, levels, strict=False)):
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(x, t)
            assert scales_input(scheduler) or torch.equal(seen, x)
        assert step_index(scheduler, t) == i or (twice and not hasattr(scheduler, "step_index"))
        denoised = denoise(x, level)
        output = network_output(scheduler, denoised, x, level, kind)
        rounding = 1e-6 * float(level.ratio.clamp(1, 1e4)) * float(x.abs().max())
        assert torch.allclose(scheduler_denoised(scheduler, output, x, level), denoised, rtol=1e-4, atol=rounding)
        result = scheduler.step(output, t, x, **given)
        if "pred_original_sample" in result:
            assert torch.allclose(result.pred_original_sample, denoised, rtol=1e-4, atol=rounding)
        x = result.prev_sample
        states.append(x)
    return torch.stack(states)


POINT = torch.tensor([1.5, -0.3, 0.8, 0.0, -1.1, 0.4])


def point(x: Tensor, level: NoiseLevel) -> Tensor:
    return POINT.expand_as(x)


def noisy(level: NoiseLevel, eps: Tensor) -> Tensor:
    """alpha x0 + sigma eps at each of N levels, [N, B, D]."""
    return level.alpha.float().view(-1, 1, 1) * POINT + level.sigma.float().view(-1, 1, 1) * eps


#: (scheduler, options, what its network predicts)
EXACT: list[tuple[str, dict[str, Any], str]] = [
    *(("DDIM", CLEAN, kind) for kind in VP),
    ("DDIM", {**CLEAN, "set_alpha_to_one": False, "steps_offset": 1}, "eps"),
    *(("DDIM", {**CLEAN, **ZERO_SNR}, kind) for kind in ("v", "x0")),
    ("DDIM", {**CLEAN, "timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"}, "v"),
    ("DDIMParallel", CLEAN, "eps"),
    ("CogVideoXDDIM", {}, "v"),
    *((name, {**CLEAN, "timestep_spacing": "linspace"}, kind) for name in STRIDERS for kind in VP),
    *((name, {**CLEAN, **ZERO_SNR, "num_train_timesteps": 990}, "v") for name in STRIDERS),
    ("PNDM", {}, "eps"),
    ("PNDM", {"skip_prk_steps": True, "steps_offset": 1}, "eps"),
    ("PNDM", {"skip_prk_steps": True, "set_alpha_to_one": True}, "eps"),
    *(
        ("PNDM", {"timestep_spacing": spacing, "num_train_timesteps": 990}, "eps")
        for spacing in ("linspace", "trailing")
    ),
    *((name, {}, kind) for name in (*LISTED, *TOLD) for kind in VP if (name, kind) != ("KDPM2", "x0")),
    *(
        (name, {f"use_{grid}_sigmas": True}, "eps")
        for name in (*LISTED, *TOLD)
        for grid in ("karras", "exponential", "beta")
    ),
    *(
        (name, {"timestep_spacing": spacing, "steps_offset": 1}, "eps")
        for name in (*LISTED, *TOLD)
        for spacing in ("leading", "trailing")
        if name != "DPMSolverSinglestep"
    ),
    *(
        (name, {"final_sigmas_type": "sigma_min"}, "eps")
        for name in ("Euler", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep")
    ),
    *((name, ZERO_SNR, "v") for name in ("Euler", "DPMSolverMultistep", "UniPCMultistep")),
    ("DPMSolverMultistep", {"use_lu_lambdas": True, "solver_order": 3}, "v"),
    ("DPMSolverSinglestep", {"solver_order": 3}, "x0"),
    ("UniPCMultistep", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, "eps"),
    *((name, FLOW_SIGMAS, "flow") for name in TOLD),
    ("EDMEuler", {}, "edm"),
    (
        "EDMEuler",
        {"prediction_type": "v_prediction", "sigma_schedule": "exponential", "final_sigmas_type": "sigma_min"},
        "edm",
    ),
    ("EDMDPMSolverMultistep", {}, "edm"),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}, "flow"),
    *(("FlowMatchEulerDiscrete", {f"use_{grid}_sigmas": True}, "flow") for grid in ("karras", "exponential", "beta")),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "data"),
    ("FlowMatchEulerDiscrete", {"shift_terminal": 0.1}, "flow"),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}, "flow"),
]
LATER = [("MiniMaxH3", {}, "data")]
EXACT += [case for case in LATER if hasattr(peers, f"{case[0]}Scheduler")]  # in newer versions of diffusers


def named(case: tuple[str, dict[str, Any], str]) -> str:
    name, options, kind = case
    return "-".join([name, kind, *(f"{key}={value}" for key, value in options.items() if value is not False)])


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_states_of_a_point_lie_at_the_levels(case: tuple[str, dict[str, Any], str], normal) -> None:
    scheduler = make(*case)
    levels = scheduler_levels(scheduler)
    eps = normal(16, 6).float()
    want = noisy(levels, eps)
    states = solve(scheduler, want[0], point, case[2])
    assert len(states) == len(levels) == len(scheduler.timesteps) + 1
    norm = levels.norm.float().view(-1, 1, 1)
    assert_close(states / norm, want / norm, rtol=0, atol=2e-4)


#: (scheduler, options, kind, arguments of its step)
RANDOM: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    *(("DDPM", CLEAN, kind, {}) for kind in VP),
    ("DDPM", {**CLEAN, "timestep_spacing": "trailing"}, "eps", {}),
    ("DDPMParallel", CLEAN, "eps", {}),
    ("DDIM", CLEAN, "eps", {"eta": 0.7}),
    ("EulerAncestralDiscrete", {}, "eps", {}),
    ("EulerAncestralDiscrete", {}, "v", {}),
    ("KDPM2AncestralDiscrete", {}, "eps", {}),
    ("KDPM2AncestralDiscrete", {"use_karras_sigmas": True}, "v", {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, "v", {}),
    ("SASolver", {}, "eps", {}),
    ("SASolver", {"use_karras_sigmas": True}, "eps", {}),
    ("SASolver", FLOW_SIGMAS, "flow", {}),
    ("LCM", {}, "eps", {}),
    ("LCM", {"set_alpha_to_one": False}, "v", {}),
    ("TCD", {}, "eps", {}),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, "flow", {}),
]
ABSENT = {
    "FlowMatchLCM": "flow",
    "LTXEulerAncestralRF": "flow",
    "DPMSolverSDE": "eps",
    "CosineDPMSolverMultistep": "edm",
}
for _name, _kind in ABSENT.items():  # in newer versions of diffusers, or with torchsde
    try:
        make(_name)
    except (AttributeError, ImportError):
        continue
    RANDOM.append((_name, {}, _kind, {}))


@pytest.mark.parametrize("case", RANDOM, ids=lambda case: named(case[:3]))
def test_noisy_states_of_a_point_have_the_mean_and_spread_of_the_levels(
    case: tuple[str, dict[str, Any], str, dict[str, Any]], normal
) -> None:
    name, options, kind, given = case
    torch.manual_seed(0)
    scheduler = make(name, options, kind)
    levels = scheduler_levels(scheduler)
    states = solve(scheduler, noisy(levels, normal(2000, 6).float())[0], point, kind, **given)
    noise = (states - levels.alpha.float().view(-1, 1, 1) * POINT).double()
    spread, mean = noise.square().mean((1, 2)).sqrt(), noise.mean(1).abs().amax(1)
    count = noise[0].numel()
    assert_close(spread, levels.sigma, rtol=5 / (2 * count) ** 0.5, atol=2e-6)
    assert bool((mean <= 5 * levels.sigma / len(noise[0]) ** 0.5 + 2e-6).all())


def test_the_solver_of_cogvideox_adds_noise_at_its_levels(normal) -> None:
    """It is handed the estimate of the step before; its pipeline does so."""
    torch.manual_seed(0)
    scheduler = make("CogVideoXDPM", {"timestep_spacing": "trailing"}, "v")
    levels, before, past = scheduler_levels(scheduler), None, None
    x = noisy(levels, normal(2000, 6).float())[0]
    for i, t in enumerate(scheduler.timesteps):
        output = network_output(scheduler, point(x, levels[i]), x, levels[i], "v")
        x, past = scheduler.step(output, past, t, before, x, return_dict=False)
        spread, before = (x - levels.alpha[i + 1].float() * POINT).double().square().mean().sqrt(), t
        assert_close(spread, levels.sigma[i + 1], rtol=0.03, atol=1e-3)
    with pytest.raises(ValueError, match="CogVideoXDPMScheduler steps by 50 timesteps, which are not so far apart"):
        scheduler_levels(make("CogVideoXDPM", {"timestep_spacing": "linspace"}, "v"))


def test_unclip_is_told_where_it_goes(normal) -> None:
    """Its pipeline names the next timestep; the spread is that of DDPM."""
    torch.manual_seed(0)
    scheduler = make("UnCLIP", CLEAN, "eps")
    levels = scheduler_levels(scheduler)
    x = noisy(levels, normal(2000, 6).float())[0]
    following = [int(t) for t in scheduler.timesteps[1:]] + [None]
    for i, (t, after) in enumerate(zip(scheduler.timesteps, following, strict=True)):
        output = network_output(scheduler, point(x, levels[i]), x, levels[i], "eps")
        x = scheduler.step(output, t, x, prev_timestep=after).prev_sample
        spread = (x - levels.alpha[i + 1].float() * POINT).double().square().mean().sqrt()
        assert_close(spread, levels.sigma[i + 1], rtol=0.03, atol=1e-3)


@pytest.fixture(scope="module")
def smooth(normal) -> Gaussian:
    basis = torch.linalg.qr(normal(6, 6)).Q
    variances = torch.tensor([4.0, 1.0, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
    return Gaussian(normal(6, seed=1).float(), Covariance(variances, basis.float()))


#: (scheduler, options, kind, error allowed at 50 steps)
ODE: list[tuple[str, dict[str, Any], str, float]] = [
    ("DDIM", CLEAN, "v", 0.1),
    ("PNDM", {}, "eps", 2e-3),
    ("PNDM", {"skip_prk_steps": True, "steps_offset": 1}, "eps", 2e-3),
    ("PNDM", {"skip_prk_steps": True}, "v", 0.06),  # it extrapolates v from level to level, as if it were eps
    ("Euler", {}, "eps", 0.1),
    ("Heun", {}, "eps", 0.05),
    ("KDPM2", {}, "v", 0.05),
    ("LMS", {"use_karras_sigmas": True}, "eps", 5e-3),
    ("DPMSolverMultistep", {"use_karras_sigmas": True}, "eps", 0.02),
    ("DPMSolverMultistep", FLOW_SIGMAS, "flow", 0.02),
    ("DPMSolverSinglestep", {"use_karras_sigmas": True}, "v", 0.03),
    ("UniPCMultistep", {"use_karras_sigmas": True}, "x0", 5e-3),
    ("DEISMultistep", {}, "eps", 0.02),
    ("EDMEuler", {}, "edm", 0.1),
    ("EDMDPMSolverMultistep", {}, "edm", 0.02),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}, "flow", 0.1),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}, "flow", 0.02),
]


@pytest.mark.parametrize("case", ODE, ids=lambda case: named(case[:3]))
def test_states_near_the_flow_of_a_gaussian(case: tuple[str, dict[str, Any], str, float], smooth: Gaussian) -> None:
    name, options, kind, allowed = case
    errors = []
    for steps in (25, 50):
        scheduler = make(name, options, kind, steps)
        levels = scheduler_levels(scheduler)
        x = smooth.sample(8, torch.Generator().manual_seed(0), levels[0])
        states = solve(scheduler, x, smooth, kind)
        flow = torch.stack([smooth.flow(x, levels[0], level) for level in levels])
        errors.append(float(((states - flow).norm(dim=2) / flow.norm(dim=2)).max()))
    assert errors[1] < min(allowed, 0.65 * errors[0])


def test_ipndm_follows_the_flow_once_it_has_left_pure_noise(smooth: Gaussian) -> None:
    """At alpha = 0 its first step divides 0 by 1e-8."""
    scheduler = make("IPNDM", steps=100)
    levels = scheduler_levels(scheduler)
    states = solve(scheduler, smooth.sample(8, torch.Generator().manual_seed(0), levels[0]), smooth, "v")
    flow = torch.stack([smooth.flow(states[1], levels[1], level) for level in levels])
    assert float(((states - flow).norm(dim=2) / flow.norm(dim=2))[1:].max()) < 0.02
    assert prediction_of(scheduler) == "v"


@pytest.mark.parametrize("name", ["DDIMInverse", "DPMSolverMultistepInverse"])
def test_inversion_climbs_from_data_to_noise(name: str, normal) -> None:
    options = {**CLEAN, "set_alpha_to_one": False} if name == "DDIMInverse" else {}
    scheduler = make(name, options, "eps")
    levels = scheduler_levels(scheduler)
    assert bool((levels.ratio.diff() >= 0).all())
    assert levels.ratio[-1] > 5000 * levels.ratio[0]
    want = noisy(levels, normal(4, 6).float())
    x = want[0]
    for i, t in enumerate(scheduler.timesteps):
        output = network_output(scheduler, point(x, levels[i]), x, levels[i], "eps")
        x = scheduler.step(output, t, x).prev_sample
        assert_close(x, want[i + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 7), ("trailing", 30), ("linspace", 10)])
def test_a_stride_that_misses_the_timesteps_is_told_another_level(spacing: str, steps: int) -> None:
    """DDIM's rule, written out for x = alpha x0 + sigma eps, with the noise that it infers at the level it is told."""
    scheduler = make("DDIM", {**CLEAN, "timestep_spacing": spacing}, steps=steps)
    table, stride = scheduler.alphas_cumprod.double().tolist(), 1000 // steps
    alpha, sigma = table[999] ** 0.5, (1 - table[999]) ** 0.5
    visited, told = scheduler_levels(scheduler), told_levels(scheduler)
    for i, time in enumerate(scheduler.timesteps.tolist()):
        assert_close([float(visited.alpha[i]), float(visited.sigma[i])], [alpha, sigma], rtol=1e-6, atol=1e-9)
        assert_close(float(told.alpha[i]) ** 2, table[time], rtol=1e-6, atol=0)
        ends, wrong = table[time - stride] if time >= stride else 1.0, told[i]
        shrink = (1 - ends) ** 0.5 / float(wrong.sigma)
        alpha, sigma = ends**0.5 + shrink * (alpha - float(wrong.alpha)), shrink * sigma
    assert_close([float(visited.alpha[-1]), float(visited.sigma[-1])], [alpha, sigma], rtol=1e-6, atol=1e-9)
    assert float((visited.ratio[:-1] / told.ratio).max()) > 1.01


def test_told_levels_are_those_of_the_states_unless_a_stride_misses() -> None:
    for name in ("DDIM", "DDPM", "Euler", "DPMSolverMultistep", "FlowMatchEulerDiscrete", "EDMEuler"):
        scheduler = make(name)
        assert torch.equal(told_levels(scheduler).ratio, scheduler_levels(scheduler).ratio[:-1])


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [("DDIM", 21, 0.0), ("Heun", 40, 0.0), ("KDPM2", 40, 0.0), ("FlowMatchHeunDiscrete", 40, 0.0), ("PNDM", 30, 0.01)],
)
def test_there_is_a_state_for_each_call_of_the_network(name: str, count: int, last: float) -> None:
    levels = scheduler_levels(make(name))
    assert len(levels) == count
    assert_close(float(levels.sigma[-1]), last, rtol=1e-3, atol=0)


def test_heun_meets_each_inner_level_twice_and_kdpm2_one_between() -> None:
    options = {**SHORT_TABLE, "use_karras_sigmas": True}
    heun, kdpm2 = (scheduler_levels(make(name, options)).sigma for name in ("Heun", "KDPM2"))
    assert torch.equal(heun[1:-1:2], heun[2::2])
    assert_close(kdpm2[::2], heun[::2], rtol=1e-6, atol=0)
    assert_close(kdpm2[1:-1:2], (heun[:-2:2] * heun[2::2]).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*LISTED, "EDMEuler", "EDMDPMSolverMultistep", "DDIM", "UniPCMultistep"])
def test_input_is_scaled_to_the_spread_that_the_network_expects(name: str) -> None:
    scheduler = make(name)
    x = torch.ones(1, 6)
    seen = scheduler.scale_model_input(x, scheduler.timesteps[0])
    sigma = float(scheduler_levels(scheduler).sigma[0])
    width = scheduler.config.get("sigma_data", 1.0)
    expected = 1 / (sigma**2 + width**2) ** 0.5 if scales_input(scheduler) else 1.0
    assert scales_input(scheduler) == (name in LISTED or name.startswith("EDM"))
    assert_close(float(seen[0, 0]), expected, rtol=1e-5, atol=0)


def test_initial_scale_is_what_pipelines_multiply_noise_with() -> None:
    assert initial_scale(make("DDIM")) == 1
    assert initial_scale(make("FlowMatchEulerDiscrete")) == 1  # it has none
    euler = make("Euler")
    assert initial_scale(euler) == float(scheduler_levels(euler).sigma[0])


def test_a_run_may_start_in_the_middle() -> None:
    """As image-to-image does, with schedulers that count and with those that look up."""
    euler, ddim = make("Euler"), make("DDIM")
    euler.set_begin_index(7)
    for scheduler in (euler, ddim):
        timestep = scheduler.timesteps[7]
        assert step_index(scheduler, timestep) == 7
        assert torch.equal(level_at(scheduler, timestep).sigma, scheduler_levels(scheduler).sigma[7])
        assert torch.equal(level_at(scheduler, timestep, 9).sigma, scheduler_levels(scheduler).sigma[9])


def test_the_counter_of_a_scheduler_tells_repeated_timesteps_apart() -> None:
    heun, x = make("Heun"), torch.zeros(1, 6)
    for i, t in enumerate(heun.timesteps[:4]):
        assert step_index(heun, t) == i
        heun.step(x, t, x)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ScoreSdeVe", "are not known; use .* Euler, Heun, LMS, KDPM2; flow match"),
        ("SCM", "has no noise levels here: its networks are consistency models"),
        ("CMStochasticIterative", "has no noise levels here: its networks are consistency models"),
        ("RePaint", "has no noise levels here: it goes back to more noise"),
    ],
)
def test_schedulers_of_no_known_family_are_refused(name: str, why: str) -> None:
    scheduler = getattr(peers, f"{name}Scheduler")()
    if name != "RePaint":
        scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=f"{name}Scheduler {why}"):
        scheduler_levels(scheduler)


@pytest.mark.skipif(not hasattr(peers, "FlowMapEulerDiscreteScheduler"), reason="of a newer diffusers")
def test_a_flow_map_has_levels_and_no_denoised_image(normal) -> None:
    """Its network predicts the mean velocity to the next level."""
    scheduler = make("FlowMapEulerDiscrete", {"shift": 3.0})
    levels, eps = scheduler_levels(scheduler), normal(4, 6).float()
    x = noisy(levels, eps)[0]
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(eps - POINT, t, x).prev_sample
        assert_close(x, noisy(levels, eps)[i + 1], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="predicts the mean velocity to the next level"):
        scheduler_denoised(scheduler, eps, x, levels[0])


class Copied:
    """A scheduler of another package, written by hand: DDIM on a cosine in ten steps, with a mistake if asked."""

    def __init__(self, mistake: float = 1.0) -> None:
        self.alphas_cumprod = (torch.arange(1, 101) / 101 * torch.pi / 2).cos() ** 2
        self.final_alpha_cumprod, self.config, self.mistake = torch.tensor(1.0), {"prediction_type": "epsilon"}, mistake
        self.num_inference_steps, self.timesteps = 10, torch.arange(99, 0, -10)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        here, before = self.alphas_cumprod[timestep], timestep - 10
        there = self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod
        x0 = (sample - (1 - here).sqrt() * model_output) / here.sqrt()
        return (there.sqrt() * x0 + self.mistake * (1 - there).sqrt() * model_output,)


def test_a_foreign_scheduler_is_understood_by_what_its_steps_do() -> None:
    found = scheduler_levels(Copied())
    want = (torch.arange(100, 0, -10) / 101 * torch.pi / 2).cos()
    assert_close(found.alpha[:-1].float(), want)
    assert float(found.sigma[-1]) == 0
    with pytest.raises(ValueError, match="noise levels of a Copied are not known"):
        scheduler_levels(Copied(mistake=1.1))


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="levels of a SimpleNamespace are not known"):
        scheduler_levels(SimpleNamespace(sigmas=[1.0]))
    with pytest.raises(ValueError, match="PNDMScheduler has no timesteps yet; call its set_timesteps"):
        scheduler_levels(peers.PNDMScheduler())
    with pytest.raises(ValueError, match="DDIMScheduler has no timestep 3 among its 20"):
        step_index(make("DDIM"), 3)
    strange = make("DDIM")
    strange.register_to_config(prediction_type="noise")
    with pytest.raises(ValueError, match="prediction_type 'noise'; known are epsilon, v_prediction"):
        prediction_of(strange)
