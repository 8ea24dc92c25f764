"""What a log without a terminal says of long work, and that results stay alone on standard output."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.cli.progress import EVERY, FIRST, Lines, duration, progress_on
from underpaint.progress import Whole


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_after_the_first_second_every_half_minute_and_at_the_end() -> None:
    said, clock = list[str](), Clock()
    lines = Lines(said.append, clock)
    advance = lines.announce("solving", 100)
    lines.look()
    assert said == []
    for _ in range(100):
        clock.now += 1.0
        advance()
        lines.look()
    assert said[0] == "solving: 1 of 100 in 1 s, about 99 s more"
    assert said[1] == "solving: 30 of 100 in 30 s, about 70 s more"
    assert said[2] == "solving: 60 of 100 in 60 s, about 40 s more"
    assert said[3] == "solving: 90 of 100 in 90 s, about 10 s more"
    assert said[4:] == ["solving: 100 of 100 in 2 min"]


def test_a_stretch_that_hangs_is_told_of_too_and_a_short_one_is_not() -> None:
    said, clock = list[str](), Clock()
    lines = Lines(said.append, clock)
    short, _ = lines.announce("short", 1), lines.announce("hangs", 3)
    clock.now += FIRST / 2
    short()
    for _ in range(3):
        clock.now += EVERY
        lines.look()
    assert [line.partition(" in ")[0] for line in said] == ["hangs: 0 of 3"] * 3


def test_a_stretch_of_nothing_is_not_told_of() -> None:
    said, clock = list[str](), Clock()
    lines = Lines(said.append, clock)
    lines.announce("map", 0)
    clock.now += EVERY
    lines.look()
    assert said == []


def test_a_stretch_that_is_over_between_two_looks_is_told_of() -> None:
    said, clock = list[str](), Clock()
    advance = Lines(said.append, clock).announce("over", 1)
    clock.now += 2 * FIRST
    advance()
    assert said == ["over: 1 of 1 in 2 s"]


def test_what_was_done_before_does_not_make_the_rest_look_quick() -> None:
    said, clock = list[str](), Clock()
    lines = Lines(said.append, clock)
    whole = Whole(lines.announce, "resumed", 60)
    whole.reach(50)
    for _ in range(2):
        clock.now += 10
        whole.advance()
    lines.look()
    assert said == ["resumed: 52 of 60 in 20 s, about 80 s more"]


def test_parts_that_are_done_together_all_count() -> None:
    said, clock = list[str](), Clock()
    lines = Lines(said.append, clock)
    whole = Whole(lines.announce, "batches", 200)
    for place in (10, 20):  # read from a file
        clock.now += 0.001
        whole.reach(place)
    for place in (70, 120):  # made
        clock.now += 10
        whole.reach(place)
    lines.look()
    assert said == ["batches: 120 of 200 in 20 s, about 16 s more"]


def test_a_whole_is_never_more_than_announced() -> None:
    calls = list[int]()
    whole = Whole(lambda what, total: lambda: calls.append(1), "x", 5)
    whole.reach(3)
    whole.reach(2)
    for _ in range(4):
        whole.advance()
    whole.reach(9)
    assert len(calls) == whole.done == 5


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 99, 100, 5999, 7500, 360000)] == [
        "0 s",
        "99 s",
        "2 min",
        "1 h 40 min",
        "2 h 05 min",
        "100 h 00 min",
    ]


def test_lines_on_a_console_without_a_terminal_and_nothing_when_quiet() -> None:
    for quiet in (True, False):
        console = Console(file=io.StringIO(), force_terminal=False)
        with progress_on(console, quiet) as progress:
            progress("work", 2)()
        assert console.file.getvalue() == ""  # it was short


@pytest.mark.parametrize(("flag", "steps"), [("--json", 40), ("--quiet", 4)])
def test_progress_goes_to_standard_error_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, steps: int
) -> None:
    monkeypatch.setattr("underpaint.cli.progress.FIRST", 0.0)
    asked = ["sample", "--seeds", "0", "--steps", str(steps), "--solver", "ddim", "--out", str(tmp_path / "a.png")]
    result = CliRunner().invoke(app, [*asked, flag])
    assert result.exit_code == 0
    if flag == "--json":
        assert json.loads(result.stdout)["nfe"] == steps
        assert f"sampling: {steps} of {steps} in" in result.stderr
    else:
        assert result.stdout == result.stderr == ""
