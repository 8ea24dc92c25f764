"""Our integrator as a scheduler: equal to our own loop in every pipeline, exact for Gaussians in every family, and a
scheduler of diffusers in all else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils import logging
from tiny_calls import STEPS, denoiser, noise, pipeline, run, statistics
from torch import Tensor
from torch.testing import assert_close

from underpaint.data.store import save_gaussian
from underpaint.models.pipelines.record import record
from underpaint.models.pipelines.teleport import teleport_pipeline
from underpaint.models.schedulers.configs import OURS
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.models.schedulers.spectrum import spectrum
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel
from underpaint.prediction import Prediction, from_denoised
from underpaint.sampling.exponential import gaussian_ancestral, gaussian_exponential
from underpaint.sampling.teleport import teleport
from underpaint.sampling.trajectory import sample
from underpaint.theory.covariance import Covariance
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:__array")


def ours(config: Any, gaussian: Gaussian, **options: Any) -> GaussianExponentialScheduler:
    return GaussianExponentialScheduler.from_config(config, gaussian=gaussian, **options)


def equipped(kind: str, **options: Any) -> Any:
    """A tiny pipeline with our scheduler made from the config of its own: the line that a user writes."""
    pipe = pipeline(kind)
    pipe.scheduler = ours(pipe.scheduler.config, statistics(kind), **options)
    return pipe


# Equal to our own loop


@pytest.mark.parametrize(
    ("kind", "order", "corrector"),
    [
        ("ddim", 1, False),
        ("ddpm", 3, True),
        ("dit", 2, True),
        ("sd", 1, True),
        ("sd", 2, False),
        ("sd3", 1, True),
        ("sd3", 3, False),
    ],
)
def test_a_pipeline_gives_what_our_own_loop_gives(kind: str, order: int, corrector: bool) -> None:
    pipe = equipped(kind, order=order, corrector=corrector)
    recording = run(lambda **given: record(pipe, **given), kind)
    levels = scheduler_levels(pipe.scheduler)
    assert len(levels) == STEPS + 1
    assert recording.trajectory.nfe == STEPS
    x = noise(kind)[0].flatten(1)
    own = sample(denoiser(kind), x, levels, gaussian_exponential(statistics(kind), order, corrector, "denoised"))
    scale = float(own.x.abs().max())
    assert_close(recording.trajectory.x, own.x[:, : len(x)], rtol=0, atol=2e-4 * scale)
    assert_close(recording.trajectory.level.ratio, levels.ratio)


def test_flux_keeps_its_tokens_and_its_time_shift() -> None:
    """At order 1, without a Gaussian's help, the integrator is Euler's step, which is that of Flux."""
    pipe, gaussian = pipeline("flux"), Gaussian.isotropic(torch.zeros(256), 0.0)
    plain = run(pipe, "flux").images
    times = pipe.scheduler.timesteps
    pipe.scheduler = ours(pipe.scheduler.config, gaussian, order=1, corrector=False)
    found = run(pipe, "flux").images
    assert_close(torch.as_tensor(found), torch.as_tensor(plain), rtol=0, atol=1e-4)
    assert torch.equal(pipe.scheduler.timesteps, times)


# Exact for Gaussians in every family

CONFIGS: dict[str, tuple[Any, Prediction | None]] = {
    "eps": (diffusers.DDPMScheduler(), "eps"),
    "v": (diffusers.DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear"), "v"),
    "x0": (diffusers.PNDMScheduler(prediction_type="sample"), "x0"),
    "cosine": (diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"), "eps"),
    "no-signal": (
        diffusers.DDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
        "v",
    ),
    "log-levels": (diffusers.EulerDiscreteScheduler(use_exponential_sigmas=True), "eps"),
    "flow": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "flow"),
    "flow-heun": (diffusers.FlowMatchHeunDiscreteScheduler(), "flow"),
    "flow-unipc": (
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        "flow",
    ),
    "edm": (diffusers.EDMEulerScheduler(), None),
    "edm-v": (diffusers.EDMDPMSolverMultistepScheduler(sigma_max=120.0, prediction_type="v_prediction"), None),
}


def predicted(scheduler: Any, denoised: Tensor, state: Tensor, level: NoiseLevel, kind: Prediction | None) -> Tensor:
    """What a network would put out that denoises so: EDM's by its skip and output scales, c_skip x + c_out F."""
    if kind is not None:
        return from_denoised(denoised, state, level, kind)
    sigma, data = float(level.sigma), scheduler.config.sigma_data
    sign = -1 if scheduler.config.prediction_type == "v_prediction" else 1
    norm = (sigma**2 + data**2) ** 0.5
    return (denoised - (data / norm) ** 2 * state) / (sign * sigma * data / norm)


