"""What a network was trained on, from the config of its scheduler: schedule, prediction, and how times are told.

A config is read as its class reads it: what it leaves out has that class's default, what other schedulers left in it is
passed over, and what the class knows and this module does not is refused by name.

Sources: diffusers 0.42; Lin et al. 2024 (zero terminal SNR), Yang et al. 2024 (CogVideoX's SNR shift), Esser et al.
2024 (time shift of flows).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bounds import a, shown
from ...noise import DDPM, Flow, Schedule, make_betas
from ...prediction import Prediction
from .families import NO_LEVELS, Trained, families, names_of, trained_on

#: prediction_type in a scheduler's config -> ours
PREDICTION_TYPES: dict[str, Prediction] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
    "flow_prediction": "flow",
}
_BETAS = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}

# fmt: off
#: Settings that say what a time means, or what a network predicts, by what networks are trained on.
LEVELS: dict[Trained, tuple[str, ...]] = {
    "betas": (
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
        "rescale_betas_zero_snr", "snr_shift_scale", "timestep_type", "prediction_type", "use_flow_sigmas",
        "flow_shift", "use_dynamic_shifting", "time_shift_type",
    ),
    "flow": (
        "num_train_timesteps", "shift", "use_dynamic_shifting", "time_shift_type", "invert_sigmas",
        "scale_factors", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len",
    ),
    "edm": (
        "sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "rho", "num_train_timesteps",
        "prediction_type",
    ),
}
#: Settings that say where a grid lies, how it is solved, or what is done to x0-hat.
HARMLESS = (
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "final_sigmas_type", "sigma_min", "sigma_max",
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "lambda_min_clipped",
    "interpolation_type", "shift_terminal", "original_inference_steps", "timestep_scaling", "solver_order",
    "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "predict_x0", "disable_corrector",
    "solver_p", "predictor_order", "corrector_order", "tau_func", "skip_prk_steps", "variance_type", "eta",
    "s_noise", "noise_sampler_seed", "stochastic_sampling", "upscale_mode", "clip_sample", "clip_sample_range",
    "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
)
# fmt: on
#: Settings of diffusers before 0.20, in configs that are still about; ``predict_epsilon`` is true there, or refused.
OLD = ("tensor_format", "timestep_values", "set_alpha_to_zero", "predict_epsilon")
#: What `GaussianExponentialScheduler` adds to the config of its layout.
OURS = ("layout", "integrator_order", "corrector", "ending", "integrator_eta", "integrator_above")


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """The config of a scheduler object, with the class of diffusers that it is, or is derived from.

    Raises:
        ValueError: the object has none.
    """
    if not isinstance(getattr(scheduler, "config", None), Mapping):
        raise ValueError(f"Expected a scheduler of diffusers or its config, got {shown(scheduler)}.")
    known = [name for name in names_of(scheduler) if _known(name)]
    return {**scheduler.config, "_class_name": f"{known[0]}Scheduler" if known else type(scheduler).__name__}


def left_off(config: Mapping[str, Any]) -> dict[str, str]:
    """A note on what a scheduler's config asks for and is never done here."""
    on = [name for name in ("clip_sample", "thresholding") if config.get(name)]
    return {"left off": f"{' and '.join(on)} of its scheduler, which would break the probability flow"} if on else {}


def read_scheduler(
    config: Mapping[str, Any], where: str | Path = "The scheduler's config", tokens: int | None = None
) -> tuple[Schedule, Prediction]:
    """Schedule and prediction type from a scheduler's config.

    Args:
        config: as in ``scheduler_config.json``.
        where: what to call it in an error.
        tokens: image tokens of the network, for flows whose time shift depends on the resolution; by default those of
            its base resolution.

    Raises:
        ValueError: noise or prediction of a kind not handled here, or a setting that is not known.
    """
    name, kind, settings = read_settings(config, where)
    if kind == "edm":
        raise ValueError(f"{where} is of {a(name)}Scheduler that is not made from betas.")
    if kind == "flow":
        return Flow(_shift(config, settings, "shift", tokens)), "flow"
    prediction = prediction_in(settings, where)
    if settings.get("use_flow_sigmas"):
        return Flow(_shift(config, settings, "flow_shift", tokens)), prediction
    return _read_betas(settings, where), prediction


def time_unit(config: Mapping[str, Any]) -> float:
    """What a unit of the schedule's time is to a network: a flow's time ends at 1 here, at 1000 there."""
    _, kind, settings = read_settings(config)
    is_flow = kind == "flow" or settings.get("use_flow_sigmas")
    return float(settings.get("num_train_timesteps", 1000)) if is_flow else 1.0


