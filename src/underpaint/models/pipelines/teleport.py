"""Teleport for pipelines of diffusers: the call their user already writes, with the early steps in closed form.

The first state that the network sees has to be where the jump lands. Pipelines put what they scale, double for guidance
or pack before the network, and that does not come back to the scheduler: so it is the state among the network's
arguments that jumps, and the first step checks by value that it was the state, that nothing else jumped, and that what
is stepped was made of the networks' answers alone. Where the network does not show its state (it is scaled by the
pipeline, or goes in beside an image on another axis), or the pipeline puts the state and the answers together (it has
the scales of EDM, or takes a velocity from a denoised image), the call begins anew with one more step, from the first
level, whose prediction is thrown away: its result is the landing.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ...bounds import a, is_number, is_whole
from ...noise import NoiseLevel
from ...sampling.auto import SkipChoice, choose_skip
from ...sampling.teleport import steps_above
from ...theory.gaussian import Gaussian
from ..load import load_model
from ..model import Condition
from ..schedulers.levels import begins_late, initial_scale, scales_input, told_levels, unlike_noise
from .decoding import stepped
from .guidance import made_of
from .hooks import disguised, first_tensor, interposed, scheduler_of
from .record import BEGIN, HEARD, starts_otherwise, steps_twice

#: What a scheduler may keep one of for each call of the network, and of levels one more.
_PER_CALL = ("timesteps", "sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down", "order_list")
#: What a call says whose networks see each state more than once.
GUIDED = (
    "The networks of this pipeline are shown each state several times a step, as guidance does it. A jump by the "
    "Gaussian of all data is then further off than a grid of fewer steps; take statistics of what the prompt asks for, "
    "turn guidance off, or use a calibrated plan."
)
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
    scheduler whose levels are known (see `told_levels`), whether or not it takes ``latents`` or callbacks, and
    whatever its networks are and are called. A step of two calls, such as Heun's, is skipped whole. Where the state
    cannot be found in what the networks are given, or goes into the prediction beside what they answer, a call makes
    one step more than that, for its landing.

    ``teleported.skip_choice`` is what ``"auto"`` chose, with its predicted and, if asked for, its measured error.
    ``teleported.steps_saved`` says, after a call, how many steps of the scheduler's grid it did not make. Where the
    networks are shown each state several times a step, as guidance does it, a call warns: a prompt leads away from the
    Gaussian of all data, and the jump may then cost more than it saves.

    Args:
        gaussian: of the states at sigma = 0 as the pipeline carries them, flattened: pixels in [-1, 1], scaled latents,
            packed tokens.
        skip: a number of steps (int); a ratio sigma/alpha to land at (float), at the last level not below it; or
            "auto", for the ratio at which `choose_skip` foresees the ``tolerance``.
        tolerance, seeds, measure: for "auto", which calls the network 24 times on one row a seed; see `choose_skip`.
        condition, guidance: for "auto", the class or prompt that stands for those of later calls.

    Raises:
        ValueError: the scheduler is of no known family; the skip is negative, or "auto" is asked of packed states; or,
            when it is called, the skip leaves no step, the Gaussian does not fit, the pipeline starts from anything but
            the noise of its first level, calls no network, or steps a second state with a copy of its scheduler.

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
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(64), variance=0.25)
        >>> quick = up.teleport_pipeline(pipe, gaussian, skip=8.0)
        >>> quick(num_inference_steps=10, output_type="np").images.shape
        (1, 8, 8, 1)
    """
    scales_input(scheduler_of(pipe))  # raises for a scheduler of no known family
    choice, reach = None, cast(Any, skip)
    if skip == "auto":
        choice = _choose(pipe, gaussian, condition, guidance, seeds=seeds, tolerance=tolerance, measure=measure)
        reach = choice.ratio if choice.skip else 0
    if not (is_number(reach) and reach >= 0):
        raise ValueError(f"skip is a number of steps, a ratio sigma/alpha or 'auto', got {skip!r}.")
    scheduler = copy.deepcopy(pipe.scheduler)
    jump = Jump(scheduler, gaussian, int(reach) if is_whole(reach) else float(reach))
    scheduler.__class__ = jumping_scheduler(type(scheduler), jump)
    teleported = copy.copy(pipe)
    teleported.scheduler = scheduler
    teleported.__class__ = jumping_pipeline(type(pipe), jump)
    teleported.skip_choice, teleported.steps_saved = choice, None
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
            f"'auto' is not offered for the packed states of {a(type(pipe).__name__)}: its Gaussian is packed, its "
            "denoiser is not. Give the ratio that choose_skip finds with a Gaussian of unpacked rows."
        )
    denoise = model if condition is None else model.conditional(condition, guidance)
    return choose_skip(denoise, gaussian.to(model.device), model.schedule.grid(_STEPS), **given)


