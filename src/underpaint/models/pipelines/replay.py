"""Any pipeline that can be recorded as a model: what its own call steps with, as a function of state and level.

A pipeline knows how to prepare its condition, call its networks and guide. `Session` holds a call of it at a step; here
that is asked at any level: the level as the scheduler keeps it, the time that it tells the network there, and the model
output as the denoised image that it stands for.
"""

from __future__ import annotations

import math
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ...bounds import a
from ...noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from ..model import Model
from ..networks.diffusers import batch_of, pair
from ..schedulers.families import exploding_levels, family_of, flow_levels
from ..schedulers.levels import prediction_of, runs_to_data, scheduler_denoised, told_levels
from .decoding import Call, decoded
from .held_call import LENGTH, Session
from .outputs import Outputs
from .record import starts_otherwise
from .text_encoding import tokenizers_of

#: Sessions that are kept, one for each number of rows and condition.
_KEPT = 16
#: Steps for which a call that is lengthened is looked at: rules of guidance that count steps, count fewer.
_LOOKED_AT = 64
#: Latent cells to pixels: a guess, for how many states go through the networks at once.
_PIXELS = 16
#: What pipelines raise where an argument that they need is not given, or is none that they take.
_REFUSED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def replayed_model(pipe: Any, size: Any = None, **given: Any) -> Model:
    """A pipeline as a `Model`, for one call of it: ``given`` is what ``pipe(...)`` takes, such as a prompt, a guidance
    scale, an image. The state is that of its scheduler, as one row, whatever its shape.

    `Model.conditional` asks for another prompt and guidance scale, all else being as in the call. Conditions that are
    drawn (a latent image) are drawn once, by a generator of seed 0 or by the one that is given.

    Raises:
        ValueError: the pipeline has no scheduler whose levels are known, cannot be called so, or makes more at a
            step than a function of state and level: it replaces part of its state between steps, goes by the number of
            the step, or steps several states.
    """
    call = _call(pipe, size, given)
    try:
        replay = Replay(call)
    except _REFUSED as error:
        if _ours(error):
            raise
        lacking = [name for name in call.known if name not in (*call.given, "kwargs")]
        how = f"with {' and '.join(given)} alone" if given else "without arguments"
        raise ValueError(
            f"The {type(pipe).__name__} cannot be called {how}: {' '.join(str(error).split()).rstrip('.')}. "
            f"Give load_model what its call needs besides, of "
            f"{', '.join(lacking)}."
        ) from error
    shape, prompt = replay.shape, call.given.get("prompt")
    takes = isinstance(prompt, str)
    return Model(
        network=replay,
        schedule=replay.schedule,
        prediction="x0",
        shape=shape,
        name=type(pipe).__name__,
        held=prompt if takes else None,
        embed=Coded(tokenizers_of(pipe)) if takes else None,
        distilled=takes,
        autoencoder=Outputs(pipe, replay.shape, replay.show),
        batch=batch_of(_PIXELS * replay.dimension) if replay.wide else 1,
        device=torch.device(str(getattr(pipe, "_execution_device", None) or getattr(pipe, "device", "cpu"))),
        notes={"call": {name: value for name, value in given.items() if isinstance(value, str | int | float)}},
    )


