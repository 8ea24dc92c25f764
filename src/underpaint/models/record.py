"""Watch a diffusers pipeline while it runs as its user calls it, and turn what was seen into a trajectory."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.trajectory import Trajectory
from .latent import LatentAutoencoder
from .schedulers import scheduler_denoised, scheduler_levels, step_index, told_levels

#: A method of schedulers whose step may begin elsewhere than at the sample that it is given, at a timestep: where.
BEGIN = "_underpaint_begin"


@dataclass(frozen=True, eq=False)
class Recording:
    """What a pipeline did, with its states as rows: latents or pixels in the scale that its scheduler carries.

    Attributes:
        trajectory: the states x [N+1, B, D] that were visited, the denoised images [N, B, D] that the scheduler was
            given (with guidance, if any), the levels, and the number of steps taken, kept or not. A second-order
            scheduler has a state for each call of the network; see `scheduler_levels`.
        told: the N levels that the steps took the states for, which the timesteps told the network. They differ from
            those of the trajectory where a scheduler's stride misses its timesteps; see `told_levels`.
        conditional, unconditional: the two predictions that guidance combined, as denoised images [N, B, D]; NaN at
            steps without guidance, None if no step had any.
        timesteps: what the network was told of the N levels, [N].
        shape: of one state, (C, H, W); (tokens, channels) for the packed latents of Flux.
        output: what the pipeline returned.
    """

    trajectory: Trajectory
    told: NoiseLevel
    conditional: Tensor | None
    unconditional: Tensor | None
    timesteps: Tensor
    shape: tuple[int, ...]
    output: Any

    @property
    def guided(self) -> Tensor:
        """The denoised images with guidance, [N, B, D]: those of the trajectory."""
        return self.trajectory.denoised


def record(
    pipe: Any,
    *args: Any,
    every: int = 1,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Recording:
    """Run ``pipe(*args, **kwargs)`` and record it; the pipeline computes, and returns, what it would without us.

    While it runs, its scheduler's `step` and the output of its networks that take a time are watched; callbacks are
    not needed, and stay the user's. Copies that it makes of its scheduler are not recorded. However it ends, also by
    an exception, it is left as it was. What it predicts is turned into x0-hat before the scheduler clips it, by the
    scheduler's prediction type; a learned variance is left out. Stochastic schedulers are recorded as they went. A
    scheduler that carries states at other levels than the network is told is recorded as it does, with a warning.

    Args:
        pipe: a pipeline of diffusers with a ``scheduler``.
        every: keep each ``every``-th state (the first and the last always).
        dtype: of what is kept, such as torch.float16; by default that of the states.
        device: where it is kept.

    Memory: with K = ceil(N/every) steps kept, (2K + 1) B D numbers, (4K + 1) B D with guidance, and as many again for a
    moment at the end; where the pipeline computes, one state and at most three outputs of the network.

    Raises:
        ValueError: the pipeline has no scheduler, one whose levels are not known, or did not use it.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    scheduler = getattr(pipe, "scheduler", None)
    if not callable(getattr(scheduler, "step", None)):
        raise ValueError(
            f"The scheduler of a {type(pipe).__name__}, {type(scheduler).__name__}, has no step to record."
        )
    tape = _Tape(scheduler, every, dtype, torch.device(device))
    with _watching(pipe, tape):
        output = pipe(*args, **kwargs)
    return tape.recording(output)


@contextmanager
def _watching(pipe: Any, tape: _Tape) -> Iterator[None]:
    """The tape hears networks through hooks and the scheduler through a subclass that the live object is given.

    An attribute on the object would go along into copies and there step the original; the class of a copy steps the
    copy itself.
    """
    scheduler, own = tape.scheduler, type(tape.scheduler)
    hooks = [network.register_forward_hook(tape.hear) for network in denoising_networks(pipe)]
    scheduler.__class__ = _recorded(own, tape)
    try:
        yield
    finally:
        scheduler.__class__ = own
        for hook in hooks:
            hook.remove()


def denoising_networks(pipe: Any) -> list[torch.nn.Module]:
    """The pipeline's denoising networks: those modules that take a time."""
    parts = getattr(pipe, "components", {}).values()
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    return [module for module in modules if "timestep" in inspect.signature(module.forward).parameters]


