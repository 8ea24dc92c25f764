"""Noise levels of diffusers' schedulers: what a scheduler calls its sample is x = alpha x0 + sigma eps at these levels.

Its class says where it keeps them; see `scheduler_families`. A foreign class is taken for the family whose attributes
it has, if its own steps then lead data of one point along the levels that the family says; else it is refused.

Sources: diffusers 0.30 to 0.42, whose steps the tests run; Karras22 (scales), Esser et al. 2024 (flows).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...bounds import A, a
from ...noise import NoiseLevel
from ...prediction import Prediction, to_denoised
from .configs import prediction_in
from .families import Family, exploding_levels, family_of, flow_levels, misses, names_of, unknown


def scheduler_levels(scheduler: Any) -> NoiseLevel:
    """Levels [N+1] of the states that a live scheduler visits after `set_timesteps`: the one handed to its i-th step,
    and the last one that comes back.

    Every call of the network has its state. A second-order scheduler thus has two for each of its steps: Heun's second
    is at the next level, which then stands twice; KDPM2's is between. Ancestral midpoints may lie below the level that
    follows. PNDM's first two calls end at one level. The last level is not clean where the scheduler does not go there
    (``final_sigmas_type``, ``set_alpha_to_one``).

    DDIM and PNDM step down by a stride that need not meet their next timestep ('linspace', or 'trailing' in a number of
    steps that does not divide the table). The network and the step then take a state for one of another level, which
    `told_levels` gives. Where the state is, is found by the scheduler's own steps without noise, on data of one point.

    Raises:
        ValueError: a scheduler of no known family, or without timesteps.
    """
    family, told = _ready(scheduler)
    if not (family.stride and misses(scheduler)):
        return told
    return _remembered(scheduler, lambda: _walked(scheduler, told))


def told_levels(scheduler: Any) -> NoiseLevel:
    """Levels [N] that each step takes its state for, which the timestep tells the network: those of
    `scheduler_levels`, but for schedulers whose stride misses their timesteps.

    A model output stands for the denoised image at this level. Timesteps that a scheduler rounds are taken as meant.
    `DDIMInverseScheduler` tells its network the level at which the step ends, not that where it begins.
    """
    return _ready(scheduler)[1][:-1]


def level_at(scheduler: Any, timestep: float | Tensor, index: int | None = None) -> NoiseLevel:
    """The level of the state handed to `step` at this timestep, or at the index-th step."""
    return scheduler_levels(scheduler)[step_index(scheduler, timestep) if index is None else index]


def step_index(scheduler: Any, timestep: float | Tensor) -> int:
    """Which of the scheduler's levels the state has that `step` is about to be handed with this timestep.

    The scheduler's own counter, where it has one that runs; else the first timestep of that value.
    """
    for name in ("step_index", "begin_index"):
        if getattr(scheduler, name, None) is not None:
            return int(getattr(scheduler, name))
    value = torch.as_tensor(timestep).flatten()[0].to(scheduler.timesteps)
    if hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(value))
    found = (scheduler.timesteps == value).nonzero()
    if len(found) == 0:
        raise ValueError(
            f"{type(scheduler).__name__} has no timestep {float(value):g} among its {len(scheduler.timesteps)}."
        )
    return int(found[0])


def begins_late(scheduler: Any, timestep: float | Tensor) -> bool:
    """Whether a run whose first step is handed this timestep does not begin at the first of the grid, as those do that
    start from an image."""
    counted = [getattr(scheduler, name, None) for name in ("step_index", "begin_index")]
    first = torch.as_tensor(timestep).flatten()[0].to(scheduler.timesteps)
    return any(counted) or bool(first != scheduler.timesteps[0])


def scheduler_denoised(scheduler: Any, output: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
    """x0-hat [B, D] that a model output [B, D] stands for at the scheduler's state x [B, D] of one level.

    Outputs are taken as the scheduler takes them: v refers to the variance-preserving state that the network saw, flow
    schedulers whose time runs up from noise to data take x0 - eps, EDM's have a skip. Clipping and thresholding of x0
    are left out.

    Args:
        level: the one of `told_levels`.

    Raises:
        ValueError: a scheduler of no known family or prediction type, or whose networks predict no denoised image.
    """
    family = family_of(scheduler)
    if family.mean:
        raise ValueError(
            f"The network of {a(type(scheduler).__name__)} predicts the mean velocity to the next level, which says "
            "nothing of a denoised image."
        )
    if family.preconditioned:
        denoised: Tensor = scheduler.precondition_outputs(x, output, float(level.sigma))
        return denoised
    kind = prediction_of(scheduler)
    if kind == "v":
        x, level = x / level.norm.to(x), NoiseLevel(level.alpha / level.norm, level.sigma / level.norm)
    if kind == "flow" and runs_to_data(scheduler):
        output = -output
    return to_denoised(output, x, level, kind)


def prediction_of(scheduler: Any) -> Prediction:
    """What the network behind a scheduler predicts, by its config or else by its family."""
    family, name = family_of(scheduler), scheduler.config.get("prediction_type")
    if name is None or not family.told:
        return family.prediction
    flows = family.flows and scheduler.config.get("use_flow_sigmas", False)
    return prediction_in({"prediction_type": name, "use_flow_sigmas": flows}, f"The {type(scheduler).__name__}")


def initial_scale(scheduler: Any) -> float:
    """What pipelines multiply unit noise, or latents given by the user, with to get the first state."""
    scale = getattr(scheduler, "init_noise_sigma", None)
    if scale is None and family_of(scheduler).levels is exploding_levels:
        return float(scheduler.sigmas[0])
    return 1.0 if scale is None else float(scale)


def unlike_noise(rows: Tensor, scale: float) -> float | None:
    """The mean square of the row [B, D] that is furthest from it, where rows are no unit noise times a scale.

    Unit noise has a mean square of 1, but for a share sqrt(2/D).
    """
    excess = (rows / scale).square().mean(1) - 1
    if float(excess.abs().max()) <= 0.02 + 7 * (2 / rows.shape[1]) ** 0.5:
        return None
    return (float(excess[excess.abs().argmax()]) + 1) * scale**2


def scales_input(scheduler: Any) -> bool:
    """Whether the network sees `scale_model_input` of the state, and not the state."""
    return family_of(scheduler).scaled


def runs_to_data(scheduler: Any) -> bool:
    """Whether a flow's time is the share of data, 0 at noise, rather than that of noise."""
    if family_of(scheduler).levels is not flow_levels:
        return False
    share, noise = (
        float(scheduler.timesteps[0]) / scheduler.config.get("num_train_timesteps", 1),
        flow_levels(scheduler).sigma[0],
    )
    return bool((share - noise).abs() > (share - (1 - noise)).abs())


