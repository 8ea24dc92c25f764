"""Nudge samples on their way, along chosen directions, and hold what becomes of it against the theory's gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import assets
from ..analysis.manifold import Direction, check_direction, find_direction
from ..analysis.perturbation import (
    carry_on,
    displacement,
    feature_dissimilarity,
    gradient_dissimilarity,
    linear_gain,
)
from ..analysis.summary import Summary
from ..bounds import number, shown
from ..models.model import Model
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..sampling.trajectory import Trajectory
from ..theory.denoiser import Denoiser
from .shared.model_and_data import find_quality_measures
from .shared.request import Conditioning, Request, Sampler, describe, find_denoiser, only
from .shared.results import listed, picture, quantity

#: images [..., C, H, W] in [0, 1], and others to compare with -> dissimilarity [...]
Dissimilarity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Nudges:
    """What to add to the state, when, and how much of it.

    Attributes:
        along: directions, as `find_direction` reads them.
        at: steps after which the state is nudged, from 0 (the starting noise); six over the grid unless given.
        magnitudes: lengths of the nudges, in units; 0 moves nothing and is left out.
        unit: "sigma", the noise level's sigma, or "norm", the length of the state.
    """

    along: tuple[str, ...] = ("x0:1",)
    at: tuple[int, ...] = ()
    magnitudes: tuple[float, ...] = (-8.0, -4.0, -2.0, 2.0, 4.0, 8.0)
    unit: str = "sigma"

    def __post_init__(self) -> None:
        if len(self.magnitudes) > 1000:
            raise ValueError(f"A nudge has at most 1,000 magnitudes, got {len(self.magnitudes):,}.")
        for magnitude in self.magnitudes:
            number(magnitude, "magnitude of a nudge", -1e6, 1e6)
        if not any(self.magnitudes):
            raise ValueError(f"A nudge needs a magnitude other than 0, got {list(self.magnitudes)}.")
        if self.unit not in ("sigma", "norm"):
            raise ValueError(f"Unknown unit {shown(self.unit)}; choose sigma or norm.")
        if not self.along:
            raise ValueError("A nudge needs a direction, such as x0:1.")

    def steps(self, count: int) -> tuple[int, ...]:
        """The steps at which to nudge on a grid of ``count`` steps."""
        chosen = self.at or tuple(sorted({min(count - 1, round(count * share / 6)) for share in range(6)}))
        if not all(0 <= step < count for step in chosen):
            steps = f"{count} step{'s' * (count != 1)}"
            raise ValueError(f"A grid of {steps} can be entered at steps 0 to {count - 1}, got {list(chosen)}.")
        return chosen


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Final images after nudges, and how far the theory foresees it; spreads are over seeds.

    ``predicted_along`` and ``predicted_total`` are None where no statistics of the data are known; ``setup`` says so.
    """

    setup: dict[str, Any]
    level: NoiseLevel = quantity()
    step: tuple[int, ...] = quantity("steps of the grid before the nudge")
    magnitude: tuple[float, ...] = quantity("sigma, or norm of the state: see unit")
    unit: str = quantity("what magnitudes are multiples of")
    directions: tuple[str, ...] = quantity("name")
    share: dict[str, Summary] = quantity("share of the trajectory's variance over time, for principal components")
    size: Summary = quantity("length of the nudge, [step, magnitude]")
    along: Summary = quantity("displacement along the direction for a unit of nudge, [direction, step, magnitude]")
    total: Summary = quantity("whole displacement for a unit of nudge, [direction, step, magnitude]")
    predicted_along: Summary | None = quantity("the same for the theory, at any magnitude, [direction, step]")
    predicted_total: Summary | None = quantity("the same for the theory, at any magnitude, [direction, step]")
    features: str = quantity("what the dissimilarity is taken in")
    dissimilarity: Summary = quantity("of the image to the plain one, 0 (alike) to 2, [direction, step, magnitude]")
    plain: Tensor = picture()
    images: Tensor = picture()

    @property
    def finding(self) -> str:
        """What becomes of a nudge along the first direction, early and late, and how far the theory foresees all."""
        along, foreseen = self.along.mean.mean(2), self.predicted_along
        told = []
        for k in sorted({0, len(self.step) - 1}):
            theory = "" if foreseen is None else f" (theory: {float(foreseen.mean[0, k]):.2g})"
            when = f"at step {self.step[k]} (σ/α {float(self.level.ratio[k]):.3g})"
            told.append(f"by {float(along[0, k]):.2g} times the nudge{theory} {when}")
        words = [f"A nudge along {self.directions[0]} moves the finished sample in its own direction {listed(told)}."]
        if foreseen is None:
            return f"{words[0]} There is no theory to hold it against: {self.setup['predicted from']}."
        ratio = float((along / foreseen.mean).nanmedian())
        words += [f"Over all directions and steps, what arrives is {ratio:.2g} times what the theory says (median)."]
        return " ".join(words)


