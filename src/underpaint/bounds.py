"""Numbers within bounds. What lies beyond them gets one sentence before any work; else it would be an overflow, a full
memory or an endless run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

#: Of a grid of noise levels: a hundred times those of the finest solutions.
MOST_STEPS = 100_000
#: Seeds, samples or images of one run.
MOST_ITEMS = 1_000_000
#: torch's generator on the CPU looks at 32 bits of a seed: beyond them, noise would repeat unsaid.
SEEDS = 2**32


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number, of Python's or NumPy's, and not true or false."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is one of their whole numbers, by its type."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def number(value: Any, what: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within bounds.

    Raises:
        ValueError: it is none.
    """
    if not is_number(value) or not low <= value <= high or not math.isfinite(value):
        bounds = "finite" if math.isinf(low) else f"from {low:,} to {high:,}"
        raise ValueError(f"The {what} must be a number {bounds}, got {shown(value)}.")
    return float(value)


def positive(value: Any, what: str) -> float:
    """A finite number above 0.

    Raises:
        ValueError: it is none.
    """
    if number(value, what, 0) == 0:
        raise ValueError(f"The {what} must be above 0, got {shown(value)}.")
    return float(value)


def integer(value: Any, what: str, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        ValueError: it is none.
    """
    if not is_number(value) or not low <= value <= high or value != int(value):
        raise ValueError(f"The {what} must be a whole number from {low:,} to {high:,}, got {shown(value)}.")
    return int(value)


def check_integers(given: Mapping[str, Any], **bounds: tuple[int, int]) -> None:
    """Refuse options of a script of which one is no whole number within its bounds, or a list that holds one; None is
    one that was not given.

    Raises:
        ValueError: there is one.
    """
    for name, (low, high) in bounds.items():
        for value in given[name] if isinstance(given[name], list) else [given[name]]:
            if value is not None:
                integer(value, f"--{name.replace('_', '-')}", low, high)


def check_text(value: Any, what: str, such: str) -> None:
    """Refuse what is no text, or an empty one, which is not the same as None; ``such`` is one that could be given.

    Raises:
        ValueError: it is.
    """
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"The {what} is a text such as {such!r}, or left out; got {shown(value)}.")


def check_seeds(seeds: Sequence[int], what: str = "Seeds") -> None:
    """Refuse seeds that are none, too many, or no whole numbers of 32 bits.

    Raises:
        ValueError: they are.
    """
    if not 0 < len(seeds) <= MOST_ITEMS:
        raise ValueError(f"{what} are 1 to {MOST_ITEMS:,} numbers, got {len(seeds):,} of them.")
    for seed in (seeds[0], seeds[-1]) if isinstance(seeds, range) else seeds:
        if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed < SEEDS:
            raise ValueError(f"{what} are whole numbers from 0 to {SEEDS - 1:,}, got {shown(seed)}.")


def check_several_seeds(seeds: Sequence[int], what: str) -> None:
    """Refuse fewer than two seeds, and the same one twice, where it is ``what`` that needs them.

    Raises:
        ValueError: they are.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"{what} need{'s' * (not what.endswith('s'))} at least 2 different seeds, got {[*seeds]}.")
    check_seeds(seeds)


def a(noun: str) -> str:
    """A noun, such as the name of a class, with its article: a list, an int, an EDM network, a UNet."""
    return f"{'an' if re.match(r'[AEIOaeio]|ndarray|[FHLMNRSX][A-Z]', noun) else 'a'} {noun}"


def A(noun: str) -> str:
    """The same at the beginning of a sentence: A list, An int."""
    return f"{a(noun)[:1].upper()}{a(noun)[1:]}"


def shown(value: Any, most: int = 60) -> str:
    """A value as an error message shows it: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= most else f"{text[:most]}..."
