"""Recording a pipeline changes nothing about it, and what is recorded is what happened."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import diffusers
import pytest
import tiny
import torch
from diffusers.utils import logging
from torch import Tensor
from torch.testing import assert_close

from underpaint.models.pipelines.record import Recording, record
from underpaint.models.schedulers.levels import scheduler_levels

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:__array")

SIZE = {"height": 16, "width": 16}
PROMPT = {"prompt": "a red apple", "negative_prompt": "blue", "guidance_scale": 4.0, **SIZE}
CALLS: dict[str, dict[str, Any]] = {
    "ddpm": {"batch_size": 2},
    "dit": {"class_labels": [3, 7], "guidance_scale": 4.0},
    "sd": PROMPT,
    "sdxl": PROMPT,
    "sd3": PROMPT,
    "flux": {"prompt": "a red apple", "negative_prompt": "blue", "true_cfg_scale": 4.0, **SIZE},
}
MAKERS: dict[str, Callable[[], Any]] = {
    "ddpm": tiny.tiny_ddpm,
    "dit": tiny.tiny_dit,
    "sd": tiny.tiny_stable_diffusion,
    "sdxl": tiny.tiny_sdxl,
    "sd3": tiny.tiny_sd3,
    "flux": tiny.tiny_flux,
}


@cache
def built(kind: str) -> tuple[Any, Any]:
    pipe = MAKERS[kind]()
    return pipe, pipe.scheduler


def pipeline(kind: str, scheduler: str | None = None, **options: Any) -> Any:
    """One of the tiny pipelines, with its own scheduler or another made from its config."""
    pipe, own = built(kind)
    cls = type(own) if scheduler is None else getattr(diffusers, f"{scheduler}Scheduler")
    pipe.scheduler = cls.from_config(own.config, **options)
    return pipe


def run(call: Callable[..., Any], kind: str, steps: int = 3, **changes: Any) -> Any:
    """A seeded call: some pipelines hand no generator to their scheduler."""
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(1)
    given = {"generator": generator, "num_inference_steps": steps, "output_type": "np", **CALLS[kind], **changes}
    return call(**given)


def recorded(pipe: Any, kind: str, steps: int = 3, **changes: Any) -> Recording:
    return run(lambda **given: record(pipe, **given), kind, steps, **changes)


def images(output: Any) -> Tensor:
    return torch.as_tensor(output.images)


#: Pipelines and schedulers that work in them: with few, in one that hands on the user's eta or does not scale what the
#: network sees.
RUNS = [
    ("ddpm", "DDIM"),
    *(("dit", name) for name in ("DDIM", "DDPM", "PNDM", "DPMSolverMultistep", "UniPCMultistep")),
    *(
        (kind, name)
        for kind in ("sd", "sdxl")
        for name in (
            *("DDIM", "DDPM", "PNDM", "LCM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"),
            *("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2AncestralDiscrete"),
        )
        if kind == "sd" or name in ("DDIM", "EulerDiscrete", "HeunDiscrete", "UniPCMultistep")
    ),
    *((kind, name) for kind in ("sd3", "flux") for name in ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")),
]
#: Slow to build from a long table; and without the start that takes four steps.
OPTIONS = {"KDPM2AncestralDiscrete": {"num_train_timesteps": 100}, "PNDM": {"skip_prk_steps": True}}
RUNS.remove(("flux", "FlowMatchHeunDiscrete"))  # takes no sigmas, which the pipeline gives


@pytest.mark.parametrize(("kind", "scheduler"), RUNS)
def test_recording_changes_no_bit(kind: str, scheduler: str) -> None:
    pipe = pipeline(kind, scheduler, **OPTIONS.get(scheduler, {}))
    plain = images(run(pipe, kind))
    recording = recorded(pipe, kind)
    assert torch.equal(images(recording.output), plain)
    assert torch.equal(images(run(pipe, kind)), plain)  # nor of what comes after
    trajectory, levels = recording.trajectory, scheduler_levels(pipe.scheduler)
    steps, batch = len(levels) - 1, len(plain)
    assert trajectory.nfe == len(trajectory) == len(recording.timesteps) == steps
    assert trajectory.x.shape == (steps + 1, batch, torch.tensor(recording.shape).prod())
    assert torch.equal(trajectory.level.sigma, levels.sigma)
    assert torch.equal(trajectory.level.alpha, levels.alpha)
    assert torch.equal(recording.timesteps, pipe.scheduler.timesteps.double())
    decoded = recording.decode(trajectory.final)
    assert_close(decoded.permute(0, 2, 3, 1), plain, rtol=0, atol=1e-6)
    if kind == "ddpm":
        assert recording.conditional is None
        return
    assert recording.conditional is not None
    assert recording.unconditional is not None
    guided = recording.unconditional + 4 * (recording.conditional - recording.unconditional)
    scale = float(recording.guided.abs().max())
    assert_close(guided, recording.guided, rtol=0, atol=1e-4 * scale)
    assert float((recording.conditional - recording.unconditional).abs().max()) > 1e-3 * scale


def spied(name: str, **options: Any) -> Any:
    """A scheduler that keeps what it was handed and what it made of it."""
    cls = getattr(diffusers, f"{name}Scheduler")

    class Spy(cls):
        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **given: Any) -> Any:
            result = super().step(model_output, timestep, sample, **{**given, "return_dict": True})
            entry = (sample.clone(), result.get("pred_original_sample", sample).clone(), result.prev_sample.clone())
            self.__dict__.setdefault("kept", []).append(entry)
            return result if given.get("return_dict", True) else (result.prev_sample,)

    return Spy.from_config(built("sd")[1].config, **options)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "EulerDiscrete", "HeunDiscrete", "LMSDiscrete"])
def test_states_and_estimates_are_those_of_the_scheduler(name: str, prediction: str) -> None:
    pipe = pipeline("sd")
    pipe.scheduler = spied(name, prediction_type=prediction)
    trajectory = recorded(pipe, "sd", 4).trajectory
    before, denoised, after = (torch.stack(parts).flatten(2) for parts in zip(*pipe.scheduler.kept, strict=True))
    assert torch.equal(trajectory.x[:-1], before)
    assert torch.equal(trajectory.x[1:], after)
    assert_close(trajectory.denoised, denoised, rtol=1e-4, atol=1e-4 * float(denoised.abs().max()))


def test_a_stride_that_misses_its_timesteps_is_recorded_as_it_goes() -> None:
    """States where they are, estimates as the scheduler reads them at the level that it tells the network."""
    pipe = pipeline("sd")
    pipe.scheduler = spied("DDIM", timestep_spacing="linspace")
    with pytest.warns(UserWarning, match="Spy steps by a stride that misses its own timesteps: a state at"):
        recording = recorded(pipe, "sd", 10)
    table, times = pipe.scheduler.alphas_cumprod.double(), pipe.scheduler.timesteps
    assert_close(recording.told.alpha, table[times].sqrt())
    assert_close(recording.trajectory.level.ratio, scheduler_levels(pipe.scheduler).ratio)
    assert float((recording.trajectory.level.ratio[:-1] - recording.told.ratio).abs()[5:].max()) > 0.15
    denoised = torch.stack([estimate for _, estimate, _ in pipe.scheduler.kept]).flatten(2)
    assert_close(recording.guided, denoised, rtol=1e-4, atol=1e-4 * float(denoised.abs().max()))


@pytest.mark.parametrize("scheduler", ["DDIM", "EulerDiscrete"])
def test_the_halves_of_guidance_are_those_of_the_network(scheduler: str) -> None:
    """Its own answer to the recorded states, with the prompt and with the negative one; also as callbacks see them."""
    pipe = pipeline("sd", scheduler)
    seen: list[Tensor] = []

    def callback(pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"].clone())
        return {}

    recording = recorded(pipe, "sd", callback_on_step_end=callback)
    trajectory = recording.trajectory
    assert torch.equal(trajectory.x[1:], torch.stack(seen).flatten(2))
    with torch.no_grad():
        prompts = pipe.encode_prompt("a red apple", "cpu", 1, True, negative_prompt="blue")
        for i, (x, t) in enumerate(zip(trajectory.x, recording.timesteps.float(), strict=False)):
            alpha, sigma = float(trajectory.level.alpha[i]), float(trajectory.level.sigma[i])
            state = x.unflatten(1, recording.shape)
            for prompt, half in zip(prompts, (recording.conditional, recording.unconditional), strict=True):
                eps = pipe.unet(state / (alpha**2 + sigma**2) ** 0.5, t, encoder_hidden_states=prompt).sample
                expected = ((state - sigma * eps) / alpha).flatten(1)
                assert half is not None
                assert_close(half[i], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_rescaled_guidance_has_its_halves_too() -> None:
    pipe = pipeline("sd")
    plain, rescaled = recorded(pipe, "sd", 1), recorded(pipe, "sd", 1, guidance_rescale=0.7)
    assert not torch.equal(rescaled.guided, plain.guided)
    assert torch.equal(rescaled.conditional, plain.conditional)
    assert torch.equal(rescaled.unconditional, plain.unconditional)


def test_guidance_that_ends_on_the_way() -> None:
    pipe = pipeline("sd")

    def unguided(pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if index != 1:
            return {}
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[1]}

    changes = {"callback_on_step_end": unguided, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    recording = recorded(pipe, "sd", 4, **changes)
    assert torch.equal(images(recording.output), images(run(pipe, "sd", 4, **changes)))
    for half in (recording.conditional, recording.unconditional):
        assert half is not None
        assert torch.equal(half.isnan().all(2).flatten(), torch.tensor([False, False, True, True]))
        assert not half[:2].isnan().any()
    assert not recording.guided.isnan().any()


def test_without_guidance_there_are_no_halves() -> None:
    for kind, changes in (
        ("sd", {"guidance_scale": 1.0}),
        ("dit", {"guidance_scale": 1.0}),
        ("flux", {"true_cfg_scale": 1.0}),
    ):
        recording = recorded(pipeline(kind), kind, 2, **changes)
        assert recording.conditional is recording.unconditional is None
        assert recording.guided.shape[1] == len(images(recording.output))


def test_equal_rows_are_not_taken_for_the_halves_of_guidance() -> None:
    """Two samples from one seed, without guidance and with it."""
    runs: dict[str, dict[str, Any]] = {
        "ddpm": {},
        "dit": {"guidance_scale": 1.0},
        "sd": {"prompt": ["a bear"] * 2, "negative_prompt": ["blue"] * 2},
    }
    for kind, changes in runs.items():
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        x = recorded(pipeline(kind), kind, 2, generator=generators, **changes).trajectory.x
        assert x.shape[1] == 2
        assert torch.equal(x[0, 0], x[0, 1])


def test_a_learned_variance_is_cut() -> None:
    unet = tiny.tiny_ddpm(out_channels=6).unet
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    pipe = diffusers.DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    plain, recording = images(run(pipe, "ddpm")), recorded(pipe, "ddpm")
    assert torch.equal(images(recording.output), plain)
    trajectory = recording.trajectory
    with torch.no_grad():
        eps = unet(trajectory.x[0].unflatten(1, (3, 8, 8)), recording.timesteps[0].float()).sample[:, :3].flatten(1)
    level = trajectory.level[0]
    expected = (trajectory.x[0] - float(level.sigma) * eps) / float(level.alpha)
    assert_close(trajectory.denoised[0], expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("scheduler", ["DDIM", "EulerDiscrete", "HeunDiscrete"])
def test_a_run_from_an_image_starts_on_the_way(scheduler: str) -> None:
    pipe = pipeline("sd", scheduler)
    part = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    part.set_progress_bar_config(disable=True)
    given = {"prompt": "a bear", "image": torch.rand(1, 3, 16, 16), "strength": 0.5, "num_inference_steps": 8}
    recording = record(part, generator=torch.Generator().manual_seed(1), output_type="pt", **given)
    assert torch.equal(
        recording.output.images, part(generator=torch.Generator().manual_seed(1), output_type="pt", **given).images
    )
    levels = scheduler_levels(part.scheduler)
    assert torch.equal(recording.trajectory.level.sigma, levels.sigma[-len(recording.trajectory) - 1 :])
    assert 4 <= len(recording.trajectory) < len(levels) - 1


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_what_is_kept_is_bounded(every: int) -> None:
    """(4 K + 1) B D numbers, in the precision asked for; and they are the same states."""
    pipe, steps = pipeline("sd"), 7
    full, thin = recorded(pipe, "sd", steps), recorded(pipe, "sd", steps, every=every, dtype=torch.float16)
    assert torch.equal(images(thin.output), images(full.output))
    kept = list(range(0, steps, every))
    assert_close(thin.trajectory.x.float(), full.trajectory.x[[*kept, steps]], rtol=1e-3, atol=1e-3)
    assert_close(thin.guided.float(), full.guided[kept], rtol=1e-3, atol=1e-3)
    assert torch.equal(thin.trajectory.level.sigma, full.trajectory.level.sigma[[*kept, steps]])
    assert torch.equal(thin.timesteps, full.timesteps[kept])
    assert thin.trajectory.nfe == steps
    stored = [thin.trajectory.x, thin.guided, thin.conditional, thin.unconditional]
    assert all(part is not None and part.dtype == torch.float16 and part.device.type == "cpu" for part in stored)
    assert sum(part.untyped_storage().nbytes() for part in stored) == 2 * (4 * len(kept) + 1) * 256


def test_a_half_precision_pipeline() -> None:
    pipe = tiny.tiny_stable_diffusion().to(torch.bfloat16)
    recording = recorded(pipe, "sd")
    assert torch.equal(images(recording.output), images(run(pipe, "sd")))
    assert recording.trajectory.x.dtype == recording.guided.dtype == torch.bfloat16
    decoded = recording.decode(recording.trajectory.final)
    assert_close(decoded.permute(0, 2, 3, 1), images(recording.output), rtol=0, atol=0.02)


def watched(pipe: Any) -> bool:
    views = type(pipe.unet) is not diffusers.UNet2DConditionModel or type(pipe.vae) is not diffusers.AutoencoderKL
    return views or type(pipe.scheduler) is not diffusers.DDIMScheduler or "step" in vars(pipe.scheduler)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_the_pipeline_as_it_was(error: type[BaseException]) -> None:
    pipe = pipeline("sd")
    plain = images(run(pipe, "sd"))
    during: list[bool] = []

    def interrupt(pipe: Any, index: int, *_: Any) -> dict[str, Tensor]:
        during.append(watched(pipe))
        raise error

    with pytest.raises(error):
        recorded(pipe, "sd", callback_on_step_end=interrupt)
    assert during == [True]
    assert not watched(pipe)
    assert torch.equal(images(run(pipe, "sd")), plain)


class Third(torch.nn.Module):
    """A network of no time and no parameter of a known name."""

    def forward(self, seen: Tensor) -> Tensor:
        return seen / 3


class Copying:
    """A pipeline that looks at its scheduler's signatures, and steps a second state with copies of it."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.third = Third()

    def __call__(self) -> tuple[Any, ...]:
        scheduler = self.scheduler
        assert isinstance(scheduler, diffusers.EulerDiscreteScheduler)
        looks = (type(scheduler).__name__, str(inspect.signature(scheduler.step)), scheduler.order, len(scheduler))
        scheduler.set_timesteps(4)
        deep, flat = copy.deepcopy(scheduler), copy.copy(scheduler)
        states = [scheduler.init_noise_sigma * torch.ones(1, 1, 2, 2) * (1 + k) for k in range(3)]
        for t in scheduler.timesteps:
            for k, each in enumerate((scheduler, deep, flat)):
                seen = each.scale_model_input(states[k], t)
                states[k] = each.step(self.third(seen), t, sample=states[k]).prev_sample
        return (*looks, *states)


