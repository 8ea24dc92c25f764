"""What networks were trained on, from configs as they are found: by their class, and by every key of it."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils import logging
from torch.testing import assert_close

from underpaint.models.schedulers import configs as scheduler_configs
from underpaint.models.schedulers.configs import read_scheduler, scheduler_config, time_unit
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.models.schedulers.levels import prediction_of, scheduler_levels
from underpaint.noise import DDPM, Flow
from underpaint.theory.gaussian import Gaussian

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:__array")
GAUSSIAN = Gaussian.isotropic(torch.zeros(2), 1.0)


def ours(source: Any, **options: Any) -> GaussianExponentialScheduler:
    scheduler: GaussianExponentialScheduler = GaussianExponentialScheduler.from_config(
        source, gaussian=GAUSSIAN, **options
    )
    return scheduler


def test_the_snr_shift_of_cogvideox_is_kept() -> None:
    """Its sigma/alpha is sqrt(3) times that of the betas; so are our scheduler's, also when it is saved and loaded."""
    scheduler = diffusers.CogVideoXDDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction")
    for source in (scheduler, scheduler.config, scheduler_config(scheduler)):
        schedule, prediction = read_scheduler(source if source is not scheduler else scheduler_config(scheduler))
        assert prediction == "v"
        assert_close(
            float(schedule(999.0).ratio), 3**0.5 * float(DDPM.stable_diffusion()(999.0).ratio), rtol=1e-9, atol=0
        )
        made = ours(source)
        for each in (made, ours(made.config)):
            each.set_timesteps(20)
            assert_close(scheduler_levels(each)[:-1].ratio, schedule(each.timesteps).ratio, rtol=1e-4, atol=0)
            assert float(scheduler_levels(each).ratio[0]) > 20


def test_what_a_config_leaves_out_has_the_default_of_its_class() -> None:
    """LCM's betas are those of Stable Diffusion, DDPM's are not; a live config that marks them as defaults keeps
    them."""
    for name, schedule in (("LCM", DDPM.stable_diffusion()), ("TCD", DDPM.stable_diffusion()), ("DDPM", DDPM())):
        read, _ = read_scheduler({"_class_name": f"{name}Scheduler", "prediction_type": "epsilon"})
        assert torch.equal(read(torch.arange(1000)).sigma, schedule(torch.arange(1000)).sigma)
        live = ours(getattr(diffusers, f"{name}Scheduler")().config)
        live.set_timesteps(4)
        assert_close(scheduler_levels(live)[:-1].ratio, schedule(live.timesteps).ratio, rtol=1e-4, atol=0)
    cosine, _ = read_scheduler({"_class_name": "UnCLIPScheduler"})
    assert torch.equal(cosine(500.0).sigma, DDPM("cosine")(500.0).sigma)


