"""What each module of the package imports, read from its code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import underpaint

PACKAGE = Path(underpaint.__file__).parent


def name_of(file: Path) -> str:
    return ".".join(("underpaint", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The room of underpaint that a dotted name lies in; None for the package itself and for other libraries."""
    parts = module.split(".")
    return parts[1] if parts[0] == "underpaint" and len(parts) > 1 else None


def imports_of(file: Path, code: str | None = None) -> Iterator[str]:
    """Absolute names of all that a file (or other code in its place) imports, wherever in it, for types only or not."""
    tree = ast.parse(file.read_text(encoding="utf-8") if code is None else code)
    package = name_of(file) if file.stem == "__init__" else name_of(file).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{source}.{alias.name}" for alias in node.names)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
