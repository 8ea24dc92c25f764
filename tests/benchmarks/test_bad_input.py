"""Scripts of benchmarks/ and training/ end in one sentence where they are given what cannot be."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest
import torch

import underpaint as up
from underpaint.cli.base import in_a_sentence
from underpaint.sampling.fitted import Plan, write_calibration

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
    assert said in _ended(words, monkeypatch, tmp_path, capsys)
    assert [*tmp_path.rglob("*.*")] == []


#: Options of which each would be found out by the work, or after it, if it were not looked at before.
LATE = """
benchmarks/ancestral.py --samples 1: The --samples must be a whole number from 2
benchmarks/ancestral.py --calls 5 0: The --calls must be a whole number from 1
benchmarks/ancestral.py --model cifar10 --errors: --errors is for fashion-mnist
benchmarks/calibration.py --calls 0: The --calls must be a whole number from 2 to 98, got 0
benchmarks/calibration.py --held-out 0: The --held-out must be
benchmarks/calibration.py --seeds 1001: The --seeds must be a whole number from 1 to 1,000, got 1001
benchmarks/calibration.py --effort -1: The --effort must be
benchmarks/calibration.py --fine 2: The --fine must be
benchmarks/defaults.py --seeds 0: The --seeds must be
benchmarks/defaults.py --calls 0: The --calls must be
benchmarks/learned.py --fine 1: The --fine must be
benchmarks/learned.py --calls 200: The --calls must be a whole number from 1 to 199, got 200
benchmarks/learned.py --rounds -1: The --rounds must be
benchmarks/learned.py --seeds 0-3 --judge 3-5: Give other seeds
benchmarks/learned.py --calibration plans.json --held-out 40-47: The calibration has used seed 40; give other
benchmarks/learned.py --calibration others.json: with a Gaussian of dimension 3 and total variance 4, this one has
benchmarks/learned.py --out FILE/learned.json: is a file; give another place
benchmarks/overhead.py --rows 0: The --rows must be
benchmarks/overhead.py --steps 0: The --steps must be
benchmarks/real_size.py --size 0: The --size must be
benchmarks/real_size.py --size 65: The --size must be a multiple of 8, got 65
benchmarks/real_size.py --steps 0: The --steps must be
benchmarks/released.py --points 0: The --points must be
benchmarks/released.py --states 0: The --states must be
benchmarks/scores.py --batch 0: The --batch must be
benchmarks/scores.py --turns 1: The --turns must be
benchmarks/scores.py --picture FILE/a.svg: is a file; give another place
benchmarks/shared_patches.py --counts 0: The --counts must be
benchmarks/shared_patches.py --seeds 0: The --seeds must be
benchmarks/shrinkage.py --counts 1: The --counts must be
benchmarks/statistics.py --seconds -1: The --seconds must be
benchmarks/steps.py --bases 0: The number of directions must be
benchmarks/steps.py --bases 64 --dimensions 16: A basis of 64 directions needs as many numbers at least; got 16
benchmarks/steps.py --bases stationary --dimensions 5000: A stationary basis is of four channels of a square
benchmarks/steps.py --rows 0: The --rows must be
benchmarks/strip.py plans.json --calls 7: The calibration has plans of 3 calls, none of 7
benchmarks/strip.py plans.json --count 17: The --count must be a whole number from 1 to 16, got 17
benchmarks/strip.py plans.json --out FILE/strip.png: is a file; give another place
benchmarks/terms.py --calibration plans.json --calls 7: The calibration has plans of 3 calls, none of 7
benchmarks/terms.py --calibration plans.json --calls 3 --held-out 40: Give other seeds to fit to
benchmarks/terms.py --calibration plans.json --calls 3 --fine 2: The --fine must be
benchmarks/terms.py --calibration close.json --calls 3: With 60 levels two of 3 calls are at the same one; give more
benchmarks/terms.py --calibration others.json --calls 3: with a Gaussian of dimension 3 and total variance 4, this one
benchmarks/terms.py --calibration plans.json --calls 3 --out FILE/a.json: is a file; give another place
benchmarks/transfer.py --only 99: The --only must be a whole number from 0 to 8, got 99
benchmarks/transfer.py --range --only 6: The --only must be a whole number from 0 to 5, got 6
benchmarks/transfer.py --range --keep plans.json: give it without --range
benchmarks/transfer.py --keep FILE/a.json: is a file; give another place
training/classifier.py --out a --assets b --epochs 0: The --epochs must be
training/classifier.py --out a --assets FILE/b: is a file; give another place
training/package.py --run a --out b --samples 1: The --samples must be
training/package_natural.py --run a --data b --out c --tested 0: The --tested must be
training/package_scenes.py --run a --reader b --out c --count 0: The --count must be
training/scenes.py --out a.png --count 0: The --count must be
training/scenes.py --out a.png --prompt frog: With --prompt, images go to an .npz
training/text_to_image.py --autoencoder a --out b --scenes 0: The --scenes must be
training/autoencoder.py --out a --size 0: The --size must be
training/reader.py --out a --size 0: The --size must be
training/edm.py --out FILE/run --data fashion-mnist: is a file; give another place
"""
WRITING = ("ancestral", "defaults", "few_calls", "pipelines", "samplers", "transfer", "transfer --range")


@pytest.mark.parametrize("line", LATE.strip().splitlines(), ids=lambda line: line.partition(":")[0].replace("/", ","))
def test_it_is_found_before_the_work(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _, said = line.partition(": ")
    assert said in _refused(words, monkeypatch, tmp_path, capsys)


@pytest.mark.parametrize("script", [*WRITING, "terms --calibration plans.json --calls 3"])
@pytest.mark.parametrize(("page", "said"), [("none.md", "There is no page none.md"), ("FILE", "FILE has no <!--")])
def test_a_page_that_no_table_goes_into_is_found_before_the_work(
    script: str,
    page: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *more = script.split()
    words = " ".join([f"benchmarks/{name}.py", *more, "--write", page])
    assert said in _refused(words, monkeypatch, tmp_path, capsys)


def test_all_scripts_that_write_into_pages_are_asked() -> None:
    texts = {path.stem: path.read_text() for path in SCRIPTS}
    writing = {name for name, text in texts.items() if "--write" in text or "show_or_write" in text}
    assert writing == {script.split()[0] for script in WRITING} | {"terms"}


def _refused(words: str, monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script says as it ends with exit code 2, having called no network and written nothing."""
    (folder / "FILE").write_text("a page")
    grid, fine = up.DDPM().grid(4), up.DDPM().grid(1000)
    close = up.NoiseLevel.join(fine[torch.tensor([0, 500, 501])], grid[-2:])  # two calls of three next to each other
    _write_plan(folder / "plans.json", grid)
    _write_plan(folder / "close.json", close)
    _write_plan(folder / "others.json", grid, gaussian={"dimension": 3, "variance": 4.0, "largest": 2.0})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(up.Model, "__call__", _called)
    monkeypatch.setattr(torch.nn.Module, "__call__", _called)
    said = _ended(words, monkeypatch, folder, capsys)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    return said


def _write_plan(path: Path, level: up.NoiseLevel, **more: object) -> None:
    """A calibration of one plan of three calls."""
    about = {"place": "fashion-mnist", "statistics": {"all": "fashion-mnist"}, "cases": ["unconditional"]}
    plan = Plan(level, torch.zeros(3, 3, 6, dtype=torch.float64))
    write_calibration(path, up.Calibration((plan,), about | {"seeds": [40], "held_out": [41]} | more))


def _called(*_: object, **__: object) -> None:
    raise KeyError("a network is called")


def _ended(words: str, monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script says as it ends with exit code 2."""
    script, *options = words.split()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_what_is_a_fault_of_the_script_is_not_hidden() -> None:
    with pytest.raises(KeyError), in_a_sentence("script.py"):
        raise KeyError("a")
