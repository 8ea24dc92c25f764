"""What a replayed pipeline makes of its states as pictures, and back.

The way to pictures is the pipeline's own. The way back is not among what its call does: it is that of the pixels
themselves, or of its autoencoder behind a scale and shift, packed into tokens or not, whichever decodes a state to what
the pipeline makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..pictures import to_pictures
from ..sounds import sound_pictures
from .latent import LatentAutoencoder, downscaling

#: What pipelines call their autoencoder.
_NAMES = ("vae", "movq", "vqvae")
#: How near two pictures in [0, 1] of one state have to be: half precision leaves so much.
_NEAR = 0.02


class Way(Protocol):
    """Between states [B, ...] and images [B, c, h, w] in [-1, 1]."""

    def decode(self, states: Tensor) -> Tensor:
        """Images of states."""

    def encode(self, images: Tensor) -> Tensor:
        """States of images."""


class Outputs:
    """A pipeline's way from states to output, as pictures: a video as a strip of frames, a sound as its wave above its
    spectrogram.

    Args:
        pipe: the pipeline.
        state: the shape of one state.
        show: what the pipeline makes of states [B, ...].
    """

    def __init__(self, pipe: Any, state: tuple[int, ...], show: Callable[[Tensor], Tensor]) -> None:
        self.pipe, self.state, self.show = pipe, state, show

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the pictures."""
        channels, height, width = self._pictures(torch.zeros(1, *self.state)).shape[1:]
        return channels, height, width

    def decode(self, states: Tensor) -> Tensor:
        """Pictures [B, c, h, w] in [-1, 1] of states."""
        return 2 * self._pictures(states) - 1

    def encode(self, images: Tensor) -> Tensor:
        """States of images [B, c, h, w] in [-1, 1]: the mean of the encoder's distribution.

        Raises:
            ValueError: no way back is known.
        """
        if self.way is None:
            raise ValueError(
                f"No way from images to the states {self.state} of this {type(self.pipe).__name__} is known; fit its "
                "Gaussian to states of its own, with fit_from_model or fit_from_samples."
            )
        return self.way.encode(images)

    @cached_property
    def way(self) -> Way | None:
        """The first that decodes a state to what the pipeline makes of it."""
        draws = torch.Generator().manual_seed(0)
        states = 0.5 * torch.randn(1, *self.state, generator=draws)
        shown = self._pictures(states)
        for way in _ways(self.pipe, self.state, self.shape):
            found = (way.decode(states).cpu().float() / 2 + 0.5).clamp(0, 1)
            if found.shape == shown.shape and float((found - shown).abs().max()) <= _NEAR:
                return way
        return None

    def _pictures(self, states: Tensor) -> Tensor:
        made = self.show(states)
        if made.ndim == 5:  # frames before channels, here
            made = made.transpose(1, 2)
        if made.ndim < 4:
            return sound_pictures(made)
        return to_pictures(made, tuple(made.shape[1:]))


class Pixels:
    """States that are images."""

    def decode(self, states: Tensor) -> Tensor:
        """The same."""
        return states

    def encode(self, images: Tensor) -> Tensor:
        """The same."""
        return images


class Latents:
    """States behind an autoencoder of images, as they are or packed: 2 x 2 cells to a token.

    Args:
        vae: the autoencoder.
        cells: (C, H, W) of its latents.
        packed: whether states are tokens [T, 4 C].
        device: where it computes, which its weights do not say while they are offloaded.
    """

    def __init__(self, vae: Any, cells: tuple[int, int, int], packed: bool, device: Any) -> None:
        self.autoencoder, self.cells, self.packed, self.device = LatentAutoencoder(vae, cells), cells, packed, device

    def decode(self, states: Tensor) -> Tensor:
        """Images of states."""
        if self.packed:
            _, height, width = self.cells
            blocks = states.transpose(1, 2).unflatten(2, (height // 2, width // 2))
            states = pixel_shuffle(blocks, 2)
        with torch.no_grad():
            return self.autoencoder.decode(states.to(self.device))

    def encode(self, images: Tensor) -> Tensor:
        """States of images."""
        with torch.no_grad():
            latents = self.autoencoder.encode(images.to(self.device))
        return pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2) if self.packed else latents


def _ways(pipe: Any, state: tuple[int, ...], image: tuple[int, int, int]) -> Iterator[Way]:
    """Those whose shapes fit, in order."""
    if state == image:
        yield Pixels()
    for vae in (part for part in (getattr(pipe, name, None) for name in _NAMES) if part is not None):
        try:
            factor, scaled = downscaling(vae), bool(vae.config.scaling_factor)
        except (AttributeError, TypeError):  # no autoencoder of images
            continue
        height, width = image[1] // factor, image[2] // factor
        channels = state[0] if len(state) == 3 else state[-1] // 4
        if scaled and state in ((channels, height, width), (height * width // 4, 4 * channels)):
            device = getattr(pipe, "_execution_device", vae.device)
            yield Latents(vae, (channels, height, width), len(state) == 2, device)
