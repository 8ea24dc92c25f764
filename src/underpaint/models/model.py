"""A network as a denoiser: levels in, denoised rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..noise import NoiseLevel, Schedule
from ..prediction import Prediction, to_denoised
from ..theory.denoiser import Denoiser, guide

#: network(images [B, C, H, W], t [B], labels [B] or None) -> prediction [B, C, H, W]
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Model:
    """A network with what is needed to use it as a `Denoiser` on rows [B, D] at any level of any family.

    A state is moved to the network's own level of equal SNR, x * |own| / |level|, where it is the same random
    variable; below or above the network's range its nearest level is used. Thresholding and sample clipping are never
    applied: they would break the probability flow.

    Attributes:
        network: takes images, times and labels; see `Network`.
        schedule: the one it was trained on.
        prediction: what it puts out.
        shape: (C, H, W) of one image; D = C H W.
        name: for reports.
        blocks: pixel blocks of this edge are channels to the network (a permutation of the pixels, nothing else).
        classes: number of class labels it knows, 0 if none; ``null_class`` is the label that means "any".
        batch: rows sent through the network at once: a bound on memory.
        notes: what its folder says of it (data, training ...).
    """

    network: Network
    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, int, int]
    name: str = "network"
    blocks: int = 1
    classes: int = 0
    null_class: int | None = None
    batch: int = 256
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] for rows [B, D], unconditionally."""
        return self.denoise(x, level, self.null_class)

    def conditional(self, label: int, guidance: float = 1.0) -> Denoiser:
        """The denoiser for one class, with classifier-free guidance: D_u + w (D_c - D_u), two calls of the network if
        w != 1.

        Raises:
            ValueError: the network has no classes, or not this one, or guidance is asked of a network without a null
            class.
        """
        if not 0 <= label < self.classes:
            raise ValueError(
                f"{self.name} knows class labels 0 to {self.classes - 1}, got {label}."
                if self.classes
                else f"{self.name} takes no class labels, got {label}."
            )

        def conditioned(x: Tensor, level: NoiseLevel) -> Tensor:
            return self.denoise(x, level, label)

        if guidance == 1:
            return conditioned
        if self.null_class is None:
            raise ValueError(f"{self.name} has no label for 'any class', so it cannot be guided; use guidance = 1.")
        return guide(self, conditioned, guidance)

    def denoise(self, x: Tensor, level: NoiseLevel, label: int | None = None) -> Tensor:
        """E[x0 | x, label] for rows [B, D] at one level or at one level a row."""
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(
                f"{self.name} expects rows [B, {self.dimension}] (images {self.shape}), got {tuple(x.shape)}."
            )
        time = self.schedule.time(level)
        own = self.schedule(time)
        scale = own.norm / level.norm
        moved = (scale if scale.ndim == 0 else scale.unsqueeze(1)).to(x) * x
        times = time.expand(len(x)).to(self.device, torch.float32)
        with torch.no_grad():
            parts = [
                self._predict(*part, label)
                for part in zip(moved.split(self.batch), times.split(self.batch), strict=True)
            ]
        return to_denoised(torch.cat(parts).to(x), moved, own, self.prediction)

    def _predict(self, rows: Tensor, times: Tensor, label: int | None) -> Tensor:
        images = rows.to(self.device, self.dtype).unflatten(1, self.shape)
        labels = None if label is None else torch.full((len(rows),), label, device=self.device)
        if self.blocks > 1:
            images = pixel_unshuffle(images, self.blocks)
        output = self.network(images, times, labels)
        return (pixel_shuffle(output, self.blocks) if self.blocks > 1 else output).flatten(1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Model:
        """Move the network's weights (in place, as torch modules do) and return the model for that device and dtype."""
        if isinstance(self.network, torch.nn.Module):
            self.network.to(device=device, dtype=dtype)
        return replace(self, device=torch.device(device or self.device), dtype=dtype or self.dtype)

    def images(self, rows: Tensor) -> Tensor:
        """Rows [..., D] in [-1, 1] as images [..., C, H, W] in [0, 1], clipped for display."""
        return ((rows.detach().cpu().float() + 1) / 2).clamp(0, 1).unflatten(-1, self.shape)
