"""Pipelines of diffusers as denoisers: an analytic network behind each adapter gives back the analytic denoiser, and
each pipeline, built small, saved and loaded by us, is sampled as diffusers itself samples it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline, UniPCMultistepScheduler
from torch import Tensor

from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.models.schedulers.configs import read_scheduler
from underpaint.noise import EDM, NoiseLevel
from underpaint.prediction import from_denoised
from underpaint.sampling.solvers import euler
from underpaint.sampling.trajectory import sample
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

STEPS = 4
PROMPT, NEGATIVE = "a red apple", "blue sky"
BETAS = {
    "ddpm": (tiny.tiny_ddpm, "unet"),
    "dit": (tiny.tiny_dit, "transformer"),
    "stable-diffusion": (tiny.tiny_stable_diffusion, "unet"),
    "sdxl": (tiny.tiny_sdxl, "unet"),
}
FLOWS = {
    "sd3": (tiny.tiny_sd3, "transformer"),
    "flux": (tiny.tiny_flux, "transformer"),
    "sdxl": (tiny.tiny_sdxl, "unet"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """saved(builder, **options) -> (the pipeline, its folder), each built once."""
    built: dict[str, tuple[Any, Path]] = {}

    def build(builder: Callable[..., Any], **options: Any) -> tuple[Any, Path]:
        key = f"{builder.__name__}{options}"
        if key not in built:
            folder = tmp_path_factory.mktemp(builder.__name__)
            built[key] = builder(folder, **options), folder
        return built[key]

    return build


# An analytic network behind each adapter


def gaussian_of(dimension: int) -> Gaussian:
    made = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(dimension, 6, generator=made, dtype=torch.float64)).Q
    mean = torch.randn(dimension, generator=made, dtype=torch.float64)
    return Gaussian(mean, Covariance(torch.tensor([20.0, 5.0, 2.0, 1.0, 0.3, 0.1]), basis, residual=0.05))


def beta_levels(scheduler: Any) -> Callable[[Tensor], NoiseLevel]:
    """Timestep -> level from diffusers' own table, log(sigma/alpha) linear between its entries."""
    bar = scheduler.alphas_cumprod.double().numpy()

    def level(timestep: Tensor) -> NoiseLevel:
        log_ratio = np.interp(timestep.double().numpy(), np.arange(len(bar)), np.log((1 - bar) / bar) / 2)
        return NoiseLevel(
            torch.from_numpy(1 / np.hypot(1, np.exp(log_ratio))), torch.from_numpy(1 / np.hypot(1, np.exp(-log_ratio)))
        )

    return level


def flow_levels(unit: float) -> Callable[[Tensor], NoiseLevel]:
    return lambda timestep: NoiseLevel(1 - timestep.double() / unit, timestep.double() / unit)


def make_analytic(network: Any, gaussian: Gaussian, prediction: Any, level_of: Callable[[Tensor], NoiseLevel]) -> None:
    """Put the Gaussian in the network's place: its own prediction, in diffusers' own time, layout and channels."""
    packed = type(network).__name__ == "FluxTransformer2DModel"
    learned = network.config.out_channels == 2 * network.config.in_channels

    def forward(states: Tensor, timestep: Tensor, **given: Any) -> Any:
        images = FluxPipeline._unpack_latents(states, 16, 16, 2) if packed else states
        x, level = images.flatten(1), level_of(timestep)
        output = from_denoised(gaussian(x, level), x, level, prediction).reshape(images.shape)
        if packed:
            output = FluxPipeline._pack_latents(output, *images.shape)
        return SimpleNamespace(sample=torch.cat([output, 99 + output], 1) if learned else output)

    network.forward = forward


def check_analytic(model: Model, gaussian: Gaussian) -> None:
    """At levels on and between the network's own, of its own family and of another."""
    for level in (model.schedule.level(0.03), model.schedule.level(1.234), EDM()(0.5), EDM()(7.77), EDM()(14.0)):
        x = gaussian.sample(3, torch.Generator().manual_seed(1), level)
        torch.testing.assert_close(model(x, level), gaussian(x, level), rtol=0, atol=1e-3)  # its time is in float32


