"""Figures made of curves: geometry, closed forms, emergence, agreement, quality."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..analysis.summary import Summary
from ..recipes.report.build import Report
from .pictures import show
from .style import ACCENT, COLOURS, MODES, QUIET, band, new_figure, noise_axis, styled


def _component_names(report: Report) -> list[str]:
    part = report.modes
    return [f"u{int(k) + 1}  λ = {float(v):.2g}" for k, v in zip(part.components, part.eigenvalues, strict=True)]


@styled
def trajectory_geometry(report: Report) -> Figure:
    """Figure 1: dimension of single trajectories, their principal plane, and the rotation."""
    part, level = report.geometry, report.level
    figure, axes = new_figure(10.5, 6.2, 3, 2)
    names = {
        "x": ("states $x_t$", COLOURS["network"]),
        "difference": ("differences", COLOURS["mixture"]),
        "eps": ("noise estimates", ACCENT),
    }
    for key, (name, colour) in names.items():
        shares = part.shares[key]
        band(
            axes[0, 0],
            range(1, len(shares.mean) + 1),
            shares,
            colour,
            f"{name}: {float(part.needed[key].mean):.1f} for 99.9 %",
        )
    axes[0, 0].set(title="variance in the first k components", xlabel="k", ylim=(None, 1.005))
    axes[0, 0].legend(loc="lower right")
    for i, path in enumerate(part.principal_coordinates):
        axes[0, 1].plot(*path.T, ".-", color=MODES[2 * i % len(MODES)], markersize=3, linewidth=1)
        axes[0, 1].plot(
            *path[-1], "o", color=MODES[2 * i % len(MODES)], markersize=6, label="final image" if i == 0 else None
        )
    axes[0, 1].set(title="paths in their own principal plane", xlabel="component 1", ylabel="component 2")
    axes[0, 1].legend()
    _rotation(axes[0, 2], report)
    ratio = level.ratio[:-1]
    for summary, name, colour in (
        (part.plane_residual, "outside span($x_0$, $x_T$)", COLOURS["network"]),
        (part.rotation_error, "from α$x_0$ + σ$x_T$", COLOURS["Gaussian"]),
        (part.rotation_error_squared, "from α²$x_0$ + σ$x_T$ (authors' script)", QUIET),
    ):
        band(axes[1, 0], ratio, summary[:-1], colour, name)
    axes[1, 0].set(title="residual, share of $|x_t|^2$", yscale="log", ylim=(1e-6, 1))
    noise_axis(axes[1, 0], label=False)
    axes[1, 0].set_xlabel("σ/α  (→ sampling)")
    axes[1, 0].legend()
    cosines = part.difference_cosines
    error = torch.stack([cosines.mean - cosines.low, cosines.high - cosines.mean]).clamp(min=0)
    axes[1, 1].errorbar(
        [str(lag) for lag in part.lags], cosines.mean, yerr=error.numpy(), fmt="o", color=COLOURS["network"], capsize=3
    )
    axes[1, 1].set(title="cosine of differences", xlabel="steps apart", ylim=(-0.05, 1.05))
    _angles(axes[1, 2], report)
    return figure


def _angles(axes: Axes, report: Report) -> None:
    """Between noise and image, by seed; the legend has the upper third to itself, wherever the lines stand."""
    cosines = torch.nn.functional.cosine_similarity(report.trajectory.x[0], report.trajectory.final)
    counts, _, _ = axes.hist(torch.rad2deg(torch.acos(cosines)).numpy(), bins=16, color=COLOURS["network"], alpha=0.8)
    axes.axvline(90, ymax=2 / 3, color=ACCENT, linewidth=1, label="90°: orthogonal")
    expected = float(report.agreement.gaussian_angle.mean)
    axes.axvline(expected, ymax=2 / 3, color=COLOURS["Gaussian"], linestyle="--", label="Gaussian's own flow, mean")
    axes.set(title="angle between $x_0$ and $x_T$", xlabel="degrees", ylabel="seeds")
    axes.set_ylim(0, 1.5 * float(np.max(counts)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left")


def _rotation(axes: Axes, report: Report) -> None:
    a, b = report.geometry.coordinates.unbind(2)
    axes.plot(a, b, color=COLOURS["network"], linewidth=0.6, alpha=0.35)
    level = report.trajectory.preserving.level  # of which the coordinates are
    axes.plot(level.alpha, level.sigma, "--", color=COLOURS["Gaussian"], label="$(α_t, σ_t)$")
    axes.plot([], [], color=COLOURS["network"], label="network, one line a seed")
    axes.set(title="in the plane of noise and image", xlabel="share of $x_0$", ylabel="share of $x_T$")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="lower left")


@styled
def mode_geometry(report: Report, seeds: int = 4) -> Figure:
    """Figure 2: state and endpoint estimate along single components, network against closed form."""
    part, subject = report.modes, report.subject
    chosen = [0, len(part.components) // 2, len(part.components) - 1]
    figure, axes = new_figure(10.5, 3.4, 3)
    start = part.state[0]
    for panel, k in zip(axes, chosen, strict=True):
        for seed in range(min(seeds, start.shape[1])):
            colour = MODES[2 * seed % len(MODES)]
            scale = float(part.eigenvalues[k].sqrt())
            panel.plot(part.state[:-1, seed, k] / scale, part.estimate[:, seed, k] / scale, color=colour)
            c = float(start[seed, k]) / scale
            panel.plot(part.psi[:, k] * c, part.xi[:, k] * c, "--", color=colour, linewidth=1)
        panel.plot([], [], color="black", label="network")
        panel.plot([], [], "--", color="black", linewidth=1, label="Gaussian, closed form")
        index = int(part.components[k])
        panel.set(
            title=f"component {index + 1}, λ = {float(part.eigenvalues[k]):.3g}", xlabel="state  u·($x_t$ − αμ)/√λ"
        )
        panel.plot(
            part.state[0, :seeds, k] / scale, part.estimate[0, :seeds, k] / scale, "o", color="black", markersize=3
        )
        inset = panel.inset_axes((0.37, 1.12, 0.26, 0.26))
        show(inset, subject.directions(part.basis[k : k + 1], 2 * part.eigenvalues[k].sqrt())[None])
    axes[0].set_ylabel("estimate  u·($\\hat{x}_0$ − μ)/√λ")
    axes[0].legend(loc="lower right")
    return figure


@styled
def mode_curves(report: Report) -> Figure:
    """Figure 3: how each mode is scaled, appears, when it appears fastest, and how a nudge on it is amplified."""
    part = report.modes
    figure, axes = new_figure(10.5, 5.6, 2, 2)
    panels = (
        (axes[0, 0], part.psi, "ψ: state, relative to its start", "log"),
        (axes[0, 1], part.xi / (part.xi[-1]), "ξ: endpoint estimate, as a share of its end", "linear"),
        (
            axes[1, 0],
            part.xi_rate.abs() / part.xi[-1],
            "|dξ/dt|: when the feature is painted, per unit of time",
            "linear",
        ),
        (axes[1, 1], part.gain, "gain: final displacement for a unit nudge at t", "log"),
    )
    for panel, values, title, scale in panels:
        for k, name in enumerate(_component_names(report)):
            panel.plot(part.time, values[:, k], color=MODES[k % len(MODES)], label=name)
        panel.set(title=title, yscale=scale, xlabel="time t of the model's schedule  (sampling runs →)")
        panel.invert_xaxis()
    axes[0, 1].legend()
    return figure


@styled
def emergence(report: Report) -> Figure:
    """Figure 3: measured against predicted emergence of the principal components."""
    part, shown = report.emergence, report.modes
    figure, axes = new_figure(10.5, 4.0, 2)
    seen = [int(k) for k in shown.components if int(k) < part.measured.shape[1]]
    for i, k in enumerate(seen):
        colour = MODES[i % len(MODES)]
        axes[0].plot(part.level.ratio, part.measured[:, k], color=colour, label=f"u{k + 1}")
        axes[0].plot(part.level.ratio, part.predicted[:, k], "--", color=colour, linewidth=1)
    axes[0].set(title="share of a component's variance in $\\hat{x}_0$ (dashed: theory)", ylim=(-0.03, 1.05))
    axes[0].axhline(0.5, color=QUIET, linewidth=0.8)
    noise_axis(axes[0])
    axes[0].legend()
    points = axes[1].scatter(
        part.predicted_half,
        part.measured_half,
        c=torch.arange(len(part.predicted_half)) + 1,
        cmap="YlOrBr_r",
        s=18,
        edgecolors="#6b6b6b",
        linewidths=0.3,
    )
    ends = [float(part.predicted_half.min()), float(part.predicted_half.max())]
    axes[1].plot(ends, ends, color=COLOURS["Gaussian"], linewidth=1, label="theory: σ/α = √λ")
    axes[1].set(
        xscale="log",
        yscale="log",
        title=f"half-variance level, rank correlation {part.rank_correlation:.2f}",
        xlabel="predicted √λ",
        ylabel="measured σ/α",
    )
    axes[1].legend()
    figure.colorbar(points, ax=axes[1], label="component")
    return figure


@styled
def deviation(report: Report) -> Figure:
    """Figure 4: distance of analytic trajectories from the network's, and agreement of the denoisers."""
    part = report.agreement
    figure, axes = new_figure(10.5, 6.0, 2, 2)
    ratio = part.level.ratio
    for name in part.explained:
        band(axes[0, 0], ratio[1:-1], part.state_error[name][1:-1], COLOURS[name], name)
        band(axes[0, 1], ratio[:-1], part.estimate_error[name], COLOURS[name], name)
        axes[1, 0].plot(ratio[:-1], part.explained[name], color=COLOURS[name], label=name)
        axes[1, 1].plot(ratio[:-1], part.score_explained[name], color=COLOURS[name], label=name)
    axes[0, 0].set(title="state: mean square of $x_t$ − network's", yscale="log", ylim=(1e-6, None))
    axes[0, 1].set(title="estimate: mean square of $\\hat{x}_0$ − network's", yscale="log")
    axes[1, 0].set(title="denoiser: explained variance about the mean", ylim=(-0.55, 1.03))
    axes[1, 1].set(title="score: explained variance (near 1 for anything at high noise)", ylim=(-0.55, 1.03))
    for panel in axes.flat:
        noise_axis(panel, label=False)
        panel.set_xlabel("σ/α  (→ sampling)")
    axes[0, 0].legend()
    return figure