def test_copies_step_as_themselves_and_are_not_recorded() -> None:
    pipe = Copying(diffusers.EulerDiscreteScheduler())
    plain, recording = pipe(), record(pipe)
    assert plain[:4] == recording.output[:4]
    assert all(torch.equal(a, b) for a, b in zip(plain[4:], recording.output[4:], strict=True))
    assert recording.trajectory.nfe == 4
    assert torch.equal(recording.trajectory.final, plain[4].flatten(1))


def test_threads_that_share_a_network_hear_only_themselves() -> None:
    """With embeddings made beforehand: what a tokenizer does that threads share is guarded, and tested, elsewhere."""
    parts = pipeline("sd").components
    parts["requires_safety_checker"] = False
    given = {**SIZE, "guidance_scale": 4.0, "output_type": "latent"}
    encoded = built("sd")[0].encode_prompt("a red apple", "cpu", 1, True, "blue")
    given |= {"prompt_embeds": encoded[0], "negative_prompt_embeds": encoded[1]}

    def one(seed: int) -> Recording:
        pipe = diffusers.StableDiffusionPipeline(**{**parts, "scheduler": copy.deepcopy(parts["scheduler"])})
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(seed)
        return record(pipe, generator=generator, num_inference_steps=8, **given)

    alone = [one(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(one, range(3)))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.trajectory.x, b.trajectory.x)
        assert a.conditional is not None
        assert torch.equal(a.conditional, b.conditional)
        assert torch.equal(a.unconditional, b.unconditional)


