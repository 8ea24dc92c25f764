"""One picture of a file as bytes [C, H, W]: one set of rules, whatever the picture lies in.

What is read, what is converted and how, and what is refused is written down in the book, "What is read".
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..damage import Unfit

#: Endings of pictures. Files with these endings are read by the decoders of these formats alone, whatever they hold:
#: Pillow knows some that run other programs.
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_GREY = ("1", "L", "LA", "La")
_CLEAR = ("LA", "La", "PA", "RGBA", "RGBa")
MODES = ("L", "RGB")
#: EXIF orientations that exchange height and width.
_SIDEWAYS = (5, 6, 7, 8)


class Look(NamedTuple):
    """What a picture's header says, once it is turned upright."""

    height: int
    width: int
    grey: bool
    turned: bool = False


@dataclass(frozen=True)
class Geometry:
    """What pictures are brought to: centre crop to the aspect of ``size`` (H, W), Lanczos resize, mode L or RGB.

    None leaves a picture as it is. ``lossy``: colour may become grey, since it was asked for.
    """

    size: tuple[int, int] | None = None
    mode: str | None = None
    lossy: bool = True

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(f"Unknown mode {self.mode!r}; choose L (grey) or RGB.")

    def __str__(self) -> str:
        kind = {None: "own mode", "L": "grey", "RGB": "RGB"}[self.mode]
        cut = f"centre crop and Lanczos resize to {self.size[0]}x{self.size[1]}" if self.size else "own size"
        return f"{cut}, {kind}, upright, first frame, transparency on white"

    def changes(self, raw: bytes) -> str:
        """What `decode` changes of a picture that is seen, in words such as "cropped to the middle 480x480 (H x W) of
        480x640, resized to 28x28, made grey"; empty if nothing.

        Raises as `decode` does.
        """
        with _opened(raw) as opened:
            seen, frames = _looked(opened), getattr(opened, "n_frames", 1)
            clear = opened.mode in _CLEAR or "transparency" in opened.info
            lost = self.mode == "L" and not seen.grey and _has_colour(opened)
        words = [f"taken as its first frame of {frames}"] if frames > 1 else []
        words += ["turned upright"] if seen.turned else []
        words += ["laid on white where it is transparent"] if clear else []
        words += [] if self.size is None else _fitting((seen.height, seen.width), self.size)
        words += ["made grey"] if lost else []
        return ", ".join(words)

    def decode(self, raw: bytes) -> Tensor:
        """The picture in a file's bytes as uint8 [C, H, W].

        It is turned as its EXIF tag says; what is transparent is laid on white; of an animation the first frame is
        taken; colour profiles are not applied.

        Raises whatever Pillow does, and `Unfit` for more than 8 bits a channel, and for colours that would be lost.
        """
        import numpy
        from PIL import Image, ImageOps

        with _opened(raw) as opened:
            grey = opened.mode in _GREY
            upright = ImageOps.exif_transpose(opened)
            if upright.mode in _CLEAR or "transparency" in upright.info:
                upright = _on_white(upright)
            if self.mode == "L" and not grey and not self.lossy:
                raise Unfit("is in colour, the others looked at are grey; give a mode, L or RGB")
            picture = upright.convert(self.mode or ("L" if grey else "RGB"))
        if self.size and picture.size != self.size[::-1]:
            picture = ImageOps.fit(picture, self.size[::-1], Image.Resampling.LANCZOS)
        array = torch.from_numpy(numpy.array(picture))
        return array.unsqueeze(0) if array.ndim == 2 else array.permute(2, 0, 1)


def look(raw: bytes) -> Look:
    """Size and kind of a picture, from its header alone."""
    with _opened(raw) as opened:
        return _looked(opened)


def _looked(opened: Any) -> Look:
    (width, height), orientation = opened.size, opened.getexif().get(0x0112, 1)
    if orientation in _SIDEWAYS:
        width, height = height, width
    return Look(height, width, opened.mode in _GREY, orientation in range(2, 9))


def _fitting(have: tuple[int, int], want: tuple[int, int]) -> list[str]:
    """How a picture of a size (H, W) comes to another: what is left of it by a centre crop, and whether it is resized.

    The largest part of the aspect of ``want``: as high, or as wide, as the picture.
    """
    (height, width), (high, wide) = have, want
    part = min(height, round(width * high / wide)), min(width, round(height * wide / high))
    words = [f"cropped to the middle {part[0]}x{part[1]} (H x W) of {height}x{width}"] if part != have else []
    if part != want:
        words.append(
            f"resized to {high}x{wide}" if words else f"resized from {height}x{width} (H x W) to {high}x{wide}"
        )
    return words


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES


def _opened(raw: bytes) -> Any:
    from PIL import Image

    opened = Image.open(BytesIO(raw), formats=_FORMATS)
    # Pillow keeps the upper 8 of 16 bits in colour: the raw mode of the file's pixels tells
    stored = " ".join(str(tile[3]) for tile in getattr(opened, "tile", ()))
    if opened.mode in ("I", "F") or opened.mode.startswith("I;") or ";16" in stored:
        kind = f"mode {opened.mode}" if ";16" not in stored else "16 bits a channel"
        raise Unfit(f"{kind} is not 8 bits a channel; convert it first")
    return opened


def _has_colour(picture: Any) -> bool:
    """Whether any pixel is not grey."""
    red, green, blue = (channel.tobytes() for channel in picture.convert("RGB").split())
    return not red == green == blue


def _on_white(picture: Any) -> Any:
    """What a viewer shows: the colour under transparency is anything."""
    from PIL import Image

    seen = picture.convert("RGBA")
    ground = Image.new("RGBA", seen.size, "white")
    ground.alpha_composite(seen)
    return ground.convert("RGB")
