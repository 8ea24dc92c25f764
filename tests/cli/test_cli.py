"""The command line as a user meets it."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from underpaint import __version__
from underpaint.cli import app, main, parse_seeds
from underpaint.cli.base import OFTEN, finish
from underpaint.models.load import load_model
from underpaint.noise import EDM
from underpaint.recipes.calibrate import finding
from underpaint.recipes.sample import SampleRequest, generate
from underpaint.sampling.fitted import LOOK_BACK, TERMS, Calibration, Plan, write_calibration

runner = CliRunner()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the whole entry point, error handling included."""
    monkeypatch.setattr(sys, "argv", ["underpaint", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_version_and_help():
    assert runner.invoke(app, ["--version"]).output.strip() == f"underpaint {__version__}"
    for command in ("report", "sample", "models", "convert"):
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert "--json" in result.output


@pytest.mark.parametrize("module", ["underpaint", "underpaint.cli"])
def test_the_package_runs_as_a_module(module: str):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"underpaint {__version__}\n"


def test_help_needs_no_heavy_import():
    heavy = ("torch", "diffusers", "matplotlib", "numpy")
    code = f"import sys, underpaint.cli; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_is_wrapped_by_the_window_alone():
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) > 10
    for name, command in commands.items():
        assert command.help, name
        assert not re.search(r"[^\n]\n[^\n]", command.help), name


def test_every_command_ends_with_what_was_found():
    """But for those that print a check, a list or an address."""
    others = {"check", "doctor", "explore", "models"}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    ends = {
        name for name, command in commands.items() if "finish" in inspect.unwrap(command.callback).__code__.co_names
    }
    assert ends == commands.keys() - others


def test_an_end_is_json_or_words_and_nothing_if_quiet(capsys: pytest.CaptureFixture[str]):
    results = {"finding": "It is 3.", "value": 3}
    finish(results, False, False, "a table", "", then="Look.")
    assert capsys.readouterr().out == "a table\nIt is 3.\nLook.\n"
    finish(results, as_json=True, quiet=False, then="Look.")
    assert json.loads(capsys.readouterr().out) == results
    finish(results, as_json=False, quiet=True, then="Look.")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "calibrate"])