class Jump:
    """What a teleported scheduler, by way of its class, has to do in each run.

    Attributes:
        pending: whether the next state to be seen still lies at ``here`` and belongs to ``there``.
        running: whether the teleported pipeline is being called.
        late: the first step's prediction is thrown away, and its result is the landing.
        landed: whether it was the last to be made.
        fresh: whether no step has been made on the grid that was laid last.
        scale: the scheduler's init_noise_sigma before its grid was cut.
        shown: the states that networks were shown since, as they were before they jumped.
        heard: what networks last answered since.
        sigmas: the scheduler's own where the first step is thrown away, as the pipeline counts its steps.
        calls: of networks since the grid was laid or the first step was thrown away.
        saved: steps that this run does not make.
        guided: whether the networks were shown each state more than once.
        doubt: what a call warns of then, if of anything.
        noise_only: whether a call that starts from an image is refused, or made without a jump.
        what, maker: what the jump is part of, and the function that made the pipeline, for sentences.
    """

    here: NoiseLevel
    there: NoiseLevel
    doubt: str | None = GUIDED
    noise_only = True
    what, maker = "Teleport", "teleport_pipeline"

    def __init__(self, scheduler: Any, gaussian: Gaussian, skip: float) -> None:
        self.scheduler, self.gaussian, self.skip = scheduler, gaussian, skip
        self.pending = self.running = self.late = self.landed = self.fresh = self.guided = False
        self.scale: float | None = None
        self.shown: list[Tensor] = []
        self.heard: deque[Tensor] = deque(maxlen=HEARD)
        self.sigmas: Tensor | None = None
        self.calls = self.saved = 0

    def aim(self) -> None:
        """The scheduler has laid its grid: cut off the steps to skip."""
        self.scale = None  # so that the scheduler tells
        self.scale = initial_scale(self.scheduler)
        levels, starts = told_levels(self.scheduler), _starts(self.scheduler)
        skip = self.skip if isinstance(self.skip, int) else steps_above(levels[torch.tensor(starts)], self.skip)
        if skip >= len(starts):
            raise ValueError(f"skip must leave one of the {len(starts)} steps of this call to the network, got {skip}.")
        self.here, self.there = levels[0], levels[starts[skip]]
        self.pending, self.calls, self.saved = skip > 0, 0, max(skip - self.late, 0)
        self.forget()
        if self.pending:
            layout = getattr(self.scheduler, "layout", self.scheduler)
            first = first_of(layout)
            _cut(layout, starts[skip], skip)
            if hasattr(layout, "set_begin_index"):  # where a timestep stands twice, it would begin at the second
                layout.set_begin_index(0)
            self.lengthen(layout, first)

    def forget(self) -> None:
        """A grid has been laid anew."""
        self.shown.clear()
        self.heard.clear()
        self.sigmas, self.fresh = None, True

    def lengthen(self, layout: Any, first: tuple[Tensor, Tensor | None]) -> None:
        """Where the first step is thrown away, lay the timestep and the sigma that it has before the others."""
        self.rest = layout.timesteps
        if not self.late:
            return
        time, sigma = first
        layout.timesteps = torch.cat([time, layout.timesteps])
        if sigma is not None:
            self.sigmas = torch.cat([sigma, layout.sigmas])
            layout.sigmas = self.sigmas[1:]  # what a pipeline writes into its own is written into these

    def __call__(self, state: Tensor, scale: float = 1.0) -> Tensor:
        """The state where the jump lands, for one, times a scale, from where it starts."""
        self.gaussian = self.gaussian.to(state.device)
        landed = self.gaussian.flow(rows_of(state, self.gaussian) / scale, self.here, self.there)
        return (scale * landed).to(state.dtype).view_as(state)

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a network with the state among them where the jump lands: the first that is a state, or a
        list of states; else the first that may begin with one."""
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        for find in (whole_state, _before):
            for name, value in given.items():
                parts = value if type(value) is list else [value]
                places = [find(part, self.gaussian.dimension) for part in parts]
                if places and None not in places:
                    jumped = [self._jumped(part, place) for part, place in zip(parts, places, strict=True)]
                    given[name] = jumped if type(value) is list else jumped[0]
                    return tuple(given.pop(index) for index in range(len(args))), given
        return args, kwargs

    def _jumped(self, given: Tensor, place: Any) -> Tensor:
        rows, scale = given[place].reshape(-1, self.gaussian.dimension), self._input_scale()
        self.shown.append(rows.detach().float() / scale)
        jumped = given.clone()
        jumped[place] = self(rows, scale).view_as(given[place])
        return jumped

    def hear(self, answer: Any) -> None:
        """A network has answered."""
        tensor = first_tensor(answer)
        if tensor is not None:
            self.heard.append(tensor.detach())

    def _input_scale(self) -> float:
        """What the pipeline has multiplied the state with for the network."""
        scheduler = self.scheduler
        if not scales_input(scheduler):
            return 1.0
        index = getattr(scheduler, "_step_index", None)
        scale = float(scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0]))
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = index
        return scale

    def check(self, sample: Tensor, output: Tensor) -> None:
        """Raise unless the first state that is stepped is noise; or, to begin anew, if the networks were not shown it
        where the jump lands, or something else in its place, or if the prediction is made of more than their answers,
        such as the state where it was."""
        name = type(self.scheduler).__name__
        if self.calls == 0:
            raise ValueError(
                f"The scheduler, {name}, is stepped and no network of the pipeline was called before: what is not a "
                "torch module among its parts cannot be shown where the jump lands."
            )
        rows = rows_of(sample.detach(), self.gaussian)
        self._check_noise(rows)
        seen = bool(self.shown) and all(_same(shown, rows) for shown in self.shown)
        if not self.late and not (seen and made_of(list(self.heard), output)):
            self.late = True
            raise Anew
        self.guided = sum(map(len, self.shown)) > len(rows)

    def stepped(self, sample: Tensor) -> None:
        """The first step is about to be made."""

    def begin(self, sample: Tensor, timestep: float | Tensor) -> None:
        """A run begins, where it begins without a jump: raise ValueError if it does with noise of another size than the
        levels of the scheduler say."""
        self.fresh = False
        late = self.pending or begins_late(self.scheduler, timestep)
        amiss = "" if late else starts_otherwise(self.scheduler, sample, told_levels(self.scheduler)[0])
        if amiss:
            raise ValueError(f"{amiss}, which {self.maker} needs to be right.")

    def leave(self) -> None:
        """The first step after one that was thrown away is about to be made."""
        if self.calls == 0:
            raise ValueError(steps_twice(self.scheduler))
        self.landed = False

    def done(self) -> None:
        """The call has given its result."""

    def end(self) -> None:
        """The call is over, whether or not it gave a result."""
        self.forget()
        self.running = self.pending = self.landed = self.fresh = False

    def from_image(self) -> None:
        """The call starts from an image: it has no jump, or cannot be."""
        if self.noise_only or self.late:
            raise ValueError(
                f"{self.what} starts from noise; this pipeline starts from an image to which its scheduler added noise."
            )
        self.pending = False

    def _check_noise(self, rows: Tensor) -> None:
        scale = float(self.scale or 1.0)
        found = unlike_noise(rows, scale)
        if found is not None:
            raise ValueError(
                f"{self.what} starts from noise of mean square {scale**2:.4g}; this pipeline starts from states of "
                f"{found:.4g}, which are not the noise of its first level."
            )


class Anew(Exception):
    """A call has to begin anew, in another way: the networks were not shown the state that is stepped, or something
    else that only they can tell."""


def whole_state(given: Any, dimension: int) -> Any:
    """All of an argument that may be one state of so many numbers, or rows of such; None if it may not."""
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim < 2 or not len(given):
        return None
    return ... if dimension in (given.numel(), given[0].numel()) else None


def _before(given: Any, dimension: int) -> Any:
    """What an argument may begin with on its second axis, where a mask or an image goes in beside the state."""
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim < 3 or not given.numel():
        return None
    rest = given[0, 0].numel()
    return (
        (slice(None), slice(dimension // rest)) if dimension % rest == 0 < dimension // rest < given.shape[1] else None
    )


def _same(shown: Tensor, rows: Tensor) -> bool:
    """Whether rows that a network was shown are those of the state, once or several times, but for half precision."""
    if len(shown) % len(rows):
        return False
    repeated = rows.float().repeat(len(shown) // len(rows), 1)
    return bool((shown - repeated).abs().max() <= 0.02 * rows.abs().max())


def jumping_scheduler(own: type, jump: Jump) -> type:
    """A subclass of a scheduler's class in which the jump's own scheduler lays a shorter grid, and its first step
    begins where the jump lands."""
    plain = _plain(own)
    signature = inspect.signature(plain.step)

    @functools.wraps(plain.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        plain.set_timesteps(self, *args, **kwargs)
        if self is jump.scheduler:
            jump.aim()

    def begin(self: Any, sample: Tensor, timestep: float | Tensor) -> Tensor | None:
        if not (self is jump.scheduler and jump.pending):
            return sample
        return None if jump.late else jump(sample)

    @functools.wraps(plain.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not jump.scheduler and jump.running:
            raise ValueError(
                f"This pipeline steps a second state with a copy of its scheduler; {jump.maker} moves only one."
            )
        given = signature.bind(self, *args, **kwargs)
        if self is jump.scheduler and jump.landed:
            jump.leave()
        if self is jump.scheduler and jump.fresh:
            jump.begin(given.arguments["sample"], given.arguments["timestep"])
        if not (self is jump.scheduler and jump.pending):
            return plain.step(self, *args, **kwargs)
        jump.stepped(given.arguments["sample"])
        if begins_late(self, given.arguments["timestep"]):
            if jump.noise_only or jump.late or jump.shown:
                raise ValueError(
                    f"{jump.what} starts from noise; this pipeline starts from an image, in the middle of a grid."
                )
            jump.pending = False
            return plain.step(self, *args, **kwargs)
        jump.check(given.arguments["sample"], given.arguments["model_output"])
        landed = given.arguments["sample"] = jump(given.arguments["sample"])
        jump.pending = False
        if jump.late:
            getattr(self, "layout", self).timesteps = jump.rest
            jump.landed, jump.calls = True, 0
            return stepped(landed, given.arguments.get("return_dict", True))
        return plain.step(*given.args, **given.kwargs)

    names: dict[str, Any] = {"set_timesteps": set_timesteps, "step": step, BEGIN: begin}
    for name in ("add_noise", "scale_noise"):
        if hasattr(jump.scheduler, name):
            names[name] = _mixing(getattr(plain, name, _handed_on(name)), jump)
    whole: Any = getattr(plain, "init_noise_sigma", None)
    if isinstance(whole, property):  # it may ask the levels that are left, for which the noise is not drawn
        cut = jump.scheduler
        names["init_noise_sigma"] = property(
            lambda self: jump.scale if self is cut and jump.scale else whole.__get__(self)
        )
    return disguised(plain, names)


def _handed_on(name: str) -> Any:
    """A method that a scheduler of ours has of its layout."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.layout, name)(*args, **kwargs)

    return call


