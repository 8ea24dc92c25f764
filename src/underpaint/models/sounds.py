"""Sounds as pictures: the wave above its spectrogram."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

#: Columns of a picture, lines of its wave, and lines of its spectrogram: one for each frequency of a window.
WIDTH, WAVE, BANDS = 256, 64, 128
#: How far below the loudest a tone is black, in decibels.
_RANGE = 60.0


def sound_pictures(sounds: Tensor) -> Tensor:
    """Sounds [B, T] or [B, channels, T] as pictures [B, 1, WAVE + BANDS, WIDTH] in [0, 1], of the mean of the channels;
    high tones stand above low ones."""
    mono = sounds.float() if sounds.ndim == 2 else sounds.float().mean(1)
    mono = mono / mono.abs().amax(1, keepdim=True).clamp(min=1e-8)
    return torch.cat([_wave(mono), _spectrogram(mono)], 1).unsqueeze(1)


def _wave(mono: Tensor) -> Tensor:
    """A line from the lowest to the highest number of each column, [B, WAVE, WIDTH]."""
    fine = interpolate(mono.unsqueeze(1), size=WIDTH * max(1, -(-mono.shape[1] // WIDTH)), mode="linear").squeeze(1)
    columns = fine.unflatten(1, (WIDTH, -1))
    low, high = columns.amin(2, keepdim=True), columns.amax(2, keepdim=True)
    heights = torch.linspace(1, -1, WAVE)
    reach = 1 / (WAVE - 1)  # half a line, so that each column has one
    return ((heights >= low - reach) & (heights <= high + reach)).float().transpose(1, 2)


def _spectrogram(mono: Tensor) -> Tensor:
    """The loudness of each frequency, from half the sampling rate down to 0, [B, BANDS, WIDTH]."""
    size = 2 * (BANDS - 1)
    found = torch.stft(
        mono, size, max(1, mono.shape[1] // WIDTH), window=torch.hann_window(size), pad_mode="constant",
        return_complex=True,
    ).abs()  # fmt: skip
    loud = 20 * torch.log10(found / found.amax((1, 2), keepdim=True).clamp(min=1e-8) + 1e-8)
    shades = (1 + loud / _RANGE).clamp(0, 1)
    return interpolate(shades.flip(1).unsqueeze(1), size=(BANDS, WIDTH), mode="nearest").squeeze(1)
