"""Floors and wings: imports go down only, wings do not import each other, and the door opens without the heavy
libraries."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from imports import FILES, PACKAGE, imports_of, name_of, room_of

#: Room (module or package right under underpaint) -> floor. A new room must be given one.
FLOORS = {
    "version": 0,
    "moved": 0,
    "bounds": 0,
    "damage": 0,
    "devices": 0,
    "noise": 0,
    "prediction": 0,
    "schedules": 0,
    "files": 0,
    "pickles": 0,
    "extras": 0,
    "progress": 0,
    "keeping": 0,
    "assets": 0,
    "theory": 1,
    "data": 2,
    "sampling": 2,
    "calibration": 3,
    "analysis": 3,
    "metrics": 3,
    "models": 3,
    "recipes": 4,
    "figures": 5,
    "web": 6,
    "cli": 7,
    "__main__": 8,
}
#: Imported where they are used, never by importing a module of ours.
LAZY = {"accelerate", "datasets", "diffusers", "gradio", "huggingface_hub", "matplotlib", "pandas", "scipy", "sklearn",
        "torchvision", "transformers"}  # fmt: skip
#: What must open at once: `underpaint --help`.
DOORS = [name for name in ("underpaint", "underpaint.cli") if find_spec(name)]


#: What a wing of the recipes may import of the recipes, besides itself.
SHARED = "shared"


def allowed(source: str, target: str) -> bool:
    """Down, within a room, or between the modules of the ground floor; among recipes, within a wing or from shared."""
    room, other = room_of(source), room_of(target)
    if other is None:
        return True
    if room == other == "recipes":
        return wing_of(target) in (wing_of(source), SHARED)
    return other in FLOORS and (
        FLOORS[other] < FLOORS[room or ""] or room == other or FLOORS[room or ""] == FLOORS[other] == 0
    )


def wing_of(module: str) -> str:
    """The folder or single file of the recipes that a dotted name lies in."""
    return [*module.split("."), ""][2]


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_only(module: str) -> None:
    room = room_of(module)
    if room is None:  # the package itself stands above all floors, behind lazy names
        return
    assert room in FLOORS, f"{module}: give the room {room!r} a floor in this test and in the architecture"
    wrong = sorted(name for name in imports_of(FILES[module]) if not allowed(module, name))
    assert not wrong, f"{module} (floor {FLOORS[room]}) imports {', '.join(wrong)}"


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
        ("recipes/doctor.py", "from .. import figures", False),
        ("recipes/doctor.py", "from .. import __version__", False),
        ("recipes/report/report.py", "from ..shared.request import Request", True),
        ("recipes/report/report.py", "from ..explorer.teleport import Hybrids", False),
        ("recipes/report/report.py", "from .. import sample", False),
        ("recipes/sample.py", "from .report.claims import Claim", False),
        ("recipes/shared/request.py", "from ..sample import SampleRequest", False),
    ],
)
def test_the_check_sees_what_it_should(source: str, statement: str, fine: bool) -> None:
    file = PACKAGE / source
    (target,) = imports_of(file, statement)
    assert allowed(name_of(file), target) is fine


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Found by taking away, again and again, the modules that import none of those that are left."""
    graph = {name: {module_of(target) for target in imports_of(file)} & FILES.keys() for name, file in FILES.items()}
    while leaves := {name for name, targets in graph.items() if not targets}:
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
    assert not graph, f"these are part of a circle, or import one: {', '.join(sorted(graph))}"


def module_of(name: str) -> str:
    """The module that an imported name comes from: itself, or what it is a name in."""
    return name if name in FILES else name.rpartition(".")[0]


def imported_by(statement: str) -> set[str]:
    """Top-level modules in memory after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=None)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", DOORS)
def test_the_door_opens_without_heavy_libraries(module: str) -> None:
    assert not imported_by(f"import {module}") & (LAZY | {"torch", "numpy", "safetensors", "PIL"})


#: A scheduler of diffusers' has to derive from diffusers' classes; nothing of ours imports it before it is asked for.
DERIVED = {"underpaint.models.schedulers.gaussian_exponential"}


def test_no_room_below_the_figures_imports_an_optional_library() -> None:
    """All modules of floors 0 to 4 at once; torch is theirs, the others wait until they are asked for."""
    rooms = [name for name in FILES if FLOORS.get(room_of(name) or "", 9) <= 4 and name not in DERIVED]
    assert len(rooms) > 10
    assert not imported_by("\n".join(f"import {name}" for name in rooms)) & LAZY


def test_the_theory_is_torch_alone() -> None:
    for module in [name for name in FILES if room_of(name) in {"noise", "prediction", "schedules", "theory"}]:
        names = {name.partition(".")[0] for name in imports_of(FILES[module])}
        assert names <= {"torch", "underpaint"} | sys.stdlib_module_names, f"{module} imports {names}"
