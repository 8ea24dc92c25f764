"""A recorded run made once more: the same steps and noise, with the same or another denoiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_calls import pipeline, run as call
from torch.testing import assert_close

from underpaint.models.pipelines.record import Recording, record
from underpaint.theory.gaussian import Gaussian

pytestmark = pytest.mark.filterwarnings("ignore:__array")
#: Pipeline, scheduler, its settings, and what the call is given.
RUNS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("ddpm", "DDPM", {"clip_sample": False}, {}),
    ("sd", "DDIM", {}, {"eta": 1.0}),
    ("sd", "DDPM", {}, {}),
    ("sd", "LCM", {}, {}),
    ("sd", "EulerDiscrete", {}, {}),
    ("sd", "EulerAncestralDiscrete", {}, {}),
    ("sd", "HeunDiscrete", {}, {}),
    ("sd", "KDPM2AncestralDiscrete", {"num_train_timesteps": 100}, {}),
    ("sd", "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("sd", "PNDM", {"skip_prk_steps": True}, {}),
    ("sd3", "FlowMatchEulerDiscrete", {"stochastic_sampling": True}, {}),
    ("flux", "FlowMatchEulerDiscrete", {}, {}),
]
QUIET = ("EulerDiscrete", "HeunDiscrete", "PNDM")


def run(kind: str, name: str, settings: dict[str, Any], given: dict[str, Any]) -> Recording:
    pipe = pipeline(kind, name, **settings)
    torch.manual_seed(7)  # some pipelines hand no generator to their scheduler
    return call(lambda **asked: record(pipe, **asked), kind, num_inference_steps=3, **given)


@pytest.mark.parametrize(("kind", "name", "settings", "given"), RUNS)
def test_the_noise_is_kept_and_leads_the_same_way_again(kind: str, name: str, settings: Any, given: Any) -> None:
    recording = run(kind, name, settings, given)
    batch, dimension = recording.trajectory.x.shape[1:]
    assert len(recording.noise) == len(recording.trajectory)
    assert all(noise.shape[1:] == (batch, dimension) for noise in recording.noise)
    drawn = sum(len(noise) for noise in recording.noise)
    assert (drawn == 0) == (name in QUIET or kind == "flux")
    again, scale = recording.retrace(), float(recording.trajectory.x.abs().max())
    assert_close(again.x, recording.trajectory.x, rtol=0, atol=2e-4 * scale)
    assert torch.equal(again.denoised, recording.trajectory.denoised)


def test_noise_is_that_of_the_step() -> None:
    """Euler ancestral: to sigma_down along the estimate of the noise, and up by the draw."""
    recording = run("sd", "EulerAncestralDiscrete", {}, {})
    run_, sigma = recording.trajectory, recording.trajectory.level.sigma
    for i in range(len(run_) - 1):
        up = float((sigma[i + 1] ** 2 * (sigma[i] ** 2 - sigma[i + 1] ** 2) / sigma[i] ** 2).sqrt())
        down = float((sigma[i + 1] ** 2 - up**2).sqrt())
        expected = run_.denoised[i] + down * run_.eps[i] + up * recording.noise[i][0]
        assert_close(run_.x[i + 1], expected, rtol=0, atol=1e-3 * float(sigma[i]))


def test_a_gaussian_takes_the_same_path_of_noise() -> None:
    recording = run("sd", "DDIM", {}, {"eta": 1.0})
    dimension = recording.trajectory.x.shape[-1]
    gaussian = Gaussian.isotropic(torch.full((dimension,), 0.3), 0.5)
    theory = recording.retrace(gaussian)
    assert torch.equal(theory.x[0], recording.trajectory.x[0])
    assert theory.nfe == len(theory)
    for i, level in enumerate(recording.told):
        assert_close(theory.denoised[i], gaussian.denoise(theory.x[i], level))
    other = run("sd", "DDIM", {}, {"eta": 1.0, "generator": torch.Generator().manual_seed(9)}).retrace(gaussian)
    assert float((other.final - theory.final).abs().max()) > 1e-2


@pytest.mark.parametrize(("last", "words"), [(0, "other noise"), (2, "less noise")])
def test_other_noise_is_refused(last: int, words: str) -> None:
    recording = run("sd", "EulerAncestralDiscrete", {}, {})
    kept = recording.noise[:2]
    changed = replace(recording, noise=(*kept, recording.noise[2].expand(1, -1, -1).repeat(last, 1, 1)))
    with pytest.raises(ValueError, match=words):
        changed.retrace()


def test_what_was_not_kept_is_not_retraced() -> None:
    pipe = pipeline("sd", "DDIM")
    recording = call(lambda **asked: record(pipe, every=2, **asked), "sd")
    with pytest.raises(ValueError, match="record every step"):
        recording.retrace()
