"""End-to-end computations: a wing or a file for each thing that a user asks for.

Modules and names that had another place in 0.1 are still found there, with a DeprecationWarning.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Name of a module in 0.1 -> its place below the package.
_MOVED = {
    "ask": "recipes.shared.request",
    "bench": "recipes.benchmark.benchmark",
    "bench_cells": "recipes.benchmark.cells",
    "bench_frechet": "recipes.benchmark.frechet",
    "bench_tables": "recipes.benchmark.tables",
    "box": "recipes.inventory",
    "chunks": "recipes.shared.checkpoints",
    "claims": "recipes.report.claims",
    "decided": "recipes.report.decided",
    "explore": "recipes.explorer.painting",
    "families": "recipes.compare.families",
    "fit": "calibration.statistics",
    "generate": "recipes.sample",
    "jump": "recipes.explorer.teleport",
    "levels": "calibration.levels",
    "lookup": "recipes.explorer.nearest_images",
    "path": "recipes.report.trajectories",
    "peers": "models.peers",
    "plan": "recipes.statistics.memory_plan",
    "progress": "progress",
    "results": "recipes.shared.results",
    "search": "calibration.search",
    "settings": "recipes.report.settings",
    "sources": "recipes.statistics.sources",
    "subject": "recipes.shared.model_and_data",
    "team": "recipes.shared.processes",
    "versus": "recipes.report.network_against_theory",
}
#: Name in 0.1 -> name, where it differs; of a pair, the one that the module has.
_RENAMED = {
    "Ask": "Request",
    "Case": "Conditioning",
    "Chart": "MapSettings",
    "Contest": "SolverComparison",
    "Jumps": "TeleportLengths",
    "Library": "TrainingImages",
    "Lookup": "NearestSettings",
    "Parcel": "Message",
    "Plan": "StatisticsPlan",
    "Request": "SampleRequest",
    "Resemblance": "NearestImages",
    "Standings": "SolverErrors",
    "Subject": "ModelAndData",
    "Team": "Processes",
    "chunk_name": "checkpoint_name",
    "compare_jumps": "compare_teleports",
    "find_judges": "find_quality_measures",
    "join_team": "join_processes",
    "kept": "load_or_make",
    "load_library": "load_training_images",
    "load_subject": "load_model_and_data",
    "look_up": "find_nearest_images",
    "make_plan": "plan_statistics",
    "speaks": "is_first_process",
}


class _MovedModules(MetaPathFinder, Loader):
    """Finds a module under its name of 0.1, as one that hands on the names of the module in its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(f"underpaint.{_MOVED[module.__name__.rpartition('.')[2]]}")
        warnings.warn(
            f"{module.__name__} is now {new.__name__}; the old name goes with the next minor version.",
            DeprecationWarning,
            stacklevel=2,
        )

        def found(name: str) -> object:
            return getattr(new, _RENAMED[name] if hasattr(new, _RENAMED.get(name, "")) else name)

        module.__dict__["__getattr__"] = found


sys.meta_path.append(_MovedModules())
