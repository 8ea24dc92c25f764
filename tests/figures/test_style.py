"""What all figures share."""

from itertools import pairwise

import pytest

from underpaint.figures.style import new_figure, noise_axis, styled


@styled
def labels(most: float, least: float, width: float = 2.2) -> list[tuple[float, float, str]]:
    """Left, right and text of each label of a noise axis in a panel, narrow unless told, from left to right."""
    figure, axes = new_figure(width, 2.0)
    axes.plot([most, least], [0.0, 1.0])
    noise_axis(axes, label=False)
    figure.draw_without_rendering()
    ends = sorted(axes.get_xlim())
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    shown = [tick.label1 for tick in ticks if tick.label1.get_text() and ends[0] <= tick.get_loc() <= ends[1]]
    boxes = [(text.get_window_extent(), text.get_text()) for text in shown]
    return sorted((box.x0, box.x1, text) for box, text in boxes)


@pytest.mark.parametrize(
    ("most", "least"),
    [
        *[(157, 0.01), (80, 0.002), (20, 2), (10, 4), (3, 1.5), (0.9, 0.5), (0.03, 0.012)],
        *[(1.25, 1), (1.1, 1), (1.02, 0.98), (10.5, 9.5), (3.001, 3), (0.01234, 0.0123), (157.4, 157.3)],
    ],
)
def test_the_labels_of_a_noise_axis_are_plain_numbers_that_do_not_overlap(most: float, least: float) -> None:
    shown = labels(most, least)
    assert len(shown) >= 2
    assert all(here[1] < there[0] for here, there in pairwise(shown))
    numbers = [float(text) for *_, text in shown]
    assert numbers == sorted(numbers, reverse=True)
    assert most * 1.5 > numbers[0] > numbers[-1] > least / 1.5


def test_a_wide_panel_keeps_all_labels_and_a_narrow_one_every_second() -> None:
    assert [text for *_, text in labels(1.02, 0.98, 5.0)] == [
        f"{x:g}" for x in (1.02, 1.015, 1.01, 1.005, 1, 0.995, 0.99, 0.985, 0.98)
    ]
    assert [text for *_, text in labels(1.02, 0.98)] == ["1.02", "1.01", "1", "0.99", "0.98"]
