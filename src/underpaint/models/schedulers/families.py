"""Which family a scheduler of diffusers is of, and where it keeps its levels.

- DDPM, DDIM, PNDM, LCM, TCD ... look alpha up in a table by the timestep (variance preserving);
- DPM-Solver, UniPC, DEIS, SA-Solver keep a list of sigma/alpha, or of flow times, and say themselves which;
- Euler, Heun, LMS, KDPM2 ... keep a list of sigma and states x0 + sigma eps, which they shrink for the network;
- EDM's schedulers do likewise, for a network with skip and output scales;
- flow matching has alpha = 1 - sigma; where its sigmas go beyond 1 (Cosmos Predict2), states are x0 + sigma eps, and
  its steps, which are straight lines, go by eps.

The class says which, also for a subclass; of foreign classes, the attributes do.

Sources: diffusers 0.30 to 0.42; Karras22 (scales), Esser et al. 2024 (flows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...bounds import A, a
from ...noise import NoiseLevel
from ...prediction import Prediction

#: What networks are trained on, by how configs state it.
Trained = Literal["betas", "flow", "edm"]


@dataclass(frozen=True)
class Family:
    """Schedulers that keep their levels in one way.

    Attributes:
        known: for messages.
        classes: of diffusers, without "Scheduler".
        has: the attributes by which it is known beside ``step``, ``timesteps`` and ``config``.
        levels: those that one such scheduler takes its states for, and where its last step ends, [N+1].
        prediction: what its networks predict if the config does not say.
        told: whether ``prediction_type`` is a setting of theirs; configs keep what other schedulers left in them.
        scaled: its network sees a scaled state.
        preconditioned: its network has skip and output scales.
        stride: it steps by a stride, and may miss its next timestep.
        mean: its network predicts the mean velocity to the next level.
        flows: ``use_flow_sigmas`` is a setting of theirs.
        trained: what its config says of the noise that its networks are trained on; "" if it cannot be read.
    """

    known: str
    classes: str
    has: tuple[str, ...]
    levels: Callable[[Any], NoiseLevel]
    prediction: Prediction = "eps"
    told: bool = True
    scaled: bool = False
    preconditioned: bool = False
    stride: bool = False
    mean: bool = False
    flows: bool = False
    trained: Trained | Literal[""] = "betas"


def family_of(scheduler: Any) -> Family:
    """By class, or that of its nearest parent; of foreign classes the first that fits, for later ones have fewer
    marks."""
    for name in names_of(scheduler):
        if name in NO_LEVELS:
            raise ValueError(f"{A(name)}Scheduler has no noise levels here: {NO_LEVELS[name]}.")
        for family in _FAMILIES:
            if name in family.classes.split():
                if not _has(scheduler, family):
                    raise unknown(scheduler)
                return _EXPLODING if family.levels is flow_levels and _beyond_one(scheduler) else family
    fitting = [family for family in _FAMILIES if _has(scheduler, family)]
    if not fitting:
        raise unknown(scheduler)
    return fitting[0]


def families() -> tuple[Family, ...]:
    """All of them."""
    return _FAMILIES


def trained_on(name: str) -> Trained | Literal[""]:
    """What the config of a class, named without "Scheduler", says of the noise; "" if it cannot be read."""
    return next((family.trained for family in _FAMILIES if name in family.classes.split()), "")


def names_of(scheduler: Any) -> list[str]:
    """Its class and those above, without "Scheduler"; of ours, those of its layout."""
    return [cls.__name__.removesuffix("Scheduler") for cls in type(getattr(scheduler, "layout", scheduler)).__mro__]


def _has(scheduler: Any, family: Family) -> bool:
    return all(hasattr(scheduler, name) for name in ("step", "timesteps", "config", *family.has))


def unknown(scheduler: Any) -> ValueError:
    return ValueError(
        f"The noise levels of {a(type(scheduler).__name__)} are not known; use a scheduler of one of these families: "
        f"{'; '.join(dict.fromkeys(family.known for family in _FAMILIES))}."
    )


def _sigmas(scheduler: Any) -> Tensor:
    """The scheduler's list, cut or repeated at its end to one more than its timesteps. [N+1] float64."""
    sigmas = torch.as_tensor(scheduler.sigmas).to("cpu", torch.float64)
    return torch.cat([sigmas, sigmas[-1:]])[: len(scheduler.timesteps) + 1]


