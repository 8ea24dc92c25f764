"""What a sampler does to a spectrum, as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..recipes.spectrum import Spectra
from .folder import write_result
from .style import MODES, QUIET, new_figure, styled


@styled
def spectrum(result: Spectra) -> Figure:
    """Variance of the samples over that of the data by eigenvalue, a line for each number of steps."""
    figure, axes = new_figure(7.0, 4.0)
    order = result.eigenvalues.argsort()
    values = result.eigenvalues[order]
    axes.axhline(1, color=QUIET, linewidth=1, label="the data's")
    for i, (steps, share) in enumerate(zip(result.steps, result.share, strict=True)):
        colour = MODES[i * (len(MODES) - 1) // max(len(result.steps) - 1, 1)]
        axes.plot(values, share[order], color=colour, marker="." if len(values) < 40 else "", label=f"{steps} steps")
    low, high = float(result.share.min()), float(result.share.max())
    axes.set(xscale="log", yscale="log", ylim=(max(min(low / 2, 0.3), 1e-6), max(high * 2, 3)))
    axes.set(xlabel="eigenvalue λ of the data", ylabel="variance of the samples / λ", title=result.sampler)
    axes.legend()
    return figure


def write_spectrum(result: Spectra, folder: str | Path) -> dict[str, Any]:
    """Write the figure and results.json; return what the JSON holds."""
    return write_result(result, {"spectrum": spectrum(result)}, folder)