def _recorded(own: type, tape: _Tape) -> type:
    """A subclass of a scheduler's class whose step, of the tape's scheduler only, is put on tape."""
    plain: Callable[..., Any] = own.step  # type: ignore[attr-defined]
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not tape.scheduler:
            return plain(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        sample, timestep = given["sample"], given["timestep"]
        state = getattr(self, BEGIN)(sample, timestep) if hasattr(self, BEGIN) else sample
        tape.before(given["model_output"], timestep, state)
        result = plain(self, *args, **kwargs)
        tape.after(result[0])
        return result

    names = {"step": step, "__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    return type(own.__name__, (own,), names)


class _Tape:
    """What was heard and kept so far."""

    def __init__(self, scheduler: Any, every: int, dtype: torch.dtype | None, device: torch.device) -> None:
        self.scheduler, self.every, self.dtype, self.device = scheduler, every, dtype, device
        self.steps, self.thread = 0, get_ident()
        self.shape: tuple[int, ...] = ()
        #: the network's outputs since the last step; no more are kept than it takes to see that they are not two
        self.heard: deque[Tensor] = deque(maxlen=3)
        self.states: list[Tensor] = []
        self.denoised: list[Tensor] = []
        self.halves: list[tuple[Tensor, Tensor] | None] = []
        self.timesteps: list[float] = []
        self.levels: list[NoiseLevel] = []
        self.told: list[NoiseLevel] = []

    @property
    def keeps(self) -> bool:
        """Whether the coming step is kept."""
        return self.steps % self.every == 0

    def hear(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        """A network's forward hook. Another thread may be running a pipeline with the same network."""
        if not isinstance(output, Tensor):
            output = next(iter(output.values() if isinstance(output, Mapping) else output))
        if self.keeps and isinstance(output, Tensor) and get_ident() == self.thread:
            self.heard.append(output.detach().clone())

    def before(self, output: Tensor, timestep: float | Tensor, sample: Tensor) -> None:
        """The scheduler is about to step with a model output from a sample."""
        index, levels = step_index(self.scheduler, timestep), scheduler_levels(self.scheduler)
        if self.steps == 0:
            self.shape = tuple(sample.shape[1:])
            self.batch = len(sample) // 2 if _doubled(output, sample, list(self.heard)) else len(sample)
        if self.keeps:
            self.timesteps.append(float(torch.as_tensor(timestep).flatten()[0]))
            self.levels.append(levels[index])
            self.told.append(told_levels(self.scheduler)[index])
            self._keep(output, sample)
        self.ahead = levels[index + 1]
        self.heard.clear()
        self.steps += 1

    def after(self, sample: Tensor) -> None:
        """The scheduler has stepped."""
        self.last = sample.detach()[: self.batch].clone()

    def _keep(self, output: Tensor, sample: Tensor) -> None:
        if self._cut(output).shape != sample.shape:
            raise ValueError(
                f"The model output {tuple(output.shape)} does not have the shape of the state {tuple(sample.shape)}; "
                "such a pipeline cannot be recorded."
            )
        state = self._rows(sample)

        def denoised(prediction: Tensor) -> Tensor:
            rows = scheduler_denoised(self.scheduler, self._rows(prediction), state, self.told[-1])
            return self._stored(rows, sample)

        self.states.append(self._stored(state, sample))
        self.denoised.append(denoised(output))
        parts = [part for heard in self.heard for part in self._cut(heard).split(self.batch)]
        parts = [part for part in parts if part.shape[1:] == sample.shape[1:]]
        halves = _halves(parts, self._cut(output)[: self.batch])
        self.halves.append(None if halves is None else (denoised(halves[0]), denoised(halves[1])))

    def _cut(self, output: Tensor) -> Tensor:
        """A model output without what a pipeline may leave behind the prediction: a learned variance, image tokens."""
        return output[:, : self.shape[0]]

    def _rows(self, tensor: Tensor) -> Tensor:
        """Rows [B, D], in float32 at least."""
        rows = self._cut(tensor.detach()[: self.batch]).flatten(1)
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    def _stored(self, rows: Tensor, like: Tensor) -> Tensor:
        return rows.to(self.device, self.dtype or like.dtype, copy=True)

    def recording(self, output: Any) -> Recording:
        if self.steps == 0:
            raise ValueError(
                f"The pipeline ended without a step of its {type(self.scheduler).__name__}: nothing to record."
            )
        final = self._stored(self.last.flatten(1), self.last)
        guided = [part for part in self.halves if part is not None]
        blank = torch.full_like(final, torch.nan)
        conditional, unconditional = zip(*(part or (blank, blank) for part in self.halves), strict=True)
        level, told = NoiseLevel.join(*self.levels, self.ahead), NoiseLevel.join(*self.told)
        _warn_of_misses(self.scheduler, level[:-1], told)
        return Recording(
            trajectory=Trajectory(torch.stack([*self.states, final]), torch.stack(self.denoised), level, self.steps),
            told=told,
            conditional=torch.stack(conditional) if guided else None,
            unconditional=torch.stack(unconditional) if guided else None,
            timesteps=torch.tensor(self.timesteps, dtype=torch.float64),
            shape=self.shape,
            output=output,
        )


def _warn_of_misses(scheduler: Any, level: NoiseLevel, told: NoiseLevel) -> None:
    """Warn where states were more than 1 % of sigma/alpha away from what the network was told."""
    off = (level.ratio / told.ratio - 1).nan_to_num().abs()
    if bool((off > 0.01).any()):
        worst = int(off.argmax())
        warnings.warn(
            f"{type(scheduler).__name__} steps by a stride that misses its own timesteps: a state at sigma/alpha = "
            f"{float(level.ratio[worst]):.3g} was taken for one at {float(told.ratio[worst]):.3g}, which the network "
            "was told. Both are recorded; timestep_spacing='leading', or 'trailing' with steps that divide "
            "num_train_timesteps, avoids it.",
            stacklevel=4,
        )


def _doubled(output: Tensor, sample: Tensor, heard: list[Tensor]) -> bool:
    """Whether the states are the same rows twice, carried so by the pipeline for guidance (DiT does): both halves of
    the guided output are equal, those that the network gave are not."""

    def twice(tensor: Tensor) -> bool:
        half = len(tensor) // 2
        return len(tensor) == len(sample) == 2 * half and torch.equal(tensor[:half], tensor[half:])

    return twice(sample) and twice(output) and any(len(h) == len(sample) and not twice(h) for h in heard)


def _halves(parts: list[Tensor], guided: Tensor) -> tuple[Tensor, Tensor] | None:
    """The conditional and the unconditional one of two predictions, told by the guided output that was made of them.

    It is (1 - w) unconditional + w conditional, up to a factor per row (guidance rescale): the unconditional is what
    there is less of. None if it is no such combination, or not of two.
    """
    if len(parts) != 2:
        return None
    pair = torch.stack([part.flatten(1).to("cpu", torch.float64) for part in parts], -1)
    target = guided.flatten(1).to("cpu", torch.float64).unsqueeze(-1)
    if not bool(torch.isfinite(pair).all() & torch.isfinite(target).all()):
        return None
    weights = torch.linalg.lstsq(pair, target).solution
    left = (target - pair @ weights).square().sum()
    share = weights.sum((0, 2))
    if left > 1e-3 * target.square().sum() or share.sum() <= 0:
        return None
    first, second = parts
    return (second, first) if share[0] <= share[1] else (first, second)


def decode(
    pipe: Any, rows: Tensor, shape: tuple[int, ...], size: tuple[int, int] | None = None, batch: int = 8
) -> Tensor:
    """Rows [..., D] of a recording as images [..., c, h, w] in [0, 1], clipped for display.

    Latents go through the pipeline's own autoencoder, ``batch`` of them at once, behind its scale and shift.

    Args:
        pipe: the pipeline that was recorded.
        shape: of one state: `Recording.shape`.
        size: (height, width) in pixels of images with packed latents (Flux); square unless given.

    Raises:
        ValueError: the rows do not have the shape, or are not those of images.
    """
    if rows.shape[-1] != math.prod(shape) or len(shape) not in (2, 3):
        raise ValueError(f"Expected rows of images of shape {tuple(shape)}, got {tuple(rows.shape)}.")
    states, vae = rows.detach().reshape(-1, *shape), getattr(pipe, "vae", None)
    if vae is None:
        images = states.cpu().float()
    else:
        if len(shape) == 2:
            edge = math.isqrt(shape[0]) * 2 * pipe.vae_scale_factor
            states = pipe._unpack_latents(states, *(size or (edge, edge)), pipe.vae_scale_factor)
        images = _decoded(vae, states, batch)
    return (images / 2 + 0.5).clamp(0, 1).reshape(*rows.shape[:-1], *images.shape[1:])


def _decoded(vae: Any, states: Tensor, batch: int) -> Tensor:
    """Images [B, c, h, w] in [-1, 1], on the CPU; a VAE that had to be run in float32 gets its own dtype back."""
    channels, height, width = states.shape[1:]
    dtype, autoencoder = vae.dtype, LatentAutoencoder(vae, (channels, height, width))
    try:
        with torch.no_grad():
            parts = [autoencoder.decode(part.to(vae.device)).cpu().float() for part in states.split(batch)]
    finally:
        vae.to(dtype)
    return torch.cat(parts)