def _ours(error: Exception) -> bool:
    """Whether an error was raised by this library, and not by a pipeline that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parents[2])


def _call(pipe: Any, size: Any, given: Mapping[str, Any]) -> Call:
    if not callable(getattr(getattr(pipe, "scheduler", None), "step", None)):
        raise ValueError(f"The {type(pipe).__name__} has no scheduler to step, so it cannot be asked for a denoiser.")
    call = Call.of(pipe, (), given)
    named = dict(call.given)
    unknown = named.keys() - set(call.known)
    if unknown:
        names = [name for name in call.known if name != "kwargs"]
        raise ValueError(
            f"The {type(pipe).__name__} takes no {', '.join(sorted(unknown))}; it takes {', '.join(names)}."
        )
    if isinstance(named.get("prompt"), list | tuple):
        raise ValueError(f"A model has one condition; give one prompt, got {len(named['prompt'])}.")
    if "prompt" in call.known and not any("prompt" in name for name in named):
        named["prompt"] = ""
    if size is not None and {"height", "width"} <= set(call.known):
        named["height"], named["width"] = pair(size)
    return replace(call, given=named)


@dataclass(frozen=True)
class Address:
    """A level as a scheduler knows it.

    Attributes:
        level: where its states are.
        timestep: what it tells the network.
        sigma: its entry in the scheduler's sigmas, if it keeps them.
    """

    level: NoiseLevel
    timestep: float
    sigma: float | None


def address(scheduler: Any, schedule: Schedule, level: NoiseLevel) -> Address:
    """The address of a level of equal noise-to-signal ratio.

    Sources: the schedulers of diffusers; Karras22, table 1 (time log(sigma)/4 of EDM), for `precondition_noise`.
    """
    family, ratio = family_of(scheduler), float(level.ratio)
    share = float(level.sigma / (level.alpha + level.sigma))
    if family.levels is flow_levels:
        back = runs_to_data(scheduler)
        inverted = float(scheduler.sigmas[0]) < float(scheduler.sigmas[-1])
        at, sigma = Flow()(share), (1 - share if inverted else share)
        return Address(at, _thousand(scheduler) * (1 - share if back else share), sigma)
    if family.scaled:
        return Address(NoiseLevel(torch.ones(()), level.ratio), _scaled_time(scheduler, schedule, level), ratio)
    if family.levels is exploding_levels:
        return Address(NoiseLevel(torch.ones(()), level.ratio), _thousand(scheduler) * ratio, ratio)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        flow = bool(scheduler.config.get("use_flow_sigmas"))
        sigma = share if flow else ratio
        at = NoiseLevel(*scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma, dtype=torch.float64)))
        return Address(at, _told(scheduler, share) if flow else float(schedule.time(level)), sigma)
    return Address(NoiseLevel(level.alpha / level.norm, level.sigma / level.norm), float(schedule.time(level)), None)


def _thousand(scheduler: Any) -> float:
    return float(scheduler.config.get("num_train_timesteps", 1000))


def _told(scheduler: Any, share: float) -> float:
    """The time of a flow's share of noise, cut to a whole number by schedulers that do so."""
    time = _thousand(scheduler) * share
    return time if scheduler.timesteps.is_floating_point() else math.floor(time + 1e-3)


def _scaled_time(scheduler: Any, schedule: Schedule, level: NoiseLevel) -> float:
    if family_of(scheduler).preconditioned:
        return float(scheduler.precondition_noise(level.ratio.float()))
    if scheduler.config.get("timestep_type") == "continuous":
        return float(level.log_ratio / 4)
    return float(schedule.time(level))


def live_schedule(scheduler: Any) -> Schedule:
    """The schedule of a scheduler that has laid its levels, by its own table or list.

    Raises:
        ValueError: its levels come from neither.
    """
    family, config, laid = family_of(scheduler), scheduler.config, told_levels(scheduler)
    in_sigma = not family.scaled or config.get("timestep_type") == "continuous"
    if family.preconditioned or (family.levels is exploding_levels and in_sigma):
        low, high = config.get("sigma_min"), config.get("sigma_max")
        return EDM(float(low or laid.ratio[-1]), float(high or laid.ratio[0]), float(config.get("rho") or 7.0))
    if prediction_of(scheduler) == "flow":
        return Flow(_shift(laid))
    if not hasattr(scheduler, "alphas_cumprod") or hasattr(scheduler, "initial_alpha_cumprod"):
        raise ValueError(f"The levels of {a(type(scheduler).__name__)} come from no table, and from no known formula.")
    bar = scheduler.alphas_cumprod.to("cpu", torch.float64).clamp(min=1e-12)
    return DDPM(torch.cat([1 - bar[:1], 1 - bar[1:] / bar[:-1]]))


