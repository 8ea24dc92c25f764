"""What had another place in 0.1 is still found there, with a DeprecationWarning, for one minor version."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Place of a module below the package in 0.1 -> its place.
MOVED = {
    "models.diffusers": "models.networks.diffusers",
    "models.edm": "models.networks.edm",
    "models.edm_networks": "models.networks.edm_networks",
    "models.flow": "models.pipelines.flow",
    "models.gaussian_scheduler": "models.schedulers.gaussian_exponential",
    "models.hub": "models.pipelines.hub",
    "models.latent": "models.pipelines.latent",
    "models.parts": "models.pipelines.parts",
    "models.pickles": "pickles",
    "models.record": "models.pipelines.record",
    "recipes.ask": "recipes.shared.request",
    "recipes.bench": "recipes.benchmark.benchmark",
    "recipes.bench_cells": "recipes.benchmark.cells",
    "recipes.bench_frechet": "recipes.benchmark.frechet",
    "recipes.bench_tables": "recipes.benchmark.tables",
    "recipes.box": "recipes.inventory",
    "recipes.chunks": "recipes.shared.checkpoints",
    "recipes.claims": "recipes.report.claims",
    "recipes.decided": "recipes.report.decided",
    "recipes.explore": "recipes.explorer.painting",
    "recipes.families": "recipes.compare.families",
    "recipes.fit": "calibration.statistics",
    "recipes.generate": "recipes.sample",
    "recipes.jump": "recipes.explorer.teleport",
    "recipes.levels": "calibration.levels",
    "recipes.lookup": "recipes.explorer.nearest_images",
    "recipes.path": "recipes.report.trajectories",
    "recipes.peers": "models.schedulers.peers",
    "recipes.plan": "recipes.statistics.memory_plan",
    "recipes.progress": "progress",
    "recipes.results": "recipes.shared.results",
    "recipes.search": "calibration.search",
    "recipes.settings": "recipes.report.settings",
    "recipes.sources": "recipes.statistics.sources",
    "recipes.subject": "recipes.shared.model_and_data",
    "recipes.team": "recipes.shared.processes",
    "recipes.versus": "recipes.report.network_against_theory",
}
#: Name in 0.1 -> name, where it differs; of a pair, the one that the module has.
RENAMED = {
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


class MovedModules(MetaPathFinder, Loader):
    """Finds a module under its name of 0.1, as one that hands on the names of the module in its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __package__ and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(f"{__package__}.{MOVED[module.__name__.partition('.')[2]]}")
        warnings.warn(
            f"{module.__name__} is now {new.__name__}; the old name goes with the next minor version.",
            DeprecationWarning,
            stacklevel=2,
        )

        def found(name: str) -> object:
            return getattr(new, RENAMED[name] if hasattr(new, RENAMED.get(name, "")) else name)

        module.__dict__["__getattr__"] = found


def install() -> None:
    """Let the old names be found; what lies in its own place is found before."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
