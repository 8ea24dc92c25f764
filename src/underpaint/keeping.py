"""How a long computation has its parts kept, without knowing where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")
#: room(name, shape, like) is a tensor of a shape to be written, in the dtype of another; where it is, is not told.
Room = Callable[[str, Sequence[int], Tensor], Tensor]


class Keep(Protocol):
    """keep(name, make) returns the part of a name: what ``make`` made, now or when the computation ran before."""

    def __call__(self, name: str, make: Callable[[], T]) -> T: ...


def make_only(name: str, make: Callable[[], T]) -> T:
    """Keep nothing."""
    return make()


def in_memory(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """Room where the tensor that it is like has its own."""
    return like.new_empty(tuple(shape))


def room_of(keep: Keep) -> Room:
    """Where large parts are to be made: that of who keeps them, who may have a disk."""
    room: Room = getattr(keep, "room", in_memory)
    return room
