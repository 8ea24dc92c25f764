"""What `underpaint doctor` says."""

from __future__ import annotations

import json
import sys

from typer.testing import CliRunner

import underpaint
from underpaint import assets
from underpaint.cli import app
from underpaint.recipes import doctor


def test_the_report_is_of_this_environment():
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert found["underpaint"] == underpaint.__version__
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["packages"]["torch"] == __import__("torch").__version__
    assert found["models"] == assets.names()
    assert "cpu" in found["devices"]
    assert set(found["data"]) == set(assets.names())


def test_an_extra_names_what_it_lacks(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gradio" else "1.0")
    assert doctor.missing("web") == ["gradio"]
    assert doctor.missing("text") == []
    monkeypatch.setattr(doctor, "requires", lambda name: ["a-b>=1; extra == 'x'", "c; extra == 'y'", "d>=2"])
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert doctor.missing("x") == ["a-b"]


def test_what_is_missing_is_said_last(monkeypatch):
    whole = {"scale": [], "web": []}
    assert doctor.finding(whole) == "Nothing is missing: all extras are complete."
    assert doctor.finding(whole | {"fid": ["a"], "web": ["gradio"]}) == (
        "These extras are not complete: web, fid. If you need them: pip install 'underpaint[web,fid]'"
    )
    output = CliRunner().invoke(app, ["doctor"]).output
    assert output.splitlines()[-1] == doctor.examine()["finding"]


def test_words_are_for_people():
    output = CliRunner().invoke(app, ["doctor"]).output
    assert "fashion-mnist" in output
    assert "True" not in output
    assert "None" not in output
