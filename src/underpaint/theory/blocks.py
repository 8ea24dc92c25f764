"""Products in blocks, each on one thread: the same to the last bit for any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
#: Edge of the blocks that products are cut into.
_BLOCK = 512
#: How many threads there were outside of `one_thread`; 0 there.
_CORES: ContextVar[int] = ContextVar("cores", default=0)


def slices(length: int) -> list[slice]:
    """A range in blocks."""
    return [slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


def triangle(length: int) -> list[tuple[slice, slice]]:
    """The blocks of a symmetric matrix on and below its diagonal."""
    parts = slices(length)
    return [(below, part) for i, below in enumerate(parts) for part in parts[: i + 1]]


def mirror(matrix: Tensor) -> None:
    """Fill in what lies above the diagonal blocks of `triangle`."""
    for i, j in triangle(len(matrix)):
        if i != j:
            matrix[j, i] = matrix[i, j].T


def on_all_cores(work: Callable[[_Part], _Result], parts: list[_Part]) -> list[_Result]:
    """The results for all parts, in order, each from one thread: a product that is shared out among threads would
    depend, in its last bits, on how many there are."""
    threads = _CORES.get() or torch.get_num_threads()
    # OpenMP counts threads for each thread anew, so every worker has to be told
    with one_thread(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, parts))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread here: what several share out differs, in its last bits, with how many there are."""
    threads = torch.get_num_threads()
    outer = _CORES.set(_CORES.get() or threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _CORES.reset(outer)
