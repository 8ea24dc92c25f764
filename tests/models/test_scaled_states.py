"""Pipelines that put their state and their network's answers together, or whose noise is not that of their levels."""

from __future__ import annotations

from typing import Any

import abilities
import diffusers
import pytest
import torch
import zoo
import zoo_more  # noqa: F401
from torch import Tensor

import underpaint as up
from underpaint.models.pipelines.guidance import made_of
from underpaint.models.schedulers.levels import scheduler_levels

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
RUN: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent"}


def test_states_of_a_flow_scheduler_beyond_sigma_1_are_those_of_edm() -> None:
    """Cosmos Predict2, derived here: D = c_skip x + c_out F(c_in x, t) at t = sigma/(sigma + 1), then guidance of D."""
    pipe, given = zoo.ZOO["cosmos2_image"]()
    seen = up.record(pipe, **given, **RUN, generator=torch.Generator().manual_seed(1))
    ramp, rho = torch.linspace(0, 1, 4, dtype=torch.float64), 7
    sigmas = (80 ** (1 / rho) + ramp * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    level = seen.trajectory.level
    assert torch.allclose(level.sigma, torch.cat([sigmas, sigmas[-1:]]), rtol=1e-5)
    assert torch.equal(level.alpha, torch.ones_like(level.alpha))
    noise = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(seen.trajectory.x[0], 80 * noise.flatten(1))

    def denoised(x: Tensor, sigma: float, text: Tensor) -> Tensor:
        t, states = torch.tensor([sigma / (sigma + 1)]), x.view(1, 4, 1, 2, 2)
        padding = states.new_zeros(1, 1, 16, 16)
        with torch.no_grad():
            answer = pipe.transformer((1 - t) * states, t, text, padding_mask=padding, return_dict=False)[0]
        return ((1 - t) * states - t * answer).flatten(1)

    for i, sigma in enumerate(sigmas.tolist()):
        texts = given["prompt_embeds"], given["negative_prompt_embeds"]
        cond, uncond = (denoised(seen.trajectory.x[i], sigma, text) for text in texts)
        expected = cond + given["guidance_scale"] * (cond - uncond)
        assert torch.allclose(seen.guided[i], expected, atol=1e-4 * float(expected.abs().max()))


def test_the_levels_stay_those_of_edm_where_what_is_left_of_the_grid_is_below_sigma_1() -> None:
    pipe, given = zoo.ZOO["cosmos2_image"]()
    law = up.Gaussian.isotropic(torch.zeros(16), 0.5)
    seen = up.record(up.teleport_pipeline(pipe, law, 6), **given, **{**RUN, "num_inference_steps": 8})
    assert bool((seen.trajectory.level.ratio < 1).all())
    assert bool((seen.trajectory.level.alpha == 1).all())


def test_a_scheduler_of_flows_that_has_laid_no_levels_is_one_of_shares_of_noise() -> None:
    """MiniMax' keeps no sigmas before it lays them."""
    assert up.spectrum(diffusers.MiniMaxH3Scheduler(), 4, [1.0]).steps == 4


def test_noise_of_another_size_than_the_levels_say_is_told_and_never_taken_for_theirs() -> None:
    pipe, given = zoo.ZOO["prx_pixel"]()  # its noise is twice as large
    with pytest.warns(UserWarning, match=r"starts from states of mean square 4.*, where noise .* has 1: the noise in"):
        up.record(pipe, **given, **RUN, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="so the PRXPixelPipeline has no denoiser at these levels"):
        up.load_model(pipe, **given)
    law = up.Gaussian.isotropic(torch.zeros(192), 0.5)
    with pytest.raises(ValueError, match="another size than the levels say, which accelerate_pipeline needs"):
        up.accelerate_pipeline(pipe, law, plans="none")(**given, **RUN)


def test_guidance_that_counts_steps_is_refused_or_met_as_the_call_meets_it() -> None:
    """Lumina2 leaves guidance out after a share of its steps; HunyuanImage changes its kind after five, if it makes so
    many. Neither was seen: a call that is lengthened has other shares, and a second step says nothing of the sixth."""
    pipe, given = zoo.ZOO["lumina2"]()
    with pytest.raises(ValueError, match="Lumina2Pipeline answers the same state and time in another way"):
        up.load_model(pipe, **given, num_inference_steps=4, cfg_trunc_ratio=0.6)
    counted = {**given, "num_inference_steps": 4, "cfg_trunc_ratio": 0.6}
    network = up.load_model(pipe, **{**counted, "guidance_scale": 1.0}).network  # which leaves nothing out
    states, times = torch.randn(1, *network.shape), torch.full((1,), 0.5)
    with pytest.raises(ValueError, match="Lumina2Pipeline answers the same state and time in another way"):
        network(states, times, None, 4.0)
    pipe, given = zoo.ZOO["hunyuan_image"]()
    case = abilities.Case(pipe, {**given, "num_inference_steps": 4})
    model, found = up.load_model(pipe, **case.given), up.record(pipe, **case.given, output_type="latent").trajectory
    for _ in range(3):  # more than the steps of one call
        for x, denoised, level in zip(found.x, found.denoised, found.level, strict=False):
            assert abilities._apart(model(x.float(), level), denoised) < 1e-4


def test_a_call_of_one_step_is_looked_at_for_few() -> None:
    pipe, given = zoo.ZOO["prx"]()
    model = up.load_model(pipe, **given, num_inference_steps=1)
    level = model.schedule.grid(2)[1]
    model(torch.randn(1, model.dimension), level)
    assert model.network._sessions[1, None, None].left > 4000  # of the 4096 that its call is lengthened to


def test_a_prediction_is_made_of_answers_alone_or_of_the_state_too() -> None:
    generator = torch.Generator().manual_seed(0)
    state, *answers = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(4))
    three = answers[0] + 2 * (answers[1] - answers[0]) + 1.5 * (answers[2] - answers[1])
    assert made_of(answers, three)
    assert made_of([torch.cat(answers)], three)
    assert made_of(answers, answers[1] * torch.tensor([0.5, 2.0]).view(2, 1, 1, 1))  # rescaled, each row
    assert not made_of(answers, (state - three) / 0.9)
    assert not made_of(answers, three.clamp(-1, 1))
    assert not made_of([], three)


