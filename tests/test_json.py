"""JSON from files: an object, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpaint.files import parse_json, read_json


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
