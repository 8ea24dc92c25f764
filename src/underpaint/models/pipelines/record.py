"""Watch a diffusers pipeline while it runs as its user calls it, and turn what was seen into a trajectory."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ...bounds import a
from ...devices import Device, Dtype, find_device, find_dtype
from ...noise import NoiseLevel
from ...sampling.response import NormalDraws
from ...sampling.solvers import ddim_step
from ...sampling.trajectory import Trajectory
from ...theory.denoiser import Denoiser
from ..schedulers.levels import (
    initial_scale,
    scheduler_denoised,
    scheduler_levels,
    step_index,
    told_levels,
    unlike_noise,
)
from .decoding import Call, decoded
from .guidance import guidance_halves
from .hooks import disguised, first_tensor, interposed, scheduler_of
from .retrace import Steps, retraced
from .text_encoding import encoding_alone

#: A method of schedulers whose step may begin elsewhere than at the sample that it is given, at a timestep: where; None
#: if it is no step, but leads to where the first begins.
BEGIN = "_underpaint_begin"
#: Outputs of networks that are kept between two steps: some call theirs several times.
HEARD = 4
#: From this sigma/alpha on, a state is noise and next to nothing else.
_NOISE = 10.0


@dataclass(frozen=True, eq=False)
class Recording:
    """What a pipeline did, with its states as rows: latents or pixels in the scale that its scheduler carries.

    Attributes:
        trajectory: the states x [N+1, B, D] that were visited, the denoised images [N, B, D] that the scheduler was
            given (with guidance, if any), the levels, and the number of steps taken, kept or not. A second-order
            scheduler has a state for each call of the network; see `scheduler_levels`.
        told: the N levels that the steps took the states for, which the timesteps told the network. They differ from
            those of the trajectory where a scheduler's stride misses its timesteps; see `told_levels`.
        halves: the two predictions that guidance combined, as denoised images 2 x [N, B, D], NaN at steps without
            guidance; None if no step had any; a sentence if they could not be told.
        timesteps: what the network was told of the N levels, [N].
        shape: of one state, (C, H, W); (tokens, channels) for the packed latents of Flux.
        output: what the pipeline returned.
        call: how it was called, for `decode`; holds what its networks answered before the first step.
        noise: what the scheduler drew in each of the N steps, in turn: unit noise [J, B, D], J = 0 where it drew none.
        steps: how the scheduler stepped, for `retrace`.

    Examples:
        >>> import torch
        >>> from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
        >>> import underpaint as up
        >>> unet = UNet2DModel(
        ...     sample_size=8,
        ...     in_channels=1,
        ...     out_channels=1,
        ...     block_out_channels=(8,),
        ...     norm_num_groups=4,
        ...     layers_per_block=1,
        ...     down_block_types=("DownBlock2D",),
        ...     up_block_types=("UpBlock2D",),
        ... )
        >>> pipe = DDPMPipeline(unet, DDIMScheduler(clip_sample=False))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> seen = up.record(pipe, num_inference_steps=5, output_type="np")
        >>> seen.trajectory
        Trajectory(5 steps, 1 samples, dimension 64, 5 calls)
        >>> seen.guided.shape
        torch.Size([5, 1, 64])
    """

    trajectory: Trajectory
    told: NoiseLevel
    halves: tuple[Tensor, Tensor] | str | None
    timesteps: Tensor
    shape: tuple[int, ...]
    output: Any
    call: Call = field(repr=False)
    noise: tuple[Tensor, ...] = field(default=(), repr=False)
    steps: Steps | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        halves = "both halves" if isinstance(self.halves, tuple) else "no halves"
        return f"Recording({self.trajectory!r}, shape {self.shape}, {halves} of guidance)"

    @property
    def guided(self) -> Tensor:
        """The denoised images with guidance, [N, B, D]: those of the trajectory."""
        return self.trajectory.denoised

    @property
    def conditional(self) -> Tensor | None:
        """The conditional half of guidance, [N, B, D]; None without guidance, ValueError if it could not be told."""
        return self._half(0)

    @property
    def unconditional(self) -> Tensor | None:
        """The unconditional half of guidance, [N, B, D]; None without guidance, ValueError if it could not be told."""
        return self._half(1)

    def _half(self, index: int) -> Tensor | None:
        if isinstance(self.halves, str):
            raise ValueError(f"This recording has no halves of guidance: {self.halves}.")
        return None if self.halves is None else self.halves[index]

    def retrace(self, denoise: Denoiser | None = None) -> Trajectory:
        """The run once more with another denoiser, such as the `Gaussian` of the data: the same scheduler, from the
        same state, with the same noise in each step. None stands for the denoised images of the recording.

        So the estimates of a stochastic run can be held against the theory's, path by path.

        Raises:
            ValueError: not every step was kept, the scheduler steps by more than state, time and prediction (as with a
            calibration that jumps, or a learned variance), or it draws other noise than it did.
        """
        if self.steps is None:
            raise ValueError("The steps of this run went by more than state, time and prediction: it has no retrace.")
        if self.steps.calls != len(self.trajectory):
            raise ValueError("To retrace a run, record every step of it (every=1).")
        return retraced(self.steps, self.trajectory, self.told, self.shape, self.noise, denoise)

    def decode(self, rows: Tensor) -> Tensor:
        """Rows [..., D] as what the pipeline makes of final states: images [..., c, h, w] and videos [..., F, c, h, w]
        in [0, 1], sounds [..., channels, T].

        It is the pipeline's own way from its last step to its output, whatever that is: the call is made again, with
        networks that give the answers of before and a scheduler that gives back these states, as many at once as the
        call made. What it does besides, such as to put an image back behind a mask, is done.

        Raises:
            ValueError: the rows are not those of this recording, or its pipeline makes no arrays of them.
        """
        if not rows.numel() or rows.shape[-1:] != (math.prod(self.shape),):
            raise ValueError(f"Expected rows of states of shape {self.shape}, got {tuple(rows.shape)}.")
        return decoded(self.call, rows, self.shape, self.trajectory.x.shape[1])


def record(
    pipe: Any,
    *args: Any,
    every: int = 1,
    dtype: Dtype | None = None,
    device: Device = "cpu",
    **kwargs: Any,
) -> Recording:
    """Run ``pipe(*args, **kwargs)`` and record it; the pipeline computes, and returns, what it would without us.

    While it runs, its scheduler's `step` is watched, and what its networks answer between two steps, whatever they are
    called; callbacks are not needed, and stay the user's. Copies that it makes of its scheduler are not recorded.
    However it ends, also by an exception, it is left as it was. What it predicts is turned into x0-hat before the
    scheduler clips it, by the scheduler's prediction type, or that of its negative where the step goes that way; a
    learned variance is left out. Stochastic schedulers are recorded as they went, with the noise that they drew. A
    scheduler that carries states at other levels than the network is told is recorded as it does, with a warning.

    Args:
        pipe: a pipeline of diffusers with a ``scheduler``.
        every: keep each ``every``-th state (the first and the last always).
        dtype: of what is kept, such as torch.float16 or "float16"; by default that of the states.
        device: where it is kept.

    Memory: with K = ceil(N/every) steps kept, (2K + 1) B D numbers, (4K + 1) B D with guidance, B D for each draw of
    noise, and as many again for a moment at the end; where the pipeline computes, one state, at most four outputs of
    the network, and what all of them answered before the first step.

    Raises:
        ValueError: the pipeline has no scheduler, one whose levels are not known, or did not use it; it stepped without
            calling a network; or a step does not lead to the next level of the scheduler, as where parts of a state
            have levels of their own.

    Examples:
        >>> import torch
        >>> from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
        >>> import underpaint as up
        >>> unet = UNet2DModel(
        ...     sample_size=8,
        ...     in_channels=1,
        ...     out_channels=1,
        ...     block_out_channels=(8,),
        ...     norm_num_groups=4,
        ...     layers_per_block=1,
        ...     down_block_types=("DownBlock2D",),
        ...     up_block_types=("UpBlock2D",),
        ... )
        >>> pipe = DDPMPipeline(unet, DDIMScheduler(clip_sample=False))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> seen = up.record(pipe, num_inference_steps=5, output_type="np")
        >>> seen.trajectory.x.shape
        torch.Size([6, 1, 64])
        >>> seen.trajectory.nfe
        5
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    scheduler = scheduler_of(pipe)
    if not callable(getattr(scheduler, "step", None)):
        raise ValueError(
            f"The scheduler of {a(type(pipe).__name__)}, {type(scheduler).__name__}, has no step to record."
        )
    tape = _Tape(Call.of(pipe, args, kwargs), every, find_dtype(dtype), find_device(device))
    with encoding_alone(pipe), _watching(pipe, tape):
        output = pipe(*args, **kwargs)
    return tape.recording(output)


