"""Any pipeline as a denoiser: what its own call steps with, asked at any state and level, by value."""

from __future__ import annotations

import copy
import threading
from typing import Any

import diffusers
import loops
import pytest
import tiny
import torch
import zoo
from diffusers.utils import logging
from loops import DIMENSION, SHAPE, Loop, gaussian
from tiny_calls import CALLS, denoiser, pipeline
from torch import Tensor
from torch.testing import assert_close

import underpaint.models.pipelines.held_call
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.models.pipelines.record import record
from underpaint.models.pipelines.replay import replayed_model
from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.noise import EDM, Flow, NoiseLevel
from underpaint.sampling.solvers import euler, heun
from underpaint.sampling.trajectory import sample

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:__array")
GIVEN: dict[str, dict[str, Any]] = {**CALLS, "ddim": {}, "dit": {"class_labels": [3], "guidance_scale": 4.0}}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


# Against an analytic network


@pytest.mark.parametrize(
    ("loop", "weight"), [(Loop, 1), (loops.Guided, 3), (loops.Lists, 3), (loops.PerToken, 3), (loops.PreScaled, 1)]
)
def test_the_denoiser_is_the_law_that_the_network_knows(loop: type[Loop], weight: float) -> None:
    model, laws = replayed_model(loop()), [gaussian(0), gaussian(1)]
    assert model.dimension == DIMENSION
    for ratio in (0.1, 1.0, 7.0):
        for level in (Flow().level(ratio), EDM()(ratio)):  # of its own family, or of another
            x = gaussian(1).sample(3, seeded(), level)
            uncond, cond = (law.denoise(x, level) for law in laws)
            close(model(x, level), uncond + weight * (cond - uncond), 1e-4)


def test_the_callers_autocast_reaches_the_networks() -> None:
    """The call that is held runs on a thread of its own, which knows nothing of it."""
    pipe, given = zoo.ZOO["pixart_alpha"]()
    model = replayed_model(pipe, **given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = record(pipe, **given, num_inference_steps=3, output_type="latent", generator=seeded()).trajectory
        x, level = seen.x[1].float(), seen.level[1]
        found, begun = model(x, level), replayed_model(pipe, **given)
    close(found, seen.denoised[1].float())
    plain = model(x, level)
    assert float((found - plain).abs().max()) > 1e-3 * float(plain.abs().max())
    assert torch.equal(begun(x, level), plain)


def test_rows_may_have_levels_of_their_own() -> None:
    model, law = replayed_model(Loop()), gaussian(1)
    level = NoiseLevel(torch.tensor([0.1, 0.5, 0.1]), torch.tensor([0.9, 0.5, 0.9]))
    x = torch.randn(3, DIMENSION, generator=seeded())
    close(model(x, level), law.denoise(x, level), 1e-4)


def test_the_part_that_is_stepped_is_the_state() -> None:
    loop = loops.Partly()
    model, level = replayed_model(loop), Flow()(0.4)
    assert model.shape == (4, 3, 2)
    x = torch.randn(2, 24, generator=seeded())
    whole = torch.cat([loop.image.expand(2, -1, -1, -1), x.unflatten(1, (4, 3, 2))], 2).flatten(1)
    uncond, cond = (gaussian(seed).denoise(whole, level).unflatten(1, SHAPE)[:, :, 1:].flatten(1) for seed in (0, 1))
    close(model(x, level), uncond + 3 * (cond - uncond), 1e-4)


def test_a_call_that_comes_to_its_end_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underpaint.models.pipelines.held_call, "LENGTH", 8)
    loop = Loop()
    model, law, levels = replayed_model(loop), gaussian(1), Flow()(torch.linspace(1, 0.02, 20))
    x = torch.randn(1, DIMENSION, generator=seeded())
    for level in levels:
        close(model(x, level), law.denoise(x, level), 1e-4)


