"""Every scheduler of the installed diffusers, over a grid of its documented options: our levels are those at which the
class itself adds noise, or the scheduler is refused by name.

All tables are short, since some classes interpolate once for every training timestep when they are built.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import schedulers as peers
from diffusers.utils import logging
from torch import Tensor

from underpaint.models.pipelines.teleport import Jump
from underpaint.models.schedulers.configs import read_scheduler, read_settings, scheduler_config, time_unit
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.models.schedulers.levels import _walked, prediction_of, scheduler_levels, told_levels
from underpaint.noise import NoiseLevel
from underpaint.theory.gaussian import Gaussian

logging.set_verbosity(50)
pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers, about unusual options

TRAIN, STEPS = 60, 10
#: Options by what they are about; a class is given those that it knows, one of each group at a time.
OPTIONS: list[list[dict[str, Any]]] = [
    [
        {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.15},
        {"beta_schedule": "scaled_linear", "beta_start": 0.004, "beta_end": 0.1},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(0.001, 0.12, TRAIN).tolist()},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"snr_shift_scale": 1.0},
        {"snr_shift_scale": 2.0, "rescale_betas_zero_snr": True, "prediction_type": "sample"},
        {"shift": 3.0},
        {"sigma_data": 0.7},
    ],
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"use_lu_lambdas": True},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
        {"use_flow_sigmas": True, "prediction_type": "epsilon", "use_karras_sigmas": True, "sigma_max": 20.0},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "shift_terminal": 0.1},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_exponential_sigmas": True},
        {"timestep_type": "continuous"},
        {"interpolation_type": "log_linear"},
        {"invert_sigmas": True},
        {"shift_terminal": 0.1},
        {"scale_factors": [0.5, 1.0]},
        {"sigma_schedule": "exponential", "sigma_max": 40.0},
        {"rho": 5.0, "sigma_min": 0.01},
        {"skip_prk_steps": True},
        {"original_inference_steps": 30},
    ],
    [
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"timestep_spacing": "trailing"},
        {"final_sigmas_type": "sigma_min"},
        {"set_alpha_to_one": False},
        {"lambda_min_clipped": -2.0},
    ],
]  # fmt: skip
#: Without a meaning for noise levels of images: tokens, proteins, a sampler of its own.
NO_DIFFUSION = {"Amused", "BlockRefinement", "DiscreteDDIM", "EntropyBound", "VQDiffusion", "RFD4Proteina"}


#: Those whose steps add no noise by default. (LMS takes long; IPNDM divides 0 by 1e-8 in its first step.)
STEADY = {
    *("DDIM", "DDIMParallel", "CogVideoXDDIM", "DDIMInverse", "EulerDiscrete", "HeunDiscrete"),
    *("KDPM2Discrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "SASolver"),
    *("EDMEuler", "EDMDPMSolverMultistep", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "MiniMaxH3"),
}


def classes() -> dict[str, Any]:
    """By name without "Scheduler"; those of absent packages are left out."""
    found = {name: getattr(peers, name) for name in dir(peers) if name.endswith("Scheduler")}
    return {
        name.removesuffix("Scheduler"): cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, peers.SchedulerMixin)
    }


def variants(cls: Any) -> Iterator[dict[str, Any]]:
    """Nothing, one option, or one of each of two groups, as far as the class knows them."""
    known = inspect.signature(cls.__init__).parameters
    common = {"num_train_timesteps": TRAIN} if "num_train_timesteps" in known else {}
    groups = [[{}, *(option for option in group if option.keys() <= known.keys())] for group in OPTIONS]
    for one, two in ((0, 1), (1, 2), (0, 2)):
        for first, second in itertools.product(groups[one], groups[two]):
            yield {**common, **second, **first}


def built(cls: Any, options: dict[str, Any]) -> Any:
    """A scheduler with its timesteps, or None where the class itself refuses the options."""
    try:
        scheduler = cls(**options)
        takes = inspect.signature(scheduler.set_timesteps).parameters
        scheduler.set_timesteps(STEPS, **({"mu": 0.8} if options.get("use_dynamic_shifting") and "mu" in takes else {}))
    except Exception:
        return None
    return scheduler


def own_level(scheduler: Any, index: int) -> tuple[float, float]:
    """What the class makes of an image and of noise at its index-th timestep."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler._step_index = None
        scheduler.set_begin_index(index)
    image, noise, time = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), scheduler.timesteps[index : index + 1]
    if hasattr(scheduler, "scale_noise"):
        made = scheduler.scale_noise(image, time, noise)
    else:
        made = scheduler.add_noise(image, noise, time)
    return float(made[0, 0]), float(made[0, 1])