def solve(scheduler: Any, denoise: Denoiser, state: Tensor, kind: Prediction | None, disturb: Any = None) -> Tensor:
    """The loop of a pipeline, around states [B, ...]."""
    for i, t in enumerate(scheduler.timesteps):
        level, rows = scheduler_levels(scheduler)[i], state.flatten(1)
        output = predicted(scheduler, denoise(rows, level), rows, level, kind)
        state = scheduler.step(output.view_as(state), t, state).prev_sample
        if disturb is not None:
            state = disturb(i, state)
    return state


@pytest.mark.parametrize(("source", "kind"), CONFIGS.values(), ids=CONFIGS)
def test_gaussian_data_are_solved_exactly_in_any_number_of_steps(
    full: Gaussian, source: Any, kind: Prediction | None, normal: Any
) -> None:
    """For latents of any shape."""
    stated = isinstance(source, diffusers.FlowMatchHeunDiscreteScheduler)  # its config alone may be a flow map's
    scheduler = ours(source if stated else source.config, full, corrector=True, ending="flow")
    for steps in (1, 4):
        scheduler.set_timesteps(steps)
        levels = scheduler_levels(scheduler)
        assert len(levels) == steps + 1
        assert float(levels.sigma[-1]) == 0
        start = levels[0].norm * normal(5, 3, 1, 2)
        found = solve(scheduler, full, start, kind)
        exact = full.flow(start.flatten(1), levels[0], levels[-1])
        # the network predicts from levels with little signal, in which x0 is a small difference
        assert_close(found.flatten(1), exact, rtol=0, atol=1e-6)


def test_the_levels_are_those_of_the_family() -> None:
    """From the start of each schedule, and with its time shift."""
    gaussian = Gaussian.isotropic(torch.zeros(6), 1.0)
    starts = {
        "eps": DDPM()(999.0),
        "edm": EDM()(80.0),
        "edm-v": EDM()(120.0),
        "flow": Flow()(1.0),
        "flow-unipc": Flow()(3.0 * 0.999 / (1 + 2 * 0.999)),
    }
    for name, level in starts.items():
        scheduler = ours(CONFIGS[name][0].config, gaussian)
        scheduler.set_timesteps(5)
        found = scheduler_levels(scheduler)[0]
        assert_close(
            torch.stack([found.alpha, found.sigma]), torch.stack([level.alpha, level.sigma]), atol=1e-4, rtol=1e-4
        )


def test_pred_original_sample_is_what_the_network_denoised(full: Gaussian, normal: Any) -> None:
    scheduler = ours(diffusers.DDIMScheduler().config, full)
    scheduler.set_timesteps(4)
    level, state = scheduler_levels(scheduler)[0], normal(2, 6, 1, 1)
    output = from_denoised(2 * full(state.flatten(1), level), state.flatten(1), level, "eps").view_as(state)
    result = scheduler.step(output, scheduler.timesteps[0], state)
    assert_close(result.pred_original_sample.flatten(1), 2 * full(state.flatten(1), level))
    scheduler.set_timesteps(4)
    as_tuple = scheduler.step(output, scheduler.timesteps[0], state, return_dict=False)
    assert torch.equal(as_tuple[0], result.prev_sample)
    assert torch.equal(as_tuple[1], result.pred_original_sample)