def test_the_model_is_an_argument_or_an_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Whoever knows --model from the other commands may write it here."""
    for given in (["nothing-here"], ["--model", "nothing-here"], ["-m", "nothing-here"]):
        assert run(monkeypatch, command, *given) == 2
        assert "There is no model 'nothing-here'" in capsys.readouterr().err
    assert run(monkeypatch, command) == 2
    assert "Name the model, such as fashion-mnist" in capsys.readouterr().err
    assert run(monkeypatch, command, "fashion-mnist", "--model", "emoji-scenes") == 2
    assert "Name one model, not both 'fashion-mnist' and --model 'emoji-scenes'" in capsys.readouterr().err


def test_calibrate_says_which_plans_are_plain_solvers_and_what_may_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    level = EDM().grid(5)
    plans = (Plan(EDM().grid(3), solver="euler"), Plan(level, torch.zeros(len(level) - 2, LOOK_BACK, TERMS)))
    found = Calibration(plans, {"reference_error": 0.01, "fine": 60, "seeds": [0]})
    monkeypatch.setattr("underpaint.recipes.calibrate.calibrate_model", lambda *_, **__: found)
    done = runner.invoke(app, ["calibrate", "fashion-mnist", "--out", str(tmp_path / "plans.json")])
    assert done.exit_code == 0, done.output
    assert "For 3 calls the plan is a plain solver" in done.stdout
    assert "a larger --budget" in done.stdout
    place = tmp_path / "plans.json"
    sampled = f"underpaint sample --model fashion-mnist --calibration {place} --steps 3"
    assert done.stdout.endswith(f"Plans: {place}\nTo sample by one: {sampled}\n")
    guided = ["--prompt", "a fox", "--prompt", "a cat", "--guidance", "3", "--negative", "a dog"]
    done = runner.invoke(app, ["calibrate", "emoji-scenes", *guided, "--out", str(place)])
    assert done.stdout.endswith("--steps 3 --prompt 'a fox' --guidance 3 --negative 'a dog'\n")
    done = runner.invoke(app, ["calibrate", "fashion-mnist", "--class", "7", "--out", str(place)])
    assert done.stdout.endswith("--steps 3 --class 7\n")
    fitted = replace(plans[1], errors={"held_out": 0.02, "plain": 0.04, "fit": 0.01})
    said = finding(Calibration((fitted,), found.about | {"from": {"origin": "data"}}))
    assert said == (
        "Distance of the plans to the fine solution on held-out seeds, over that of the best plain solver: 0.50 at 4 "
        "calls. Below 1 is nearer. The fine solution has 60 steps, and is about 0.01 from the exact one. These "
        "distances are those of a mixture of the data; `underpaint bench` measures the network's."
    )


def test_seeds():
    assert parse_seeds("0-3, 8") == (0, 1, 2, 3, 8)
    assert parse_seeds("5") == (5,)
    for text in ("", "a", "3-1", "-2", "1--2", "1,1", "0-3,2"):
        with pytest.raises(ValueError, match="got"):
            parse_seeds(text)


#: What the folder of bad inputs holds, before and after.
HERE = ["broken.npy", "empty", "folder.png", "folder.safetensors", "hostile.pkl", "results", "taken"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--model", "nothing"], "There is no model 'nothing'"),
        (["sample", "--seeds", "x"], "Seeds are numbers"),
        (["sample", "--solver", "magic"], "Unknown solver 'magic'"),
        (["sample", "--teleport", "-1"], "must be a positive noise-to-signal ratio"),
        (["sample", "--class", "12"], "knows class labels 0 to 9"),
        (["sample", "--guidance", "3"], "need a class or a prompt"),
        (["sample", "--prompt", "a dog"], "takes no prompts"),
        (["sample", "--prompt", "a dog", "--class", "1"], "a --prompt or a --class, not both"),
        (["report", "--class", "12"], "knows class labels 0 to 9"),
        (["report", "--negative", "3"], "acts through guidance"),
        (["convert", "nothing.pkl"], "nothing.pkl"),
        (["convert", "taken"], "taken"),
        (["convert", "hostile.pkl"], "posix.system"),
        (["sample", "--steps", "0"], "at least 1 step"),
        (["sample", "--out", "taken/samples.png"], "taken is a file"),
        (["report", "--out", "taken"], "taken is a file"),
        (["sample", "--out", "folder.png"], "it is a folder"),
        (["stats", "fashion-mnist", "--out", "empty"], "it is a folder"),
        (["stats", "broken.npy", "--out", "broken.npy"], "it is what is to be read"),
        (["stats", "fashion-mnist", "--checkpoint", "empty"], "it is a folder"),
        (["calibrate", "fashion-mnist", "--out", "empty"], "it is a folder"),
        (["convert", "hostile.pkl", "--out", "folder.safetensors"], "it is a folder"),
        (["bench", "--out", "taken/bench"], "taken is a file"),
        (["trajectory", "--out", "results"], "results.json: it is a folder"),
        (["compare", "--out", "results"], "results.json: it is a folder"),
        (["report", "--seeds", "0-3"], "at least 8 seeds"),
        (["report", "--steps", "3"], "at least 12 steps"),
        (["report", "--data", "empty"], "no pictures that can be read"),
        (["report", "--data", "broken.npy"], "without pickles"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(monkeypatch, tmp_path: Path, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    for folder in ("empty", "folder.png", "folder.safetensors", "results/results.json"):
        Path(folder).mkdir(parents=True)
    Path("broken.npy").write_bytes(b"\x93NUMPY\x01")
    Path("hostile.pkl").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    assert run(monkeypatch, *arguments) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert words in shown
    assert not Path("ran").exists()
    assert "Traceback" not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == HERE


def test_unknown_options_exit_with_2(monkeypatch, capsys):
    assert run(monkeypatch, "sample", "--sedes", "3") == 2


def test_models_lists_the_box():
    result = runner.invoke(app, ["models", "--json"])
    (entry,) = [entry for entry in json.loads(result.output) if entry["name"] == "fashion-mnist"]
    assert entry["images"] == "28 x 28 x 1"
    assert 1_000_000 < entry["parameters"] < 3_000_000
    assert entry["prediction"] == "v_prediction"
    said = runner.invoke(app, ["models"]).output
    assert "fashion-mnist" in said
    (scenes,) = [entry for entry in json.loads(result.output) if entry["name"] == "emoji-scenes"]
    reader = json.loads((Path(scenes["folder"]) / "classifier" / "config.json").read_text())
    assert scenes["objects"] == reader["objects"]
    assert f"objects           {', '.join(reader['objects'])}\n" in said
    assert f"such as           {scenes['prompts'][0]}; " in said
    assert "objects" not in entry


def test_sample_writes_a_grid_and_says_how(tmp_path: Path):
    place = tmp_path / "new" / "grid.png"
    result = runner.invoke(
        app, ["sample", "--seeds", "0-2", "--steps", "6", "--teleport", "8", "--out", str(place), "--json"]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["nfe"] == 6 - summary["skip"] < 6
    assert summary["teleported_to"] >= 8
    with Image.open(place) as image:
        assert image.size == (56, 56)
        assert json.loads(image.text["underpaint"])["seeds"] == [0, 1, 2]


def test_a_jump_by_the_gaussian_of_other_data_says_so():
    """A class or a prompt leads away from the Gaussian of all the data."""
    request = SampleRequest(seeds=(0,), steps=4, teleport=9.0, condition=7)
    with pytest.warns(UserWarning, match="by the Gaussian of all the data"):
        assert generate(request).summary["skip"] == 1
    for quiet in (replace(request, condition=None), replace(request, teleport=None)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generate(quiet)


def test_a_jump_that_lands_too_low_is_named_as_a_cause():
    """Many numbers of a Gaussian's samples are no pixels; the network has one call, and hardly any noise."""
    few = SampleRequest(seeds=(0,), steps=4, teleport=1e-4)
    assert generate(few).summary["outside"].endswith("give --teleport a higher ratio.")


