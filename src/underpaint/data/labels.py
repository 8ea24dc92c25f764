"""What a label is, wherever it is written: a whole number from 0 on, or a name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: The number of an item without a label; `datasets` writes it so, too.
WITHOUT = -1
#: What to do about labels that are neither.
LEAVE_OUT = "Leave labels out with --no-labels, or labels=False."


def number_labels(values: Sequence[Any], where: object) -> tuple[list[int], dict[int, str]]:
    """Numbers of labels as they are written, -1 for items without; and the name of each number.

    Whole numbers stay what they are, also as text: folders called 0 to 11 are the classes 0 to 11. Other texts are
    names, and are numbered from 0 on in the order of the alphabet. None, NaN and -1 are items without a label.

    Raises:
        ValueError: labels that are neither, such as fractions or lists, or numbers among names.
    """
    nested = next((value for value in values if isinstance(value, (list, dict))), None)
    if nested is not None:
        raise ValueError(_refusal(where, nested))
    known = {value: _plain(value) for value in set(values)}
    for value, plain in known.items():
        if plain is None and not _is_without(value):
            raise ValueError(_refusal(where, value))
    texts = {plain for plain in known.values() if isinstance(plain, str)}
    counts = {plain for plain in known.values() if isinstance(plain, int)}
    if all(text.isdecimal() for text in texts):
        if len({int(text) for text in texts}) < len(texts):
            raise ValueError(f"Labels of {where} write one number in two ways, such as 1 and 01; write each one way.")
        number: dict[Any, int] = {value: WITHOUT if p is None else int(p) for value, p in known.items()}
        names = {n: str(n) for n in sorted(n for n in number.values() if n != WITHOUT)}
        names |= {int(text): text for text in texts}
    elif counts:
        raise ValueError(
            f"Some labels of {where} are numbers, such as {min(counts)}, and some are names, such as {min(texts)!r}; "
            f"write all of them in one way. {LEAVE_OUT}"
        )
    else:
        order = sorted(texts)
        places = {text: i for i, text in enumerate(order)}
        number = {value: WITHOUT if plain is None else places[str(plain)] for value, plain in known.items()}
        names = dict(enumerate(order))
    return [number[value] for value in values], names


def join_by_name(ours: Mapping[int, str], theirs: Mapping[int, str]) -> dict[int, int]:
    """Which of their labels each of ours is, by name; those whose name they do not have are left out.

    Case, and whether words are joined by spaces, dashes or underscores, do not matter. Numbers are no names.
    """

    def plain(name: str) -> str:
        return re.sub(r"[-_ ]+", " ", name.casefold()).strip()

    known = {plain(name): label for label, name in theirs.items() if not name.isdecimal()}
    return {label: known[plain(name)] for label, name in ours.items() if plain(name) in known}


def _plain(value: Any) -> int | str | None:
    """A whole number or a text; None for anything else."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if value >= 0 and value == int(value) else None


def _is_without(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (not isinstance(value, bool) and (value == WITHOUT or value != value))


def _refusal(where: object, value: Any) -> str:
    return f"A label of {where} is {str(value)[:40]}; expected whole numbers from 0 on, or names. {LEAVE_OUT}"
