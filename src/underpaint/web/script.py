"""The Python that makes a result again, with the library and without the page."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from ..recipes.shared.request import Request, name_condition
from ..version import __version__

_SCRIPT = '''"""Made by `underpaint explore` {version}: {what}."""

{imports}

request = {request}
sampler = prepare(request)
result = {call}
write_result(result, {{"{name}": {figure}(result)}}, "{name}")
'''


def write_script(
    name: str, request: Request, recipe: Any, figure: Any, options: Any = None, given: Sequence[Any] = ()
) -> str:
    """A script that asks a recipe the same thing and writes its figure and numbers into the folder ``name``.

    Args:
        request: with the model as the page names it; a folder's path is not told.
        recipe, figure: functions of the library.
        options: the recipe's own dataclass.
        given: what the recipe takes between the request and its options.
    """
    arguments = ["sampler"]
    if "request" in inspect.signature(recipe).parameters:
        arguments.append("request")
    arguments += map(repr, given)
    names = [recipe.__name__]
    if options is not None:
        arguments.append(constructor(options))
        names.append(type(options).__name__)
    imports = (
        f"from {figure.__module__} import {figure.__name__}",
        "from underpaint.figures.folder import write_result",
        "from underpaint.recipes.shared.request import Request, prepare",
        f"from {recipe.__module__} import {', '.join(sorted(names))}",
    )
    return _SCRIPT.format(
        version=__version__,
        what=_describe(request),
        imports="\n".join(sorted(imports)),
        request=constructor(request),
        call=f"{recipe.__name__}({', '.join(arguments)})",
        name=name,
        figure=figure.__name__,
    )


def constructor(value: Any) -> str:
    """A dataclass as the Python that makes it, without the fields that are at their defaults."""
    changed = (
        field
        for field in dataclasses.fields(value)
        if field.default is dataclasses.MISSING or getattr(value, field.name) != field.default
    )
    inside = ", ".join(f"{field.name}={getattr(value, field.name)!r}" for field in changed)
    return f"{type(value).__name__}({inside})"


def _describe(request: Request) -> str:
    """The question in a few words that fit into a docstring."""
    condition = name_condition(request.conditions[0] if request.conditions else None)
    return f"{request.model}, {condition}, seed {request.seeds[0]}".replace('"', "'").replace("\\", "/")
