"""Any network as a `Model`: the user states its schedule, what it predicts, and how it is told the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..bounds import check_text, integer, is_number
from ..extras import code_of
from ..noise import NoiseLevel, Schedule
from ..prediction import PREDICTIONS, Prediction
from .model import Model
from .network import modules_behind
from .networks.diffusers import batch_of

#: How a network is told its level: the schedule's own time t, 1000 t, the noise-to-signal ratio sigma/alpha, or a
#: quarter of its logarithm (Karras22's c_noise).
TimeKind = Literal["schedule", "thousand", "sigma", "log-sigma"]


def wrap(
    network: Callable[..., Any],
    shape: Sequence[int],
    schedule: Schedule,
    prediction: Prediction,
    *,
    time: TimeKind | float | Callable[[NoiseLevel], Tensor] = "schedule",
    classes: int = 0,
    null_class: int | None = None,
    condition: Sequence[int] | None = None,
    null_condition: Tensor | None = None,
    data_range: tuple[float, float] = (-1.0, 1.0),
    batch: int | None = None,
    name: str | None = None,
) -> Model:
    """A `Model` of any network: network(x [B, *shape], time [B]), and with classes network(x, time, labels [B]), with
    conditions network(x, time, condition [B, ...]).

    Times are float32; a network of discrete times is also asked between its steps. It may return a tensor, a tuple that
    starts with one, or an object with ``sample``. Channels beyond those of the state are cut, as those of a learned
    variance are. Modules are used as they are, on their device and in their dtype, and those that a function holds are
    found; they are in eval mode while they are asked.

    Args:
        network: a module or function.
        shape: of one state: (C, H, W) of an image, (C, L) of a spectrum, (C, F, H, W) of a volume.
        schedule: what it was trained on: `DDPM`, `VPSDE`, `EDM`, `Flow`, an `Interpolant` of any alpha(t) and sigma(t),
            `Truncated` to the part where it is good, or your own.
        prediction: what it puts out: 'x0', 'eps', 'v', 'flow' or 'score'.
        time: what it takes as time: 'schedule' (the schedule's own t), a number (that times t), 'thousand' (1000 t),
            'sigma' (the ratio sigma/alpha), 'log-sigma' (log(sigma/alpha)/4), or a function of the `NoiseLevel` of all
            rows, such as ``lambda level: -2 * level.log_ratio`` for the log-SNR.
        classes: number of class labels it knows.
        null_class: the label that means "any".
        condition: the shape of one condition, for a network that takes tensors: `Model.conditional` and
            `Model.holding` then take one of that shape.
        null_condition: the tensor that means "any".
        data_range: (lowest, highest) number of its data.
        batch: rows sent through it at once; by default by the size of a state.
        name: for reports; by default the network's class or function name.

    Raises:
        ValueError: shape, prediction, time, null class, condition or range make no sense; and, when it is called, what
            the network returns is not of the state's shape.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> def network(x, t):  # predicts noise in unit Gaussian data; told 999 t
        ...     t = (t / 999).view(-1, 1, 1, 1)
        ...     return t * x / ((1 - t) ** 2 + t**2)
        ...
        >>> model = up.wrap(network, (3, 8, 8), up.Flow(), prediction="eps", time=999.0)
        >>> model
        Model(network, 3 x 8 x 8, Flow(shift=1.0), eps, no condition, float32 on cpu)
        >>> model(torch.ones(1, model.dimension), up.EDM()(1.0)).unique()
        tensor([0.5000])
    """
    shape = tuple(shape)
    check_text(name, "name of a network", "my network")
    _check(shape, prediction, time, data_range)
    _check_conditions(classes, null_class, condition, null_condition)
    if batch is not None:
        integer(batch, "number of rows of a batch", 1, 2**31)
    wrapped = Wrapped(network, schedule, time)
    first = next((weight for part in wrapped.parts for weight in part.parameters()), torch.empty(0))
    return Model(
        network=wrapped,
        schedule=schedule,
        prediction=prediction,
        shape=shape,
        name=name if name is not None else str(getattr(network, "__name__", type(network).__name__)),
        data_range=data_range,
        classes=classes,
        null_class=null_class,
        condition=None if condition is None else tuple(condition),
        null_condition=null_condition,
        batch=batch_of(torch.Size(shape[1:]).numel()) if batch is None else batch,
        device=first.device,
        dtype=first.dtype,
    )


def _check(shape: tuple[int, ...], prediction: str, time: Any, data_range: tuple[float, float]) -> None:
    if not shape or not all(type(edge) is int and edge > 0 for edge in shape):
        raise ValueError(f"A state has a shape of positive whole numbers, such as (C, H, W), got {shape}.")
    if prediction not in PREDICTIONS:
        raise ValueError(f"Unknown prediction type {prediction!r}; choose one of {', '.join(PREDICTIONS)}.")
    if not callable(time) and not is_number(time) and time not in get_args(TimeKind):
        raise ValueError(
            f"Unknown kind of time {time!r}; choose one of {', '.join(get_args(TimeKind))}, a number to multiply the "
            "schedule's time by, or a function of the noise level."
        )
    if is_number(time) and not math.isfinite(time):
        raise ValueError(f"The schedule's time is multiplied by a finite number, got {time}.")
    if len([*data_range]) != 2 or not -math.inf < data_range[0] < data_range[1] < math.inf:
        raise ValueError(f"The range of the data is (lowest, highest), got {data_range}.")


def _check_conditions(
    classes: int, null_class: int | None, condition: Sequence[int] | None, null_condition: Tensor | None
) -> None:
    integer(classes, "number of classes", 0, 2**31)
    if null_class is not None:
        integer(null_class, "null class", 0, 2**31)
    if null_class is not None and not classes:
        raise ValueError(f"null_class {null_class} was given for a network of no classes; state how many it knows.")
    if classes and condition is not None:
        raise ValueError("A network takes class labels or tensors as conditions; state classes or condition, not both.")
    if null_condition is not None and tuple(null_condition.shape) != (None if condition is None else tuple(condition)):
        raise ValueError(
            f"null_condition has the shape {tuple(null_condition.shape)}, and condition is stated as {condition}; they "
            "have to be the same."
        )


class Wrapped(torch.nn.Module):
    """A network behind the call that `Model` makes; see `wrap`."""

    def __init__(
        self,
        network: Callable[..., Any],
        schedule: Schedule,
        time: TimeKind | float | Callable[[NoiseLevel], Tensor] = "schedule",
    ) -> None:
        super().__init__()
        self.training = False  # this shell only: its parts are as they were given
        self.parts = torch.nn.ModuleList(modules_behind(network))
        self.parts.training = False
        self.network, self.schedule, self.time = network, schedule, time

    def forward(self, states: Tensor, times: Tensor, condition: Tensor | None = None) -> Tensor:
        told = self._told(times)
        with code_of(f"The network {getattr(self.network, '__name__', type(self.network).__name__)}"):
            output = self.network(states, told) if condition is None else self.network(states, told, condition)
        output = getattr(output, "sample", output)
        output = output[0] if isinstance(output, tuple | list) else output
        output = output[:, : states.shape[1]]
        if output.shape != states.shape:
            raise ValueError(f"The network made {tuple(output.shape)} of states {tuple(states.shape)}.")
        return output

    def _told(self, times: Tensor) -> Tensor:
        if self.time == "schedule":
            return times
        if isinstance(self.time, int | float):
            return self.time * times
        if self.time == "thousand":
            return 1000 * times
        level = self.schedule(times.double())
        if callable(self.time):
            return self.time(level).to(times)
        return (level.ratio if self.time == "sigma" else level.log_ratio / 4).to(times)
