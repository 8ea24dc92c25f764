"""What stands behind a network that is called: its modules, wherever they are held, and the mode that they are in."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..damage import out_of_memory

#: Numbers of each tensor that a hash of weights looks at: any training moves nearly all of them.
_LOOKED_AT = 4096


def modules_behind(network: Any) -> list[nn.Module]:
    """The modules that a network is made of: itself, or those that a partial, a method, an object or a function holds:
    in its arguments, its closure, or the globals that it names, and in functions found there."""
    found: dict[nn.Module, None] = {}
    seen: set[int] = set()

    def look(value: Any) -> None:
        if isinstance(value, nn.Module):
            found[value] = None
        elif callable(value) and not inspect.isclass(value) and id(value) not in seen:
            seen.add(id(value))
            for held in _held_by(value):
                look(held)

    look(network)
    return list(found)


def _held_by(value: Callable[..., Any]) -> list[Any]:
    """What a callable can reach, as far as that can be seen."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__]
    if inspect.isfunction(value):
        names = inspect.getclosurevars(value)
        return [*names.nonlocals.values(), *names.globals.values(), *(value.__defaults__ or ())]
    return list(vars(value).values()) if hasattr(value, "__dict__") and not inspect.isbuiltin(value) else []


def hash_weights(network: Any) -> str | None:
    """A hash of 4,096 numbers at most of each weight of a network, evenly spread: quick for a network of any size, and
    another one after any training. None where there are no weights, or where some are not at hand.

    Names do not count, so that a network is the same however it was wrapped. Another precision gives another hash.
    """
    held = (weight for module in modules_behind(network) for weight in module.state_dict().values())
    tensors = [value.detach() for value in held if isinstance(value, Tensor) and value.numel()]
    if not tensors or any(value.is_meta for value in tensors):
        return None
    parts = {digest({"": value.reshape(-1)[:: -(-value.numel() // _LOOKED_AT)]}) for value in tensors}
    return hashlib.blake2b(" ".join(sorted(parts)).encode(), digest_size=16).hexdigest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and every byte."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def bring(module: nn.Module, name: str, device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Move the weights of a part of the model of a name to a device and a dtype.

    Raises:
        ValueError: its library does not let them go there, as those of quantized weights do not.
    """
    try:
        module.to(device=device, dtype=dtype)
    except Exception as error:
        if out_of_memory(error):
            raise
        where = " on ".join(str(place).removeprefix("torch.") for place in (dtype, device) if place is not None)
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"The weights of {name} cannot be had as {where}: {type(module).__name__} says {said!r}. Leave dtype and "
            "device out, and have its own library load it so."
        ) from error


@contextmanager
def evaluating(network: Callable[..., Any]) -> Iterator[None]:
    """All parts of a module in eval mode for a while, then each in the mode that it was in: with dropout or the
    statistics of a batch a network is no denoiser."""
    module = network.func if isinstance(network, partial) else network
    training = [part for part in module.modules() if part.training] if isinstance(module, nn.Module) else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
