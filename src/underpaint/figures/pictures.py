"""Figures made of images: film strips and grids."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..recipes.report.build import Report
from ..recipes.shared.model_and_data import ModelAndData
from .style import COLOURS, new_figure, styled

INCH = 0.62


def tile(images: Tensor) -> Tensor:
    """Images [R, C, channels, H, W] as one picture [R H, C W, channels or nothing], a pixel of white between them."""
    rows, columns, channels, height, width = images.shape
    sheet = torch.ones(rows, columns, channels, height + 1, width + 1)
    sheet[..., :height, :width] = images
    picture = sheet.permute(0, 3, 1, 4, 2).reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    return picture.squeeze(2) if channels == 1 else picture


def show(
    axes: Axes,
    images: Tensor,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    colours: dict[str, str] | None = None,
) -> None:
    """Draw a grid of images with row and column names."""
    height, width = images.shape[3] + 1, images.shape[4] + 1
    axes.imshow(tile(images).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    axes.set_anchor(
        ("N" * bool(columns) + "W" * bool(rows)) or "C"
    )  # where they move away from names, those are cut off
    axes.grid(False)
    axes.set_xticks([width * (i + 0.5) - 1 for i in range(len(columns))], columns, fontsize=7)
    axes.set_yticks([height * (i + 0.5) - 1 for i in range(len(rows))], rows, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for label in axes.get_yticklabels():
        label.set_color((colours or {}).get(label.get_text(), "black"))


def _grid_figure(
    rows: int, columns: int, subject: ModelAndData, panels: int = 1, extra: float = 1.3
) -> tuple[Figure, Any]:
    return new_figure(columns * INCH + extra, panels * (rows * INCH + 0.35), rows=panels)


def _shown_steps(report: Report, count: int = 12) -> list[int]:
    """Steps evenly spread over the trajectory, the last estimate included."""
    return torch.linspace(0, len(report.trajectory) - 1, count).round().long().tolist()


def _ratio_names(report: Report, steps: list[int]) -> list[str]:
    return [f"{float(report.level.ratio[i]):.3g}" for i in steps]


def rescale(rows: Tensor) -> Tensor:
    """Rows [..., D] stretched to fill [-1, 1] about 0 by their own largest entry, so that faint differences can be
    seen."""
    return rows / rows.abs().amax(-1, keepdim=True).clamp(min=1e-12)


@styled
def film_strips(report: Report, seeds: int = 3) -> Figure:
    """Figure 1: states, their differences and endpoint estimates of a few seeds."""
    steps, subject, run = _shown_steps(report), report.subject, report.trajectory
    figure, panels = _grid_figure(3, len(steps), subject, seeds)
    for seed, axes in enumerate(panels):
        parts = (
            run.x[steps, seed] / report.level.norm[steps, None],
            rescale(run.x.diff(dim=0)[steps, seed]),
            run.denoised[steps, seed],
        )
        names = ("state $x_t$", "difference", r"estimate $\hat{x}_0$")
        show(axes, subject.images(torch.stack(parts)), names, _ratio_names(report, steps) if seed == 0 else ())
    panels[0].set_title("σ/α:", fontsize=7, loc="left", fontweight="normal", x=-0.06, y=1.0)
    return figure


@styled
def theory_strips(report: Report, seeds: int = 3) -> Figure:
    """Figure 4: endpoint estimates of the network and of each analytic denoiser, from the same noise."""
    steps, subject, strips = _shown_steps(report), report.subject, report.agreement.strips
    figure, panels = _grid_figure(len(strips), len(steps), subject, seeds)
    for seed, axes in enumerate(panels):
        rows = torch.stack([strip[steps, seed] for strip in strips.values()])
        show(axes, subject.images(rows), list(strips), _ratio_names(report, steps) if seed == 0 else (), COLOURS)
    return figure


@styled
def final_samples(report: Report, count: int = 16) -> Figure:
    """Figure 4: final images from the same noise, and the training image nearest to the network's."""
    subject, part = report.subject, report.agreement
    count = min(count, len(report.trajectory.final))
    rows = {**part.finals, "nearest data": part.neighbours}
    figure, axes = _grid_figure(len(rows), count, subject)
    show(axes, subject.images(torch.stack([images[:count] for images in rows.values()])), list(rows), colours=COLOURS)
    return figure


