"""The card of a trained model tells of every part of its training."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from underpaint import assets
from underpaint.noise import DDPM

TRAINING = Path(__file__).parents[2] / "training"
PART = {"steps": 4330, "images": 277_120, "minutes": 100.0, "images_per_second": 46.2, "batch": 64, "rate": 1.5e-3}
LAST = {"steps": 7000, "images": 896_000, "minutes": 152.3, "images_per_second": 98.0, "batch": 128, "rate": 1.3e-3}
LAST |= {"drop": 0.5, "width": 0.05, "seed": 0}
MEASURED = {
    "loss": {20: 0.002, 999: 0.35},
    "explained": {"exact": 0.985, "gaussian": 0.929},
    "frechet": {"network": 0.77, "gaussian": 17.0, "mixture": 4.5, "train": 0.04},
    "features": "fashion-cnn-64",
    "samples": 2000,
    "steps": 25,
}


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))


def write(earlier: list[dict[str, Any]]) -> str:
    model = SimpleNamespace(schedule=DDPM("linear"), network=nn.Linear(1000, 2447, bias=False))
    return str(import_module("package").card({**LAST, "earlier": earlier}, MEASURED, model))


def test_a_card_adds_the_parts_of_a_training_up() -> None:
    text = write([PART])
    assert "1,173,120 images in 252 minutes, in parts" in text
    assert (
        "| 1 | 100 | 4,330 | 64 | 277,120 | 46 | 0.0015 |\n| 2 | 152 | 7,000 | 128 | 896,000 | 98 | 0.0013 |\n" in text
    )
    assert "2.45 M parameters" in text


def test_a_card_of_one_part_has_no_table_of_parts() -> None:
    text = write([])
    assert "896,000 images in 152 minutes, 98 a second." in text
    assert "| part |" not in text


def test_what_was_trained_before_is_read_from_the_model_that_a_training_goes_on_from(tmp_path: Path) -> None:
    earlier = import_module("loop").earlier
    (tmp_path / "unet").mkdir()
    assert earlier(None) == []
    assert earlier(tmp_path / "unet") == []
    notes = {"training": {**LAST, "earlier": [PART]}}
    (tmp_path / "underpaint.json").write_text(json.dumps(notes), encoding="utf-8")
    assert earlier(tmp_path / "unet") == [PART, LAST]


def test_the_boxed_model_tells_of_the_training_of_each_part() -> None:
    loop, box = import_module("loop"), assets.folder("emoji-scenes")
    notes = json.loads((box / "underpaint.json").read_text(encoding="utf-8"))["training"]
    *_, network = loop.earlier(box)
    *_, coder = loop.earlier(box / "vae", "autoencoder")
    assert (network["steps"], network["rate"]) == (notes["steps"], notes["rate"])
    assert (coder["steps"], coder["rate"]) == (notes["autoencoder"]["steps"], notes["autoencoder"]["rate"])
    assert "autoencoder" not in network


def test_a_text_to_image_training_goes_on_from_the_boxed_model(tmp_path: Path) -> None:
    script, box = import_module("text_to_image"), assets.folder("emoji-scenes")
    tokenizer = script.keep_tokenizer(tmp_path / "tokenizer", ["a red apple, a star"], box)
    boxed = CLIPTokenizer.from_pretrained(box / "tokenizer")
    assert tokenizer("a red star, apple")["input_ids"] == boxed("a red star, apple")["input_ids"]
    assert (len(tokenizer), len(tokenizer.tokenize("penguin"))) == (len(boxed), 7)  # what captions lack is forgotten
    assert len(boxed.tokenize("penguin")) == 1
    network = script.build_network(tokenizer, 12, box)
    known = UNet2DConditionModel.from_pretrained(box / "unet", torch_dtype=torch.float32)
    x, words = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 32, 128)
    torch.testing.assert_close(network.unet(x, 500, words).sample, known(x, 500, words).sample)
    torch.testing.assert_close(
        network.text_encoder(torch.tensor([[1, 2, 3]]))[0],
        CLIPTextModel.from_pretrained(box / "text_encoder")(torch.tensor([[1, 2, 3]]))[0],
    )


@pytest.mark.parametrize("written", ["pairs", "strings"])
def test_captions_are_cut_as_before_and_other_words_are_forgotten(tmp_path: Path, written: str) -> None:
    """Whatever they hold: an apostrophe, digits, a hyphen, letters of two bytes, or nothing at all."""
    script = import_module("text_to_image")
    captions = ["", "A fox's den, don't!", "café-bar 12 a_b"]
    script.build_tokenizer([*captions, "a penguin's pen", "it'll"]).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    model = state["model"]
    for pair in (("'", "s</w>"), ("'", "t</w>"), ("Ã", "©</w>"), ("Ã", "¨</w>")):  # é and è as bytes
        for token in (*pair, "".join(pair)):
            model["vocab"].setdefault(token, len(model["vocab"]))
        model["merges"].append(list(pair))
    if written == "strings":
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    file.write_text(json.dumps(state), encoding="utf-8")
    before = CLIPTokenizer.from_pretrained(tmp_path)
    assert {"'s</w>", "'t</w>", "Ã©</w>"} < {*before.tokenize(" ".join(captions))}
    script.forget(file, captions)
    after = CLIPTokenizer.from_pretrained(tmp_path)
    assert after.get_vocab() == before.get_vocab()
    assert [after.tokenize(caption) for caption in captions] == [before.tokenize(caption) for caption in captions]
    assert (before.tokenize("penguin"), after.tokenize("penguin")[:1]) == (["penguin</w>"], ["p"])
    assert (before.tokenize("è"), after.tokenize("è")) == (["Ã¨</w>"], ["Ã", "¨</w>"])
    script.forget(file, [])
    assert CLIPTokenizer.from_pretrained(tmp_path).tokenize("fox") == ["f", "o", "x</w>"]


def test_what_is_kept_of_a_tokenizer_cuts_captions_as_before(tmp_path: Path) -> None:
    """Merges are kept in the order in which the tokenizer makes them; another would keep others."""
    script, scenes = import_module("text_to_image"), import_module("scenes")
    captions = [f"a {name} and a {other}" for name in scenes.NAMES for other in scenes.NAMES[:4]]
    old = script.build_tokenizer([*captions, "a rabbit, an elephant and seventeen tigers under an umbrella"] * 3)
    old.save_pretrained(tmp_path / "start" / "tokenizer")
    new = script.keep_tokenizer(tmp_path / "tokenizer", captions, tmp_path / "start")
    assert new(captions)["input_ids"] == old(captions)["input_ids"]
    assert len(old.tokenize("elephant")) == 1 < len(new.tokenize("elephant"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start", "tokenizer"]  # no draft is left
