"""The examples in docstrings run, and print what they say; each public name has one."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import pytest

import underpaint

#: What can hold no docstring of its own: a type, and solvers that `dpm_solver` makes.
_CONSTANTS = {"Denoiser", "dpmpp_2m", "dpmpp_3m"}
NAMES = sorted(set(underpaint._HOME) - _CONSTANTS)


def examples(name: str) -> list[doctest.DocTest]:
    """The docstrings with an example, of a public name and of its members."""
    value: Any = getattr(underpaint, name)
    home = inspect.getmodule(value)
    found = doctest.DocTestFinder().find(value, name, module=home, globs={"__name__": "__main__"})
    return [part for part in found if part.examples]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_example_of_a_public_name_prints_what_it_says(name: str) -> None:
    listed = examples(name)
    assert listed, "a public name without an example"
    told: list[str] = []
    for part in listed:
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(part, out=told.append)
    assert not told, "".join(told)


def test_examples_in_the_book_are_not_cut() -> None:
    lines = [line for name in NAMES for part in examples(name) for line in part.docstring.splitlines() if ">>>" in line]
    assert len(lines) > 200
    assert all(len(line.strip()) <= 88 for line in lines)


def test_a_wrong_example_would_be_seen() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "f", None, 0)
    told: list[str] = []
    doctest.DocTestRunner().run(wrong, out=told.append)
    assert told