@pytest.mark.parametrize(("name", "ours"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
@pytest.mark.parametrize("kind", BETAS)
def test_an_analytic_network_of_discrete_times(kind: str, name: str, ours: str) -> None:
    builder, part = BETAS[kind]
    pipe = builder(prediction_type=name, **{"out_channels": 6} if kind == "ddpm" else {}).to(torch.float64)
    model = load_model(pipe)
    gaussian = gaussian_of(model.dimension)
    make_analytic(getattr(pipe, part), gaussian, ours, beta_levels(pipe.scheduler))
    assert model.dtype == torch.float64
    check_analytic(model, gaussian)


@pytest.mark.parametrize("kind", FLOWS)
def test_an_analytic_network_of_flow(kind: str) -> None:
    builder, part = FLOWS[kind]
    pipe = builder().to(torch.float64)
    if kind == "sdxl":  # a U-Net trained on flow, and a scheduler that is not for flows alone
        pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    model = load_model(pipe, size=16)
    gaussian = gaussian_of(model.dimension)
    make_analytic(getattr(pipe, part), gaussian, "flow", flow_levels(1.0 if kind == "flux" else 1000.0))
    check_analytic(model, gaussian)


@pytest.mark.parametrize(
    ("options", "scale", "shift"),
    [
        ({"scaling_factor": 0.25}, 4.0, 0.0),
        ({"scaling_factor": 0.5, "shift_factor": -0.7}, 2.0, -0.7),
        (
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [0.1, 1.0, 2.0, 3.0]},
            2 * torch.tensor([0.1, 1.0, 2.0, 3.0]).reshape(4, 1, 1),
            torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1),
        ),
    ],
)
def test_latents_are_scaled_and_shifted_as_their_autoencoder_states(options: Any, scale: Any, shift: Any) -> None:
    pipe = tiny.tiny_sdxl(vae=options)
    model, vae = load_model(pipe), pipe.vae
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = vae.encode(images).latent_dist.mean
    rows = model.rows(images)
    torch.testing.assert_close(rows.unflatten(1, (4, 8, 8)) * scale + shift, latents)
    torch.testing.assert_close(model.images(rows), (vae.decode(latents).sample.detach() / 2 + 0.5).clamp(0, 1))


# Each pipeline, sampled as diffusers does


def unit_latents(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def ddim_levels(scheduler: Any) -> NoiseLevel:
    """Where DDIM's timesteps lie and where its last step ends, from its own table."""
    bar = scheduler.alphas_cumprod[scheduler.timesteps].double()
    bar = torch.cat([bar, torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64).reshape(1)])
    return NoiseLevel(bar.sqrt(), (1 - bar).sqrt())


def sigma_levels(scheduler: Any) -> NoiseLevel:
    sigmas = scheduler.sigmas.double()
    return NoiseLevel(1 - sigmas, sigmas)


def check_equal(pipe: Any, model: Model, denoise: Any, levels: Callable[[Any], NoiseLevel], **call: Any) -> None:
    """The pipeline's final latents and images against ours, from the same noise."""
    noise = unit_latents(*model.shape)
    packed = isinstance(pipe, FluxPipeline)
    given = FluxPipeline._pack_latents(noise, 2, *model.shape) if packed else noise
    call = {"num_inference_steps": STEPS, "prompt": [PROMPT] * 2, "height": 16, "width": 16} | call
    latents = given

    def keep(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal latents
        latents = tensors["latents"]
        return tensors

    images = pipe(**call, latents=given, output_type="pt", callback_on_step_end=keep).images
    final = sample(denoise, noise.flatten(1), levels(pipe.scheduler), euler).final
    theirs = FluxPipeline._unpack_latents(latents, 16, 16, 2) if packed else latents
    torch.testing.assert_close(final, theirs.flatten(1), rtol=0, atol=5e-5)
    torch.testing.assert_close(model.images(final), images, rtol=0, atol=5e-5)


@pytest.mark.parametrize("builder", [tiny.tiny_stable_diffusion, tiny.tiny_sdxl], ids=["stable-diffusion", "sdxl"])
@pytest.mark.parametrize(
    ("guidance", "negative"), [(1.0, None), (5.0, None), (5.0, NEGATIVE)], ids=["plain", "guided", "negative"]
)
def test_stable_diffusion_from_a_folder(saved, builder: Any, guidance: float, negative: str | None) -> None:
    pipe, folder = saved(builder)
    model = load_model(folder)
    denoise = model.conditional(PROMPT, guidance, negative)
    call = {} if negative is None else {"negative_prompt": [negative] * 2}
    check_equal(pipe, model, denoise, ddim_levels, guidance_scale=guidance, **call)


@pytest.mark.parametrize(
    ("prediction", "spacing", "clean"),
    [
        ("epsilon", "leading", False),
        ("epsilon", "trailing", True),
        ("v_prediction", "leading", True),
        ("v_prediction", "trailing", False),
        ("sample", "leading", True),
    ],
)
def test_schedulers_of_stable_diffusion(saved, prediction: str, spacing: str, clean: bool) -> None:
    pipe, _ = saved(tiny.tiny_stable_diffusion)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing=spacing, set_alpha_to_one=clean, prediction_type=prediction
    )
    model = load_model(pipe)
    check_equal(pipe, model, model.conditional(PROMPT, 3.0), ddim_levels, guidance_scale=3.0)


