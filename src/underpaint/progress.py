"""How a recipe tells its caller how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

#: progress(what, total) announces a stretch of work and returns the function to call after each of its ``total`` parts.
Progress = Callable[[str, int], Callable[[], None]]


def silent(what: str, total: int) -> Callable[[], None]:
    """Tell nobody."""
    return lambda: None


def numbered(progress: Progress, place: int, of: int) -> Progress:
    """Progress whose stretches say at which place of how many sections they are: what is left of sections that differ
    cannot be told from those that are done."""
    return lambda what, total: progress(f"section {place} of {of}, {what}", total)


class Whole:
    """A stretch of at most ``total`` parts, in sections that may end early or have been done before."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._advance, self.total, self.done = progress(what, total), total, 0

    def advance(self) -> None:
        """One part is done."""
        if self.done < self.total:
            self.done += 1
            self._advance()

    def reach(self, place: int) -> None:
        """All parts before ``place`` are done, or are not needed."""
        while self.done < min(place, self.total):
            self.advance()
