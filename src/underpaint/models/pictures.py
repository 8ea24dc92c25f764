"""States of any rank as images: what a figure can show of a spectrum, a film or a volume, and the way back.

A state [C, H, W] is an image as it is. With fewer axes, [L] or [C, L], it is one of a single channel, each of its C
curves a line of L pixels. With more, it is laid out side by side: [C, F, H, W] as a strip of F images, left to right.
"""

from __future__ import annotations

import math

from torch import Tensor


def picture_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of the image of a state."""
    if len(shape) < 3:
        return 1, math.prod(shape[:-1]), shape[-1]
    return shape[0], shape[-2], math.prod(shape[1:-2]) * shape[-1]


def to_pictures(states: Tensor, shape: tuple[int, ...]) -> Tensor:
    """States [..., *shape] as images [..., C, H, W]; every number of the state is in the image once."""
    batch = states.shape[: states.ndim - len(shape)]
    if len(shape) < 4:
        return states.reshape(*batch, *picture_shape(shape))
    flat = states.reshape(*batch, shape[0], -1, *shape[-2:])  # [..., C, F, H, W]
    return flat.movedim(-3, -2).flatten(-2)


def from_pictures(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `to_pictures`."""
    batch = images.shape[:-3]
    if len(shape) < 4:
        return images.reshape(*batch, *shape)
    return images.unflatten(-1, (-1, shape[-1])).movedim(-2, -3).reshape(*batch, *shape)
