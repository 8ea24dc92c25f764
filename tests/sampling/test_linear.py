"""Solvers as tables: the table is the solver, on every grid, and its file is the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from distributions import MIXTURE
from torch import Tensor

from underpaint.models.schedulers.peers import SCHEDULERS, lay, peer
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.sampling.linear import LearnedRules, LinearRule, linear_rule, read_rules, write_rules
from underpaint.sampling.solvers import dpmpp_2m, dpmpp_3m, euler
from underpaint.sampling.trajectory import initial_noise, sample

DIMENSION = 6


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m", "dpmpp-3m", *SCHEDULERS])
def test_a_table_is_its_solver(name: str, schedule: Schedule) -> None:
    """The same image after as many calls, of the same denoiser from the same noise."""
    level = lay(schedule, "log", 5)
    x = initial_noise((0, 1, 2), DIMENSION, level[0], torch.float64)
    rule = linear_rule(peer(name), level)
    assert rule.calls == (9 if name == "heun" else 5)
    expected = sample(MIXTURE, x, level, peer(name))
    found = sample(MIXTURE, x, lay(schedule, "log", rule.calls), rule.solve)
    torch.testing.assert_close(found.final, expected.final, rtol=1e-4, atol=1e-5)
    assert found.nfe == expected.nfe


def test_the_table_of_ddim_in_closed_form() -> None:
    """sigma_i/sigma_T of the noise, and sigma_i/sigma_(j+1) - sigma_i/sigma_j of image j, where alpha = 1."""
    level = EDM().grid(4)
    sigma = level.sigma
    rows = linear_rule(euler, level).weights
    for i in range(5):
        expected = torch.zeros(5, dtype=torch.float64)
        expected[0] = sigma[i] / sigma[0]
        for j in range(i):  # the last step, into sigma = 0, is the image itself
            expected[j + 1] = sigma[i] / sigma[j + 1] - sigma[i] / sigma[j] if j < 3 else float(i == 4)
        torch.testing.assert_close(rows[i], expected)


def test_noise_is_carried_over_from_a_level_that_was_told() -> None:
    """Against the algorithm of LD3, written out for DDIM: the state's own level turns noise into an image."""
    level = lay(DDPM(), "log", 4)
    told = DDPM().level(level.ratio[:-1] * torch.tensor([1.0, 0.9, 1.2, 0.8]))
    x = initial_noise((0, 1), DIMENSION, level[0], torch.float64)
    expected = x
    for here, there, as_told in zip(level[:-1], level[1:], told, strict=True):
        eps = (expected - as_told.alpha * MIXTURE(expected, as_told)) / as_told.sigma
        expected = there.alpha * (expected - here.sigma * eps) / here.alpha + there.sigma * eps
    rule = linear_rule(euler, level, told)
    torch.testing.assert_close(sample(MIXTURE, x, level, rule.solve).final, expected)
    torch.testing.assert_close(rule.told.ratio, told.ratio)
    same = linear_rule(dpmpp_2m, level, level[:-1]).weights
    torch.testing.assert_close(same, linear_rule(dpmpp_2m, level).weights)
    with pytest.raises(ValueError, match="grid of 4 steps has as many calls, got 3 levels to tell"):
        linear_rule(euler, level, told[:-1])
    with pytest.raises(ValueError, match="calls 7 times, but there are 4 levels to tell"):
        linear_rule(peer("heun"), level, told)


def test_a_table_of_smaller_noise() -> None:
    level = lay(DDPM(), "log", 3)
    rule = linear_rule(dpmpp_3m, level)
    x = initial_noise((0, 1), DIMENSION, level[0], torch.float64)
    finals = [sample(MIXTURE, x * by, level, rule.scaled(1 / by).solve).final for by in (1.0, 0.25)]
    torch.testing.assert_close(*finals)


def test_files_are_the_rules(tmp_path: Path) -> None:
    rules = tuple(linear_rule(dpmpp_2m, lay(EDM(), "log", calls)) for calls in (3, 4))
    write_rules(tmp_path / "rules.json", LearnedRules(rules, {"model": "toy"}))
    found = read_rules(tmp_path / "rules.json")
    assert (str(found), found.about) == ("LearnedRules(of 3, 4 calls)", {"model": "toy"})
    assert str(found.rules[0]) == "LinearRule(3 calls)"
    assert torch.equal(found.rule(4).weights, rules[1].weights)
    assert torch.equal(found.rule(4).told.sigma, rules[1].told.sigma)
    with pytest.raises(ValueError, match="rules of 3, 4 calls, none of 5"):
        found.rule(5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "calibration"}, "its kind is 'calibration'"),
        ({"rules": [{"alpha": [1.0], "sigma": [2.0]}]}, "no 'weights'"),
        ({"rules": [{"alpha": [1.0], "sigma": [2.0], "weights": [[1.0]]}]}, "1 calls take weights"),
        ({"rules": [{"alpha": [1.0], "sigma": [2.0], "weights": [[1.0, 1.0], [0.0, 1.0]]}]}, "known later only"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "rules.json"
    write_rules(path, LearnedRules((), {}))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"no learned rules .*{words}"):
        read_rules(path)


def test_a_rule_is_of_its_number_of_steps() -> None:
    rule = LinearRule(NoiseLevel(torch.ones(1), torch.ones(1)), torch.eye(2, dtype=torch.float64))
    x: Tensor = torch.zeros(1, DIMENSION)
    with pytest.raises(ValueError, match="of 1 calls, the grid has 3 steps"):
        sample(MIXTURE, x, EDM().grid(3), rule.solve)


def test_a_file_that_is_not_there_is_asked_for_by_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no file .*; expected learned rules; benchmarks/learned\.py makes"):
        read_rules(tmp_path / "none.json")
