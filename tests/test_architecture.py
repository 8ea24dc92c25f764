"""The floors of the building: imports go down only, and the door opens without the heavy libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

import underpaint

PACKAGE = Path(underpaint.__file__).parent

#: Room (module or package right under underpaint) -> floor. A new room must be given one.
FLOORS = {
    "noise": 0,
    "prediction": 0,
    "schedules": 0,
    "files": 0,
    "extras": 0,
    "assets": 0,
    "theory": 1,
    "sampling": 2,
    "analysis": 3,
    "metrics": 3,
    "data": 3,
    "models": 3,
    "recipes": 4,
    "figures": 5,
    "web": 6,
    "cli": 7,
}
#: Imported where they are used, never by importing a module of ours.
LAZY = {"accelerate", "datasets", "diffusers", "gradio", "huggingface_hub", "matplotlib", "pandas", "scipy", "sklearn",
        "torchvision", "transformers"}  # fmt: skip
#: What must open at once: `underpaint --help`.
DOORS = [name for name in ("underpaint", "underpaint.cli") if find_spec(name)]


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


def allowed(source: str, target: str) -> bool:
    """Down, within a room, or between the modules of the ground floor."""
    return FLOORS[target] < FLOORS[source] or target == source or FLOORS[source] == FLOORS[target] == 0


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_only(module: str) -> None:
    source = room_of(module)
    if source is None:  # the package itself stands above all floors, behind lazy names
        return
    assert source in FLOORS, f"{module}: give the room {source!r} a floor in this test and in the architecture"
    imported = {room_of(name) for name in imports_of(FILES[module])}
    up = sorted(target for target in imported - {None} if target in FLOORS and not allowed(source, target))
    assert not up, f"{module} (floor {FLOORS[source]}) imports {', '.join(f'{t} (floor {FLOORS[t]})' for t in up)}"


@pytest.mark.parametrize(
    ("source", "statement", "fine"),
    [
        ("theory/gaussian.py", "from ..noise import NoiseLevel", True),
        ("theory/gaussian.py", "from . import modes", True),
        ("prediction.py", "from .noise import NoiseLevel", True),
        ("theory/gaussian.py", "def f():\n    from ..sampling.trajectory import sample", False),
        ("analysis/geometry.py", "from ..metrics import frechet", False),
        ("noise.py", "import underpaint.theory.gaussian", False),
        ("sampling/__init__.py", "from ..recipes.report import report", False),
        ("recipes/report.py", "from .. import figures", False),
    ],
)
def test_the_check_sees_what_it_should(source: str, statement: str, fine: bool) -> None:
    file = PACKAGE / source
    (target,) = (room_of(name) for name in imports_of(file, statement))
    assert allowed(str(room_of(name_of(file))), str(target)) is fine


def imported_by(statement: str) -> set[str]:
    """Top-level modules in memory after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=None)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", DOORS)
def test_the_door_opens_without_heavy_libraries(module: str) -> None:
    assert not imported_by(f"import {module}") & (LAZY | {"torch", "numpy", "safetensors", "PIL"})


#: A scheduler of diffusers' has to derive from diffusers' classes; nothing of ours imports it before it is asked for.
DERIVED = {"underpaint.models.gaussian_scheduler"}


def test_no_room_below_the_figures_imports_an_optional_library() -> None:
    """All modules of floors 0 to 4 at once; torch is theirs, the others wait until they are asked for."""
    rooms = [name for name in FILES if FLOORS.get(room_of(name) or "", 9) <= 4 and name not in DERIVED]
    assert len(rooms) > 10
    assert not imported_by("\n".join(f"import {name}" for name in rooms)) & LAZY


def test_the_theory_is_torch_alone() -> None:
    for module in [name for name in FILES if room_of(name) in {"noise", "prediction", "schedules", "theory"}]:
        names = {name.partition(".")[0] for name in imports_of(FILES[module])}
        assert names <= {"torch", "underpaint"} | sys.stdlib_module_names, f"{module} imports {names}"
