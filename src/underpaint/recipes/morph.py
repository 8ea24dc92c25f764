"""Paths of pictures from one to another, and how well each stays among the images that a network knows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analysis.density import flow_log_prob, flow_to_noise
from ..analysis.manifold import denoise_around
from ..analysis.paths import (
    KINDS,
    LEVELS,
    POINTS,
    RATIO,
    ROUNDS,
    WALKERS,
    ImagePath,
    arc_lengths,
    below,
    check_ratios,
    morph as morph_rows,
)
from ..bounds import SEEDS, check_seeds, integer, number, shown
from ..damage import reason
from ..data.decode import Geometry, is_picture
from ..models.model import Condition
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..theory.denoiser import Denoiser
from .shared.request import (
    Conditioning,
    Request,
    Sampler,
    as_condition,
    blend,
    describe,
    find_denoiser,
    load_on,
    name_condition,
    prepare,
)
from .shared.results import listed, picture, quantity

#: What a path is called.
WORDS = {
    "straight": "straight line",
    "noise": "arc of noise",
    "minimum-energy": "minimum-energy path",
    "principal": "principal curve",
}
#: A seed, and what the network is told for it.
_SEED = re.compile(r"(\d{1,10})(?:@.+)?")


@dataclass(frozen=True)
class MorphSettings:
    """How to go from one picture to another.

    Attributes:
        paths: kinds, as `underpaint.analysis.paths.morph` finds them.
        points: pictures of a path, both ends included.
        ratio: noise-to-signal ratio sigma/alpha down to which strings are pulled, and at which densities are measured.
        begin: the ratio from which they are pulled; by default half the distance of the two pictures.
        levels: from ``begin`` to ``ratio``, evenly in the logarithm.
        rounds: at each level.
        walkers: noisy pictures for each point of a principal curve.
        probes: random probes for the trace in each density; 0 leaves the densities out, which cost the most.
        draws: noises for each residual, at sigma/alpha ``residual_ratio``.
        seed: of walkers and probes.
    """

    paths: tuple[str, ...] = KINDS
    points: int = POINTS
    ratio: float = RATIO
    begin: float | None = None
    levels: int = LEVELS
    rounds: int = ROUNDS
    walkers: int = WALKERS
    probes: int = 4
    draws: int = 8
    residual_ratio: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.paths if name not in KINDS]
        if unknown or not self.paths or len(set(self.paths)) < len(self.paths):
            what = ", ".join(map(shown, self.paths)) or "none"
            raise ValueError(f"Paths are some of {', '.join(KINDS)}, each once; got {what}.")
        integer(self.points, "number of pictures of a path", 3, 1001)
        integer(self.levels, "number of levels", 2, 10_000)
        integer(self.rounds, "number of rounds", 1, 10_000)
        integer(self.walkers, "number of walkers", 2, 10_000)
        if self.probes != 0:
            integer(self.probes, "number of probes", 2, 10_000)
        integer(self.draws, "number of noises", 1, 10_000)
        integer(self.seed, "seed", 0, SEEDS - 1)
        number(self.ratio, "ratio of a path", 1e-4, 1e4)
        number(self.residual_ratio, "ratio at which to denoise", 1e-4, 1e4)


@dataclass(frozen=True, eq=False)
class Morph:
    """Paths of K pictures; rows of the tensors go with ``paths``. Densities are None where there were no probes."""

    setup: dict[str, Any]
    paths: tuple[str, ...] = quantity("name")
    ends: tuple[str, str] = quantity("name")
    noised: NoiseLevel = quantity("level of the strings and of the densities")
    residual_level: NoiseLevel = quantity("level of the residuals")
    distance: float = quantity("root mean square difference of the two pictures, a number of the state")
    length: Tensor = quantity("length along the path over the distance of its ends [path]")
    residual: Tensor = quantity("root mean square of x - D(noised x), a number of the state [path, point]")
    log_prob: Tensor | None = quantity(
        "log density less the mean of that of the two pictures, nats a number [path, point]"
    )
    log_prob_error: Tensor | None = quantity("standard error of the density, nats a number [path, point]")
    pull: dict[str, Tensor] = quantity("root mean square of (D(x) - x) across a string, over the level's sigma/alpha")
    pictures: Tensor = picture()

    @property
    def finding(self) -> str:
        """Which path has the pictures that the network changes least."""
        inner, ends = self.residual[:, 1:-1].mean(1), float(self.residual[:, [0, -1]].mean())
        order = inner.argsort().tolist()
        first, *others = [(f"the {WORDS[self.paths[k]]}", f"{float(inner[k]):.3g}") for k in order]
        than = listed([f"by {value} on {name}" for name, value in others] + [f"the two ends by {ends:.3g}"])
        where = f"least on {first[0]}, by" if others else f"on {first[0]} by"
        return (
            f"With a little noise (σ/α {float(self.residual_level.ratio):.2g}), the network changes pictures "
            f"{where} {first[1]} on average (root mean square per number of the state); {than}. It changes a "
            "picture that it knows less than a mixture of two pictures, and one without detail least of all: look at "
            "the pictures, too."
        )


@dataclass(frozen=True, eq=False)
class _Asked:
    """An end as it was asked for, before any call of the network: what the network is told, and a seed; or the row
    [1, D] of a picture file, and how that was changed to be one of the model's."""

    name: str
    case: Conditioning
    seed: int = 0
    picture: Tensor | None = None
    changed: str = ""

    def same(self, other: _Asked) -> bool:
        """Whether both are one picture."""
        if self.picture is None or other.picture is None:
            return (self.picture is other.picture) and (self.seed, self.case) == (other.seed, other.case)
        return torch.equal(self.picture, other.picture)