@contextmanager
def _watching(pipe: Any, tape: _Tape) -> Iterator[None]:
    """The tape hears networks through views of them and the scheduler through a subclass that the live object is given.

    An attribute on the object would go along into copies and there step the original; the class of a copy steps the
    copy itself.
    """
    scheduler, own = tape.scheduler, type(tape.scheduler)

    def heard(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = module(*args, **kwargs)
        tape.hear(module, output)
        return output

    scheduler.__class__ = _recorded(own, tape)
    try:
        with interposed(pipe, heard):
            yield
    finally:
        scheduler.__class__ = own


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
        if state is None:
            tape.clear()
            return plain(self, *args, **kwargs)
        tape.before(given, timestep, state)
        try:
            with NormalDraws(tape.drawn):
                result = plain(self, *args, **kwargs)
        except BaseException:  # the run ends, or begins anew
            tape.clear()
            raise
        tape.after(result[0])
        return result

    return disguised(own, {"step": step})


class _Tape:
    """What was heard and kept so far."""

    def __init__(self, call: Call, every: int, dtype: torch.dtype | None, device: torch.device | None) -> None:
        self.call, self.scheduler = call, call.pipe.scheduler
        self.every, self.dtype, self.device = every, dtype, device
        self.shape: tuple[int, ...] = ()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.steps, self.calls, self.sign, self.whole = 0, 0, 1, True
        #: by module, what it answered before the first step
        self.answers: dict[int, list[Any]] = {}
        #: the last outputs of networks since the last step
        self.heard: deque[Tensor] = deque(maxlen=HEARD)
        self.states: list[Tensor] = []
        self.denoised: list[Tensor] = []
        self.halves: list[tuple[Tensor, Tensor] | str | None] = []
        self.noise: list[list[Tensor]] = []
        self.steps_made: Steps | None = None
        self.timesteps: list[float] = []
        self.levels: list[NoiseLevel] = []
        self.told: list[NoiseLevel] = []

    @property
    def keeps(self) -> bool:
        """Whether the coming step is kept."""
        return self.steps % self.every == 0

    def hear(self, module: torch.nn.Module, output: Any) -> None:
        """A network has answered."""
        self.calls += 1
        if self.steps == 0:
            self.answers.setdefault(id(module), []).append(output)
        tensor = first_tensor(output) if self.keeps else None
        if tensor is not None:
            self.heard.append(tensor.detach().clone())

    def drawn(self, noise: Tensor, state: bytes) -> Tensor:
        """The scheduler has drawn noise within a step."""
        if self.kept and noise.ndim > 1 and len(noise) == self.width:
            rows = self._cut(noise.detach()[: self.batch]).flatten(1)
            self.noise[-1].append(rows.to(self.device, self.dtype or rows.dtype, copy=True))
        return noise

    def before(self, given: Mapping[str, Any], timestep: float | Tensor, sample: Tensor) -> None:
        """The scheduler is about to step with what it is given, from a sample."""
        output: Tensor = given["model_output"]
        index, levels = step_index(self.scheduler, timestep), scheduler_levels(self.scheduler)
        if self.calls == 0:
            raise ValueError(self._why_unheard(levels[index]))
        if self.steps == 0:
            self.shape, self.whole, self.width = tuple(sample.shape[1:]), index == 0, len(sample)
            self.batch = len(sample) // 2 if _doubled(output, sample, list(self.heard)) else len(sample)
            self.steps_made = Steps.of(self.scheduler, given, sample, index)
            amiss = starts_otherwise(self.scheduler, sample, levels[0]) if self.whole else ""
            if amiss:
                warnings.warn(f"{amiss}, which are recorded as they are.", stacklevel=5)
        self.kept, self.here, self.ahead = self.keeps, levels[index], levels[index + 1]
        if self.kept:
            self.told.append(told_levels(self.scheduler)[index])
            self._keep(output, timestep, sample)
        self.heard.clear()
        self.calls = 0
        self.steps += 1

    def _why_unheard(self, level: NoiseLevel) -> str:
        """Why a step that is made without a call of a network since the last one is refused."""
        if self.steps and torch.equal(level.ratio, self.here.ratio):
            return steps_twice(self.scheduler)
        return (
            f"The scheduler, {type(self.scheduler).__name__}, is stepped and no network of the pipeline was called "
            "since the step before: what is not a torch module among its parts cannot be heard, or recorded."
        )

    def after(self, sample: Tensor) -> None:
        """The scheduler has stepped."""
        self.last = sample.detach()[: self.batch].clone()
        if self.kept:
            self._settle()

    def _keep(self, output: Tensor, timestep: float | Tensor, sample: Tensor) -> None:
        """Keep what a step is given until it is seen where it leads."""
        if self._cut(output).shape != sample.shape:
            raise ValueError(
                f"The model output {tuple(output.shape)} does not have the shape of the state {tuple(sample.shape)}; "
                "such a pipeline cannot be recorded."
            )
        self.timesteps.append(float(torch.as_tensor(timestep).flatten()[0]))
        self.noise.append([])
        self.levels.append(self.here)
        self.pending = self._rows(sample), self._rows(output)
        self.states.append(self._stored(self.pending[0], sample))
        self.halves.append(guidance_halves(list(self.heard), self._cut(output)[: self.batch]))

    def _settle(self) -> None:
        """Turn the predictions of the step just made into denoised images."""
        state, output = self.pending
        plain, negated = (self._denoised(sign * output, state) for sign in (1, -1))
        if self.steps == 1:
            self.sign = step_sign(state, self.last, plain, negated, self.told[-1], self.ahead)
        denoised = plain if self.sign > 0 else negated
        check_step(self.scheduler, state, self.last, denoised, self.told[-1], self.ahead)
        self.denoised.append(self._stored(denoised, self.last))
        halves = self.halves[-1]
        if isinstance(halves, tuple):
            first, second = (self._denoised(self.sign * half.to(state), state) for half in halves)
            self.halves[-1] = self._stored(first, self.last), self._stored(second, self.last)
        del self.pending

    def _denoised(self, prediction: Tensor, state: Tensor) -> Tensor:
        return scheduler_denoised(self.scheduler, prediction, state, self.told[-1])

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
        level, told = NoiseLevel.join(*self.levels, self.ahead), NoiseLevel.join(*self.told)
        _warn_of_misses(self.scheduler, level[:-1], told)
        return Recording(
            trajectory=Trajectory(torch.stack([*self.states, final]), torch.stack(self.denoised), level, self.steps),
            told=told,
            halves=self._halves(final),
            timesteps=torch.tensor(self.timesteps, dtype=torch.float64),
            shape=self.shape,
            output=output,
            noise=tuple(self._noise(drawn, final) for drawn in self.noise),
            steps=None if self.steps_made is None else replace(self.steps_made, calls=self.steps, sign=self.sign),
            call=replace(self.call, answers=self.answers, whole=self.whole, doubled=self.width > self.batch),
        )

    def _noise(self, drawn: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(drawn) if drawn else like.new_empty(0, *like.shape)

    def _halves(self, like: Tensor) -> tuple[Tensor, Tensor] | str | None:
        untold = next((part for part in self.halves if isinstance(part, str)), None)
        told = [part for part in self.halves if isinstance(part, tuple)]
        if untold or not told:
            return untold
        blank = torch.full_like(like, torch.nan)
        pairs = [part if isinstance(part, tuple) else (blank, blank) for part in self.halves]
        conditional, unconditional = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return conditional, unconditional


def steps_twice(scheduler: Any) -> str:
    """Why a step between two calls of networks is refused that is not the first."""
    return (
        f"This pipeline steps its {type(scheduler).__name__} more than once between two calls of its networks, as "
        "where a first step only tells it a denoised image; it cannot be followed step by step."
    )


def starts_otherwise(scheduler: Any, sample: Tensor, first: NoiseLevel) -> str:
    """What is amiss where the first states of a run that begins with nothing but noise are noise of another size than
    its first level says: the later levels are not those of its scheduler, then. Empty if nothing is."""
    scale = initial_scale(scheduler)
    found = unlike_noise(sample.detach().flatten(1).float(), scale) if float(first.ratio) >= _NOISE else None
    if found is None:
        return ""
    return (
        f"This pipeline starts from states of mean square {found:.3g}, where noise at the first level of its "
        f"{type(scheduler).__name__} has {scale**2:.3g}: the noise in its states has another size than the levels say"
    )


def step_sign(
    state: Tensor, after: Tensor, plain: Tensor, negated: Tensor, here: NoiseLevel, there: NoiseLevel
) -> Literal[1, -1]:
    """Whether a first step went by the prediction or by its negative, which some calls of `step` mean (LTX-Video's
    with per_token_timesteps): -1 if the denoised images of the negative lead where it went, and those of the prediction
    do not."""
    forward, backward = (_gap(after, ddim_step(state, x0, here, there)) for x0 in (plain, negated))
    return -1 if 3 * backward < forward else 1


def check_step(
    scheduler: Any, state: Tensor, after: Tensor, denoised: Tensor, here: NoiseLevel, there: NoiseLevel
) -> None:
    """Raise ValueError if a step of the Euler scheduler for flows, which is a straight line to the denoised image, did
    not go there."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    stochastic = getattr(scheduler, "config", {}).get("stochastic_sampling")
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or stochastic:
        return
    left = _gap(after, ddim_step(state, denoised, here, there))
    allowed = 0.01 * _gap(after, state) + 2 * torch.finfo(after.dtype).eps * float(state.norm())
    if left > allowed:
        raise ValueError(
            f"A step of this pipeline's {type(scheduler).__name__} does not lead from {here!r} to {there!r} by its "
            "prediction: parts of the state are at levels of their own, or are replaced. Such a run cannot be recorded."
        )


def _gap(after: Tensor, expected: Tensor) -> float:
    return float((after.flatten(1).to(expected) - expected).norm())


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
