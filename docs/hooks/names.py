"""Pages of the reference that nobody writes: one for each public name, and one for what else is in each module.

A public name's page has its docstring, with the example in it; names that differ in capitals alone, such as ``Check``
and ``check``, share one. They are in the navigation under "Public names", by room. The other pages are linked from
the page of their room, and come last in the search.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import underpaint

PACKAGE = Path(underpaint.__file__).parent
#: Rooms that the reference shows by other means, or not at all.
_UNSEEN = {"__init__", "__main__", "assets", "cli", "moved", "version", "web"}


def on_config(config: Any, **_: Any) -> Any:
    """Put the public names into the navigation of the reference."""
    (reference,) = (part["Reference"] for part in config.nav if "Reference" in part)
    rooms = [{room: [{" and ".join(names): page} for page, names in listed]} for room, listed in _by_room()]
    reference.insert(2, {"Public names": rooms})
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages."""
    for page, names in pages().items():
        files.append(File.generated(config, page, content=_of_names(names)))
    for module in modules():
        files.append(File.generated(config, inside(module), content=_of_module(module)))
    return files


def pages() -> dict[str, list[str]]:
    """Page of each public name, and the names on it."""
    listed: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(underpaint._HOME, key=lambda name: (name.lower(), name)):
        listed[f"reference/names/{name.lower()}.md"].append(name)
    return dict(listed)


def _by_room() -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """The pages of each room."""

    def room(entry: tuple[str, list[str]]) -> str:
        return underpaint._HOME[entry[1][0]].partition(".")[0]

    for name, entries in groupby(sorted(pages().items(), key=room), key=room):
        yield name, list(entries)


def modules(room: str | None = None) -> list[str]:
    """The modules that hold more than public names, as "theory.gaussian"; of one room, if it is given."""
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    named = [".".join(path.parts) for path in paths if path.parts[0] not in _UNSEEN and path.name != "__init__"]
    chosen = [module for module in named if room in (None, module.partition(".")[0])]
    public = {f"{home}.{name}" for name, home in underpaint._HOME.items()}
    return [module for module in chosen if module not in public and _members(module)]


def inside(module: str) -> str:
    """The page of what is in a module beside its public names."""
    return f"reference/inside/{module}.md"


def _members(module: str) -> list[str]:
    """What a module defines without an underscore, but for the public names."""
    found = [name for node in _parsed(module).body for name in _defined(node) if not name.startswith("_")]
    return [name for name in found if name not in underpaint._PUBLIC.get(module, ())]


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def about(module: str) -> str:
    """The first sentence of what a module says of itself."""
    return " ".join((ast.get_docstring(_parsed(module)) or "").split("\n\n")[0].split())


def _defined(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _of_names(names: list[str]) -> str:
    parts = [f"---\ntitle: {' and '.join(names)}\n---"]
    for name in names:
        home = underpaint._HOME[name]
        parts.append(
            f"::: underpaint.{home}.{name}\n    options:\n      heading_level: 1\n      show_root_full_path: false"
        )
        parts.append(f"`underpaint.{name}`; it is defined in {_home(home)}.")
    return "\n\n".join(parts) + "\n"


def _home(module: str) -> str:
    link = f"`underpaint.{module}`"
    return f"[{link}](../inside/{module}.md)" if module in modules() else link


def _of_module(module: str) -> str:
    members = "".join(f"\n        - {name}" for name in _members(module))
    return (
        f"---\ntitle: underpaint.{module}\n---\n\n::: underpaint.{module}\n    options:\n      heading_level: 1\n"
        f"      members:{members}\n"
    )