@dataclass(frozen=True, eq=False)
class _End:
    """A picture to start from or to arrive at: its row [1, D], its noise [1, D], and what the network is told."""

    case: Conditioning
    x: Tensor
    noise: Tensor


def prepare_ends(request: Request, start: str, end: str) -> Sampler:
    """The model made ready for the conditions of both ends, too.

    Raises:
        ValueError: as `prepare`; a class or prompt beside two ends that have their own.
    """
    if request.conditions and all(_SEED.fullmatch(text) and "@" in text for text in (start, end)):
        named = " and ".join(name_condition(condition) for condition in request.conditions)
        raise ValueError(f"Both ends have conditions of their own, {start} and {end}; leave {named} out.")
    model = load_on(request.model, request.device, request.dtype)
    own = [text.partition("@")[2] for text in (start, end) if _SEED.fullmatch(text)]
    conditions = (*request.conditions, *(as_condition(text, model) for text in own if text))
    return prepare(replace(request, conditions=tuple(dict.fromkeys(conditions))), model)


def morph(
    sampler: Sampler,
    request: Request,
    start: str,
    end: str,
    settings: MorphSettings | None = None,
    progress: Progress = silent,
) -> Morph:
    """Paths between two pictures: "SEED" is a sample, "SEED@CONDITION" one of a class or prompt of its own, and
    "NAME.png" a file.

    Where the ends have different conditions, the network is asked for a blend, (1 - s) D_a + s D_b at a share s of the
    points. Memory: one trajectory of all points, or walkers x points states.

    Raises:
        ValueError: an end that is none of these, the same one twice, a condition that the model does not take, or a
            ratio above that where sampling begins.
    """
    settings = settings or MorphSettings()
    check_ratios(sampler.level, settings.ratio, settings.begin)
    asked = [_read_end(text, request, sampler) for text in (start, end)]
    same = f"A path needs two pictures, and {shown(start)} and {shown(end)} are the same one."
    if asked[0].same(asked[1]):
        raise ValueError(same)
    first, last = (_find_end(one, sampler, progress) for one in asked)
    distance = float((first.x - last.x).double().square().mean().sqrt())
    if distance == 0:
        raise ValueError(same)
    denoise = _between(sampler, first.case, last.case, settings.points)
    found = [_find_path(kind, sampler, denoise, first, last, settings, progress) for kind in settings.paths]
    rows = torch.stack([path.rows for path in found])
    noised, measured = (sampler.model.schedule.level(ratio) for ratio in (settings.ratio, settings.residual_ratio))
    residual = [denoise_around(denoise, path, measured, settings.draws, settings.seed)[1] for path in rows]
    density, error = None, None
    if settings.probes:
        density, error = _log_probs(sampler, denoise, rows, noised, settings, progress)
    return Morph(
        setup=describe(sampler, first.case, ())
        | {"toward": last.case.condition, "changed": {one.name: one.changed for one in asked if one.changed}},
        paths=settings.paths,
        ends=(asked[0].name, asked[1].name),
        noised=noised,
        residual_level=measured,
        distance=distance,
        length=torch.stack([arc_lengths(path)[-1] for path in rows]).cpu() / (first.x - last.x).double().norm().cpu(),
        residual=torch.stack(residual),
        log_prob=density,
        log_prob_error=error,
        pull={kind: path.pull for kind, path in zip(settings.paths, found, strict=True) if path.pull is not None},
        pictures=sampler.model.images(rows),
    )


