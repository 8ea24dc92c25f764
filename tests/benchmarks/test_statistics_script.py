"""benchmarks/statistics.py sums what `underpaint stats` sums: it had stayed behind a change of the sums."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from underpaint.data.sources import open_source
from underpaint.recipes.statistics.memory_plan import Settings

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "statistics.py"


def test_its_covariance_is_that_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(60, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    np.save(tmp_path / "rows.npy", rows.view(60, 1, 4, 4).numpy())
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = runpy.run_path(str(SCRIPT), run_name="script")
    found = script["covariance"](open_source(tmp_path / "rows.npy"), Settings(kind="full"))
    assert_close(found.matrix(), rows.double().T.cov(), rtol=1e-4, atol=1e-5)
