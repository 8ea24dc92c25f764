"""The processes that torchrun or accelerate started, as far as a recipe needs to know of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

#: Named tensors (float64) and what JSON can say about them.
Message = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Processes:
    """``rank`` of ``size`` processes; 0 of 1 is a process alone. Nothing but tensors and JSON goes between them."""

    rank: int = 0
    size: int = 1

    def meet(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            _together(distributed.barrier)

    def share(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, everywhere; the others give one of its shape and dtype to write into."""
        if self.size > 1:
            _together(distributed.broadcast, tensor, 0)
        return tensor

    def send(self, parcel: Message) -> None:
        """Hand a parcel to rank 0, and wait until it has it."""
        tensors, notes = parcel
        head = json.dumps([{name: list(tensor.shape) for name, tensor in tensors.items()}, notes]).encode()
        _together(distributed.send, torch.tensor([len(head)]), 0)
        _together(distributed.send, torch.frombuffer(bytearray(head), dtype=torch.uint8), 0)
        for tensor in tensors.values():
            _together(distributed.send, tensor.contiguous(), 0)

    def receive(self, rank: int) -> Message:
        """The parcel that ``rank`` sends."""
        length = torch.zeros(1, dtype=torch.int64)
        _together(distributed.recv, length, rank)
        head = torch.empty(int(length), dtype=torch.uint8)
        _together(distributed.recv, head, rank)
        shapes, notes = json.loads(bytes(head.tolist()))
        tensors = {name: torch.empty(shape, dtype=torch.float64) for name, shape in shapes.items()}
        for tensor in tensors.values():
            _together(distributed.recv, tensor, rank)
        return tensors, notes


def is_first_process() -> bool:
    """Whether this process is the first that torchrun started, or alone: what is the same for all is said once."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the other processes over gloo, if RANK and WORLD_SIZE in the environment say that there are any.

    What goes between them raises ConnectionError when one is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    ours = not distributed.is_initialized()
    if ours:
        # as long as it takes: a process that is gone is noticed at once, one that is slow is waited for
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield Processes(distributed.get_rank(), size)
    finally:
        if ours:
            distributed.destroy_process_group()


def _together(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    except RuntimeError as error:
        raise ConnectionError(
            "Another process of the team is gone; start the same command again, and it goes on from its checkpoint."
        ) from error
