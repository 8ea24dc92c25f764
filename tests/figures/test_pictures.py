"""Grids of pictures: names of rows and columns stay within the figure, whatever its size."""

from __future__ import annotations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from underpaint.figures.pictures import show
from underpaint.figures.style import new_figure, styled


@styled
def panels(width: float, height: float, rows: int, columns: int, count: int) -> Figure:
    """So many grids below each other, with long names and titles."""
    figure, axes = new_figure(width, height, rows=count)
    for one in (axes,) if count == 1 else axes:
        named = [f"DPMSolverMultistep, {k + 5} calls" for k in range(rows)], [f"{k}.25" for k in range(columns)]
        show(one, torch.rand(rows, columns, 3, 28, 28), *named)
        one.set_title("a title", pad=16)
    return figure


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns", "count"),
    [
        (4, 5.6, 6, 3, 1),
        (5.5, 5.6, 4, 3, 1),
        (5.5, 3, 2, 3, 1),
        (5.5, 8, 6, 3, 1),
        (4, 3, 4, 8, 2),
        (5.5, 5.6, 2, 3, 2),
    ],
)
def test_names_of_rows_and_columns_are_not_cut_off(
    width: float, height: float, rows: int, columns: int, count: int
) -> None:
    """Pictures that were centred in a figure of another shape left room for a part of their names only."""
    figure = panels(width, height, rows, columns, count)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    right, top = figure.bbox.max
    for axes in figure.axes:
        for label in (*axes.get_yticklabels(), *axes.get_xticklabels(), axes.title):
            extent = label.get_window_extent(canvas.get_renderer())
            assert min(extent.x0, extent.y0, right - extent.x1, top - extent.y1) > -0.5, label.get_text()
