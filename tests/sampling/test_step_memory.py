"""What a solver holds at once beside the basis, in states, as `benchmarks/steps.py` counts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import steps

import underpaint as up

#: Three of each are what `sample` keeps: both ends, and an image.
MOST = {"DPM-Solver++ 2M": 8.1, "exponential-1c": 7.1, "exponential-2c": 8.1, "plan": 8.1, "scheduler": 11.1}


@pytest.mark.parametrize("name", MOST)
def test_states_that_are_held_at_once(name: str) -> None:
    dimension, level = 1 << 15, up.EDM().grid(steps.STEPS)
    gaussian = steps.gaussian_of(dimension, "64", "cpu")
    x = torch.randn(1, dimension, generator=torch.Generator().manual_seed(0))
    answer, solver = torch.tanh(x), steps.solvers(gaussian)[name]

    def run() -> None:
        up.sample(lambda *_: answer, x, level, solver, every=steps.STEPS)

    run()
    with torch.inference_mode(), steps.Peak(x, answer, gaussian.basis, gaussian.mean) as peak:
        run()
    assert peak.most <= MOST[name] * x.numel() * x.element_size()
