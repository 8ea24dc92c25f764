"""What visitors send, checked: numbers within bounds, names on offer, prompts and labels. The page's own controls are
not relied on: whoever speaks to the server without them gets a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..bounds import integer as integer, number as number
from ..models.model import Condition, Model

#: The page's controls by name.
Values = Mapping[str, Any]

MAX_STEPS, MAX_SEEDS, MAX_POINTS, MAX_PICTURES, MAX_PROMPT = 100, 8, 9, 15, 300


class Read(Mapping[str, Any]):
    """Controls that remember which of them were looked at: ``settings`` are those that an answer depends on."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self.settings: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        self.settings[name] = self._values[name]
        return self.settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


#: Kinds of direction, as the page names them; files are not among them.
DIRECTIONS = {"path of the estimate": "x0", "path of the noise": "eps", "data": "data", "random": "random"}


def chosen(value: Any, what: str, offered: tuple[str, ...]) -> str:
    """One of the names on offer.

    Raises:
        ValueError: it is none of them.
    """
    if value not in offered:
        raise ValueError(f"The {what} must be one of {', '.join(offered)}, got {repr(value)[:40]}.")
    return str(value)


def condition(value: Any, model: Model) -> Condition | None:
    """A prompt or label, whichever the model takes; None for an empty one.

    Raises:
        ValueError: a prompt that is too long or not text, or no label.
    """
    if value is None or str(value).strip() in ("", "any"):
        return None
    if model.embed is None:
        return label(value, model) if model.classes else None
    prompt = " ".join(str(value).split())
    if len(prompt) > MAX_PROMPT or not prompt.isprintable():
        raise ValueError(
            f"A prompt is text of at most {MAX_PROMPT} characters, got {len(prompt):,}: {prompt[:40]!r}..."
        )
    return prompt


def label(value: Any, model: Model) -> int:
    """A class of the model.

    Raises:
        ValueError: it is none.
    """
    last, shown = model.classes - 1, str(value)[:40]
    if not shown.isdecimal() or not int(shown) <= last:
        raise ValueError(f"A class of {model.name} is a number from 0 to {last}, got {shown!r}.")
    return int(shown)


def seed(values: Values, name: str = "seed") -> int:
    """A seed, of as many as are asked for from it on.

    Raises:
        ValueError: the control is empty, or holds no whole number.
    """
    if values[name] is None:
        raise ValueError(f"The {name} must be a whole number, such as 0, and is empty.")
    return integer(values[name], name, 0, 2**31 - MAX_SEEDS)


def step(values: Values, name: str, steps: int) -> int:
    """A share of the way as a step of a grid."""
    return round(number(values[name], "share of the way", 0, 1) * steps)


def direction(values: Values, kind: str, which: str) -> str:
    """Such as x0:1; never a file."""
    letter = DIRECTIONS[chosen(values[kind], "direction", tuple(DIRECTIONS))]
    return f"{letter}:{integer(values[which], 'number of the direction', 1, 50)}"
