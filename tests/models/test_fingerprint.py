"""What tells one model from another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from underpaint.models.fingerprint import answers, fingerprint
from underpaint.models.load import load_model
from underpaint.models.wrap import wrap
from underpaint.noise import DDPM, EDM
from underpaint.schedules import VPSDE


def scaled(factor: float):
    def network(x: Tensor, t: Tensor) -> Tensor:
        return factor * x

    return network


def test_functions_of_one_name_are_told_apart_by_their_answers() -> None:
    one, other = (wrap(scaled(factor), (6,), EDM(), "x0") for factor in (0.5, 0.6))
    assert one.name == other.name == "network"
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(wrap(scaled(0.5), (6,), EDM(), "x0"))
    assert fingerprint(one) == fingerprint(replace(one, batch=1))


def test_so_are_schedule_prediction_time_and_condition() -> None:
    def network(x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        return x * t.reshape(-1, 1).cos() + (0 if c is None else c.reshape(len(x), -1).to(x))

    models = [
        wrap(network, (6,), VPSDE(), "eps"),
        wrap(network, (6,), VPSDE(beta_max=10.0), "eps"),
        wrap(network, (6,), VPSDE(), "v"),
        wrap(network, (6,), VPSDE(), "eps", time=999.0),
        wrap(network, (6,), VPSDE(), "eps").truncated(high=10.0),
        wrap(network, (6,), DDPM(), "eps"),
    ]
    conditional = wrap(network, (6,), VPSDE(), "eps", condition=(6,))
    models += [conditional.holding(torch.ones(6)), conditional.holding(torch.full((6,), 2.0))]
    models += [wrap(network, (6,), VPSDE(), "eps", classes=3).holding(label) for label in (1, 2)]
    assert len({fingerprint(model) for model in models}) == len(models)


def test_two_modules_of_equal_weights_and_unequal_constants() -> None:
    class Net(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.gain * x

    one, other = (wrap(Net(gain), (4,), EDM(), "x0") for gain in (0.3, 0.31))
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("error", [1e-8, 1e-7])
def test_rounding_changes_no_answer(error: float) -> None:
    exact = answers(wrap(scaled(0.5), (64,), EDM(), "x0"))
    assert answers(wrap(scaled(0.5 * (1 + error)), (64,), EDM(), "x0")) == exact


def test_a_model_of_the_box_is_known_by_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("fashion-mnist")
    before = fingerprint(model)
    assert "answers" not in before
    assert before == fingerprint(load_model("fashion-mnist"))
    assert fingerprint(model.holding(3)) != before
    next(model.network.parameters()).data += 1e-3
    assert fingerprint(model) != before