def test_a_learned_variance_is_left_out(full: Gaussian, normal: Any) -> None:
    states = {}
    for extra in (0, 2):
        scheduler = ours(diffusers.DDIMScheduler().config, full)
        scheduler.set_timesteps(4)
        output = torch.cat([normal(3, 2, 3, 1), normal(3, extra, 3, 1, seed=4)], 1)
        states[extra] = scheduler.step(output, scheduler.timesteps[0], normal(3, 2, 3, 1, seed=1)).prev_sample
    assert torch.equal(states[0], states[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_outside_and_not_inside(full: Gaussian, dtype: torch.dtype, normal: Any) -> None:
    """The state within is float32, so that errors of rounding do not pile up."""
    gaussian = full.to(dtype=torch.float32)
    found = {}
    for kind in (torch.float32, dtype):
        scheduler = ours(diffusers.FlowMatchEulerDiscreteScheduler().config, gaussian)
        scheduler.set_timesteps(40)
        state = normal(4, 6, seed=2).to(dtype).to(kind)
        for t in scheduler.timesteps:
            state = scheduler.step(torch.full_like(state, 0.5), t, state).prev_sample
        found[kind] = state
    assert found[dtype].dtype == dtype
    assert_close(found[dtype], found[torch.float32].to(dtype), rtol=0, atol=0)


# States that change between steps


def test_a_changed_state_is_where_it_goes_on_from(full: Gaussian, mixture: Any, normal: Any) -> None:
    """As inpainting does: the rest is what our own loop makes of the changed state, and nothing is owed to the past."""
    scheduler = ours(diffusers.DDIMScheduler().config, full, order=2, corrector=True)
    scheduler.set_timesteps(6)
    levels, start, change = scheduler_levels(scheduler), normal(3, 6), normal(3, 6, seed=1)
    found = solve(scheduler, mixture, start, "eps", lambda i, state: state + change if i == 2 else state)
    scheduler.set_timesteps(6)
    written = solve(scheduler, mixture, start, "eps", lambda i, state: state.add_(change) if i == 2 else state)
    assert_close(written, found, rtol=0, atol=0)
    solver = gaussian_exponential(full, 2, True, "denoised")
    before = sample(mixture, start, levels, solver).x[3]
    expected = sample(mixture, before + change, levels[3:], solver).final
    assert_close(found, expected, rtol=0, atol=1e-5)
    scheduler.set_timesteps(6)
    assert_close(
        solve(scheduler, mixture, start, "eps"), sample(mixture, start, levels, solver).final, rtol=0, atol=1e-5
    )


def test_it_begins_in_the_middle_for_a_pipeline_that_starts_from_an_image(
    full: Gaussian, mixture: Any, normal: Any
) -> None:
    for config in (diffusers.DDIMScheduler().config, diffusers.FlowMatchEulerDiscreteScheduler().config):
        scheduler = ours(config, full)
        scheduler.set_timesteps(6)
        levels, image, eps = scheduler_levels(scheduler), normal(3, 6), normal(3, 6, seed=1)
        scheduler.set_begin_index(3)
        time, flow = scheduler.timesteps[3:4], "shift" in config
        state = scheduler.scale_noise(image, time, eps) if flow else scheduler.add_noise(image, eps, time)
        assert_close(state, levels[3].alpha * image + levels[3].sigma * eps, rtol=0, atol=1e-6)
        expected = sample(mixture, state, levels[3:], gaussian_exponential(full, 1, True, "denoised")).final
        kind: Prediction = "flow" if flow else "eps"
        for i in range(3, 6):
            output = from_denoised(mixture(state, levels[i]), state, levels[i], kind)
            state = scheduler.step(output, scheduler.timesteps[i], state).prev_sample
        assert_close(state, expected, rtol=0, atol=1e-5)


def test_a_run_leaves_nothing_behind() -> None:
    """Also one that is broken off, and a copy made in its midst."""
    pipe = equipped("ddim", order=3)
    first = run(pipe, "ddim").images
    assert np.array_equal(run(pipe, "ddim").images, first)
    pipe.scheduler.set_timesteps(STEPS)
    state = torch.ones(2, 3, 8, 8)
    pipe.scheduler.step(state, pipe.scheduler.timesteps[0], state)
    pipe.scheduler = copy.deepcopy(pipe.scheduler)
    assert np.array_equal(run(pipe, "ddim").images, first)


# What the network is told


def test_sigmas_are_taken_as_they_are() -> None:
    gaussian, sigmas = Gaussian.isotropic(torch.zeros(6), 1.0), [60.0, 9.0, 1.0, 0.1]
    for source, schedule, told in (
        (diffusers.DDIMScheduler(), DDPM(), lambda t: t),
        (diffusers.EDMEulerScheduler(), EDM(), lambda t: 0.25 * t.log()),
    ):
        scheduler = ours(source.config, gaussian)
        scheduler.set_timesteps(sigmas=sigmas)
        levels = scheduler_levels(scheduler)
        assert_close(levels.ratio, torch.tensor([*sigmas, 0.0], dtype=torch.float64), rtol=1e-6, atol=0)
        times = told(schedule.time(levels[:-1])).float()
        assert_close(scheduler.timesteps, times, rtol=0, atol=1e-3)
    flow = ours(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, gaussian)
    flow.set_timesteps(sigmas=[0.9, 0.5])
    assert_close(scheduler_levels(flow).sigma.float(), torch.tensor([2.7 / 2.8, 0.75, 0.0]))


@pytest.mark.parametrize("name", ["StableDiffusionSigmas", "StableDiffusionXLSigmas"])
def test_levels_may_end_in_zero_as_those_of_diffusers_do(name: str, full: Gaussian, normal: Any) -> None:
    """As many calls as Euler makes of them, and the same result as without the last."""
    given, finals = diffusers.schedulers.AysSchedules[name], []
    euler = diffusers.EulerDiscreteScheduler()
    euler.set_timesteps(sigmas=given)
    for sigmas in (given, given[:-1]):
        scheduler = ours(euler.config, full)
        scheduler.set_timesteps(sigmas=sigmas)
        assert len(scheduler.timesteps) == len(euler.timesteps) == 10
        assert_close(scheduler_levels(scheduler).ratio, torch.tensor(given, dtype=torch.float64), rtol=1e-6, atol=0)
        finals.append(solve(scheduler, full, normal(2, 6), "eps"))
    assert torch.equal(*finals)
    flow = ours(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, full)
    flow.set_timesteps(3, sigmas=[0.9, 0.5, 0.0])
    assert_close(scheduler_levels(flow).sigma.float(), torch.tensor([2.7 / 2.8, 0.75, 0.0]))
    for wrong in ([], [0.0], [1.0, 2.0, 0.0]):
        with pytest.raises(ValueError, match=r"Levels must fall from first to last and begin above 0, got sigmas = \["):
            scheduler.set_timesteps(sigmas=wrong)


def test_sigmas_of_a_flow_on_betas_are_shifted_as_those_of_unipc(full: Gaussian) -> None:
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    unipc = diffusers.UniPCMultistepScheduler(**options)
    scheduler = ours(unipc, full)
    for each in (unipc, scheduler):
        each.set_timesteps(sigmas=np.array([0.9, 0.5, 0.2]))
    assert_close(scheduler_levels(scheduler).sigma, scheduler_levels(unipc).sigma, rtol=1e-6, atol=0)
    assert_close(scheduler.timesteps, 1000 * scheduler.sigmas[:-1])


def test_what_pipelines_hand_on_for_other_schedulers_is_taken_or_refused_by_name(full: Gaussian, normal: Any) -> None:
    scheduler, state = ours(diffusers.DDIMScheduler().config, full), normal(2, 6)
    scheduler.set_timesteps(3, original_inference_steps=None)
    with pytest.raises(
        ValueError, match="integrator takes no original_inference_steps, got 50: a state is at one level"
    ):
        scheduler.set_timesteps(3, original_inference_steps=50)
    first, second, _ = scheduler.timesteps
    with pytest.raises(ValueError, match=r"takes no per_token_timesteps, got a tensor \(2, 3\)"):
        scheduler.step(state, first, state, per_token_timesteps=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"takes no s_churn, got 0\.4"):
        scheduler.step(state, first, state, s_churn=0.4)
    with pytest.raises(ValueError, match=r"The next timestep here is \[.*\], got prev_timestep = 7"):
        scheduler.step(state, first, state, prev_timestep=7)
    plain = scheduler.step(state, first, state).prev_sample
    scheduler.set_timesteps(3)
    same = scheduler.step(
        state, first, state, prev_timestep=second, per_token_timesteps=None, s_churn=0.0, s_noise=1.0
    ).prev_sample
    assert torch.equal(plain, same)


def test_a_timestep_that_stands_twice_begins_at_its_first(full: Gaussian, normal: Any) -> None:
    """Schedulers of diffusers take the second of them when a run begins."""
    scheduler = ours(diffusers.DDIMScheduler(num_train_timesteps=100).config, full)
    scheduler.set_timesteps(4)
    levels, state = scheduler_levels(scheduler), normal(2, 6)
    scheduler.layout.timesteps = torch.tensor([99, 99, 50, 25])
    result = scheduler.step(torch.zeros(2, 6), scheduler.timesteps[0], state)
    assert_close(result.pred_original_sample, state / float(levels.alpha[0]), rtol=1e-5, atol=0)


def test_levels_even_in_log_have_their_own_times_and_not_rounded_ones() -> None:
    scheduler = ours(
        diffusers.DDIMScheduler().config, Gaussian.isotropic(torch.zeros(6), 1.0), use_exponential_sigmas=True
    )
    scheduler.set_timesteps(6)
    levels = scheduler_levels(scheduler)[:-1]
    steps = levels.log_ratio.diff()
    assert_close(steps, steps[:1].expand(5), rtol=1e-4, atol=0)
    assert_close(DDPM()(scheduler.timesteps).ratio, levels.ratio, rtol=1e-4, atol=0)


def test_timesteps_are_taken_as_they_are() -> None:
    scheduler = ours(diffusers.DDIMScheduler().config, Gaussian.isotropic(torch.zeros(6), 1.0))
    scheduler.set_timesteps(timesteps=[900, 400, 20])
    assert scheduler.timesteps.tolist() == [900, 400, 20]
    assert_close(scheduler_levels(scheduler)[:3].ratio, DDPM()(scheduler.timesteps).ratio, rtol=1e-4, atol=0)


def test_the_network_sees_what_its_family_shows_it(normal: Any) -> None:
    gaussian, state = Gaussian.isotropic(torch.zeros(6), 1.0), normal(2, 6)
    plain = ours(diffusers.EulerDiscreteScheduler().config, gaussian)
    plain.set_timesteps(3)
    assert plain.scale_model_input(state, plain.timesteps[0]) is state
    assert plain.init_noise_sigma == 1
    edm = ours(diffusers.EDMEulerScheduler().config, gaussian)
    edm.set_timesteps(3)
    assert edm.init_noise_sigma == pytest.approx(80, rel=1e-3)
    for i in (0, 1):
        sigma = float(scheduler_levels(edm).sigma[i])
        assert_close(edm.scale_model_input(state, edm.timesteps[i]), state / (sigma**2 + 0.25) ** 0.5)
        state = edm.step(state, edm.timesteps[i], state).prev_sample


# A scheduler of diffusers


def test_it_is_saved_and_loaded_with_its_gaussian(tmp_path: Path) -> None:
    gaussian = statistics("ddim")
    config = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False).config
    ours(config, gaussian, order=2, corrector=False, ending="flow", timestep_spacing="trailing").save_pretrained(
        tmp_path
    )
    assert {path.name for path in tmp_path.iterdir()} == {"scheduler_config.json", "gaussian.safetensors"}
    loaded = GaussianExponentialScheduler.from_pretrained(tmp_path)
    assert (loaded.config.integrator_order, loaded.config.corrector, loaded.config.ending) == (2, False, "flow")
    assert (loaded.config.beta_schedule, loaded.config.timestep_spacing) == ("scaled_linear", "trailing")
    assert torch.equal(loaded.gaussian.mean, gaussian.mean)
    assert torch.equal(loaded.gaussian.basis, gaussian.basis)
    assert torch.equal(loaded.gaussian.eigenvalues, gaussian.eigenvalues)
    other = Gaussian.isotropic(torch.zeros(6), 1.0)
    assert GaussianExponentialScheduler.from_pretrained(tmp_path, gaussian=other).gaussian is other


@pytest.mark.parametrize("kind", ["ddim", "sd3"])
def test_it_is_saved_and_loaded_with_its_pipeline(tmp_path: Path, kind: str) -> None:
    pipe = equipped(kind, order=2)
    images = run(pipe, kind).images
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    if kind == "ddim":  # this pipeline makes any scheduler that it is built with a DDIM
        loaded.scheduler = GaussianExponentialScheduler.from_pretrained(tmp_path / "scheduler")
    assert type(loaded.scheduler) is GaussianExponentialScheduler
    assert_close(torch.as_tensor(run(loaded, kind).images), torch.as_tensor(images), rtol=0, atol=1e-5)


def test_a_file_may_stand_for_the_gaussian(tmp_path: Path) -> None:
    save_gaussian(tmp_path / "some.safetensors", statistics("ddim"))
    scheduler = ours(diffusers.DDIMScheduler().config, tmp_path / "some.safetensors")  # type: ignore[arg-type]
    assert torch.equal(scheduler.gaussian.mean, statistics("ddim").mean)


def test_its_config_makes_it_again_and_others_of_diffusers() -> None:
    first = ours(diffusers.DDIMScheduler(beta_schedule="scaled_linear").config, statistics("ddim"), order=3)
    again = ours(first.config, statistics("ddim"))
    assert (again.config.integrator_order, again.config.beta_schedule) == (3, "scaled_linear")
    euler = diffusers.EulerDiscreteScheduler.from_config(first.config)
    assert euler.config.beta_schedule == "scaled_linear"
    assert len(first) == 1000
    assert first.order == 1


def test_with_teleport_it_is_our_own_loop_after_the_jump() -> None:
    pipe, gaussian = equipped("ddim"), statistics("ddim")
    found = run(lambda **given: record(teleport_pipeline(pipe, gaussian, 2), **given), "ddim").trajectory.final
    pipe.scheduler.set_timesteps(STEPS)
    levels, x = scheduler_levels(pipe.scheduler), noise("ddim")[0].flatten(1)
    assert len(levels) == STEPS + 1
    solver = gaussian_exponential(gaussian, 1, True, "denoised")
    expected = teleport(gaussian, denoiser("ddim"), x, levels, 2, solver).final
    assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# What is refused


def test_a_gaussian_is_needed() -> None:
    with pytest.raises(ValueError, match=r"needs gaussian=\.\.\., a Gaussian or a file of one"):
        GaussianExponentialScheduler.from_config(diffusers.DDIMScheduler().config)


@pytest.mark.parametrize(
    "source",
    [diffusers.ScoreSdeVeScheduler(), diffusers.EulerDiscreteScheduler(timestep_type="continuous")],
    ids=["no-betas", "continuous"],
)
def test_a_config_of_no_known_family_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="not made from betas"):
        ours(source.config, Gaussian.isotropic(torch.zeros(6), 1.0))