def _shift(laid: NoiseLevel) -> float:
    """The time shift s with which levels t = s u / (1 + (s - 1) u) are laid at u = 1, 1 - 1/N, ..., if that is how."""
    if len(laid) < 2 or float(laid.sigma[0]) < 1:
        return 1.0
    u = torch.linspace(1, 0, len(laid) + 1, dtype=torch.float64)[1:-1]
    t = laid.sigma[1:]
    shifts = t * (1 - u) / (u * (1 - t))
    return float(shifts[0]) if bool((shifts / shifts[0] - 1).abs().max() < 1e-3) else 1.0


class Replay(torch.nn.Module):
    """The call of a pipeline as the network of a `Model`: states [B, ...] and times of its schedule to denoised images.

    Attributes:
        schedule: the one of its scheduler.
        shape: of one state.
        wide: whether it makes several results at once.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        modules = [part for part in vars(call.pipe).values() if isinstance(part, torch.nn.Module)]
        self.parts = torch.nn.ModuleList(modules)
        self._call, self._sessions, self._lock = call, OrderedDict[Any, Session](), Lock()
        self._lengths: dict[float | None, int] = {}
        first = Session(call, 1, 0)
        self.wide = call.rows_option is not None
        self.doubled = len(first.sample) == 2 and bool(torch.equal(first.sample[0], first.sample[1]))
        if len(first.sample) != 1 + self.doubled:
            raise ValueError(f"A model makes one result of one condition; this call makes {len(first.sample)}.")
        self.shape = tuple(first.sample.shape[1:])
        self.dimension = first.sample[0].numel()
        self.scheduler, self.sign = first.scheduler, first.sign
        self.schedule = live_schedule(self.scheduler)
        self._check(first)
        self._length(None, None, first)

    def _check(self, first: Session) -> None:
        """Raise unless the call's times are understood, and it begins with the noise of its levels."""
        name, scheduler = type(self._call.pipe).__name__, self.scheduler
        levels, times = told_levels(scheduler), scheduler.timesteps.double()
        found = torch.tensor(
            [address(scheduler, self.schedule, level).timestep for level in levels], dtype=torch.float64
        )
        whole = bool((times == times.round()).all())
        if bool(((found - times.cpu()).abs() > (1.0 if whole else 1e-3 * float(times.abs().max()))).any()):
            raise ValueError(
                f"It is not understood what time the {type(scheduler).__name__} of this {name} tells its network."
            )
        amiss = "" if first.index else starts_otherwise(scheduler, first.sample, levels[0])
        if amiss:
            raise ValueError(f"{amiss}, so the {name} has no denoiser at these levels.")

    def _length(self, prompt: str | None, guidance: float | None, first: Session | None = None) -> int:
        """Steps that calls of a guidance scale are lengthened to: many, where one of many does what the call, held at
        its ``first`` step, does at all of its own. Some count steps, and would come to others.

        Raises:
            ValueError: the call answers its first state in another way at a later step.
        """
        if guidance not in self._lengths:
            first = first or Session(self._asked(prompt, guidance), 1, 0)
            few = first.left < 2  # to look at
            first = Session(self._asked(prompt, guidance), 1) if few else first
            sigma = address(self.scheduler, self.schedule, told_levels(self.scheduler)[first.index]).sigma
            first.ask(first.sample.flip(-1), first.timestep, sigma)
            answers = first.steady(sigma, _LOOKED_AT if few else first.left)
            if answers is None:
                raise ValueError(
                    f"{type(self._call.pipe).__name__} answers the same state and time in another way at a later step: "
                    "what it does depends on the number of the step, or on steps before, and is no function of state "
                    "and level."
                )
            long = first if few else Session(self._asked(prompt, guidance), 1)
            fits = few or long.steady(sigma, _LOOKED_AT, answers) is not None
            self._lengths[guidance] = LENGTH if fits else 0
            if fits:
                self._sessions[1, prompt, guidance] = long
        return self._lengths[guidance]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.close()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Let go of the calls that are held."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def forward(self, states: Tensor, times: Tensor, given: Any = None, guidance: float | None = None) -> Tensor:
        prompt = None if given is None else _text(given["prompt"][0])
        denoised = torch.empty_like(states)
        with self._lock:
            for time in times.unique():
                rows = times == time
                denoised[rows] = self._denoised(states[rows], self.schedule(time.double()), prompt, guidance)
        return denoised

    def _denoised(self, states: Tensor, own: NoiseLevel, prompt: str | None, guidance: float | None) -> Tensor:
        at = address(self.scheduler, self.schedule, own)
        moved = states * float(at.level.norm / own.norm)
        self.wide = self.wide and (len(moved) == 1 or self._makes(len(moved), prompt, guidance))
        size = len(moved) if self.wide else 1
        rows = []
        for part in moved.split(size):
            session = self._session(size, prompt, guidance)
            output = session.ask(torch.cat([part, part]) if self.doubled else part, at.timestep, at.sigma)
            output = output[: len(part), : self.shape[0]].flatten(1).to(states)
            rows.append(scheduler_denoised(self.scheduler, self.sign * output, part.flatten(1), at.level))
        return torch.cat(rows).view_as(states)

    def _makes(self, rows: int, prompt: str | None, guidance: float | None) -> bool:
        """Whether the call makes so many results at once: some that take their number fail with given embeddings, or
        make one in any case."""
        try:
            return len(self._session(rows, prompt, guidance).sample) == rows * (1 + self.doubled)
        except Exception:  # of whatever a pipeline does; it is then asked for one at a time
            return False

    def _session(self, rows: int, prompt: str | None, guidance: float | None) -> Session:
        """The call for so many rows and this condition, held at a step; a few are kept."""
        key, length = (rows, prompt, guidance), self._length(prompt, guidance)
        session = self._sessions.pop(key, None)
        if session is not None and session.left < 1:
            session.close()
            session = None
        session = session or Session(self._asked(prompt, guidance), rows, length)
        self._sessions[key] = session
        if len(self._sessions) > _KEPT:
            self._sessions.popitem(last=False)[1].close()
        return session

    def _asked(self, prompt: str | None, guidance: float | None) -> Call:
        """The call for another prompt and guidance scale."""
        given = dict(self._call.given)
        if prompt is not None:
            given["prompt"] = prompt
        if guidance is not None:
            name = next((name for name in ("guidance_scale", "true_cfg_scale") if name in self._call.known), None)
            if name is None and guidance != 1:
                raise ValueError(f"The {type(self._call.pipe).__name__} takes no guidance scale, got {guidance}.")
            given.update({} if name is None else {name: guidance})
        return replace(self._call, given=given)

    def show(self, states: Tensor) -> Tensor:
        """What the pipeline makes of final states [B, ...]: images, videos or sounds."""
        with self._lock:
            self.wide = self.wide and (len(states) == 1 or self._makes(len(states), None, None))
            size = len(states) if self.wide else 1
            call = self._session(size, None, None).call
        return decoded(replace(call, doubled=self.doubled), states.flatten(1), self.shape, size)


@dataclass(frozen=True)
class Coded:
    """What a replayed network is told of a prompt: the prompt itself, as numbers. ``tokenizers`` are the pipeline's."""

    tokenizers: tuple[Any, ...]

    def __call__(self, prompt: str) -> Mapping[str, Tensor]:
        return _code(prompt)


def _code(prompt: str) -> Mapping[str, Tensor]:
    """A prompt as a row of its characters' numbers, for a network that reads it itself."""
    return {"prompt": torch.tensor([[ord(letter) for letter in prompt]], dtype=torch.int64)}


def _text(codes: Tensor) -> str:
    return "".join(chr(code) for code in codes.tolist())
