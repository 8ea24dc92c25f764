"""The attack, in short and at length: no traceback, nothing silently wrong, no half file, and each refusal a sentence.

The long form is asked for with -m slow; `python tests/attack/attack.py` lists what it finds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import attack_calls
import attack_cases
import pytest
from attack_judge import judge, judge_call, weak

#: Cases of the command line in the short form; those that run a network or draw a figure are left to the long one.
SHORT = 60


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small whole files."""
    folder = tmp_path_factory.mktemp("work")
    attack_cases.workplace(folder)
    return folder


def faults(cases: list[attack_cases.Case], folder: Path) -> list[str]:
    """What goes wrong in cases, each in a folder of its own."""
    found = []
    for number, case in enumerate(cases):
        own = folder / str(number)
        own.mkdir()
        verdict = judge(case, own)
        if verdict.fault:
            found.append(f"{case.what}: {verdict.fault}: {verdict.words}")
    return found


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_calls(seed: int) -> None:
    """Every function of the Python interface, with each argument out of its bounds."""
    cases = list(attack_calls.calls(Random(seed)))
    assert len(cases) > 900
    found = [(case, judge_call(case.call, case.fits)) for case in cases]
    assert [f"{case.what}: {v.fault}: {v.words[:200]}" for case, v in found if v.fault] == []
    assert [case.what for case, v in found if v.refused and case.what.endswith("as it is")] == []


def test_commands_in_short(work: Path, tmp_path: Path) -> None:
    """One refusal of each option, and some more by chance."""
    rng = Random(0)
    refused = [case for case in attack_cases.cases(work, rng) if case.fits is False]
    rng.shuffle(refused)
    by_option = {tuple(case.what.split(" ", 2)[:2]): case for case in refused if " --" in case.what}
    chosen = rng.sample(sorted(by_option.values(), key=lambda case: case.what), SHORT // 2)
    assert faults([*chosen, *refused[: SHORT // 2]], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", attack_cases.BASE)
def test_commands_at_length(command: str, work: Path, tmp_path: Path) -> None:
    """Every case of a command."""
    cases = [case for case in attack_cases.cases(work, Random(1)) if case.arguments[0] == command]
    assert len(cases) > 50
    assert faults(cases, tmp_path) == []


def test_cases_are_many_and_of_every_command(work: Path) -> None:
    counts = Counter(case.arguments[0] for case in attack_cases.cases(work, Random(0)))
    assert counts.keys() == attack_cases.BASE.keys()
    assert sum(counts.values()) > 1500


def test_the_judge_sees_faults(work: Path, tmp_path: Path) -> None:
    """It would say so if something were accepted that must not be, or a sentence were none."""
    taken = attack_cases.Case("taken", ("models", "--json"), False)
    assert judge(taken, tmp_path).fault == "silent"
    assert judge_call(lambda: 1 / 0, False).fault == "traceback"
    assert judge_call(lambda: float("nan"), None).fault == "not finite"
    assert weak("Object arrays cannot be loaded when allow_pickle=False") == "poor sentence: allow_pickle"
