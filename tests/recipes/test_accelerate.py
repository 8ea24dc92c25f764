"""Pipelines with plans of the statistics: what a call gives is what our own loop gives, and what it follows is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from analytic import data
from tiny_calls import CALLS, denoiser, noise, pipeline, run, statistics
from torch import Tensor
from torch.testing import assert_close
from zoo import ZOO

import underpaint as up
from underpaint.calibration.calibrate import calibrate
from underpaint.data.store import save_gaussian
from underpaint.models.pipelines.parts import load_pipeline
from underpaint.models.pipelines.planned import _alone
from underpaint.models.pipelines.record import record
from underpaint.models.schedulers.configs import read_scheduler, scheduler_config
from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.sampling.fitted import LOOK_BACK, TERMS, Plan, write_calibration

pytestmark = pytest.mark.filterwarnings("ignore:__array")
CALLED = 5


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit to the data takes less."""
    for name, value in (("_FINE", 20), ("_SEEDS", (4, 4)), ("_EFFORT", 5)):
        monkeypatch.setattr(f"underpaint.recipes.accelerate.{name}", value)


def two_kinds(gaussian: up.Gaussian) -> up.Mixture:
    return up.Mixture(torch.ones(2), (gaussian, up.Gaussian(-gaussian.mean, gaussian.covariance)))


def for_plans(plans: str, gaussian: up.Gaussian) -> up.Mixture | None:
    """A mixture where plans are made of one."""
    return two_kinds(gaussian) if plans in ("auto", "data") else None


def by_hand(kind: str) -> up.Calibration:
    """A plan with a jump and coefficients of its own, at levels of the pipeline's schedule."""
    schedule, _ = read_scheduler(scheduler_config(pipeline(kind).scheduler))
    drawn = torch.randn(CALLED, LOOK_BACK, TERMS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return up.Calibration((Plan(schedule.grid(CALLED + 1), 0.03 * drawn),), {})


def own_loop(kind: str, plan: Plan) -> Tensor:
    solver, level = up.Calibration((plan,), {}).solver(statistics(kind), plan.calls)
    x = level.sigma[0].float() * noise(kind)[0].flatten(1)
    return up.sample(denoiser(kind), x, level, solver).final[: len(x)]


def recorded(pipe: Any, kind: str, calls: int = CALLED) -> Any:
    return run(lambda **given: record(pipe, **given), kind, num_inference_steps=calls)


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "dit", "sd", "sd3"])
def test_a_plan_begins_with_its_jump_whatever_a_pipeline_calls(kind: str, tmp_path: Path) -> None:
    """DDPM, DDIM and SD3 do not call `scale_model_input`, where a scheduler alone makes the jump."""
    plans = by_hand(kind)
    write_calibration(tmp_path / "plans.json", plans)
    pipe = pipeline(kind)
    before = type(pipe), pipe.scheduler
    quick = up.accelerate_pipeline(pipe, statistics(kind), tmp_path / "plans.json")
    found, wanted = recorded(quick, kind), own_loop(kind, plans.plans[0])
    assert found.trajectory.nfe == CALLED
    assert quick.scheduler.plan.jumps
    assert_close(found.trajectory.final, wanted, rtol=0, atol=2e-4 * float(wanted.abs().max()))
    assert (type(pipe), pipe.scheduler) == before