def test_held_calls_end_with_their_model() -> None:
    before = threading.active_count()
    model = replayed_model(Loop())
    model(torch.randn(5, DIMENSION), Flow()(0.5))
    assert threading.active_count() > before
    model.network.close()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("replay of Loop")]
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (loops.Blending, "Blending replaces part of its state between two steps"),
        (loops.Counting, "Counting answers the same state and time in another way at a later step"),
        (loops.TokensApart, "parts of the state are at levels of their own"),
        (loops.WithSound, "steps a second state with a copy of its scheduler"),
        (loops.OwnTimes, "OwnTimes does not go by its scheduler's timesteps"),
    ],
)
def test_what_is_no_function_of_state_and_level_is_refused(loop: type[Loop], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replayed_model(loop())


# Against pipelines of diffusers


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [
        *((kind, None) for kind in ("ddim", "dit", "sd", "sd3", "flux")),
        *(("sd", name) for name in ("EulerDiscrete", "DPMSolverMultistep", "HeunDiscrete", "DEISMultistep")),
    ],
)
def test_the_denoiser_is_what_the_pipeline_stepped_with(kind: str, scheduler: str | None) -> None:
    """Asked in another order, and for several rows at once; and as our own adapter for the pipeline says."""
    pipe, given = pipeline(kind, scheduler), GIVEN[kind]
    model = replayed_model(pipe, **given)
    seen = record(pipe, num_inference_steps=4, output_type="np", generator=seeded(), **given)
    trajectory = seen.trajectory
    for i in (3, 0, 2, 1):
        x = trajectory.x[i].repeat(3, 1)
        found = model(x, trajectory.level[i])
        close(found, trajectory.denoised[i].expand_as(found))
        if i and kind != "flux":  # whose own adapter has other rows
            close(found, denoiser(kind)(x, trajectory.level[i]), 1e-4)
    assert_close(model.images(trajectory.final), seen.decode(trajectory.final), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "scheduler", "solver"),
    [
        *((kind, None, euler) for kind in ("ddim", "dit", "sd", "sd3", "flux")),
        ("sd", "EulerDiscrete", euler),
        ("sd", "HeunDiscrete", heun),
    ],
)
def test_our_own_loop_gives_the_pipelines_image(kind: str, scheduler: str | None, solver: Any) -> None:
    pipe, given = pipeline(kind, scheduler), GIVEN[kind]
    seen = record(pipe, num_inference_steps=4, output_type="np", generator=seeded(), **given).trajectory
    level = scheduler_levels(pipe.scheduler)
    if solver is heun:
        level = NoiseLevel.join(level[::2], level[-1])
    found = sample(replayed_model(pipe, **given), seen.x[0], level, solver)
    close(found.final, seen.final)


def test_the_grid_of_a_flow_is_the_pipelines_own() -> None:
    """Its time shift, which depends on the resolution."""
    pipe = pipeline("flux")
    model = replayed_model(pipe, prompt="a bear", height=16, width=16)
    pipe("a bear", height=16, width=16, num_inference_steps=5, output_type="latent")
    assert_close(model.schedule.grid(5).sigma, scheduler_levels(pipe.scheduler).sigma, rtol=1e-5, atol=1e-6)


def test_prompts_and_guidance_may_be_asked_for() -> None:
    pipe = pipeline("sd")
    model = load_model(pipe, prompt="a red apple", negative_prompt="blue", guidance_scale=4.0, height=16, width=16)
    other = load_model(pipe, prompt="a bear", negative_prompt="blue", guidance_scale=2.0, height=16, width=16)
    x, level = torch.randn(2, 256, generator=seeded()), model.schedule(torch.tensor(500.0))
    close(model.conditional("a bear", 2.0)(x, level), other(x, level))
    assert float((model(x, level) - other(x, level)).abs().max()) > 0.1
    assert model.held == "a red apple"
    with pytest.raises(ValueError, match="has its guidance inside and takes no negative condition"):
        model.conditional("a bear", 2.0, "blue")


def test_a_condition_is_drawn_once() -> None:
    """The latents of an image, of one row and of several."""
    pipe = pipeline("sd")
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    from_image = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    image = torch.rand(1, 3, 16, 16, generator=seeded())
    model = load_model(from_image, prompt="a bear", image=image, strength=0.5, guidance_scale=1.0)
    x, level = torch.randn(2, 256, generator=seeded()), model.schedule(torch.tensor(300.0))
    close(model(x, level), load_model(pipe, size=16).conditional("a bear")(x, level))


def test_a_pipeline_is_loaded_from_its_folder(tmp_path: Any) -> None:
    pipe = tiny.tiny_stable_diffusion(tmp_path)
    model = load_model(tmp_path, prompt="a bear", guidance_scale=1.0, height=16, width=16)
    assert model.name == tmp_path.name
    x, level = torch.randn(1, 256, generator=seeded()), model.schedule(torch.tensor(300.0))
    close(model(x, level), load_model(pipe, size=16).conditional("a bear")(x, level))