def check_live(scheduler: Any, levels: NoiseLevel) -> None:
    """Against `add_noise` or `scale_noise`; of two-call schedulers that stop between levels, at whole steps. Some look
    a repeated timestep up where it stands first or second."""
    between = hasattr(scheduler, "sigmas_interpol") or hasattr(scheduler, "mid_point_sigma")
    for index in range(0, len(levels), 2 if between else 1):
        alpha, sigma = own_level(scheduler, index)
        same = levels[(scheduler.timesteps == scheduler.timesteps[index]).nonzero().flatten()]
        near = (same.alpha - alpha).abs() + (same.sigma - sigma).abs() < 2e-4 * (1 + same.sigma)
        assert bool(near.any()), (index, alpha, sigma, same)


def adds_noise(scheduler: Any) -> bool:
    """Whether the class adds noise, and that at the levels of its own steps: see the two tests below of faults."""
    if type(scheduler) is peers.SASolverScheduler:
        return not any(value for key, value in scheduler.config.items() if key in IN_SIGMA)
    return hasattr(scheduler, "add_noise") or (
        hasattr(scheduler, "scale_noise") and not scheduler.config.get("invert_sigmas")
    )


def check_read(scheduler: Any, levels: NoiseLevel | None) -> bool:
    """The schedule read from the config against the class's table or flow; whether it was read."""
    config = scheduler_config(scheduler)
    try:
        schedule, _ = read_scheduler(config)
    except ValueError:
        return False
    unit = time_unit(config)
    if unit > 1:
        meant = schedule(scheduler.timesteps.double() / unit)
        assert levels is None or torch.allclose(meant.sigma, levels.sigma, atol=1.01 / unit)  # some round their times
        return True
    level, table = schedule(torch.arange(TRAIN)), scheduler.alphas_cumprod.double()
    assert torch.allclose(level.alpha, table.sqrt(), rtol=1e-4, atol=3e-4)  # some end at 2^-24 where there is no signal
    assert torch.allclose(level.sigma, (1 - table).sqrt(), rtol=1e-4, atol=1e-4)  # 1 - abar is rounded in float32
    return True


def told_times(scheduler: Any, sigma: Tensor) -> Tensor:
    """What a class with EDM's scales tells its network of sigmas."""
    return torch.as_tensor(scheduler.precondition_noise(sigma))


def check_ours(scheduler: Any, read: bool) -> bool:
    """Our scheduler, made from that one, tells its network times that mean its levels; whether it was made."""
    try:
        ours = GaussianExponentialScheduler.from_config(scheduler, gaussian=Gaussian.isotropic(torch.zeros(2), 1.0))
        ours.set_timesteps(STEPS)
    except ValueError:
        return False
    levels, config = told_levels(ours), scheduler_config(scheduler)
    if read_settings(config)[1] == "edm":
        assert torch.allclose(ours.timesteps, told_times(scheduler, levels.sigma.float()), rtol=1e-5, atol=1e-5)
        return True
    assert read
    schedule, unit = read_scheduler(config)[0], time_unit(config)
    meant = schedule(ours.timesteps.double() / unit)
    rounding = 1.01 / unit if unit > 1 else 1e-3
    assert torch.allclose(meant.sigma / meant.norm, levels.sigma / levels.norm, rtol=1e-3, atol=rounding)
    assert torch.allclose(meant.alpha / meant.norm, levels.alpha / levels.norm, rtol=2e-2, atol=2 * rounding)
    return True


