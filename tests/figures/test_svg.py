"""Figures that turn dark with the page: contrast by value, and colours that carry a number are left alone."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from contrast import contrast
from matplotlib.colors import rgb_to_hsv, to_rgb

from underpaint.figures.style import ACCENT, COLOURS, MODES, QUIET, new_figure, styled
from underpaint.figures.svg import INK, PAPER, draw_svg, in_the_dark


def test_paper_and_ink_change_places():
    assert (in_the_dark("#ffffff"), in_the_dark("#000000")) == (PAPER, INK)


@pytest.mark.parametrize("colour", [*COLOURS.values(), ACCENT, QUIET, *MODES])
def test_a_line_in_the_dark_is_seen_and_keeps_its_hue(colour: str):
    """At least 3:1, what WCAG 2.2 asks of the parts of a chart (1.4.11)."""
    turned = in_the_dark(colour)
    assert contrast(turned, PAPER) >= 3
    hues = [rgb_to_hsv(to_rgb(one))[0] for one in (colour, turned)]
    if rgb_to_hsv(to_rgb(colour))[1] > 0.3:
        assert abs((hues[0] - hues[1] + 0.5) % 1 - 0.5) < 1 / 12  # 30 degrees


def test_every_colour_but_those_of_a_map_has_a_rule():
    @styled
    def draw():
        figure, axes = new_figure(3, 2)
        axes.plot([0, 1], [0, 1], color=COLOURS["network"], label="network")
        axes.scatter([0, 1], [0, 1], c=[0.2, 0.7], cmap="YlOrBr")
        axes.legend()
        return figure

    found = draw_svg(draw())
    ElementTree.fromstring(found)
    rules = re.search(r"<style>@media \(prefers-color-scheme: dark\) \{(.*?)</style>", found)[1]
    drawn = set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", found.partition("</style>")[2]))
    left = {colour[-7:] for colour in drawn if f'"{colour}"' not in rules}
    assert f'[style*="fill: #ffffff"] {{ fill: {PAPER} !important }}' in rules
    assert len(left) == 2  # the two points of the map
