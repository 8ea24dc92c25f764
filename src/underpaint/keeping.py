"""How a long computation has its parts kept, without knowing where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Keep(Protocol):
    """keep(name, make) returns the part of a name: what ``make`` made, now or when the computation ran before."""

    def __call__(self, name: str, make: Callable[[], T]) -> T: ...


def make_only(name: str, make: Callable[[], T]) -> T:
    """Keep nothing."""
    return make()
