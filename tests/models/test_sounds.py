"""A tone is a line at its frequency below a wave of its height."""

from __future__ import annotations

import math

import pytest
import torch

from underpaint.models.sounds import BANDS, WAVE, WIDTH, sound_pictures


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_a_tone_stands_at_its_frequency(share: float) -> None:
    """A share of half the sampling rate, in two channels."""
    tone = torch.sin(math.pi * share * torch.arange(8000.0))
    pictures = sound_pictures(torch.stack([tone, 0.3 * tone])[:, None].expand(2, 2, -1))
    assert pictures.shape == (2, 1, WAVE + BANDS, WIDTH)
    torch.testing.assert_close(pictures[0], pictures[1])  # each as loud as can be
    brightest = pictures[0, 0, WAVE:, 10:-10].argmax(0)
    assert brightest.sub((1 - share) * (BANDS - 1)).abs().max() <= 1
    assert float(pictures[0, 0, WAVE:].mean()) < 0.2
    middle = pictures[0, 0, WAVE // 4 : 3 * WAVE // 4, 1:-1]
    assert bool((middle > 0).all())  # so fast that each column goes up and down


def test_a_slow_wave_is_a_curve() -> None:
    """At the height of its number, in each column."""
    wave = torch.sin(2 * math.pi * torch.arange(4 * WIDTH) / (4 * WIDTH))
    drawn = sound_pictures(wave[None])[0, 0, :WAVE]
    heights = (drawn * torch.linspace(1, -1, WAVE)[:, None]).sum(0) / drawn.sum(0)
    expected = wave.unflatten(0, (WIDTH, 4)).mean(1)
    torch.testing.assert_close(heights, expected, rtol=0, atol=2 / WAVE)
    assert int(drawn.sum(0).min()) >= 1


def test_short_and_silent_sounds_have_pictures() -> None:
    pictures = sound_pictures(torch.zeros(1, 2, 3))
    assert pictures.shape == (1, 1, WAVE + BANDS, WIDTH)
    assert torch.isfinite(pictures).all()
