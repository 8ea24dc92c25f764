"""Long work in turns: few threads do it, and visitors who wait are served one request each, round after round."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

#: Requests of one visitor that may wait; the page itself sends one at a time for each tab.
MAX_WAITING = 8


@dataclass(frozen=True)
class _Waiting:
    job: Callable[[], Any]
    stopped: threading.Event
    future: Future[Any]


class Turns:
    """A queue of jobs by visitor: next is whoever's last turn is longest ago, and first whoever has had none.

    However many requests one visitor sends, another's is served after the one that runs.
    """

    def __init__(self, threads: int) -> None:
        self._pool, self._lock = ThreadPoolExecutor(threads, "work"), threading.Lock()
        self._waiting: dict[str, list[_Waiting]] = {}
        #: visitor -> number of the last turn, of those who wait or had the last one
        self._last: dict[str, int] = {}

    def take(self, visitor: str, job: Callable[[], T], stopped: threading.Event) -> T:
        """Do a job when it is the visitor's turn, and wait for its result.

        Raises:
            ValueError: too many jobs of the visitor wait.
            CancelledError: ``stopped`` was set and `sweep` called, or the queue closed, before its turn came.
        """
        asked: Future[T] = Future()
        with self._lock:
            mine = self._waiting.get(visitor, [])
            if len(mine) >= MAX_WAITING:
                raise ValueError(
                    f"{len(mine)} requests of yours wait already; let one end, or stop them, and ask again."
                )
            job = _within(contextvars.copy_context(), job)
            self._waiting[visitor] = [*mine, _Waiting(job, stopped, asked)]
        try:
            self._pool.submit(self._next)
        except RuntimeError:  # closed
            raise CancelledError from None
        return asked.result()

    def _next(self) -> None:
        with self._lock:
            visitor = min(self._waiting, key=lambda name: self._last.get(name, -1), default=None)
            if visitor is None:  # swept
                return
            chosen, *rest = self._waiting.pop(visitor)
            if rest:
                self._waiting[visitor] = rest
            turn = max(self._last.values(), default=0) + 1
            self._last = {name: last for name, last in self._last.items() if name in self._waiting} | {visitor: turn}
            chosen.future.set_running_or_notify_cancel()
        try:
            chosen.future.set_result(chosen.job())
        except BaseException as error:
            chosen.future.set_exception(error)

    def sweep(self, everything: bool = False) -> None:
        """Let go of the jobs that wait and were asked to stop."""
        with self._lock:
            for visitor, jobs in list(self._waiting.items()):
                for one in jobs:
                    if everything or one.stopped.is_set():
                        one.future.cancel()
                self._waiting[visitor] = [one for one in jobs if not one.future.cancelled()]
            self._waiting = {visitor: jobs for visitor, jobs in self._waiting.items() if jobs}

    def close(self) -> None:
        """Take no more, and let go of all that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.sweep(everything=True)

    def ended(self, deadline: float) -> bool:
        """Whether the work had ended by a time of `time.monotonic`, for which this waits."""
        while any(thread.is_alive() for thread in self._pool._threads) and time.monotonic() < deadline:
            time.sleep(0.02)
        return not any(thread.is_alive() for thread in self._pool._threads)


def _within(context: contextvars.Context, job: Callable[[], T]) -> Callable[[], T]:
    return lambda: context.run(job)
