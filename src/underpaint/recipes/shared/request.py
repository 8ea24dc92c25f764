"""What a user asks of a model, made ready: denoisers for conditions, a grid, and the closed forms to compare with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import assets
from ...bounds import check_seeds, shown
from ...data.datasets import load_data
from ...data.labels import join_by_name
from ...data.named import known_classes
from ...data.store import gaussian_provenance, load_gaussian
from ...devices import find_device
from ...models.load import load_model
from ...models.model import Condition, Model
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import Solver, find_solver
from ...sampling.trajectory import Trajectory, initial_noise, sample
from ...theory.denoiser import Denoiser, check_weight, guide
from ...theory.gaussian import Gaussian, guided_gaussian
from ...version import __version__


@dataclass(frozen=True)
class Conditioning:
    """One way to run a model: a class label or a prompt (None: whatever it likes), guidance, and what to lead away
    from."""

    condition: Condition | None = None
    guidance: float = 1.0
    negative: Condition | None = None

    def __post_init__(self) -> None:
        check_weight(self.guidance)
        if self.condition is None and (self.guidance != 1 or self.negative is not None):
            raise ValueError("Guidance and a negative need a class or a prompt to guide to; give --class or --prompt.")

    @property
    def what(self) -> str:
        """The condition in words."""
        return name_condition(self.condition)

    def __str__(self) -> str:
        guided = "" if self.guidance == 1 else f", guidance {self.guidance:g}"
        return self.what + guided + ("" if self.negative is None else f", away from {name_condition(self.negative)}")


def name_condition(condition: Condition | None) -> str:
    """A prompt as it is, 'class 3', or 'unconditional'."""
    if condition is None:
        return "unconditional"
    return condition if isinstance(condition, str) else f"class {condition}"


@dataclass(frozen=True)
class Request:
    """The options that commands share.

    Attributes:
        model: a name in the box, or a place.
        conditions: prompts or class labels, whichever the model takes; none means unconditionally.
        guidance: weights w of D_u + w (D_c - D_u); each is run with each condition.
        negative: what D_u is conditioned on, a prompt or the digits of a label; by default "anything".
        statistics: files that `load_gaussian` reads: "FILE" for all the data (and the classes in it), "CONDITION=FILE"
            for one class or prompt.
        device, dtype: of the network; states stay on the CPU in float32.
    """

    model: str = "fashion-mnist"
    conditions: tuple[Condition, ...] = ()
    guidance: tuple[float, ...] = (1.0,)
    negative: str | None = None
    seeds: tuple[int, ...] = (0,)
    steps: int = 50
    solver: str = "ddim"
    statistics: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_seeds(self.seeds)


def of_its_kind(conditions: Sequence[Condition], model: Model) -> tuple[Condition, ...]:
    """Those that a model takes: prompts or class labels."""
    return tuple(c for c in conditions if isinstance(c, str) == (model.embed is not None))


def cases(request: Request, model: Model) -> tuple[Conditioning, ...]:
    """Each condition with each guidance.

    Raises:
        ValueError: a condition is not of the model's kind, or a negative without guidance to act through.
    """
    negative = None if request.negative is None else as_condition(request.negative, model)
    if negative is not None and set(request.guidance) == {1.0}:
        raise ValueError("What to lead away from acts through guidance; give a --guidance other than 1 with it.")
    conditions: list[Condition | None] = [*request.conditions] or [None]
    listed = tuple(
        Conditioning(c, weight, None if weight == 1 else negative) for c in conditions for weight in request.guidance
    )
    for case in listed:
        find_denoiser(model, case)
    return listed


def as_condition(text: str, model: Model) -> Condition:
    """A label for a model that takes labels, a prompt otherwise."""
    return int(text) if model.embed is None and text.isdecimal() else text


def find_denoiser(model: Model, case: Conditioning) -> Denoiser:
    """The network in one case; ValueError where it does not take the condition."""
    if case.condition is None:
        return model
    return model.conditional(case.condition, case.guidance, case.negative)


def blend(here: Denoiser, there: Denoiser, share: Tensor) -> Denoiser:
    """(1 - s) D_a + s D_b, with one share s for each row of the batch, [B]."""
    return lambda x, level: torch.lerp(here(x, level), there(x, level), share.to(x).unsqueeze(1))


def network_calls(model: Model, case: Conditioning) -> int:
    """Calls of the network for each call of the case's denoiser."""
    return 1 if case.guidance == 1 or model.distilled else 2