def test_guidance_that_is_too_strong_is_named_as_a_cause():
    """The prediction type was doubted, of a model in the box."""
    strong = SampleRequest(seeds=(0,), steps=3, condition=3, guidance=60.0)
    assert (
        generate(strong).summary["outside"].endswith("a guidance of 60 is too strong: give a --guidance nearer to 1.")
    )


def test_what_is_written_of_a_sample_names_the_solver_of_its_plan(tmp_path: Path):
    """It named that which the plan took the place of."""
    plan = Plan(load_model("fashion-mnist").schedule.grid(2), solver="exponential-1c")
    write_calibration(tmp_path / "plans.json", Calibration((plan,), {}))
    request = SampleRequest(seeds=(0,), steps=2, calibration=str(tmp_path / "plans.json"))
    assert generate(request).summary["solver"] == "exponential-1c"


def test_a_solver_beside_a_plan_is_refused(tmp_path: Path):
    """It was ignored: the plan is the solver."""
    plan = Plan(load_model("fashion-mnist").schedule.grid(2), solver="exponential-1c")
    write_calibration(tmp_path / "plans.json", Calibration((plan,), {}))
    request = SampleRequest(seeds=(0,), steps=2, solver="heun", calibration=str(tmp_path / "plans.json"))
    with pytest.raises(ValueError, match="give --solver heun or --calibration, not both"):
        generate(request)


