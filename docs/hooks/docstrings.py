"""What the reference reads of docstrings and comments, brought to the form that griffe knows.

Here, what is raised runs on without further indentation, and constants are documented by ``#:`` comments above them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_RAISES = re.compile(r"(?<=\n)(?P<indent> *)Raises:\n(?P<body>(?:(?P=indent) +\S.*(?:\n|$))+)")
_ERROR = re.compile(r" *\w+(?:Error|Interrupt|Exit): ")


class HouseStyle(griffe.Extension):
    """Runs over each object when it has been read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _RAISES.sub(_indented, _first_in_one_line(_plain(obj.docstring.value)))

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is None and isinstance(attr.parent, griffe.Module) and attr.lineno:
            lines = attr.lines_collection[attr.filepath]
            words = comment_above(lines, attr.lineno - 1) or f"`{attr.value}`"
            attr.docstring = griffe.Docstring(_plain(words), parent=attr, parser="google")


def _plain(text: str) -> str:
    """Two shapes side by side are no link: [B, D] [N]."""
    return text.replace("] [", "] \\[")


def _first_in_one_line(text: str) -> str:
    """The first paragraph without line breaks, since lists of functions show the first line of each."""
    first, *rest = text.split("\n\n", 1)
    return "\n\n".join([" ".join(first.split()), *rest])


def _indented(found: re.Match[str]) -> str:
    lines = [line if _ERROR.match(line) else f"    {line}" for line in found["body"].splitlines()]
    return "\n".join([f"{found['indent']}Raises:", *lines, ""])


def comment_above(lines: list[str], at: int) -> str:
    """The ``#:`` comment above the line of that index, in one line."""
    above: list[str] = []
    while at > len(above) and lines[at - 1 - len(above)].startswith("#:"):
        above.insert(0, lines[at - 1 - len(above)].removeprefix("#:").strip())
    return " ".join(above)
