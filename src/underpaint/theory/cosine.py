"""The basis of stationary images: a cosine transform, applied and not stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def _cosines(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II [K, I]: c_k cos(pi k (i + 1/2) / n), taken in float64."""
    with torch.inference_mode(False):  # what is kept has to serve gradients, too
        k, i = torch.arange(length, dtype=torch.float64).unsqueeze(1), torch.arange(length, dtype=torch.float64)
        matrix = (math.pi / length * k * (i + 0.5)).cos() * math.sqrt(2 / length)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device, dtype)


def cosine_transform(images: Tensor, inverse: bool = False) -> Tensor:
    """Orthonormal 2-D DCT-II of images [..., H, W], or its inverse, by one small product along each axis."""
    rows, columns = (_cosines(length, images.dtype, images.device) for length in images.shape[-2:])
    return rows.T @ images @ columns if inverse else rows @ images @ columns.T


def low_frequencies(size: tuple[int, int], side: int) -> Tensor:
    """Which of the H W frequencies are the ``side`` lowest along both axes, [side^2]."""
    height, width = size
    return torch.arange(height * width).view(height, width)[:side, :side].flatten()


def low_coordinates(size: tuple[int, int], channels: int, count: int) -> Tensor:
    """Which of the F C coordinates, frequency by frequency, are those of the lowest frequencies, [count].

    Raises:
        ValueError: no square of frequencies has so many.
    """
    side = math.isqrt(count // channels)
    if channels * side**2 != count or side > min(size):
        raise ValueError(
            f"The lowest frequencies of {channels} channels of size {size} are {channels} s^2 coordinates, s at most "
            f"{min(size)}; got {count}."
        )
    return (low_frequencies(size, side).unsqueeze(1) * channels + torch.arange(channels)).flatten()


@dataclass(frozen=True, eq=False)
class CosineBasis:
    """An orthonormal [D, D] that is applied and not stored: a 2-D DCT of each channel, then, at each of the F = H W
    frequencies, a rotation of the channels, and one of all coordinates of the lowest frequencies together.

    It stands where a dense basis may: ``rows @ q``, ``coordinates @ q.T`` and, made dense, ``q[:, k]``. Work a row:
    O(D (H + W + C) + K^2); memory: O(D C + K^2).

    Attributes:
        mix: orthonormal columns for each frequency, [F, C, C].
        order: which of the F C coordinates comes k-th, [D].
        size: (H, W).
        low: orthonormal columns for the K coordinates of the lowest frequencies, [K, K], or None; K is C s^2.
    """

    mix: Tensor
    order: Tensor
    size: tuple[int, int]
    low: Tensor | None = None
    transposed: bool = False
    _inverse: Tensor | None = field(default=None, repr=False)
    _places: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        frequencies, channels = self.size[0] * self.size[1], self.mix.shape[-1]
        if self.mix.shape != (frequencies, channels, channels) or self.order.shape != (frequencies * channels,):
            raise ValueError(
                f"A cosine basis of size {self.size} needs mix [{frequencies}, C, C] and order [{frequencies} C], "
                f"got {tuple(self.mix.shape)} and {tuple(self.order.shape)}."
            )
        if self._inverse is None:  # else it is that of the basis that this one is made from
            object.__setattr__(self, "_inverse", self.order.argsort())
        if self.low is not None and self._places is None:
            if self.low.ndim != 2 or self.low.shape[0] != self.low.shape[1]:
                raise ValueError(f"A rotation of the lowest frequencies is [K, K], got {tuple(self.low.shape)}.")
            places = low_coordinates(self.size, channels, len(self.low))
            object.__setattr__(self, "_places", places.to(self.order.device))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.order), len(self.order)))

    @property
    def ndim(self) -> int:
        return 2

    @property
    def dtype(self) -> torch.dtype:
        return self.mix.dtype

    @property
    def device(self) -> torch.device:
        return self.mix.device

    @property
    def T(self) -> CosineBasis:
        return replace(self, transposed=not self.transposed)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CosineBasis:
        mix, order = self.mix.to(device=device, dtype=dtype), self.order.to(device=device)
        if mix is self.mix and order is self.order:
            return self
        low = None if self.low is None else self.low.to(device=device, dtype=dtype)
        inverse, places = (None if part is None else part.to(device=device) for part in (self._inverse, self._places))
        return replace(self, mix=mix, order=order, low=low, _inverse=inverse, _places=places)

    def __getitem__(self, index: tuple[slice, Any]) -> Tensor:
        """Columns as a dense [D, K]; all rows must be asked for."""
        rows, columns = index
        if rows != slice(None):
            raise ValueError("Only whole columns of a cosine basis can be had: basis[:, k].")
        places = torch.arange(len(self.order), device=self.device)
        return ((places[columns].unsqueeze(-1) == places).to(self.dtype) @ self.T).movedim(-1, 0)

    def __rmatmul__(self, rows: Tensor) -> Tensor:
        channels = self.mix.shape[-1]
        if self.transposed:
            assert self._inverse is not None  # made with the basis
            mixed = self._turned(rows.index_select(-1, self._inverse), back=True).unflatten(-1, (-1, channels))
            spectrum = torch.einsum("...fk,fck->...cf", mixed, self.mix)
            del mixed  # each of these is as large as the rows
            return cosine_transform(spectrum.unflatten(-1, self.size), inverse=True).flatten(-3)
        spectrum = cosine_transform(rows.unflatten(-1, (channels, *self.size))).flatten(-2)
        mixed = torch.einsum("...cf,fck->...fk", spectrum, self.mix).flatten(-2)
        del spectrum
        return self._turned(mixed).index_select(-1, self.order)

    def _turned(self, coordinates: Tensor, back: bool = False) -> Tensor:
        """Coordinates [..., D], frequency by frequency, those of the lowest rotated in place, or rotated back."""
        if self.low is not None:
            turned = coordinates[..., self._places] @ (self.low.T if back else self.low)
            coordinates[..., self._places] = turned
        return coordinates

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """torch.equal compares what is stored; a product falls through to __rmatmul__."""
        if function is not torch.equal:
            return NotImplemented
        a, b = arguments
        return (
            isinstance(a, cls)
            and isinstance(b, cls)
            and a.size == b.size
            and a.transposed == b.transposed
            and (torch.equal(a.mix, b.mix) and torch.equal(a.order, b.order))
            and (a.low is b.low or (a.low is not None and b.low is not None and torch.equal(a.low, b.low)))
        )
