"""Checkpoints and objects as they come: variants, mixed dtypes, offloaded parts, and forms that diffusers opens."""

from __future__ import annotations

import json
import logging as std_logging
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from torch import Tensor

from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.models.pipelines.parts import find_variant, load_part, no_notices

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:__array")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "sd"
    tiny.tiny_stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variant") / "sd"
    tiny.tiny_stable_diffusion().save_pretrained(folder, variant="fp16")
    return folder


def answer(model: Model) -> Tensor:
    x = torch.randn(1, model.dimension, generator=torch.Generator().manual_seed(0))
    return model.conditional("a bear", 3.0)(x, model.schedule.level(1.0))


def test_a_folder_of_a_variant_alone_is_that_model(plain: Path, variant: Path) -> None:
    expected = answer(load_model(plain))
    assert torch.equal(answer(load_model(variant)), expected)
    assert torch.equal(answer(load_model(variant, variant="fp16")), expected)


def test_a_variant_beside_plain_weights_is_taken_when_it_is_named(plain: Path, variant: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(plain, both)
    for part in ("unet", "vae", "text_encoder"):
        (other,) = (variant / part).glob("*.safetensors")
        shutil.copy(other, both / part)
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    save_file({key: 2 * value for key, value in load_file(both / name).items()}, both / name, {"format": "pt"})
    expected = answer(load_model(plain))
    assert torch.equal(answer(load_model(both)), expected)
    assert not torch.equal(answer(load_model(both, variant="fp16")), expected)
    with pytest.raises(ValueError, match="holds no variant 'bf16', but fp16"):
        load_model(both, variant="bf16")


def test_variants_by_their_files(tmp_path: Path) -> None:
    def written(*names: str) -> Path:
        folder = tmp_path / "-".join(names).replace("/", "")[:60]
        folder.mkdir()
        for name in names:
            save_file({"w": torch.zeros(1)}, folder / name)
        return folder

    shards = [f"model.fp16-0000{k}-of-00002.safetensors" for k in (1, 2)]
    assert find_variant(written(*shards), "model") == "fp16"
    assert find_variant(written("model-00001-of-00001.safetensors", *shards), "model") is None
    several = written("model.fp16.safetensors", "model.bf16.safetensors")
    with pytest.raises(ValueError, match="holds the variants bf16, fp16; choose one"):
        find_variant(several, "model")
    assert find_variant(several, "model", "bf16") == "bf16"
    with pytest.raises(ValueError, match='variant="fp16"'):
        find_variant(written("other.safetensors"), "model")


def test_text_encoders_with_the_other_names_of_their_weights(plain: Path, tmp_path: Path) -> None:
    """transformers 5 saves them without ``text_model.``, those before with it."""
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    weights = load_file(plain / "text_encoder" / "model.safetensors")
    prefixed = all(name.startswith("text_model.") for name in weights)
    renamed = {name.removeprefix("text_model.") if prefixed else f"text_model.{name}": w for name, w in weights.items()}
    save_file(renamed, other / "text_encoder" / "model.safetensors", {"format": "pt"})
    assert torch.equal(answer(load_model(other)), answer(load_model(plain)))


def test_an_encoder_in_another_dtype_than_the_network() -> None:
    """As pipelines come whose parts were opened in different dtypes."""
    pipe = tiny.tiny_stable_diffusion()
    expected = answer(load_model(pipe))
    pipe.text_encoder.half()
    found = answer(load_model(pipe))
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 0.02 * float(expected.abs().max())


def test_offloaded_parts_decode_and_encode() -> None:
    """accelerate keeps the weights elsewhere and leaves tensors without data in the modules."""
    accelerate = pytest.importorskip("accelerate", reason="needs the extra scale")
    pipe = tiny.tiny_stable_diffusion()
    model = load_model(pipe)
    x = torch.randn(1, model.dimension, generator=torch.Generator().manual_seed(1))
    images, given = model.images(x), torch.rand(1, *model.image_shape)
    rows, expected = model.rows(given), answer(model)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        accelerate.cpu_offload(part, torch.device("cpu"))
    assert next(pipe.vae.parameters()).is_meta
    offloaded = load_model(pipe)
    assert torch.equal(offloaded.images(x), images)
    assert torch.equal(offloaded.rows(given), rows)
    assert torch.equal(answer(offloaded), expected)


@pytest.mark.parametrize("change", ["compiled", "channels_last", "autocast", "lora"])
def test_objects_as_they_come(change: str) -> None:
    pipe = tiny.tiny_stable_diffusion()
    expected = answer(load_model(pipe))
    if change == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = answer(load_model(pipe))
        assert found.dtype == torch.float32
        assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
        return
    if change == "compiled":
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    elif change == "channels_last":
        pipe.unet.to(memory_format=torch.channels_last)
    else:
        peft = pytest.importorskip("peft", reason="needs peft, which no extra brings")
        pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))  # of no effect until it is trained
    assert float((answer(load_model(pipe)) - expected).abs().max()) < 1e-5


