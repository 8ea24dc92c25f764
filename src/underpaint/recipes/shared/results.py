"""Results as data: frozen dataclasses whose fields say their units, written as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...analysis.summary import Summary
from ...noise import NoiseLevel


def quantity(unit: str = "1") -> Any:
    """A dataclass field whose unit goes into the JSON beside its value; "1" is a pure number."""
    return dataclasses.field(metadata={"unit": unit})


#: What a dataclass field says of itself that is for a figure, and is left out of the JSON.
PICTURE = {"picture": True}


def picture() -> Any:
    """A dataclass field of pixels for a figure, left out of the JSON."""
    return dataclasses.field(metadata=PICTURE, repr=False)


def to_json(value: Any) -> Any:
    """Dataclasses, tensors, summaries and levels as JSON types; NaN and infinities as null, which JSON can hold.

    What has a ``finding``, a sentence or two on what its numbers mean, begins with it.
    """
    if isinstance(value, Summary):
        of_samples = {"mean": to_json(value.mean), "5%": to_json(value.low), "95%": to_json(value.high)}
        return of_samples if value.error is None else of_samples | {"error": to_json(value.error)}
    if isinstance(value, NoiseLevel):
        return {"alpha": to_json(value.alpha), "sigma": to_json(value.sigma)}
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if not field.metadata.get("picture")]
        finding = getattr(type(value), "finding", None)
        said = {"finding": finding.__get__(value)} if isinstance(finding, property) else {}
        return said | {
            field.name: _with_unit(getattr(value, field.name), field.metadata.get("unit")) for field in fields
        }
    if isinstance(value, Tensor):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [to_json(item) for item in value]
    return value


def _with_unit(value: Any, unit: str | None) -> Any:
    return to_json(value) if unit is None else {"value": to_json(value), "unit": unit}


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def table(
    title: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Tensor,
    form: str = ".3f",
    reach: Tensor | None = None,
) -> str:
    """Numbers [row, column] under their names, aligned; with ``reach``, how far each may be off."""
    cells = written(values, form, reach)
    widths = [max(6, *map(len, column)) for column in zip(columns, *cells, strict=True)]
    first = max(len(name) for name in [corner, *rows])
    lines = [title, "  ".join([corner.ljust(first), *(n.rjust(w) for n, w in zip(columns, widths, strict=True))])]
    for name, line in zip(rows, cells, strict=True):
        lines.append("  ".join([name.ljust(first), *(c.rjust(w) for c, w in zip(line, widths, strict=True))]))
    return "\n".join(lines)


def written(values: Tensor, form: str = ".3f", reach: Tensor | None = None) -> list[list[str]]:
    """Numbers [row, column] as text; with ``reach``, how far each may be off."""
    cells = [[f"{value:{form}}" for value in line] for line in values.tolist()]
    if reach is None:
        return cells
    off = [[f"{value:{form}}" for value in line] for line in reach.tolist()]
    return [[f"{a} ±{b}" for a, b in zip(*pair, strict=True)] for pair in zip(cells, off, strict=True)]
