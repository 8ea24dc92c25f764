"""Pictures in folders, zip files and tar shards, decoded as they are read; those that cannot be are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..damage import reason
from .choice import Choice
from .decode import Geometry, Look, look
from .labels import number_labels
from .members import Entry, choose_column, folder_entries, label_by_folder, listed_labels, tar_entries, zip_entries
from .splits import check_file, choose_files, choose_folders, folder_split
from .stream import BYTES, Chunk, Source, digest

#: So many pictures, spread over the data, are looked at to settle size and mode; if none of them can be read, so many
#: more from the first on.
_LOOKED, _TRIED = 64, 1000

#: Title, label and encoded bytes of a picture.
Item = tuple[str, int, Callable[[], bytes]]


def folder_source(path: Path, files: Sequence[Path], choice: Choice, aside: Counter[str]) -> Source:
    """Pictures of a folder, which are these files.

    Labels are those of a ``dataset.json`` as EDM writes it, else the sub-folders' names. Folders that are called train,
    test and the like are splits.

    Raises:
        ValueError: no picture can be read, there is no such split, or labels are neither numbers nor names.
    """
    entries, word = _labelled(path, folder_entries(path, files), choice.split)
    return _picture_source(path, f"the folder {path}", entries, choice, aside, word, f"the folder {path.name}")


def shard_source(path: Path, shards: Sequence[Path], choice: Choice, aside: Counter[str]) -> Source:
    """Pictures of .tar or .zip shards: ``path`` is one, or the folder of all.

    Labels are those of a ``dataset.json`` in a zip file, of a .cls or .json member beside each picture in tar shards,
    or else the folders' names.

    Raises:
        ValueError: as `folder_source`, or several pictures of one name in a tar shard with no column chosen.
    """
    words, split = [], choice.split
    if path.is_dir():
        shards, word = choose_files(shards, path, split)
        words.append(word)
        split = "train"
    elif shards[0].suffix.lower() == ".tar":
        check_file(path, split)
    entries: list[Entry] = []
    for shard in shards:
        if shard.suffix.lower() == ".tar":
            entries += tar_entries(shard, aside)
        else:
            more, word = _labelled(shard, zip_entries(shard, aside), split)
            entries += more
            words.append(word)
    if shards[0].suffix.lower() == ".tar":
        entries, word = choose_column(entries, path, choice.column)
        words.append(word)
    elif choice.column is not None:
        raise ValueError(f"{path} holds single pictures and no columns; leave out {choice.column!r}.")
    taken = "; ".join(dict.fromkeys(word for word in words if word))
    return _picture_source(path, str(path), entries, choice, aside, taken, path.name)


def _labelled(home: Path, entries: list[Entry], split: str) -> tuple[list[Entry], str]:
    """Pictures of a folder or zip file that belong to a split, with labels as they are written."""
    if not any(entry.inside for entry in entries):  # nothing but why it cannot be read
        return entries, ""
    listed = listed_labels(home)
    if listed is not None:
        check_file(home, split)
        return [entry._replace(label=listed.get(entry.inside)) for entry in entries], ""
    pictures = [entry for entry in entries if entry.inside]
    tops = [entry.inside.split("/")[0] if "/" in entry.inside else None for entry in pictures]
    chosen = choose_folders(tops, home, split)
    if chosen is None:
        return label_by_folder(entries), ""
    kept = [entry for entry, top in zip(pictures, tops, strict=True) if folder_split(str(top)) == chosen]
    known = sorted({str(folder_split(str(top))) for top in tops})
    return label_by_folder(kept, skip=1), f"split {chosen} of {', '.join(known)}" if len(known) > 1 else ""


def _picture_source(
    path: Path, where: str, entries: list[Entry], choice: Choice, aside: Counter[str], taken: str, what: str
) -> Source:
    numbers, classes = number_labels([entry.label if choice.labels else None for entry in entries], where)
    files = digest([(entry.place.name, entry.inside, entry.size, entry.label) for entry in entries])

    def fetch(start: int, stop: int) -> list[Item]:
        chosen = zip(entries[start:stop], numbers[start:stop], strict=True)
        return [(entry.title, number, entry.bytes) for entry, number in chosen]

    source = decoded_source(path.stem, where, len(entries), fetch, choice.geometry, classes, files)
    left = ", ".join(f"{count:,} {kind}" for kind, count in sorted(aside.items()) if count)
    return replace(source.noted(taken, f"not read: {left}" if left else ""), origin=f"images of {what}")


def decoded_source(
    name: str,
    where: str,
    count: int,
    fetch: Callable[[int, int], list[Item]],
    geometry: Geometry,
    classes: dict[int, str],
    identity: str,
) -> Source:
    """Pictures of which ``fetch(start, stop)`` gives title, label and encoded bytes.

    What the geometry leaves open is settled by `_settle`. Pictures that are not so are left out, and named.
    """
    geometry, height, width, most = _settle(count, fetch, geometry, where)
    shape = (1 if geometry.mode == "L" else 3, height, width)

    def one(item: Item) -> Tensor | str:
        title, _, raw = item
        try:
            image = geometry.decode(raw())
        except Exception as error:  # decoders of broken files raise almost anything
            return f"{title}: {reason(error)}"
        if image.shape != shape:
            return f"{title}: is {image.shape[1]}x{image.shape[2]}, others {height}x{width}; give a size"
        return image

    def read(start: int, stop: int) -> Chunk:
        items = fetch(start, stop)
        with ThreadPoolExecutor() as pool:
            read = list(pool.map(one, items))
        images = [image for image in read if isinstance(image, Tensor)]
        labels = [label for image, (_, label, _) in zip(read, items, strict=True) if isinstance(image, Tensor)]
        return Chunk(
            torch.stack(images) if images else torch.empty(0, *shape, dtype=torch.uint8),
            torch.tensor(labels, dtype=torch.long) if classes else None,
            tuple(image for image in read if isinstance(image, str)),
        )

    words = ", ".join(filter(None, [str(geometry), most]))
    return Source(name, shape, count, read, digest(identity, str(geometry)), BYTES, classes, pixels=True).noted(words)


def _settle(
    count: int, fetch: Callable[[int, int], list[Item]], geometry: Geometry, where: str
) -> tuple[Geometry, int, int, str]:
    """The size that most of some pictures have, and RGB if any of them is in colour, else grey; and what most of them
    are like, in words, where that is something else.

    Grey pictures among coloured ones lose nothing as RGB; coloured ones among grey ones would, and are left out.

    Raises:
        ValueError: none can be read, or less than half are of one size and no size was asked for.
    """
    looked = [_look(fetch(i, i + 1)[0]) for i in range(0, count, max(1, -(-count // _LOOKED)))]
    if not any(isinstance(found, Look) for found in looked):
        tried = (_look(fetch(i, i + 1)[0]) for i in range(min(count, _TRIED)))
        looked = [next((found for found in tried if isinstance(found, Look)), *looked[:1])] if looked else []
    seen = [found for found in looked if isinstance(found, Look)]
    if not seen:
        why = looked[0] if looked else "no file with the ending of a picture"
        raise ValueError(f"There are no pictures that can be read in {where} ({why}).")
    sizes, grey = Counter(found[:2] for found in seen), Counter(found.grey for found in seen)
    ((size, alike),) = sizes.most_common(1)
    if geometry.size is None and 2 * alike < len(seen):
        raise ValueError(
            f"The pictures in {where} are of many sizes: of {len(seen)} looked at, at most {alike} are alike "
            f"({size[0]}x{size[1]}, H x W). Give a size (--size), to which all are cropped and resized."
        )
    height, width = geometry.size or size
    before = [f"{size[0]}x{size[1]} (H x W)"] if size != (height, width) and 2 * alike >= len(seen) else []
    before += ["in colour"] if geometry.mode == "L" and grey[False] > grey[True] else []
    if geometry.mode is None:
        geometry = replace(geometry, mode="L" if all(found.grey for found in seen) else "RGB", lossy=False)
    return geometry, height, width, f"most are {' and '.join(before)}" if before else ""


def _look(item: Item) -> Look | str:
    try:
        return look(item[2]())
    except Exception as error:  # decoders of broken files raise almost anything
        return f"{item[0]}: {reason(error)}"
