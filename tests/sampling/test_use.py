"""What plans are fitted for: carried in their file, and told in a sentence where they are used for something else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import underpaint as up
from underpaint.calibration.calibrate import calibrate
from underpaint.models.network import hash_weights
from underpaint.sampling.fitted import Calibration, Plan, read_calibration, write_calibration
from underpaint.sampling.use import Loss, Use, differences, in_turn, joined, use_of

SHAPE = (1, 2, 3)
FITTED = {"guidance": [3.0], "conditions": ["classes"], "dtype": "float32", "shape": [1, 2, 3]}
GAUSSIAN = up.Gaussian.isotropic(torch.zeros(6), 1.0)
Uses = Callable[[up.Model], up.Denoiser]


class Net(nn.Module):
    """The denoiser of data of a variance about 1, of three classes."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([gain]))
        self.classes = nn.Embedding.from_pretrained(torch.linspace(-0.1, 0.1, 4).unsqueeze(1))

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        shift = self.classes(label).to(x)
        return self.gain * (x.flatten(1) / (1 + sigma.unsqueeze(1).to(x) ** 2) + shift).view_as(x)


def model(gain: float = 1.0, shape: tuple[int, ...] = SHAPE) -> up.Model:
    return up.wrap(Net(gain), shape, up.EDM(), "x0", time="sigma", classes=3, null_class=3)


@pytest.fixture(scope="module")
def plans() -> Calibration:
    asked = model().conditional(1, 3.0)
    return calibrate(asked, GAUSSIAN, up.EDM(), (3,), range(4), range(4, 6), fine=20, effort=1)