class Doubling(torch.nn.Module):
    """A network that wants half of the state."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, time: Tensor) -> Any:
        return self.inner(2 * x, time)


class Halving(diffusers.DDIMPipeline):
    """Shows its network something else than the state that it steps."""

    @torch.no_grad()
    def __call__(self, batch_size: int, generator: torch.Generator, num_inference_steps: int, **_: Any) -> Tensor:
        x = torch.randn(batch_size, 3, 8, 8, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            noise = self.unet(x / 2, time).sample
            x = self.scheduler.step(noise, time, x).prev_sample
        return x


def test_a_plan_lands_by_its_first_step_where_the_network_is_not_shown_the_state() -> None:
    """The first prediction is thrown away, for one call more."""
    plain, plans = pipeline("ddim"), by_hand("ddim")
    pipe = Halving(Doubling(plain.unet), plain.scheduler)
    quick = up.accelerate_pipeline(pipe, statistics("ddim"), plans)
    found, wanted = run(quick, "ddim", num_inference_steps=CALLED), own_loop("ddim", plans.plans[0])
    assert_close(found.flatten(1), wanted, rtol=0, atol=2e-4 * float(wanted.abs().max()))


def test_a_plan_of_the_data_is_made_once_and_kept() -> None:
    told, gaussian = list[str](), statistics("ddim")
    quick = up.accelerate_pipeline(pipeline("ddim"), gaussian, mixture=two_kinds(gaussian), tell=told.append)
    found = recorded(quick, "ddim")
    assert told[0] == "A plan for 5 calls is made from a mixture of 2 Gaussians of the data, once."
    assert "and no call of the network" in told[1]
    wanted = calibrate(
        two_kinds(gaussian), gaussian, read_scheduler(quick.scheduler.config)[0], (5,), range(4), fine=20, effort=5
    ).plan(5)
    plan = quick.scheduler.plan
    assert plan.jumps
    assert_close(plan.level.ratio, wanted.level.ratio)
    assert_close(plan.coefficients, wanted.coefficients)
    assert_close(
        found.trajectory.final, own_loop("ddim", plan), rtol=0, atol=2e-4 * float(found.trajectory.x.abs().max())
    )
    again = recorded(quick, "ddim")
    assert len(told) == 2
    assert torch.equal(found.trajectory.final, again.trajectory.final)
    run(quick, "ddim", num_inference_steps=4)
    assert len(told) == 4
    assert [plan.calls for plan in quick.scheduler.calibration.plans] == [5, 4]
    assert quick.scheduler.calibration.about["for"]["conditions"] == ["no condition"]


def test_a_network_that_is_given_more_follows_levels_of_the_spectrum(tmp_path: Path) -> None:
    """Plans from all the data were at three times the distance there, with guidance; see the guide."""
    told, gaussian = list[str](), statistics("sd")
    quick = up.accelerate_pipeline(pipeline("sd"), gaussian, mixture=two_kinds(gaussian), tell=told.append)
    found = recorded(quick, "sd")
    assert told[0].startswith("The network is given more than a state and a time")
    assert told[1].startswith("Levels for 5 calls are from the spectrum of the data")
    schedule, _ = read_scheduler(quick.scheduler.config)
    level = up.spectral_levels(gaussian, schedule, CALLED, up.euler)
    assert_close(scheduler_levels(quick.scheduler).ratio[:-1], level.ratio[:-1], rtol=1e-4, atol=0)
    solver = up.gaussian_exponential(gaussian, 1, True, "denoised")
    wanted = up.sample(denoiser("sd"), noise("sd")[0].flatten(1), level, solver).final
    assert_close(found.trajectory.final, wanted, rtol=0, atol=2e-4 * float(wanted.abs().max()))
    quick.scheduler.save_pretrained(tmp_path)
    kept = up.GaussianExponentialScheduler.from_pretrained(tmp_path)
    kept.set_timesteps(CALLED)
    assert_close(scheduler_levels(kept).ratio, scheduler_levels(quick.scheduler).ratio)


def test_plans_of_the_data_can_be_asked_for_whatever_the_network_is_given() -> None:
    gaussian = statistics("sd")
    quick = up.accelerate_pipeline(
        pipeline("sd"), gaussian, "data", mixture=two_kinds(gaussian), tell=lambda words: None
    )
    found, plan = recorded(quick, "sd"), quick.scheduler.plan
    assert plan.jumps
    wanted = own_loop("sd", plan)
    assert_close(found.trajectory.final, wanted, rtol=0, atol=2e-4 * float(wanted.abs().max()))


def test_texts_are_encoded_twice_in_the_first_call_with_a_number_of_calls_and_once_in_others() -> None:
    """The first shows its state and begins anew; the network is not called more often for it."""
    quick = up.accelerate_pipeline(pipeline("sd"), statistics("sd"), tell=lambda words: None)
    calls = {"text_encoder": 0, "unet": 0}
    hooks = [
        getattr(quick, name).register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
        for name in calls
    ]
    counted = []
    for steps in (CALLED, CALLED, CALLED - 1):
        calls |= dict.fromkeys(calls, 0)
        run(quick, "sd", num_inference_steps=steps)
        counted.append((calls["text_encoder"], calls["unet"]))
    for hook in hooks:
        hook.remove()
    once = counted[1][0]
    assert counted == [(2 * once, CALLED), (once, CALLED), (2 * once, CALLED - 1)]
    assert once > 0


def test_without_a_mixture_or_with_many_calls_levels_are_of_the_spectrum() -> None:
    gaussian = statistics("ddim")
    plain = up.accelerate_pipeline(pipeline("ddim"), gaussian, tell=lambda words: None)
    known = up.accelerate_pipeline(pipeline("ddim"), gaussian, mixture=two_kinds(gaussian), tell=lambda words: None)
    for pipe, calls, solver in ((plain, 3, "exponential-1c"), (known, 11, "exponential-2c")):
        run(pipe, "ddim", num_inference_steps=calls)
        assert (pipe.scheduler.plan.solver, pipe.scheduler.plan.calls) == (solver, calls)
    run(plain, "ddim", num_inference_steps=1)
    assert plain.scheduler.plan is None


def test_none_is_the_scheduler_without_plans() -> None:
    gaussian = statistics("ddim")
    quick = up.accelerate_pipeline(pipeline("ddim"), gaussian, "none")
    found = run(quick, "ddim").images
    pipe = pipeline("ddim")
    pipe.scheduler = up.GaussianExponentialScheduler.from_config(pipe.scheduler.config, gaussian=gaussian)
    assert (found == run(pipe, "ddim").images).all()
    assert quick.scheduler.plan is None


def test_a_plan_from_the_classes_of_a_file_is_nearer_than_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network that knows the data, in DDPM's pipeline, beside the scheduler without it and DPM-Solver++."""
    for name, value in (("_FINE", 40), ("_SEEDS", (16, 16)), ("_EFFORT", 40)):
        monkeypatch.setattr(f"underpaint.recipes.accelerate.{name}", value)
    rows, labels = data()
    parts = {k: (int((labels == k).sum()), up.Gaussian.fit(rows[labels == k])) for k in (0, 1)}
    place, gaussian = tmp_path / "stats.safetensors", up.Gaussian.fit(rows)
    save_gaussian(place, gaussian, parts)
    pipe = diffusers.DDPMPipeline(Knowing(up.Mixture.fit(rows, labels)), diffusers.DDPMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    solver, level = up.gaussian_exponential(gaussian, 3, True), up.DDPM().grid(200)
    x = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(1)).flatten(1)
    exact = up.sample(pipe.unet.denoise, x, level, solver).final

    def error(one: Any) -> float:
        generator = torch.Generator().manual_seed(1)
        found = record(one, batch_size=16, generator=generator, num_inference_steps=5, output_type="np")
        return float((found.trajectory.final - exact).square().mean().sqrt())

    made, levels, none = (
        error(up.accelerate_pipeline(pipe, place, plans, tell=lambda words: None))
        for plans in ("auto", "levels", "none")
    )
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert made < 0.5 * min(none, error(pipe))
    assert levels < none


