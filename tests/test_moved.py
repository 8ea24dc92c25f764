"""Names of 0.1 lead to what is in their place, with a warning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from underpaint.moved import MOVED, RENAMED


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_module_is_found_under_its_name_of_before(name: str) -> None:
    sys.modules.pop(f"underpaint.{name}", None)
    with pytest.warns(DeprecationWarning, match=rf"underpaint\.{name} is now underpaint\.{MOVED[name]};"):
        old = import_module(f"underpaint.{name}")
    new = import_module(f"underpaint.{MOVED[name]}")
    for before, now in RENAMED.items():
        if hasattr(new, now):
            assert getattr(old, before) is getattr(new, now)
    assert old.torch is new.torch if hasattr(new, "torch") else True
    with pytest.raises(AttributeError):
        old.nothing_of_this_name  # noqa: B018


def test_the_warning_names_the_line_of_the_user() -> None:
    code = "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n"
    code += "    from underpaint.recipes.ask import Ask\nprint(Ask.__name__, seen[0].filename)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["Request", "<string>"]


def test_what_a_map_is_asked_for_is_found_under_its_name_of_before() -> None:
    from underpaint.recipes import map as recipe

    with pytest.warns(DeprecationWarning, match="Chart is now MapSettings"):
        assert recipe.Chart is recipe.MapSettings