def test_a_config_of_two_families_is_refused_and_its_scheduler_is_not() -> None:
    gaussian, flow = Gaussian.isotropic(torch.zeros(6), 1.0), diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(
        ValueError, match=r"may be of a FlowMatchHeunDiscreteScheduler or .*; give the scheduler itself"
    ):
        ours(flow.config, gaussian)
    assert ours(flow, gaussian).config.layout == "FlowMatchEulerDiscreteScheduler"
    with pytest.raises(ValueError, match="is of a FlowMapEulerDiscreteScheduler, which is not handled"):
        ours(diffusers.FlowMapEulerDiscreteScheduler(), gaussian)


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="laid by a DPMSolverMultistepScheduler, which has no setting use_log_sigmas"):
        ours(diffusers.DDIMScheduler().config, Gaussian.isotropic(torch.zeros(6), 1.0), use_log_sigmas=True)


@pytest.mark.parametrize(("steps", "order"), [(5, 1), (9, 1), (10, 2), (14, 2)])
def test_the_order_depends_on_the_calls_unless_told(steps: int, order: int, tmp_path: Path) -> None:
    gaussian = statistics("ddim")
    scheduler = ours(diffusers.DDIMScheduler().config, gaussian)
    scheduler.save_pretrained(tmp_path)
    for untold in (scheduler, GaussianExponentialScheduler.from_pretrained(tmp_path)):
        told = [ours(diffusers.DDIMScheduler().config, gaussian, order=known) for known in (order, 3 - order)]
        same, other = (float((_run(untold, steps) - _run(one, steps)).abs().max()) for one in told)
        assert same < 1e-3 < 0.1 < other