def exploding_levels(scheduler: Any) -> NoiseLevel:
    """alpha = 1. The odd states of two-call schedulers that stop between two levels lie at their geometric mean, or,
    of the ancestral one, at that of a level and the one below the next from which noise is added."""
    sigmas = _sigmas(scheduler)
    if hasattr(scheduler, "sigmas_up"):
        sigmas[1::2] = scheduler.sigmas_interpol[: len(sigmas) : 2].to(sigmas)
    elif hasattr(scheduler, "sigmas_interpol") or hasattr(scheduler, "mid_point_sigma"):
        sigmas[1::2] = (sigmas[::2] * sigmas[1::2]).sqrt()
    return NoiseLevel(torch.ones_like(sigmas), sigmas)


def _as_told(scheduler: Any) -> NoiseLevel:
    sigmas = _sigmas(scheduler)
    if scheduler.config.get("use_flow_sigmas"):
        count = scheduler.config.num_train_timesteps
        off = (scheduler.timesteps.to("cpu", torch.float64) / count - sigmas[:-1]).abs().max()
        if off > 1.5 / count:  # more than rounding
            raise ValueError(
                f"The {type(scheduler).__name__} with use_flow_sigmas has a grid of other sigmas than its timesteps; "
                "leave out use_karras_sigmas, use_exponential_sigmas and the like."
            )
    return NoiseLevel(*scheduler._sigma_to_alpha_sigma_t(sigmas))


