"""Figures as SVG that turns dark where the reader prefers that: one file for both, in a page or opened by itself."""

from __future__ import annotations

import colorsys
import io

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from .style import ACCENT, COLOURS, MODES, QUIET, RC

#: Paper and ink in the dark, as in the explorer (web/page.css).
PAPER, INK = "#22223b", "#ececf8"
#: What is drawn in one of these colours changes; the colours of a map, and pictures, mean what they say and stay.
_PALETTE = ("#000000", "#ffffff", RC["grid.color"], RC["axes.edgecolor"], *COLOURS.values(), ACCENT, QUIET, *MODES)
#: Greys of the middle, on paper as dark as ours, need to be a little lighter than turned round.
_GAMMA = 0.8


def draw_svg(figure: Figure) -> str:
    """A figure as SVG, without a date, so that the same figure is the same file."""
    stream = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    before, mark, after = stream.getvalue().partition("<defs>")
    return f"{before}<style>@media (prefers-color-scheme: dark) {{ {_dark_rules()} }}</style>\n{mark}{after}"


def _dark_rules() -> str:
    """What is drawn in a colour of the palette by the dark one that stands for it; what names no colour is black."""
    changes = [(name, colour, in_the_dark(colour)) for name in ("fill", "stroke") for colour in _PALETTE]
    rules = [f'[style*="{name}: {old}"] {{ {name}: {new} !important }}' for name, old, new in changes]
    return " ".join([f"svg {{ fill: {in_the_dark('#000000')} }}", *rules])


def in_the_dark(colour: str) -> str:
    """The same hue with its lightness turned round: white is `PAPER`, and black is `INK`."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    turned = colorsys.hls_to_rgb(hue, (1 - lightness) ** _GAMMA, saturation)
    ends = zip(to_rgb(PAPER), to_rgb(INK), turned, strict=True)
    red, green, blue = (paper + (ink - paper) * part for paper, ink, part in ends)
    return to_hex((red, green, blue))