@styled
def frechet(report: Report) -> Figure | None:
    """Figure 4: quality against skipped steps; None where there is no feature space for the data."""
    part = report.frechet
    if part is None:
        return None
    figure, axes = new_figure(8.2, 3.8)
    axes.plot(part.skip, part.saved, "o-", color=ACCENT, label="teleport, saved: fewer calls")
    if part.respent:
        axes.plot(
            part.skip[1:],
            part.respent,
            "s--",
            color=COLOURS["network"],
            label=f"teleport, re-spent: {part.steps} calls",
        )
    top = max(part.saved)
    for name, value in part.baselines.items():
        colour = COLOURS.get(name, QUIET)
        axes.axhline(value, color=colour, linewidth=1, linestyle=":", label=f"{name}: {value:.2f}")
        top = max(top, value)
    axes.set(
        yscale="log",
        xlabel=f"steps skipped of {part.steps} ({part.solver})",
        ylabel=f"Fréchet distance\n({part.features}, {part.samples} samples)",
    )
    twin = axes.secondary_xaxis("top")
    twin.set_xticks(part.skip, [f"{float(r):.3g}" for r in part.ratio], fontsize=7)
    twin.set_xlabel("σ/α landed on", fontsize=8)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


@styled
def perturbation_gain(report: Report) -> Figure:
    """Measured against predicted displacement of the final image, by component and time of the nudge."""
    part = report.perturbation
    figure, axes = new_figure(10.5, 3.6, len(part.level), sharey=True)
    x = torch.arange(len(part.components))
    for i, panel in enumerate(axes):
        along, total = part.along[i], part.total[i].mean(1)
        spread = torch.stack([along.mean(1) - along.quantile(0.05, 1), along.quantile(0.95, 1) - along.mean(1)]).clamp(
            min=0
        )
        panel.errorbar(
            x,
            along.mean(1),
            yerr=spread.numpy(),
            fmt="o",
            color=COLOURS["network"],
            capsize=3,
            label="measured, along the component",
        )
        panel.plot(x, total, "^", color=QUIET, markersize=5, label="measured, whole displacement")
        panel.plot(
            x, part.predicted[i], "_", color=COLOURS["Gaussian"], markersize=22, markeredgewidth=2, label="theory"
        )
        panel.set_xticks(x, [f"u{int(k) + 1}" for k in part.components])
        panel.set_title(f"nudged at σ/α = {float(part.level.ratio[i]):.3g}")
        panel.set_yscale("symlog", linthresh=0.05)
    axes[0].set_ylabel("displacement / nudge")
    axes[-1].legend(loc="upper right")
    return figure


