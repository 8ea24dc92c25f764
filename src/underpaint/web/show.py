"""Results as what the page shows: pictures as data URIs, films, grids, and things to download; all in JSON types.

Nothing is kept on the server: a picture or a file is part of the answer itself, so that no visitor can ask for what was
made for another.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from ..analysis.summary import Summary
from ..figures.svg import draw_svg
from ..recipes.shared.results import to_json
from .checks import Read

View = dict[str, Any]

#: Larger pictures are shrunk to this edge for films and grids; figures and samples keep their size.
EDGE = 128
#: matplotlib keeps its settings for the whole process: one figure is drawn at a time.
_PEN = threading.Lock()


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sheet(images: Tensor) -> View:
    """Images [R, C, channels, H, W] in [0, 1] as one picture, with the numbers of its rows and columns."""
    from PIL import Image

    rows, columns, channels, height, width = images.shape
    if max(height, width) > EDGE:
        scale = EDGE / max(height, width)
        images = interpolate(images.flatten(0, 1), scale_factor=scale, mode="area").unflatten(0, (rows, columns))
    joined = images.permute(0, 3, 1, 4, 2).reshape(rows * images.shape[3], -1, channels)
    pixels = (joined * 255).round().byte().squeeze(2)  # of one channel, that is
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, format="PNG")
    source = data_uri(stream.getvalue(), "image/png")
    return {"src": source, "rows": rows, "columns": columns, "aspect": width / height}


def film(frames: dict[str, Tensor], captions: Sequence[str], start: int = 0, **more: Any) -> View:
    """Rows of frames [N, C, H, W] that one slider moves through; a single frame stays. ``more``: chart, bars."""
    shown = [{"name": name, **sheet(images.unsqueeze(0))} for name, images in frames.items()]
    return {"frames": shown, "captions": list(captions), "start": start, **more}


def grid(
    title: str,
    images: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]],
    beside: tuple[str, Tensor] | None = None,
) -> View:
    """Images [R, C, channels, H, W] to click on: a click opens one with its caption, ``beside`` a named picture to
    compare it with: that of its column in [C, channels, H, W], or the same for all in [1, channels, H, W]."""
    compared = None if beside is None else {"name": beside[0], **sheet(beside[1].unsqueeze(0))}
    return {
        "title": title,
        **sheet(images),
        "rowNames": list(rows),
        "columnNames": list(columns),
        "captions": [list(line) for line in captions],
        "beside": compared,
    }


def line(name: str, points: Tensor, colour: str, dashed: bool = False, wide: bool = False) -> View:
    """A line of points [N, 2] of a chart, in five digits; in a film, a dot on it follows the slider."""
    digits = [[float(f"{value:.5g}") for value in point] for point in points.tolist()]
    return {"name": name, "points": to_json(digits), "colour": colour, "dashed": dashed, "wide": wide}


def chart(title: str, x: str, y: str, lines: Sequence[View], **more: Any) -> View:
    """Lines with a name for each axis. ``more``: logX, logY, reverse (of x), square (one scale), mark (an upright line
    at that x), level (a flat one at that y)."""
    return {"title": title, "x": x, "y": y, "lines": list(lines), **more}


def bars(title: str, names: Sequence[str], measured: Tensor, predicted: Tensor, pictures: Tensor) -> View:
    """A bar for each of K names, and a mark where theory has it; [N, K] in 0..1, moved by the slider. ``pictures``
    [K, C, H, W] are beside the names."""
    values = {"measured": to_json(measured.clamp(0, 1)), "predicted": to_json(predicted.clamp(0, 1))}
    return {"title": title, "names": list(names), "pictures": sheet(pictures.unsqueeze(0)), **values}


def mean(summary: Summary) -> str:
    """The mean over samples, in two digits."""
    return f"{float(summary.mean.mean()):.2g}"


@dataclass(frozen=True)
class Answer:
    """What a tab has to show: its view at once, and its files, whose figure takes a moment to draw; and the
    ``settings`` of the controls that it was made from."""

    name: str
    view: View
    result: Any
    figure: Callable[[Any], Figure]
    script: str
    settings: View = field(default_factory=dict)

    def made_from(self, read: Read) -> Answer:
        """The same, with the settings that were read for it also in its view."""
        return replace(self, view=self.view | {"settings": read.settings}, settings=read.settings)

    def files(self) -> View:
        """The figure, which turns dark with the page, and the three files to download: it on white, every number, and
        the Python that makes them."""
        with _PEN:
            stream, drawn = io.BytesIO(), self.figure(self.result)
            drawn.savefig(stream, format="png", dpi=110, bbox_inches="tight")
            shown = data_uri(draw_svg(drawn).encode(), "image/svg+xml")
        numbers = json.dumps(to_json(self.result), ensure_ascii=False)
        found = {
            "png": data_uri(stream.getvalue(), "image/png"),
            "json": data_uri(numbers.encode(), "application/json"),
            "py": data_uri(self.script.encode(), "text/x-python"),
        }
        links = [{"name": f"{self.name}.{kind}", "href": href} for kind, href in found.items()]
        return {"figure": shown, "about": self.name, "downloads": links, "settings": self.settings}


def answer(
    name: str, words: Sequence[str], result: Any, figure: Callable[[Any], Figure], script: str, **parts: Any
) -> Answer:
    """Words with a film, grids or charts, and what draws the figure."""
    return Answer(name, {"words": list(words), **parts}, result, figure, script)
