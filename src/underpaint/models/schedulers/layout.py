"""What lays the levels of the Gaussian exponential integrator in a pipeline: a scheduler of diffusers, from a config.

And what pipelines hand to schedulers that this one has no use for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from ...bounds import a
from .configs import LEVELS, betas_of, read_scheduler, read_settings
from .families import Trained

#: What in a config spaces its levels in sigma and not in time.
IN_SIGMA = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def make_layout(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """A scheduler of diffusers that lays the levels of a config's family.

    What says which level a time means is handed on as the config's own class has it, also where it leaves that out.

    Raises:
        ValueError: the config is of no family that is known, or a change of something that is not in it.
    """
    name, trained, settings = read_settings(config)
    kind = _layout_class(name, trained, {**settings, **changes})
    known = {*inspect.signature(kind.__init__).parameters, "_use_default_values"} - {"algorithm_type", "solver_type"}
    if changes.keys() - known:
        unknown = ", ".join(sorted(changes.keys() - known))
        raise ValueError(f"The levels are laid by {a(kind.__name__)}, which has no setting {unknown}.")
    levels = {name: settings[name] for name in LEVELS[trained] if name in settings and name in known}
    if settings.get("snr_shift_scale", 1.0) != 1.0:
        levels["trained_betas"] = betas_of(settings).float().tolist()
    if trained != "edm":
        read_scheduler({**config, "_class_name": f"{name}Scheduler", **changes})  # says what is amiss
    return kind.from_config({name: value for name, value in config.items() if name in known}, **{**levels, **changes})


def _layout_class(name: str, trained: Trained, settings: Mapping[str, Any]) -> Any:
    """The class that lays the levels of another."""
    import diffusers

    if trained == "edm":
        own = name == "CosineDPMSolverMultistep"  # which tells its network other times
        return getattr(diffusers, f"{name}Scheduler") if own else diffusers.EDMEulerScheduler
    if trained == "flow":
        return diffusers.FlowMatchEulerDiscreteScheduler
    spaced = [name for name in IN_SIGMA if settings.get(name)]
    if settings.get("use_flow_sigmas") and spaced not in ([], ["use_karras_sigmas"]):
        raise ValueError(f"{spaced[0]} and use_flow_sigmas do not go together: sigma would be above 1 in a flow.")
    only = [name for name in ("sigma_min", "sigma_max", "shift_terminal") if settings.get(name) is not None]
    if only or (settings.get("use_flow_sigmas") and spaced):
        return diffusers.UniPCMultistepScheduler
    return diffusers.DPMSolverMultistepScheduler


def is_flow(layout: Any) -> bool:
    """Whether sigmas are given to it as those of a flow."""
    import diffusers

    return isinstance(layout, diffusers.FlowMatchEulerDiscreteScheduler)


#: What pipelines hand on for schedulers that add noise on the way, and where it adds none.
_INERT = {"s_churn": 0.0, "s_tmin": None, "s_tmax": None, "s_noise": None}


def refuse(others: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that asks for what is not done here."""
    for name, value in others.items():
        inert = name in _INERT and _INERT[name] in (None, value)
        if value is not None and not inert:
            raise ValueError(
                f"The Gaussian exponential integrator takes no {name}, got {_brief(value)}: a state is at one level, "
                "and the levels are those of its own grid; leave it out, or keep the pipeline's own scheduler."
            )


def _brief(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def without_end(sigmas: Sequence[float]) -> list[float]:
    """Levels without a last one of 0, where every run ends."""
    given = [float(sigma) for sigma in sigmas]
    while given and given[-1] == 0:
        given.pop()
    if not given or any(later >= before for before, later in pairwise(given)):
        raise ValueError(
            f"Levels must fall from first to last and begin above 0, got sigmas = {[float(sigma) for sigma in sigmas]}."
        )
    return given
