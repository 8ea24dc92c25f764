"""What schedulers do to a spectrum, against recurrences written out by hand, sampling, and numbers of released
versions."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils import logging
from torch import Tensor
from torch.testing import assert_close

import underpaint as up
from underpaint.models.schedulers.levels import initial_scale, model_output, told_levels
from underpaint.models.schedulers.spectrum import spectrum
from underpaint.recipes.spectrum import find_scheduler
from underpaint.theory import modes

logging.set_verbosity_error()
pytestmark = [  # of diffusers with numpy 2, and of torchsde with rounded times
    pytest.mark.filterwarnings("ignore:__array"),
    pytest.mark.filterwarnings("ignore:Should have t"),
]
EIGENVALUES = (0.01, 1.0, 20.0)
VALUES = torch.tensor(EIGENVALUES, dtype=torch.float64)
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def make(name: str, **settings: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler")(**settings)


def table(scheduler: Any, steps: int) -> Tensor:
    """abar at the timesteps and, last, 1."""
    scheduler.set_timesteps(steps)
    return torch.cat([scheduler.alphas_cumprod[scheduler.timesteps].double(), torch.ones(1, dtype=torch.float64)])


def test_ddpm_is_its_recurrence() -> None:
    """Ho et al. 2020, eqs. 6 and 7: posterior mean and small variance, on the exact denoiser."""
    scheduler = make("DDPM", clip_sample=False)
    gain, variance = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for here, there in pairwise(table(scheduler, 10)):
        alpha = here / there
        shrink = here.sqrt() * VALUES / (here * VALUES + 1 - here)
        factor = (there.sqrt() * (1 - alpha) * shrink + alpha.sqrt() * (1 - there)) / (1 - here)
        gain, variance = factor * gain, factor**2 * variance + (1 - there) / (1 - here) * (1 - alpha)
    found = spectrum(scheduler, 10, EIGENVALUES)
    assert_close(found.initial, gain**2, rtol=1e-4, atol=1e-12)
    assert_close(found.variance, gain**2 + variance, rtol=1e-4, atol=0)
    assert (found.draws, found.calls) == (9, 10)
    eta = spectrum(make("DDIM", clip_sample=False), 10, EIGENVALUES, eta=1.0)  # the same, says DDIM's paper
    assert_close(eta.variance, found.variance, rtol=1e-4, atol=0)


def test_ddim_and_heun_are_their_recurrences() -> None:
    scheduler = make("DDIM", clip_sample=False)
    gain = torch.ones(3, dtype=torch.float64)
    for here, there in pairwise(table(scheduler, 10)):
        shrink = here.sqrt() * VALUES / (here * VALUES + 1 - here)
        gain = gain * (there.sqrt() * shrink + (1 - there).sqrt() * (1 - here.sqrt() * shrink) / (1 - here).sqrt())
    found = spectrum(scheduler, 10, EIGENVALUES)
    assert_close(found.variance, gain**2, rtol=1e-4, atol=0)
    assert found.draws == 0

    heun = make("HeunDiscrete")
    heun.set_timesteps(10)
    sigmas = torch.cat([heun.sigmas[::2][:10], heun.sigmas[-1:]]).double()
    x = torch.full((3,), float(heun.init_noise_sigma), dtype=torch.float64)
    for here, there in pairwise(sigmas):
        slope = here / (VALUES + here**2) * x
        end = x + (there - here) * slope
        x = x + (there - here) * (slope + there / (VALUES + there**2) * end) / 2 if there else end
    assert_close(spectrum(heun, 10, EIGENVALUES).variance, x**2, rtol=1e-3, atol=0)


def test_a_solver_that_is_exact_for_the_gaussian_keeps_its_spectrum() -> None:
    gaussian = up.Gaussian(torch.zeros(3, dtype=torch.float64), up.Covariance(VALUES, torch.eye(3).double()))
    ours = up.GaussianExponentialScheduler.from_config(
        make("DDIM", rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction").config,
        gaussian=gaussian,
        ending="flow",
    )
    found = spectrum(ours, 5, EIGENVALUES)
    assert_close(found.share, torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)
    # it begins without the little of the mean that is left in the noise
    assert_close(found.mean, torch.ones(3, dtype=torch.float64), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("EulerAncestralDiscrete", {}), ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}), ("LCM", {})],
)
def test_samples_have_the_variance_and_mean_that_is_foretold(name: str, settings: dict[str, Any]) -> None:
    scheduler, mean, count = make(name, **settings), 3.0, 20_000
    found = spectrum(scheduler, 6, EIGENVALUES)
    scheduler.set_timesteps(6)
    generator = torch.Generator().manual_seed(0)
    x = initial_scale(scheduler) * torch.randn(count, 1, 1, 3, generator=generator, dtype=torch.float64)
    for t, level in zip(scheduler.timesteps, told_levels(scheduler), strict=False):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        gain = modes.shrinkage(VALUES, level)
        output = model_output(scheduler, mean + gain * (x - level.alpha * mean), x, level)
        x = scheduler.step(output, t, x, generator=generator).prev_sample.double()
    rows = x.flatten(1)
    assert_close(rows.var(0), found.variance, rtol=5 * math.sqrt(2 / count), atol=0)
    assert_close(rows.mean(0), mean * found.mean, rtol=0, atol=5 * float((found.variance.max() / count).sqrt()))


@pytest.mark.parametrize(
    ("name", "settings", "steps", "eigenvalue", "share"),
    [
        ("DPMSolverMultistep", {}, 10, 0.01, 0.08),
        ("DPMSolverMultistep", {}, 50, 0.01, 0.60),
        ("DDIM", {"clip_sample": False}, 10, 0.01, 0.135),
        ("DDIM", {"clip_sample": False}, 50, 0.01, 0.61),
        ("HeunDiscrete", {}, 10, 0.01, 4.0),
        ("KDPM2AncestralDiscrete", {}, 10, 0.01, 12.2),
        ("DDPM", {"clip_sample": False}, 10, 1.0, 0.55),
        ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, 300, 1.0, 0.5),
        ("FlowMatchLCM", {}, 300, 1.0, 0.5),
        ("LCM", {"original_inference_steps": 300}, 300, 1.0, 0.5),
        ("DEISMultistep", FLOW_SIGMAS, 10, 0.0001, 101),  # ends a step early, with noise of variance .1^2
        ("SASolver", FLOW_SIGMAS, 10, 0.0001, 101),
    ],
)
def test_what_diffusers_schedulers_do(name: str, settings: dict[str, Any], steps: int, eigenvalue: float, share: float):
    assert float(spectrum(make(name, **settings), steps, [eigenvalue]).share) == pytest.approx(share, rel=0.03)


def test_brownian_trees_are_linear_in_their_draws() -> None:
    pytest.importorskip("torchsde")
    found = spectrum(make("DPMSolverSDE", num_train_timesteps=200, beta_start=0.0005, beta_end=0.1), 5, EIGENVALUES)
    assert found.draws > 5
    assert bool((found.share > 0.05).all() and (found.share < 1.5).all())


def test_the_scheduler_is_left_as_it_was() -> None:
    scheduler = make("PNDM")
    scheduler.set_timesteps(7)
    before, found = copy.deepcopy(scheduler.__dict__), spectrum(scheduler, 5)
    assert torch.equal(scheduler.timesteps, before["timesteps"])
    assert scheduler.counter == 0
    assert found.steps == 5
    assert_close(spectrum(scheduler).variance, spectrum(make("PNDM"), 7).variance)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("DDIM", {}, "not linear in its states"),  # it clips
        ("DPMSolverMultistep", {"thresholding": True}, "not linear in its states"),
        ("UniPCMultistep", {"solver_type": "bh1"}, "NaN or infinite"),
        ("DDIMInverse", {}, "goes from data to noise"),
        ("CMStochasticIterative", {}, "consistency models"),
        ("Helios", {}, "change their resolution"),
        ("FlowMapEulerDiscrete", {}, "mean velocity"),
    ],
)
def test_what_has_no_spectrum_is_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spectrum(make(name, **settings), 5)


@pytest.mark.parametrize("eigenvalues", [(), (0.0,), (-1.0,), (math.nan,)])
def test_eigenvalues_are_variances(eigenvalues: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="Eigenvalues are positive"):
        spectrum(make("DDPM"), 5, eigenvalues)


@pytest.mark.parametrize(("name", "steps"), [("UnCLIPScheduler", 1), ("PNDMScheduler", 1), ("PNDMScheduler", 2)])
def test_steps_that_a_scheduler_cannot_lay_are_refused_by_name(name: str, steps: int) -> None:
    """One divides by 0 there, the other cannot broadcast."""
    with pytest.raises(ValueError, match=f"An? {name} cannot lay {steps} steps?; ask for another number"):
        spectrum(getattr(diffusers, name)(), steps)


@pytest.mark.parametrize("name", ["DPMSolverMultistepInverse", "DDIMInverse"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_goes_to_noise_is_refused_in_any_number_of_steps(name: str, steps: int) -> None:
    """One level does not tell which way it goes."""
    with pytest.raises(ValueError, match=f"A {name}Scheduler goes from data to noise"):
        spectrum(make(name), steps)


def schedulers() -> list[str]:
    """Every class of the installed diffusers that lays timesteps, but those whose own library is not installed."""
    kinds = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    usable = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and not is_missing(kind)}
    return sorted(name for name, kind in usable.items() if hasattr(kind, "set_timesteps"))


def is_missing(kind: type) -> bool:
    return type(kind).__name__ == "DummyObject"


@pytest.mark.parametrize("name", schedulers())
def test_few_steps_of_any_scheduler_are_finite_or_refused_by_its_name(name: str) -> None:
    for steps in (1, 2, 3):
        try:
            scheduler, _ = find_scheduler(name, {})
            found, said = spectrum(scheduler, steps, [1.0]), ""
        except ValueError as error:
            found, said = None, str(error)
        if found is None:
            assert name in said
            continue
        ready = copy.deepcopy(scheduler)
        ready.set_timesteps(steps)
        assert found.calls == len(ready.timesteps)
        assert all(bool(torch.isfinite(value).all()) for value in (found.variance, found.initial, found.mean))
        assert 0 <= float(found.variance) < 1e3
        more = copy.deepcopy(scheduler)
        more.set_timesteps(20)
        level = told_levels(more)
        assert level.ratio[-1] < level.ratio[0], "it goes to noise, and was not refused"
