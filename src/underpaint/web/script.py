"""The Python that makes a result again, with the library and without the page."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from .. import __version__
from ..recipes.ask import Ask, name_condition

_SCRIPT = '''"""Made by `underpaint explore` {version}: {what}."""

{imports}

ask = {ask}
sampler = prepare(ask)
result = {call}
write_result(result, {{"{name}": {figure}(result)}}, "{name}")
'''


def write_script(name: str, ask: Ask, recipe: Any, figure: Any, options: Any = None) -> str:
    """A script that asks a recipe the same thing and writes its figure and numbers into the folder ``name``.

    Args:
        ask: with the model as the page names it; a folder's path is not told.
        recipe, figure: functions of the library.
        options: the recipe's own dataclass.
    """
    arguments = ["sampler"]
    if "ask" in inspect.signature(recipe).parameters:
        arguments.append("ask")
    names = [recipe.__name__]
    if options is not None:
        arguments.append(constructor(options))
        names.append(type(options).__name__)
    imports = (
        f"from {figure.__module__} import {figure.__name__}",
        "from underpaint.figures.folder import write_result",
        "from underpaint.recipes.ask import Ask, prepare",
        f"from {recipe.__module__} import {', '.join(sorted(names))}",
    )
    return _SCRIPT.format(
        version=__version__,
        what=_describe(ask),
        imports="\n".join(sorted(imports)),
        ask=constructor(ask),
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


def _describe(ask: Ask) -> str:
    """The question in a few words that fit into a docstring."""
    condition = name_condition(ask.conditions[0] if ask.conditions else None)
    return f"{ask.model}, {condition}, seed {ask.seeds[0]}".replace('"', "'").replace("\\", "/")
