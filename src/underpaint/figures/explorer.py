"""The explorer's results: one painting, the closed forms, jumps, solvers, and what is retrieved."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..noise import NoiseLevel
from ..recipes.explorer.nearest_images import NearestImages
from ..recipes.explorer.painting import Bands, ClosedForms, Features, Painting
from ..recipes.explorer.teleport import AFTER, Hybrids, SolverErrors
from .perturbation import image_inch, sample_words
from .pictures import show
from .style import ACCENT, COLOURS, MODES, QUIET, band, new_figure, noise_axis, styled


def level_names(level: NoiseLevel) -> list[str]:
    """sigma/alpha in three digits."""
    return [f"{float(ratio):.3g}" for ratio in level.ratio]


def band_names(bands: Bands) -> list[str]:
    """Such as 'u1', 'u2-3'."""
    ranges = zip(bands.first, bands.last, strict=True)
    return [f"u{first}" if first == last else f"u{first}-{last}" for first, last in ranges]


@styled
def painting(result: Painting, shown: int = 12) -> Figure:
    """The film in ``shown`` frames; below it the path in its plane, and when each band of components stands."""
    steps = torch.linspace(0, len(result.states) - 1, min(shown, len(result.states))).round().long()
    rows = {"state $x_t$": result.states, "change Δx": result.changes, r"estimate $\hat{x}_0$": result.estimates}
    if result.predicted is not None:
        rows["Gaussian's"] = result.predicted
    pictures = torch.stack([images[steps] for images in rows.values()])
    figure, film, (plane, parts) = _film_over(pictures, 9.0, 3.4, 2)
    show(film, pictures, list(rows), level_names(result.level[steps]))
    film.set_title(f"{sample_words(result.setup)}; above each column σ/α", pad=16)
    _plane(plane, result)
    _bands(parts, result)
    return figure


def _film_over(pictures: Tensor, width: float, below: float, panels: int = 1) -> tuple[Figure, Axes, Any]:
    """A figure with room for pictures [R, C, channels, H, W], and below them for panels of ``below`` inches."""
    inch = image_inch(pictures)
    tall = len(pictures) * inch + 0.6
    size = (max(width, pictures.shape[1] * inch + 1.4), tall + below)
    figure = Figure(figsize=size, layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(tall, below)))
    return figure, upper.subplots(), lower.subplots(1, panels)


def _plane(axes: Axes, result: Painting) -> None:
    for name, style in (("rotation", ":"), ("Gaussian", "--"), ("network", ".-")):
        if name in result.plane:
            axes.plot(*result.plane[name].T, style, color=COLOURS.get(name, QUIET), label=name, markersize=4)
    axes.plot(*result.plane["network"][-1], "o", color=COLOURS["network"], markersize=7)
    axes.set(
        title=f"the path in its plane, {100 * result.plane_share:.1f} % of its variance",
        xlabel="component 1",
        ylabel="component 2",
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend()


def _bands(axes: Axes, result: Painting) -> None:
    if result.bands is None:
        axes.text(0.5, 0.5, "no statistics of the data are known", transform=axes.transAxes, ha="center", color=QUIET)
        return
    ratio = result.level.ratio[:-1]
    for k, name in enumerate(band_names(result.bands)):
        colour = MODES[k * len(MODES) // len(result.bands.first)]
        axes.plot(ratio, result.bands.measured[:, k], color=colour, label=name)
        axes.plot(ratio, result.bands.predicted[:, k], "--", color=colour, linewidth=1)
    axes.set(title="share of the finished band that stands (dashed: theory)", ylim=(-0.3, 1.05))
    noise_axis(axes)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


@styled
def closed_form_curves(result: ClosedForms) -> Figure:
    """psi, xi, d xi/dt and gain, the chosen variance in front; the spectrum and what of it has emerged by then."""
    figure, axes = new_figure(10.5, 6.0, 3, 2)
    panels = (
        (axes[0, 0], result.psi, "ψ: state, relative to its start", "log"),
        (axes[0, 1], result.xi / result.xi[-1], "ξ: endpoint estimate, share of its end", "linear"),
        (axes[1, 0], share_of_peak(result.xi_rate), "|dξ/dt|, share of its peak", "linear"),
        (axes[1, 1], result.gain, "gain: final displacement for a unit nudge", "log"),
    )
    for panel, values, title, scale in panels:
        for k, variance in enumerate(result.variance[1:].tolist()):
            panel.plot(result.time, values[:, k + 1], color=MODES[k], lw=1, alpha=0.55, label=f"λ = {variance:g}")
        panel.plot(result.time, values[:, 0], color=ACCENT, linewidth=2.4, label=f"λ = {float(result.variance[0]):.3g}")
        panel.axvline(float(result.time[result.index]), color="black", linewidth=0.8)
        panel.set(title=title, yscale=scale, xlabel="time t  (sampling runs →)")
        if spans_decades(result.time):
            panel.set_xscale("log")
        panel.invert_xaxis()
    axes[0, 1].legend(fontsize=7)
    _spectrum(axes[0, 2], result)
    _emerged(axes[1, 2], result)
    return figure


def spans_decades(time: Tensor) -> bool:
    """Whether a schedule's time is better seen on a log axis, as EDM's is."""
    return float(time.min()) > 0 and float(time.max() / time.min()) > 5000


def share_of_peak(curves: Tensor) -> Tensor:
    """Sizes of curves [N, K], each as a share of its own largest."""
    return curves.abs() / curves.abs().amax(0)


def _spectrum(axes: Axes, result: ClosedForms) -> None:
    """The data's variances; those above the square of sigma/alpha have emerged."""
    if result.spectrum is None:
        axes.text(0.5, 0.5, "no statistics of the data", transform=axes.transAxes, ha="center", color=QUIET)
        return
    threshold, index = float(result.level.ratio[result.index]) ** 2, torch.arange(len(result.spectrum)) + 1
    above = result.spectrum > threshold
    axes.plot(index, result.spectrum.clamp(min=1e-12), color=QUIET)
    axes.plot(index[above], result.spectrum[above], color=ACCENT, linewidth=2.4, label=f"emerged: {int(above.sum())}")
    axes.axhline(threshold, color="black", linewidth=0.8)
    axes.set(title="spectrum of the data; line: (σ/α)²", xscale="log", yscale="log", xlabel="component")
    axes.set_ylim(float(result.spectrum[0]) / 1e6, float(result.spectrum[0]) * 3)
    axes.legend()