def _beyond_one(scheduler: Any) -> bool:
    """Whether the grid of a scheduler of flows begins above sigma = 1, also where what is left of it does not."""
    config = scheduler.config
    spaced = any(config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta"))
    laid = scheduler.sigmas is not None and len(scheduler.sigmas) > 0
    highest = float(torch.as_tensor(scheduler.sigmas).max()) if laid else 0.0
    return max(highest, float((spaced and config.get("sigma_max")) or 0.0)) > 1.001


def flow_levels(scheduler: Any) -> NoiseLevel:
    for name, plain in (("scale_factors", None), ("s_noise", 1.0)):  # of FlowMatchLCM, LTXEulerAncestralRF
        if scheduler.config.get(name, plain) not in (plain, None):
            raise ValueError(
                f"The {type(scheduler).__name__} with {name} = {scheduler.config[name]!r} has states of other sizes, "
                "or more or less noise, than its levels say."
            )
    sigmas = _sigmas(scheduler)
    if not bool(((sigmas >= 0) & (sigmas <= 1)).all()) or hasattr(scheduler, "sigmas_per_stage"):
        raise unknown(scheduler)
    noise = 1 - sigmas if sigmas[-1] > sigmas[0] else sigmas  # with invert_sigmas they are the share of data
    return NoiseLevel(1 - noise, noise)


def _tabled(scheduler: Any, times: Tensor, before: float | Tensor = 1.0) -> NoiseLevel:
    """Levels of a table of alpha^2 at whole times; ``before`` is alpha^2 at times before it begins."""
    table = scheduler.alphas_cumprod.to("cpu", torch.float64)
    squared = torch.where(times < 0, torch.as_tensor(before, dtype=torch.float64), table[times.clamp(min=0)])
    return NoiseLevel(squared.sqrt(), (1 - squared).sqrt())


def _times(scheduler: Any, last: int = -1) -> Tensor:
    """The timesteps, and the time at which the last step ends. [N+1] int64."""
    return torch.cat([scheduler.timesteps.to("cpu", torch.int64), torch.tensor([last])])


def _stride(scheduler: Any) -> int:
    steps = scheduler.num_inference_steps or len(scheduler.timesteps)
    return len(scheduler.alphas_cumprod) // steps


def _to_data(scheduler: Any) -> NoiseLevel:
    """Each step ends at the next timestep, the last one at data."""
    return _tabled(scheduler, _times(scheduler))


def _to_first(scheduler: Any) -> NoiseLevel:
    """Each step ends at the next timestep, the last one at time 0."""
    return _tabled(scheduler, _times(scheduler, 0))


def _strided(scheduler: Any) -> NoiseLevel:
    """Each step ends a stride below its timestep, and before the table where the scheduler says."""
    return _tabled(
        scheduler,
        _times(scheduler, int(scheduler.timesteps[-1]) - _stride(scheduler)),
        scheduler.final_alpha_cumprod,
    )


def _strided_or_not(scheduler: Any) -> NoiseLevel:
    """Those of a stride, if it meets the timesteps; steps that add noise cannot be followed where it does not."""
    if misses(scheduler):
        raise ValueError(
            f"The {type(scheduler).__name__} steps by {_stride(scheduler)} timesteps, which are not so far apart, and "
            "its states are not where the network is told; use timestep_spacing='trailing' and a number of steps that "
            f"divides {len(scheduler.alphas_cumprod)}."
        )
    return _strided(scheduler)


def _climbing(scheduler: Any) -> NoiseLevel:
    """From data to noise: each step begins a stride below its timestep, and ends there."""
    times = scheduler.timesteps.to("cpu", torch.int64)
    return _tabled(scheduler, torch.cat([times - _stride(scheduler), times[-1:]]), scheduler.initial_alpha_cumprod)


def misses(scheduler: Any) -> bool:
    """Whether a stride from a timestep does not lead to the next."""
    gaps = scheduler.timesteps.to("cpu", torch.int64).diff().abs()
    return bool((gaps != _stride(scheduler)).any())


def _ipndm(scheduler: Any) -> NoiseLevel:
    return NoiseLevel(scheduler.alphas, scheduler.betas)


_CONSISTENCY = "its networks are consistency models, which give samples and not the mean E[x0 | x]"
#: Classes without levels, or whose networks are no denoisers, and why.
NO_LEVELS = {
    "CMStochasticIterative": _CONSISTENCY,
    "ConsistencyDecoder": _CONSISTENCY,
    "SCM": _CONSISTENCY,
    "Helios": "its states change their resolution between stages",
    "HeliosDMD": "its states change their resolution between stages",
    "Piflow": "its networks predict a policy of many steps and no velocity",
    "RePaint": "it goes back to more noise between its steps",
}
_FLOW = "flow matching (sigmas within 0 and 1)"
_TABLE = "DDPM, DDIM, PNDM, LCM, TCD"
_FAMILIES = (
    Family(
        "EDM (preconditioned)",
        "EDMEuler EDMDPMSolverMultistep CosineDPMSolverMultistep",
        ("sigmas", "precondition_outputs"),
        exploding_levels,
        scaled=True,
        preconditioned=True,
        trained="edm",
    ),
    Family(
        "DPM-Solver, UniPC, DEIS, SA-Solver",
        "DPMSolverMultistep DPMSolverSinglestep DPMSolverMultistepInverse UniPCMultistep DEISMultistep SASolver",
        ("sigmas", "_sigma_to_alpha_sigma_t"),
        _as_told,
        flows=True,
    ),
    Family(
        "Euler, Heun, LMS, KDPM2",
        "EulerDiscrete EulerAncestralDiscrete HeunDiscrete LMSDiscrete KDPM2Discrete KDPM2AncestralDiscrete"
        " DPMSolverSDE",
        ("sigmas", "alphas_cumprod"),
        exploding_levels,
        scaled=True,
    ),
    Family(
        _FLOW,
        "FlowMatchEulerDiscrete FlowMatchHeunDiscrete FlowMatchLCM LTXEulerAncestralRF",
        ("sigmas",),
        flow_levels,
        "flow",
        told=False,
        trained="flow",
    ),
    Family(_FLOW, "MiniMaxH3", ("sigmas", "set_shift"), flow_levels, "flow", told=False, trained=""),
    Family(
        _FLOW, "FlowMapEulerDiscrete", ("sigmas", "apply_shift"), flow_levels, "flow", told=False, mean=True, trained=""
    ),
    Family(_TABLE, "DDIMInverse", ("alphas_cumprod", "initial_alpha_cumprod"), _climbing, stride=True),
    Family(_TABLE, "TCD", ("alphas_cumprod", "final_alpha_cumprod", "step_index"), _to_first),
    Family(
        _TABLE,
        "DDIM DDIMParallel CogVideoXDDIM PNDM",
        ("alphas_cumprod", "final_alpha_cumprod"),
        _strided,
        stride=True,
    ),
    Family(_TABLE, "CogVideoXDPM", ("alphas_cumprod", "final_alpha_cumprod", "get_mult"), _strided_or_not),
    Family(_TABLE, "DDPM DDPMParallel LCM UnCLIP", ("alphas_cumprod",), _to_data),
    Family("IPNDM", "IPNDM", ("alphas", "betas", "ets"), _ipndm, "v", told=False, trained=""),
)
#: A scheduler of flows whose sigmas go beyond 1; its steps are looked at, as those of a foreign class.
_EXPLODING = Family("flow matching (sigmas beyond 1)", "", ("sigmas",), exploding_levels, "eps", told=False, trained="")