def test_packed_latents_of_another_shape_than_square() -> None:
    pipe = pipeline("flux")
    wide = {"height": 16, "width": 32}
    recording = recorded(pipe, "flux", **wide)
    assert recording.shape == (32, 16)
    decoded = recording.decode(recording.trajectory.x[-2:])
    assert decoded.shape == (2, 1, 3, 16, 32)
    assert_close(decoded[-1].permute(0, 2, 3, 1), images(recording.output), rtol=0, atol=1e-6)


def test_decoding_calls_no_network_and_leaves_the_pipeline_as_it_was() -> None:
    pipe = tiny.tiny_stable_diffusion()
    recording = recorded(pipe, "sd", output_type="latent")
    x, calls = recording.trajectory.x, []
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in (pipe.unet, pipe.text_encoder)]
    together = recording.decode(x)
    assert together.shape == (len(x), 1, 3, 16, 16)
    assert not calls
    for hook in hooks:
        hook.remove()
    for rows, pictures in zip(x, together, strict=True):
        assert_close(recording.decode(rows), pictures, rtol=0, atol=1e-5)
    assert not watched(pipe)


def test_an_autoencoder_that_is_run_in_float32_gets_its_own_dtype_back() -> None:
    pipe = tiny.tiny_sdxl()
    recording = recorded(pipe, "sdxl", output_type="latent")
    plain = recording.decode(recording.trajectory.final)
    pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
    assert_close(recording.decode(recording.trajectory.final), plain, rtol=0, atol=0.01)
    assert {p.dtype for p in pipe.vae.parameters()} == {torch.float16}