def prediction_in(settings: Mapping[str, Any], where: str | Path) -> Prediction:
    """What networks of a class made from betas predict; ValueError if unknown, or if it does not go with the noise."""
    name, flows = str(settings.get("prediction_type", "epsilon")), bool(settings.get("use_flow_sigmas"))
    if name not in PREDICTION_TYPES:
        raise ValueError(f"{where} states prediction_type {name!r}; known are {', '.join(PREDICTION_TYPES)}.")
    if (name == "flow_prediction" and not flows) or (name == "v_prediction" and flows):
        raise ValueError(f"{where} states prediction_type {name!r} with use_flow_sigmas = {flows}, which do not agree.")
    return PREDICTION_TYPES[name]


def betas_of(settings: Mapping[str, Any], where: str | Path = "The scheduler's config") -> Tensor:
    """beta_t of a class's settings, before ``rescale_betas_zero_snr``. [T] float64.

    CogVideoX divides the signal-to-noise ratio by ``snr_shift_scale`` s: abar' = abar/(s + (1 - s) abar).
    """
    betas, kind = settings.get("trained_betas"), settings.get("beta_schedule", "linear")
    if betas is None and kind not in _BETAS:
        raise ValueError(f"{where} states beta_schedule {kind!r}; known are {', '.join(_BETAS)}.")
    if betas is None:
        first, last = settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02)
        betas = make_betas(_BETAS[kind], settings["num_train_timesteps"], first, last)  # type: ignore[arg-type]
    betas = torch.as_tensor(betas, dtype=torch.float64)
    scale = settings.get("snr_shift_scale", 1.0)
    if scale == 1.0:
        return betas
    bar = (1 - betas).cumprod(0)
    return _stepwise(bar / (scale + (1 - scale) * bar))


def read_settings(
    config: Mapping[str, Any], where: str | Path = "The scheduler's config"
) -> tuple[str, Trained, dict[str, Any]]:
    """A config's class without "Scheduler", what kind of noise it stands for, and all its settings.

    Raises:
        ValueError: the class is not known or not stated, or a setting that may matter is not known.
    """
    stated = config.get("layout") or config.get("_class_name")
    name = str(stated).removesuffix("Scheduler") if isinstance(stated, str) else None
    if name == "GaussianExponential":  # saved before it named its layout
        name = None
    name = _inferred(config, where) if name is None else name
    kind = trained_on(name)
    if name in NO_LEVELS or not kind:
        why = NO_LEVELS.get(name, "it is not made from betas, nor a flow or EDM's")
        raise ValueError(f"{where} is of {a(name)}Scheduler, which is not handled: {why}.")
    settings = {**_defaults(name), **{key: config[key] for key in _keys(name, config) if key in config}}
    _check_settings(name, kind, settings, config, where)
    return name, kind, settings


def _inferred(config: Mapping[str, Any], where: str | Path) -> str:
    """The class of a config that does not state it, which is how live schedulers have it: it then holds all settings of
    its class. Of two classes, the one that has all settings of the other and more."""
    fitting = {name: _signature(name).keys() for name in _names() if _signature(name)}
    fitting = {name: keys for name, keys in fitting.items() if keys <= config.keys()}
    largest = [name for name, keys in fitting.items() if not any(keys < others for others in fitting.values())]
    if not largest:
        raise ValueError(
            f"{where} states no _class_name, and its settings are those of no scheduler that is handled: not made from "
            "betas, nor a flow or EDM's."
        )
    if len({_meaning(name, config) for name in largest}) > 1:
        raise ValueError(
            f"{where} states no _class_name, and may be of {' or '.join(f'{a(name)}Scheduler' for name in largest)}, "
            "which differ; give the scheduler itself, or a config that states its class."
        )
    return largest[0]


def _meaning(name: str, config: Mapping[str, Any]) -> str:
    """What a config would mean if it were of that class."""
    kind = trained_on(name)
    if name in NO_LEVELS or not kind:
        return name
    return str([kind, *((key, config[key]) for key in LEVELS[kind] if key in _signature(name))])


def _check_settings(
    name: str, kind: Trained, settings: Mapping[str, Any], config: Mapping[str, Any], where: str | Path
) -> None:
    """Raise ValueError for a setting that may matter and is not understood."""
    unknown = _unknown_settings(name, kind, settings, config)
    if unknown:
        raise ValueError(
            f"{where} sets {unknown[0]} = {config[unknown[0]]!r} for {a(name)}Scheduler, a setting that is not known "
            "here and may change its noise levels; leave it out if it does not."
        )
    for key, (plain, why) in _REFUSED.items():
        if settings.get(key, config.get(key) if key in OLD else None) not in (None, plain):
            raise ValueError(f"{where} sets {key} = {config[key]!r}, which is not handled: {why}.")
    if kind != "betas":
        return
    for key, plain in _TRAINED_ON.items():
        if key not in settings and config.get(key, plain) != plain:
            raise ValueError(
                f"{where} holds {key} = {config[key]!r} of the scheduler that the network was trained with, which a "
                f"{name}Scheduler passes over: its levels are not the network's; give the pipeline's first config."
            )
    for key in ("num_train_timesteps", "beta_schedule"):
        if key not in settings:
            raise ValueError(
                f"{where} leaves out {key} of {a(name)}Scheduler, whose default is not known, for the class needs a "
                "package that is not installed."
            )