def _read_end(text: str, request: Request, sampler: Sampler) -> _Asked:
    """What is asked for at an end, with all that can be refused before anything is sampled."""
    if len(request.conditions) > 1 or len(request.guidance) > 1:
        raise ValueError("A path has one condition and one guidance weight; give others as SEED@CONDITION.")
    found = _SEED.fullmatch(text)
    if not found:
        _check_picture(text, sampler)
    own = text.partition("@")[2] if found else ""
    condition: Condition | None = request.conditions[0] if request.conditions else None
    condition = as_condition(own, sampler.model) if own else condition
    negative = None if request.negative is None else as_condition(request.negative, sampler.model)
    case = Conditioning() if condition is None else Conditioning(condition, request.guidance[0], negative)
    find_denoiser(sampler.model, case)
    if not found:
        picture, changed = _read_picture(text, sampler)
        return _Asked(Path(text).name, case, picture=picture, changed=changed)
    check_seeds((int(found[1]),))
    named = f"seed {int(found[1])}" + ("" if condition is None else f", {case.what}")
    return _Asked(named, case, int(found[1]))


def _find_end(asked: _Asked, sampler: Sampler, progress: Progress) -> _End:
    denoise = find_denoiser(sampler.model, asked.case)
    if asked.picture is None:
        run = sampler.sample(denoise, (asked.seed,), progress)
        return _End(asked.case, run.final, run.x[0])
    advance = progress(f"noise of {asked.name}", len(sampler.level) - 1)
    noise = flow_to_noise(denoise, asked.picture, sampler.level[:-1], lambda *_: advance())
    return _End(asked.case, asked.picture, noise)


def _check_picture(text: str, sampler: Sampler) -> None:
    """Refuse what is no picture file, before anything is sampled."""
    if not is_picture(text) or not Path(text).is_file():
        raise ValueError(
            f"An end of a path is a seed (3), a seed with a condition (3@7, '3@an apple') or a picture file; got "
            f"{shown(text)}, which is none of these."
        )
    if sampler.model.image_shape[0] not in (1, 3) or len(sampler.model.shape) != 3:
        raise ValueError(f"{sampler.model.name} makes no pictures that a file could hold; give seeds.")


def _read_picture(text: str, sampler: Sampler) -> tuple[Tensor, str]:
    """A picture file as a row [1, D], brought to the model's size, and what that changed, in words."""
    channels, height, width = sampler.model.image_shape
    geometry = Geometry((height, width), "L" if channels == 1 else "RGB")
    try:
        raw = Path(text).read_bytes()
        pixels, changed = geometry.decode(raw), geometry.changes(raw)
    except OSError as error:
        raise ValueError(f"{text} cannot be read as a picture: {reason(error)}.") from None
    return sampler.model.rows(pixels.float().unsqueeze(0) / 127.5 - 1), changed


def _between(sampler: Sampler, first: Conditioning, last: Conditioning, points: int) -> Denoiser:
    """The network for rows that are walker after walker, each from the first point of a path to the last."""
    if first == last:
        return find_denoiser(sampler.model, first)
    shares = torch.linspace(0, 1, points, dtype=torch.float64)
    here, there = (find_denoiser(sampler.model, case) for case in (first, last))
    return lambda x, level: blend(here, there, shares.repeat(len(x) // points))(x, level)


def _find_path(
    kind: str,
    sampler: Sampler,
    denoise: Denoiser,
    first: _End,
    last: _End,
    settings: MorphSettings,
    progress: Progress,
) -> ImagePath:
    """One path between two ends, with its own progress."""
    steps = {"straight": 1, "noise": len(sampler.level) - 1}
    work = settings.levels * settings.rounds + len(below(sampler.level, settings.ratio))
    how = {
        name: getattr(settings, name) for name in ("points", "ratio", "begin", "levels", "rounds", "walkers", "seed")
    }
    return morph_rows(
        denoise,
        first.x[0],
        last.x[0],
        sampler.level,
        kind,
        **how,
        solver=sampler.solve,
        noises=(first.noise[0], last.noise[0]),
        callback=progress(kind, steps.get(kind, work)),
    )


def _log_probs(
    sampler: Sampler, denoise: Denoiser, rows: Tensor, noised: NoiseLevel, settings: MorphSettings, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Log densities of paths [M, K, D] and their errors, nats a number, less the mean of the ends: [M, K]."""
    level = NoiseLevel.join(sampler.level[sampler.level.ratio > 1.05 * noised.ratio], noised)
    advance = progress("density", len(rows) * len(level))
    options = (level, sampler.theory.everything, settings.probes, settings.seed, advance)
    found = [flow_log_prob(denoise, path, *options) for path in rows]
    value = torch.stack([density.log_prob for density in found]) / rows.shape[-1]
    ends = value[:, [0, -1]].mean()
    return value - ends, torch.stack([density.error for density in found]) / rows.shape[-1]