def test_a_schedule_that_ends_in_pure_noise(saved) -> None:
    pipe, _ = saved(tiny.tiny_stable_diffusion)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    model = load_model(pipe)
    assert float(pipe.scheduler.alphas_cumprod[-1]) == 0
    check_equal(pipe, model, model.conditional(PROMPT), ddim_levels, guidance_scale=1.0)
    table = pipe.scheduler.alphas_cumprod.double()
    ours = model.schedule(torch.arange(1000.0)).alpha ** 2
    torch.testing.assert_close(ours, table, rtol=1e-4, atol=1e-6)


def test_the_empty_prompt_of_sdxl_is_its_default_negative(saved) -> None:
    """Zeros where its config says so, and the text encoders' reading of nothing where it does not."""
    for force in (True, False):
        pipe, folder = saved(tiny.tiny_sdxl, force_zeros=force)
        model = load_model(folder)
        _, states, _, pooled = pipe.encode_prompt(PROMPT, device="cpu")
        assert bool(states.any()) is not force
        given = {"text_embeds": pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
        x, level = unit_latents(256)[:1], model.schedule(300.0)
        with torch.no_grad():
            eps = pipe.unet(x.reshape(1, 4, 8, 8), 300, encoder_hidden_states=states, added_cond_kwargs=given).sample
        expected = (x - float(level.sigma) * eps.flatten(1)) / float(level.alpha)
        torch.testing.assert_close(model(x, level), expected, rtol=1e-4, atol=1e-4)


def test_sdxl_latents_with_their_own_moments(saved) -> None:
    moments = {"latents_mean": [-0.3, 0.1, 0.5, 0.0], "latents_std": [0.7, 1.3, 0.9, 2.0], "scaling_factor": 0.5}
    pipe, folder = saved(tiny.tiny_sdxl, vae=moments)
    model = load_model(folder)
    check_equal(pipe, model, model.conditional(PROMPT), ddim_levels, guidance_scale=1.0)


def test_folders_as_they_are_on_the_hub(tmp_path: Path) -> None:
    """A safety checker that is not there, and the old name of DiT's network, with the labels' words."""
    tiny.tiny_stable_diffusion(tmp_path / "sd")
    tiny.tiny_dit(tmp_path / "dit")
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    words = {"transformer": ["diffusers", "Transformer2DModel"], "id2label": {"0": "tench, Tinca tinca"}}
    for name, changes in (("sd", checker), ("dit", words)):
        index = tmp_path / name / "model_index.json"
        plain = load_model(tmp_path / name)
        index.write_text(json.dumps(json.loads(index.read_text()) | changes))
        x, level = unit_latents(256), plain.schedule(500.0)
        torch.testing.assert_close(load_model(tmp_path / name)(x, level), plain(x, level))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_from_a_folder(saved, guidance: float) -> None:
    pipe, folder = saved(tiny.tiny_dit)
    model = load_model(folder)
    assert (model.classes, model.null_class) == (1000, 1000)
    call = {"num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": "pt"}
    images = pipe(class_labels=[7, 7], generator=torch.Generator().manual_seed(0), **call).images
    final = sample(model.conditional(7, guidance), unit_latents(256), ddim_levels(pipe.scheduler), euler).final
    torch.testing.assert_close(model.images(final), images, rtol=0, atol=5e-5)


@pytest.mark.parametrize("t5", [True, False], ids=["with-t5", "without-t5"])
@pytest.mark.parametrize(
    ("guidance", "negative"), [(1.0, None), (5.0, None), (5.0, NEGATIVE)], ids=["plain", "guided", "negative"]
)
def test_stable_diffusion_3_from_a_folder(saved, t5: bool, guidance: float, negative: str | None) -> None:
    pipe, folder = saved(tiny.tiny_sd3, t5=t5)
    model = load_model(folder)
    assert model.schedule.shift == 3
    denoise = model.conditional(PROMPT, guidance, negative)
    call = {} if negative is None else {"negative_prompt": [negative] * 2}
    check_equal(pipe, model, denoise, sigma_levels, guidance_scale=guidance, **call)


def test_flux_is_told_its_guidance(saved) -> None:
    pipe, folder = saved(tiny.tiny_flux)
    model = load_model(folder, size=16)
    for guidance in (1.0, 3.5):
        check_equal(pipe, model, model.conditional(PROMPT, guidance), sigma_levels, guidance_scale=guidance)
    with pytest.raises(ValueError, match="has its guidance inside and takes no negative"):
        model.conditional(PROMPT, 3.5, NEGATIVE)
    x, level = unit_latents(256), model.schedule(0.6)
    change = model.conditional(PROMPT, 3.5)(x, level) - model.conditional(PROMPT)(x, level)
    assert change.abs().max() > 1e-4


def test_flux_without_distillation_is_guided_like_any_other(saved) -> None:
    pipe, folder = saved(tiny.tiny_flux, distilled=False)
    model = load_model(folder, size=16)
    denoise = model.conditional(PROMPT, 4.0, NEGATIVE)
    check_equal(pipe, model, denoise, sigma_levels, true_cfg_scale=4.0, negative_prompt=[NEGATIVE] * 2)


def test_a_flow_has_the_time_shift_of_its_resolution(saved) -> None:
    """Flux's own grid, whose shift depends on the number of tokens, is that of the model's schedule."""
    pipe, folder = saved(tiny.tiny_flux)
    for size in (16, (16, 24)):
        model = load_model(folder, size=size)
        height, width = (16, 16) if size == 16 else size
        pipe(PROMPT, height=height, width=width, num_inference_steps=STEPS, output_type="latent")
        torch.testing.assert_close(model.schedule.grid(STEPS).sigma.float(), pipe.scheduler.sigmas)
        assert model.image_shape == (3, height, width)
    linear = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    linear.set_timesteps(STEPS, mu=0.5 + 0.65 / 2, sigmas=np.linspace(1, 1 / STEPS, STEPS))
    schedule, _ = read_scheduler({**linear.config, "_class_name": type(linear).__name__}, tokens=(256 + 4096) // 2)
    torch.testing.assert_close(schedule.grid(STEPS).sigma.float(), linear.sigmas)


def test_prompts_follow_the_model_to_another_dtype(saved) -> None:
    _, folder = saved(tiny.tiny_sdxl)
    model, x = load_model(folder), unit_latents(256)
    level = model.schedule(500.0)
    single = model.conditional(PROMPT, 5.0)(x, level)
    images = model.images(single)
    double = load_model(folder, dtype=torch.float64)
    assert {parameter.dtype for parameter in double.network.parameters()} == {torch.float64}
    torch.testing.assert_close(double.conditional(PROMPT, 5.0)(x, level), single, rtol=0, atol=1e-4)
    moved = model.to(dtype=torch.float64)
    torch.testing.assert_close(moved.conditional(PROMPT, 5.0)(x, level), single, rtol=0, atol=1e-4)
    torch.testing.assert_close(moved.images(single), images, rtol=0, atol=1e-4)


def test_half_precision_decodes_where_the_autoencoder_asks_for_more(saved) -> None:
    _, folder = saved(tiny.tiny_sdxl)
    half, x = load_model(folder, dtype=torch.float16), unit_latents(256)
    assert half.autoencoder.vae.config.force_upcast
    torch.testing.assert_close(half.images(x), load_model(folder).images(x), rtol=0, atol=5e-3)
    assert half.autoencoder.vae.dtype == torch.float32


def test_what_does_not_fit_gets_a_sentence(saved) -> None:
    pipe, folder = saved(tiny.tiny_flux)
    with pytest.raises(ValueError, match=r"multiples of 4, got 18"):
        load_model(folder, size=18)
    sd = tiny.tiny_stable_diffusion()
    with pytest.raises(ValueError, match="takes no class labels"):
        load_model(sd).conditional(3)
    sd.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(ValueError, match="distilled consistency model"):
        load_model(sd)
    sd.unet.register_to_config(time_cond_proj_dim=None, in_channels=9)
    with pytest.raises(ValueError, match="takes 9 channels where its latents have 4"):
        load_model(sd)
    with pytest.raises(ValueError, match=r"Got AutoencoderKL; handled are pipelines of diffusers .*underpaint.wrap"):
        load_model(pipe.vae)
    with pytest.raises(ValueError, match="give its scheduler as well"):
        load_model(tiny.tiny_ddpm().unet)