def _ready(scheduler: Any) -> tuple[Family, NoiseLevel]:
    """The family of a scheduler that has timesteps, and the levels [N+1] that its steps take the states for; of a
    foreign one, after a look at its steps."""
    family, name = family_of(scheduler), type(scheduler).__name__
    if getattr(scheduler, "timesteps", None) is None or len(scheduler.timesteps) == 0:
        raise ValueError(f"{name} has no timesteps yet; call its set_timesteps first.")
    try:
        levels = family.levels(scheduler)
    except ValueError as error:
        raise error if name in str(error) else ValueError(f"{A(name)} has no levels on this grid: {error}") from None
    if not set(names_of(scheduler)) & set(family.classes.split()):
        _remembered(scheduler, lambda: _proven(scheduler, levels))
    return family, levels


#: By scheduler: the timesteps for which levels were found, and those.
_FOUND: WeakKeyDictionary[Any, tuple[Any, NoiseLevel]] = WeakKeyDictionary()


def _remembered(scheduler: Any, find: Callable[[], NoiseLevel]) -> NoiseLevel:
    """Levels that take steps to find, once for each `set_timesteps`, which lays timesteps anew."""
    if scheduler not in _FOUND or _FOUND[scheduler][0] is not scheduler.timesteps:
        _FOUND[scheduler] = scheduler.timesteps, find()
    return _FOUND[scheduler][1]


#: Data of one point, by its share of the image and of the noise.
_POINT = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def _walked(scheduler: Any, told: NoiseLevel) -> NoiseLevel:
    """Where the states are: alpha and sigma of x = alpha x0 + sigma eps, carried from told[0] by the scheduler's own
    steps, with outputs that are right for x0 at the levels that the steps take the states for."""
    twin = _fresh(scheduler)
    x = torch.stack([told.alpha[:1], told.sigma[:1]], 1)
    states = [x]
    for time, level in zip(twin.timesteps, told, strict=False):
        if hasattr(twin, "scale_model_input"):
            twin.scale_model_input(x, time)  # some count by it
        x = twin.step(model_output(scheduler, _POINT, x, level), time, x, return_dict=False)[0].double()
        states.append(x)
    found, meant = torch.cat(states), torch.stack([told.alpha, told.sigma], 1)
    rounding = 1e-6 * meant.norm(dim=1, keepdim=True)  # of those that keep their sigmas in float32
    return NoiseLevel(*torch.where((found - meant).abs() > rounding, found, meant).unbind(1))


def _fresh(scheduler: Any) -> Any:
    """A copy at the beginning of its run, on the CPU, whose table is precise."""
    twin = copy.deepcopy(scheduler)
    twin.__class__ = getattr(type(twin), "_plain", type(twin))  # of a teleported pipeline, that of its steps
    for name in ("alphas_cumprod", "final_alpha_cumprod", "initial_alpha_cumprod"):
        if hasattr(twin, name):
            setattr(twin, name, torch.as_tensor(getattr(twin, name)).to("cpu", torch.float64))
    twin.timesteps = scheduler.timesteps.cpu()
    if hasattr(twin, "set_begin_index"):
        twin._step_index = None
        twin.set_begin_index(0)
    if hasattr(twin, "ets"):  # PNDM
        twin.ets, twin.counter, twin.cur_model_output, twin.cur_sample = [], 0, 0, None
    twin.num_inference_steps = scheduler.num_inference_steps or len(scheduler.timesteps)
    return twin


def _proven(scheduler: Any, levels: NoiseLevel) -> NoiseLevel:
    """The levels, if the scheduler's own steps lead data of one point along them.

    Raises:
        ValueError: they do not.
    """
    try:
        found = _walked(scheduler, levels)
    except (TypeError, AttributeError, IndexError, RuntimeError, ValueError):
        raise unknown(scheduler) from None
    off = torch.hypot(found.alpha - levels.alpha, found.sigma - levels.sigma)
    if bool((off > 1e-3 * levels.norm).any()):
        raise unknown(scheduler)
    return levels


def model_output(scheduler: Any, denoised: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
    """The model output that stands for a denoised image: each number of the one is affine in that of the other."""
    nothing, one = (scheduler_denoised(scheduler, torch.full_like(x, value), x, level) for value in (0.0, 1.0))
    return (denoised - nothing) / (one - nothing)