def test_a_time_shift_that_is_told_to_levels_of_a_fixed_one_is_left_aside() -> None:
    """HiDream's pipeline tells it to all but UniPC, whose place is taken here; diffusers' DPM-Solver then raises."""
    config = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).config
    law = up.Gaussian.isotropic(torch.zeros(4), variance=0.5)
    plain, told = (up.GaussianExponentialScheduler.from_config(config, gaussian=law) for _ in range(2))
    plain.set_timesteps(6)
    told.set_timesteps(6, mu=1.2)
    assert torch.equal(scheduler_levels(told).sigma, scheduler_levels(plain).sigma)


@pytest.mark.parametrize("name", ["latent_upscale", "cosmos2_image"])
def test_what_a_pipeline_reads_of_sigmas_by_its_own_count_is_right_in_a_jump_of_more_steps(name: str) -> None:
    """The call makes one step more, which is thrown away, so that it counts one more than the scheduler."""
    case = abilities.Case(*zoo.ZOO[name]())
    quick = up.teleport_pipeline(case.pipe, case.gaussian, 2)
    found = case.recorded(quick).trajectory
    landed = case.gaussian.flow(case.seen.trajectory.x[0].float(), *case.seen.trajectory.level[[0, 2]])
    assert abilities._apart(found.x[0], landed) < 1e-5
    for x, denoised, level in zip(found.x, found.denoised, found.level, strict=False):
        assert abilities._apart(denoised, case.model(x.float(), level)) < 1e-4
    assert quick.steps_saved == 1
    assert isinstance(quick.scheduler, type(case.pipe.scheduler))