class Knowing(torch.nn.Module):
    """A network that predicts the noise as a denoiser sees it."""

    def __init__(self, denoise: up.Denoiser) -> None:
        super().__init__()
        self.denoise, self.schedule = denoise, up.DDPM()
        self.config = diffusers.configuration_utils.FrozenDict(sample_size=6, in_channels=1)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: Tensor, t: Tensor) -> Any:
        flat, level = x.flatten(1), self.schedule(torch.as_tensor(t).double())
        eps = up.from_denoised(self.denoise(flat, level), flat, level, "eps").to(x).view_as(x)
        return diffusers.models.unets.unet_2d.UNet2DOutput(sample=eps)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_call_that_starts_from_an_image_has_no_jump(strength: float) -> None:
    """It gives what a pipeline gives whose scheduler has the calibration."""
    plans, pipe = by_hand("sd"), pipeline("sd")
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    from_image = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    from_image.set_progress_bar_config(disable=True)
    given = {k: v for k, v in CALLS["sd"].items() if k not in ("height", "width")}
    given |= {"image": torch.zeros(1, 3, 16, 16), "strength": strength, "num_inference_steps": CALLED}

    def images(one: Any) -> Any:
        return one(**given, output_type="np", generator=torch.Generator().manual_seed(1)).images

    quick = up.accelerate_pipeline(from_image, statistics("sd"), plans)
    found = images(quick)
    own = copy.copy(from_image)
    own.scheduler = up.GaussianExponentialScheduler.from_config(
        pipe.scheduler.config, gaussian=statistics("sd"), calibration=plans
    )
    own.scheduler._landed = True
    own.scheduler.scale_model_input = lambda sample, timestep=None: sample
    own.scheduler._underpaint_begin = lambda sample, timestep: sample
    assert_close(torch.as_tensor(found), torch.as_tensor(images(own)), rtol=0, atol=1e-5)


def test_a_call_that_starts_from_an_image_follows_levels_of_the_spectrum_too() -> None:
    """What a network is given is asked there, too: without an answer, levels were those of the config."""
    pipe, gaussian = pipeline("sd"), statistics("sd")
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    from_image = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    from_image.set_progress_bar_config(disable=True)
    given = {k: v for k, v in CALLS["sd"].items() if k not in ("height", "width")}
    given |= {"image": torch.zeros(1, 3, 16, 16), "num_inference_steps": CALLED, "output_type": "np"}
    for strength in (0.5, 1.0):
        found = []
        for plans in ("auto", "levels"):
            quick = up.accelerate_pipeline(
                from_image, gaussian, plans, mixture=for_plans(plans, gaussian), tell=lambda words: None
            )
            generator = torch.Generator().manual_seed(1)
            found.append(quick(**given, strength=strength, generator=generator).images)
            assert quick.scheduler.plan.solver == "exponential-1c"
        assert (found[0] == found[1]).all()


