"""The page on samplers holds what the installed diffusers does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers.utils import logging

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array"),
    pytest.mark.filterwarnings("ignore:Should have t"),
    pytest.mark.skipif(
        f"diffusers {diffusers.__version__} " not in PAGE.replace(".\n", " "), reason="of another diffusers"
    ),
]
logging.set_verbosity_error()


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import samplers
    finally:
        sys.path.pop(0)
    return samplers


def test_its_numbers_are_those_of_the_installed_diffusers(script: Any) -> None:
    at = script.STEPS.index(10)
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    listed = [sampler for table in script.TABLES.values() for sampler in table]
    assert len(rows) == len(listed)
    for (title, *cells), sampler in zip(rows, listed, strict=True):
        assert re.sub(r" \[\d\]$", "", title) == sampler.title
        (found,) = script.cells(sampler, (10,))
        if "needs" not in found:
            assert found == (cells[at] if len(cells) > at else cells[0].rstrip(" |")), title


def test_every_scheduler_of_the_installed_diffusers_is_in_it(script: Any) -> None:
    assert {f"- `{name}`: {why}." for name, why in script.missing().items()} <= set(PAGE.splitlines())
    assert all(script.missing().values()), "a scheduler that has a spectrum and no row"