def test_decoding_leaves_random_numbers_alone() -> None:
    recording = recorded(pipeline("sd"), "sd")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    recording.decode(recording.trajectory.final)
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        record(pipeline("sd"), every=0)
    with pytest.raises(
        ValueError, match="Expected a pipeline of diffusers, which has a scheduler, got <function recorded"
    ):
        record(recorded)
    idle = Copying(diffusers.EulerDiscreteScheduler())
    idle.scheduler.set_timesteps = lambda steps: setattr(idle.scheduler, "timesteps", ())
    with pytest.raises(ValueError, match="ended without a step of its EulerDiscreteScheduler"):
        record(idle)
    strange = Copying(diffusers.ScoreSdeVeScheduler())
    with pytest.raises(ValueError, match="scheduler of a Copying, ScoreSdeVeScheduler, has no step"):
        record(strange)
    with pytest.raises(ValueError, match=r"rows of states of shape \(4, 8, 8\), got \(2, 255\)"):
        recorded(pipeline("sd"), "sd").decode(torch.zeros(2, 255))
    with pytest.raises(ValueError, match="Expected rows"):
        recorded(pipeline("sd"), "sd").decode(torch.zeros(0, 256))


class Swirl(diffusers.DDIMScheduler):
    """A scheduler whose levels cannot be told."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmas = 2 - torch.arange(5.0).cos()
        del self.alphas_cumprod


def test_a_scheduler_of_unknown_levels_stops_the_run_before_its_first_step() -> None:
    pipe = pipeline("sd")
    pipe.scheduler = Swirl()
    with pytest.raises(ValueError, match="noise levels of a Swirl are not known; use a scheduler of one of"):
        recorded(pipe, "sd")
    assert type(pipe.scheduler) is Swirl
