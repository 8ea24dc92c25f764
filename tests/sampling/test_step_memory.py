"""What a solver holds at once beside the basis, in states, as `benchmarks/steps.py` counts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import steps

import underpaint as up

#: By basis: a dimension, and the most of each solver. Three of each are what `sample` keeps: both ends, and an image. A
#: transform of cosines, which is not stored, takes up to three states while it is applied.
MOST = {
    ("64", 1 << 15): {
        "DPM-Solver++ 2M": 8.1,
        "exponential-1c": 7.1,
        "exponential-2c": 8.1,
        "plan": 8.1,
        "scheduler": 10.3,
    },
    ("stationary", 1 << 16): {"exponential-1c": 8.5, "exponential-2c": 9.7, "plan": 9.7, "scheduler": 13.5},
}


@pytest.mark.parametrize(
    ("basis", "dimension", "name"), [(*case, name) for case, most in MOST.items() for name in most]
)
def test_states_that_are_held_at_once(basis: str, dimension: int, name: str) -> None:
    level, gaussian = up.EDM().grid(steps.STEPS), steps.gaussian_of(dimension, basis, "cpu")
    x = torch.randn(1, dimension, generator=torch.Generator().manual_seed(0))
    answer, solver = torch.tanh(x), steps.solvers(gaussian)[name]

    def run() -> None:
        up.sample(lambda *_: answer, x, level, solver, every=steps.STEPS)

    run()
    with torch.inference_mode(), steps.Peak(x, answer, *steps.kept(gaussian)) as peak:
        run()
    assert peak.most <= MOST[basis, dimension][name] * x.numel() * x.element_size()