def test_a_latent_diffusion_pipeline_is_no_pixel_model() -> None:
    """Its U-Net is that of pixels, its states are latents."""
    unet = tiny.tiny_ddpm().unet
    movq = diffusers.VQModel(
        latent_channels=3, vq_embed_dim=3, num_vq_embeddings=8, norm_num_groups=4, block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    pipe = diffusers.LDMPipeline(movq, unet, diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    model = load_model(pipe)
    assert model.shape == (3, 8, 8)
    assert model.image_shape == (3, 16, 16)
    seen = record(pipe, num_inference_steps=3, output_type="np", generator=seeded())
    pictures = torch.as_tensor(seen.output.images).permute(0, 3, 1, 2)
    assert_close(model.images(seen.trajectory.final), pictures, rtol=0, atol=1e-5)


def test_a_compiled_network_is_loaded_as_it_is() -> None:
    pipe, x, level = tiny.tiny_ddpm(), torch.randn(1, 192, generator=seeded()), EDM()(2.0)
    expected = load_model(pipe)(x, level)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    close(load_model(pipe)(x, level), expected)


class Darker(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
    """A subclass whose call is another."""

    def __call__(self, prompt: str | None = None, **given: Any) -> Any:
        return super().__call__(prompt, guidance_rescale=0.7, guidance_scale=9.0, **given)


def test_a_subclass_with_a_call_of_its_own_is_taken_at_its_word() -> None:
    pipe = copy.copy(pipeline("sd"))
    pipe.__class__ = Darker
    model = load_model(pipe, size=16).conditional("a bear")
    seen = record(pipe, "a bear", height=16, width=16, num_inference_steps=3, generator=seeded()).trajectory
    close(model(seen.x[1], seen.level[1]), seen.denoised[1])


def test_what_cannot_be_replayed_gets_a_sentence() -> None:
    pipe = pipeline("sd")
    with pytest.raises(ValueError, match="takes no colour; it takes prompt, height"):
        load_model(pipe, prompt="a bear", colour="blue")
    with pytest.raises(ValueError, match="give one prompt, got 2"):
        load_model(pipe, prompt=["a bear", "a fish"])
    with pytest.raises(
        ValueError, match="fashion-mnist, a DDIMPipeline, is no pipeline with a condition, and takes no prompt"
    ):
        load_model("fashion-mnist", prompt="a coat")
    pipe, given = zoo.ZOO["wan21"]()
    with pytest.raises(ValueError, match=r"No way from images to the states \(4, 2, 2, 2\) of this WanPipeline"):
        load_model(pipe, **given).rows(torch.zeros(1, 3, 16, 80))


@pytest.mark.parametrize(
    ("kind", "needed"),
    [("image_to_image", "image"), ("inpainting", "mask_image"), ("wan_image_to_video", "image"),
     ("ltx_image_to_video", "image"), ("stable_video", "image"), ("kandinsky22", "image_embeds")],
)  # fmt: skip
def test_a_pipeline_that_lacks_what_it_needs_says_so(kind: str, needed: str) -> None:
    """In place of what its own call makes of None: a type error, or one of an attribute."""
    pipe, given = zoo.ZOO[kind]()
    with pytest.raises(
        ValueError, match=rf"The {type(pipe).__name__} cannot be called .* needs besides, .*\b{needed}\b"
    ):
        load_model(pipe)
    load_model(pipe, **given)


def test_the_pipeline_is_left_as_it_was() -> None:
    pipe = pipeline("sd")
    scheduler, held = pipe.scheduler, dict(vars(pipe))
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    model: Model = replayed_model(pipe, prompt="a bear", height=16, width=16)
    model(torch.randn(1, 256, generator=seeded()), model.schedule(torch.tensor(300.0)))
    assert torch.equal(torch.rand(2), expected)
    assert pipe.scheduler is scheduler
    assert vars(pipe).keys() == held.keys()
    assert all(value is held[name] for name, value in vars(pipe).items())
    assert type(scheduler) is diffusers.DDIMScheduler


@pytest.mark.parametrize("kind", ["sd", "sd3", "flux"])
def test_images_are_encoded_where_the_way_back_is_known(kind: str) -> None:
    """By the autoencoder's own mean; of packed tokens, as the pipeline packs."""
    pipe = pipeline(kind)
    model = load_model(pipe, prompt="a bear", height=16, width=16)
    images = 2 * torch.rand(2, 3, 16, 16, generator=seeded()) - 1
    with torch.no_grad():
        config = pipe.vae.config
        latents = pipe.vae.encode(images).latent_dist.mode()
        latents = (latents - (config.shift_factor or 0)) * config.scaling_factor
    if kind == "flux":
        latents = pipe._pack_latents(latents, 2, 4, 8, 8)
    close(model.rows(images), latents.flatten(1), 1e-5)


def test_pixels_are_their_own_states() -> None:
    pipe = tiny.tiny_ddpm()
    images = 2 * torch.rand(2, 3, 8, 8, generator=seeded()) - 1
    assert torch.equal(replayed_model(pipe).rows(images), images.flatten(1))


def test_an_offloaded_pipeline_works_as_it_is() -> None:
    """Its weights lie elsewhere between calls: recorded, decoded, asked, shown and encoded as if they did not."""
    from accelerate import cpu_offload

    pipe = tiny.tiny_stable_diffusion()
    given = {"prompt": "a bear", "negative_prompt": "blue", "guidance_scale": 4.0, "height": 16, "width": 16}
    images = 2 * torch.rand(1, 3, 16, 16, generator=seeded()) - 1

    def found() -> list[Tensor]:
        seen = record(pipe, num_inference_steps=3, output_type="np", generator=seeded(), **given)
        model, x, level = load_model(pipe, **given), seen.trajectory.x, seen.trajectory.level
        decoded = seen.decode(seen.trajectory.final)
        return [x, decoded, model(x[1], level[1]), model.images(x[-1]), model.rows(images)]

    plain = found()
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        cpu_offload(part, execution_device=torch.device("cpu"))
    assert next(pipe.unet.parameters()).device.type == "meta"
    for one, other in zip(found(), plain, strict=True):
        close(one, other)