def _unknown_settings(name: str, kind: Trained, settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Settings of the class that are not at their defaults, and of no class that are set at all."""
    known = {*LEVELS[kind], *HARMLESS}
    everywhere = known.union(*LEVELS.values(), OURS, OLD)
    own = [key for key, value in settings.items() if key not in known and value != _defaults(name).get(key)]
    new = [key for key in config if not key.startswith("_") and key not in everywhere and key not in settings]
    return own + [key for key in new if config[key]]


#: Settings of the noise that networks are trained on, and where they do nothing; schedulers may leave them in a config.
_TRAINED_ON = {"snr_shift_scale": 1.0, "rescale_betas_zero_snr": False}
#: Settings that no schedule here has: where they do nothing, and why they are refused elsewhere.
_REFUSED = {
    "timestep_type": ("discrete", "its times are log(sigma)/4 and not made from betas"),
    "invert_sigmas": (False, "its network is told the share of data, and predicts x0 - eps"),
    "scale_factors": (None, "its states change their resolution between steps"),
    "predict_epsilon": (True, "it is an old name for prediction_type = 'sample'"),
}


def _shift(config: Mapping[str, Any], settings: Mapping[str, Any], name: str, tokens: int | None) -> float:
    """The time shift s of a flow: stated, or for the resolution exp(mu) (or mu), with mu linear in the tokens.

    Source: Esser et al. 2024, section 5.3.2. Pipelines read the resolutions also from what other schedulers left in the
    config.
    """
    if not settings.get("use_dynamic_shifting"):
        return float(settings.get(name) or config.get(name) or 1.0)
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = first + (last - first) * ((low if tokens is None else tokens) - low) / (high - low)
    return float(mu) if settings.get("time_shift_type") == "linear" else math.exp(mu)


def _read_betas(settings: Mapping[str, Any], where: str | Path) -> DDPM:
    betas = betas_of(settings, where)
    if settings.get("rescale_betas_zero_snr"):
        return DDPM(_without_signal(betas))
    if settings.get("trained_betas") is None and settings.get("snr_shift_scale", 1.0) == 1.0:
        kind, first = _BETAS[settings["beta_schedule"]], settings.get("beta_start", 1e-4)
        return DDPM(kind, settings["num_train_timesteps"], first, settings.get("beta_end", 0.02))  # type: ignore[arg-type]
    return DDPM(betas)


def _without_signal(betas: Tensor) -> Tensor:
    """Betas whose last step leaves no signal: sqrt(abar) shifted to end at 0, and scaled to start where it did.

    Source: Lin et al. 2024, algorithm 1. The last abar is 1e-12, not 0, so that log(sigma/alpha) stays finite.
    """
    root = (1 - betas).cumprod(0).sqrt()
    return _stepwise(((root - root[-1]) * root[0] / (root[0] - root[-1])).square().clamp(min=1e-12))


def _stepwise(bar: Tensor) -> Tensor:
    """beta_t of abar_t = product of (1 - beta). [T]"""
    return torch.cat([1 - bar[:1], 1 - bar[1:] / bar[:-1]])


def _names() -> list[str]:
    """All classes that are known, handled or not."""
    return [*(name for family in families() for name in family.classes.split()), *NO_LEVELS]


def _known(name: str) -> bool:
    return name in _names()


def _keys(name: str, config: Mapping[str, Any]) -> set[str]:
    """The settings of a class; if it cannot be asked, what the config has of those that are known."""
    return set(_signature(name)) or {*LEVELS["betas"], *HARMLESS} & set(config)


def _defaults(name: str) -> dict[str, Any]:
    return {key: value for key, value in _signature(name).items() if value is not inspect.Parameter.empty}


@cache
def _signature(name: str) -> dict[str, Any]:
    """The settings of a class of diffusers with their defaults; none if it needs a package that is not installed."""
    import diffusers

    cls = getattr(diffusers, f"{name}Scheduler", None)
    if not isinstance(cls, type) or not issubclass(cls, diffusers.SchedulerMixin):
        return {}
    return {
        key: p.default for key, p in inspect.signature(cls.__init__).parameters.items() if key not in ("self", "kwargs")
    }
