"""How much of a network each analytic denoiser explains, at each noise level: on noised data and on its own way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...analysis.summary import Summary
from ...bounds import MOST_ITEMS, check_seeds, integer
from ...data.labels import join_by_name
from ...data.named import known_classes
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import find_solver
from ...theory.cloud import PointCloud
from ...theory.denoiser import Denoiser
from ..shared.model_and_data import ModelAndData, load_model_and_data
from ..shared.request import Conditioning
from ..shared.results import quantity, table
from .families import States, Sweep, Sweeps, sweep

#: Classes beyond these are not measured.
_CLASSES = 20


@dataclass(frozen=True)
class Settings:
    """What to compare, and how finely.

    ``label`` is a class, for models that know classes; each class is looked at besides. ``images`` data points are
    noised, and of each class a quarter as many of its own; about ``levels`` of the sampling grid's levels are used.
    ``split``, ``column`` and ``labelled`` are of the data; ``gaussian`` is a file of their statistics.
    """

    model: str = "fashion-mnist"
    data: str | None = None
    label: int | None = None
    images: int = 32
    seeds: tuple[int, ...] = tuple(range(16))
    steps: int = 25
    solver: str = "dpmpp-2m"
    levels: int = 10
    sweeps: Sweeps = field(default_factory=Sweeps)
    split: str = "train"
    column: str | None = None
    gaussian: str | None = None
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.images < 8 or len(self.seeds) < 2:
            raise ValueError(f"A comparison needs 8 images and 2 seeds, got {self.images} and {len(self.seeds)}.")
        if self.steps < 2 or self.levels < 2:
            raise ValueError(f"A comparison needs 2 steps and 2 levels, got {self.steps} and {self.levels}.")
        check_seeds(self.seeds)
        integer(self.images, "number of images", 8, MOST_ITEMS)
        find_solver(self.solver)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that the tables and figures show; explained variance is that of the network's denoised images, about
    the data mean."""

    setup: dict[str, Any]
    level: NoiseLevel = quantity()
    explained: dict[str, dict[str, Summary]] = quantity("explained variance by states, denoiser and level")
    signal: dict[str, Tensor] = quantity("mean square of the network's denoised images about the data mean, by level")
    sweeps: dict[str, Sweep] = quantity("on noised data")
    classes: dict[str, dict[str, Tensor]] = quantity("explained variance on noised data of a class, by level")


