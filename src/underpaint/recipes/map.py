"""A map of the images around one sample: strips and a grid of variations, and how far each direction is a direction of
images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..analysis.manifold import check_direction, denoise_around, find_direction, kept
from ..analysis.perturbation import carry_on
from ..bounds import integer, number
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..theory.denoiser import Denoiser
from .shared.request import Conditioning, Request, Sampler, as_condition, blend, describe, find_denoiser, only
from .shared.results import listed, picture, quantity


def __getattr__(name: str) -> type:
    if name != "Chart":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("Chart is now MapSettings; the old name goes with the next minor version.", DeprecationWarning, 2)
    return MapSettings


@dataclass(frozen=True)
class MapSettings:
    """What to map.

    Attributes:
        along: directions, as `find_direction` reads them; each gets a strip, the first two span the grid.
        span: distance of the strips' ends from the sample, as a share of the length of the state that is moved.
        points: images in a strip, an odd number, so that the sample itself is in the middle.
        enter: the step after which the state is moved and then sampled on; None moves the finished sample itself.
        toward: another prompt or class: the grid's second axis blends the denoiser into it, D = (1 - s) D_a + s D_b,
            from the entry on (from the start unless ``enter`` says otherwise).
        ratio: noise-to-signal ratio at which distance from the manifold is measured.
        draws: noises over which that is averaged.
    """

    along: tuple[str, ...] = ("x0:1", "x0:2", "x0:3", "eps:1", "random")
    span: float = 0.5
    points: int = 7
    enter: int | None = None
    toward: str | None = None
    ratio: float = 0.2
    draws: int = 8

    def __post_init__(self) -> None:
        if not self.along:
            raise ValueError("A map needs a direction, such as x0:1.")
        if self.points < 3 or self.points % 2 == 0:
            raise ValueError(f"A strip needs an odd number of points, 3 or more, got {self.points}.")
        if not 0 < self.span < float("inf"):
            raise ValueError(f"The span of a map must be positive, got {self.span}.")
        if not 0 < self.ratio < float("inf"):
            raise ValueError(f"The ratio at which to denoise must be positive, got {self.ratio}.")
        integer(self.points, "number of points", 3, 1001)
        number(self.span, "span of a map", 0, 1e6)
        number(self.ratio, "ratio at which to denoise", 0, 1e6)
        if self.draws < 1:
            raise ValueError(f"At least one noise must be drawn, got {self.draws}.")

    def step(self, count: int) -> int:
        """The step of a grid of ``count`` steps after which the state is moved; ``count`` is the finished sample."""
        step = self.enter if self.enter is not None else count if self.toward is None else 0
        last = count if self.toward is None else count - 1
        if not 0 <= step <= last:
            raise ValueError(
                f"A grid of {count} step{'s' * (count != 1)} can be entered at steps 0 to {last} here, got {step}."
            )
        return step

    @property
    def offsets(self) -> Tensor:
        """Distances of a strip's points, as shares of the state's length, [points] float64."""
        half = self.points // 2
        return self.span * torch.arange(-half, half + 1, dtype=torch.float64) / half


@dataclass(frozen=True, eq=False)
class Look:
    """How a denoiser takes moves of a finished sample; 1 kept and no residual is a direction of images."""

    residual: Tensor = quantity("root mean square of x - D(noised x), a number of the state, [direction, offset]")
    kept: Tensor = quantity("share of the move that the denoiser keeps, [direction, positive offset]")


@dataclass(frozen=True, eq=False)
class Map:
    """Images around a sample; ``expected`` is None where no statistics of the data are known, ``setup`` says so."""

    setup: dict[str, Any]
    directions: tuple[str, ...] = quantity("name")
    share: dict[str, float] = quantity("share of the trajectory's variance over time, for principal components")
    step: int = quantity("steps of the grid before the move")
    level: NoiseLevel = quantity()
    offset: Tensor = quantity("share of the length of the state that is moved")
    length: float = quantity("length of the state that is moved for strips and grid")
    blend: Tensor | None = quantity("weight of the second condition, along the grid's second axis")
    noised: NoiseLevel = quantity()
    measured: Look = quantity("the network's look at the finished sample, moved")
    expected: Look | None = quantity("the same for the theory")
    strips: Tensor = picture()
    grid: Tensor | None = picture()

    @property
    def finding(self) -> str:
        """Which directions lead to other images, by what the denoiser keeps of the smallest move."""
        kept, expected = self.measured.kept[:, 0], self.expected
        told = [f"{float(share):.2g} along {name}" for share, name in zip(kept, self.directions, strict=True)]
        if expected is not None:
            told = [f"{words} (theory: {float(v):.2g})" for words, v in zip(told, expected.kept[:, 0], strict=True)]
        most, least = (self.directions[int(place)] for place in (kept.argmax(), kept.argmin()))
        apart = f"{float(kept.max()):.2g}" != f"{float(kept.min()):.2g}"  # as they are told
        which = f" So of these {most} is most a direction of images, and {least} least." if apart else ""
        size = float(self.offset[self.offset > 0].min())
        return (
            f"The finished sample was moved by {size:.2g} of its length, and given a little noise. Of the move the "
            f"denoiser keeps {listed(told)}. It keeps all (1) of a move to another image, and nothing (0) "
            f"of one that is noise.{which}"
        )


def map_around(
    sampler: Sampler, request: Request, chart: MapSettings | None = None, progress: Progress = silent
) -> Map:
    """Sample the first seed, and look around: ``strips`` [direction, point, C, H, W], ``grid`` [second axis, first
    axis, C, H, W] (None with one direction and nothing to blend into).

    Memory: one trajectory, and points^2 states and images.

    Raises:
        ValueError: several seeds or conditions, an unknown direction, or no such step.
    """
    chart = chart or MapSettings()
    case, count = only(request, sampler), len(sampler.level) - 1
    step = chart.step(count)
    if len(request.seeds) != 1:
        raise ValueError(f"A map is of one sample; give one seed, got {len(request.seeds)}.")
    denoise = find_denoiser(sampler.model, case)
    toward = None if chart.toward is None else as_condition(chart.toward, sampler.model)
    if toward is not None:
        find_denoiser(sampler.model, Conditioning(toward, case.guidance, case.negative))
    for text in chart.along:
        check_direction(text, count, sampler.model.dimension, sampler.theory.everything)
    run = sampler.sample(denoise, request.seeds, progress)
    directions = [find_direction(text, run, sampler.theory.everything) for text in chart.along]
    rows = torch.stack([d.rows[0] for d in directions])
    advance = progress("map", (count - step) * (1 if len(rows) == 1 and chart.toward is None else 2))

    def paint(moves: Tensor, by: Denoiser) -> Tensor:
        """Images of the state moved by each of [R, C, D] and sampled on."""
        final = carry_on(by, run, step, moves.flatten(0, 1).unsqueeze(1), sampler.solve, lambda *_: advance())
        return sampler.model.images(final.squeeze(1)).unflatten(0, moves.shape[:2])

    axes = rows.unsqueeze(1) * (chart.offsets.to(run.x) * run.x[step, 0].norm()).unsqueeze(1)
    shares, grid = None, None
    if toward is not None:
        shares = torch.linspace(0, 1, chart.points, dtype=torch.float64)
        there = find_denoiser(sampler.model, Conditioning(toward, case.guidance, case.negative))
        mixed = blend(denoise, there, shares.repeat_interleave(chart.points))
        grid = paint(axes[0].expand(chart.points, -1, -1), mixed)
    elif len(axes) > 1:
        grid = paint(axes[1].flip(0).unsqueeze(1) + axes[0], denoise)
    theory, words = sampler.theory.nearest(case)
    noised = sampler.model.schedule.level(chart.ratio)
    return Map(
        setup=describe(sampler, case, request.seeds) | {"toward": toward, "expected from": words},
        directions=tuple(d.name for d in directions),
        share={d.name: float(d.share[0]) for d in directions if d.share is not None},
        step=step,
        level=sampler.level[step],
        offset=chart.offsets,
        length=float(run.x[step, 0].norm()),
        blend=shares,
        noised=noised,
        measured=_look(denoise, run.final, rows, chart, noised),
        expected=theory and _look(theory, run.final, rows, chart, noised),
        strips=paint(axes, denoise),
        grid=grid,
    )


def _look(denoise: Denoiser, x: Tensor, rows: Tensor, chart: MapSettings, level: NoiseLevel) -> Look:
    """Move a sample x [1, D] along directions [K, D], noise it to the level and denoise it."""
    moves, middle = chart.offsets.to(x) * x.norm(), chart.points // 2
    points = x + moves[:, None] * rows.unsqueeze(1)
    denoised, residual = denoise_around(denoise, points.flatten(0, 1), level, chart.draws)
    denoised = denoised.unflatten(0, points.shape[:2])
    shifts = denoised[:, middle + 1 :] - denoised[:, :middle].flip(1)
    return Look(residual.unflatten(0, points.shape[:2]), kept(shifts, rows.unsqueeze(1), moves[middle + 1 :]))
