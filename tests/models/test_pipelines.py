"""Teleported pipelines: the call that a user already writes gives the hybrid that our own loop gives, or a scheduler
stepped by hand from where the jump lands."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils import logging
from tiny_calls import CALLS, STEPS, denoiser, noise, pipeline, run, statistics
from torch import Tensor
from torch.testing import assert_close

from underpaint.models.load import load_model
from underpaint.models.pipelines.record import record
from underpaint.models.pipelines.teleport import teleport_pipeline
from underpaint.models.schedulers.levels import prediction_of, scheduler_levels
from underpaint.noise import NoiseLevel
from underpaint.prediction import from_denoised
from underpaint.sampling.auto import choose_skip
from underpaint.sampling.solvers import Solver, ddim_step, dpmpp_2m, euler, heun
from underpaint.sampling.teleport import steps_above, teleport
from underpaint.theory.gaussian import Gaussian

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:__array", "ignore:The networks of this pipeline are shown")
SKIP = 2


def final(pipe: Any, kind: str, **changes: Any) -> Tensor:
    """The last state that a call of the pipeline comes to, as rows."""
    return run(lambda **given: record(pipe, **given), kind, **changes).trajectory.final


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to what float32 and guidance leave of it."""
    assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def first_state(kind: str, scheduler: Any) -> tuple[Tensor, torch.Generator]:
    """Rows, as the pipeline scales its noise for a scheduler with its whole grid."""
    unit, generator = noise(kind)
    return float(getattr(scheduler, "init_noise_sigma", 1.0)) * unit, generator


# Equal to our own loop

OWN: list[tuple[str, str, Solver]] = [
    ("ddpm", "DDIM", euler),
    ("ddim", "DDIM", euler),
    ("dit", "DDIM", euler),
    ("dit", "DPMSolverMultistep", dpmpp_2m),
    ("sd", "DDIM", euler),
    ("sd", "EulerDiscrete", euler),
    ("sd", "HeunDiscrete", heun),
    ("sd", "DPMSolverMultistep", dpmpp_2m),
    ("sd3", "FlowMatchEulerDiscrete", euler),
]


@pytest.mark.parametrize(("kind", "name", "solver"), OWN, ids=[f"{kind}-{name}" for kind, name, _ in OWN])
def test_the_call_gives_what_our_own_loop_gives(kind: str, name: str, solver: Solver) -> None:
    pipe, gaussian = pipeline(kind, name), statistics(kind)
    found = final(teleport_pipeline(pipe, gaussian, SKIP), kind)
    pipe.scheduler.set_timesteps(STEPS)
    levels = scheduler_levels(pipe.scheduler)
    if solver is heun:  # both calls of a step are in the list
        levels = NoiseLevel.join(levels[::2], levels[-1])
    x, _ = first_state(kind, pipe.scheduler)
    expected = teleport(gaussian, denoiser(kind), x.flatten(1), levels, SKIP, solver).final
    close(found[: len(expected)], expected)


@pytest.mark.parametrize(("kind", "name"), [("ddim", "DDIM"), ("dit", "DDIM"), ("sd", "EulerDiscrete")])
def test_a_recording_begins_where_the_jump_lands(kind: str, name: str) -> None:
    pipe, gaussian = pipeline(kind, name), statistics(kind)
    found = run(lambda **given: record(teleport_pipeline(pipe, gaussian, SKIP), **given), kind).trajectory
    pipe.scheduler.set_timesteps(STEPS)
    levels = scheduler_levels(pipe.scheduler)
    landed = gaussian.flow(first_state(kind, pipe.scheduler)[0].flatten(1), levels[0], levels[SKIP])
    assert_close(found.level.ratio, levels[SKIP:].ratio)
    close(found.x[0, : len(landed)], landed)
    close(found.denoised[0, : len(landed)], denoiser(kind)(landed, levels[SKIP]))


# Equal to a scheduler of the user's, stepped from where the jump lands