def warned(plans: Calibration, denoise: up.Denoiser) -> list[str]:
    """What a run of the plan of 3 calls warns of."""
    solver, level = plans.solver(GAUSSIAN, 3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        up.sample(denoise, up.initial_noise([0], 6, level[0]), level, solver)
    return [str(one.message) for one in told]


def test_a_fit_says_what_it_was_for_and_its_file_keeps_it(plans: Calibration, tmp_path: Path) -> None:
    weights = hash_weights(model().network)
    assert plans.about["for"] == FITTED | {"weights": weights}
    losses = [{"calls": 3, "use": {"guidance": [5.0]}, "ratio": 1.25, "low": 1.0, "high": 1.5}]
    write_calibration(tmp_path / "plans.json", Calibration(plans.plans, plans.about | {"losses": losses}))
    again = read_calibration(tmp_path / "plans.json")
    assert again.fitted_for == Use((3.0,), ("classes",), "float32", SHAPE, weights) == plans.fitted_for
    assert again.losses == (Loss(3, Use(guidance=(5.0,)), 1.25, 1.0, 1.5),)


@pytest.mark.parametrize(
    ("asked", "fitted", "used"),
    [
        (lambda one: one.conditional(1, 5.0), "guidance 3", "guidance 5"),
        (lambda one: one.conditional(2), "guidance 3", "guidance 1"),
        (lambda one: one.holding(2), "guidance 3", "guidance 1"),
        (lambda one: one, "guidance 3, classes", "guidance 1, no condition"),
        (lambda one: one.to(dtype=torch.bfloat16).conditional(1, 3.0), "a network in float32", "a network in bfloat16"),
        (
            lambda one: replace(one, shape=(1, 3, 2)).conditional(1, 3.0),
            "states of 1 x 2 x 3",
            "states of 1 x 3 x 2",
        ),
        (
            lambda one: in_turn([one.conditional(1, w) for w in (3.0, 1.5)]),
            "guidance 3",
            "guidance 1.5 and 3",
        ),
    ],
)
def test_another_use_is_told_in_a_sentence(plans: Calibration, asked: Uses, fitted: str, used: str) -> None:
    words = f"The plan was fitted for {fitted}, and is used with {used}; what it loses there was not measured."
    assert warned(plans, asked(model())) == [words]


def test_other_weights_are_told_and_equal_ones_are_not(plans: Calibration) -> None:
    old, new = (str(hash_weights(Net(gain)))[:8] for gain in (1.0, 1.01))
    assert warned(plans, model(1.01).conditional(1, 3.0)) == [
        f"The plan was fitted for a network of weights {old}, and is used with a network of weights {new}; what it "
        "loses there was not measured."
    ]
    assert warned(plans, model().conditional(2, 3.0)) == []
    assert warned(plans, in_turn([model().conditional(label, 3.0) for label in (0, 1)])) == []


def test_what_was_measured_there_is_said(plans: Calibration) -> None:
    losses = [{"calls": n, "use": {"guidance": [5]}, "ratio": n / 2, "low": 1, "high": 2} for n in (2, 3)]
    known = Calibration(plans.plans, plans.about | {"losses": losses})
    assert warned(known, model().conditional(1, 5.0)) == [
        "The plan was fitted for guidance 3, and is used with guidance 5; there, at 3 calls, its error was 1.50 times "
        "(1.00 to 2.00) that of a plan for it."
    ]
    assert warned(known, model().conditional(1, 4.0))[0].endswith("what it loses there was not measured.")
    # measured for another guidance alone, not for other weights besides
    assert warned(known, model(1.01).conditional(1, 5.0))[0].endswith("what it loses there was not measured.")


def test_what_is_not_known_is_not_told(plans: Calibration) -> None:
    """Files of before; functions that say nothing of themselves; networks without weights; states written as rows."""
    old = Calibration(plans.plans, {name: value for name, value in plans.about.items() if name != "for"})
    assert old.fitted_for == Use()
    assert warned(old, model(1.01).conditional(1, 5.0)) == []
    inner = model(1.01).conditional(1, 5.0)
    assert warned(plans, lambda x, level: inner(x, level)) == []
    assert "for" not in calibrate(GAUSSIAN, GAUSSIAN, up.EDM(), (3,), [0], [1], fine=20, effort=0).about
    assert use_of(up.wrap(lambda x, t: x, SHAPE, up.EDM(), "x0")).weights is None
    assert differences(Use(shape=(6,)), Use(shape=SHAPE)) == []
    assert joined([Use((1.0,), dtype="float32"), Use((3.0,))]) == Use((1.0, 3.0))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"for": {"colour": 3}}, "is said by guidance, conditions, dtype, shape, weights, got"),
        ({"for": {"guidance": 3}}, "guidance that a plan was fitted for is a list, got 3"),
        ({"for": {"guidance": ["three"]}}, "guidance that a plan was fitted for must be a number"),
        ({"for": {"conditions": ["moods"]}}, "conditions that a plan was fitted for are of no condition, prompts"),
        ({"for": {"shape": [0]}}, "shape that a plan was fitted for must be a whole number"),
        ({"for": {"dtype": 32}}, "dtype that a plan was fitted for is a text, got 32"),
        ({"losses": 3}, "its 'losses' is a number, expected a list|its 'losses' is"),
        ({"losses": [{"calls": 3, "use": {}, "ratio": -1.0, "low": 0, "high": 0}]}, "ratio must be a number"),
    ],
)
def test_a_file_that_says_it_otherwise_is_refused(tmp_path: Path, part: dict[str, Any], words: str) -> None:
    write_calibration(tmp_path / "x.json", Calibration((Plan(up.EDM().grid(3), solver="dpmpp-2m"),), {}))
    content = json.loads((tmp_path / "x.json").read_text()) | {"about": part}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        read_calibration(tmp_path / "x.json")


def test_weights_are_told_apart_by_any_change_that_training_makes() -> None:
    net = nn.Linear(300, 300)
    before = hash_weights(net)
    assert before == hash_weights(net) != hash_weights(nn.Linear(300, 300))
    with torch.no_grad():
        net.weight.mul_(1 + 1e-6)
    assert hash_weights(net) != before
    assert hash_weights(nn.Linear(300, 300, device="meta")) is None