def test_levels_beside_plans_leave_what_is_told_of_the_plans() -> None:
    """The file of both said that all were from the spectrum."""
    gaussian = statistics("ddim")
    for order in ((5, 11), (11, 5)):
        quick = up.accelerate_pipeline(
            pipeline("ddim"), gaussian, "data", mixture=two_kinds(gaussian), tell=lambda words: None
        )
        for calls in order:
            quick.scheduler.set_timesteps(calls)
        assert quick.scheduler.calibration.about["from"]["origin"] == "data"


def test_sentences_name_the_function_that_made_the_pipeline() -> None:
    quick = up.accelerate_pipeline(pipeline("ddim"), statistics("ddim"), by_hand("ddim"))
    with pytest.raises(
        ValueError, match="not that which accelerate_pipeline gave it; change it before accelerate_pipeline"
    ):
        run(copy.deepcopy(quick), "ddim")
    quick = up.accelerate_pipeline(pipeline("sd"), statistics("sd"), by_hand("sd"))
    with pytest.raises(ValueError, match=r"A plan starts from noise of mean square 1; this .* from states of 0"):
        run(quick, "sd", num_inference_steps=CALLED, latents=torch.zeros(1, 4, 8, 8))


def of_other_size(dimension: int) -> up.Gaussian:
    return up.Gaussian.isotropic(torch.full((dimension,), 0.1), 0.5)


@pytest.mark.parametrize("plans", ["auto", "data", "levels"])
@pytest.mark.parametrize("kind", ["ddim", "dit", "sd", "sd3", "flux"])
def test_statistics_of_another_size_are_refused_before_anything_is_said_or_made(kind: str, plans: Any) -> None:
    """A plan was fitted, or levels were laid, and a sentence was said on the network, before the size was looked at."""
    told, gaussian = list[str](), of_other_size(100)
    quick = up.accelerate_pipeline(
        pipeline(kind), gaussian, plans, mixture=for_plans(plans, gaussian), tell=told.append
    )
    for call in (lambda **given: quick(**given), lambda **given: record(quick, **given)):
        with pytest.raises(ValueError, match=r"The states of this pipeline are .* and the Gaussian describes 100"):
            run(call, kind, num_inference_steps=CALLED)
    assert not told
    assert quick.scheduler.calibration is None


def test_states_of_another_size_are_refused_in_later_calls_too_and_the_right_ones_still_get_their_plan() -> None:
    told, gaussian = list[str](), statistics("sd")
    quick = up.accelerate_pipeline(pipeline("sd"), gaussian, tell=told.append)
    run(quick, "sd", num_inference_steps=3)
    with pytest.raises(ValueError, match=r"states of this pipeline are .* and the Gaussian describes 256"):
        run(quick, "sd", num_inference_steps=4, height=24, width=24)
    assert len(told) == 1
    run(quick, "sd", num_inference_steps=4)
    assert [plan.calls for plan in quick.scheduler.calibration.plans] == [3, 4]
    assert len(told) == 2


def test_states_of_another_size_beside_an_image_are_refused_first_too() -> None:
    """The network is given no argument that is the state alone: the step is asked."""
    told, gaussian = list[str](), of_other_size(100)
    pipe, given = ZOO["inpainting"]()
    quick = up.accelerate_pipeline(pipe, gaussian, mixture=two_kinds(gaussian), tell=told.append)
    with pytest.raises(ValueError, match="the Gaussian describes 100"):
        quick(**given, num_inference_steps=3)
    assert not told
    right = up.accelerate_pipeline(pipe, statistics("sd"), mixture=two_kinds(statistics("sd")), tell=told.append)
    right(**given, num_inference_steps=3)
    assert [words[:11] for words in told] == ["The network", "Levels for "]
    assert right.scheduler.plan.solver == "exponential-1c"


