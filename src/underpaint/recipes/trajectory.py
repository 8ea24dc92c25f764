"""The geometry of many trajectories, by model, condition and guidance, kept on disk as it is measured.

Each *chunk* (some seeds of one case of one model) is one file, written whole or not at all and named by a fingerprint
of everything that it depends on: an interrupted run continues with the chunks that are missing, and what was measured
with other settings is never taken for an answer.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analysis import geometry
from ..analysis.summary import Summary
from ..bounds import MOST_ITEMS, check_seeds, integer
from ..models.fingerprint import digest, fingerprint as known_model
from ..models.model import Condition
from ..noise import NoiseLevel
from ..progress import Progress, Whole, silent
from ..sampling.trajectory import Trajectory, initial_noise, sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .shared.checkpoints import checkpoint_name, gaussian_tensors, load_or_make
from .shared.request import (
    Conditioning,
    Request,
    Sampler,
    cases,
    describe,
    find_denoiser,
    load_on,
    name_condition,
    network_calls,
    of_its_kind,
    prepare,
)
from .shared.results import quantity

LAGS = (1, 2, 5, 10)
#: A Gaussian's state holds while its distance from the network's, squared, is at most this share of |x_t|^2.
HOLDS = 0.01

#: measure -> what it is; one number a seed
MEASURES = {
    "states needed": "principal components for 99.9 % of the variance of x_t over time",
    "differences needed": "the same for the differences of neighbouring states",
    "noises needed": "the same for the noise estimates",
    "plane residual": "share of |x_t|^2 outside span(x_0, x_T), largest over time",
    "rotation error": "|x_t - alpha x_0 - sigma x_T|^2 / |x_t|^2, largest over time",
    "angle": "between x_0 and x_T, degrees",
    **{f"cosine {lag}": f"of differences {lag} steps apart, mean over time" for lag in LAGS},
    "Gaussian error": "|x_t - x_t of the data's Gaussian|^2 / |x_t|^2, mean over time",
    "Gaussian holds to": f"sigma/alpha down to which that is at most {HOLDS:g}",
    "guided error": "the same error for the condition's Gaussian, guided as the network is",
    "guided holds to": f"sigma/alpha down to which that is at most {HOLDS:g}",
}


@dataclass(frozen=True, eq=False)
class Row:
    """One case of one model: measures, and curves over the levels, as mean, 5 % and 95 % over seeds.

    Those that need statistics which are not known are absent; ``setup`` says which were there.
    """

    setup: Mapping[str, Any]
    nfe: int = quantity("calls of the network for each sample")
    level: NoiseLevel = quantity()
    measures: Mapping[str, Summary] = quantity("see units")
    curves: Mapping[str, Summary] = quantity("the measure of that name before its mean or maximum, by level")

    @property
    def name(self) -> str:
        """Model and case."""
        return f"{self.setup['model']}, {self.case}"

    @property
    def case(self) -> Conditioning:
        return Conditioning(self.setup["condition"], self.setup["guidance"], self.setup["negative"])


@dataclass(frozen=True, eq=False)
class Survey:
    """The comparison: one row for each case of each model."""

    rows: tuple[Row, ...]
    units: Mapping[str, str]

    @property
    def finding(self) -> str:
        """How many dimensions a trajectory has, how far it leaves a plane, and how long the theory holds."""
        plane = float(torch.stack([row.measures["plane residual"].mean for row in self.rows]).max())
        held = [name for name in ("guided holds to", "Gaussian holds to") if any(name in r.measures for r in self.rows)]
        until = (
            f"{_theory(held[0])} follows it to within {100 * HOLDS:g} % of |x_t|² down to σ/α {self._range(held[0])}."
            if held
            else "No statistics of the data are known, so there is no closed form beside it."
        )
        return (
            f"A trajectory needs {self._range('states needed')} principal components for 99.9 % of its variance, and "
            f"at most {100 * plane:.2g} % of |x_t|² lies outside the plane of its start and its end. {until}"
        )

    def _range(self, name: str) -> str:
        """The mean of a measure; of several rows the least and the largest, with their names."""
        known = sorted((float(row.measures[name].mean), row.name) for row in self.rows if name in row.measures)
        ends = [(f"{value:.3g}", name) for value, name in (known[0], known[-1])]
        if ends[0][0] == ends[1][0]:
            return ends[0][0]
        return " to ".join(f"{value} ({name})" for value, name in ends)


def prepare_all(asks: Sequence[Request]) -> list[tuple[Sampler, tuple[Conditioning, ...]]]:
    """Load each model with its cases: of the conditions asked for, those of its kind.

    Raises:
        ValueError: as `prepare`; a condition that no model takes, or statistics given for several models at once.
    """
    if len(asks) > 1 and any(request.statistics for request in asks):
        raise ValueError("Statistics are those of one model's states; give --gaussian with one --model at a time.")
    loaded = [(request, load_on(request.model, request.device, request.dtype)) for request in asks]
    taken = {condition for request, model in loaded for condition in of_its_kind(request.conditions, model)}
    for condition in {condition for request in asks for condition in request.conditions} - taken:
        raise ValueError(f"None of {', '.join(request.model for request in asks)} takes {name_condition(condition)!r}.")
    # a model that takes none of them says so
    own = [(replace(r, conditions=of_its_kind(r.conditions, model) or r.conditions), model) for r, model in loaded]
    return [(prepare(request, model), cases(request, model)) for request, model in own]


def survey(
    prepared: Sequence[tuple[Sampler, Sequence[Conditioning]]],
    seeds: Sequence[int],
    folder: str | Path,
    chunk: int = 16,
    states: bool = False,
    progress: Progress = silent,
) -> Survey:
    """Measure each case of each sampler for the seeds, a chunk of them at a time; what the folder holds is only read.

    ``states`` keeps the trajectories too (float32, 8 (N + 1) D bytes a seed). Memory: about 40 (N + 1) D bytes for each
    seed of one chunk. A chunk that was measured on one device is taken on another, where its last digits may differ.

    Raises:
        ValueError: no seeds, a chunk below 1, or a grid of less than 3 steps.
    """
    if not len(seeds) or chunk < 1:
        raise ValueError(f"A survey needs seeds and chunks of at least 1, got {len(seeds)} and {chunk}.")
    check_seeds(seeds)
    integer(chunk, "number of seeds of a chunk", 1, MOST_ITEMS)
    if any(len(sampler.level) < 4 for sampler, _ in prepared):
        raise ValueError("The geometry of a trajectory needs at least 3 steps; ask for more.")
    parts = [tuple(seeds[start : start + chunk]) for start in range(0, len(seeds), chunk)]
    steps = sum((len(sampler.level) - 1) * len(listed) for sampler, listed in prepared) * len(parts)
    whole, rows = Whole(progress, f"trajectories of {len(parts)} x {len(parts[0])} seeds, steps", steps), []
    for sampler, listed in prepared:
        weights = known_model(sampler.model)
        for case in listed:
            stored = []
            for part in parts:
                end = whole.done + len(sampler.level) - 1
                stored.append(_chunk(sampler, case, part, weights, Path(folder), states, whole.advance))
                whole.reach(end)
            rows.append(_row(describe(sampler, case, seeds), sampler.level, stored))
    return Survey(tuple(rows), MEASURES)


def _theory(measure: str) -> str:
    """Whose closed form a measure is of."""
    return "The data's Gaussian" if measure.startswith("Gaussian") else "The condition's Gaussian, guided alike,"


def _chunk(
    sampler: Sampler,
    case: Conditioning,
    seeds: tuple[int, ...],
    weights: str,
    folder: Path,
    states: bool,
    advance: Callable[[], None],
) -> dict[str, Tensor]:
    """A chunk from disk, or from the network and then on disk."""
    settings = fingerprint(sampler, case, seeds, weights) | {"states": states}

    def make() -> dict[str, Tensor]:
        start = initial_noise(seeds, sampler.model.dimension, sampler.level[0])
        run = sample(find_denoiser(sampler.model, case), start, sampler.level, sampler.solve, lambda *_: advance())
        theory: dict[str, Denoiser | None] = {"Gaussian": sampler.theory.everything}
        if case.condition is not None:
            theory["guided"] = sampler.theory.guided(case)
        paths = {name: sampler.predict(known, start) for name, known in theory.items() if known is not None}
        stored = measure(run, paths) | {"nfe": torch.tensor(run.nfe * network_calls(sampler.model, case))}
        return stored | ({"x": run.x, "denoised": run.denoised} if states else {})

    return load_or_make(folder / checkpoint_name(f"{sampler.model.name} {case}", seeds, settings), settings, make)


def measure(run: Trajectory, paths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Measures "name" [B] and curves "name/level" [N+1, B] of a trajectory, float64; its geometry is that of its
    variance-preserving form.

    ``paths`` holds states [N+1, B, D] that the theory foresees from the same start, by the theory's name.
    """
    lags, shape = tuple(lag for lag in LAGS if lag < len(run)), run.preserving
    curves = {
        "plane residual": geometry.plane_residual(shape.x),
        "rotation error": geometry.rotation_error(shape.x, shape.level),
    }
    measures = {
        "states needed": geometry.components_needed(shape.x).double(),
        "differences needed": geometry.components_needed(shape.x.diff(dim=0)).double(),
        "noises needed": geometry.components_needed(run.eps).double(),
        **{name: curve.amax(0) for name, curve in curves.items()},
        "angle": geometry.edge_angle(shape.x),
        **{f"cosine {lag}": c for lag, c in zip(lags, geometry.difference_cosines(shape.x, lags), strict=True)},
    }
    for name, path in paths.items():
        error = (path - run.x).double().square().sum(2) / run.x.double().square().sum(2)
        held = (error <= HOLDS).long().cumprod(0).sum(0) - 1
        curves[f"{name} error"] = error
        measures |= {f"{name} error": error.mean(0), f"{name} holds to": run.level.ratio[held]}
    return measures | {f"{name}/level": curve for name, curve in curves.items()}