def test_a_solver_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="solver"):
        generate(SampleRequest(seeds=(0,), steps=1, solver=""))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "--steps", "2", "--seeds", "0", "--teleport", "9", "--gaussian", ""], "''"),
        (["calibrate", "fashion-mnist", "--calls", "3", "--seeds", ""], "Seeds are numbers .* got ''"),
        (["calibrate", "fashion-mnist", "--calls", "3", "--held-out", ""], "Seeds are numbers .* got ''"),
        (["calibrate", "fashion-mnist", "--calls", "3", "--from", "data", "--data", ""], "a file or folder .* got ''"),
    ],
)
def test_an_empty_text_is_not_taken_for_an_option_that_is_left_out(words: list[str], said: str, tmp_path: Path) -> None:
    """What stands by default was done, without a word."""
    result = runner.invoke(app, [*words, "--out", str(tmp_path / "made.png"), "--quiet"])
    assert isinstance(result.exception, ValueError), result.output
    assert re.search(said, str(result.exception))
    assert not list(tmp_path.iterdir())


def test_one_image_is_not_called_images(tmp_path: Path):
    done = runner.invoke(app, ["sample", "--seeds", "0", "--steps", "1", "--out", str(tmp_path / "one.png")])
    assert "1 image, 1 call of the network each" in done.stdout, done.output


def test_a_seed_gives_the_same_image_in_any_company(tmp_path: Path):
    for name, seeds in (("many", "0-4"), ("one", "3")):
        result = runner.invoke(app, ["sample", "--seeds", seeds, "--steps", "4", "--out", str(tmp_path / name), "-q"])
        assert result.exit_code == 0, result.output
        assert result.output == ""
    with Image.open(tmp_path / "many" / "seed-000003.png") as a, Image.open(tmp_path / "one" / "seed-000003.png") as b:
        difference = max(abs(p - q) for p, q in zip(a.tobytes(), b.tobytes(), strict=True))
    assert difference <= 1  # a rounding may tip a pixel


def test_guided_class_doubles_the_calls(tmp_path: Path):
    arguments = [
        "sample",
        "--seeds",
        "0",
        "--steps",
        "3",
        "--class",
        "7",
        "--guidance",
        "2",
        "--out",
        str(tmp_path / "a.png"),
        "--json",
    ]
    assert json.loads(runner.invoke(app, arguments).stdout)["nfe"] == 6


@pytest.mark.parametrize(("option", "value"), [("--data", "fashion-mnist"), ("--components", "3"), ("--rank", "4")])
def test_calibrate_refuses_what_is_for_plans_from_data_alone(option, value, tmp_path, monkeypatch, capsys):
    place = tmp_path / "plans.json"
    assert run(monkeypatch, "calibrate", "fashion-mnist", option, value, "--calls", "5", "--out", str(place)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        f"underpaint: `underpaint calibrate` reads {option} {value} only with --from data or both; give that, too, or "
        f"leave out {option}."
    )
    assert not list(tmp_path.iterdir())


def test_an_option_that_is_taken_once_is_refused_twice_where_other_commands_take_it_twice() -> None:
    """The last would be taken, and the others left unread."""
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    several = {
        name
        for command in commands
        for option in command.params
        if getattr(option, "multiple", False)
        for name in option.opts
    }
    assert {name for name in several if name.startswith("--")} <= {*OFTEN} <= {*several, "--negative"}
    for words, told in (
        (["sample", "--prompt", "a fox", "--prompt", "a frog"], "sample` takes --prompt once, got it 2 times"),
        (["map", "--class", "1", "--class=2", "--class", "3"], "map` takes --class once, got it 3 times"),
        (["morph", "1", "2", "--model", "a", "-m", "b"], "morph` takes --model once, got it 2 times"),
    ):
        assert told in str(runner.invoke(app, words).exception)
    shown = runner.invoke(app, ["bench", "--prompt", "a fox", "--prompt", "a frog", "--model", "nowhere"])
    assert "once" not in str(shown.exception)
