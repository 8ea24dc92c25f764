"""Networks as denoisers: an analytic network behind the adapter must give back the analytic denoiser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.prediction import PREDICTIONS, Prediction, from_denoised
from underpaint.sampling.solvers import euler
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.gaussian import Gaussian

SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def gaussian() -> Gaussian:
    rows = torch.randn(60, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.linspace(
        0.2, 2, 16
    )
    return Gaussian.fit(rows, dtype=torch.float64)


def analytic(
    gaussian: Gaussian, schedule: Schedule, prediction: Prediction, blocks: int = 1, shift: float = 0.0
) -> Model:
    """A network that is the Gaussian in its own parametrisation; a class adds `shift` times its label."""

    def network(images: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        x = (pixel_shuffle(images, blocks) if blocks > 1 else images).flatten(1)
        level = schedule(times.double())
        move = 0 if labels is None else shift * labels[:, None]
        output = from_denoised(gaussian(x, level) + move, x, level, prediction).unflatten(1, SHAPE)
        return pixel_unshuffle(output, blocks) if blocks > 1 else output

    return Model(
        network, schedule, prediction, SHAPE, blocks=blocks, classes=3, null_class=0, batch=3, dtype=torch.float64
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("own", [DDPM(), EDM(), Flow()], ids=["DDPM", "EDM", "Flow"])
@pytest.mark.parametrize("theirs", [DDPM("cosine"), EDM(), Flow(3.0)], ids=["cosine", "EDM", "Flow"])
def test_any_network_is_its_denoiser_at_levels_of_any_family(gaussian, prediction, own, theirs):
    model = analytic(gaussian, own, prediction)
    for ratio in (0.02, 0.5, 3.0, 60.0):
        level = theirs.level(ratio)
        x = gaussian.sample(7, torch.Generator().manual_seed(1), level)
        # the network is told its time in float32
        torch.testing.assert_close(model(x, level), gaussian(x, level), rtol=1e-4, atol=2e-4)


def test_one_level_a_row(gaussian):
    model = analytic(gaussian, DDPM(), "v")
    level = EDM()(torch.tensor([0.1, 1.0, 5.0, 20.0]))
    x = gaussian.sample(4, torch.Generator().manual_seed(1), EDM()(1.0))
    rows = torch.cat([gaussian(x[i : i + 1], level[i]) for i in range(4)])
    torch.testing.assert_close(model(x, level), rows, rtol=1e-4, atol=1e-4)


def test_pixel_blocks_are_a_permutation(gaussian):
    level, plain, blocked = DDPM()(300.0), analytic(gaussian, DDPM(), "v"), analytic(gaussian, DDPM(), "v", blocks=2)
    x = gaussian.sample(5, torch.Generator().manual_seed(1), level)
    torch.testing.assert_close(blocked(x, level), plain(x, level))


def test_levels_beyond_the_network_use_its_nearest(gaussian):
    model, schedule = analytic(gaussian, DDPM(), "x0"), DDPM()
    noise = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pure = NoiseLevel(torch.tensor(0.0), torch.tensor(1.0))
    torch.testing.assert_close(model(noise, pure), gaussian(noise, schedule(999.0)), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(model(noise, NoiseLevel.clean())).all()


def test_guidance(gaussian):
    model, level = analytic(gaussian, DDPM(), "x0", shift=0.1), DDPM()(500.0)
    x = gaussian.sample(4, torch.Generator().manual_seed(1), level)
    base = model(x, level)
    torch.testing.assert_close(model.conditional(2)(x, level), base + 0.2)
    torch.testing.assert_close(model.conditional(2, 3.0)(x, level), base + 0.6)
    with pytest.raises(ValueError, match="knows class labels 0 to 2, got 3"):
        model.conditional(3)


def test_wrong_rows_are_named(gaussian):
    with pytest.raises(ValueError, match=r"expects rows \[B, 16\]"):
        analytic(gaussian, DDPM(), "x0")(torch.zeros(2, 15), DDPM()(5.0))


def tiny_pipeline(prediction: str = "epsilon", **scheduler) -> DDIMPipeline:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )
    options = {"clip_sample": False, "set_alpha_to_one": True, "prediction_type": prediction} | scheduler
    return DDIMPipeline(unet, DDIMScheduler(**options))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
def test_a_saved_pipeline_samples_as_diffusers_does(tmp_path: Path, prediction: str, betas: str):
    pipeline = tiny_pipeline(prediction, beta_schedule=betas)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    theirs = pipeline(
        batch_size=2,
        num_inference_steps=10,
        generator=[torch.Generator().manual_seed(s) for s in (4, 5)],
        output_type="np",
    ).images
    times = pipeline.scheduler.timesteps.double()
    level = NoiseLevel.join(model.schedule(times), NoiseLevel.clean())
    unit = NoiseLevel(torch.tensor(0.0), torch.tensor(1.0))
    ours = model.images(sample(model, initial_noise((4, 5), model.dimension, unit), level, euler).final)
    torch.testing.assert_close(ours.permute(0, 2, 3, 1), torch.from_numpy(theirs), rtol=0, atol=2e-4)


def test_broken_folders_get_a_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no model 'nothing'.*fashion-mnist"):
        load_model("nothing")
    with pytest.raises(ValueError, match=r"no file .*config.json"):
        load_model(tmp_path)
    tiny_pipeline().save_pretrained(tmp_path)
    weights, config = tmp_path / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "unet" / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"block_out_channels": [8, 16]}))
    with pytest.raises(ValueError, match="does not fit the network"):
        load_model(tmp_path)
    config.write_text(json.dumps(content | {"_class_name": "ControlNetModel"}))
    with pytest.raises(ValueError, match="holds a ControlNetModel; expected a UNet2DModel"):
        load_model(tmp_path)
    config.write_text(json.dumps(content))
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "magic"}))
    with pytest.raises(ValueError, match="prediction_type 'magic'"):
        load_model(tmp_path)


def test_boxed_model_denoises_real_images():
    from underpaint.data.datasets import load_data

    model, rows = load_model("fashion-mnist"), load_data("fashion-mnist").rows(slice(0, 64))
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    for ratio, bound in ((0.2, 0.02), (1.0, 0.06), (5.0, 0.2)):
        level = EDM()(ratio)
        error = (model(rows + ratio * noise, level) - rows).square().mean()
        assert error < bound
    assert model.classes == 10
    assert model.null_class == 10


def test_boxed_model_loads_in_plain_diffusers():
    from underpaint import assets

    folder = assets.folder("fashion-mnist")
    pipeline = DDIMPipeline.from_pretrained(folder)
    model, level = load_model("fashion-mnist"), DDPM()(400.0)
    x = torch.randn(2, 784, generator=torch.Generator().manual_seed(0))
    blocks = pixel_unshuffle(x.unflatten(1, (1, 28, 28)), 2)
    v = pixel_shuffle(pipeline.unet.float()(blocks, 400, class_labels=torch.tensor([10, 10])).sample, 2).flatten(1)
    torch.testing.assert_close(model(x, level), (level.alpha * x - level.sigma * v).float(), rtol=1e-4, atol=1e-4)