def test_a_compiled_pixel_network_is_that_network() -> None:
    pipe = tiny.tiny_ddpm()
    plain = load_model(pipe)
    x = torch.randn(2, plain.dimension, generator=torch.Generator().manual_seed(0))
    expected = plain(x, plain.schedule.level(1.0))
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    compiled = load_model(pipe)
    assert compiled.shape == plain.shape
    assert float((compiled(x, plain.schedule.level(1.0)) - expected).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.dduf", b"dduf", r"a\.dduf is a whole model in one file: open it with diffusers .*dduf_file"),
        ("a.gguf", b"GGUF", r"a\.gguf is a whole model in one file: open it with diffusers .*GGUFQuantizationConfig"),
        ("modular_model_index.json", b"{}", r"holds a modular pipeline, .* give the folder of the plain pipeline"),
    ],
)
def test_other_forms_get_the_right_sentence(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        load_model(tmp_path / name if name.startswith("a.") else tmp_path)


@pytest.mark.parametrize(
    "key", ["model.diffusion_model.input_blocks.0.0.weight", "double_blocks.0.img_attn.qkv.weight"]
)
def test_a_single_file_checkpoint_is_sent_to_diffusers(key: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(2)}, tmp_path / "whole.safetensors")
    with pytest.raises(ValueError, match="open it with diffusers \\(from_single_file"):
        load_model(tmp_path / "whole.safetensors")


def test_quantised_weights_name_the_library_that_they_need(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantised"
    shutil.copytree(plain, folder)
    path = folder / "unet" / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    path.write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(ValueError, match=r"needs a library that is not installed.*bitsandbytes"):
        load_model(folder)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="transformers says it where there is no torchvision")
def test_nothing_is_said_of_torchvision_which_is_not_needed(tmp_path: Path) -> None:
    """Where we import an image processor; all else that transformers says is heard."""
    said = list[str]()

    class Heard(std_logging.Handler):
        def emit(self, record: std_logging.LogRecord) -> None:
            said.append(record.getMessage())

    speaker, heard = std_logging.getLogger("transformers.utils.import_utils"), Heard()
    speaker.addHandler(heard)
    level = speaker.level
    speaker.setLevel(std_logging.WARNING)
    try:
        forget_processor()
        processor = transformers.CLIPImageProcessor
        if not any("torchvision" in line for line in said):
            pytest.skip("this transformers does not say it")
        processor().save_pretrained(tmp_path)
        said.clear()
        forget_processor()
        assert isinstance(load_part(tmp_path, "transformers", "CLIPImageProcessor", torch.float32), processor)
        with no_notices():
            speaker.warning("something else")
        speaker.warning("torchvision, of another")
        assert said == ["something else", "torchvision, of another"]
    finally:
        speaker.removeHandler(heard)
        speaker.setLevel(level)


def forget_processor() -> None:
    """That the class was asked for, and that it was said."""
    vars(transformers).pop("CLIPImageProcessor", None)
    std_logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
