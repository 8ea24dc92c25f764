"""Lists that the reference takes from the package itself: its public names, its commands, the models in the box.

``<!-- public names -->``, ``<!-- commands -->`` and ``<!-- models -->`` in a page stand for them, and ``<!-- room NAME:
FIRST SECOND ... -->`` for a list of the public names and the modules of a room, those named first.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import typer
from docstrings import comment_above  # mkdocs looks beside this file
from names import about, modules

import underpaint
from underpaint.cli import app
from underpaint.recipes.inventory import inventory

_HOMES = tuple(underpaint._HOME.items())
#: Columns of a line of code that the book shows whole on a screen of 1280 pixels.
WIDTH = 88
#: A word of a command, with what is quoted in it.
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\\.|[^\s"'\\])+""")
#: Marks of Markdown and HTML, as themselves.
_MEANS_ITSELF = {mark: f"&#{ord(mark)};" for mark in "|*_[]<>&"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the lists in."""
    for name, lines in {"public names": _names, "commands": _commands, "models": _models}.items():
        place = f"<!-- {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, "\n".join(lines()))
    return re.sub(
        r"<!-- room (\w+)(?:: ([\w. ]+))? -->", lambda found: _room(found[1], (found[2] or "").split()), markdown
    )


def _room(name: str, first: list[str]) -> str:
    """The public names of a room, and a table of its modules."""
    public = [f"[`{one}`][underpaint.{home}.{one}]" for one, home in _HOMES if home.partition(".")[0] == name]
    listed = modules(name)
    ordered = [module for module in dict.fromkeys([*(f"{name}.{one}" for one in first), *listed]) if module in listed]
    rows = [f"| [`{module}`](inside/{module}.md) | {cell(about(module))} |" for module in ordered]
    lines = [f"Public names: {', '.join(public)}.\n"] if public else []
    table = ["| module | what it holds |", "|---|---|", *rows] if rows else []
    return "\n".join([*lines, *table])


def _names() -> Iterator[str]:
    """The public names with the first sentence of what is documented of each, a table a room."""
    homes = sorted((home, name) for name, home in _HOMES)
    for room, listed in groupby(homes, key=lambda pair: pair[0].partition(".")[0]):
        yield f"\n## {room}\n\n| name | what it is |\n|---|---|"
        for home, name in listed:
            yield f"| [`{name}`][underpaint.{home}.{name}] | {cell(_about(home, name))} |"


def _about(home: str, name: str) -> str:
    """The first paragraph of a docstring, or of the comment above a constant; else what it is set to."""
    value = getattr(underpaint, name)
    if (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)) and value.__doc__:
        return " ".join(inspect.cleandoc(value.__doc__).split("\n\n")[0].split())
    lines = inspect.getsource(importlib.import_module(f"underpaint.{home}")).splitlines()
    at = next(i for i, line in enumerate(lines) if re.match(rf"{name}\b.*=", line))
    return comment_above(lines, at) or f"`{lines[at].partition('= ')[2]}`"


def _commands() -> Iterator[str]:
    """Each command: what it does, and its arguments and options."""
    for name, command in typer.main.get_command(app).commands.items():
        words, _, example = (command.help or "").partition("Example:")
        yield f"## underpaint {name}\n\n{words.strip()}\n"
        if example:
            yield f"```bash\n{in_lines(example)}\n```\n"
        yield "| option | default | meaning |\n|---|---|---|"
        for parameter in command.params:
            yield f"| {_flags(parameter)} | {_default(parameter)} | {cell(getattr(parameter, 'help', None) or '')} |"
        yield ""


def _flags(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if parameter.required or value in (None, False, "", [], ()) or callable(value) else f"`{value}`"


def _models() -> Iterator[str]:
    """The models in the box, a column each."""
    found = inventory()
    yield f"| | {' | '.join(entry['name'] for entry in found)} |\n|---|{'---|' * len(found)}"
    keys = dict.fromkeys(key for entry in found for key in entry if key not in ("name", "folder"))
    for key in keys:
        yield f"| {key} | {' | '.join(_of_model(entry.get(key, '')) for entry in found)} |"


def _of_model(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def in_lines(command: str) -> str:
    """A command in lines that the book shows whole; an option stays beside its value."""
    parts: list[str] = []
    for word in _WORD.findall(command):
        option = bool(parts) and re.fullmatch("--[a-z-]+", parts[-1])
        if option and not word.startswith("--"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + len("  \\") > WIDTH:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


def cell(text: str) -> str:
    """Text that means itself in a cell of a table; what stands between backticks stays code."""
    parts = text.replace("``", "`").split("`")
    for i, part in enumerate(parts):
        parts[i] = part.replace("|", "\\|") if i % 2 else "".join(_MEANS_ITSELF.get(c, c) for c in part)
    return "`".join(parts)
