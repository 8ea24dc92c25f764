"""Conversions between what networks predict and the denoised image, from known images and noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st
from torch.testing import assert_close

from underpaint.noise import EDM, Flow, NoiseLevel, Schedule
from underpaint.prediction import PREDICTIONS, from_denoised, to_denoised

#: What a network that knew x0 and eps would put out, by the definitions of the field.
DEFINITIONS = {
    "x0": lambda x0, eps, alpha, sigma: x0,
    "eps": lambda x0, eps, alpha, sigma: eps,
    "v": lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
    "flow": lambda x0, eps, alpha, sigma: eps - x0,
    "score": lambda x0, eps, alpha, sigma: -eps / sigma,
}


def test_all_predictions_are_covered() -> None:
    assert set(PREDICTIONS) == set(DEFINITIONS)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_each_prediction_gives_the_image_back(kind, schedule: Schedule, normal) -> None:
    """With one level a row; a network's output for x = alpha x0 + sigma eps stands for x0, and the reverse."""
    level = schedule.grid(8, start=12.0)[:-1]
    x0, eps = normal(8, 5), normal(8, 5, seed=1)
    alpha, sigma = level.columns(x0)
    x = alpha * x0 + sigma * eps
    output = DEFINITIONS[kind](x0, eps, alpha, sigma)
    assert_close(to_denoised(output, x, level, kind), x0, rtol=1e-9, atol=1e-9)
    assert_close(from_denoised(x0, x, level, kind), output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", DEFINITIONS)
@given(alpha=st.floats(0.01, 2.0), sigma=st.floats(0.01, 100.0), x=st.floats(-9, 9), output=st.floats(-9, 9))
def test_conversions_are_inverse_at_any_level(kind, alpha: float, sigma: float, x: float, output: float) -> None:
    """Not only where alpha^2 + sigma^2 = 1 or alpha + sigma = 1."""
    level, state = NoiseLevel(alpha, sigma), torch.full((1, 1), x, dtype=torch.float64)
    given_output = torch.full_like(state, output)
    denoised = to_denoised(given_output, state, level, kind)
    assert_close(from_denoised(denoised, state, level, kind), given_output, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("kind", ["x0", "v", "flow"])
def test_pure_noise_still_has_an_image(kind, normal) -> None:
    x0, eps, start = normal(2, 3), normal(2, 3, seed=1), Flow()(1.0)
    assert_close(to_denoised(DEFINITIONS[kind](x0, eps, 0.0, 1.0), eps, start, kind), x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_noise_and_score_say_nothing_of_the_image_there(kind, normal) -> None:
    for level in (Flow()(1.0), NoiseLevel(torch.tensor([1.0, 1e-6]), 1.0)):
        with pytest.raises(ValueError, match=r"At sigma/alpha = (inf|1e\+06) there is no signal, .* no estimate"):
            to_denoised(normal(2, 3), normal(2, 3, seed=1), level, kind)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_dtype_is_kept(kind, normal) -> None:
    x = normal(2, 3).float()
    assert to_denoised(x, x, EDM()(0.5), kind).dtype == from_denoised(x, x, EDM()(0.5), kind).dtype == torch.float32


@pytest.mark.parametrize("convert", [to_denoised, from_denoised])
def test_unknown_predictions_are_named(convert, normal) -> None:
    with pytest.raises(ValueError, match="Unknown prediction type 'epsilon'; choose one of x0, eps, v, flow, score"):
        convert(normal(1, 2), normal(1, 2), EDM()(1.0), "epsilon")