def _emerged(axes: Axes, result: ClosedForms) -> None:
    if result.emerged is None:
        axes.set_axis_off()
        return
    axes.plot(result.level.ratio, result.emerged, color=COLOURS["Gaussian"])
    axes.axvline(float(result.level.ratio[result.index]), color="black", linewidth=0.8)
    axes.set(title="share of the data's variance in $\\hat{x}_0$", ylim=(-0.02, 1.02))
    noise_axis(axes, label=False)
    axes.set_xlabel("σ/α  (→ sampling)")


@styled
def features(result: Features) -> Figure:
    """The Gaussian's estimates, and the component that emerges at each level."""
    rows, inch = torch.stack([result.estimates, result.components]), image_inch(result.estimates)
    figure, axes = new_figure(rows.shape[1] * inch + 1.4, 2 * inch + 0.9)
    show(axes, rows, ("estimate", "component"), level_names(result.level))
    axes.set_title("by σ/α: what the Gaussian paints, and the component that emerges", pad=16)
    return figure


@styled
def jumps(result: Hybrids) -> Figure:
    """Final images of the first seeds after longer and longer jumps, and the error foreseen and measured."""
    pictures, inch = result.finals[:, :8], image_inch(result.finals)
    width = pictures.shape[1] * inch + 1.9
    figure = Figure(figsize=(width + 5.0, max(3.6, len(pictures) * inch + 0.8)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(width, 5.0))
    names = zip(result.skip, level_names(result.level), strict=True)
    show(left, pictures, [f"skip {skip} → {ratio}" for skip, ratio in names])
    left.set_title("final images")
    if len(result.skip) > 1:
        ratio = result.level.ratio[1:]
        band(right, ratio, result.predicted[1:], COLOURS["Gaussian"], "predicted", linestyle="--")
        band(right, ratio, result.measured[1:], COLOURS["network"], "measured", marker="o", markersize=3)
        right.axhline(result.tolerance, color=ACCENT, linewidth=1, label=f"allowed: {result.tolerance:g}")
        right.set(title="displacement of the final image", ylabel="standard deviations of the data", yscale="log")
        noise_axis(right, label=False)
        right.set_xlabel("σ/α landed on")
        right.legend()
    return figure


@styled
def contest(result: SolverErrors) -> Figure:
    """Final images of the first seeds by solver, from the start and after the jump, and their distances from the fine
    solution."""
    starts = {"from the start": "", f"after a jump to σ/α = {result.ratio:.3g}": AFTER}
    if not result.jumps:
        starts.popitem()
    names, seeds, inch = ["fine solution", *result.names()], min(4, len(result.fine)), image_inch(result.fine)
    wide, tall = seeds * inch + 0.3, max(3.2, len(names) * inch + 0.9)
    figure = Figure(figsize=(1.4 + len(starts) * wide + 5.6, tall), layout="constrained")
    *panels, right = figure.subplots(1, len(starts) + 1, width_ratios=[*[wide] * len(starts), 4.2])
    for k, (title, suffix) in enumerate(starts.items()):
        blank = torch.ones_like(result.fine)  # a calibrated plan jumps by itself
        rows = [result.fine, *(result.finals.get(name + suffix, blank) for name in result.names())]
        show(panels[k], torch.stack(rows)[:, :seeds], () if k else names)
        panels[k].set_title(title)
        _distances(right, result, suffix, title, k)
    right.set_yticks(range(len(names) - 1), [f"{name}\n{result.nfe[name]} calls" for name in result.names()])
    right.invert_yaxis()
    right.set(title="distance from the fine solution", xlabel="root mean square per number", xscale="log")
    right.legend()
    return figure


def _distances(axes: Axes, result: SolverErrors, suffix: str, label: str, k: int) -> None:
    """Mean and range over seeds, a row for each solver, those of the k-th start a little lower."""
    errors = [result.error[name + suffix] for name in result.names(suffix)]
    mean, low, high = (torch.stack([getattr(e, part) for e in errors]) for part in ("mean", "low", "high"))
    spread = torch.stack([mean - low, high - mean]).clamp(min=0).numpy()
    places, colour = torch.arange(len(errors)) + 0.24 * k - 0.12, (COLOURS["network"], ACCENT)[k]
    axes.errorbar(mean, places, xerr=spread, fmt="o", color=colour, capsize=3, label=label)


@styled
def resemblance(result: NearestImages) -> Figure:
    """Estimates with their nearest training images, the exact score's, and the distances."""
    pictures = torch.stack([result.estimates, *result.neighbours.unbind(1), result.exact_estimates])
    names = ["network", *(f"nearest {k + 1}" for k in range(result.neighbours.shape[1])), "exact score"]
    figure, film, axes = _film_over(pictures, 8.0, 3.0)
    show(film, pictures, names, level_names(result.level))
    inner = result.level.ratio > 0
    ratio, spread = result.level.ratio[inner], result.between
    axes.plot(ratio, result.distance[inner, 0], "o-", color=COLOURS["network"], label="network's estimate")
    axes.plot(ratio, result.exact[inner], "o-", color=COLOURS["exact"], label="exact score's estimate")
    axes.axhspan(float(spread.low), float(spread.high), color=QUIET, alpha=0.2, label="between training images")
    axes.set(title="distance to the nearest training image", ylabel="rms per number")
    noise_axis(axes)
    axes.legend(fontsize=7)
    return figure
