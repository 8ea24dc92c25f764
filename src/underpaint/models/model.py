"""A network as a denoiser: levels in, denoised rows out; and, for latent models, rows out to images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..noise import NoiseLevel, Schedule
from ..prediction import Prediction, to_denoised
from ..theory.denoiser import Denoiser, lead

#: What a user may ask of a model: a class label, or a prompt.
Condition = int | str

#: network(states [B, C, H, W], t [B], condition) -> prediction [B, C, H, W]; condition is a tensor of labels [B], what
#: ``Model.embed`` made of prompts (a tensor [B, ...] or a mapping of such), or None. A distilled one also takes
#: guidance=w.
Network = Callable[..., Tensor]


class Autoencoder(Protocol):
    """Between a latent model's states [B, C, H, W] and images [B, c, h, w] in [-1, 1]. States carry the model's own
    scale and shift; what the autoencoder itself calls a latent does not leave it."""

    shape: tuple[int, int, int]

    def decode(self, states: Tensor) -> Tensor:
        """Images of states."""

    def encode(self, images: Tensor) -> Tensor:
        """States of images: the mean of the encoder's distribution."""


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
        shape: (C, H, W) of one state: an image, or a latent; D = C H W.
        name: for reports.
        blocks: pixel blocks of this edge are channels to the network (a permutation of the pixels, nothing else).
        classes: number of class labels it knows, 0 if none; ``null_class`` is the label that means "any".
        embed: encodes a prompt for the network, for models that take prompts: a tensor [1, ...], or a mapping of such;
            the empty prompt means "any".
        distilled: the network takes the guidance weight itself, having been distilled from a guided one.
        autoencoder: for latent models; rows of a pixel model are images themselves.
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
    embed: Callable[[str], Any] | None = None
    distilled: bool = False
    autoencoder: Autoencoder | None = None
    batch: int = 256
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    notes: Mapping[str, Any] = field(default_factory=dict)
    _prompts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def dimension(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `images` gives."""
        return self.shape if self.autoencoder is None else self.autoencoder.shape

    @property
    def null(self) -> Condition | None:
        """The condition that means "any": the null class, the empty prompt, or None."""
        return "" if self.embed is not None else self.null_class

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] for rows [B, D], unconditionally; ValueError if the network knows only single classes."""
        if self.classes and self.null_class is None:
            raise ValueError(f"{self.name} has no label for 'any class'; choose one with model.conditional(label).")
        return self.denoise(x, level, self.null)

    def conditional(self, condition: Condition, guidance: float = 1.0, negative: Condition | None = None) -> Denoiser:
        """The denoiser for one class or prompt, with classifier-free guidance: D_u + w (D_c - D_u), two calls of the
        network if w != 1, made at once where ``batch`` has room for both. A distilled network is told w, in one call.

        Args:
            condition: a class label or a prompt, whichever the model takes.
            guidance: w; 1 is none.
            negative: what D_u is conditioned on; by default the null class or the empty prompt.

        Raises:
            ValueError: the model does not take such a condition, guidance is asked of a network without a null class,
            or a negative of a distilled one.
        """
        self._check(condition)
        if self.distilled:
            if negative is not None:
                raise ValueError(f"{self.name} has its guidance inside and takes no negative condition.")
            told = replace(self, network=partial(self.network, guidance=guidance), distilled=False)
            return partial(told.denoise, condition=condition)

        if guidance == 1:
            return partial(self.denoise, condition=condition)
        away = self.null if negative is None else negative
        if away is None:
            raise ValueError(f"{self.name} has no label for 'any class', so it cannot be guided; use guidance = 1.")
        if negative is not None:
            self._check(negative)

        def guided(x: Tensor, level: NoiseLevel) -> Tensor:
            uncond, cond = self._denoise_both(x, level, (away, condition))
            return lead(uncond, cond, guidance)

        return guided

    def _check(self, condition: Condition) -> None:
        if isinstance(condition, str):
            if self.embed is None:
                raise ValueError(f"{self.name} takes no prompts, got {condition!r}.")
        elif not 0 <= condition < self.classes:
            raise ValueError(
                f"{self.name} knows class labels 0 to {self.classes - 1}, got {condition}."
                if self.classes
                else f"{self.name} takes no class labels, got {condition}."
            )

    def denoise(self, x: Tensor, level: NoiseLevel, condition: Condition | None = None) -> Tensor:
        """E[x0 | x, condition] for rows [B, D] at one level or at one level a row."""
        return self._denoise(x, level, lambda rows: self._given(condition, rows))

    def _denoise_both(self, x: Tensor, level: NoiseLevel, pair: tuple[Condition, Condition]) -> list[Tensor]:
        """E[x0 | x, condition] for both of a pair, by one call of the network where a batch has room: a few large
        products take less time than many small ones."""
        given = [self._given(condition, len(x)) for condition in pair]
        if 2 * len(x) > self.batch or not stackable(*given):
            return [self.denoise(x, level, condition) for condition in pair]
        levels = level if level.sigma.ndim == 0 else NoiseLevel.join(level, level)
        return list(self._denoise(torch.cat([x, x]), levels, lambda _: stacked(*given)).chunk(2))

    def _denoise(self, x: Tensor, level: NoiseLevel, given: Callable[[int], Any]) -> Tensor:
        """E[x0 | x] where the network is told ``given(rows)`` beside that many rows."""
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
                self._predict(rows, part, given(len(rows)))
                for rows, part in zip(moved.split(self.batch), times.split(self.batch), strict=True)
            ]
        return to_denoised(torch.cat(parts).to(x), moved, own, self.prediction)

    def _predict(self, rows: Tensor, times: Tensor, given: Any) -> Tensor:
        states = rows.to(self.device, self.dtype).unflatten(1, self.shape)
        if self.blocks > 1:
            states = pixel_unshuffle(states, self.blocks)
        output = self.network(states, times, given)
        return (pixel_shuffle(output, self.blocks) if self.blocks > 1 else output).flatten(1)

    def _given(self, condition: Condition | None, rows: int) -> Any:
        """What the network is told of a condition, for that many rows."""
        if isinstance(condition, str):
            return repeated(self._embedded(condition), rows)
        return None if condition is None else torch.full((rows,), condition, device=self.device)

    def _embedded(self, prompt: str) -> Any:
        """What the network takes for a prompt; encoded once, since a sampling run asks for it at every step."""
        if self.embed is None:
            raise ValueError(f"{self.name} takes no prompts, got {prompt!r}.")
        if prompt not in self._prompts:
            if len(self._prompts) >= 256:
                self._prompts.clear()
            with torch.no_grad():
                self._prompts[prompt] = self.embed(prompt)
        return self._prompts[prompt]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Model:
        """Move the weights (in place, as torch modules do) and return the model for that device and dtype."""
        for part in (self.network, self.embed, self.autoencoder):
            if isinstance(part, torch.nn.Module):
                part.to(device=device, dtype=dtype)
        return replace(self, device=torch.device(device or self.device), dtype=dtype or self.dtype, _prompts={})

    def images(self, rows: Tensor) -> Tensor:
        """Rows [..., D] as images [..., C, H, W] in [0, 1], clipped for display; latents are decoded in batches."""
        states = rows.detach().unflatten(-1, self.shape)
        if self.autoencoder is not None:
            flat = states.reshape(-1, *self.shape).split(self.batch)
            with torch.no_grad():
                decoded = [self.autoencoder.decode(part.to(self.device, self.dtype)).cpu() for part in flat]
            states = torch.cat(decoded).reshape(*rows.shape[:-1], *self.image_shape)
        return ((states.cpu().float() + 1) / 2).clamp(0, 1)

    def rows(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] as rows [B, D], encoded by a latent model's autoencoder."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"{self.name} makes images {self.image_shape}, got {tuple(images.shape[1:])}.")
        if self.autoencoder is None:
            return images.flatten(1)
        with torch.no_grad():
            parts = images.split(self.batch)
            states = [self.autoencoder.encode(part.to(self.device, self.dtype)).to(images) for part in parts]
        return torch.cat(states).flatten(1)


def repeated(value: Any, rows: int) -> Any:
    """A tensor [1, ...], or a mapping that holds such, for ``rows`` rows; a view."""
    if isinstance(value, Mapping):
        return {name: repeated(part, rows) for name, part in value.items()}
    return value.expand(rows, *value.shape[1:])


def stackable(first: Any, second: Any) -> bool:
    """Whether `stacked` can join them: prompts of some encoders differ in length."""
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(stackable(first[name], second[name]) for name in first)
    return bool(first.shape[1:] == second.shape[1:])


def stacked(first: Any, second: Any) -> Any:
    """Two tensors [B, ...], or mappings that hold such, one after the other."""
    if isinstance(first, Mapping):
        return {name: stacked(first[name], second[name]) for name in first}
    return torch.cat([first, second])