BY_HAND = [
    ("ddpm", "DDPM"),
    ("dit", "UniPCMultistep"),
    ("sd", "DDPM"),
    ("sd", "PNDM"),
    ("sd", "UniPCMultistep"),
    ("sd", "DEISMultistep"),
    ("sd", "EulerAncestralDiscrete"),
    ("sd", "KDPM2Discrete"),
    ("sd", "DPMSolverSinglestep"),
    ("sd3", "FlowMatchHeunDiscrete"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "KDPM2Discrete": {"num_train_timesteps": 100},
    "PNDM": {"skip_prk_steps": True},
}


@pytest.mark.parametrize(("kind", "name"), BY_HAND)
def test_the_call_gives_what_the_scheduler_gives_from_the_landing(kind: str, name: str) -> None:
    options = OPTIONS.get(name, {})
    pipe, gaussian = pipeline(kind, name, **options), statistics(kind)
    found = final(teleport_pipeline(pipe, gaussian, SKIP), kind)
    scheduler = pipeline(kind, name, **options).scheduler
    scheduler.set_timesteps(STEPS)
    levels, times = scheduler_levels(scheduler), scheduler.timesteps
    x, generator = first_state(kind, scheduler)
    calls = SKIP * scheduler.order
    if name == "PNDM":  # its first step has two calls
        times = times[[SKIP + 1, SKIP + 2, *range(SKIP + 2, len(times))]]
        levels = NoiseLevel.join(levels[0], levels[2:])
    else:
        times = times[calls:]
    here = levels[calls]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(calls)
    state = gaussian.flow(x.flatten(1), levels[0], here).view_as(x)
    denoise, model = denoiser(kind), load_model(pipe)
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in times:
        level = scheduler_levels(scheduler)[scheduler.step_index or calls] if hasattr(scheduler, "step_index") else None
        level = model.schedule(float(t)) if level is None else level
        rows = state.flatten(1)
        output = from_denoised(denoise(rows, level), rows, level, prediction_of(scheduler)).view_as(state)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(state, t)  # some schedulers count by it
        state = scheduler.step(output, t, state, **draws).prev_sample
    close(found[: len(state)], state.flatten(1))


def test_a_timestep_that_stands_twice_where_the_jump_lands_is_no_image_start() -> None:
    """Karras' levels at low noise round to the same times; a scheduler would begin at the second of them."""
    pipe, gaussian = (
        pipeline("sd", "DPMSolverMultistep", use_karras_sigmas=True, num_train_timesteps=5),
        statistics("sd"),
    )
    pipe.scheduler.set_timesteps(STEPS)
    levels = scheduler_levels(pipe.scheduler)
    assert pipe.scheduler.timesteps.tolist() == [4, 3, 2, 1, 1, 0]
    found = run(lambda **given: record(teleport_pipeline(pipe, gaussian, 3), **given), "sd").trajectory
    assert torch.equal(found.level.ratio, levels[3:].ratio)
    here, there = found.level[0], found.level[1]  # the first step is of first order
    close(found.x[1], ddim_step(found.x[0], found.denoised[0], here, there))


def test_flux_keeps_its_tokens_and_its_time_shift() -> None:
    """The same from the user's own latents and the tail of the unshifted sigmas."""
    pipe, gaussian = pipeline("flux"), statistics("flux")
    found = final(teleport_pipeline(pipe, gaussian, SKIP), "flux")
    sigmas = np.linspace(1, 1 / STEPS, STEPS)
    run(pipe, "flux", sigmas=sigmas)
    levels = scheduler_levels(pipe.scheduler)
    packed = pipe._pack_latents(noise("flux")[0], 1, 4, 8, 8)
    landed = gaussian.flow(packed.flatten(1), levels[0], levels[SKIP]).view_as(packed)
    expected = final(pipe, "flux", latents=landed, sigmas=sigmas[SKIP:])
    close(found, expected)


# What is skipped


class Calls:
    """How often a network is called."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.count = 0
        network.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1

    def during(self, pipe: Any, kind: str) -> int:
        before = self.count
        run(pipe, kind)
        return self.count - before


@pytest.mark.parametrize(("name", "skipped"), [("DDIM", 2), ("DPMSolverMultistep", 2), ("HeunDiscrete", 4)])
def test_steps_are_skipped_whole_and_no_call_is_made_for_them(name: str, skipped: int) -> None:
    pipe = pipeline("sd", name)
    calls = Calls(pipe.unet)
    assert calls.during(pipe, "sd") - calls.during(teleport_pipeline(pipe, statistics("sd"), SKIP), "sd") == skipped


@pytest.mark.filterwarnings("ignore:A jump to sigma/alpha = 100 skips nothing")
@pytest.mark.parametrize(("name", "ratio"), [("DDIM", 100.0), ("EulerDiscrete", 2.0), ("HeunDiscrete", 0.5)])
def test_a_ratio_lands_at_the_last_level_not_below_it(name: str, ratio: float) -> None:
    pipe, gaussian = pipeline("sd", name), statistics("sd")
    pipe.scheduler.set_timesteps(STEPS)
    levels = scheduler_levels(pipe.scheduler)[:: pipe.scheduler.order]
    steps = steps_above(levels[:STEPS], ratio)
    assert (steps == 0) == (ratio == 100.0)
    found = run(teleport_pipeline(pipe, gaussian, ratio), "sd").images
    assert np.array_equal(found, run(teleport_pipeline(pipe, gaussian, steps), "sd").images)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_call_says_what_it_saved_and_warns_under_guidance(guidance: float) -> None:
    quick = teleport_pipeline(pipeline("sd", "EulerDiscrete"), statistics("sd"), SKIP)
    assert quick.steps_saved is None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(quick, "sd", guidance_scale=guidance)
    assert quick.steps_saved == SKIP
    assert any("as guidance does it" in str(warning.message) for warning in told) == (guidance > 1)


def test_no_skip_changes_no_bit() -> None:
    pipe = pipeline("sd", "EulerDiscrete")
    plain = run(pipe, "sd").images
    assert np.array_equal(run(teleport_pipeline(pipe, statistics("sd"), 0), "sd").images, plain)


def test_auto_takes_the_ratio_that_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a grid of the model's own schedule, for the condition that is given."""
    monkeypatch.setattr("underpaint.models.pipelines.teleport._STEPS", 5)
    pipe, gaussian = pipeline("dit"), statistics("dit")
    teleported = teleport_pipeline(
        pipe, gaussian, tolerance=500.0, condition=3, guidance=4.0, seeds=range(2), measure=True
    )
    choice, model = teleported.skip_choice, load_model(pipe)
    expected = choose_skip(model.conditional(3, 4.0), gaussian, model.schedule.grid(5), range(2), 500.0, measure=True)
    assert choice.skip == expected.skip > 0
    assert torch.equal(choice.predicted, expected.predicted)
    assert_close(choice.measured, expected.measured, rtol=0, atol=0, equal_nan=True)
    by_ratio = run(teleport_pipeline(pipe, gaussian, choice.ratio), "dit").images
    assert np.array_equal(run(teleported, "dit").images, by_ratio)


# What is left as it was


@pytest.mark.parametrize(("kind", "name"), [("ddim", "DDIM"), ("sd", "EulerDiscrete"), ("dit", "DPMSolverMultistep")])
def test_the_pipeline_itself_is_left_as_it_was(kind: str, name: str) -> None:
    pipe = pipeline(kind, name)
    scheduler, plain = pipe.scheduler, run(pipe, kind).images
    teleported = teleport_pipeline(pipe, statistics(kind), SKIP)
    first = run(teleported, kind).images
    assert not np.array_equal(first, plain)
    assert pipe.scheduler is scheduler
    assert type(scheduler) is getattr(diffusers, f"{name}Scheduler")
    assert np.array_equal(run(pipe, kind).images, plain)
    assert np.array_equal(run(teleported, kind).images, first)
    network = getattr(pipe, "unet", None) or pipe.transformer
    assert not network._forward_pre_hooks
    again = teleport_pipeline(teleported, statistics(kind), SKIP)
    assert np.array_equal(run(again, kind).images, first)


def test_a_call_that_fails_leaves_the_next_one_right() -> None:
    pipe = pipeline("sd")
    teleported = teleport_pipeline(pipe, statistics("sd"), SKIP)
    first = run(teleported, "sd").images

    def stop(*_: Any) -> None:
        raise RuntimeError("stop")

    hook = pipe.unet.register_forward_hook(stop)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            run(teleported, "sd")
    finally:
        hook.remove()
    assert not pipe.unet._forward_pre_hooks
    assert np.array_equal(run(teleported, "sd").images, first)


def test_what_is_saved_is_the_plain_pipeline(tmp_path: Any) -> None:
    pipe = pipeline("ddim")
    teleport_pipeline(pipe, statistics("ddim"), SKIP).save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is diffusers.DDIMPipeline
    assert type(loaded.scheduler) is diffusers.DDIMScheduler


def test_callbacks_see_the_states_from_the_landing_on() -> None:
    pipe, seen = pipeline("sd"), []

    def look(_: Any, index: int, time: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(int(time))
        return given

    run(teleport_pipeline(pipe, statistics("sd"), SKIP), "sd", callback_on_step_end=look)
    pipe.scheduler.set_timesteps(STEPS)
    assert seen == pipe.scheduler.timesteps[SKIP:].tolist()


# What is refused


@pytest.mark.parametrize("skip", [-1, -0.5, "most"])
def test_a_skip_is_a_number_or_auto(skip: Any) -> None:
    with pytest.raises(ValueError, match="skip is a number of steps, a ratio sigma/alpha or 'auto'"):
        teleport_pipeline(pipeline("ddim"), statistics("ddim"), skip)


def test_a_skip_leaves_a_step_to_the_network() -> None:
    teleported = teleport_pipeline(pipeline("ddim"), statistics("ddim"), STEPS)
    with pytest.raises(ValueError, match="skip must leave one of the 6 steps of this call to the network, got 6"):
        run(teleported, "ddim")


def test_the_gaussian_must_fit() -> None:
    teleported = teleport_pipeline(pipeline("sd"), statistics("ddim"), SKIP)
    with pytest.raises(ValueError, match=r"are \(4, 8, 8\), 256 numbers, and the Gaussian describes 192"):
        run(teleported, "sd")


def test_a_scheduler_of_no_known_family_is_refused() -> None:
    pipe = pipeline("ddim")
    pipe.scheduler = diffusers.ScoreSdeVeScheduler()
    with pytest.raises(ValueError, match="levels of a ScoreSdeVeScheduler are not known"):
        teleport_pipeline(pipe, statistics("ddim"), SKIP)


def test_runge_kutta_starts_are_refused() -> None:
    teleported = teleport_pipeline(pipeline("sd", "PNDM", skip_prk_steps=False), statistics("sd"), SKIP)
    with pytest.raises(ValueError, match="only with skip_prk_steps=True"):
        run(teleported, "sd")


def test_the_scheduler_is_changed_before() -> None:
    teleported = teleport_pipeline(pipeline("sd"), statistics("sd"), SKIP)
    teleported.scheduler = diffusers.EulerDiscreteScheduler.from_config(teleported.scheduler.config)
    with pytest.raises(ValueError, match="change it before teleport_pipeline"):
        run(teleported, "sd")


class Asking:
    """A pipeline that asks for the type of its scheduler itself, as those of Bria do."""

    def __init__(self) -> None:
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        self.transformer = torch.nn.Linear(6, 6)
        self.components = {"transformer": self.transformer, "scheduler": self.scheduler}

    def __call__(self, state: torch.Tensor) -> tuple[bool, bool, torch.Tensor]:
        kind = type(self.scheduler)
        self.scheduler.set_timesteps(STEPS)
        for t in self.scheduler.timesteps:
            state = self.scheduler.step(self.transformer(state), t, state).prev_sample
        plain = diffusers.FlowMatchEulerDiscreteScheduler
        return not (kind != plain), hash(kind) == hash(plain), state  # noqa: SIM202, as they ask


class Telling(Asking):
    """A pipeline that names the next timestep to its scheduler, which states no order, as those of unCLIP do."""

    def __call__(self, state: torch.Tensor) -> list[int]:  # type: ignore[override]
        self.scheduler.set_timesteps(STEPS)
        times = self.scheduler.timesteps
        for t, after in zip(times, [*times[1:], None], strict=True):
            state = self.scheduler.step(self.transformer(state), t, state, prev_timestep=after).prev_sample
        return times.tolist()


def test_the_scheduler_of_unclip_is_teleported() -> None:
    pipe = Telling()
    pipe.scheduler = diffusers.UnCLIPScheduler()
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, rest = pipe(start), teleport_pipeline(pipe, Gaussian.isotropic(torch.zeros(6), 1.0), 2)(start)
    assert rest == whole[2:]


def test_a_scheduler_that_is_asked_for_its_type_is_of_it() -> None:
    gaussian, start = Gaussian.isotropic(torch.zeros(6), 1.0), torch.randn(3, 6)
    pipe = Asking()
    with torch.no_grad():
        for call in (teleport_pipeline(pipe, gaussian, 2), lambda state: record(pipe, state).output):
            assert call(start)[:2] == (True, True)
    assert type(pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.95, 1.0])
def test_an_image_is_no_start(strength: float) -> None:
    for name in ("DDIM", "EulerDiscrete"):
        pipe = pipeline("sd", name)
        parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
        from_image = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        from_image.set_progress_bar_config(disable=True)
        teleported = teleport_pipeline(from_image, statistics("sd"), SKIP)
        given = {k: v for k, v in CALLS["sd"].items() if k not in ("height", "width")}
        with pytest.raises(ValueError, match="Teleport starts from noise"):
            teleported(image=torch.zeros(1, 3, 16, 16), strength=strength, num_inference_steps=STEPS, **given)


def test_auto_is_refused_for_packed_states() -> None:
    with pytest.raises(ValueError, match="'auto' is not offered for the packed states of a FluxPipeline"):
        teleport_pipeline(pipeline("flux"), statistics("flux"))
