"""Teleport for pipelines of diffusers: the call their user already writes, with the early steps in closed form."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.auto import SkipChoice, choose_skip
from ..sampling.teleport import steps_above
from ..theory.gaussian import Gaussian
from .load import load_model
from .model import Condition
from .record import BEGIN, denoising_networks
from .schedulers import initial_scale, scales_input, step_index, told_levels

#: What a scheduler may keep one of for each call of the network, and of levels one more.
_PER_CALL = ("timesteps", "sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down", "order_list")
#: Steps of the grid on which "auto" looks.
_STEPS = 24


def teleport_pipeline(
    pipe: Any,
    gaussian: Gaussian,
    skip: int | float | Literal["auto"] = "auto",
    *,
    tolerance: float = 0.02,
    condition: Condition | None = None,
    guidance: float = 1.0,
    seeds: Sequence[int] = range(8),
    measure: bool = False,
) -> Any:
    """A pipeline that is called as ``pipe`` is, and skips the first steps of its scheduler by the Gaussian's flow.

    The rest of the scheduler's own grid follows (*saved*): ``num_inference_steps`` less the skipped ones are made. The
    initial noise is what it would have been, so that a seed still means its image. The networks are shared with
    ``pipe``, which is left as it is; the scheduler is a copy. Works with any pipeline that starts from noise and any
    scheduler whose levels are known (see `told_levels`), whether or not it takes ``latents`` or callbacks. A step
    of two calls, such as Heun's, is skipped whole.

    ``teleported.skip_choice`` is what ``"auto"`` chose, with its predicted and, if asked for, its measured error.

    Args:
        gaussian: of the states at sigma = 0 as the pipeline carries them, flattened: pixels in [-1, 1], scaled latents,
            packed tokens.
        skip: a number of steps (int); a ratio sigma/alpha to land at (float), at the last level not below it; or
            "auto", for the ratio at which `choose_skip` foresees the ``tolerance``.
        tolerance, seeds, measure: for "auto", which calls the network 24 times on one row a seed; see `choose_skip`.
        condition, guidance: for "auto", the class or prompt that stands for those of later calls.

    Raises:
        ValueError: the scheduler is of no known family; the skip is negative, or "auto" is asked of packed states; or,
            when it is called, the skip leaves no step, the Gaussian does not fit, or the pipeline starts from an image.
    """
    scales_input(getattr(pipe, "scheduler", None))  # raises for a scheduler of no known family
    choice, reach = None, cast(Any, skip)
    if skip == "auto":
        choice = _choose(pipe, gaussian, condition, guidance, seeds=seeds, tolerance=tolerance, measure=measure)
        reach = choice.ratio if choice.skip else 0
    if not (isinstance(reach, int | float) and reach >= 0):
        raise ValueError(f"skip is a number of steps, a ratio sigma/alpha or 'auto', got {skip!r}.")
    scheduler = copy.deepcopy(pipe.scheduler)
    jump = _Jump(scheduler, gaussian, reach)
    scheduler.__class__ = _jumping(type(scheduler), jump)
    teleported = copy.copy(pipe)
    teleported.scheduler = scheduler
    teleported.__class__ = _teleported(type(pipe), jump)
    teleported.skip_choice = choice
    return teleported


def rows_of(sample: Tensor, gaussian: Gaussian) -> Tensor:
    """A pipeline's states [B, ...] as rows [B, D], in float32 at least.

    Raises:
        ValueError: the Gaussian is not of that dimension.
    """
    rows = sample.flatten(1).to(torch.promote_types(sample.dtype, torch.float32))
    if rows.shape[1] != gaussian.dimension:
        raise ValueError(
            f"The states of this pipeline are {tuple(sample.shape[1:])}, {rows.shape[1]} numbers, and the Gaussian "
            f"describes {gaussian.dimension}; fit it to latents or pixels as the pipeline carries them."
        )
    return rows


def _choose(pipe: Any, gaussian: Gaussian, condition: Condition | None, guidance: float, **given: Any) -> SkipChoice:
    model = load_model(pipe)
    if model.blocks > 1:
        raise ValueError(
            f"'auto' is not offered for the packed states of a {type(pipe).__name__}: its Gaussian is packed, its "
            "denoiser is not. Give the ratio that choose_skip finds with a Gaussian of unpacked rows."
        )
    denoise = model if condition is None else model.conditional(condition, guidance)
    return choose_skip(denoise, gaussian.to(model.device), model.schedule.grid(_STEPS), **given)


class _Jump:
    """What a teleported scheduler, by way of its class, has to do in each run.

    Attributes:
        pending: whether the next state to be seen still lies at ``here`` and belongs to ``there``.
        scale: the scheduler's init_noise_sigma before its grid was cut.
    """

    here: NoiseLevel
    there: NoiseLevel

    def __init__(self, scheduler: Any, gaussian: Gaussian, skip: float) -> None:
        self.scheduler, self.gaussian, self.skip = scheduler, gaussian, skip
        self.pending = False
        self.scale: float | None = None

    def aim(self) -> None:
        """The scheduler has laid its grid: cut off the steps to skip."""
        self.scale = None  # so that the scheduler tells
        self.scale = initial_scale(self.scheduler)
        levels, starts = told_levels(self.scheduler), _starts(self.scheduler)
        skip = self.skip if isinstance(self.skip, int) else steps_above(levels[torch.tensor(starts)], self.skip)
        if skip >= len(starts):
            raise ValueError(f"skip must leave one of the {len(starts)} steps of this call to the network, got {skip}.")
        self.here, self.there = levels[0], levels[starts[skip]]
        self.pending = skip > 0
        if self.pending:
            _cut(getattr(self.scheduler, "layout", self.scheduler), starts[skip], skip)

    def __call__(self, state: Tensor, scale: float = 1.0) -> Tensor:
        """The state where the jump lands, for one, times a scale, from where it starts."""
        self.gaussian = self.gaussian.to(state.device)
        landed = self.gaussian.flow(rows_of(state, self.gaussian) / scale, self.here, self.there)
        return (scale * landed).to(state.dtype).view_as(state)

    def seen(self, state: Tensor) -> Tensor:
        """What the network would see of the state, or of several, had it made the jump."""
        scheduler, scale = self.scheduler, 1.0
        if scales_input(scheduler):
            scale = float(scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0]))
        return self(state, scale)


def _jumping(own: type, jump: _Jump) -> type:
    """A subclass of a scheduler's class in which the jump's own scheduler lays a shorter grid, and its first step
    begins where the jump lands."""
    plain = _plain(own)
    signature = inspect.signature(plain.step)

    @functools.wraps(plain.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        plain.set_timesteps(self, *args, **kwargs)
        if self is jump.scheduler:
            jump.aim()

    def begin(self: Any, sample: Tensor, timestep: float | Tensor) -> Tensor:
        return jump(sample) if self is jump.scheduler and jump.pending else sample

    @functools.wraps(plain.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (self is jump.scheduler and jump.pending):
            return plain.step(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs)
        if step_index(self, given.arguments["timestep"]):
            raise ValueError("Teleport starts from noise; this pipeline starts from an image, in the middle of a grid.")
        given.arguments["sample"] = jump(given.arguments["sample"])
        jump.pending = False
        return plain.step(*given.args, **given.kwargs)

    names: dict[str, Any] = {"set_timesteps": set_timesteps, "step": step, BEGIN: begin}
    whole: Any = getattr(plain, "init_noise_sigma", None)
    if isinstance(whole, property):  # it may ask the levels that are left, for which the noise is not drawn
        cut = jump.scheduler
        names["init_noise_sigma"] = property(
            lambda self: jump.scale if self is cut and jump.scale else whole.__get__(self)
        )
    return _disguised(plain, names)


def _teleported(own: type, jump: _Jump) -> type:
    """A subclass of a pipeline's class whose networks see, before the first step, where the jump lands."""
    plain = _plain(own)

    @functools.wraps(plain.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.scheduler is not jump.scheduler:
            raise ValueError("The scheduler of a teleported pipeline was changed; change it before teleport_pipeline.")
        with _jumped_inputs(self, jump):
            return plain.__call__(self, *args, **kwargs)

    return _disguised(plain, {"__call__": call})


def _disguised(plain: Any, names: dict[str, Any]) -> type:
    """A subclass that goes by the name of its parent, for what is saved."""
    same = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (plain,), {"_plain": plain, **names, **same})


