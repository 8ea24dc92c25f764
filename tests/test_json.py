"""JSON from files: an object, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_ddpm

from underpaint.files import parse_json, read_json
from underpaint.models.load import load_model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not valid JSON in line 1"),
        ('{"a": 1,\n}', "is not valid JSON in line 2"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "too long a number"),
        ("null", "holds a JSON null; it should be a JSON object"),
        ('"x"', "holds a JSON text"),
        ("1.5", "holds a JSON number"),
        ("true", "holds a JSON true or false"),
        ("[{}]", "holds a JSON list"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, text: str, words: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json ") as caught:
        read_json(tmp_path / "a.json")
    assert words in str(caught.value).replace("not JSON that can be read: it is", "is")


def test_an_object_is_read(tmp_path: Path):
    assert parse_json('{"a": [1, {"b": null}]}', "it") == {"a": [1, {"b": None}]}
    for coding in ("utf-16", "latin-1"):
        (tmp_path / "a.json").write_bytes('{"ä": 1}'.encode(coding))
        with pytest.raises(ValueError, match="is not valid JSON: it is no text in UTF-8"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("underpaint.json", "pixel_unshuffle", None),
        ("underpaint.json", "pixel_unshuffle", 0),
        ("underpaint.json", "pixel_unshuffle", 65),
        ("unet/config.json", "block_out_channels", [None, 8]),
        ("unet/config.json", "time_embedding_type", True),
        ("unet/config.json", "freq_shift", ""),
        ("scheduler/scheduler_config.json", "trained_betas", {"x": None}),
        ("scheduler/scheduler_config.json", "beta_end", {}),
    ],
)
def test_a_mistyped_config_is_one_sentence(tmp_path: Path, part: str, name: str, value: object):
    tiny_ddpm(tmp_path)
    place = tmp_path / part
    content = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(content | {name: value}))
    with pytest.raises(ValueError) as caught:  # noqa: PT011  which sentence depends on who finds it out
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "NoneType" not in str(caught.value)
