"""Networks are recognised by being called, however they are wrapped and whatever the pipeline does around them: by
value, against the analytic law that the network knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import loops
import pytest
import tiny
import torch
from loops import SHAPE, Loop, Network, gaussian
from torch import Tensor
from torch.testing import assert_close

from underpaint.models.pipelines.record import Recording, record
from underpaint.models.pipelines.teleport import teleport_pipeline
from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.noise import NoiseLevel
from underpaint.sampling.solvers import euler
from underpaint.sampling.teleport import teleport

STEPS, SKIP = 6, 2


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def watched(loop: Loop) -> Recording:
    recording = record(loop, steps=STEPS, generator=seeded())
    assert torch.equal(recording.output, loop(steps=STEPS, generator=seeded()))
    return recording


def laws(states: Tensor, levels: NoiseLevel) -> tuple[Tensor, Tensor]:
    """What the network's two Gaussians make of recorded states, with the prompt and without it."""
    uncond, cond = (
        torch.stack([gaussian(seed).denoise(x, level) for x, level in zip(states, levels[:-1], strict=False)])
        for seed in (0, 1)
    )
    return cond, uncond


def compiled(network: Network) -> Any:
    return torch.compile(network, backend="eager")


def compiled_in_place(network: Network) -> Any:
    network.compile(backend="eager")
    return network


def hooked(network: Network) -> Any:
    from accelerate.hooks import ModelHook, add_hook_to_module

    return add_hook_to_module(network, ModelHook())


def wrapped(network: Network) -> Any:
    return torch.nn.DataParallel(network, device_ids=[])