def _plain(own: type) -> Any:
    """A class before it was disguised: teleporting twice counts once."""
    return vars(own).get("_plain", own)


@contextmanager
def _jumped_inputs(pipe: Any, jump: _Jump) -> Iterator[None]:
    """Pipelines put what they scale or double for guidance before the network, and that does not come back to the
    scheduler: so it is the network's first argument that jumps. Another thread may be using the same network."""
    thread = get_ident()

    def see(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not jump.pending or get_ident() != thread:
            return None
        if args:
            return (jump.seen(args[0]), *args[1:]), kwargs
        first = next(iter(inspect.signature(module.forward).parameters))
        return args, {**kwargs, first: jump.seen(kwargs[first])}

    hooks = [network.register_forward_pre_hook(see, with_kwargs=True) for network in denoising_networks(pipe)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _starts(scheduler: Any) -> list[int]:
    """Which calls of the network begin a step of the scheduler. PNDM makes its second call twice."""
    calls = len(scheduler.timesteps)
    if hasattr(scheduler, "plms_timesteps"):
        if len(scheduler.prk_timesteps):
            raise ValueError("A PNDMScheduler is teleported only with skip_prk_steps=True, as in Stable Diffusion.")
        return [0, *range(2, calls)]
    return list(range(0, calls, scheduler.order))


def _cut(scheduler: Any, calls: int, steps: int) -> None:
    """Leave out the first steps of a scheduler whose grid has just been laid."""
    names = (*_PER_CALL, *(() if hasattr(scheduler, "alphas_cumprod") else ("alphas", "betas")))
    for name in names:
        if getattr(scheduler, name, None) is not None:
            setattr(scheduler, name, getattr(scheduler, name)[calls:])
    if hasattr(scheduler, "plms_timesteps"):
        times = scheduler.timesteps
        scheduler.timesteps = torch.cat([times[:2], times[1:]])
    if hasattr(scheduler, "step_index"):  # it counts up to this; others take a stride from it
        scheduler.num_inference_steps -= steps
