"""Networks as denoisers: an analytic network behind the adapter must give back the analytic denoiser."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load, load_file, save_file
from tiny import tiny_ddpm
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.files import write_tensors
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.models.schedulers.configs import read_scheduler, scheduler_config
from underpaint.models.wrap import wrap
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


@pytest.mark.parametrize(("batch", "calls"), [(8, 1), (7, 2), (2, 4)])
@pytest.mark.parametrize("rows", [False, True])
def test_both_halves_of_guidance_share_a_call_where_a_batch_has_room(gaussian, batch: int, calls: int, rows: bool):
    plain = analytic(gaussian, DDPM(), "x0", shift=0.1)
    sizes: list[int] = []

    def network(images: torch.Tensor, times: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return plain.network(images, times, labels)

    model = replace(plain, network=network, batch=batch)
    level = DDPM()(torch.tensor([900.0, 500.0, 100.0, 3.0]) if rows else 500.0)
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    both = [plain.denoise(x, level, label) for label in (plain.null_class, 2)]
    torch.testing.assert_close(model.conditional(2, 3.0)(x, level), torch.lerp(*both, 3.0))
    assert len(sizes) == calls
    assert sum(sizes) == 8
    away = torch.lerp(plain.denoise(x, level, 1), plain.denoise(x, level, 2), 3.0)
    torch.testing.assert_close(model.conditional(2, 3.0, negative=1)(x, level), away)


@pytest.mark.parametrize(("lengths", "calls"), [((2, 2), 1), ((2, 3), 2)])
def test_prompts_of_one_length_share_a_call(lengths: tuple[int, int], calls: int):
    sizes: list[int] = []

    def network(images: torch.Tensor, times: torch.Tensor, told: dict[str, torch.Tensor]) -> torch.Tensor:
        sizes.append(len(images))
        assert len(told["words"]) == len(told["pooled"]["all"]) == len(images)
        return images + (told["words"].sum(1) * told["pooled"]["all"])[:, None, None, None]

    def embed(prompt: str) -> dict[str, Any]:
        length, value = (lengths[1], 5.0) if prompt else (lengths[0], 7.0)
        return {"words": torch.full((1, length), value / length), "pooled": {"all": torch.full((1,), 2.0)}}

    model = Model(network, DDPM(), "x0", SHAPE, embed=embed)
    x, level = torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), DDPM()(500.0)
    torch.testing.assert_close(model.conditional("a cat", 4.0)(x, level), model(x, level) + 4 * (10 - 14.0))
    assert len(sizes) == calls + 1


def test_wrong_rows_are_named(gaussian):
    with pytest.raises(ValueError, match=r"expects rows \[B, 16\]"):
        analytic(gaussian, DDPM(), "x0")(torch.zeros(2, 15), DDPM()(5.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
def test_a_saved_pipeline_samples_as_diffusers_does(tmp_path: Path, prediction: str, betas: str):
    pipeline = tiny_ddpm(tmp_path, prediction_type=prediction, beta_schedule=betas)
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


def test_old_names_of_attention_weights(tmp_path: Path):
    """As in google/ddpm-cifar10-32, whose folder is flat and whose weights have the names of early diffusers."""
    pipeline = tiny_ddpm(tmp_path)
    tensors = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        part = next((part for part in old if f".{part}." in name), None)
        renamed[name.replace(part, old[part]) if part else name] = tensor
    assert sum(name not in tensors for name in renamed) >= 16
    for source in ("unet/config.json", "scheduler/scheduler_config.json"):
        (tmp_path / source).rename(tmp_path / Path(source).name)
    rmtree(tmp_path / "unet")
    rmtree(tmp_path / "scheduler")
    save_file(renamed, tmp_path / "diffusion_pytorch_model.safetensors")
    x, level = torch.randn(2, 192, generator=torch.Generator().manual_seed(0)), DDPM()(500.0)
    torch.testing.assert_close(load_model(tmp_path)(x, level), load_model(pipeline)(x, level), rtol=1e-4, atol=1e-4)


def test_a_pipeline_or_network_that_is_already_there():
    pipeline = tiny_ddpm(prediction_type="v_prediction")
    model = load_model(pipeline, name="mine")
    bare = load_model(pipeline.unet, scheduler=pipeline.scheduler)
    assert model.network.network is pipeline.unet is bare.network.network
    assert (model.name, bare.name, model.prediction) == ("mine", "UNet2DModel", "v")
    x, level = torch.randn(2, 192, generator=torch.Generator().manual_seed(0)), DDPM()(500.0)
    with torch.no_grad():
        v = pipeline.unet(x.reshape(2, 3, 8, 8), 500).sample.flatten(1)
    expected = float(level.alpha) * x - float(level.sigma) * v
    torch.testing.assert_close(model(x, level), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bare(x, level), model(x, level))
    assert load_model(model).network is model.network


def test_classes_without_one_for_any():
    pipeline = tiny_ddpm(classes=5)
    model, level = load_model(pipeline), DDPM()(300.0)
    x = torch.randn(2, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eps = pipeline.unet(x.reshape(2, 3, 8, 8), 300, class_labels=torch.tensor([3, 3])).sample.flatten(1)
    expected = (x - float(level.sigma) * eps) / float(level.alpha)
    torch.testing.assert_close(model.conditional(3)(x, level), expected, rtol=1e-4, atol=1e-4)
    for ask in (model, model.denoise):
        with pytest.raises(ValueError, match="no label for 'any class'; choose one with"):
            ask(x, level)
    torch.testing.assert_close(model.holding(3).denoise(x, level), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="cannot be guided"):
        model.conditional(3, 2.0)


def test_clipping_is_left_off_and_said_so(tmp_path: Path):
    pipeline = tiny_ddpm(tmp_path, clip_sample=True, thresholding=True)
    for source in (tmp_path, pipeline):
        model = load_model(source)
        assert model.notes["left off"].startswith("clip_sample and thresholding of its scheduler")
        assert model(5 * torch.ones(1, 192), DDPM()(900.0)).abs().max() > 1
    assert "left off" not in load_model(tiny_ddpm()).notes
    made = CliRunner().invoke(
        app, ["sample", "-m", str(tmp_path), "--seeds", "0", "--steps", "2", "-o", str(tmp_path / "x.png")]
    )
    assert "Left off: clip_sample and thresholding of its scheduler" in made.output


def test_images_of_another_size(tmp_path: Path):
    tiny_ddpm(tmp_path)
    model = load_model(tmp_path, size=(16, 24))
    assert model.shape == (3, 16, 24)
    assert model(torch.zeros(1, model.dimension), DDPM()(500.0)).shape == (1, 3 * 16 * 24)


def test_converted_edm_networks_have_their_own_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, asked = tmp_path / "network.safetensors", []
    write_tensors(file, {"weight": torch.zeros(1)}, {"format": "edm"})
    made = wrap(torch.nn.Linear(1, 1), SHAPE, EDM(), "x0")
    monkeypatch.setattr("underpaint.models.networks.edm.load_edm", lambda path: asked.append(path) or made)
    assert {load_model(source, dtype=torch.float64).dtype for source in (file, tmp_path)} == {torch.float64}
    assert asked == [file, file]
    write_tensors(file, {"weight": torch.zeros(1)}, {"format": "statistics"})
    with pytest.raises(ValueError, match=r"neither a folder in diffusers' format nor an EDM network"):
        load_model(file)


@pytest.mark.parametrize(("name", "value"), [("mid_block_scale_factor", None), ("upsample_type", [None])])
def test_a_config_of_which_a_network_can_be_built_that_does_not_run(tmp_path: Path, name: str, value: object):
    tiny_ddpm(tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {name: value}))
    model = load_model(tmp_path)
    with pytest.raises(ValueError, match=r"does not run on states of the shape \(3, 8, 8\): a setting in its config"):
        model(torch.zeros(2, 192), model.schedule.grid(3)[0])


def test_schedules_of_scheduler_configs():
    """Against the tables of the schedulers themselves; the prediction as they name it."""
    betas = np.linspace(1e-3, 0.05, 50).tolist()
    for options in (
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.015, "num_train_timesteps": 400},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {"trained_betas": betas, "num_train_timesteps": 50, "prediction_type": "sample"},
        {"rescale_betas_zero_snr": True},
    ):
        scheduler = DDIMScheduler(**options)
        schedule, prediction = read_scheduler(scheduler.config)
        expected = {"v_prediction": "v", "sample": "x0"}.get(options.get("prediction_type"), "eps")
        assert prediction == expected
        level = schedule(torch.arange(len(scheduler.alphas_cumprod)))
        torch.testing.assert_close(level.alpha**2, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-7)
    for flow in (
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ):
        assert read_scheduler(scheduler_config(flow)) == (Flow(3.0), "flow")
    with pytest.raises(ValueError, match="EDMEulerScheduler that is not made from betas"):
        read_scheduler(scheduler_config(EDMEulerScheduler()))
    with pytest.raises(ValueError, match="beta_schedule 'laplace'; known are linear, scaled_linear"):
        read_scheduler({"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}, "it")


def test_broken_folders_get_a_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no model 'nothing'.*fashion-mnist"):
        load_model("nothing")
    with pytest.raises(ValueError, match=r"no file .*config.json"):
        load_model(tmp_path)
    tiny_ddpm(tmp_path)
    weights, config = tmp_path / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "unet" / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_model(tmp_path)
    tensors = load(whole)
    del tensors["conv_in.weight"]
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"does not fit the UNet2DModel .* no values for conv_in.weight"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"no file .*diffusion_pytorch_model.safetensors"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"block_out_channels": [8, 16]}))
    said = r"does not fit the UNet2DModel that its config describes: (size mismatch|.* expected shape .*\]\)$)"
    with pytest.raises(ValueError, match=said):  # without accelerate, or with it
        load_model(tmp_path)
    config.write_text(json.dumps(content | {"_class_name": "ControlNetModel"}))
    with pytest.raises(ValueError, match="holds a ControlNetModel; expected a UNet2DModel"):
        load_model(tmp_path)
    config.write_text(json.dumps(content))
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "magic"}))
    with pytest.raises(ValueError, match="prediction_type 'magic'"):
        load_model(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "MagicPipeline"}))
    with pytest.raises(ValueError, match=r"holds MagicPipeline, which the diffusers installed here .* does not have"):
        load_model(tmp_path)


# Any network, wrapped


def gaussian_network(gaussian: Gaussian, level_of: Callable[[torch.Tensor], NoiseLevel], prediction: Prediction):
    def network(images: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        x, level = images.flatten(1), level_of(time)
        return from_denoised(gaussian(x, level), x, level, prediction).reshape(images.shape)

    return network


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("schedule", "time", "level_of"),
    [
        (DDPM(), "schedule", DDPM()),
        (DDPM(), "sigma", DDPM().level),
        (Flow(), "thousand", lambda t: Flow()(t.double() / 1000)),
        (EDM(), "log-sigma", lambda t: EDM()((4 * t.double()).exp())),
    ],
)
def test_a_wrapped_network_is_its_denoiser(gaussian, prediction, schedule, time, level_of):
    network = gaussian_network(gaussian, level_of, prediction)
    for output in (
        network,
        lambda x, t: (network(x, t), None),
        lambda x, t: SimpleNamespace(sample=network(x, t)),
        lambda x, t: torch.cat([network(x, t), torch.full_like(x, 9.0)], 1),
    ):
        model = wrap(output, SHAPE, schedule, prediction, time=time).to(dtype=torch.float64)
        for ratio in (0.05, 1.0, 20.0):
            level = EDM()(ratio)
            x = gaussian.sample(3, torch.Generator().manual_seed(1), level)
            torch.testing.assert_close(model(x, level), gaussian(x, level), rtol=1e-3, atol=1e-3)


def test_a_wrapped_module_with_classes():
    class Plus(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, x, time, labels):
            return self.weight * labels.reshape(-1, 1, 1, 1) + 0 * x

    module = Plus()
    model = wrap(module, SHAPE, EDM(), "x0", classes=3, null_class=0)
    x = torch.ones(2, 16, dtype=torch.float64)
    assert (model.name, model.dtype, model.classes) == ("Plus", torch.float64, 3)
    torch.testing.assert_close(model(x, EDM()(1.0)), 0 * x)
    torch.testing.assert_close(model.conditional(2, 3.0)(x, EDM()(1.0)), 12 * x)
    assert module.training, "a network in training is left as it is"
    assert model.to(dtype=torch.float32).network.network.weight.dtype == torch.float32


def test_what_cannot_be_wrapped_gets_a_sentence():
    def network(x, time):
        return x

    with pytest.raises(ValueError, match=r"positive whole numbers, such as \(C, H, W\), got \(1, 0\)"):
        wrap(network, (1, 0), EDM(), "x0")
    with pytest.raises(ValueError, match="prediction type 'noise'; choose one of x0, eps"):
        wrap(network, SHAPE, EDM(), "noise")
    with pytest.raises(ValueError, match="kind of time 'steps'; choose one of schedule, thousand"):
        wrap(network, SHAPE, EDM(), "x0", time="steps")
    with pytest.raises(ValueError, match="null_class 3 was given for a network of no classes"):
        wrap(network, SHAPE, EDM(), "x0", null_class=3)
    with pytest.raises(ValueError, match=r"made \(2, 1, 3, 4\) of states \(2, 1, 4, 4\)"):
        wrap(lambda x, time: x[:, :, 1:], SHAPE, EDM(), "x0")(torch.zeros(2, 16), EDM()(1.0))


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
