"""Every command that writes, killed at any moment: no half file, and the same command then ends with the same bytes."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed import Commands
from snapshots import CONFIGS, randomised, snapshot, write_pickle
from tiny import tiny_ddpm

from underpaint.cli import main
from underpaint.data.store import save_gaussian
from underpaint.files import read_tensor_metadata, read_tensors
from underpaint.keeping import Keep
from underpaint.models.networks.edm import build_edm
from underpaint.sampling.fitted import Calibration
from underpaint.theory.gaussian import Gaussian

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and tells what is printed by a file in memory")

#: Commands on a tiny model M with data D and statistics G, written to "out".
COMMANDS = {
    "sample": "sample -m M --seeds 0-2 --steps 2 --out out",
    "sample grid": "sample -m M --seeds 0-2 --steps 2 --out out.png",
    "trajectory": "trajectory -m M --gaussian G --seeds 0-3 --steps 4 --chunk 2 --out out",
    "stats": "stats D --groups 2 --out out.safetensors",
    "stats by class": "stats D --kind low-rank --rank 5 --out out/deep/stats.safetensors",
    "calibrate": "calibrate M --gaussian G --calls 3,4 --seeds 0-1 --held-out 5 --fine 20 --effort 4 --out out.json",
    "convert": "convert P --out out.safetensors",
    "bench": "bench -m M --gaussian G --calls 3 --solvers DDIM,exponential --grids karras --fine 8 --tuning 0-1 "
    "--seeds 5-6 --out out",
    "perturb": "perturb -m M --gaussian G --seeds 0-1 --steps 4 --magnitudes -1,1 --out out",
    "map": "map -m M --gaussian G --steps 4 --points 3 --out out",
    "morph": "morph 1 2 -m M --paths noise,principal --steps 3 --points 3 --walkers 2 --rounds 1 --out out",
    "spectrum": "spectrum --scheduler DDIM --steps 5 --out out",
    "compare": "compare -m M --data D --images 8 --seeds 0-3 --steps 3 --local 0 --out out",
    "retrieve": "retrieve -m M --data D --seeds 0-3 --steps 3 --samples 4 --out out",
    "regimes": "regimes -m M --data D --seeds 0-3 --steps 3 --images 4 --levels 2 --out out",
    "report": "report -m M --data D --seeds 0-7 --steps 12 --out out",
}
#: Killed once each in the default run; a report draws for too long, and `stats by class` is as `stats`.
QUICK = tuple(name for name in COMMANDS if name not in ("report", "stats by class"))


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    server = Commands()
    yield server
    server.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_ddpm(folder / "model")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    rows = torch.from_numpy(images).permute(0, 3, 1, 2).flatten(1) / 127.5 - 1
    save_gaussian(folder / "gaussian.safetensors", Gaussian.fit(rows))
    network = randomised(build_edm(CONFIGS["DDPM++"]))
    write_pickle(folder / "network-snapshot.pkl", snapshot(network, CONFIGS["DDPM++"]))
    names = {"M": "model", "D": "images.npy", "G": "gaussian.safetensors", "P": "network-snapshot.pkl"}
    return {letter: str(folder / name) for letter, name in names.items()}


def words(name: str, inputs: dict[str, str]) -> list[str]:
    return [inputs.get(word, word) for word in COMMANDS[name].split()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too, but for how long the work took."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    seconds = re.compile(rb'("seconds": )[0-9.]+|[0-9.,]+ (seconds|s|min)\b')
    return {name: seconds.sub(b"", read) if name.endswith((".json", ".html")) else read for name, read in found.items()}


_WHOLE: dict[str, tuple[dict[str, bytes], int]] = {}


def uninterrupted(name: str, commands: Commands, inputs: dict[str, str], folder: Path) -> tuple[dict[str, bytes], int]:
    """The files that a command writes, and how many changes of files it makes."""
    if name not in _WHOLE:
        folder.mkdir()
        done = commands.run(folder, *words(name, inputs))
        assert done["status"] == 0, done["said"]
        _WHOLE[name] = contents(folder), done["changes"]
    return _WHOLE[name]


def kill_and_go_on(name: str, commands: Commands, inputs: dict[str, str], folder: Path, **moment: Any) -> None:
    expected, _ = uninterrupted(name, commands, inputs, folder.parent / "whole")
    folder.mkdir()
    killed = commands.run(folder, *words(name, inputs), **moment)
    assert killed["status"] in (-9, 0), killed["said"]
    for path, content in contents(folder).items():
        if "/.underpaint-" not in f"/{path}":
            if path in expected:
                assert content == expected[path], f"{path} is half a file"
            else:
                read_tensors(folder / path)
                assert read_tensor_metadata(folder / path)["checksum"]
    done = commands.run(folder, *words(name, inputs))
    assert done["status"] == 0, done["said"]
    found = contents(folder)
    assert found.keys() == expected.keys()
    assert [path for path in found if found[path] != expected[path]] == []


@pytest.mark.parametrize("name", QUICK)
def test_killed_in_the_midst_of_writing_it_goes_on(
    name: str, commands: Commands, inputs: dict[str, str], tmp_path: Path
) -> None:
    _, changes = uninterrupted(name, commands, inputs, tmp_path / "whole")
    assert changes > 2
    kill_and_go_on(name, commands, inputs, tmp_path / "killed", event=changes * 2 // 3 + 1)


def test_a_damaged_part_is_made_anew_and_said(commands: Commands, inputs: dict[str, str], tmp_path: Path) -> None:
    expected, _ = uninterrupted("trajectory", commands, inputs, tmp_path / "whole")
    (tmp_path / "out" / "chunks").mkdir(parents=True)
    for name, content in expected.items():
        (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = commands.run(tmp_path, *words("trajectory", inputs))
    assert done["status"] == 0
    assert done["said"].count("is damaged: its checksum does not fit; it is made anew.") == 2
    assert "Warning" not in done["said"]
    shutil.rmtree(tmp_path / "whole", ignore_errors=True)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_kept_is_said(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["underpaint", *words("calibrate", inputs)])

    def stop(*_: object, keep: Keep, **named: object) -> Calibration:
        keep("plan", lambda: 1)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("underpaint.recipes.calibrate.calibrate", stop)
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == (130 if error is KeyboardInterrupt else 2)
    said = capsys.readouterr().err
    assert "What was found so far is kept in out.json.part; the same command goes on from there." in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.json.part"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_before_any_change_of_a_file_it_goes_on(
    name: str, commands: Commands, inputs: dict[str, str], tmp_path: Path
) -> None:
    _, changes = uninterrupted(name, commands, inputs, tmp_path / "whole")
    for event in sorted({round(1 + i * (changes - 1) / 11) for i in range(12)}):
        kill_and_go_on(name, commands, inputs, tmp_path / f"killed-{event}", event=event)
        shutil.rmtree(tmp_path / f"killed-{event}")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_time_it_goes_on(name: str, commands: Commands, inputs: dict[str, str], tmp_path: Path) -> None:
    for i, seconds in enumerate((0.05, 0.2, 0.5, 1.0, 2.0)):
        kill_and_go_on(name, commands, inputs, tmp_path / f"killed-{i}", seconds=seconds)
