"""One call of a pipeline that is held at each of its steps, and asked there for what state and time one likes.

The loop of a pipeline is a function of a state and a time: it prepares what its networks are given, calls them, guides,
and steps its scheduler with the result. Here the call runs on a thread of its own, with a copy of the scheduler whose
timesteps lie in one tensor that the loop walks through; a step hands out what it is given, waits, writes the time asked
for where the loop looks next, and returns the state asked for. All that a pipeline does between two steps, such as
guidance of any kind, several networks, or an image beside the state, is its own doing.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from ..schedulers.families import family_of
from ..schedulers.levels import scheduler_denoised, scheduler_levels, step_index, told_levels
from .decoding import Call, acted
from .hooks import interposed
from .record import check_step, step_sign, steps_twice
from .text_encoding import encoding_alone

#: Steps of one call; then it is begun anew.
LENGTH = 4096
#: The devices on which a caller may have networks compute in another dtype.
_DEVICES = ("cpu", "cuda", "mps", "xpu")
#: What networks answered, in turn.
Answers = Sequence[tuple[torch.nn.Module, Any]]
#: The `torch.autocast` that a thread is in, as arguments of it: it does not reach other threads.
Autocasts = list[dict[str, Any]]


def _autocasts() -> Autocasts:
    """Those of the caller."""
    there = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
    return [{"device_type": device, "dtype": torch.get_autocast_dtype(device)} for device in there]


class Session:
    """A pipeline's call at its first step.

    Attributes:
        call: the call, with what its networks answered before that.
        scheduler: a copy of the call's, with its own timesteps.
        sample, output, timestep: what the first step was given.
        sign: -1 if the step goes by the negative of its prediction.
        index: which of the scheduler's timesteps it is.
        left: how often it may be asked.

    Args:
        length: steps that its call is lengthened to, from its own.
    """

    def __init__(self, call: Call, rows: int, length: int = LENGTH) -> None:
        self._loop = loop = _Loop(call, rows, _autocasts(), length)
        thread = threading.Thread(target=loop.run, name=f"replay of {type(call.pipe).__name__}", daemon=True)
        with call.redrawn():
            thread.start()
            self.output = loop.answer()
        self.sample, self.timestep, self.index = loop.sample, loop.timestep, loop.position
        self.scheduler, self.sign, self.left = loop.twin, loop.sign, len(loop.timesteps) - loop.position - 1
        self.call = replace(call.with_rows(rows), answers=loop.heard, whole=loop.position == 0)
        self.close = weakref.finalize(self, _end, loop.requests, thread)

    def ask(self, state: Tensor, timestep: float, sigma: float | None) -> Tensor:
        """What the pipeline would step with from a state, in the caller's autocast, when it is told a time, and of a
        scheduler that keeps sigmas, this one.

        Raises:
            ValueError: the pipeline did not take the state or the time as they were given.
        """
        self.left -= 1
        self._loop.requests.put((state.to(self.sample), timestep, sigma, _autocasts()))
        return self._loop.answer()

    def steady(self, sigma: float | None, steps: int, answers: Answers = ()) -> Answers | None:
        """What the networks answer at the first state and time, if for so many more steps the pipeline makes the same
        of that; None if it does not, but goes by the number of the step, or by steps before.

        Args:
            answers: what they do answer, if it is known; else they are called once.
        """
        loop = self._loop
        try:
            for _ in range(steps):
                loop.said, loop.again = [], list(answers)
                found = self.ask(self.sample, self.timestep, sigma)
                if float((found - self.output).abs().max()) > 0.01 * float(self.output.abs().max()):
                    return None
                answers = answers or loop.said
        finally:
            loop.said, loop.again = None, []
        return answers


def _end(requests: SimpleQueue[Any], thread: threading.Thread) -> None:
    """Let the pipeline's thread unwind, and wait for it, so that none runs on when the interpreter ends."""
    requests.put(None)
    if thread is not threading.current_thread():
        thread.join(10)


class _Closed(BaseException):
    """The session is over."""