def perturb(sampler: Sampler, request: Request, nudges: Nudges | None = None, progress: Progress = silent) -> Perturbed:
    """Sample the seeds; nudge them along each direction, at each step, by each magnitude; sample on and compare.

    ``images`` are those of the first seed, [direction, step, magnitude, C, H, W]. Memory: the trajectories, and the
    final states and images of one direction and step.

    Raises:
        ValueError: several conditions, an unknown direction, or steps beyond the grid.
    """
    nudges = nudges or Nudges()
    case, count = only(request, sampler), len(sampler.level) - 1
    steps, magnitudes = nudges.steps(count), tuple(sorted({m for m in nudges.magnitudes if m}))
    for text in nudges.along:
        check_direction(text, count, sampler.model.dimension, sampler.theory.everything)
    run = sampler.sample(find_denoiser(sampler.model, case), request.seeds, progress)
    directions = [find_direction(text, run, sampler.theory.everything) for text in nudges.along]
    size = torch.tensor(magnitudes, dtype=torch.float64)[:, None] * _unit_length(run, steps, nudges.unit).unsqueeze(1)
    features, dissimilarity = find_features(sampler.model)
    measured, images = _respond(sampler, case, run, directions, steps, size, dissimilarity, progress)
    theory, words = sampler.theory.nearest(case)
    predicted = theory and _predict(sampler, theory, directions, steps)
    return Perturbed(
        setup=describe(sampler, case, request.seeds) | {"predicted from": words},
        level=sampler.level[torch.tensor(steps)],
        step=steps,
        magnitude=magnitudes,
        unit=nudges.unit,
        directions=tuple(direction.name for direction in directions),
        share={d.name: Summary.of(d.share) for d in directions if d.share is not None},
        size=Summary.of(size),
        along=Summary.of(measured[0]),
        total=Summary.of(measured[1]),
        predicted_along=predicted and Summary.of(predicted[0]),
        predicted_total=predicted and Summary.of(predicted[1]),
        features=features,
        dissimilarity=Summary.of(measured[2]),
        plain=sampler.model.images(run.final[0]),
        images=images,
    )


def _unit_length(run: Trajectory, steps: Sequence[int], unit: str) -> Tensor:
    """What a magnitude of 1 is long, [step, seed] float64."""
    index = torch.tensor(steps)
    norms = run.x[index].double().norm(dim=-1)
    return norms if unit == "norm" else run.level.sigma[index].unsqueeze(1).expand_as(norms)


def _respond(
    sampler: Sampler,
    case: Conditioning,
    run: Trajectory,
    directions: Sequence[Direction],
    steps: Sequence[int],
    size: Tensor,
    dissimilarity: Dissimilarity,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """[along, total, dissimilarity] by direction, step, magnitude and seed, and the first seed's images."""
    denoise, plain = find_denoiser(sampler.model, case), sampler.model.images(run.final)
    advance = progress("nudges", len(directions) * sum(len(run) - step for step in steps))
    measured, images = [], []
    for direction in directions:
        for step, length in zip(steps, size, strict=True):
            moves = length.unsqueeze(2).to(run.x) * direction.rows
            final = carry_on(denoise, run, step, moves, sampler.solve, lambda *_: advance())
            shown = sampler.model.images(final)
            changed = dissimilarity(shown, plain)
            measured.append(torch.stack([*displacement(final - run.final, direction.rows, length), changed]))
            images.append(shown[:, 0])
    shape = (len(directions), len(steps))
    return torch.stack(measured, 1).unflatten(1, shape), torch.stack(images).unflatten(0, shape)


def _predict(
    sampler: Sampler, theory: Denoiser, directions: Sequence[Direction], steps: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The theory's displacement along the direction, and its whole length, for a unit of nudge: [direction, step,
    seed]."""
    unit = torch.ones((), dtype=torch.float64)
    pairs = [
        displacement(linear_gain(theory, d.rows, sampler.level[step:], sampler.solve), d.rows, unit)
        for d in directions
        for step in steps
    ]
    along, total = (torch.stack(values).unflatten(0, (-1, len(steps))) for values in zip(*pairs, strict=True))
    return along, total


def find_features(model: Model) -> tuple[str, Dissimilarity]:
    """A name and a dissimilarity of images: in the features of the box's classifier of the model's data, where there is
    one, else in multi-scale gradients."""
    space = find_quality_measures(assets.folder(str(model.notes.get("data"))))[0]
    if space is None or tuple(space.shape) != model.image_shape:
        return "1 - cosine of image gradients, mean over scales", gradient_dissimilarity

    def features(images: Tensor) -> Tensor:
        flat = images.reshape(-1, model.image_shape[0] * model.image_shape[1] * model.image_shape[2])
        return space.extract(2 * flat - 1).reshape(*images.shape[:-3], -1)

    return (
        f"1 - cosine of the features of {space.name}",
        lambda images, others: feature_dissimilarity(features(images), features(others)),
    )
