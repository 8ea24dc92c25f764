"""Columns of lists of numbers in Arrow tables, nested or not, as rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor


def is_list_of_numbers(kind: Any) -> bool:
    """Whether a type of Arrow's is of lists, nested or not, of floats or bytes."""
    depth, text = 0, _storage(kind)
    while hasattr(text, "value_type") and "list" in str(text)[:16]:
        depth, text = depth + 1, _storage(text.value_type)
    return depth > 0 and str(text) in ("halffloat", "float", "double", "uint8")


def usual_shape(column: Any) -> tuple[tuple[int, ...], str]:
    """The shape that most lists of a column have, and the type of their numbers; no shape where none is regular."""
    shapes = Counter(shape for cell in column.to_pylist() if (shape := _shape(cell)))
    kind = _storage(column.type)
    while hasattr(kind, "value_type"):
        kind = _storage(kind.value_type)
    return (shapes.most_common(1)[0][0] if shapes else ()), str(kind)


def rows_of_lists(column: Any, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The lists of a shape, flattened to [n, D], and which of the N cells these are, [N]. Others are left out: those of
    other lengths, at any depth, and those with an empty place in them."""
    import numpy
    import pyarrow
    from pyarrow import compute

    array = column.combine_chunks()
    array = array.combine_chunks() if hasattr(array, "combine_chunks") else array
    count = len(array)
    good, owner = numpy.ones(count, bool), numpy.arange(count)
    for length in shape:
        array = getattr(array, "storage", array)
        lengths = compute.fill_null(compute.list_value_length(array), -1).to_numpy(zero_copy_only=False)
        good[owner[lengths != length]] = False
        owner, array = numpy.repeat(owner, lengths.clip(min=0)), array.flatten()
    array = getattr(array, "storage", array)
    if array.null_count:
        good[owner[compute.is_null(array).to_numpy(zero_copy_only=False)]] = False
    kept = array.filter(pyarrow.array(good[owner])) if not good.all() else array
    width = torch.Size(shape).numel()
    values = torch.tensor(kept.to_numpy(zero_copy_only=False)).reshape(-1, width)
    return values, torch.from_numpy(good)


def _shape(cell: Any) -> tuple[int, ...]:
    """The shape of a nested list of numbers; () if it is not regular, or anything in it is missing."""
    if not isinstance(cell, list) or not cell:
        return ()
    if not isinstance(cell[0], list):
        return (len(cell),) if all(value is not None and not isinstance(value, list) for value in cell) else ()
    inner = {_shape(part) for part in cell}
    first = inner.pop()
    return (len(cell), *first) if not inner and first else ()


def _storage(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)
