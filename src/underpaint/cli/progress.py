"""How far a command is: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

#: Seconds until a stretch first says how long it will take, and between its lines after that.
FIRST, EVERY = 1.0, 30.0
#: Parts that follow each other as quickly as this had been done before; or, if as quickly as the second number, in one
#: moment with the part before them.
_AT_ONCE, _MOMENT = 0.002, 0.0001


@contextmanager
def progress_on(console: Console, quiet: bool) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A recipe's progress on a console: bars on a terminal, else lines; none if it is to be quiet."""
    if quiet:
        yield lambda what, total: lambda: None
    elif console.is_terminal:
        with _bars(console) as progress:
            yield progress
    else:
        with Lines(lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False)) as lines:
            yield lines.announce


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    words = TextColumn("{task.description:<34}")
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:

        def announce(what: str, total: int) -> Callable[[], None]:
            number = bars.add_task(what, total=total)
            return lambda: bars.advance(number)

        yield announce


@dataclass
class _Stretch:
    """A stretch of work: what, of how many parts, how many are done and how many of these had been before."""

    what: str
    total: int
    clock: Callable[[], float]
    done: int = 0
    before: int = 0
    began: float = field(init=False)
    latest: float = field(init=False)
    due: float = field(init=False)
    said: bool = False
    working: bool = False

    def __post_init__(self) -> None:
        self.began = self.latest = self.clock()
        self.due = self.began + FIRST

    def advance(self) -> None:
        now = self.clock()
        if now - self.latest >= _MOMENT:
            self.working = now - self.latest >= _AT_ONCE
        self.before += not self.working
        self.done, self.latest = self.done + 1, now

    @property
    def words(self) -> str:
        """'fine solution: 35 of 250 in 1 s, about 6 s more'."""
        gone = self.clock() - self.began
        words = f"{self.what}: {self.done:,} of {self.total:,} in {duration(gone)}"
        made = (self.done - self.before) or self.done
        if made and self.done < self.total:
            words += f", about {duration(gone / made * (self.total - self.done))} more"
        return words


class Lines:
    """A line for each stretch after its first second, every half minute from then on, and at its end."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._stretches: list[_Stretch] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._watch = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Lines:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def announce(self, what: str, total: int) -> Callable[[], None]:
        """A recipe's `Progress`."""
        stretch = _Stretch(what, total, self._clock)

        def advance() -> None:
            with self._lock:
                stretch.advance()
                if stretch.done >= stretch.total:
                    self._end(stretch)

        if total > 0:  # nothing to do is nothing to tell
            with self._lock:
                self._stretches.append(stretch)
        return advance

    def look(self) -> None:
        """Say what is due."""
        with self._lock:
            for stretch in self._stretches:
                if self._clock() >= stretch.due:
                    self._say(stretch.words)
                    stretch.said, stretch.due = True, stretch.due + (EVERY if stretch.said else EVERY - FIRST)

    def _end(self, stretch: _Stretch) -> None:
        if stretch in self._stretches:
            self._stretches.remove(stretch)
            if stretch.said or self._clock() >= stretch.due:  # it may be over between two looks
                self._say(stretch.words)

    def _run(self) -> None:
        while not self._over.wait(0.25):
            self.look()


def duration(seconds: float) -> str:
    """'7 s', '3 min', '2 h 05 min'."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
