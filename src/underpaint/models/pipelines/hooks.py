"""Stand between a pipeline of diffusers and its networks, whatever they are called and however they are wrapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...bounds import shown

#: around(module, args, kwargs) makes the call, or something in its place, and returns what the pipeline gets.
Around = Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], Any]


def scheduler_of(pipe: Any) -> Any:
    """The scheduler of a pipeline.

    Raises:
        ValueError: it has none.
    """
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        raise ValueError(
            f"Expected a pipeline of diffusers, which has a scheduler, got {shown(pipe)}; "
            "DiffusionPipeline.from_pretrained loads one."
        )
    return scheduler


class _Likeness(type):
    """The kind of classes that are equal to what they stand for, also to those who ask for the type itself: pipelines
    of Bria do."""

    _plain: type

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls._plain

    def __hash__(cls) -> int:
        return hash(cls._plain)


def disguised(plain: Any, names: dict[str, Any]) -> type:
    """A subclass with other names in it that goes by the name of its parent, for what is saved, and is equal to it."""
    same = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    kind = _Likeness if issubclass(_Likeness, type(plain)) else type(plain)
    return kind(plain.__name__, (plain,), {"_plain": vars(plain).get("_plain", plain), **names, **same})


@contextmanager
def interposed(pipe: Any, around: Around) -> Iterator[None]:
    """While this is open, each call that the pipeline makes of one of its modules is made by ``around``.

    The pipeline holds views of its modules meanwhile: objects of a subclass that share all that the module holds.
    Modules themselves are left alone, so that another pipeline may be using them, and what wraps them is called as it
    is: compiled ones, hooks of accelerate, adapters of PEFT. (A hook of torch's would not be seen by a module that is
    compiled in place.)
    """
    own = vars(pipe)
    plain = {name: part for name, part in own.items() if isinstance(part, torch.nn.Module)}
    views = {name: _view(part, around) for name, part in plain.items()}
    own.update(views)
    try:
        yield
    finally:
        own.update({name: part for name, part in plain.items() if own.get(name) is views[name]})


def _view(module: torch.nn.Module, around: Around) -> torch.nn.Module:
    """The same module under a class whose calls go through ``around``; attributes set on either are on both."""
    own = type(module)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(module, args, kwargs)

    names = {"__call__": call, "__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    view: torch.nn.Module = object.__new__(type(own.__name__, (own,), names))
    object.__setattr__(view, "__dict__", module.__dict__)
    return view


def first_tensor(output: Any) -> Tensor | None:
    """What a network predicts, of all that it returns: the first of a tuple or of named outputs. A list holds one
    state each, as that of Z-Image does."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list):
        parts = [part for part in output if isinstance(part, Tensor)]
        alike = len(parts) == len(output) and len({part.shape for part in parts}) == 1
        return torch.stack(parts) if alike else None
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
    return next((first_tensor(value) for value in values), None)
