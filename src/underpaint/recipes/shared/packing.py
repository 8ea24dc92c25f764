"""Results as named tensors and JSON, and back: what a file of parts holds, and nothing in it is ever run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def pack(value: Any) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a value, on the CPU and contiguous, by the names on the way to them ("level.alpha"), and its
    structure in JSON types: dataclasses by the name of their type, dictionaries, tuples, lists, numbers and words.

    Raises:
        TypeError: there is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _packed(value, (), tensors)


def _packed(value: Any, way: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Tensor):
        name = ".".join(map(str, way)) or "value"
        while name in tensors:  # two ways of one name, by keys with dots
            name += "'"
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_packed(item, (*way, i), tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return {"dict": [[key, _packed(item, (*way, key), tensors)] for key, item in value.items()]}
    if is_dataclass(value):
        names = (field.name for field in fields(value))
        return {
            "type": type(value).__name__,
            "fields": {name: _packed(getattr(value, name), (*way, name), tensors) for name in names},
        }
    raise TypeError(f"The {type(value).__name__} cannot be kept in a file.")


def unpack(tensors: Mapping[str, Tensor], structure: Any, types: Sequence[type] = ()) -> Any:
    """What was packed; its dataclasses are among ``types``.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    if not isinstance(structure, dict):
        return structure
    if "type" in structure:
        known = {kind.__name__: kind for kind in types}
        parts = {name: unpack(tensors, part, types) for name, part in structure["fields"].items()}
        return known[structure["type"]](**parts)
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(tensors, item, types) for key, item in content}
    return {"tuple": tuple, "list": list}[kind](unpack(tensors, item, types) for item in content)
