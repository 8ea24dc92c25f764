"""How long a call takes: what the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(call: Callable[..., object], *arguments: object, repeats: int = 3, budget: float = 0.0) -> float:
    """The quickest of some calls after one to warm up: of ``repeats``, and as many more as fit into a time in seconds.

    On one thread it is the processor's time, which other work on the machine takes no part in.
    """
    times: list[float] = []
    while len(times) <= repeats or sum(times) < budget:
        times.append(once(call, *arguments))
    return min(times[1:])


def once(call: Callable[..., object], *arguments: object) -> float:
    """Seconds of one call."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call(*arguments)
    return clock() - start