def _run(scheduler: GaussianExponentialScheduler, steps: int) -> torch.Tensor:
    """A run whose network, of noise, is a smooth function of what it sees."""
    scheduler.set_timesteps(steps)
    state = torch.randn(2, scheduler.gaussian.dimension, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        state = scheduler.step(torch.tanh(state), t, state).prev_sample
    return state


def test_an_order_that_is_not_offered_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="order 1, 2 or 3, got 4"):
        ours(diffusers.DDIMScheduler().config, Gaussian.isotropic(torch.zeros(6), 1.0), order=4)


def test_what_a_step_cannot_take_is_refused(normal: Any) -> None:
    state, scheduler = normal(2, 6), ours(diffusers.EDMEulerScheduler().config, Gaussian.isotropic(torch.zeros(6), 1.0))
    with pytest.raises(ValueError, match="Call set_timesteps before the first step"):
        scheduler.step(state, scheduler.timesteps[0], state)
    with pytest.raises(ValueError, match="laid by an EDMEulerScheduler take no timesteps"):
        scheduler.set_timesteps(timesteps=[3.0, 1.0])
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match=r"strength eta .* got -0\.5"):
        scheduler.step(state, scheduler.timesteps[0], state, eta=-0.5)
    with pytest.raises(ValueError, match=r"are \(7,\), 7 numbers, and the Gaussian describes 6"):
        scheduler.step(normal(2, 7), scheduler.timesteps[0], normal(2, 7))
    solve(scheduler, lambda x, level: x, normal(2, 6), None)
    with pytest.raises(ValueError, match="All 3 steps are made; call set_timesteps"):
        scheduler.step(state, scheduler.timesteps[0], state)