def _mixing(plain: Any, jump: Jump) -> Any:
    """A scheduler's way to put an image and noise together: done before the first step, it makes the start, which is
    refused before the pipeline meets with a grid that is too short for it."""

    @functools.wraps(plain)
    def mix(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is jump.scheduler and jump.pending:
            jump.from_image()
        return plain(self, *args, **kwargs)

    return mix


def jumping_pipeline(own: type, jump: Jump) -> type:
    """A subclass of a pipeline's class whose networks see, before the first step, where the jump lands."""
    plain = _plain(own)

    @functools.wraps(plain.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.scheduler is not jump.scheduler:
            raise ValueError(
                f"The scheduler of this pipeline is not that which {jump.maker} gave it; change it before {jump.maker}."
            )
        jump.running = True
        try:
            result = _call(plain, self, jump, args, kwargs)
            jump.done()
        finally:
            jump.end()
        self.steps_saved = jump.saved
        if jump.guided and jump.doubt:
            warnings.warn(jump.doubt, stacklevel=2)
        return result

    return disguised(plain, {"__call__": call})


def _call(plain: Any, pipe: Any, jump: Jump, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The pipeline's own call, made anew with the same random numbers if its networks say that it has to be."""

    def see(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if jump.pending and not jump.late:
            given, named = jump.seen(given, named)
        jump.calls += 1
        answer = module(*given, **named)
        if jump.pending and not jump.late:
            jump.hear(answer)
        return answer

    draws = _Draws([*args, *kwargs.values()])

    def begin() -> Any:
        try:
            with _counting(pipe, jump) if jump.late else nullcontext():
                return plain.__call__(pipe, *args, **kwargs)
        except Anew:  # each reason is one for once
            jump.pending = False
            draws.rewind()
        return begin()

    with interposed(pipe, see):
        return begin()


@contextmanager
def _counting(pipe: Any, jump: Jump) -> Iterator[None]:
    """A pipeline whose first step is thrown away holds its scheduler behind a view meanwhile, whose sigmas are as the
    pipeline counts its steps: some read ``scheduler.sigmas[i]`` at their i-th."""
    scheduler, own = jump.scheduler, vars(pipe)

    def get(self: Any, name: str) -> Any:
        return jump.sigmas if name == "sigmas" and jump.sigmas is not None else getattr(scheduler, name)

    def write(self: Any, name: str, value: Any) -> None:
        setattr(scheduler, name, value)

    own["scheduler"] = object.__new__(disguised(type(scheduler), {"__getattribute__": get, "__setattr__": write}))
    try:
        yield
    finally:
        own["scheduler"] = scheduler


class _Draws:
    """The random numbers that a call is about to draw: of generators among what it is given, and of torch."""

    def __init__(self, given: Sequence[Any]) -> None:
        flat = [part for value in given for part in (value if isinstance(value, tuple | list) else [value])]
        self.own = [(part, part.get_state()) for part in flat if isinstance(part, torch.Generator)]
        self.cpu = torch.get_rng_state()
        self.gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def rewind(self) -> None:
        for generator, state in self.own:
            generator.set_state(state)
        torch.set_rng_state(self.cpu)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)


def _plain(own: type) -> Any:
    """A class before it was disguised: teleporting twice counts once."""
    return vars(own).get("_plain", own)


def _starts(scheduler: Any) -> list[int]:
    """Which calls of the network begin a step of the scheduler. PNDM makes its second call twice."""
    calls = len(scheduler.timesteps)
    if hasattr(scheduler, "plms_timesteps"):
        if len(scheduler.prk_timesteps):
            raise ValueError("A PNDMScheduler is teleported only with skip_prk_steps=True, as in Stable Diffusion.")
        return [0, *range(2, calls)]
    return list(range(0, calls, getattr(scheduler, "order", 1)))


def first_of(scheduler: Any) -> tuple[Tensor, Tensor | None]:
    """The first timestep of a grid, and its sigma if the scheduler keeps those in a tensor."""
    sigmas = getattr(scheduler, "sigmas", None)
    return scheduler.timesteps[:1], sigmas[:1] if isinstance(sigmas, Tensor) else None


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
