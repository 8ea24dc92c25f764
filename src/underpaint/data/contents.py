"""Whether files are what they were: names, sizes and times of all, and some blocks of what is in them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .members import is_hidden

#: Bytes of a block, and how many are read: spread over all files, and over each.
_BLOCK, _BLOCKS = 4096, 512


def contents_mark(place: str | Path) -> str:
    """A hash that changes when a file at a place does, a file or folder; empty where there is none of that name.

    All names, sizes and times go in, and 512 blocks of 4 kB: of up to 256 files, or several of each where there are
    fewer, the first and the last among them. What is hidden, or the checkpoint of a run, does not count.
    """
    path, total = Path(place), hashlib.blake2b(digest_size=16)
    if not path.exists():
        return ""
    files = _files(path) if path.is_dir() else [path]
    for file in files:
        about = file.stat()
        inside = file.relative_to(path).as_posix() if path.is_dir() else file.name
        total.update(f"{inside} {about.st_size} {about.st_mtime_ns};".encode())
    for file in _spread(files, _BLOCKS // 2):
        for block in _blocks(file, max(2, _BLOCKS // len(files))):
            total.update(block)
    return total.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = (Path(here, name) for here, _, names in os.walk(folder, followlinks=True) for name in names)
    shown = (path for path in found if not is_hidden(path.relative_to(folder).as_posix()))
    return sorted(path for path in shown if path.is_file() and path.suffix != ".part")


def _spread(files: list[Path], count: int) -> list[Path]:
    """So many of them at most, the first and the last among them."""
    if len(files) <= count:
        return files
    return [files[round(i * (len(files) - 1) / (count - 1))] for i in range(count)]


def _blocks(file: Path, count: int) -> list[bytes]:
    """So many blocks of a file, from its beginning to its end; all of a small one."""
    last = max(0, file.stat().st_size - _BLOCK)
    with file.open("rb") as opened:
        if last <= (count - 1) * _BLOCK:
            return [opened.read()]
        blocks = []
        for i in range(count):
            opened.seek(i * last // (count - 1))
            blocks.append(opened.read(_BLOCK))
    return blocks