@pytest.mark.parametrize("plans", ["auto", "levels", "fitted"])
def test_a_call_with_levels_of_its_own_says_once_that_it_follows_no_plan(plans: str) -> None:
    """Nothing was said, or a sentence on plans that were not to be made."""
    told, gaussian, fitted = list[str](), statistics("flux"), up.Calibration(by_hand("sd3").plans, {})
    pipe = pipeline("flux")
    quick = up.accelerate_pipeline(
        pipe, gaussian, fitted if plans == "fitted" else plans, mixture=for_plans(plans, gaussian), tell=told.append
    )  # type: ignore[arg-type]
    for _ in range(2):
        run(quick, "flux", num_inference_steps=CALLED)
    assert len(told) == 1
    assert told[0].startswith("This call of FluxPipeline brought levels of its own, so no plan was followed")
    run(up.accelerate_pipeline(pipe, gaussian, "none", tell=told.append), "flux", num_inference_steps=CALLED)
    assert len(told) == 1


@pytest.mark.parametrize("kind", ["sd", "ddim", "sd3", "dit"])
def test_a_saved_pipeline_is_the_same_model_and_its_plans_can_be_taken_from_it(kind: str, tmp_path: Path) -> None:
    """`load_model` took our own scheduler for code that comes with a checkpoint."""
    quick = up.accelerate_pipeline(pipeline(kind), statistics(kind), tell=lambda words: None)
    wanted = recorded(quick, kind).trajectory.final
    quick.save_pretrained(tmp_path)
    size = None if kind in ("ddim", "dit") else 16
    model, plain = up.load_model(tmp_path, size=size), up.load_model(pipeline(kind), size=size)
    level = plain.schedule.grid(5)[2]
    x = torch.randn(2, plain.dimension, generator=torch.Generator().manual_seed(0))
    assert_close(model(x, level), plain(x, level), rtol=0, atol=1e-5)
    kept = up.GaussianExponentialScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    again = recorded(up.accelerate_pipeline(pipeline(kind), kept.gaussian, kept.calibration), kind).trajectory.final
    assert_close(again, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_of_ours_a_folder_may_name_the_scheduler_alone(tmp_path: Path) -> None:
    up.accelerate_pipeline(pipeline("ddim"), statistics("ddim"), "none").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"] = ["underpaint.models.schedulers.spectrum", "spectrum"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="code that comes with a checkpoint is never run"):
        load_pipeline(tmp_path, torch.float32)


STATE, TIME = torch.zeros(2, 3, 4, 4), torch.tensor(7)


@pytest.mark.parametrize(
    ("given", "alone"),
    [
        ([STATE, TIME], True),
        ([STATE, 7], True),
        ([STATE, torch.full((2,), 7.0), None, False, {}, "text"], True),
        ([STATE], True),
        ([STATE, TIME, torch.tensor([1, 2])], False),  # a class
        ([STATE, TIME, 7.5], False),  # a guidance
        ([STATE, TIME, torch.zeros(2, 5, 8)], False),  # a prompt
        ([STATE, TIME, {"time_ids": torch.zeros(2, 6)}], False),
        ([STATE, torch.tensor([1, 2])], False),  # whatever that is
        ([torch.zeros(2, 6, 4, 4), TIME], False),  # an image beside the state
    ],
)
def test_what_a_network_is_given_beside_state_and_time(given: list[Any], alone: bool) -> None:
    assert _alone(given, 48) is alone


def test_what_cannot_be_is_refused() -> None:
    gaussian = statistics("ddim")
    with pytest.raises(ValueError, match=r"There are no classes in the statistics .*; give a mixture, too"):
        up.accelerate_pipeline(pipeline("ddim"), gaussian, "data")
    other = up.Mixture(torch.ones(1), (up.Gaussian.isotropic(torch.zeros(3), 1.0),))
    with pytest.raises(ValueError, match="The mixture is of 3 numbers and the Gaussian of 192"):
        up.accelerate_pipeline(pipeline("ddim"), gaussian, mixture=other)
    for plans, named in (("none", "'none'"), ("levels", "'levels'"), (by_hand("ddim"), "a calibration")):
        with pytest.raises(ValueError, match=f"'auto' or 'data'; plans are {named}: leave it out"):
            up.accelerate_pipeline(pipeline("ddim"), gaussian, plans, mixture=two_kinds(gaussian))
    with pytest.raises(ValueError, match="plans are auto, data, levels, none, a Calibration or a file of one, got 3"):
        up.accelerate_pipeline(pipeline("ddim"), gaussian, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There is no file all"):
        up.accelerate_pipeline(pipeline("ddim"), gaussian, "all")
    made = {"gaussian": {"dimension": 12, "variance": 1.0, "largest": 1.0}}
    plans = up.Calibration(by_hand("ddim").plans, made)
    with pytest.raises(ValueError, match="made with a Gaussian of dimension 12"):
        up.accelerate_pipeline(pipeline("ddim"), gaussian, plans)