def compare(settings: Settings, progress: Progress = silent) -> Comparison:
    """Noise data, sample, and ask every analytic denoiser what the network was asked.

    Raises:
        ValueError: as `load_model_and_data`.
    """
    began = time.monotonic()
    subject = load_model_and_data(
        settings.model,
        settings.data,
        case=Conditioning(settings.label),
        progress=progress,
        split=settings.split,
        column=settings.column,
        gaussian=settings.gaussian,
        labelled=settings.labelled,
    )
    grid, mean = subject.model.schedule.grid(settings.steps), subject.gaussian.mean
    run = subject.sample(subject.denoise, settings.seeds, grid, find_solver(settings.solver), "sampling", progress)
    kept = spread_levels(grid[:-1], settings.levels)
    level = grid[kept]
    noised = States.noised(subject.rows, level, subject.denoise, mean, settings.images)
    states = {"noised data": noised, "trajectories": States(level, run.x[kept], run.denoised[kept], mean)}
    sweeps, calibrated = sweep(subject, settings.sweeps, noised, progress)
    denoisers = {**subject.analytic(), **calibrated}
    explained = measure_states(states, denoisers, progress)
    conditions, joined = network_classes(subject)
    classes = measure_classes(subject, conditions, level, settings.images // 4, progress)
    setup = describe(settings, subject, time.monotonic() - began) | {"classes": joined}
    signal = {name: (part.network - mean).double().square().mean((1, 2)) for name, part in states.items()}
    return Comparison(setup, level, explained, signal, sweeps, classes)


def spread_levels(level: NoiseLevel, count: int) -> Tensor:
    """Indices of ``count`` levels of a grid, or of fewer, about evenly spread in log sigma."""
    wanted = torch.linspace(float(level.log_ratio[0]), float(level.log_ratio[-1]), count, dtype=torch.float64)
    return (level.log_ratio - wanted.unsqueeze(1)).abs().argmin(1).unique()


def measure_states(
    states: Mapping[str, States], denoisers: Mapping[str, Denoiser], progress: Progress = silent
) -> dict[str, dict[str, Summary]]:
    """Explained variance by states and denoiser, over samples."""
    advance = progress("comparing", len(states) * len(denoisers))

    def measured(part: States, denoise: Denoiser) -> Summary:
        advance()
        return Summary.of(part.explained(denoise))

    return {name: {kind: measured(part, d) for kind, d in denoisers.items()} for name, part in states.items()}


def network_classes(subject: ModelAndData) -> tuple[dict[int, int | None], str]:
    """For each class of the data the network's label of it, None where the network is asked without; and a sentence.

    The model's own data have its own labels. Classes of other data are joined to these by name; those whose name is not
    among them are left out. Where no names are in common, the network is asked without a class.
    """
    labels, model, data = subject.data.labels, subject.model, subject.data
    known = [] if labels is None else labels[labels >= 0].unique().tolist()
    if not known or not model.classes:
        return dict.fromkeys(known), "the network takes no classes" if known else "the data have no classes"
    own = str(model.notes.get("data"))
    if own == data.name:
        missing = [label for label in known if label >= model.classes]
        said = f"; the network knows no {', '.join(map(str, missing))}" if missing else ""
        return {label: label for label in known if label < model.classes}, f"the network's own classes{said}"
    joined = join_by_name({n: data.classes.get(n, str(n)) for n in known}, known_classes(own))
    if not joined:
        return dict.fromkeys(known), (
            f"the network is asked without a class: none of its classes is known to be called as those of {data.name}"
        )
    left = [data.classes.get(n, str(n)) for n in known if n not in joined]
    return dict(joined), "joined to the network's classes by name" + (f", without {', '.join(left)}" if left else "")


def measure_classes(
    subject: ModelAndData,
    conditions: Mapping[int, int | None],
    level: NoiseLevel,
    count: int,
    progress: Progress = silent,
) -> dict[str, dict[str, Tensor]]:
    """Each class on its own: the network, for the label that ``conditions`` gives, against Gaussians and the class's
    points.

    Empty where there are no labels; the first twenty where there are more.
    """
    labels, model = subject.data.labels, subject.model
    if labels is None:
        return {}
    known = labels[labels >= 0].unique().tolist()
    chosen = [label for label in known if label in conditions][:_CLASSES]
    advance = progress("classes", len(chosen))
    result = {}
    for label in chosen:
        rows, index = subject.rows[labels == label], known.index(label)
        theirs = conditions[label]
        network = subject.denoise if theirs is None else model.conditional(theirs)
        states = States.noised(rows, level, network, subject.gaussian.mean, count)
        denoisers: dict[str, Denoiser] = {
            "Gaussian of all": subject.gaussian,
            "Gaussian of the class": subject.mixture.components[index],
            "exact, of the class": PointCloud(rows),
        }
        name = subject.data.classes.get(label, str(label))
        result[name] = {kind: states.explained(denoise).mean(1) for kind, denoise in denoisers.items()}
        advance()
    return result


def describe(settings: Settings, subject: ModelAndData, seconds: float) -> dict[str, Any]:
    """Who, what, and from which data, in JSON types."""
    return subject.described(settings.solver, settings.steps) | {
        "denoisers": subject.about,
        "images": settings.images,
        "seeds": list(settings.seeds),
        "local": settings.sweeps.local,
        "seconds": round(seconds, 1),
    }


def tables(result: Comparison) -> str:
    """The numbers as text: what each denoiser explains at each level, and every sweep."""
    levels = [f"{float(ratio):.3g}" for ratio in result.level.ratio]
    parts = []
    for states, explained in result.explained.items():
        values = [summary.mean for summary in explained.values()]
        parts.append(table(f"explained variance, {states}", "σ/α", levels, list(explained), torch.stack(values).T))
    for name, found in result.sweeps.items():
        columns = [f"{value:g}" for value in found.values]
        parts.append(table(f"{name}: {found.what}", "σ/α", levels, columns, found.explained.T))
    if result.classes:
        kinds = list(next(iter(result.classes.values())))
        values = [torch.stack([rows[kind].mean() for kind in kinds]) for rows in result.classes.values()]
        title = f"classes, mean over levels ({result.setup['classes']})"
        parts.append(table(title, "", list(result.classes), kinds, torch.stack(values)))
    return "\n\n".join(parts)
