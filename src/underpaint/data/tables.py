"""Columns of Arrow tables as data: Parquet files, and data sets that Hugging Face's `datasets` saved or downloads.

A column holds pictures (encoded bytes, as `datasets` keeps its images) or rows (lists of numbers, nested or not).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..damage import Unfit, reason
from ..extras import library
from .choice import Choice
from .decode import Geometry
from .labels import LEAVE_OUT, WITHOUT, number_labels
from .lists import is_list_of_numbers, rows_of_lists, usual_shape
from .pictures import Item, decoded_source
from .splits import check_file, check_split, choose_files, plain_split
from .stream import BYTES, Chunk, Source, digest, usable

#: So many rows are looked at to know their shape.
_LOOKED = 64
_LABELS = ("label", "labels", "cls", "class", "fine_label")


class Stretch(NamedTuple):
    """Rows from ``start`` to before ``stop``: a table of them, or why they cannot be read."""

    start: int
    stop: int
    table: Any
    problem: str = ""


#: Reads the columns of rows from a start to before a stop.
Fetch = Callable[[int, int, tuple[str, ...]], Iterator[Stretch]]


def parquet_source(path: Path, shards: Sequence[Path], choice: Choice) -> Source:
    """Parquet files, one row group in memory at a time: ``path`` is the one file, or the folder of all.

    Raises:
        ValueError: a file is damaged, there is no such split or column, or no column of pictures or numbers.
        ImportError: pyarrow is not installed.
    """
    parquet = library("pyarrow.parquet", "scale", "These data need")

    word = ""
    if path.is_dir():
        shards, word = choose_files(shards, path, choice.split)
    else:
        check_file(path, choice.split)
    try:
        files = [parquet.ParquetFile(shard, memory_map=True) for shard in shards]
    except Exception as error:  # damaged files raise almost anything
        raise ValueError(f"{path}, read as Parquet, {reason(error)}; copy or download it again.") from error
    for shard, file in zip(shards, files, strict=True):
        if not file.schema_arrow.equals(files[0].schema_arrow):
            raise ValueError(f"{shard} has other columns than {shards[0]}; give files of one kind.")
    groups = [(file, k) for file in files for k in range(file.num_row_groups)]
    ends = list(accumulate(file.metadata.row_group(k).num_rows for file, k in groups))

    @lru_cache(maxsize=1)
    def group(index: int, columns: tuple[str, ...]) -> Any:
        file, k = groups[index]
        try:
            return file.read_row_group(k, columns=list(columns))
        except Exception as error:  # damaged files raise almost anything
            return f"row group {k} {reason(error)}"

    def fetch(start: int, stop: int, columns: tuple[str, ...]) -> Iterator[Stretch]:
        while start < stop:
            index = bisect_right(ends, start)
            first, last = ends[index - 1] if index else 0, min(stop, ends[index])
            found = group(index, columns)
            if isinstance(found, str):
                yield Stretch(start, last, None, found)
            else:
                yield Stretch(start, last, found.slice(start - first, last - start))
            start = last

    sizes = digest([(shard.name, shard.stat().st_size) for shard in shards])
    count = ends[-1] if ends else 0
    source = _table_source(path.stem, path, count, files[0].schema_arrow, fetch, choice, sizes)
    return source.noted(word)


def saved_source(path: Path, choice: Choice) -> Source:
    """A data set saved by `datasets`, memory-mapped.

    Raises:
        ValueError: it is damaged, or has no such split or no usable column.
        ImportError: datasets is not installed.
    """
    datasets = library("datasets", "scale", "These data need")
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}, read as a saved data set, {reason(error)}; save it again.") from error
    split = choice.split
    if not hasattr(found, "keys"):
        check_split(path, split, [plain_split(str(found.split or "train")), "train"])
        return _dataset_source(found, path.name, choice)
    chosen = {plain_split(name): name for name in found}
    check_split(path, split, list(chosen))
    source = _dataset_source(found[chosen[plain_split(split)]], path.name, choice)
    return source.noted(f"split {plain_split(split)} of {', '.join(chosen)}" if len(chosen) > 1 else "")


def hub_source(name: str, choice: Choice) -> Source:
    """A data set "owner/name" of the Hugging Face hub, downloaded once into its cache. No code of it is run.

    Raises:
        ValueError: there is no such data set or split, or it cannot be reached.
        ImportError: datasets is not installed.
    """
    datasets = library("datasets", "scale", "These data need")
    try:
        found = datasets.load_dataset(name, split=choice.split)
    except Exception as error:  # the hub, the network and the readers of many formats each have errors of their own
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"The data set {name!r} cannot be had ({type(error).__name__}: {line}).") from error
    return _dataset_source(found, name.replace("/", "-"), choice).noted(f"split {choice.split}")


def _dataset_source(dataset: Any, name: str, choice: Choice) -> Source:
    arrow = dataset.with_format("arrow")

    def fetch(start: int, stop: int, columns: tuple[str, ...]) -> Iterator[Stretch]:
        yield Stretch(start, stop, arrow.select_columns(list(columns))[start:stop])

    names = {key: feature.names for key, feature in dataset.features.items() if hasattr(feature, "names")}
    fingerprint = dataset._fingerprint  # the only name that it has for its contents
    schema = arrow.features.arrow_schema
    return _table_source(name, name, len(dataset), schema, fetch, choice, fingerprint, names)


def _table_source(
    name: str,
    where: Any,
    count: int,
    schema: Any,
    fetch: Fetch,
    choice: Choice,
    identity: str,
    names: dict[str, Sequence[str]] | None = None,
) -> Source:
    column, is_picture, word = _choose(where, count, schema, choice.column)
    known = [name for name in _LABELS if name in schema.names and name != column and choice.labels]
    label = known[0] if known else None
    wanted = (column, label) if label else (column,)
    numbers, classes = _labels(where, count, fetch, label, names or {})
    table = _Table(name, where, count, fetch, wanted, numbers, classes, digest(identity, wanted))
    source = _pictures(table, choice.geometry) if is_picture else _numbers(table)
    return replace(source.noted(word, f"labels of {label!r}" if label else ""), origin=f"rows of {name}")


@dataclass(frozen=True, eq=False)
class _Table:
    """What is read of a table: the first of the columns ``wanted``, and the labels of the second if there is one, which
    ``numbers`` makes numbers of."""

    name: str
    where: Any
    count: int
    fetch: Fetch
    wanted: tuple[str, ...]
    numbers: Callable[[Any], list[int]]
    classes: dict[int, str]
    identity: str

    def parts(self, start: int, stop: int) -> Iterator[tuple[Stretch, list[int]]]:
        """Stretches of a range, with their labels."""
        for part in self.fetch(start, stop, self.wanted):
            readable = part.table is not None and len(self.wanted) > 1
            yield part, self.numbers(part.table.column(self.wanted[1])) if readable else [-1] * (part.stop - part.start)


def _choose(where: Any, count: int, schema: Any, asked: str | None) -> tuple[str, bool, str]:
    """The column, whether it is of pictures, and a word on what was chosen: the one asked for; else the only one of
    pictures, or the one called image, as `datasets` calls it; else the only one of numbers."""
    pictures = [field.name for field in schema if _is_bytes(field.type)]
    numbers = [field.name for field in schema if is_list_of_numbers(field.type)]
    if not count or not (pictures or numbers):
        listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise ValueError(
            f"{where} holds {count} rows of {listed}; expected a column of pictures, or of lists of bytes or "
            "floating-point numbers."
        )
    usable_ones = pictures + numbers
    if asked is not None and asked not in usable_ones:
        raise ValueError(f"{where} has the columns {', '.join(usable_ones)} of pictures or numbers, not {asked!r}.")
    first = pictures or numbers
    chosen = asked or (first[0] if len(first) == 1 else "image" if "image" in first else None)
    if chosen is None:
        raise ValueError(f"{where} has the columns {', '.join(first)}; choose one with --column.")
    others = [name for name in usable_ones if name != chosen]
    return (
        chosen,
        chosen in pictures,
        f"column {chosen!r}" + (f", not {', '.join(map(repr, others))}" if others else ""),
    )


def _labels(
    where: Any, count: int, fetch: Fetch, label: str | None, names: dict[str, Sequence[str]]
) -> tuple[Callable[[Any], list[int]], dict[int, str]]:
    """What makes numbers of a column of labels, and the names of these. All labels are looked at once."""
    if label is None:
        return lambda column: [], {}
    written: dict[Any, None] = {}
    for start in range(0, count, 2**20):
        for part in fetch(start, min(count, start + 2**20), (label,)):
            if part.table is not None:
                column = part.table.column(label)
                if str(column.type).startswith(("list", "struct", "large_list", "fixed_size_list")):
                    what = f"The labels of {where} in {label!r} are {column.type}"
                    raise ValueError(f"{what}; expected whole numbers or names. {LEAVE_OUT}")
                written |= dict.fromkeys(column.unique().to_pylist())
    known = list(written)
    numbers, classes = number_labels(known, where)
    number = dict(zip(known, numbers, strict=True))
    if label in names:
        classes = {n: names[label][n] if n < len(names[label]) else text for n, text in classes.items()}
    return lambda column: [number.get(value, WITHOUT) for value in column.to_pylist()], classes


def _pictures(table: _Table, geometry: Geometry) -> Source:
    def items(start: int, stop: int) -> list[Item]:
        found: list[Item] = []
        for part, labels in table.parts(start, stop):
            cells = (
                [part.problem] * len(labels) if part.table is None else part.table.column(table.wanted[0]).to_pylist()
            )
            found += [
                (f"row {part.start + i}", number, lambda cell=cell: _cell_bytes(cell))  # type: ignore[misc]
                for i, (cell, number) in enumerate(zip(cells, labels, strict=True))
            ]
        return found

    return decoded_source(table.name, str(table.where), table.count, items, geometry, table.classes, table.identity)


def _numbers(table: _Table) -> Source:
    column, kind = table.wanted[0], ""
    shape: tuple[int, ...] = ()
    for part, _ in table.parts(0, min(table.count, _LOOKED)):
        if part.table is not None and not shape:
            shape, kind = usual_shape(part.table.column(column))
    if not shape:
        raise ValueError(f"The first rows of {table.where} hold no lists of numbers of one length in {column!r}.")
    width = math.prod(shape)

    def read(start: int, stop: int) -> Chunk:
        chunks = [_rows(part, labels, column, shape) for part, labels in table.parts(start, stop)]
        labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
        data = torch.cat([chunk.data.reshape(-1, width) for chunk in chunks])
        bad = tuple(sentence for chunk in chunks for sentence in chunk.bad)
        return Chunk(data, torch.cat(labels) if table.classes else None, bad)

    handling = BYTES if kind == "uint8" else "numbers as they are"
    return Source(table.name, (width,), table.count, read, table.identity, handling, table.classes)


def _rows(part: Stretch, labels: list[int], column: str, shape: tuple[int, ...]) -> Chunk:
    """The rows of a stretch that are lists of a shape; others are named."""
    places = range(part.start, part.stop)
    if part.table is None:
        return Chunk(torch.empty(0), None, tuple(f"row {i}: {part.problem}" for i in places))
    rows, good = rows_of_lists(part.table.column(column), shape)
    bad = tuple(
        f"row {i}: is no list of {' x '.join(map(str, shape))} numbers" for i in places if not good[i - part.start]
    )
    kept = [i for i in places if good[i - part.start]]
    chunk = usable(rows, torch.tensor([labels[i - part.start] for i in kept], dtype=torch.long), kept)
    return replace(chunk, bad=bad + chunk.bad)


def _cell_bytes(cell: Any) -> bytes:
    if isinstance(cell, str):
        raise Unfit(cell)
    if isinstance(cell, dict):
        file = Path(cell.get("path") or "")
        cell = cell.get("bytes") or (file.read_bytes() if file.is_file() else None)
    if not isinstance(cell, bytes) or not cell:
        raise Unfit("holds no picture")
    return cell


def _is_bytes(kind: Any) -> bool:
    text = str(getattr(kind, "storage_type", kind))
    return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: binary" in text)
