"""The benchmark: error and Fréchet distance against calls, against skipped steps, and what the images look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator

from ..analysis.summary import Summary
from ..files import write_text
from ..recipes.benchmark.benchmark import Bench, Score, best_peer
from ..recipes.benchmark.tables import page, rows, write_parquet
from ..recipes.shared.results import to_json
from .folder import write_result
from .pictures import show
from .retrieval import image_inch
from .style import ACCENT, COLOURS, QUIET, band, new_figure, styled

#: Peers in cool colours, ours in warm ones, what was learned in red.
_COLOURS = {
    "DDIM": QUIET,
    "DPM-Solver++": "#3f63c8",
    "UniPC": "#2a8c82",
    "DEIS": "#8ea4e0",
    "Heun": COLOURS["network"],
    "learned": "#c0392b",
    "exponential": "#e0a040",
    "teleported": COLOURS["Gaussian"],
    "calibrated": ACCENT,
}


@styled
def error(result: Bench) -> Figure:
    """Distance to the fine solution against calls: each family at its best grid, peers at diffusers' defaults, and ours
    over the best peer."""
    figure, axes = new_figure(12.0, 3.8, 3)
    axes[1].sharey(axes[0])  # before they are drawn: the limits are then of both
    for panel, role in zip(axes, ("best", "default"), strict=False):
        for family in result.families:
            _curve(panel, family, result.of(role, family) or result.of("best", family))
        panel.set(yscale="log")
        _calls_axis(panel)
    axes[0].set(title="each at its own best grid", ylabel="root mean square distance to the fine solution")
    axes[1].set_title("peers at diffusers' defaults")
    axes[0].legend(fontsize=7)
    for family in dict.fromkeys(ratio.family for ratio in result.ratios):
        found = [ratio for ratio in result.ratios if (ratio.role, ratio.family) == ("best", family)]
        value, low, high = (torch.tensor([getattr(ratio, key) for ratio in found]) for key in ("value", "low", "high"))
        spread = Summary(value, low, high)
        nfe = [score.nfe for score in result.of("best", family)]
        band(axes[2], nfe, spread, _COLOURS[family], family, marker=".")
    axes[2].axhline(1, color=QUIET, linewidth=1)
    axes[2].set_title(
        "ours and learned over the best peer" if result.of("best", "learned") else "ours over the best peer"
    )
    axes[2].set_yscale("log", base=2)
    axes[2].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    _calls_axis(axes[2])
    return figure


@styled
def frechet(result: Bench) -> Figure | None:
    """Fréchet distance against calls, of ours and of the peers with the least error, to images of the data and to the
    network's own; None where it was not measured."""
    own = result.own
    if own is None:
        return None
    figure, panels = new_figure(11.0, 4.0, 2)
    for axes, read in zip(panels, (_to_data, _to_own), strict=True):
        for role, line, label in (("best", "-", "best peer"), ("default", ":", "best peer at diffusers' defaults")):
            peers = [best_peer(result.scores, role, calls) for calls in result.setup["calls"]]
            _frechet_curve(axes, peers, read, line, COLOURS["network"], label)
        for family in result.families:
            found = result.of("best", family)
            if found and not found[0].peer:
                _frechet_curve(axes, found, read, "-", _COLOURS[family], family)
        _calls_axis(axes)
    panels[0].axhline(own.value, color=QUIET, linewidth=1, label="the network's own images")
    panels[0].axhline(own.floor, color=QUIET, linewidth=1, linestyle="--", label="a perfect model")
    panels[0].set(title=f"{own.count} samples, features {own.space}", ylabel="Fréchet distance", ylim=(0, None))
    panels[1].set(title="to the network's own images, from the same noise", yscale="log")
    panels[1].yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    panels[1].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panels[1].yaxis.set_minor_formatter(FormatStrFormatter("%g"))
    panels[0].legend()
    return figure


@styled
def skipping(result: Bench) -> Figure | None:
    """Figure 4F: Fréchet distance against skipped steps, in both accountings; None where it was not measured."""
    if not result.skipping:
        return None
    figure, axes = new_figure(6.4, 4.0)
    for accounting, colour in (("saved", COLOURS["Gaussian"]), ("re-spent", COLOURS["mixture"])):
        found = [part for part in result.skipping if part.accounting == accounting or not part.skip]
        values = [part.frechet.value for part in found]
        axes.plot([part.skip for part in found], values, marker=".", color=colour, label=accounting)
    known, saved = result.skipping[0].frechet, [part for part in result.skipping if part.accounting == "saved"]
    axes.axhline(known.floor, color=QUIET, linewidth=1, linestyle="--", label="a perfect model")
    names = [f"{part.skip}\n{part.cell.skip:.3g}" if part.skip else "0" for part in saved]
    axes.set_xticks([part.skip for part in saved], names)
    axes.set(ylabel="Fréchet distance", ylim=(0, None), xlabel="steps skipped, and σ/α landed on")
    axes.set_title(f"{result.setup['solver']}, {result.setup['steps']} steps, {known.count} samples, {known.space}")
    axes.legend()
    return figure


@styled
def images(result: Bench) -> Figure:
    """Final images of the first held-out seeds, by calls: fine, the best peer, the best at diffusers' defaults, and
    ours."""
    count, _, height, _ = next(iter(next(iter(result.images.values())).values())).shape
    inch = image_inch(height)
    heights = [len(shown) * inch + 0.35 for shown in result.images.values()]
    figure, panels = new_figure(
        count * inch + 2.6, sum(heights), rows=len(heights), squeeze=False, height_ratios=heights
    )
    for panel, (calls, shown) in zip(panels[:, 0], result.images.items(), strict=True):
        show(panel, torch.stack(list(shown.values())), list(shown))
        panel.set_title(f"{calls} calls")
    return figure


def _curve(axes: Axes, family: str, scores: list[Score]) -> None:
    """Over seeds: root mean square as the line, 5 to 95 % behind that of ours."""
    nfe, colour = [score.nfe for score in scores], _COLOURS[family]
    if scores and scores[0].ours:
        spread = Summary.of(torch.stack([score.errors for score in scores]))
        axes.fill_between(nfe, spread.low, spread.high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(nfe, [score.rms for score in scores], marker=".", color=colour, label=family)


def _frechet_curve(
    axes: Axes, scores: list[Score], read: Callable[[Score], float], line: str, colour: str, label: str
) -> None:
    axes.plot([score.nfe for score in scores], list(map(read, scores)), line, marker=".", color=colour, label=label)


def _to_data(score: Score) -> float:
    return score.frechet.value if score.frechet else math.nan


def _to_own(score: Score) -> float:
    return math.nan if score.to_own is None else score.to_own


def _calls_axis(axes: Axes) -> None:
    axes.set_xlabel("calls of the network")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def write_bench(result: Bench, folder: str | Path, parquet: bool = True) -> dict[str, Any]:
    """Write table.md, results.parquet, the figures as PNG and SVG, and results.json; return what the last holds."""
    drawn = {"error": error(result), "images": images(result), "frechet": frechet(result), "skipping": skipping(result)}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}

    def tables(draft: Path) -> None:
        write_text(draft / "table.md", page(result))
        if parquet:
            write_parquet(result, draft / "results.parquet")

    content = to_json(result)
    kept = {name: content[name] for name in ("finding", "setup", "floor", "own", "ratios")}
    return write_result(kept | {"table": rows(result)}, figures, folder, ("png", "svg"), tables)