def _row(setup: dict[str, Any], level: NoiseLevel, chunks: Sequence[Mapping[str, Tensor]]) -> Row:
    def over_seeds(name: str) -> Summary:
        return Summary.of(torch.cat([chunk[name] for chunk in chunks], -1))

    names = [name for name in MEASURES if name in chunks[0]]
    return Row(
        setup=setup,
        nfe=int(chunks[0]["nfe"]),
        level=level,
        measures={name: over_seeds(name) for name in names},
        curves={name: over_seeds(f"{name}/level") for name in names if f"{name}/level" in chunks[0]},
    )


def table(survey: Survey) -> str:
    """The measures as CSV: one line a row, three columns a measure, empty where it is absent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = ("model", "condition", "guidance", "negative", "solver", "steps")
    spread = [f"{name}{part}" for name in MEASURES for part in ("", " 5%", " 95%")]
    writer.writerow([*keys, "seeds", "nfe", *spread])
    for row in survey.rows:
        found = (row.measures.get(name) for name in MEASURES)
        values = [("",) * 3 if s is None else (float(s.mean), float(s.low), float(s.high)) for s in found]
        start = [row.setup[key] for key in keys]
        writer.writerow([*start, len(row.setup["seeds"]), row.nfe, *(value for three in values for value in three)])
    return text.getvalue()


def fingerprint(sampler: Sampler, case: Conditioning, seeds: Sequence[int], weights: str) -> dict[str, Any]:
    """Everything that a chunk's numbers depend on, in JSON types: settings, weights, levels and statistics."""
    theory, level = sampler.theory, sampler.level
    known: dict[Condition | None, Gaussian | None] = {None: theory.everything}
    known |= {c: theory.parts.get(c) for c in (case.condition, case.negative) if c is not None}
    tensors = {"alpha": level.alpha, "sigma": level.sigma}
    for condition, gaussian in known.items():
        if gaussian is not None:
            tensors |= {f"{condition!r} {name}": tensor for name, tensor in gaussian_tensors(gaussian).items()}
    settings = describe(sampler, case, seeds)
    del settings["statistics"]  # words; the numbers are in the digest
    return settings | {"weights": weights, "levels and statistics": digest(tensors)}
