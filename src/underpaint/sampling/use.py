"""What a plan is fitted to, and what it is used for: guidance, kind of condition, precision, states and weights.

A denoiser may tell what it is by a property ``use``. A function that hands its calls on to a denoiser says so by
`functools.wraps`, which leaves ``__wrapped__`` behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

import torch
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
        guidance: the weights, in order; what is fitted for several is for all between them.
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

    def words(self, names: Iterable[str], between: bool = False) -> str:
        """Some of what is known; of several weights of guidance all of them, or that it is ``between`` them."""
        told = {name: _WORDS[name](getattr(self, name)) for name in names}
        if between and "guidance" in told and self.guidance and len({*self.guidance}) > 1:
            told["guidance"] = f"guidance {min(self.guidance):g} to {max(self.guidance):g}"
        return ", ".join(told.values())

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


@dataclass(frozen=True, eq=False)
class InTurn:
    """Denoisers that share a batch: row i goes to the one of number ``turn[i]``, or i, modulo their count."""

    denoisers: tuple[Denoiser, ...]
    turn: tuple[int, ...] | None = None

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x]."""
        numbers, result = self._numbers(len(x)), torch.empty_like(x)
        for k, one in enumerate(self.denoisers):
            rows = (numbers == k).nonzero().flatten()
            if len(rows):
                result[rows] = one(x[rows], level)
        return result

    @property
    def use(self) -> Use:
        """What they are used for together."""
        return joined([use_of(one) for one in self.denoisers])

    def guidance(self, rows: int) -> Tensor | None:
        """The weight of guidance of each of so many rows, float64 [rows]; None where all that is known is one, or
        nothing."""
        return None if self._weights is None else self._weights[self._numbers(rows)]

    @cached_property
    def _weights(self) -> Tensor | None:
        """That of each denoiser. Asked once: to tell a use takes a look at all weights of a network."""
        told = [use_of(one).guidance for one in self.denoisers]
        known = [weights[0] for weights in told if weights is not None and len(weights) == 1]
        if len({*known}) < 2 or len(known) < len(told):
            return None
        return torch.tensor(known, dtype=torch.float64)

    def only(self, rows: Tensor, of: int) -> InTurn:
        """That of some rows [.] of a batch of so many: of the denoisers that these go to."""
        kept, turn = self._numbers(of)[rows].unique(return_inverse=True)
        return InTurn(tuple(self.denoisers[k] for k in kept.tolist()), tuple(turn.tolist()))

    def _numbers(self, rows: int) -> Tensor:
        return torch.tensor(range(rows) if self.turn is None else self.turn) % len(self.denoisers)


def in_turn(denoisers: Sequence[Denoiser], seeds: Sequence[int] | None = None) -> Denoiser:
    """One denoiser of several, such as of several prompts or weights of guidance.

    Args:
        denoisers: row i of a batch goes to that of number i modulo their count.
        seeds: row i goes to number ``seeds[i]`` modulo their count; all batches are of these seeds then.

    Raises:
        ValueError: there are none.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> means = torch.ones(1), torch.full((1,), 9.0)
        >>> near, far = (up.Gaussian.isotropic(mean, variance=0.0) for mean in means)
        >>> up.in_turn([near, far])(torch.zeros(3, 1), up.EDM().grid(2)[0]).flatten()
        tensor([1., 9., 1.])
    """
    if not denoisers:
        raise ValueError("Denoisers that share a batch: got none, expected one or more.")
    return denoisers[0] if len(denoisers) == 1 else InTurn(tuple(denoisers), None if seeds is None else tuple(seeds))


def guidance_of(denoise: Denoiser, rows: int) -> Tensor | None:
    """The weight of guidance of each of so many rows, float64 [rows], of denoisers in turn that have several."""
    return denoise.guidance(rows) if isinstance(denoise, InTurn) else None


def by_guidance(denoise: Denoiser, rows: int) -> list[tuple[Tensor | slice, Denoiser]]:
    """Of so many rows those of each weight of guidance [.], and their denoiser; all of them where there is but one."""
    if (weights := guidance_of(denoise, rows)) is None or not isinstance(denoise, InTurn):
        return [(slice(None), denoise)]
    parts = [(weights == weight).nonzero().flatten() for weight in weights.unique()]
    return [(part, denoise.only(part, rows)) for part in parts]


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

    Weights of guidance between those that something was fitted for are none other. Weights of the network differ in
    another precision anyway; and a shape of as many axes only is another one, since the same states may be written as
    rows.
    """
    found = []
    if fitted.guidance and any(not min(fitted.guidance) <= w <= max(fitted.guidance) for w in used.guidance or ()):
        found.append("guidance")
    if fitted.conditions is not None and not set(used.conditions or ()) <= set(fitted.conditions):
        found.append("conditions")
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