class _Loop:
    """The side of the pipeline, on its thread."""

    def __init__(self, call: Call, rows: int, casts: Autocasts, length: int) -> None:
        self.call, self.rows, self.casts, self.length = call, rows, casts, length
        self.requests: SimpleQueue[tuple[Tensor, float, float | None, Autocasts] | None] = SimpleQueue()
        self.answers: SimpleQueue[Tensor | BaseException] = SimpleQueue()
        self.heard: dict[int, list[Any]] = {}
        self.twin: Any = None
        self.timesteps, self.calls = torch.empty(0), 0
        #: what networks answer at the step to come, where it is kept, and what is left to be answered in their place
        self.said: list[tuple[torch.nn.Module, Any]] | None = None
        self.again: list[tuple[torch.nn.Module, Any]] = []
        self.position, self.sign = -1, 1
        self.asked: tuple[Tensor, float] | None = None
        self.sigma: float | None = None

    def answer(self) -> Tensor:
        """Wait for the next step."""
        found = self.answers.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def run(self) -> None:
        try:
            puppet = acted(self.call.pipe, self.step, self.lay, self.scale)
            with torch.no_grad(), encoding_alone(puppet), interposed(puppet, self.hear):
                puppet(**self.call.with_rows(self.rows).again(self.rows))
            name = type(self.call.pipe).__name__
            self.answers.put(ValueError(f"{name} ended its call before it was asked for all steps."))
        except _Closed:
            pass
        except BaseException as error:
            self.answers.put(error)

    def hear(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.again and self.again[0][0] is module:
            self.calls += 1
            return copy.deepcopy(self.again.pop(0)[1])
        with ExitStack() as contexts:
            for cast in self.casts:
                contexts.enter_context(torch.autocast(**cast))
            output = module(*args, **kwargs)
        self.calls += 1
        if self.said is not None:
            self.said.append((module, copy.deepcopy(output)))
        if self.asked is None:
            self.heard.setdefault(id(module), []).append(output)
        return output

    def lay(self, scheduler: Any) -> None:
        """Lengthen the timesteps, and the sigmas, of a scheduler that has laid them. A loop may walk through those that
        were laid first, where the same are laid twice."""
        known = self.twin is not None and torch.equal(self.twin.timesteps, scheduler.timesteps)
        self.twin = copy.deepcopy(scheduler)
        self.twin.__class__ = type(scheduler)._plain
        self.timesteps = scheduler.timesteps = self.timesteps if known else self.lengthened(scheduler.timesteps)
        if isinstance(getattr(scheduler, "sigmas", None), Tensor):
            end = scheduler.sigmas[-1:]
            sigmas = self.lengthened(scheduler.sigmas[:-1])
            scheduler.sigmas = torch.cat([sigmas, end.to(sigmas.dtype)])

    def lengthened(self, values: Tensor) -> Tensor:
        """With the last repeated, as real numbers."""
        real = values if values.dtype == torch.float64 else values.float()
        return torch.cat([real, real[-1:].expand(max(0, self.length - len(real)))])

    def scale(self, scheduler: Any, sample: Tensor, timestep: Any) -> Tensor:
        """What the network is to see of a state."""
        family = family_of(scheduler)
        if self.asked is None or not family.scaled:
            plain: Tensor = type(scheduler)._plain.scale_model_input(scheduler, sample, timestep)
            return plain
        sigma = torch.as_tensor(self.sigma, dtype=torch.float32)
        if family.preconditioned:
            scaled: Tensor = scheduler.precondition_inputs(sample, sigma.to(sample.device))
            return scaled
        return sample / float((sigma**2 + 1) ** 0.5)

    def step(self, scheduler: Any, given: Mapping[str, Any]) -> Tensor:
        """Hand out what a step is given, and lead to what is asked for."""
        output, sample, timestep = given["model_output"], given["sample"], given["timestep"]
        if self.asked is None:
            self.begin(given)
        elif self.calls == 0:
            raise ValueError(steps_twice(scheduler))
        else:
            self.check(sample, timestep, *self.asked)
        self.calls = 0
        self.answers.put(output.detach())
        request = self.requests.get()
        if request is None:
            raise _Closed
        state, time, self.sigma, self.casts = request
        self.position += 1
        scheduler.timesteps[self.position] = time
        if self.sigma is not None:
            scheduler.sigmas[self.position] = self.sigma
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = self.position
        self.asked = state, float(scheduler.timesteps[self.position])
        return state.clone()

    def begin(self, given: Mapping[str, Any]) -> None:
        """Look at the first step: where it is, and whether it goes by its prediction."""
        self.sample, self.timestep = (
            given["sample"].detach().clone(),
            float(torch.as_tensor(given["timestep"]).flatten()[0]),
        )
        twin = copy.deepcopy(self.twin)
        self.position = _index(twin, self.timestep)
        if hasattr(twin, "set_begin_index"):
            twin.set_begin_index(self.position)
        here, there = told_levels(twin)[self.position], scheduler_levels(twin)[self.position + 1]
        named = {name: value for name, value in given.items() if name not in ("self", "return_dict", "generator")}
        more = named.pop("kwargs", {})
        named["timestep"] = twin.timesteps[self.position]
        state = self.sample.flatten(1).float()
        rows = given["model_output"][:, : self.sample.shape[1]].flatten(1).float()
        plain, negated = (scheduler_denoised(self.twin, sign * rows, state, here) for sign in (1, -1))
        after = twin.step(**named, **more, return_dict=False)[0]
        self.sign = step_sign(state, after, plain, negated, here, there)
        check_step(self.twin, state, after, plain if self.sign > 0 else negated, here, there)

    def check(self, sample: Tensor, timestep: Any, state: Tensor, time: float) -> None:
        """Raise unless the step is made from the state and the time that were asked for."""
        name = type(self.call.pipe).__name__
        if float(torch.as_tensor(timestep).flatten()[0]) != time:
            raise ValueError(f"{name} does not go by its scheduler's timesteps, so it cannot be asked at a time.")
        rounding = 4 * torch.finfo(sample.dtype).eps * float(state.abs().max())
        if sample.shape != state.shape or float((sample - state).abs().max()) > rounding:
            raise ValueError(
                f"{name} replaces part of its state between two steps, as inpainting does with a network that sees no "
                "mask: what it does is no function of state and level."
            )


def _index(scheduler: Any, timestep: float) -> int:
    """Which of the laid timesteps a loop begins with."""
    found = (scheduler.timesteps.double() == timestep).nonzero()
    return int(found[0]) if len(found) else step_index(scheduler, timestep)