@dataclass(frozen=True, eq=False)
class Theory:
    """Gaussians of a model's data: of all of them, and of single classes or prompts, as far as they are known.

    ``about`` says in words what each was made from.
    """

    everything: Gaussian | None = None
    parts: Mapping[Condition, Gaussian] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def guided(self, case: Conditioning) -> Denoiser | None:
        """What the network would be in this case if its data were these Gaussians; None where one is not known.

        A Gaussian where there is a closed form (no guidance, or equal covariances), else an affine denoiser.
        """
        if case.condition is None:
            return self.everything
        cond = self.parts.get(case.condition)
        uncond = self.everything if case.negative is None else self.parts.get(case.negative)
        if case.guidance == 1 or cond is None or uncond is None:
            return cond if case.guidance == 1 else None
        try:
            return guided_gaussian(uncond, cond, case.guidance)
        except ValueError:  # unequal covariances: still linear, but to be integrated
            return guide(uncond, cond, case.guidance)

    def nearest(self, case: Conditioning) -> tuple[Denoiser | None, str]:
        """The case's own closed form, or that of all the data in its place, and a sentence that says which."""
        own = self.guided(case)
        if own is not None:
            alike = "" if case.guidance == 1 else ", guided as the network is"
            named = self.about.get(case.what) if isinstance(case.condition, str) else None
            what = "the data" if case.condition is None else case.what
            return own, f"Gaussian of {what}{alike}" + (f" ({named})" if named else "")
        if self.everything is not None:
            return self.everything, f"Gaussian of all the data (there are no statistics of {case.what})"
        return None, "no statistics of the data are known; give them with --gaussian"


@dataclass(frozen=True, eq=False)
class Sampler:
    """A model made ready to run: a grid, the name of a solver, and what theory knows of its data."""

    model: Model
    level: NoiseLevel
    solver: str = "ddim"
    theory: Theory = field(default_factory=Theory)

    @property
    def solve(self) -> Solver:
        return find_solver(self.solver)

    def sample(
        self, denoise: Denoiser, seeds: Sequence[int], progress: Progress = silent, batch: int = 64
    ) -> Trajectory:
        """Trajectories for seeds, ``batch`` at a time; a seed's start does not depend on its batch."""
        parts = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
        advance = progress("sampling", len(parts) * (len(self.level) - 1))
        starts = (initial_noise(part, self.model.dimension, self.level[0]) for part in parts)
        return Trajectory.join([sample(denoise, x, self.level, self.solve, lambda *_: advance()) for x in starts])

    def predict(self, denoise: Denoiser, x: Tensor) -> Tensor:
        """States [N+1, B, D] of an affine denoiser from x [B, D]: a Gaussian's in closed form, others by the solver."""
        if isinstance(denoise, Gaussian):
            return torch.stack([denoise.flow(x, self.level[0], there) for there in self.level])
        return sample(denoise, x, self.level, self.solve).x


def prepare(request: Request, model: Model | None = None) -> Sampler:
    """Load what is asked for, but for a model that is loaded already.

    Raises:
        ValueError: unknown model, solver, device or dtype, or statistics that cannot be read or do not fit the model.
    """
    find_solver(request.solver)
    if model is None:
        model = load_on(request.model, request.device, request.dtype)
    return Sampler(model, model.schedule.grid(request.steps), request.solver, load_theory(request, model))


def only(request: Request, sampler: Sampler) -> Conditioning:
    """The one case that is asked for; ValueError if there are several."""
    found = cases(request, sampler.model)
    if len(found) > 1 or len(request.conditions) > 1:
        raise ValueError(
            f"One condition and one guidance at a time, got {len(request.conditions)} conditions and "
            f"{len(request.guidance)} guidance weights."
        )
    return found[0]


def describe(sampler: Sampler, case: Conditioning, seeds: Sequence[int]) -> dict[str, Any]:
    """Who, what, and from which statistics, in JSON types."""
    model = sampler.model
    return {
        "version": __version__,
        "model": model.name,
        "shape": list(model.shape),
        "schedule": type(model.schedule).__name__,
        "prediction": model.prediction,
        "left_off": model.notes.get("left off"),
        "dtype": str(model.dtype).removeprefix("torch."),
        "solver": sampler.solver,
        "steps": len(sampler.level) - 1,
        "condition": case.condition,
        "guidance": case.guidance,
        "negative": case.negative,
        "seeds": list(seeds),
        "statistics": dict(sampler.theory.about),
    }


