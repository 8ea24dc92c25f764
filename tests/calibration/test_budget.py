"""What a budget is spent on: it is foreseen, kept to, and more of it is more of what helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from mixtures import gaussian_of, mixture
from typer.testing import CliRunner

from underpaint.calibration.budget import least_budget, spend
from underpaint.calibration.calibrate import calibrate
from underpaint.cli import app, parse_seeds
from underpaint.noise import DDPM, NoiseLevel


@pytest.mark.parametrize("budget", [1500, 3000, 8000])
def test_a_fit_takes_what_was_foreseen(budget: int) -> None:
    """No more than the most; about what is usual where the plan is clearly nearer."""
    data, gaussian, rows = mixture(), gaussian_of(mixture()), 0

    def counted(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        nonlocal rows
        rows += len(x)
        return data(x, level)

    spending = spend(budget, (5,))
    assert 0.5 * budget < spending.usual <= budget
    found = calibrate(counted, gaussian, DDPM(), seeds=range(spending.seeds), **spending.options())
    assert rows <= spending.most()
    if found.plan(5).errors["held_out"] < 0.5 * found.plan(5).errors["plain"]:
        assert rows <= 1.1 * spending.usual
    assert found.about["fine"] == spending.fine
    assert len(found.about["held_out"]) == spending.held_out


def test_more_calls_are_more_seeds_and_more_search() -> None:
    known = [spend(budget, (5, 8)) for budget in (3000, 6000, 20_000, 100_000)]
    seeds = [one.seeds for one in known]
    assert seeds == sorted(seeds)
    assert seeds[0] < seeds[-1]
    assert all(one.effort >= 4 * 8 for one in known)
    assert "seeds to fit to" in str(known[0])
    assert [one.fine for one in known] == [64, 128, 128, 128]  # a plan is as good as what it is fitted to
    one, other = spend(6000, (5,)), spend(6000, (20,))
    assert one.fine < other.fine
    assert one.seeds >= other.seeds


def test_too_few_calls_are_refused_with_how_many_it_takes() -> None:
    least = least_budget((8, 5, 8))
    assert spend(least, (5, 8)).seeds == 4
    with pytest.raises(ValueError, match=rf"Plans of 5, 8 calls take {least:,} calls of the denoiser or more"):
        spend(least - 1, (5, 8))


def test_the_least_budget_is_known_before_it_is_refused() -> None:
    """In the help, and in the line on what a budget is spent on."""
    command = typer.main.get_command(app).commands["calibrate"]  # type: ignore[attr-defined]
    known = {option.name: option for option in command.params}
    usual, few = (least_budget(parse_seeds(calls)) for calls in (known["calls"].default, "5"))
    assert f"The least is {usual:,} calls for the default --calls, and {few:,} for --calls 5." in known["budget"].help


def test_a_budget_at_the_command_line(tmp_path: Path) -> None:
    place = tmp_path / "plans.json"
    given = ["calibrate", "fashion-mnist", "--calls", "3", "--budget"]
    for words, sentence in (
        (["many"], "such as 20000, or a time, such as 15min; got 'many'"),
        (["3000", "--effort", "3"], "does not read --effort 3 beside --budget 3000; give one or the other."),
        (["0.001s"], "A budget of 0.001s is 1 calls of the denoiser here. Plans of 3 calls take"),
    ):
        result = CliRunner().invoke(app, [*given, *words, "--out", str(place)])
        assert isinstance(result.exception, ValueError)
        assert sentence in str(result.exception)
    assert not place.exists()


@pytest.mark.slow
def test_a_budget_is_kept_to(tmp_path: Path) -> None:
    place = tmp_path / "plans.json"
    result = CliRunner().invoke(
        app, ["calibrate", "fashion-mnist", "--calls", "3", "--budget", "1200", "--json", "--out", str(place)]
    )
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["seeds"]) == 4
    assert f"The least for these plans is {least_budget((3,)):,} calls." in result.stderr
