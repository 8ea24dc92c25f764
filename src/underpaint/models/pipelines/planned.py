"""A pipeline of diffusers whose scheduler follows plans, wherever it shows its networks the state.

A plan begins with a jump along the Gaussian's flow, to where the network is called first. A scheduler alone makes it in
`scale_model_input`, which many pipelines do not call. Here it is made where the network is given the state, as a
teleported pipeline does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from numbers import Real
from typing import Any

from torch import Tensor

from ...bounds import is_number
from ...sampling.fitted import Plan
from ..schedulers.levels import initial_scale, scheduler_levels
from .hooks import disguised
from .teleport import Anew, Jump, first_of, jumping_pipeline, jumping_scheduler, rows_of, whole_state


def follow_plans(
    pipe: Any, scheduler: Any, tell: Callable[[str], None], asked: Callable[[bool], None] | None = None
) -> Any:
    """A pipeline that is called as ``pipe`` is, with a `GaussianExponentialScheduler` whose plans it follows from their
    jump on.

    The networks are shared with ``pipe``, which is left as it is. A call that starts from an image has no jump, and
    follows the plan only where it starts at its first level.

    Where a plan has yet to be made, the call first shows what state it has: statistics that do not fit are refused
    before anything is made of them. Then it begins anew, with the plan: what comes before the first call of the
    network, such as the encoding of texts, is done twice in it. The next call with as many steps begins once.

    Args:
        tell: told in a sentence, once, if a call brings levels of its own, so that no plan is followed.
        asked: told once, before the first plan is made, whether the network is given a state and a time alone, and no
            prompt, class or image.
    """
    start = _Start(scheduler, asked, tell, type(pipe).__name__)
    own = jumping_scheduler(type(scheduler), start)

    def plan_of(self: Any, calls: int) -> Plan | None:
        if self is scheduler and start.looks(calls):
            return None
        plan: Plan | None = own._plan_of(self, calls)  # type: ignore[attr-defined]
        return plan

    scheduler.__class__ = disguised(own, {"_jumps": _no_jump, "_plan_of": plan_of})
    following = copy.copy(pipe)
    following.scheduler = scheduler
    following.__class__ = jumping_pipeline(type(pipe), start)
    return following


def _no_jump(self: Any, timestep: float | Tensor | None) -> bool:
    """The scheduler itself does not move the state."""
    return False


class _Start(Jump):
    """The jump that a plan begins with, if it does; and a look at what the network is given, before a plan is made.

    Attributes:
        looking: whether the call has yet to show its state, for a plan that is not made.
        fits: whether it has, and the Gaussian is of that dimension.
        image: whether the call starts from one.
        own: whether levels that are being laid are the call's own, until a plan for them is asked for.
        laid: whether those that were laid last are.
    """

    doubt, noise_only = None, False
    what, maker = "A plan", "accelerate_pipeline"

    def __init__(
        self, scheduler: Any, asked: Callable[[bool], None] | None, tell: Callable[[str], None], name: str
    ) -> None:
        super().__init__(scheduler, scheduler.gaussian, 0)
        self.asked, self.name = asked, name
        self.tell: Callable[[str], None] | None = tell
        self.looking = self.fits = self.image = False
        self.own, self.laid = True, False

    @property
    def makes(self) -> bool:
        """Whether plans are made when they are asked for."""
        return self.asked is not None or self.scheduler.planner is not None

    def looks(self, calls: int) -> bool:
        """Whether the state has to be seen first, for a plan of so many calls. For a single one none is made."""
        self.looking = self.running and self.makes and calls > 1 and self.scheduler._lacks(calls) and not self.fits
        self.own = self.fits = False
        return self.looking

    def aim(self) -> None:
        """The scheduler has laid the levels of its plan: there is nothing to cut off."""
        plan, layout = self.scheduler.plan, self.scheduler.layout
        jumps = plan is not None and plan.jumps
        self.scale = None
        self.scale = initial_scale(self.scheduler)
        self.there = scheduler_levels(layout)[0]
        self.here = plan.level[0] if jumps else self.there
        self.pending, self.calls, self.saved, self.image = jumps or self.looking, 0, 0, False
        self.own, self.laid = True, self.own
        self.forget()
        self.rest = layout.timesteps
        if jumps:
            self.lengthen(layout, first_of(layout))

    def __call__(self, state: Tensor, scale: float = 1.0) -> Tensor:
        """The state where the jump lands, for one, times a scale, as it was drawn."""
        drawn = scale * (self.scale or 1.0) / float(self.here.sigma)
        self.gaussian = self.gaussian.to(state.device)
        landed = self.gaussian.flow(rows_of(state, self.gaussian) / drawn, self.here, self.there)
        return (scale * landed).to(state.dtype).view_as(state)

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if getattr(self.scheduler, "begin_index", None):
            self.from_image()
        elif not self.looking:
            return super().seen(args, kwargs)
        given, dimension = [*args, *kwargs.values()], self.gaussian.dimension
        if self.looking and any(whole_state(value, dimension) is not None for value in given):
            self._fits(not self.image and _alone(given, dimension))
        return args, kwargs

    def from_image(self) -> None:
        if self.looking:
            self.image = True
        else:
            super().from_image()

    def stepped(self, sample: Tensor) -> None:
        if self.looking:  # no network was shown the state as it is
            rows_of(sample, self.gaussian)
            self._fits(False)

    def done(self) -> None:
        if self.laid and self.tell is not None and (self.makes or self.scheduler.calibration is not None):
            self.tell(
                f"This call of {self.name} brought levels of its own, so no plan was followed; only its steps know the "
                "Gaussian."
            )
            self.tell = None

    def end(self) -> None:
        super().end()
        self.looking = self.fits = False

    def _fits(self, alone: bool) -> None:
        """The Gaussian is of the state's dimension: the plan can be made."""
        self.looking, self.fits = False, True
        if self.asked is not None:
            tell, self.asked = self.asked, None
            tell(alone)
        raise Anew


def _alone(given: list[Any], dimension: int) -> bool:
    """Whether a network is given a state and, at most, one number or one for each row, which is the time."""
    given = [value for value in given if isinstance(value, Tensor | dict | list | tuple | Real)]
    given = [value for value in given if not isinstance(value, bool) and not _empty(value)]
    states = [value for value in given if whole_state(value, dimension) is not None]
    others = [value for value in given if not any(value is state for state in states)]
    return len(states) == 1 and len(others) <= 1 and all(map(_is_time, others))


def _empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not value


def _is_time(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim < 2 and bool((value == value.flatten()[:1]).all())
    return is_number(value)
