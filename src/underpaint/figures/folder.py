"""Write a result: its figures and, as JSON, every number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..files import replacing, write_text
from ..recipes.shared.results import to_json
from .style import RC


def write_result(
    result: Any, figures: Mapping[str, Figure], folder: str | Path, forms: Sequence[str] = ("png",)
) -> dict[str, Any]:
    """Write NAME.png (or other forms) for each figure and then results.json into a folder, each whole or not at all;
    return what the JSON holds."""
    folder, content = Path(folder), to_json(result)
    for name, figure in figures.items():
        for form in forms:
            undated = {"Date": None} if form == "svg" else None
            with replacing(folder / f"{name}.{form}") as temporary, matplotlib.rc_context(RC):
                figure.savefig(temporary, format=form, metadata=undated)
    write_text(folder / "results.json", json.dumps(content, indent=1, ensure_ascii=False))
    return content