def test_stable_audio_keeps_its_own_times() -> None:
    pytest.importorskip("torchsde")
    scheduler = diffusers.CosineDPMSolverMultistepScheduler()
    scheduler.set_timesteps(6)
    for source in (scheduler, scheduler.config):
        made = ours(source)
        made.set_timesteps(6)
        assert_close(made.timesteps, scheduler.timesteps)
        assert_close(made.timesteps, made.sigmas[:-1].atan() / torch.pi * 2)
        assert_close(scheduler_levels(made).sigma, scheduler_levels(scheduler).sigma)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (diffusers.SCMScheduler(), "SCMScheduler, which is not handled: its networks are consistency models"),
        (diffusers.CMStochasticIterativeScheduler(), "which is not handled: its networks are consistency models"),
        (diffusers.IPNDMScheduler(), "IPNDMScheduler, which is not handled: it is not made from betas"),
        (diffusers.MiniMaxH3Scheduler(), "MiniMaxH3Scheduler, which is not handled"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas = True, .* share of data"),
        (diffusers.FlowMatchLCMScheduler(scale_factors=[0.5, 1.0]), r"scale_factors = \[0\.5, 1\.0\], .* resolution"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="v_prediction"), "do not agree"),
        (diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"), "do not agree"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), "timestep_type = 'continuous', .* log"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_networks_of_other_noise_are_refused_by_name_in_both(source: Any, why: str) -> None:
    for read in (lambda: read_scheduler(scheduler_config(source)), lambda: ours(source)):
        with pytest.raises(ValueError, match=why):
            read()


def test_an_unknown_key_is_refused_by_name_and_those_of_other_schedulers_are_not(monkeypatch: Any) -> None:
    known = {
        "_class_name": "PNDMScheduler",
        "clip_sample": False,
        "use_karras_sigmas": True,
        "_diffusers_version": "0.6",
    }
    assert read_scheduler(known)[1] == "eps"
    assert read_scheduler({**known, "curvature": None})[1] == "eps"
    with pytest.raises(
        ValueError, match=r"sets curvature = 2\.0 for a PNDMScheduler, a setting that is not known here"
    ):
        read_scheduler({**known, "curvature": 2.0})
    own = scheduler_configs._signature("PNDM")
    monkeypatch.setattr(scheduler_configs, "_signature", lambda name: {**own, "bend": 1} if name == "PNDM" else {})
    assert read_scheduler({**known, "bend": 1})[1] == "eps"
    with pytest.raises(ValueError, match="sets bend = 3 for a PNDMScheduler"):
        read_scheduler({**known, "bend": 3})


def test_configs_of_the_first_versions_are_read() -> None:
    old = {"_class_name": "DDIMScheduler", "tensor_format": "pt", "timestep_values": None, "predict_epsilon": True}
    assert read_scheduler(old)[1] == "eps"
    with pytest.raises(ValueError, match="predict_epsilon = False, which is not handled: it is an old name"):
        read_scheduler({**old, "predict_epsilon": False})


def test_a_config_of_no_class_is_taken_by_its_settings() -> None:
    with pytest.raises(ValueError, match="is of an EDMEulerScheduler that is not made from betas"):
        read_scheduler(diffusers.EDMEulerScheduler().config)
    assert read_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config) == (Flow(3.0), "flow")
    assert read_scheduler(diffusers.EulerDiscreteScheduler(prediction_type="v_prediction").config)[1] == "v"
    with pytest.raises(ValueError, match="states no _class_name, and its settings are those of no scheduler"):
        read_scheduler({"beta_schedule": "linear"})
    with pytest.raises(ValueError, match="is of a MineScheduler, which is not handled"):
        read_scheduler({"_class_name": "MineScheduler", "beta_schedule": "linear"})


class Mine(diffusers.EulerDiscreteScheduler):
    """A subclass of one's own."""


def test_a_subclass_is_read_as_what_it_derives_from() -> None:
    assert scheduler_config(Mine())["_class_name"] == "EulerDiscreteScheduler"
    assert read_scheduler(scheduler_config(Mine(beta_schedule="squaredcos_cap_v2")))[1] == "eps"


def test_what_another_scheduler_left_in_a_config_is_no_setting() -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction").config, shift=2.0
    )
    assert flow.config.prediction_type == "v_prediction"
    assert prediction_of(flow) == "flow"
    assert read_scheduler(scheduler_config(flow)) == (Flow(2.0), "flow")


def test_noise_that_another_scheduler_left_in_a_config_is_refused_by_name(tmp_path: Any) -> None:
    """Schedulers that diffusers calls compatible pass it over, and are not at the network's levels."""
    for name, source in (
        ("snr_shift_scale", diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")),
        (
            "rescale_betas_zero_snr",
            diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        ),
    ):
        source.save_pretrained(tmp_path / name)
        whole = type(source).from_pretrained(tmp_path / name)  # its config states everything
        swapped = diffusers.DEISMultistepScheduler.from_config(whole.config)
        refusal = f"holds {name} = .* which a DEISMultistepScheduler passes over"
        with pytest.raises(ValueError, match=refusal):
            read_scheduler(scheduler_config(swapped))
        with pytest.raises(ValueError, match=refusal):
            ours(swapped)
        with pytest.raises(ValueError, match=refusal):
            ours(swapped.config)
        ours(whole.config)


def test_unipc_with_karras_and_flow_has_its_own_range() -> None:
    """As Cosmos has it: sigma/(1 + sigma) of Karras' levels between its own bounds."""
    options = {"use_karras_sigmas": True, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    scheduler = diffusers.UniPCMultistepScheduler(sigma_max=200.0, sigma_min=0.01, **options)
    made = ours(scheduler)
    for each in (scheduler, made):
        each.set_timesteps(35)
    assert time_unit(scheduler_config(scheduler)) == 1000
    assert_close(scheduler_levels(made).sigma, scheduler_levels(scheduler).sigma, rtol=1e-6, atol=0)
    assert_close(made.timesteps, 1000 * made.sigmas[:-1], rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="use_exponential_sigmas and use_flow_sigmas do not go together"):
        ours(
            diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
            use_exponential_sigmas=True,
        )
