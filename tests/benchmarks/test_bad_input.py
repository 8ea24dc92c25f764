"""Scripts of benchmarks/ and training/ end in one sentence where they are given what cannot be."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

from underpaint.cli.base import in_a_sentence

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    path
    for folder in ("benchmarks", "training")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_a_script_does_is_guarded_by_its_name(script: Path) -> None:
    last = ast.parse(script.read_text()).body[-1]
    assert isinstance(last, ast.If)
    assert ast.unparse(last.body[0]).startswith(f"with in_a_sentence('{script.name}'):")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("benchmarks/learned.py --model nowhere", "learned.py: There is no model 'nowhere'"),
        ("benchmarks/terms.py --calibration none.json", "terms.py: There is no file none.json; expected a calibration"),
        ("benchmarks/strip.py none.json", "strip.py: There is no file none.json; expected a calibration"),
        (
            "benchmarks/steps.py --bases nothing",
            "steps.py: A basis is stationary, usual or a number of directions, got 'no",
        ),
        (
            "benchmarks/steps.py --threads 0",
            "steps.py: The number of threads must be a whole number from 1 to 1,024, got 0",
        ),
        ("benchmarks/ancestral.py --grids nothing", "ancestral.py: There is no grid 'nothing' here; choose from"),
        ("benchmarks/learned.py --calibration none.json", "learned.py: There is no file none.json; expected a cal"),
        ("training/edm.py --out run --data fashion-mnist --mult 0", "edm.py: The --mult must be a whole number from 1"),
        (
            "training/edm.py --out run --data fashion-mnist --drop 2",
            "left out (--drop) must be a number from 0 to 1, got",
        ),
        ("training/denoiser.py --out run --device moon", "denoiser.py: There is no device 'moon' here"),
        ("training/denoiser.py --out run --until soon", "denoiser.py: The end of a training is a time of day such as"),
        ("training/denoiser.py --out run --threads 0", "The number of threads must be a whole number from 1 to 1,024"),
        ("training/denoiser.py --out run --workers 0", "The number of workers must be a whole number from 1 to"),
        ("training/denoiser.py --out run --data nowhere", "denoiser.py: There are no data called 'nowhere'"),
    ],
)
def test_bad_input_ends_in_a_sentence(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *options = words.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert [*tmp_path.rglob("*.*")] == []


def test_what_is_a_fault_of_the_script_is_not_hidden() -> None:
    with pytest.raises(KeyError), in_a_sentence("script.py"):
        raise KeyError("a")
