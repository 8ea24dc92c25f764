"""A recorded run made once more, with another denoiser: the same scheduler, start and noise."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...noise import NoiseLevel
from ...sampling.response import NormalDraws
from ...sampling.trajectory import Trajectory
from ...theory.denoiser import Denoiser, checked
from ...theory.gaussian import Gaussian
from ..schedulers.levels import model_output

#: What each step is given anew.
_ANEW = ("self", "model_output", "timestep", "sample", "generator", "return_dict")


@dataclass(frozen=True, eq=False)
class Steps:
    """How a scheduler stepped.

    Attributes:
        scheduler: as it was before the first step.
        given: what the steps were given besides state, time and prediction, such as ``eta``.
        first: which of its timesteps the first step was given.
        calls: how many steps were made.
        sign: -1 where they went by the negative of the prediction.
    """

    scheduler: Any
    given: dict[str, Any]
    first: int
    calls: int = 0
    sign: int = 1

    @staticmethod
    def of(scheduler: Any, given: Mapping[str, Any], state: Tensor, first: int) -> Steps | None:
        """From what the first step is given and the state where it begins; None if it goes by more than can be given
        again."""
        named = {name: value for name, value in given.items() if name not in _ANEW}
        rest = {name: value for name, value in named.items() if not isinstance(value, dict)}
        for more in (value for value in named.values() if isinstance(value, dict)):
            rest.update(more)
        more_than_one = any(isinstance(value, Tensor) and value.ndim for value in rest.values())
        if more_than_one or given["sample"] is not state or given["model_output"].shape[1:] != state.shape[1:]:
            return None
        values = {id(value): value for value in vars(scheduler).values() if isinstance(value, Gaussian)}  # shared
        plain = copy.deepcopy(scheduler, values)
        plain.__class__ = getattr(type(plain), "_plain", type(plain))
        return Steps(plain, rest, first)


def retraced(
    steps: Steps,
    recorded: Trajectory,
    told: NoiseLevel,
    shape: Sequence[int],
    noise: Sequence[Tensor],
    denoise: Denoiser | None,
) -> Trajectory:
    """See `Recording.retrace`."""
    scheduler, ask = copy.deepcopy(steps.scheduler), None if denoise is None else checked(denoise)
    x = recorded.x[0].to(torch.promote_types(recorded.x.dtype, torch.float32))
    states, estimates = [x], []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for i, (t, level) in enumerate(zip(scheduler.timesteps[steps.first :], told, strict=False)):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x.unflatten(1, shape), t)  # some count by it
            denoised = recorded.denoised[i].to(x) if ask is None else ask(x, level)
            output = steps.sign * model_output(scheduler, denoised, x, level)
            again = _Again(noise[i])
            with NormalDraws(again):
                moved = scheduler.step(
                    output.unflatten(1, shape), t, x.unflatten(1, shape), **steps.given, return_dict=False
                )[0]
            again.check()
            x = moved.flatten(1).to(x)
            states.append(x)
            estimates.append(denoised)
    return Trajectory(torch.stack(states), torch.stack(estimates), recorded.level, 0 if ask is None else len(estimates))


class _Again:
    """Gives the recorded draws [J, B, D] of a step, in turn."""

    def __init__(self, noise: Tensor) -> None:
        self.noise: Iterator[Tensor] = iter(noise)

    def __call__(self, drawn: Tensor, state: bytes) -> Tensor:
        found = next(self.noise, None)
        if found is None or found.numel() != drawn.numel():
            raise ValueError("The scheduler draws other noise than it did when it was recorded.")
        return found.to(drawn).view_as(drawn)

    def check(self) -> None:
        """Raise ValueError if not all was drawn."""
        if next(self.noise, None) is not None:
            raise ValueError("The scheduler draws less noise than it did when it was recorded.")