# Noise on the way


def test_with_noise_it_takes_the_steps_of_our_own_loop(full: Gaussian, mixture: Mixture, normal: Any) -> None:
    """From the pipeline's generator, also where the pipeline asks for it by `eta`."""
    config, draw = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, torch.Generator()
    for given, asked in (({"eta": 0.8, "above": 1.0}, {}), ({"above": 1.0}, {"eta": 0.8}), ({"eta": 0.8}, {})):
        scheduler = ours(config, full, **given)
        scheduler.set_timesteps(5)
        x, levels = normal(3, 6), scheduler_levels(scheduler)
        draw.manual_seed(4)
        state = x
        for i, t in enumerate(scheduler.timesteps):
            output = from_denoised(mixture(state, levels[i]), state, levels[i], "flow")
            state = scheduler.step(output, t, state, generator=draw, **asked).prev_sample
        draw.manual_seed(4)
        solver = gaussian_ancestral(
            full, 0.8, lambda x: torch.randn(x.shape, generator=draw, dtype=x.dtype), above=given.get("above")
        )
        assert_close(state, sample(mixture, x, levels, solver).final, rtol=1e-6, atol=1e-6)


def test_with_noise_it_keeps_the_variance_of_gaussian_data() -> None:
    values = torch.tensor([4.0, 0.5, 0.01], dtype=torch.float64)
    known = Gaussian(torch.zeros(3, dtype=torch.float64), Covariance(values, torch.eye(3).double()))
    scheduler = ours(diffusers.FlowMatchEulerDiscreteScheduler().config, known, eta=1.0, ending="flow", above=0.0)
    found = spectrum(scheduler, 4, values)
    assert found.draws == 4
    assert_close(found.share, torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)


