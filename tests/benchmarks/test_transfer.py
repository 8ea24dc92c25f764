"""What a plan loses where it was not fitted for: how it is counted, written, and said by the plan itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import underpaint as up

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(SCRIPTS))

import transfer  # noqa: E402

from underpaint.sampling.fitted import Calibration, Plan  # noqa: E402
from underpaint.sampling.use import Loss, Use, use_of  # noqa: E402

HOME, AWAY = "what it was fitted for: two prompts, guidance 3", "guidance 5"
ROWS = [
    transfer.Row(HOME, 5, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "DEIS-2, karras"),
    transfer.Row(AWAY, 5, [2.0, 2.0, 4.0], [1.0, 1.0, 2.0], [4.0, 4.0, 8.0], "DEIS-2, karras"),
]


def test_a_row_is_a_ratio_of_root_mean_squares_its_interval_and_that_of_medians() -> None:
    assert ROWS[1].over("fitted") == pytest.approx((2.0, 2.0, 2.0, 2.0))
    uneven = transfer.Row(AWAY, 8, [1.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "")
    value, low, high, medians = uneven.over("plain")
    assert value == pytest.approx(3**0.5)
    assert medians == 2
    assert 1 <= low < value < high <= 2
    lines = transfer.table(ROWS).splitlines()
    assert lines[2].startswith(f"| {HOME} | 0.50 (0.50 to 0.50), 0.50 | 1 |")
    assert lines[3] == f"| {AWAY} | 0.50 (0.50 to 0.50), 0.50 | 2.00 (2.00 to 2.00), 2.00 |"


def test_plans_say_themselves_what_was_measured() -> None:
    known = {place.name: use_of(place.denoise) for place in transfer.places()}
    plans = Calibration((Plan(up.DDPM().grid(5), solver="dpmpp-2m"),), {"for": known[HOME].known})
    told = transfer.with_losses(plans, ROWS)
    assert told.losses == (Loss(5, Use(guidance=(5.0,)), 2.0, 2.0, 2.0),)
    assert str(told.doubt(known[AWAY], 5)).endswith(
        "at 5 calls, its error was 2.00 times (2.00 to 2.00) that of a plan for it."
    )
    assert told.doubt(known["two other prompts"], 5) is None
    for name, words in (("bfloat16", "a network in bfloat16"), ("weights", "of weights"), ("latents", "4 x 16 x 16")):
        (place,) = (name_of for name_of in known if name in name_of)
        assert words in str(told.doubt(known[place], 5))


def test_weights_change_by_the_share_that_is_asked() -> None:
    before, after = up.load_model(transfer.MODEL).network, transfer.changed(up.load_model(transfer.MODEL), 0.01).network
    old, new = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (before, after))
    assert float(((new - old) / old)[old != 0].square().mean().sqrt()) == pytest.approx(0.01, rel=0.01)
