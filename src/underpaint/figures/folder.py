"""Write a result: its figures and, as JSON, every number."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..files import replacing_in
from ..recipes.shared.results import to_json
from .style import RC
from .svg import draw_svg

#: What says that a result is complete takes its place last.
LAST = ("results.json", "index.html")


def write_result(
    result: Any,
    figures: Mapping[str, Figure],
    folder: str | Path,
    forms: Sequence[str] = ("png",),
    more: Callable[[Path], object] = lambda draft: None,
) -> dict[str, Any]:
    """Write NAME.png (or other forms) for each figure, what ``more`` writes into the folder that it is given, and then
    results.json into a folder, all of them or none; return what the JSON holds."""
    content = to_json(result)
    with replacing_in(folder, LAST) as draft, matplotlib.rc_context(RC):
        for name, figure in figures.items():
            for form in forms:
                if form == "svg":
                    (draft / f"{name}.svg").write_bytes(draw_svg(figure).encode())
                else:
                    figure.savefig(draft / f"{name}.{form}")
        more(draft)
        (draft / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return content
