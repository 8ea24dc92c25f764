"""An option that nothing would read is refused, by the one table of such options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from underpaint.cli import app
from underpaint.cli.idle import BESIDE, WITH

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
#: What commands take first.
ARGUMENTS = {"stats": ["data"], "morph": ["1", "2"]}
#: What makes an option that is on by default be off.
OFF = {"compare": ["--local", "0"], "bench": ["--solvers", "DDIM"], "morph": ["--paths", "straight"]}


def words_of(command: str, text: str) -> list[str]:
    """An option of a command with a value, which is that behind it if there is one."""
    name, _, value = text.partition(" ")
    option = next(one for one in COMMANDS[command].params if name in (*one.opts, *one.secondary_opts))
    if option.is_flag:
        return [option.secondary_opts[0] if option.secondary_opts else name]
    return [name, value.partition("|")[0] or "64"]


def parse(command: str, words: list[str]) -> None:
    """Parse a command without running it."""
    COMMANDS[command].make_context(command, [*ARGUMENTS.get(command, []), *words])


def with_rules() -> Iterator[tuple[str, str, str]]:
    for command, rules in WITH.items():
        for options, needed in rules.items():
            yield from ((command, option, need) for option in options for need in needed)


def beside_rules() -> Iterator[tuple[str, str, str]]:
    for command, rules in BESIDE.items():
        for option, others in rules.items():
            yield from ((command, option, other) for other in others)


@pytest.mark.parametrize(("command", "option", "need"), [*with_rules()])
def test_an_option_is_refused_without_what_it_is_read_with(command: str, option: str, need: str) -> None:
    words = words_of(command, option)
    with pytest.raises(ValueError, match=rf"`underpaint {command}` reads {words[0]}.* only with .*{need.split()[0]}"):
        parse(command, [*words, *OFF.get(command, [])])
    parse(command, [*words, *words_of(command, need)])


@pytest.mark.parametrize(("command", "option", "other"), [*beside_rules()])
def test_an_option_is_refused_beside_what_takes_its_place(command: str, option: str, other: str) -> None:
    words, others = words_of(command, option), words_of(command, other)
    with pytest.raises(ValueError, match=rf"`underpaint {command}` does not read {others[0]}.* beside {words[0]}"):
        parse(command, [*words, *others])
    parse(command, words)


def test_options_that_are_left_out_are_not_refused() -> None:
    for command in {*WITH, *BESIDE}:
        parse(command, OFF.get(command, []))


def test_a_number_of_none_is_none_and_a_value_that_is_the_usual_one_is_given() -> None:
    with pytest.raises(ValueError, match="reads --own 100 only with --samples"):
        parse("bench", ["--own", "100", "--samples", "0"])
    with pytest.raises(ValueError, match="reads --solver dpmpp-2m only with --samples"):
        parse("bench", ["--solver", "dpmpp-2m"])
    parse("bench", ["--calibration", "plans.json", "--solvers", "DDIM, calibrated"])
    parse("morph", ["--walkers", "3"])