@styled
def decided(report: Report) -> Figure | None:
    """When background, layout, identity and detail stand in the estimate, beside the theory's prediction."""
    part = report.decided
    if part is None:
        return None
    figure, (left, right) = new_figure(10.5, 3.8, 2)
    for k, name in enumerate(part.features):
        left.plot(part.level.ratio, part.measured[:, k], color=MODES[2 * k], label=name)
        left.plot(part.level.ratio, part.predicted[:, k], "--", color=MODES[2 * k], linewidth=1)
        right.plot(part.predicted_half[k], part.measured_half[k], "o", color=MODES[2 * k], markersize=8)
        if bool(torch.isfinite(part.predicted_half[k] * part.measured_half[k])):
            place = (float(part.predicted_half[k]), float(part.measured_half[k]))
            beside = (8, -3) if k > 1 else (-8, -3)  # neighbours in the list tend to lie near one another
            right.annotate(name, place, beside, textcoords="offset points", fontsize=8, ha="left" if k > 1 else "right")
    left.plot([], [], "--", color="black", linewidth=1, label="theory")
    left.set(ylabel="share of the finished feature", ylim=(-0.25, 1.05))
    left.legend(loc="lower right")
    noise_axis(left)
    values = torch.cat([part.predicted_half, part.measured_half])
    values = values[torch.isfinite(values)]
    if len(values):
        ends = (float(values.min()) / 2, float(values.max()) * 2)
        right.plot(ends, ends, color=QUIET, linewidth=1, label="theory = network")
        right.set(xlim=ends, ylim=ends, xscale="log", yscale="log")
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        right.legend(loc="upper left")
    right.set(xlabel="σ/α at half, theory", ylabel="σ/α at half, network")
    return figure


