"""Columns of Arrow tables as data: Parquet files, and data sets that Hugging Face's `datasets` saved or downloads.

A column holds pictures (encoded bytes, as `datasets` keeps its images) or rows (lists of numbers, nested or not).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from ..extras import library
from .pictures import Geometry, decoded_source
from .stream import Chunk, Source, digest, usable

_LABELS = ("label", "labels", "cls", "class", "fine_label")


def parquet_source(path: Path, shards: Sequence[Path], geometry: Geometry) -> Source:
    """Parquet files, one row group in memory at a time.

    Raises:
        ValueError: a file is damaged, or has no column of pictures or numbers.
        ImportError: pyarrow is not installed.
    """
    pyarrow = library("pyarrow", "scale", "These data need")
    from pyarrow import parquet

    try:
        files = [parquet.ParquetFile(shard, memory_map=True) for shard in shards]
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); copy or download it again.") from error
    groups = [(file, k) for file in files for k in range(file.num_row_groups)]
    ends = list(accumulate(file.metadata.row_group(k).num_rows for file, k in groups))

    @lru_cache(maxsize=1)
    def group(index: int, columns: tuple[str, ...]) -> Any:
        file, k = groups[index]
        return file.read_row_group(k, columns=list(columns))

    def fetch(start: int, stop: int, columns: tuple[str, ...]) -> Any:
        parts = []
        while start < stop:
            index = bisect_right(ends, start)
            first = ends[index - 1] if index else 0
            parts.append(group(index, columns).slice(start - first, stop - start))
            start = min(stop, ends[index])
        return pyarrow.concat_tables(parts)

    sizes = digest([(shard.name, shard.stat().st_size) for shard in shards])
    return _table_source(path.stem, path, ends[-1] if ends else 0, files[0].schema_arrow, fetch, geometry, sizes)


def saved_source(path: Path, split: str, geometry: Geometry) -> Source:
    """A data set saved by `datasets`, memory-mapped.

    Raises:
        ValueError: it is damaged, or has no such split or no usable column.
        ImportError: datasets is not installed.
    """
    datasets = library("datasets", "scale", "These data need")
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a saved data set ({error}); save it again.") from error
    if hasattr(found, "keys"):
        if split not in found:
            raise ValueError(f"{path} has the splits {', '.join(found)}, not {split!r}.")
        found = found[split]
    return _dataset_source(found, path.name, geometry)


def hub_source(name: str, split: str, geometry: Geometry) -> Source:
    """A data set "owner/name" of the Hugging Face hub, downloaded once into its cache. No code of it is run.

    Raises:
        ValueError: there is no such data set or split, or it cannot be reached.
        ImportError: datasets is not installed.
    """
    datasets = library("datasets", "scale", "These data need")
    try:
        found = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub, the network and the readers of many formats each have errors of their own
        raise ValueError(f"The data set {name!r} cannot be had ({type(error).__name__}: {error}).") from error
    return _dataset_source(found, name.replace("/", "-"), geometry)


def _dataset_source(dataset: Any, name: str, geometry: Geometry) -> Source:
    arrow = dataset.with_format("arrow")

    def fetch(start: int, stop: int, columns: tuple[str, ...]) -> Any:
        return arrow.select_columns(list(columns))[start:stop]

    names = {key: feature.names for key, feature in dataset.features.items() if hasattr(feature, "names")}
    fingerprint = dataset._fingerprint  # the only name that it has for its contents
    return _table_source(name, name, len(dataset), arrow.features.arrow_schema, fetch, geometry, fingerprint, names)


def _table_source(
    name: str,
    where: Any,
    count: int,
    schema: Any,
    fetch: Callable[[int, int, tuple[str, ...]], Any],
    geometry: Geometry,
    identity: str,
    names: dict[str, Sequence[str]] | None = None,
) -> Source:
    pictures, numbers = [f.name for f in schema if _is_bytes(f.type)], [f.name for f in schema if _is_numbers(f.type)]
    if not count or not (pictures or numbers):
        raise ValueError(f"{where} holds {count} rows of {', '.join(schema.names)}; none is of pictures or numbers.")
    column = (pictures or numbers)[0]
    label = next((f.name for f in schema if f.name in _LABELS and str(f.type).startswith(("int", "uint"))), None)
    wanted = (column, label) if label else (column,)
    classes: dict[int, str] = {}
    if label:
        for start in range(0, count, 2**20):
            found = fetch(start, min(count, start + 2**20), (label,)).column(label).unique().to_pylist()
            classes |= {
                n: names[label][n] if names and label in names else str(n) for n in found if n is not None and n >= 0
            }
    identity = digest(identity, wanted)
    if not pictures:
        return _numbers(name, where, count, fetch, column, label, classes, identity)

    def encoded(start: int, stop: int) -> list[tuple[str, int | None, Callable[[], bytes]]]:
        table = fetch(start, stop, wanted)
        labels = table.column(label).fill_null(-1).to_pylist() if label else [None] * len(table)
        cells = table.column(column).to_pylist()
        return [
            (f"row {start + i}", number, lambda cell=cell: _cell_bytes(cell))  # type: ignore[misc]
            for i, (cell, number) in enumerate(zip(cells, labels, strict=True))
        ]

    return decoded_source(name, str(where), count, encoded, geometry, dict(sorted(classes.items())), identity)


def _numbers(
    name: str,
    where: Any,
    count: int,
    fetch: Any,
    column: str,
    label: str | None,
    classes: dict[int, str],
    identity: str,
) -> Source:
    wanted = (column, label) if label else (column,)
    first = _matrix(fetch(0, 1, wanted).column(column), 1)

    def read(start: int, stop: int) -> Chunk:
        table = fetch(start, stop, wanted)
        rows = _matrix(table.column(column), stop - start)
        if rows.shape[1] != first.shape[1]:
            raise ValueError(f"{where} holds lists of several lengths in {column!r}; expected rows of one length.")
        labels = torch.tensor(table.column(label).fill_null(-1).to_numpy()).long() if label else None
        return usable(rows, labels, start)

    handling = f"numbers of the column {column!r} as they are"
    return Source(name, tuple(first.shape[1:]), count, read, identity, handling, dict(sorted(classes.items())))


def _matrix(column: Any, count: int) -> torch.Tensor:
    """Nested lists of numbers, flattened to [count, D]."""
    array = column.combine_chunks()
    while True:
        array = getattr(array, "storage", array)
        if not hasattr(array, "flatten") or not str(array.type).startswith(("list", "large_list", "fixed_size_list")):
            break
        array = array.flatten()
    if len(array) % count:
        raise ValueError("A column of lists of several lengths cannot be read as rows.")
    return torch.tensor(array.to_numpy(zero_copy_only=False)).reshape(count, -1)


def _cell_bytes(cell: Any) -> bytes:
    if isinstance(cell, dict):
        file = Path(cell.get("path") or "")
        cell = cell.get("bytes") or (file.read_bytes() if file.is_file() else None)
    if not isinstance(cell, bytes):
        raise ValueError("holds no picture")
    return cell


def _is_bytes(kind: Any) -> bool:
    text = str(getattr(kind, "storage_type", kind))
    return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: binary" in text)


def _is_numbers(kind: Any) -> bool:
    text = str(getattr(kind, "storage_type", kind))
    return "list<" in text and any(name in text for name in ("float", "double", "uint8"))
