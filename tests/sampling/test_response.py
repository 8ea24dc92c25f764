"""The exact response of a linear sampler: against samplers whose factors are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from underpaint.sampling.response import respond

SCALE = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


def test_factors_of_a_known_sampler_are_found() -> None:
    """x <- x/2 + 0.3 noise, by each way of asking for noise, and the mean of the data added once."""

    def run(x: Tensor, mean: Tensor) -> Tensor:
        x = SCALE * x / 2 + 0.3 * torch.randn(x.shape, dtype=x.dtype)
        x = x / 2 + 0.3 * torch.randn_like(x)
        return x / 2 + 0.3 * torch.empty_like(x).normal_() + 0.7 * mean

    found = respond(run, 3)
    assert_close(found.initial, SCALE / 8)
    assert_close(found.mean, torch.full((3,), 0.7, dtype=torch.float64))
    assert_close(found.drawn[:, 0], torch.tensor([0.075, 0.15, 0.3], dtype=torch.float64))
    assert_close(found.variance, found.initial**2 + 0.075**2 + 0.15**2 + 0.3**2)


def test_a_generator_set_back_to_one_state_gives_one_draw() -> None:
    """As with a sampler that seeds anew at each step: its noise is the same each time, and adds up."""

    def run(x: Tensor, mean: Tensor) -> Tensor:
        for _ in range(3):
            x = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        return x

    assert_close(respond(run, 2).drawn, torch.full((1, 2), 3.0, dtype=torch.float64))


def test_nothing_is_left_behind() -> None:
    before = torch.get_rng_state()
    respond(lambda x, mean: x + torch.randn(x.shape), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(torch.randn(5).unique()) == 5


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda x, mean: x.clamp(-1, 1), "not linear in its states"),
        (lambda x, mean: x + 1e-3 * x**2, "not linear in its states"),
        (lambda x, mean: x + 0.1, "not linear in its states"),
        (lambda x, mean: x / 0, "NaN or infinite"),
        (lambda x, mean: x + torch.randn(7, 1), r"draws noise of shape \(7, 1\)"),
    ],
)
def test_what_has_no_such_response_is_refused(run, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        respond(run, 2)