@styled
def case_geometry(report: Report) -> Figure | None:
    """The shape of trajectories under each condition and guidance weight."""
    part = report.conditions
    if part is None:
        return None
    figure, axes = new_figure(10.5, 1.1 + 0.34 * len(part.cases), 4, sharey=True)
    measures = (
        ("components\nfor 99.9 %", [g.needed["x"] for g in part.geometry]),
        ("largest share\noff the plane", [_peak(g.plane_residual) for g in part.geometry]),
        ("largest share\noff the rotation", [_peak(g.rotation_error) for g in part.geometry]),
        ("angle of $x_0$\nand $x_T$, degrees", [g.edge_angle for g in part.geometry]),
    )
    y = torch.arange(len(part.cases))
    for panel, (title, summaries) in zip(axes, measures, strict=True):
        mean = torch.stack([summary.mean.reshape(()) for summary in summaries]).double()
        low, high = (
            torch.stack([getattr(summary, end).reshape(()) for summary in summaries]).double()
            for end in ("low", "high")
        )
        error = torch.stack([mean - low, high - mean]).clamp(min=0).numpy()
        panel.errorbar(mean, y, xerr=error, fmt="o", color=COLOURS["network"], capsize=3)
        panel.set_title(title)
    axes[0].set_yticks(y, [_short(name) for name in part.cases], fontsize=7)
    axes[0].set_ylim(len(part.cases) - 0.5, -0.5)
    return figure


def _peak(summary: Summary) -> Summary:
    """A curve's summary at the level where its mean is largest."""
    return summary[int(summary.mean.argmax())]


def _short(name: str, width: int = 46) -> str:
    return name if len(name) <= width else f"{name[: width // 2 - 1]} … {name[-width // 2 :]}"