def own_device(name: str | None) -> torch.device | None:
    """The device of a name; of several GPUs, each process of torchrun has its own. ValueError if there is none."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % max(1, torch.cuda.device_count())}"
    found = find_device(name)
    if found is not None and found.type == "meta":
        raise ValueError(f"The device {shown(name)} holds no numbers, so that nothing can be computed there; give cpu.")
    return found


def load_on(place: str | Path | Model, device: str | None, dtype: str | None) -> Model:
    """A model on a device and in a dtype of these names; ValueError where there is none, before it is loaded."""
    return load_model(place, device=own_device(device), dtype=dtype)


def load_theory(request: Request, model: Model) -> Theory:
    """The statistics that are given; without any, those of the box: of all the data, of labelled classes asked for, and
    for a prompt that names just one of their classes those of that class.

    Raises:
        ValueError: a file cannot be read, is of another dimension than the model, or of a class or prompt that is not
            asked for.
    """
    given: dict[Condition | None, Gaussian] = {}
    about: dict[str, str] = {}

    def know(condition: Condition | None, gaussian: Gaussian, source: str) -> None:
        name = "all" if condition is None else name_condition(condition)
        check_statistics(source, gaussian, model, f"of {name}")
        given[condition], about[name] = gaussian, source

    boxed = assets.folder(request.model)
    default = (request.model,) if boxed is not None and (boxed / "gaussian.safetensors").is_file() else ()
    wanted = {c for case in cases(request, model) for c in (case.condition, case.negative) if c is not None}
    for text in request.statistics or default:
        whole = text in default or Path(text).is_file()
        name, equals, source = ("", "", text) if whole else text.rpartition("=")
        condition = as_condition(name, model) if equals else None
        if condition is not None and condition not in wanted:
            named = name_condition(condition) or "an empty text"
            raise ValueError(
                f"The statistics {shown(text)} are of {named}, which is not asked for; ask for it, or leave them out."
            )
        know(condition, load_gaussian(source), source)
        if not equals:
            for condition, (label, called) in _named(wanted, source, model).items():
                know(condition, load_gaussian(source, label), f"{source}, {called}" if called else source)
    if not request.statistics:
        for label in sorted(c for c in wanted - given.keys() if isinstance(c, int)):
            rows, source = _class_rows(model, label)
            if len(rows) > 1:
                know(label, Gaussian.fit(rows), f"{len(rows):,} of {source}")
    return Theory(given.pop(None, None), {c: g for c, g in given.items() if c is not None}, about)


def check_statistics(source: str, gaussian: Gaussian, model: Model, what: str = "") -> None:
    """Refuse statistics of other states than a model's: of another dimension, or of pixels in another range.

    Raises:
        ValueError: they do not fit.
    """
    called = f"The statistics {what or source}"
    if gaussian.dimension != model.dimension:
        raise ValueError(
            f"{called} are of dimension {gaussian.dimension}, but {model.name} works in {model.dimension} dimensions; "
            "give those of its own states."
        )
    notes = gaussian_provenance(source) if is_ours(source) else {}
    spread, sampled = notes.get("range"), str(notes.get("handling")).startswith("samples")
    pixels = model.autoencoder is None and len(model.shape) == 3 and model.shape[0] in (1, 3)
    if not pixels or sampled or not isinstance(spread, list) or len(spread) != 2:
        return
    (low, high), (least, most) = spread, model.data_range
    slack = 1e-3 * (most - least)
    if low < least - slack or high > most + slack or low >= (least + most) / 2:
        raise ValueError(
            f"{called} are of values in [{low:.4g}, {high:.4g}], but the data of {model.name} lie in [{least:g}, "
            f"{most:g}]; take those of its own states, with `underpaint stats --latents`."
        )


def is_ours(source: str) -> bool:
    """Whether statistics are in the box or a file of ours, which says what they are of."""
    return assets.folder(source) is not None or source.endswith(".safetensors")


def _named(conditions: Iterable[Condition], source: str, model: Model) -> dict[Condition, tuple[Condition, str]]:
    """Which class of a file of ours each condition means, and how the file calls it where that is another name.

    A prompt means the only class whose name it holds. A label means the class of the same name, where both the file
    and the network's own data have names, and else that of the same number.
    """
    notes = gaussian_provenance(source) if is_ours(source) else {}
    known = list(notes.get("classes") or ())
    names = {int(n): str(name) for n, name in (notes.get("class_names") or {}).items() if str(n).isdecimal()}
    named = {n: name for n, name in names.items() if not name.isdecimal()}
    own = str(model.notes.get("data"))
    theirs = known_classes(own) if named and any(isinstance(c, int) for c in conditions) else {}
    by_name = {label: n for n, label in join_by_name(named, theirs).items()}
    meant: dict[Condition, tuple[Condition, str]] = {}
    for condition in conditions:
        if isinstance(condition, str):
            found: list[Condition] = [name for name in known if re.search(rf"\b{re.escape(name)}\b", condition)]
        elif theirs and notes.get("data") != own:
            found = [by_name[condition]] if condition in by_name else []
        else:
            found = [condition] if str(condition) in known else []
        if len(found) == 1:
            label = found[0]
            called = f"class {label} ({names[label]})" if isinstance(label, int) and label in named else ""
            meant[condition] = (label, str(label) if isinstance(condition, str) and label != condition else called)
    return meant


def _class_rows(model: Model, label: int) -> tuple[Tensor, str]:
    """The images of a class, where the box has labelled images of the model's own shape; otherwise no rows."""
    if assets.folder(str(model.notes.get("data"))) is None or model.autoencoder is not None:
        return torch.empty(0, model.dimension), ""
    data = load_data(model.notes["data"], shape=model.image_shape)
    if data.labels is None:
        return torch.empty(0, model.dimension), ""
    return data.rows(data.labels == label), data.source
