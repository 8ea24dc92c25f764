"""What the benchmark of scores says of its own measurements."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(SCRIPTS))

import scores  # noqa: E402


def test_growth_is_told_as_a_power_of_the_number_of_points() -> None:
    """From the fewest to the most, whatever the order; the times of a full scan do not enter."""
    found = [
        (count, sigma, 3 * count**power, 1.0) for sigma, power in ((1.0, 0.9), (0.2, 0.5)) for count in (600, 6, 60)
    ]
    assert scores.growth_powers(found) == pytest.approx({1.0: 0.9, 0.2: 0.5})
