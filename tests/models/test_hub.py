"""Checkpoints that come from elsewhere: the hub and its cache, no network, and folders that want to run code."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from unittest.mock import MagicMock

import diffusers
import huggingface_hub
import pytest
import torch
from diffusers.utils import dummy_torch_and_transformers_objects as stand_ins
from huggingface_hub import constants
from huggingface_hub.utils import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, filter_repo_objects
from tiny import tiny_ddpm, tiny_stable_diffusion

from underpaint.models.load import load_model
from underpaint.models.pipelines import hub
from underpaint.models.pipelines.hub import fetch, is_hub_id
from underpaint.noise import DDPM


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("google/ddpm-cifar10-32", True),
        ("stabilityai/stable-diffusion-xl-base-1.0", True),
        ("fashion-mnist", False),
        ("../models", False),
        ("./model", False),
        ("a/b/c", False),
        ("/models/mine", False),
        ("~/mine", False),
        ("C:\\mine", False),
    ],
)
def test_what_has_the_form_of_an_id(text: str, is_id: bool) -> None:
    assert is_hub_id(text) is is_id


def test_only_configs_tokenizers_and_plain_safetensors_are_wanted() -> None:
    wanted = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer_3/spiece.model",
        "transformer/diffusion_pytorch_model-00002-of-00003.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    unwanted = [
        "README.md",
        "pipeline.py",
        "sd_xl_base_1.0.safetensors",
        "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors",
        "safety_checker/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_flax_model.msgpack",
        "unet/my_unet.py",
        "vae_decoder/model.onnx",
    ]

    def chosen(variant: str | None) -> set[str]:
        patterns = {"allow_patterns": hub._wanted(variant), "ignore_patterns": list(hub._UNWANTED)}
        return set(filter_repo_objects(wanted + unwanted, **patterns))

    assert chosen(None) == {*wanted}
    weights = {name for name in wanted if name.endswith(".safetensors")}
    assert chosen("fp16") == {*wanted} - weights | {name for name in unwanted if ".fp16" in name}


def test_a_checkpoint_in_the_cache_needs_no_network(cache: Path, tmp_path: Path) -> None:
    tiny_ddpm(tmp_path / "made")
    home = cache / "models--someone--tiny"
    for commit, branch in (("a" * 40, "main"), ("b" * 40, "v-prediction")):
        copytree(tmp_path / "made", home / "snapshots" / commit)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / branch).write_text(commit)
    config = home / "snapshots" / ("b" * 40) / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    model, other = load_model("someone/tiny"), load_model("someone/tiny", revision="v-prediction")
    assert model.name == other.name == "someone/tiny"
    assert (model.prediction, other.prediction) == ("eps", "v")
    assert load_model("someone/tiny", revision="a" * 40).prediction == "eps"
    x = torch.randn(2, 192, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x, DDPM()(500.0)), load_model(tmp_path / "made")(x, DDPM()(500.0)))


def test_without_a_network_the_sentence_says_how_to_fetch(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"google/ddpm-cifar10-32 is neither .* `hf download google/ddpm-cifar10-32`"):
        load_model("google/ddpm-cifar10-32")
    with pytest.raises(ValueError, match="no model 'google/ddpm-cifar10-32'"):
        load_model(Path("google/ddpm-cifar10-32"))  # a path is never looked for on the hub


def test_the_offline_variable_is_the_hubs_own(tmp_path: Path) -> None:
    code = "from underpaint.models.pipelines.hub import fetch\nfetch('google/ddpm-cifar10-32')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ValueError: google/ddpm-cifar10-32 is neither a folder here nor whole in the hub's cache" in run.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError, "asks for its licence to be accepted: do so at https://huggingface.co/someone/model"),
        (RepositoryNotFoundError, "no folder 'someone/model' here and no someone/model on the hub"),
        (RevisionNotFoundError, "has no revision 'v9' on the hub"),
        (TimeoutError, r"the hub could not be reached \(TimeoutError\)"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error("refused", response=MagicMock()) if error is not TimeoutError else error("refused")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=said) as caught:
        fetch("someone/model", "v9")
    assert "\n" not in str(caught.value)


class Exploit:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import pathlib; pathlib.Path({str(self.mark)!r}).touch()",)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.pt", "model.ckpt"])
def test_pickled_weights_are_never_opened(tmp_path: Path, name: str) -> None:
    pipeline, mark = tmp_path / "pipeline", tmp_path / "mark"
    tiny_ddpm(pipeline)
    torch.save({"conv_in.weight": Exploit(mark)}, pipeline / "unet" / name)
    assert load_model(pipeline).shape == (3, 8, 8)  # the safetensors beside it are read
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"only as a pickle \({name}\), which can run code .* never read"):
        load_model(pipeline)
    with pytest.raises(ValueError, match="Pickles can run code when they are opened, and are not read here"):
        load_model(pipeline / "unet" / name)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Exploit(mark)))
    assert mark.exists(), "the exploit does work where it is opened"


def write_code(folder: Path, mark: Path) -> None:
    folder.mkdir(exist_ok=True)
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Mine:\n    pass\n"
    for name in ("pipeline.py", "my_unet.py", "modeling.py"):
        (folder / name).write_text(code)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder, mark = tmp_path / "pipeline", tmp_path / "mark"
    tiny_stable_diffusion(folder)
    for part in (folder, folder / "unet", folder / "text_encoder"):
        write_code(part, mark)
    index = json.loads((folder / "model_index.json").read_text())

    def refused(said: str, **changes: object) -> None:
        (folder / "model_index.json").write_text(json.dumps(index | changes))
        with pytest.raises(ValueError, match=said):
            load_model(folder)

    refused("wants a pipeline of its own", _class_name=["pipeline", "Mine"])
    refused("takes its unet .* from 'my_unet'; only classes of diffusers and transformers", unet=["my_unet", "Mine"])
    refused("takes its unet .* from 'os'", unet=["os", "system"])
    refused("wants DiffusionPipeline of diffusers for its unet", unet=["diffusers", "DiffusionPipeline"])
    refused("wants AutoModel of transformers for its text_encoder", text_encoder=["transformers", "AutoModel"])
    config = folder / "text_encoder" / "config.json"
    config.write_text(
        json.dumps(
            json.loads(config.read_text()) | {"auto_map": {"AutoModel": "modeling.Mine", "AutoConfig": "modeling.Mine"}}
        )
    )
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_model(folder).shape == (4, 8, 8)
    assert not mark.exists()


def test_parts_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_stable_diffusion(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "vae"}))
    with pytest.raises(ValueError, match="names no vae, which StableDiffusionPipeline needs"):
        load_model(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "vae").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"no folder .*vae; expected the files of AutoencoderKL"):
        load_model(tmp_path)
    (tmp_path / "away").rename(tmp_path / "vae")
    weights = tmp_path / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"text_encoder.*not a complete safetensors file"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    monkeypatch.setattr("underpaint.models.pipelines.parts.find_spec", lambda name: None)
    monkeypatch.setattr(diffusers, "StableDiffusionPipeline", stand_ins.StableDiffusionPipeline)
    with pytest.raises(ValueError, match=r'need transformers: pip install "underpaint\[text\]"'):
        load_model(tmp_path)
