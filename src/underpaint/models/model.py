"""A network as a denoiser: levels in, denoised rows out; and, for latent models, rows out to images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..bounds import shown
from ..devices import Device, Dtype, find_device, find_dtype
from ..noise import NoiseLevel, Schedule
from ..prediction import Prediction, to_denoised
from ..sampling.use import CLASSES, NONE, PROMPTS, TENSORS, Knowing, Use
from ..schedules import Truncated
from ..theory.denoiser import Denoiser, check_states, check_weight, lead
from .network import bring, evaluating, hash_weights
from .pictures import from_pictures, picture_shape, to_pictures
from .pipelines.text_encoding import unknown_words

#: What a user may ask of a model by name: a class label, or a prompt.
Condition = int | str

#: network(states [B, *shape], t [B], condition) -> prediction [B, *shape]; condition is a tensor of labels [B], what
#: ``Model.embed`` made of prompts (a tensor [B, ...] or a mapping of such), a user's own tensor [B, ...], or None. A
#: distilled one also takes guidance=w.
Network = Callable[..., Tensor]


class Autoencoder(Protocol):
    """Between a latent model's states [B, C, H, W] and images [B, c, h, w] in [-1, 1]. States carry the model's own
    scale and shift; what the autoencoder itself calls a latent does not leave it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the images."""

    def decode(self, states: Tensor) -> Tensor:
        """Images of states."""

    def encode(self, images: Tensor) -> Tensor:
        """States of images: the mean of the encoder's distribution."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network with what is needed to use it as a `Denoiser` on rows [B, D] at any level of any family.

    A state is moved to the network's own level of equal SNR, x * |own| / |level|, where it is the same random
    variable; below or above the network's range its nearest level is used, unless its schedule is `Truncated`: then
    asking outside is an error. Thresholding and sample clipping are never applied: they would break the probability
    flow. A module in train mode is in eval mode while it is asked, and as it was afterwards.

    Attributes:
        network: takes images, times and labels; see `Network`.
        schedule: the one it was trained on.
        prediction: what it puts out.
        shape: of one state, such as (C, H, W) of an image or a latent, (C, L) of a spectrum, (C, F, H, W) of a film or
            volume; D is the product.
        name: for reports.
        blocks: pixel blocks of this edge are channels to the network (a permutation of the pixels, nothing else).
        data_range: (lowest, highest) number of its data, which `images` shows as black and white.
        classes: number of class labels it knows, 0 if none; ``null_class`` is the label that means "any".
        condition: the shape of one condition, for networks that take tensors of the user's own; ``null_condition`` is
            the tensor that means "any".
        held: the condition that it is asked for wherever none is given; see `holding`.
        embed: encodes a prompt for the network, for models that take prompts: a tensor [1, ...], or a mapping of such;
            the empty prompt means "any".
        distilled: the network takes the guidance weight itself, having been distilled from a guided one.
        autoencoder: for latent models; rows of a pixel model are images themselves.
        batch: rows sent through the network at once: a bound on memory.
        notes: what its folder says of it (data, training ...).

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> model = up.load_model("fashion-mnist")
        >>> level = model.schedule.level(2.0)  # a noise-to-signal ratio
        >>> x = up.initial_noise([0, 1], model.dimension, level)
        >>> model(x, level).shape
        torch.Size([2, 784])
        >>> boots = model.conditional(9)  # the same network, asked for one class
        >>> model.images(boots(x, level)).shape
        torch.Size([2, 1, 28, 28])
    """

    network: Network
    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, ...]
    name: str = "network"
    blocks: int = 1
    data_range: tuple[float, float] = (-1.0, 1.0)
    classes: int = 0
    null_class: int | None = None
    condition: tuple[int, ...] | None = None
    null_condition: Tensor | None = None
    held: Condition | Tensor | None = None
    embed: Callable[[str], Any] | None = None
    distilled: bool = False
    autoencoder: Autoencoder | None = None
    batch: int = 256
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    notes: Mapping[str, Any] = field(default_factory=dict)
    _prompts: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        takes = "prompts" if self.embed is not None else f"{self.classes} classes" if self.classes else "no condition"
        shape, dtype = " x ".join(map(str, self.shape)), str(self.dtype).removeprefix("torch.")
        return f"Model({self.name}, {shape}, {self.schedule!r}, {self.prediction}, {takes}, {dtype} on {self.device})"

    @property
    def dimension(self) -> int:
        return math.prod(self.shape)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `images` gives."""
        return picture_shape(self.shape) if self.autoencoder is None else self.autoencoder.shape

    @property
    def ratios(self) -> tuple[float, float]:
        """The lowest and highest sigma/alpha that the network may be asked at."""
        low, high = getattr(self.schedule, "ratios", (0.0, math.inf))
        return low, high

    @property
    def null(self) -> Condition | Tensor | None:
        """The condition that means "any": the empty prompt, the null class or tensor, or None."""
        return "" if self.embed is not None else self.null_class if self.condition is None else self.null_condition

    def truncated(self, low: float = 0.0, high: float = math.inf) -> Model:
        """The same network, never to be asked outside low <= sigma/alpha <= high: see `Truncated`."""
        return replace(self, schedule=Truncated(self.schedule, low, high))

    def holding(self, condition: Condition | Tensor) -> Model:
        """The same network, asked for one condition wherever none is given: so a conditional network can be reported
        on, compared or calibrated for that condition."""
        self._check(condition)
        return replace(self, held=condition)

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] for rows [B, D], unconditionally, or for the condition held; ValueError if the network knows only
        single classes or conditions, and none is held."""
        return self.denoise(x, level)

    def conditional(
        self, condition: Condition | Tensor, guidance: float = 1.0, negative: Condition | Tensor | None = None
    ) -> Denoiser:
        """The denoiser for one condition, with classifier-free guidance: D_u + w (D_c - D_u), two calls of the
        network if w != 1, made at once where ``batch`` has room for both. A distilled network is told w, in one call.

        Args:
            condition: a class label, a prompt or a tensor, whichever the model takes; a tensor has the shape of
                ``Model.condition``, or one of these for each row [B, ...].
            guidance: w; 1 is none.
            negative: what D_u is conditioned on; by default the null class or the empty prompt.

        Raises:
            ValueError: the model does not take such a condition, guidance is asked of a network without a null class,
            or a negative of a distilled one.
        """
        self._check(condition)
        check_weight(guidance)
        if self.distilled:
            if negative is not None:
                raise ValueError(f"{self.name} has its guidance inside and takes no negative condition.")
            told = replace(self, network=partial(self.network, guidance=guidance), distilled=False)
            return self._knowing(partial(told.denoise, condition=condition), condition, guidance)

        if guidance == 1:
            return self._knowing(partial(self.denoise, condition=condition), condition)
        away = self.null if negative is None else negative
        if away is None:
            raise ValueError(f"{self.name} has no label for 'any class', so it cannot be guided; use guidance = 1.")
        if negative is not None:
            self._check(negative)

        def guided(x: Tensor, level: NoiseLevel) -> Tensor:
            uncond, cond = self._denoise_both(x, level, (away, condition))
            return lead(uncond, cond, guidance)

        return self._knowing(guided, condition, guidance)

    @property
    def use(self) -> Use:
        """What it is used for where it is called without a condition."""
        return self._used(self.held)

    def _knowing(self, call: Denoiser, condition: Condition | Tensor, guidance: float = 1.0) -> Denoiser:
        return Knowing(call, partial(self._used, condition, guidance))

    def _used(self, condition: Condition | Tensor | None, guidance: float = 1.0) -> Use:
        if isinstance(condition, Tensor):
            kind = TENSORS
        elif condition is None or condition == self.null:
            kind = NONE
        else:
            kind = PROMPTS if isinstance(condition, str) else CLASSES
        dtype = str(self.dtype).removeprefix("torch.")
        return Use((float(guidance),), (kind,), dtype, self.shape, hash_weights(self.network))

    def _check(self, condition: Condition | Tensor) -> None:
        if isinstance(condition, Tensor):
            self._check_tensor(condition)
        elif isinstance(condition, str):
            if self.embed is None:
                raise ValueError(f"{self.name} takes no prompts, got {condition!r}.")
        elif isinstance(condition, bool) or not hasattr(condition, "__index__"):
            raise ValueError(f"A condition is a class label, a prompt or a tensor, got {shown(condition)}.")
        elif not 0 <= condition < self.classes:
            raise ValueError(
                f"{self.name} knows class labels 0 to {self.classes - 1}, got {condition}."
                if self.classes
                else f"{self.name} takes no class labels, got {condition}."
            )

    def _check_tensor(self, condition: Tensor) -> None:
        given = tuple(condition.shape)
        if self.condition is None:
            raise ValueError(f"{self.name} takes no tensors as conditions, got one of shape {given}.")
        if self.condition not in (given, given[1:]):
            raise ValueError(
                f"{self.name} takes conditions of shape {self.condition}, or [B, ...] of these; got {given}."
            )

    def denoise(self, x: Tensor, level: NoiseLevel, condition: Condition | Tensor | None = None) -> Tensor:
        """E[x0 | x, condition] for rows [B, D] at one level or at one level a row; without a condition, as calling the
        model."""
        check_states(x, self.dimension, f"{self.name}, of states {self.shape}, expects")
        return self._denoise(x, level, self._given(self._usual if condition is None else condition, len(x)))

    @property
    def _usual(self) -> Condition | Tensor | None:
        """The condition of a call that names none: the one held, or the one that means "any"."""
        if self.held is None and self.null is None and (self.classes or self.condition is not None):
            what = "label for 'any class'" if self.classes else "tensor for 'any condition'"
            raise ValueError(
                f"{self.name} has no {what}; choose one with model.conditional(...) or model.holding(...)."
            )
        return self.null if self.held is None else self.held

    def _denoise_both(self, x: Tensor, level: NoiseLevel, pair: tuple[Condition | Tensor, ...]) -> list[Tensor]:
        """E[x0 | x, condition] for both of a pair, by one call of the network where a batch has room: a few large
        products take less time than many small ones."""
        check_states(x, self.dimension, f"{self.name}, of states {self.shape}, expects")
        given = [self._given(condition, len(x)) for condition in pair]
        if 2 * len(x) > self.batch or not stackable(*given):
            return [self._denoise(x, level, told) for told in given]
        levels = level if level.sigma.ndim == 0 else NoiseLevel.join(level, level)
        return list(self._denoise(torch.cat([x, x]), levels, stacked(*given)).chunk(2))

    def _denoise(self, x: Tensor, level: NoiseLevel, given: Any) -> Tensor:
        """E[x0 | x] where the network is told ``given``, something for each row, beside the rows."""
        self._check_level(level)
        time = self.schedule.time(level)
        own = self.schedule(time)
        moved = _rescaled(x, level, own)
        times = time.expand(len(x)).to(self.device, torch.float32)
        parts = [slice(start, start + self.batch) for start in range(0, len(x), self.batch)]
        with torch.no_grad(), evaluating(self.network):
            outputs = [self._predict(moved[part], times[part], sliced(given, part)) for part in parts]
        return to_denoised(torch.cat(outputs).to(x), moved, own, self.prediction)

    def at_own_level(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, NoiseLevel]:
        """The rows as the network sees them, and its own level: that of the same ratio, x * |own| / |level|."""
        own = self.schedule(self.schedule.time(level))
        return _rescaled(x, level, own), own

    def _check_level(self, level: NoiseLevel) -> None:
        (low, high), ratio = self.ratios, level.ratio
        if bool((ratio < low * (1 - 1e-6)).any()) or bool((ratio > high * (1 + 1e-6)).any()):
            outside = ratio.min() if bool((ratio < low * (1 - 1e-6)).any()) else ratio.max()
            raise ValueError(
                f"{self.name} may be asked at sigma/alpha from {low:g} to {high:g}, got {float(outside):.4g}; take a "
                "grid of its own schedule, or jump into its range with teleport."
            )

    def _predict(self, rows: Tensor, times: Tensor, given: Any) -> Tensor:
        states = rows.to(self.device, self.dtype).unflatten(1, self.shape)
        if self.blocks > 1:
            states = pixel_unshuffle(states, self.blocks)
        output = self.network(states, times, given)
        return (pixel_shuffle(output, self.blocks) if self.blocks > 1 else output).flatten(1)

    def _given(self, condition: Condition | Tensor | None, rows: int) -> Any:
        """What the network is told of a condition, for that many rows."""
        if isinstance(condition, str):
            return repeated(self._embedded(condition), rows)
        if isinstance(condition, Tensor):
            return self._given_tensor(condition, rows)
        return None if condition is None else torch.full((rows,), condition, device=self.device)

    def _given_tensor(self, condition: Tensor, rows: int) -> Tensor:
        self._check_tensor(condition)
        told = condition.to(self.device, self.dtype if condition.is_floating_point() else condition.dtype)
        told = told.unsqueeze(0) if tuple(told.shape) == self.condition else told
        if len(told) not in (1, rows):
            raise ValueError(f"{len(told)} conditions were given for {rows} rows; give one, or one for each row.")
        return repeated(told, rows)

    def _embedded(self, prompt: str) -> Any:
        """What the network takes for a prompt; encoded once, since a sampling run asks for it at every step, with a
        warning of words that it does not know."""
        if self.embed is None:
            raise ValueError(f"{self.name} takes no prompts, got {prompt!r}.")
        if prompt not in self._prompts:
            if len(self._prompts) >= 256:
                self._prompts.clear()
            if doubt := self.doubt(prompt):
                warnings.warn(doubt, stacklevel=2)
            with torch.no_grad():
                self._prompts[prompt] = moved(self.embed(prompt), self.device, self.dtype)
        return self._prompts[prompt]

    def doubt(self, prompt: str) -> str:
        """A sentence on the words of a prompt that the model's tokenizer has not, so that its network has not learnt
        what they mean; nothing where it has all."""
        examples = self.notes.get("prompts") or ()
        words = unknown_words(getattr(self.embed, "tokenizers", ()), prompt, examples)
        if not words:
            return ""
        named, them, mean = ("word", "it", "it means") if len(words) == 1 else ("words", "them", "they mean")
        such = f" Prompts that it knows are such as {examples[0]!r}." if examples else ""
        return (
            f"{self.name} does not know the {named} {', '.join(map(repr, words))}: its tokenizer has {them} only in "
            f"pieces, so the network has not learnt what {mean}.{such}"
        )

    def to(self, device: Device | None = None, dtype: Dtype | None = None) -> Model:
        """Move the weights (in place, as torch modules do) and return the model for that device and dtype, each as
        torch has it or by its name.

        Raises:
            ValueError: there is no such device, another dtype than `DTYPES`, or the weights cannot be brought there,
            as quantized ones cannot be to another dtype.
        """
        there, kind = find_device(device), find_dtype(dtype)
        if there is None and kind is None:
            return self
        for part in (self.network, self.embed, self.autoencoder):
            if isinstance(part, torch.nn.Module):
                bring(part, self.name, there, kind)
        return replace(self, device=there or self.device, dtype=kind or self.dtype, _prompts={})

    def images(self, rows: Tensor) -> Tensor:
        """Rows [..., D] as images [..., C, H, W] in [0, 1], clipped for display; latents are decoded in batches. States
        that are no images become some: see `to_pictures`."""
        if rows.shape[-1:] != (self.dimension,) or not rows.is_floating_point():
            raise ValueError(
                f"{self.name} shows rows [..., {self.dimension}] of a floating-point dtype, got {tuple(rows.shape)} of "
                f"{rows.dtype}."
            )
        low, high = self.data_range
        states = rows.detach().unflatten(-1, self.shape)
        if self.autoencoder is None:
            return ((to_pictures(states, self.shape).cpu().float() - low) / (high - low)).clamp(0, 1)
        flat = states.reshape(-1, *self.shape).split(self.batch)
        with torch.no_grad():
            decoded = [self.autoencoder.decode(part.to(self.device, self.dtype)).cpu() for part in flat]
        return ((torch.cat(decoded).reshape(*rows.shape[:-1], *self.image_shape).float() + 1) / 2).clamp(0, 1)

    def rows(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] as rows [B, D] in the range of the model's data, or encoded by a latent
        model's autoencoder."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"{self.name} makes images {self.image_shape}, got {tuple(images.shape[1:])}.")
        if not images.is_floating_point():
            raise ValueError(f"{self.name} takes images in [-1, 1], got numbers of {images.dtype}.")
        if self.autoencoder is None:
            low, high = self.data_range
            flat = from_pictures(images, self.shape).flatten(1)
            return flat if (low, high) == (-1, 1) else low + (high - low) / 2 * (flat + 1)
        with torch.no_grad():
            parts = images.split(self.batch)
            states = [self.autoencoder.encode(part.to(self.device, self.dtype)).to(images) for part in parts]
        return torch.cat(states).flatten(1)


def moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A tensor, or a mapping that holds such, where a network is, and in its dtype unless it holds whole numbers: an
    encoder may be in another."""
    if isinstance(value, Mapping):
        return {name: moved(part, device, dtype) for name, part in value.items()}
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


def _rescaled(x: Tensor, level: NoiseLevel, own: NoiseLevel) -> Tensor:
    scale = own.norm / level.norm
    return (scale if scale.ndim == 0 else scale.unsqueeze(1)).to(x) * x


def repeated(value: Any, rows: int) -> Any:
    """A tensor [1, ...], or a mapping that holds such, for ``rows`` rows; a view."""
    if isinstance(value, Mapping):
        return {name: repeated(part, rows) for name, part in value.items()}
    return value.expand(rows, *value.shape[1:])


def sliced(value: Any, rows: slice) -> Any:
    """Some rows of a tensor [B, ...], or of a mapping that holds such; None of None."""
    if isinstance(value, Mapping):
        return {name: sliced(part, rows) for name, part in value.items()}
    return None if value is None else value[rows]


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
