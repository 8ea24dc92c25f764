"""Learned rivals: each form holds its plain solver, and is nearer than it where it was fitted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributions import GAUSSIANS, MIXTURE
from torch import Tensor

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(SCRIPTS))

import learned  # noqa: E402

from underpaint.models.schedulers.peers import lay  # noqa: E402
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule  # noqa: E402
from underpaint.sampling.linear import LinearRule, linear_rule, read_rules  # noqa: E402
from underpaint.sampling.solvers import Solver, dpmpp_2m, euler  # noqa: E402

DIMENSION = 6
CALLS = 3


def posed(denoise: Any = MIXTURE, schedule: Schedule | None = None, seeds: range = range(8)) -> Any:
    return learned.pose(denoise, schedule or EDM(), seeds, DIMENSION, 40)


def form_of(name: str, schedule: Schedule, level: NoiseLevel) -> Any:
    told = learned.Told(schedule, level[0])
    return learned.Times("DDIM", told) if name == "times" else learned.Weights(told, name == "consistent")


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
@pytest.mark.parametrize("solver", [euler, dpmpp_2m])
@pytest.mark.parametrize("name", learned.FORMS)
def test_each_form_holds_its_plain_solver(
    name: str, solver: Solver, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, from parameters as many as are said."""
    monkeypatch.setattr(learned, "peer", lambda _: solver)
    level = schedule.grid(5)
    rule, form = linear_rule(solver, level), form_of(name, schedule, level)
    values = form.parameters(rule)
    assert len(values) == {"times": 9, "consistent": 5 + 15, "scalars": 5 * (5 + 5) // 2 + 1}[name]
    again = form.rule(values)
    torch.testing.assert_close(again.weights, rule.weights, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again.told.sigma, rule.told.sigma, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
def test_a_consistent_rule_keeps_a_constant_image(schedule: Schedule) -> None:
    """Whatever its parameters: a denoiser that always answers c leads to c from x_T = alpha_T c + sigma_T eps, and to
    alpha c with the noise that is left, at every call."""
    level = lay(schedule, "log", 4)
    form = form_of("consistent", schedule, level)
    values = form.parameters(linear_rule(euler, level))
    rule = form.rule(values + 0.1 * torch.randn(len(values), generator=torch.Generator().manual_seed(0)).double())
    image, noise = torch.ones(1, 2).double(), torch.tensor([[1.0, -2.0]]).double()
    start, states = level[0].alpha * image + level[0].sigma * noise, list[Tensor]()

    def constant(x: Tensor, here: NoiseLevel) -> Tensor:
        states.append(x - here.alpha * image)
        return image

    *_, (final, _) = rule.solve(constant, start, level)
    left = rule.weights[:, 0] * level[0].sigma
    torch.testing.assert_close(final, image + left[-1] * noise)
    for k in range(1, 4):
        torch.testing.assert_close(states[k], left[k] * noise)


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
@pytest.mark.parametrize("name", learned.FORMS)
def test_no_form_does_worse_than_its_plain_solver_on_the_seeds_of_the_fit(name: str, schedule: Schedule) -> None:
    problem = posed(schedule=schedule)
    plain = learned.plain_rules(problem, CALLS)
    found = learned.run(problem, learned.learn(problem, name, plain, 3, say=lambda _: None))
    assert plain[0].loss == min(part.loss for part in plain)
    assert found.loss < plain[0].loss


def test_scalars_are_exact_for_data_of_one_variance() -> None:
    """Whose flow is a scale about the mean: one call knows the mean."""
    problem = posed(GAUSSIANS["isotropic"])
    form = form_of("scalars", EDM(), EDM().grid(1))
    rule = form.least_squares(problem, EDM().grid(1)[:-1])
    gaussian = GAUSSIANS["isotropic"]
    expected = gaussian.flow(problem.noise.double(), EDM().grid(1)[0], EDM().grid(1000)[-2])
    expected = gaussian.denoise(expected, EDM().grid(1000)[-2])  # where samplers end
    torch.testing.assert_close(problem.wanted.double(), expected, rtol=1e-3, atol=1e-3)
    assert learned.run(problem, rule).loss ** 0.5 < 1e-4


def test_the_fit_beats_adam_through_the_network() -> None:
    """After no more calls of the network, a gradient counted as one; Adam's rate is the best of some."""
    calls = 0

    def counted(x: Tensor, level: NoiseLevel) -> Tensor:
        nonlocal calls
        calls += 1
        return MIXTURE(x, level)

    problem = posed(counted, seeds=range(16))
    plain = learned.plain_rules(problem, CALLS)
    form = form_of("scalars", EDM(), plain[0].level)
    values, least = form.parameters(plain[0].rule), plain[0].loss
    begun = learned.run(problem, learned.unit(problem, form.rule(values), form.told.first))
    calls = 0
    ours = learned.levenberg_marquardt(problem, form, values, 8)
    spent = calls
    assert ours.loss < 0.7 * least

    def adam(rate: float) -> float:
        moved = values.clone().requires_grad_()
        optimiser = torch.optim.Adam([moved], rate)
        assert torch.allclose(solved(form, problem, moved), begun.final, rtol=1e-4, atol=1e-4)
        best = torch.inf
        for _ in range(spent // (2 * CALLS)):
            loss = (solved(form, problem, moved) - problem.wanted).square().mean()
            best = min(best, float(loss))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert best < 0.8 * least  # it descends
        return best

    assert ours.loss < min(adam(rate) for rate in (3e-3, 1e-2, 3e-2, 1e-1))


def solved(form: Any, problem: Any, values: Tensor) -> Tensor:
    """The image of a rule of all weights, with its gradient by the parameters, told levels among them."""
    sigma = values[:CALLS].clamp(form.told.low, form.told.high).exp()
    known, place = [problem.noise * float(form.told.first.sigma / problem.schedule.grid(1).sigma[0])], CALLS
    for i, (given, free) in enumerate(form.rows(EDM().level(sigma.detach()))):
        row = given + values[place : place + len(free)] @ free
        place += len(free)
        state = sum(weight * part for weight, part in zip(row.float(), known, strict=True))
        if i == CALLS:
            return state
        known.append(MIXTURE(state, NoiseLevel(torch.ones_like(sigma[i]), sigma[i])))
    raise AssertionError


TOY = """
import sys
sys.path.insert(0, {helpers!r})
from distributions import MIXTURE
from underpaint.models.model import Model
from underpaint.noise import DDPM

def model():
    def network(states, time, condition):
        return MIXTURE.denoise(states.flatten(1).double(), DDPM()(time[0])).view_as(states).to(states)
    return Model(network, DDPM(), "x0", (1, 2, 3), "mixture")
"""


def test_the_script_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy_of_learned.py").write_text(TOY.format(helpers=str(SCRIPTS.parent / "tests" / "helpers")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = "--model toy_of_learned:model --calls 2 --seeds 0-3 --judge 10-12 --held-out 20-23 --fine 12 --rounds 1"
    monkeypatch.setattr(sys, "argv", ["learned.py", *options.split(), "--json", "--threads", "1"])
    learn, asked = learned.learn, list[str]()

    def stopping(at: str | None) -> Callable[..., LinearRule]:
        def call(problem: Any, form: str, *more: Any) -> LinearRule:
            if form == at:
                raise KeyboardInterrupt
            asked.append(form)
            return learn(problem, form, *more)

        return call

    monkeypatch.setattr(learned, "learn", stopping("consistent"))
    with pytest.raises(KeyboardInterrupt):
        learned.main()
    assert not (tmp_path / "learned.json").exists()
    monkeypatch.setattr(learned, "learn", stopping(None))
    learned.main()
    assert asked == ["times", "consistent", "scalars"]
    found = json.loads(capsys.readouterr().out)
    assert {name: len(errors) for name, errors in found["errors"]["2"].items()} == dict.fromkeys(
        ["plain", *learned.FORMS], 4
    )
    stored = read_rules(tmp_path / "learned.json")
    assert stored.about["forms"] == found["forms"]
    assert stored.rule(2).calls == 2
    assert not (tmp_path / "learned.json.part").exists()
    monkeypatch.setattr(sys, "argv", ["learned.py", *options.replace("20-23", "3-5").split()])
    with pytest.raises(ValueError, match="other seeds"):
        learned.main()


def test_the_table_says_who_is_nearer() -> None:
    errors = {
        "plain": torch.tensor([2.0, 2.0]),
        "scalars": torch.tensor([1.0, 1.0]),
        "calibrated": torch.tensor([0.5, 2.0]),
    }
    text = learned.table({3: errors})
    assert "| scalars | 1, median 1 |" in text
    assert "| scalars / plain | **0.50** [0.50, 0.50], nearer on 100 % |" in text
    assert "| calibrated / scalars | **1.46** [0.50, 2.00], nearer on 50 % |" in text
