"""A pipeline of diffusers whose scheduler follows plans, wherever it shows its networks the state.

A plan begins with a jump along the Gaussian's flow, to where the network is called first. A scheduler alone makes it in
`scale_model_input`, which many pipelines do not call. Here it is made where the network is given the state, as a
teleported pipeline does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..schedulers.levels import initial_scale, scheduler_levels
from .hooks import disguised
from .teleport import Anew, Jump, jumping_pipeline, jumping_scheduler, rows_of, whole_state


def follow_plans(pipe: Any, scheduler: Any, asked: Callable[[bool], None] | None = None) -> Any:
    """A pipeline that is called as ``pipe`` is, with a `GaussianExponentialScheduler` whose plans it follows from their
    jump on.

    The networks are shared with ``pipe``, which is left as it is. A call that starts from an image has no jump, and
    follows the plan only where it starts at its first level.

    Args:
        asked: told in the first call, before the network is called, whether that is given a state and a time alone, and
            no prompt, class or image; then the call begins anew, with what the scheduler follows after that.
    """
    start = _Start(scheduler, asked)
    scheduler.__class__ = disguised(jumping_scheduler(type(scheduler), start), {"_jumps": _no_jump})
    following = copy.copy(pipe)
    following.scheduler = scheduler
    following.__class__ = jumping_pipeline(type(pipe), start)
    return following


def _no_jump(self: Any, timestep: float | Tensor | None) -> bool:
    """The scheduler itself does not move the state."""
    return False


class _Start(Jump):
    """The jump that a plan begins with, if it does; and a look at what the network is given, if that is asked for."""

    doubt, noise_only = None, False
    what, maker = "A plan", "accelerate_pipeline"

    def __init__(self, scheduler: Any, asked: Callable[[bool], None] | None) -> None:
        super().__init__(scheduler, scheduler.gaussian, 0)
        self.asked = asked

    def aim(self) -> None:
        """The scheduler has laid the levels of its plan: there is nothing to cut off."""
        plan, layout = self.scheduler.plan, self.scheduler.layout
        jumps = plan is not None and plan.jumps
        self.scale = None
        self.scale = initial_scale(self.scheduler)
        self.there = scheduler_levels(layout)[0]
        self.here = plan.level[0] if jumps else self.there
        self.pending, self.calls, self.saved = jumps or self.asked is not None, 0, 0
        self.shown.clear()
        self.rest = layout.timesteps
        if jumps and self.late:
            layout.timesteps = torch.cat([self.rest[:1], self.rest])

    def __call__(self, state: Tensor, scale: float = 1.0) -> Tensor:
        """The state where the jump lands, for one, times a scale, as it was drawn."""
        drawn = scale * (self.scale or 1.0) / float(self.here.sigma)
        self.gaussian = self.gaussian.to(state.device)
        landed = self.gaussian.flow(rows_of(state, self.gaussian) / drawn, self.here, self.there)
        return (scale * landed).to(state.dtype).view_as(state)

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if getattr(self.scheduler, "begin_index", None):
            self.from_image()
            return args, kwargs
        self._answer(_alone([*args, *kwargs.values()], self.gaussian.dimension))
        return super().seen(args, kwargs)

    def from_image(self) -> None:
        self._answer(False)
        super().from_image()

    def check(self, sample: Tensor) -> None:
        self._answer(False)  # no network was seen that is a torch module
        super().check(sample)

    def _answer(self, alone: bool) -> None:
        if self.asked is not None:
            tell, self.asked = self.asked, None
            tell(alone)
            raise Anew


def _alone(given: list[Any], dimension: int) -> bool:
    """Whether a network is given a state and, at most, one number or one for each row, which is the time."""
    given = [value for value in given if isinstance(value, Tensor | dict | list | tuple | int | float)]
    given = [value for value in given if not isinstance(value, bool) and not _empty(value)]
    states = [value for value in given if whole_state(value, dimension) is not None]
    others = [value for value in given if not any(value is state for state in states)]
    return len(states) == 1 and len(others) <= 1 and all(map(_is_time, others))


def _empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not value


def _is_time(value: Any) -> bool:
    if isinstance(value, int | float):
        return True
    return isinstance(value, Tensor) and value.ndim < 2 and bool((value == value.flatten()[:1]).all())