WRAPPERS: dict[str, Callable[[Network], Any]] = {
    "torch.compile": compiled,
    "compiled in place": compiled_in_place,
    "accelerate": hooked,
    "wrapped": wrapped,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_networks_are_heard(name: str) -> None:
    loop = loops.Guided(WRAPPERS[name](Network()))
    for _ in range(2):  # a compiled one is called again, too
        recording = watched(loop)
        cond, uncond = laws(recording.trajectory.x, recording.trajectory.level)
        assert_close(recording.conditional, cond, rtol=1e-4, atol=1e-4)
        assert_close(recording.unconditional, uncond, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_networks_see_the_landing(name: str) -> None:
    network = WRAPPERS[name](Network())
    plain = Loop(network)(steps=STEPS, generator=seeded())
    check_teleport(Loop(network))
    assert_close(Loop(network)(steps=STEPS, generator=seeded()), plain)


def check_teleport(loop: Loop) -> None:
    """The call gives what our own loop gives for the Gaussian that the network knows; so does its recording."""
    law = gaussian(1)
    teleported = teleport_pipeline(loop, law, SKIP)
    for _ in range(2):
        found = teleported(steps=STEPS, generator=seeded()).flatten(1)
        loop.scheduler.set_timesteps(STEPS)
        noise = torch.randn(2, *SHAPE, generator=seeded()).flatten(1)
        expected = teleport(law, law.denoise, noise, scheduler_levels(loop.scheduler), SKIP, euler)
        assert_close(found, expected.final, rtol=1e-4, atol=1e-4)
        begun = record(teleported, steps=STEPS, generator=seeded()).trajectory
        assert len(begun) == STEPS - SKIP
        assert_close(begun.x, expected.x[1:], rtol=1e-4, atol=1e-4)
        assert_close(begun.denoised, expected.denoised[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loop", [loops.Guided, loops.Lists, loops.Rescaled, loops.PerToken])
def test_recorded_estimates_and_halves_are_those_of_the_law(loop: type[Loop]) -> None:
    recording = watched(loop())
    trajectory = recording.trajectory
    cond, uncond = laws(trajectory.x, trajectory.level)
    assert_close(recording.conditional, cond, rtol=1e-4, atol=1e-4)
    assert_close(recording.unconditional, uncond, rtol=1e-4, atol=1e-4)
    if loop is not loops.Rescaled:
        assert_close(recording.guided, uncond + 3 * (cond - uncond), rtol=1e-4, atol=1e-3)
    for i in range(len(trajectory)):  # and the states are where they lead
        x, level = trajectory.x, trajectory.level
        shrink = float(level.sigma[i + 1] / level.sigma[i])
        expected = shrink * x[i] + float(level.alpha[i + 1] - shrink * level.alpha[i]) * trajectory.denoised[i]
        assert_close(x[i + 1], expected, rtol=1e-4, atol=1e-4)


def test_a_pipeline_that_negates_what_its_network_says() -> None:
    recording = watched(loops.Negating(loops.Backwards()))
    cond, uncond = laws(recording.trajectory.x, recording.trajectory.level)
    assert_close(recording.conditional, cond, rtol=1e-4, atol=1e-4)
    assert_close(recording.unconditional, uncond, rtol=1e-4, atol=1e-4)
    assert_close(recording.guided, uncond + 3 * (cond - uncond), rtol=1e-4, atol=1e-3)


def test_the_part_that_is_stepped_has_its_halves() -> None:
    """What the network says of the rest of the state is left out."""
    loop = loops.Partly()
    recording = watched(loop)
    assert recording.shape == (4, 3, 2)
    image = loop.image.expand(2, -1, -1, -1)
    for i, level in enumerate(recording.trajectory.level[:-1]):
        whole = torch.cat([image, recording.trajectory.x[i].unflatten(1, (4, 3, 2))], 2).flatten(1)
        for half, seed in ((recording.unconditional, 0), (recording.conditional, 1)):
            expected = gaussian(seed).denoise(whole, level).unflatten(1, SHAPE)[:, :, 1:].flatten(1)
            assert half is not None
            assert_close(half[i], expected, rtol=1e-4, atol=1e-4)


def test_guidance_of_three_predictions_is_not_taken_for_two() -> None:
    recording = watched(loops.ThreeFold())
    with pytest.raises(ValueError, match="no halves of guidance: the prediction that was stepped is neither an output"):
        _ = recording.conditional
    assert recording.trajectory.nfe == STEPS


def test_steps_that_leave_parts_of_the_state_behind_are_not_recorded() -> None:
    with pytest.raises(ValueError, match="parts of the state are at levels of their own"):
        record(loops.TokensApart(), generator=seeded())


@pytest.mark.parametrize("loop", [Loop, loops.PreScaled])
def test_a_teleported_call_is_exact_on_an_analytic_network(loop: type[Loop]) -> None:
    check_teleport(loop())


def test_a_state_that_is_not_found_costs_one_call_of_the_network() -> None:
    for kind, extra in ((Loop, 0), (loops.PreScaled, 1)):
        loop = kind()
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        loop.network.register_forward_hook(counted)
        teleported = teleport_pipeline(loop, gaussian(1), SKIP)
        teleported(steps=STEPS)
        count = 0
        teleported(steps=STEPS)
        assert count == STEPS - SKIP + extra


def test_where_no_network_is_seen() -> None:
    with pytest.raises(ValueError, match="no network of the pipeline was called"):
        record(loops.Function(), generator=seeded())
    with pytest.raises(ValueError, match="no network of the pipeline was called"):
        teleport_pipeline(loops.Function(), gaussian(1), SKIP)(steps=STEPS)


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (loops.FromImage, "starts from an image to which its scheduler added noise"),
        (loops.ByHand, "starts from states of .* which are not the noise of its first level"),
        (loops.WithSound, "steps a second state with a copy of its scheduler"),
    ],
)
def test_what_is_not_the_noise_of_the_first_level_is_not_moved(loop: type[Loop], said: str) -> None:
    pipe = loop()
    plain = pipe(steps=STEPS, generator=seeded())
    with pytest.raises(ValueError, match=said):
        teleport_pipeline(pipe, gaussian(1), SKIP)(steps=STEPS, generator=seeded())
    assert torch.equal(pipe(steps=STEPS, generator=seeded()), plain)


def test_a_compiled_network_of_a_real_pipeline() -> None:
    """Teleported and recorded as the plain one is."""
    pipe = tiny.tiny_stable_diffusion()
    dimension = 256
    law = gaussian(3, dimension)
    given: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "height": 16, "width": 16}

    def call(target: Any) -> Tensor:
        latents: Tensor = target("a bear", generator=seeded(), **given).images
        return latents

    expected = call(teleport_pipeline(pipe, law, 1))
    halves = record(pipe, "a bear", generator=seeded(), **given).conditional
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert_close(call(teleport_pipeline(pipe, law, 1)), expected, rtol=1e-5, atol=1e-5)
    assert_close(record(pipe, "a bear", generator=seeded(), **given).conditional, halves, rtol=1e-4, atol=1e-4)