@pytest.mark.parametrize("name", sorted(set(classes()) - NO_DIFFUSION))
def test_levels_are_those_at_which_the_class_adds_noise_or_it_is_refused(name: str) -> None:
    live = 0
    for options in variants(classes()[name]):
        scheduler, levels = built(classes()[name], options), None
        if scheduler is None:
            continue
        try:
            levels = told_levels(scheduler)
        except ValueError as refusal:
            assert name in str(refusal)  # noqa: PT017
        live += levels is not None
        if levels is not None and adds_noise(scheduler):
            check_live(scheduler, levels)
        read = check_read(scheduler, levels)
        known, ours = read or name in PRECONDITIONED, check_ours(scheduler, read)
        assert known if ours else not (known and levels is not None), options
    assert (live == 0) == (name in REFUSED)


@pytest.mark.parametrize("name", sorted(STEADY & classes().keys()))
def test_steps_without_noise_lead_data_of_one_point_along_the_levels_also_after_a_jump(name: str) -> None:
    """The class's own steps, from the first level and from where a teleported pipeline begins; every third variant."""
    gaussian = Gaussian.isotropic(torch.zeros(2), 1.0)
    for options in itertools.islice(variants(classes()[name]), 0, None, 3):
        scheduler = built(classes()[name], options)
        try:
            told, _ = told_levels(scheduler), prediction_of(scheduler)
        except (ValueError, AttributeError):  # refused, or not built
            continue
        Jump(cut := copy.deepcopy(scheduler), gaussian, 3).aim()
        assert torch.equal(told_levels(cut).ratio, told.ratio[3 * scheduler.order :]), options
        for each in (scheduler, cut):
            levels = scheduler_levels(each)
            found = _walked(each, NoiseLevel.join(told_levels(each), levels[-1]))
            off = torch.hypot(found.alpha - levels.alpha, found.sigma - levels.sigma) / levels.norm
            assert float(off.max()) < 2e-3, options


PRECONDITIONED = {"EDMEuler", "EDMDPMSolverMultistep", "CosineDPMSolverMultistep"}
REFUSED = {
    *("CMStochasticIterative", "ConsistencyDecoder", "SCM", "Helios", "HeliosDMD", "Piflow", "RePaint", "KarrasVe"),
    *("ScoreSdeVe", "ScoreSdeVp", "DDPMWuerstchen"),
}
IN_SIGMA = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")
PINNED = pytest.mark.skipif(diffusers.__version__ != "0.42.1", reason="says what diffusers 0.42.1 does")


@PINNED
def test_add_noise_of_sa_solver_is_not_at_its_own_sigmas() -> None:
    """A fault of diffusers: it looks alpha up in the table of betas, also for a flow, whose states its steps carry."""
    scheduler = peers.SASolverScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(10)
    alpha, sigma = own_level(scheduler, 5)
    assert alpha**2 + sigma**2 == pytest.approx(1, rel=1e-5)
    assert float(told_levels(scheduler).alpha[5] + told_levels(scheduler).sigma[5]) == pytest.approx(1, rel=1e-5)


@PINNED
def test_scale_noise_of_inverted_sigmas_mixes_up_image_and_noise() -> None:
    """A fault of diffusers: with ``invert_sigmas`` its steps run from sigma = 0, at noise, to 1, at data."""
    scheduler = peers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    scheduler.set_timesteps(10)
    levels = told_levels(scheduler)
    assert own_level(scheduler, 2) == pytest.approx((float(levels.sigma[2]), float(levels.alpha[2])), rel=1e-4)
    noise, image = torch.tensor([[0.3]]), torch.tensor([[2.0]])
    moved = scheduler.step(image - noise, scheduler.timesteps[0], levels.sigma[0].float() * noise).prev_sample
    assert torch.allclose(moved, levels.alpha[1].float() * image + levels.sigma[1].float() * noise, atol=1e-5)
