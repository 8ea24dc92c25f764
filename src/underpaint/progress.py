"""How a recipe tells its caller how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

#: progress(what, total) announces a stretch of work and returns the function to call after each of its ``total`` parts.
Progress = Callable[[str, int], Callable[[], None]]


def silent(what: str, total: int) -> Callable[[], None]:
    """Tell nobody."""
    return lambda: None