@styled
def hybrid_samples(report: Report, count: int = 14) -> Figure:
    """Figure 4: the same seeds with more and more of the early steps replaced by the Gaussian's closed form."""
    subject, part = report.subject, report.hybrid
    count = min(count, part.finals.shape[1])
    rows = torch.cat(
        [
            report.trajectory.final[None, :count],
            part.finals[:, :count],
            report.agreement.finals["Gaussian"][None, :count],
        ]
    )
    names = [
        "no skip",
        *(f"skip {k} → {float(r):.3g}" for k, r in zip(part.skip, part.ratio, strict=True)),
        "Gaussian only",
    ]
    figure, axes = _grid_figure(len(rows), count, subject)
    show(axes, subject.images(rows), names)
    return figure


@styled
def perturbed_samples(report: Report) -> Figure:
    """Final images after nudges along each component, at each time, of the seed that they moved most."""
    subject, part = report.subject, report.perturbation
    moved = part.final - report.trajectory.final[: part.final.shape[2]]
    seed = int(moved.square().sum((0, 1, 3)).argmax())
    plain = report.trajectory.final[seed].expand(len(part.level), 1, -1)
    nudged = part.final[:, :, seed]
    figure, panels = new_figure((len(part.components) + 1) * INCH * 2 + 1.6, len(part.level) * INCH + 0.5, columns=2)
    names = [f"σ/α {float(r):.3g}" for r in part.level.ratio]
    columns = ["plain", *(f"u{int(k) + 1}" for k in part.components)]
    show(panels[0], subject.images(torch.cat([plain, nudged], 1)), names, columns)
    panels[0].set_title("final image", y=1.06)
    show(
        panels[1], subject.change(torch.cat([plain, nudged], 1), plain.expand(-1, nudged.shape[1] + 1, -1)), (), columns
    )
    panels[1].set_title("change, one scale (grey: none)", y=1.06)
    return figure


@styled
def case_samples(report: Report) -> Figure | None:
    """One seed's estimates and several seeds' final images under each condition and guidance weight."""
    part, subject = report.conditions, report.subject
    if part is None:
        return None
    steps = _shown_steps(report, 9)
    names = [textwrap.fill(name, 34) for name in part.cases]
    figure, panels = new_figure(
        (len(steps) + part.finals.shape[1]) * INCH * 1.15 + 3, len(names) * INCH * 1.2 + 0.5, columns=2,
        width_ratios=(len(steps), part.finals.shape[1]),
    )  # fmt: skip
    show(panels[0], subject.images(part.strips[:, steps]), names, _ratio_names(report, steps))
    panels[0].set_title("estimates of the first seed, by σ/α", y=1.06)
    show(panels[1], subject.images(part.finals))
    panels[1].set_title("final images, one column a seed", y=1.06)
    return figure


@styled
def decided_samples(report: Report) -> Figure | None:
    """Estimates of undirected samples beside the same pictures as the Gaussian would have settled them."""
    part, subject = report.decided, report.subject
    if part is None:
        return None
    steps = torch.linspace(0, len(part.level) - 1, 12).round().long().tolist()
    figure, panels = _grid_figure(2, len(steps), subject, part.strips.shape[1])
    for seed, axes in enumerate(panels):
        rows = torch.stack([part.strips[steps, seed], part.predicted_strips[steps, seed]])
        ratios = [f"{float(part.level.ratio[i]):.3g}" for i in steps] if seed == 0 else ()
        show(axes, subject.images(rows), ("network", "Gaussian"), ratios, COLOURS)
    return figure
