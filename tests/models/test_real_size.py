"""A pipeline of real size, with random weights: what loading and recording it take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "real_size.py"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "gigabytes"), [("sd15", 2.13), ("sdxl", 6.94)])
def test_stable_diffusion_at_its_own_size(kind: str, gigabytes: float) -> None:
    """Some minutes on two processors; 2.2 GB on disk and 6 GB of memory, 7 and 10 for SDXL."""
    command = [sys.executable, str(SCRIPT), "--kind", kind, "--size", "128"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["gigabytes"] == pytest.approx(gigabytes, abs=0.02)
    assert found["peak, over the weights"] < 1.05
    assert found["record"] < 1.1
    assert found["identical"]
    assert found["finite"]
    assert {value for name, value in found.items() if name.startswith("calls")} == {2}
