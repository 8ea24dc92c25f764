"""The README's table of few calls: read from the stored tables, and measured again by their own commands."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TABLE = """### Few calls: a, unconditional

```bash
underpaint calibrate a --calls 3,4 \\
    --out calibration.json
python benchmarks/learned.py --model a --out learned.json
underpaint bench --model a --calls 3,4 --calibration calibration.json --learned learned.json
```

#### Each at its own best grid

| calls | 3 | 4 |
|---|---|---|
| DDIM | 0.3 (leading) | 0.25 (leading) |
| calibrated / best peer | **0.50** [0.43, 0.56] | **0.48** [0.39, 0.56] |
| calibrated / learned | **0.72** [0.65, 0.79] | - |

#### At diffusers' defaults

| calls | 3 | 4 |
|---|---|---|
| calibrated / best peer | **0.44** [0.39, 0.51] | **0.49** [0.37, 0.57] |

#### Spread over seeds

| calls | 3 | 4 |
|---|---|---|
| learned | 0.139 [0.0705, 0.285], 0.1 | - |
| calibrated | 0.0922 [0.0486, 0.197], 0.07 | 0.0609 [0.0243, 0.163], 0.04 |
| calibrated / least of a peer, medians | 0.36 | 0.30 |
"""


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("few_calls")


def test_the_readme_has_the_numbers_of_the_stored_tables(few_calls: ModuleType) -> None:
    begin, end = few_calls.MARKS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.partition(begin)[2].partition(end)[0].strip() == few_calls.table().strip()


def test_a_ratio_is_to_the_nearer_of_best_grids_and_defaults_and_to_what_was_learned(few_calls: ModuleType) -> None:
    stored, line = few_calls.Stored("a", TABLE), few_calls.Line("a", "a")
    assert [stored.ratio(line, calls) for calls in (3, 4, 5)] == [(0.50, 0.36), (0.49, 0.30), None]
    learned = few_calls.Line("a", "a", learned=True)
    assert stored.ratio(learned, 3) == pytest.approx((0.72, 0.7))
    assert stored.ratio(learned, 4) is None


def test_a_folder_is_filled_by_the_commands_of_the_table(few_calls: ModuleType, tmp_path: Path) -> None:
    commands = few_calls.Stored("a", TABLE).commands
    assert [words[0] for words in commands] == ["underpaint", "python", "underpaint"]
    assert commands[0][-4:] == ["--calls", "3,4", "--out", "calibration.json"]
    assert list(few_calls.due(tmp_path, commands)) == commands
    for words, left in zip(commands, (commands[1:], commands[2:], []), strict=True):
        _make(few_calls, tmp_path, words, commands)
        assert list(few_calls.due(tmp_path, commands)) == left
    first, script = few_calls.runnable(commands[1])[:2]
    assert first == sys.executable
    assert Path(script).is_file()


def _make(few_calls: ModuleType, folder: Path, words: list[str], commands: list[list[str]]) -> None:
    """What running a command leaves."""
    few_calls.keep(folder, words, commands)
    made = folder / few_calls.made_by(words)
    made.parent.mkdir(exist_ok=True)
    made.touch()


def test_results_of_other_commands_are_refused(few_calls: ModuleType, tmp_path: Path) -> None:
    commands = few_calls.Stored("a", TABLE).commands
    for words in commands:
        _make(few_calls, tmp_path, words, commands)
    other = few_calls.Stored("a", TABLE.replace("a --calls 3,4 ", "a --calls 3,5 ")).commands
    with pytest.raises(ValueError, match=r"calibration\.json was made by underpaint calibrate a --calls 3,4 --out"):
        list(few_calls.due(tmp_path, other))
    (tmp_path / "calibration.json").unlink()
    assert list(few_calls.due(tmp_path, other)) == [other[0], other[2]]  # the bench reads what is made again
    _make(few_calls, tmp_path, other[0], other)
    with pytest.raises(
        ValueError, match=r"results\.json was made by underpaint calibrate a --calls 3,4 .*; underpaint b"
    ):
        list(few_calls.due(tmp_path, other))
    (tmp_path / few_calls.KEPT).unlink()
    with pytest.raises(ValueError, match=r"calibration\.json was made by commands that are not known"):
        list(few_calls.due(tmp_path, other))


def test_a_run_that_is_stopped_leaves_nothing_old_that_looks_finished(
    few_calls: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, folder = few_calls.Stored("a", TABLE), tmp_path / "bench-cifar10"
    folder.mkdir()
    for words in stored.commands:
        _make(few_calls, folder, words, stored.commands)
    (folder / "calibration.json").unlink()

    def stopped(words: list[str], folder: Path) -> None:
        _make(few_calls, folder, stored.commands[0], stored.commands)
        raise KeyboardInterrupt

    monkeypatch.setattr(few_calls.Stored, "read", lambda name: stored)
    monkeypatch.setattr(few_calls, "run", stopped)
    monkeypatch.setattr(sys, "argv", ["few_calls.py", "--run", str(tmp_path), "--only", folder.name])
    with pytest.raises(KeyboardInterrupt):
        few_calls.main()
    assert list(few_calls.due(folder, stored.commands)) == [stored.commands[2]]


def test_all_stored_tables_say_how_they_are_measured(few_calls: ModuleType) -> None:
    for name in few_calls.names():
        *makers, bench = few_calls.Stored.read(name).commands
        assert bench[:2] == ["underpaint", "bench"]
        assert {words[words.index("--out") + 1] for words in makers} <= set(bench)


def test_a_command_that_fails_ends_the_run_with_its_code(few_calls: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        few_calls.run([sys.executable, "-c", "raise SystemExit(2)"], tmp_path)
    assert ended.value.code == 2
    few_calls.run([sys.executable, "-c", "open('made', 'w').close()"], tmp_path)
    assert (tmp_path / "made").exists()
