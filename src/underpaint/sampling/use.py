"""What a plan is fitted to, and what it is used for: guidance, kind of condition, precision, states and weights.

A denoiser may tell what it is by a property ``use``. A function that hands its calls on to a denoiser says so by
`functools.wraps`, which leaves ``__wrapped__`` behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from torch import Tensor

from ..bounds import integer, number, shown
from ..files import json_part
from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser

#: Kinds of condition.
NONE, PROMPTS, CLASSES, TENSORS = KINDS = "no condition", "prompts", "classes", "tensors as conditions"

NOT_MEASURED = "what it loses there was not measured"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Use:
    """What a denoiser is used for, as far as it is known; None is not known.

    Attributes:
        guidance: the weights, in order.
        conditions: of `KINDS`, in order.
        dtype: of the network, as in "bfloat16".
        shape: of one state.
        weights: a hash of the network's.
    """

    guidance: tuple[float, ...] | None = None
    conditions: tuple[str, ...] | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    weights: str | None = None

    @classmethod
    def read(cls, content: Any) -> Use:
        """What `known` gave.

        Raises:
            ValueError: it is something else.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(content, Mapping) or not content.keys() <= set(names):
            raise ValueError(f"What a plan was fitted for is said by {', '.join(names)}, got {shown(content)}.")
        return cls(**{name: _READERS[name](content[name], name) for name in content})

    @property
    def known(self) -> dict[str, Any]:
        """What is known, in JSON types."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}

    def words(self, names: Iterable[str]) -> str:
        """Some of what is known."""
        return ", ".join(_WORDS[name](getattr(self, name)) for name in names)

    def only(self, names: Iterable[str]) -> Use:
        """Some of what is known, and no more."""
        return Use(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Loss:
    """What was measured of a plan of so many calls in a use: its error over that of a plan fitted for the use, with 5 %
    and 95 % of that over seeds. ``use`` holds what differs, and no more."""

    calls: int
    use: Use
    ratio: float
    low: float
    high: float

    @classmethod
    def read(cls, content: Any) -> Loss:
        """From JSON.

        Raises:
            ValueError: it is something else.
        """
        ratios = (number(json_part(content, name, int, float), name, 0) for name in ("ratio", "low", "high"))
        return cls(json_part(content, "calls", int), Use.read(json_part(content, "use", dict)), *ratios)

    @property
    def words(self) -> str:
        """As the end of a sentence."""
        between = f"{self.low:.2f} to {self.high:.2f}"
        return f"there, at {self.calls} calls, its error was {self.ratio:.2f} times ({between}) that of a plan for it"


@dataclass(frozen=True, eq=False)
class Knowing:
    """A denoiser that tells what it is used for, once it is asked: to look at weights takes time."""

    call: Denoiser
    tell: Callable[[], Use]

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x]."""
        return self.call(x, level)

    @property
    def use(self) -> Use:
        """What it is used for."""
        return self.tell()


def use_of(denoise: Denoiser) -> Use:
    """What a denoiser, or the one that a function hands its calls on to, says that it is used for."""
    told = getattr(inspect.unwrap(denoise, stop=lambda one: hasattr(type(one), "use")), "use", None)
    return told if isinstance(told, Use) else Use()


def joined(uses: Sequence[Use]) -> Use:
    """All of several uses; what is not the same in all, or not known of one, is not known."""
    return Use(
        guidance=_all([use.guidance for use in uses]),
        conditions=_all([use.conditions for use in uses]),
        dtype=_same([use.dtype for use in uses]),
        shape=_same([use.shape for use in uses]),
        weights=_same([use.weights for use in uses]),
    )


def _all(values: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    known = [value for value in values if value is not None]
    return tuple(sorted({item for value in known for item in value})) if len(known) == len(values) else None


def _same(values: Sequence[Value | None]) -> Value | None:
    return values[0] if len(set(values)) == 1 else None


def differences(fitted: Use, used: Use) -> list[str]:
    """The fields in which a use is none of those that something was fitted for, where both are known.

    Weights differ in another precision anyway; and a shape of as many axes only is another one, since the same states
    may be written as rows.
    """
    found = [
        name
        for name in ("guidance", "conditions")
        if (known := getattr(fitted, name)) is not None and not set(getattr(used, name) or ()) <= set(known)
    ]
    if None not in (fitted.dtype, used.dtype) and fitted.dtype != used.dtype:
        found.append("dtype")
    if fitted.shape and used.shape and len(fitted.shape) == len(used.shape) and fitted.shape != used.shape:
        found.append("shape")
    if None not in (fitted.weights, used.weights) and fitted.weights != used.weights and "dtype" not in found:
        found.append("weights")
    return found


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    return tuple(number(item, f"{name} that a plan was fitted for", -1000, 1000) for item in _listed(value, name))


def _kinds(value: Any, name: str) -> tuple[str, ...]:
    for item in _listed(value, name):
        if item not in KINDS:
            raise ValueError(f"The {name} that a plan was fitted for are of {', '.join(KINDS)}, got {shown(item)}.")
    return tuple(value)


def _lengths(value: Any, name: str) -> tuple[int, ...]:
    return tuple(integer(item, f"{name} that a plan was fitted for", 1, 2**31) for item in _listed(value, name))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"The {name} that a plan was fitted for is a text, got {shown(value)}.")
    return value


def _listed(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"The {name} that a plan was fitted for is a list, got {shown(value)}.")
    return value


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "guidance": _numbers,
    "conditions": _kinds,
    "dtype": _text,
    "shape": _lengths,
    "weights": _text,
}
_WORDS: Mapping[str, Callable[[Any], str]] = {
    "guidance": lambda value: f"guidance {' and '.join(f'{weight:g}' for weight in value)}",
    "conditions": " and ".join,
    "dtype": "a network in {}".format,
    "shape": lambda value: f"states of {' x '.join(map(str, value))}",
    "weights": lambda value: f"a network of weights {value[:8]}",
}