def test_one_generator_for_each_state_is_taken_as_diffusers_takes_it(full: Gaussian, normal: Any) -> None:
    scheduler, state = ours(diffusers.DDIMScheduler().config, full, eta=1.0), normal(2, 6)

    def moved(rows: slice) -> Tensor:
        scheduler.set_timesteps(4)
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)][rows]
        given = {"generator": generators}
        return scheduler.step(torch.zeros_like(state[rows]), scheduler.timesteps[0], state[rows], **given).prev_sample

    assert_close(moved(slice(1, 2)), moved(slice(0, 2))[1:])


def test_every_setting_of_ours_is_known_where_configs_are_read(full: Gaussian) -> None:
    scheduler = ours(diffusers.DDIMScheduler().config, full)
    assert set(scheduler.config) - set(scheduler.layout.config) == set(OURS)


def test_the_strength_of_the_noise_is_kept_in_the_config(full: Gaussian, tmp_path: Path) -> None:
    scheduler = ours(diffusers.DDIMScheduler().config, full, eta=0.5, above=3.0)
    scheduler.save_pretrained(tmp_path)
    loaded = GaussianExponentialScheduler.from_pretrained(tmp_path)
    assert (loaded.config.integrator_eta, loaded.config.integrator_above) == (0.5, 3.0)
    assert GaussianExponentialScheduler.from_config(scheduler.config, gaussian=full).config.integrator_eta == 0.5
