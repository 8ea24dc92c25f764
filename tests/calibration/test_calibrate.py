"""Fitted plans: exact where theory says so, nearer than plain solvers on seeds that they never saw, safe on disk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from distributions import GAUSSIANS
from mixtures import gaussian_of, mixture
from tiny_calls import denoiser, noise, pipeline, run, statistics
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.calibration.calibrate import calibrate
from underpaint.calibration.selection import PLAIN, PlanSelector, interval
from underpaint.calibration.solution import distances, fine_enough, precision, solve_finely
from underpaint.cli import app
from underpaint.models.pipelines.record import record
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.recipes.sample import SampleRequest, generate
from underpaint.sampling.exponential import gaussian_exponential
from underpaint.sampling.fitted import (
    LOOK_BACK,
    TERMS,
    Calibration,
    Plan,
    Seen,
    combine,
    fingerprint,
    fitted_exponential,
    flown,
    jumping,
    read_calibration,
    step_terms,
    write_calibration,
)
from underpaint.sampling.solvers import Step, dpmpp_2m, euler
from underpaint.sampling.teleport import teleport
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.sampling.use import NONE
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

SEEDS, HELD = range(24), range(100, 116)


pytestmark = pytest.mark.filterwarnings("ignore:__array")


@pytest.fixture(scope="module")
def known() -> tuple[Mixture, Gaussian, Calibration]:
    data = mixture()
    gaussian = gaussian_of(data)
    return data, gaussian, calibrate(data, gaussian, DDPM(), (5, 8), SEEDS, HELD, fine=150, effort=80)


def test_plans_of_four_terms_are_what_they_were(tmp_path: Path) -> None:
    """A file of before S^2: the terms that it does not have count nothing."""
    gaussian, data, level = gaussian_of(mixture()), mixture(), EDM().grid(3)
    former = torch.randn(2, LOOK_BACK, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = {"calls": 2, "solver": "fitted", "errors": {}, "coefficients": former.tolist()}
    plan |= {"alpha": level.alpha.tolist(), "sigma": level.sigma.tolist()}
    (tmp_path / "x.json").write_text(json.dumps({"kind": "calibration", "about": {}, "plans": [plan]}))
    read = read_calibration(tmp_path / "x.json").plan(2)
    assert read.coefficients is not None
    assert torch.equal(read.coefficients[..., :4], former)
    assert not bool(read.coefficients[..., 4:].any())
    x = initial_noise(range(3), data.dimension, level[0], torch.float64)
    runs = [sample(data, x, level[1:], fitted_exponential(gaussian, one)) for one in (former, read.coefficients)]
    assert_close(runs[0].final, runs[1].final)


def test_without_anything_to_add_it_is_the_flow_of_the_gaussian() -> None:
    gaussian = gaussian_of(mixture())
    level = EDM().grid(6)
    x = initial_noise(range(4), gaussian.dimension, level[0], gaussian.mean.dtype)
    run = sample(gaussian, x, level, fitted_exponential(gaussian, torch.zeros(6, 3, 4, dtype=torch.float64)))
    assert_close(run.x, torch.stack([gaussian.flow(x, level[0], there) for there in level]))


@pytest.mark.parametrize("term", range(TERMS))
def test_each_coefficient_multiplies_what_the_formula_says(term: int) -> None:
    """a to f of the call before the newest, in dense matrices: S = alpha^2 Sigma / (alpha^2 Sigma + sigma^2)."""
    data, gaussian = mixture(), gaussian_of(mixture())
    level = NoiseLevel(torch.tensor([0.4, 0.7, 0.9]).double(), torch.tensor([0.9, 0.6, 0.3]).double())
    coefficients = torch.zeros(2, LOOK_BACK, TERMS, dtype=torch.float64)
    coefficients[1, 1, term] = 0.37
    x = initial_noise(range(4), data.dimension, level[0], torch.float64)
    run = sample(data, x, level, fitted_exponential(gaussian, coefficients))

    mean, matrix, (_, now, there) = gaussian.mean, gaussian.covariance.matrix(), level
    eye = torch.eye(data.dimension, dtype=torch.float64)
    share = torch.linalg.solve(now.alpha**2 * matrix + now.sigma**2 * eye, now.alpha**2 * matrix)
    first = data(x, level[0])
    seen = (first - gaussian.denoise(x, level[0])) if term in (0, 1, 4) else first - mean
    power = (0, 1, 0, 1, 2, 2)[term]
    added = there.alpha * (seen @ torch.linalg.matrix_power(share, power))
    flow = gaussian.flow(gaussian.flow(x, level[0], now), now, there)
    assert_close(run.final, flow + 0.37 * added, rtol=1e-5, atol=1e-5)


def test_with_no_variance_and_one_weight_a_step_is_that_of_ddim() -> None:
    """psi is sigma'/sigma and D is what is added: c = 1 - (sigma'/alpha')(alpha/sigma) of the newest call."""
    data = mixture()
    flat = Gaussian.isotropic(torch.zeros(data.dimension, dtype=torch.float64), 0.0)
    level = DDPM().grid(5)
    coefficients = torch.zeros(5, 3, 4, dtype=torch.float64)
    coefficients[:, 0, 2] = 1 - level.ratio[1:] / level.ratio[:-1]
    x = initial_noise(range(4), data.dimension, level[0], torch.float64)
    found = sample(data, x, level, fitted_exponential(flat, coefficients))
    assert_close(found.x, sample(data, x, level, euler).x)


def test_a_jump_is_teleport_over_the_first_interval() -> None:
    data = mixture()
    gaussian, level = gaussian_of(data), DDPM().grid(7)
    x = initial_noise(range(3), data.dimension, level[0], gaussian.mean.dtype)
    found, wanted = (
        sample(data, x, level, jumping(gaussian, dpmpp_2m)),
        teleport(gaussian, data, x, level, 1, dpmpp_2m),
    )
    assert_close(found.x, wanted.x)
    assert found.nfe == wanted.nfe == 6


@pytest.mark.parametrize("schedule", [DDPM(), EDM(sigma_max=40.0), Flow()], ids=["ddpm", "edm", "flow"])
def test_gaussian_data_need_no_fit(schedule: Schedule) -> None:
    """The jump and every step are the exact flow, fitted or plain; a solver that knows no Gaussian is far off."""
    gaussian = gaussian_of(mixture())
    found = calibrate(gaussian, gaussian, schedule, (3,), range(6), range(50, 54), fine=60, effort=0)
    plan, fine = found.plan(3), solve_finely(gaussian, gaussian, schedule, range(50, 54), 60)
    level = NoiseLevel.join(fine.level[torch.tensor([0, 30, 59])], NoiseLevel.clean())
    other = PlanSelector(gaussian, gaussian, schedule, fine, fine).error(Plan(level, solver="dpmpp-3m"))
    assert max(plan.errors["held_out"], plan.errors["plain"]) < 1e-3 * other


def test_the_fine_solution_is_fine() -> None:
    data = mixture()
    gaussian = gaussian_of(data)
    coarse, fine = (solve_finely(data, gaussian, DDPM(), range(6), steps) for steps in (100, 400))
    assert float((coarse.final - fine.final).abs().max()) < 1e-2
    assert len(coarse.level) == len(coarse.states) == 100


def test_plans_are_much_nearer_than_plain_solvers_on_seeds_they_never_saw(
    known: tuple[Mixture, Gaussian, Calibration],
) -> None:
    data, gaussian, found = known
    level = DDPM().grid(1)
    x = initial_noise(range(500, 532), data.dimension, level[0], gaussian.mean.dtype)
    exact = solve_finely(data, gaussian, DDPM(), range(500, 532), 400)
    for plan in found.plans:
        assert plan.solver == "fitted"
        solver, grid = found.solver(gaussian, plan.calls)
        run = sample(data, x, grid, solver)
        assert run.nfe == plan.calls
        errors = (gaussian.covariance.analyse(run.final - gaussian.mean) - exact.final).square().mean(1).sqrt()
        error = float(errors.mean())
        assert error < 0.5 * plan.errors["plain"]
        assert error < 3 * plan.errors["held_out"]


def test_a_gaussian_that_misleads_leaves_the_plain_solver() -> None:
    """One seed to fit to and a Gaussian of other data: what is fitted does not carry over, and is not kept."""
    data = mixture()
    wrong = Gaussian.isotropic(torch.full((12,), 30.0, dtype=torch.float64), 1e-4)
    found = calibrate(data, wrong, DDPM(), (12,), range(1), HELD, fine=100, effort=0)
    plan = found.plan(12)
    assert plan.errors["plain"] <= plan.errors["held_out"]
    assert plan.solver in PLAIN
    assert plan.coefficients is None
    # the one of least mean distance over the seeds of the fit and others, among the best on these; no other
    fitted, unseen = (solve_finely(data, wrong, DDPM(), seeds, 100) for seeds in (range(1), HELD))
    judge = PlanSelector(data, wrong, DDPM(), fitted, unseen)
    assert judge.error(plan) == pytest.approx(plan.errors["plain"])
    kept, fitted = plan.errors["plain"], plan.errors["held_out"]
    assert f"{kept:.4f} from the fine solution on held-out seeds, fitted {fitted:.4f}" in str(plan)
    solver, level = found.solver(wrong, 12)
    assert sample(data, initial_noise([1], 12, level[0], torch.float64), level, solver).nfe == 12


def test_a_plan_may_be_the_integrator_as_it_is(tmp_path: Path) -> None:
    """Of the order and with the corrector that its name says, from the first level, and with the last image that was
    denoised at the end."""
    data, gaussian = mixture(), gaussian_of(mixture())
    level = DDPM().grid(9)
    write_calibration(tmp_path / "x.json", Calibration((Plan(level, solver="exponential-3c"),), {}))
    solver, grid = read_calibration(tmp_path / "x.json").solver(gaussian, 9)
    x = initial_noise(range(4), data.dimension, level[0], gaussian.mean.dtype)
    found, same = (sample(data, x, level, one) for one in (solver, gaussian_exponential(gaussian, 3, True)))
    assert_close(grid.ratio, level.ratio)
    assert_close(found.x[:-1], same.x[:-1])
    assert_close(found.final, same.denoised[-1])
    assert found.nfe == 9


def test_a_plan_is_judged_by_its_mean_error() -> None:
    """The mean over seeds of the root mean square over numbers, against the end of the fine solution."""
    data, gaussian = mixture(), gaussian_of(mixture())
    seen = solve_finely(data, gaussian, DDPM(), HELD, 100)
    plan = Plan(DDPM().grid(6), solver="dpmpp-2m")
    x = initial_noise(HELD, data.dimension, plan.level[0], gaussian.mean.dtype)
    final = gaussian.covariance.analyse(sample(data, x, plan.level, dpmpp_2m).final - gaussian.mean)
    errors = (final - seen.final).square().mean(1).sqrt()
    expected = float(errors.mean())
    assert PlanSelector(data, gaussian, DDPM(), seen, seen).error(plan) == pytest.approx(expected, rel=1e-4)
    assert expected < 0.95 * float(errors.square().mean().sqrt())


def test_plain_solvers_are_held_against_each_other_on_all_seeds() -> None:
    """Among the best on held-out seeds, which are too few to say which is the best."""
    data, gaussian = mixture(), gaussian_of(mixture())
    fitted, unseen = (solve_finely(data, gaussian, DDPM(), seeds, 60) for seeds in (range(12), range(72, 74)))
    judge, path = PlanSelector(data, gaussian, DDPM(), fitted, unseen), (0, 10, 20, 30, 40, 50, 59)
    plain = judge._finalists(judge.grids(path), 1e9)
    held = [judge.errors(plan, unseen) for plan in plain]
    best = sorted(range(len(plain)), key=lambda i: float(held[i].mean()))
    overall = {i: float(torch.cat([held[i], judge.errors(plain[i], fitted)]).mean()) for i in best}
    wanted = min(overall, key=lambda i: overall[i])
    assert wanted != best[0], "the held-out seeds would have said the same"
    far = Plan(judge.grids((0, 3, 6, 9, 12, 15, 18))[-2], solver="dpmpp-2m")  # ends at much noise
    found = judge.choose(far, path, 1.0)
    assert found.solver == plain[wanted].solver
    assert torch.equal(found.level.ratio, plain[wanted].level.ratio)
    low, high = interval(judge.errors(far, unseen), held[wanted])
    assert found.errors == pytest.approx(
        {
            "fit": 1.0,
            "held_out": judge.error(far),
            "plain": float(held[wanted].mean()),
            "ratio_low": low,
            "ratio_high": high,
        }
    )
    # what is nearer than all of them stays
    near = Plan(DDPM().grid(60), solver="dpmpp-2m")
    kept = judge.choose(near, path, 1.0)
    assert (kept.solver, kept.errors["plain"]) == ("dpmpp-2m", pytest.approx(float(held[best[0]].mean())))
    assert kept.errors["held_out"] == pytest.approx(judge.error(near))
    assert kept.errors["held_out"] < kept.errors["plain"]


def test_a_plan_has_to_beat_every_plain_solver_there_is() -> None:
    """Where it is not clearly nearer: DDIM and the integrator of first order are among those tried, on the best grids;
    the best of all of them is found."""
    data, gaussian = mixture(), gaussian_of(mixture())
    fine = solve_finely(data, gaussian, DDPM(), range(4), 60)
    judge, path = PlanSelector(data, gaussian, DDPM(), fine, fine), (0, 10, 20, 30, 40, 50, 59)
    grids = judge.grids(path)
    every = {(name, i): judge.error(Plan(grid, solver=name)) for i, grid in enumerate(grids) for name in PLAIN}
    assert {"euler", "exponential-1", "exponential-1c", "dpmpp-2m"} <= {name for name, _ in every}
    assert judge.error(judge._finalists(grids, 1e9)[0]) == pytest.approx(min(every.values()), rel=0.1)
    calls: list[float] = []

    def counted(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        calls.append(1)
        return data(x, level)

    counting = PlanSelector(counted, gaussian, DDPM(), fine, fine)
    counting._finalists(grids, 0.0)
    few = len(calls)
    counting._finalists(grids, 1e9)
    assert few == (7 + 3 * 3) * 7 < len(calls) - few


def test_a_rival_that_is_nearer_is_named_and_no_plan() -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    fine = solve_finely(data, gaussian, DDPM(), range(4), 60)
    ends = fine.final

    def perfect(denoise: object, x: torch.Tensor, level: NoiseLevel) -> Iterator[Step]:
        for _ in range(len(level) - 1):
            yield gaussian.mean + gaussian.covariance.synthesise(ends), x

    judge = PlanSelector(data, gaussian, DDPM(), fine, fine, rivals={"perfect": perfect})
    far = Plan(judge.grids((0, 3, 6, 9, 12, 15, 18))[-2], solver="dpmpp-2m")
    found = judge.choose(far, (0, 10, 20, 30, 40, 50, 59), 1.0)
    assert found.errors["rival"] < 1e-5
    assert "another solver of diffusers is nearer" in str(found)
    assert found.solver in PLAIN


def test_an_interval_holds_the_ratio_and_is_one_number_where_seeds_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    theirs = 1 + torch.rand(40, generator=generator, dtype=torch.float64)
    assert interval(0.4 * theirs, theirs) == pytest.approx((0.4, 0.4))
    mine = 0.4 + 0.4 * torch.rand(40, generator=generator, dtype=torch.float64)
    low, high = interval(mine, theirs)
    assert low < float(mine.mean() / theirs.mean()) < high
    few = interval(mine[:5], theirs[:5])
    assert few[1] - few[0] > high - low


def test_no_error_is_taken_for_less_than_that_of_the_fine_solution() -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    fine = solve_finely(data, gaussian, DDPM(), range(4), 60)
    judge = PlanSelector(data, gaussian, DDPM(), fine, fine, reference=0.05)
    assert judge.error(Plan(DDPM().grid(60), solver="dpmpp-3m")) == 0.05
    found = calibrate(data, gaussian, DDPM(), (3,), range(6), range(50, 54), fine=10, effort=0)
    assert found.plan(3).errors["held_out"] >= found.about["reference_error"] > 0


def test_a_fine_solution_knows_its_own_error() -> None:
    """To a factor of 4, and it is never taken for finer than it is by more."""
    data, gaussian = mixture(), gaussian_of(mixture(), torch.float64)
    exact = solve_finely(data, gaussian, EDM(), range(4), 480).final
    for steps in (30, 60, 120):
        fine = solve_finely(data, gaussian, EDM(), range(4), steps)
        found, end = precision(data, gaussian, EDM(), fine), fine.final
        error = float(distances(end, exact, 12).mean())
        assert error / 4 < found.error < 4 * error
        assert found.steps == steps


def test_a_fine_solution_has_as_many_steps_as_it_needs() -> None:
    """More for plans of more calls; none beyond the least for Gaussian data, which are exact."""
    data, gaussian = mixture(), gaussian_of(mixture(), torch.float64)
    few, many = (fine_enough(data, gaussian, EDM(), range(4), calls) for calls in (5, 20))
    assert 60 <= few.steps <= many.steps
    assert many.error < few.error
    assert fine_enough(gaussian, gaussian, EDM(), range(4), 5).steps == 64


def test_many_calls_are_judged_by_a_reference_that_is_fine_enough_for_them() -> None:
    """Its error, which no plan is credited below, is less than a tenth of that of the best plain solver; that of the
    steps which serve few calls is not."""
    data, gaussian, seeds = mixture(), gaussian_of(mixture(), torch.float64), (range(4), range(50, 54))
    how = {"effort": 0, "refined": False}
    few, many = (calibrate(data, gaussian, DDPM(), (calls,), *seeds, **how) for calls in (4, 28))
    assert many.about["fine"] > few.about["fine"]
    plain = many.plan(28).errors["plain"]
    assert many.about["reference_error"] < 0.1 * plain < few.about["reference_error"]


def test_plain_solvers_have_grids_of_many_kinds() -> None:
    """Even ones, of Karras22, the path itself and the path made smooth; each of the calls of the path, to sigma = 0."""
    for schedule in (DDPM(), EDM()):
        data, gaussian = mixture(), gaussian_of(mixture())
        fine = solve_finely(data, gaussian, schedule, (0, 1), 40)
        path = (0, 3, 11, 22, 33, 39)
        even, *karras, own, smooth = PlanSelector(data, gaussian, schedule, fine, fine).grids(path)
        assert [len(grid) for grid in (even, *karras, own, smooth)] == [7] * 7
        assert all(float(grid.sigma[-1]) == 0 for grid in (even, *karras, own, smooth))
        assert_close(own[:-1].ratio, fine.level[torch.tensor(path)].ratio)
        steps = even.log_ratio[:-1].diff()[-3:]
        assert_close(steps, steps.mean().expand(3))
        for grid, rho in zip(karras, (5, 7, 10, 15), strict=True):
            steps = (grid.ratio[:-1] ** (1 / rho)).diff()[-3:]
            assert_close(steps, steps.mean().expand(3))
        assert smooth.log_ratio[1:-1].diff(n=2).abs().sum() < own.log_ratio[1:-1].diff(n=2).abs().sum()


def test_more_seeds_than_losses_are_drawn_from() -> None:
    """The first ones; the coefficients are fitted to all."""
    data, gaussian = mixture(), gaussian_of(mixture())
    found = calibrate(data, gaussian, EDM(), (3,), range(40), HELD, fine=30, effort=0)
    assert found.plans[0].calls == 3
    assert found.about["seeds"] == list(range(40))


def test_a_calibration_comes_back_from_its_file(tmp_path: Path, known: tuple[Mixture, Gaussian, Calibration]) -> None:
    data, gaussian, found = known
    write_calibration(tmp_path / "plans.json", found)
    again = read_calibration(tmp_path / "plans.json")
    assert again.about == found.about
    x = initial_noise([7], data.dimension, found.plans[0].level[0], gaussian.mean.dtype)
    finals = []
    for one in (found, again):
        solver, level = one.solver(gaussian, 5)
        finals.append(sample(data, x, level, solver).final)
    assert_close(*finals, rtol=0, atol=0)
    assert [plan.errors for plan in again.plans] == [plan.errors for plan in found.plans]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"plans": [{}], "about": {}}', '{"plans": 3, "about": {}}'])
def test_what_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        read_calibration(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("solver", "exponential-4c", "Unknown solver 'exponential-4c'"),
        ("alpha", [1.0, float("nan"), 1.0, 1.0], "finite|fall"),
        ("coefficients", [[[float("nan")] * TERMS] * LOOK_BACK] * 2, "Coefficients must be finite"),
        ("coefficients", [[[0.0] * TERMS] * LOOK_BACK], "takes coefficients"),
        ("coefficients", [[[1e40] * TERMS] * LOOK_BACK] * 2, "'coefficients' hold numbers beyond 1e30"),
    ],
)
def test_plans_that_cannot_be_are_refused(tmp_path: Path, name: str, value: list[object], words: str) -> None:
    level = EDM().grid(3)
    found = Calibration((Plan(level, torch.zeros(2, LOOK_BACK, TERMS, dtype=torch.float64)),), {})
    write_calibration(tmp_path / "x.json", found)
    content = json.loads((tmp_path / "x.json").read_text())
    content["plans"][0][name] = value
    if name == "solver":
        content["plans"][0]["coefficients"] = None
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        read_calibration(tmp_path / "x.json")


def test_a_gaussian_that_is_only_half_named_is_refused(tmp_path: Path) -> None:
    plan = Plan(EDM().grid(3), solver="dpmpp-2m")
    write_calibration(tmp_path / "x.json", Calibration((plan,), {}))
    content = json.loads((tmp_path / "x.json").read_text()) | {"about": {"gaussian": {"dimension": 3}}}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="names the dimension and two variances"):
        read_calibration(tmp_path / "x.json")


def test_numbers_of_calls_and_gaussians_without_a_plan_are_named(
    known: tuple[Mixture, Gaussian, Calibration],
) -> None:
    _, gaussian, found = known
    with pytest.raises(ValueError, match="plans of 5, 8 calls, none of 6"):
        found.solver(gaussian, 6)
    with pytest.raises(ValueError, match="same statistics"):
        found.solver(Gaussian.isotropic(gaussian.mean, 1.0), 5)
    with pytest.raises(ValueError, match="coefficients"):
        Plan(DDPM().grid(4), torch.zeros(4, 3, 4))


def test_bad_requests_get_a_sentence() -> None:
    data = mixture()
    gaussian = gaussian_of(data)
    with pytest.raises(ValueError, match="2 to 98 calls"):
        calibrate(data, gaussian, DDPM(), (1,), fine=100)
    with pytest.raises(ValueError, match="2 of them in both"):
        calibrate(data, gaussian, DDPM(), (5,), range(5), range(3, 8), fine=100)


# In pipelines


def calibrated(kind: str) -> tuple[GaussianExponentialScheduler, Calibration, Gaussian]:
    """Our scheduler for a tiny pipeline, with a plan of made-up coefficients: what it does, not how well."""
    gaussian, pipe = statistics(kind), pipeline(kind)
    schedule: Schedule = Flow() if kind == "sd3" else DDPM.stable_diffusion()
    coefficients = 0.3 * torch.randn(4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    level = NoiseLevel.join(schedule.grid(1000)[torch.tensor([0, 300, 600, 850, 960])], NoiseLevel.clean())
    made = Calibration((Plan(level, coefficients),), {"gaussian": fingerprint(gaussian)})
    return (
        GaussianExponentialScheduler.from_config(pipe.scheduler.config, gaussian=gaussian, calibration=made),
        made,
        gaussian,
    )


def test_a_plan_takes_no_noise() -> None:
    scheduler, made, gaussian = calibrated("sd")
    with pytest.raises(ValueError, match="fitted to the flow, which has no noise"):
        GaussianExponentialScheduler.from_config(scheduler.config, gaussian=gaussian, calibration=made, eta=0.5)
    scheduler.set_timesteps(4)
    state = torch.zeros(1, gaussian.dimension)
    scheduler.scale_model_input(state, scheduler.timesteps[0])
    with pytest.raises(ValueError, match="fitted to the flow"):
        scheduler.step(state, scheduler.timesteps[0], state, eta=0.5)


def test_a_pipeline_with_a_plan_gives_what_our_own_loop_gives() -> None:
    pipe = pipeline("sd")
    pipe.scheduler, made, gaussian = calibrated("sd")
    recording = run(lambda **given: record(pipe, **{**given, "num_inference_steps": 4}), "sd")
    assert recording.trajectory.nfe == 4
    solver, level = made.solver(gaussian, 4)
    x = noise("sd")[0].flatten(1)
    own = sample(denoiser("sd"), x * level[0].sigma.float(), level, solver)
    trajectory, bound = recording.trajectory, 3e-4 * float(own.x.abs().max())
    assert_close(trajectory.final, own.final[: len(x)], rtol=0, atol=bound)
    # from where the jump lands
    assert_close(trajectory.x, own.x[1:, : len(x)], rtol=0, atol=bound)
    assert_close(trajectory.denoised, own.denoised[1:, : len(x)], rtol=0, atol=bound)


def test_a_plan_is_entered_in_the_middle_without_its_jump() -> None:
    """As a pipeline that starts from an image does; there the integrator without coefficients goes on."""
    pipe = pipeline("sd")
    scheduler, _, gaussian = calibrated("sd")
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    x, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), scheduler.timesteps[2]
    output = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    plain = GaussianExponentialScheduler.from_config(pipe.scheduler.config, gaussian=gaussian)
    plain.layout = scheduler.layout
    torch.testing.assert_close(scheduler.scale_model_input(x, time), plain.scale_model_input(x, time))
    found = scheduler.step(output, time, x).prev_sample
    plain.layout.set_begin_index(2)
    plain.layout._step_index = None
    assert_close(found, plain.step(output, time, x).prev_sample)


def test_a_pipeline_that_does_not_ask_is_told() -> None:
    pipe = pipeline("sd3")
    pipe.scheduler, _, _ = calibrated("sd3")
    with pytest.raises(ValueError, match="scale_model_input, which this pipeline did not call"):
        run(lambda **given: pipe(**{**given, "num_inference_steps": 4}), "sd3")


def test_a_scheduler_is_saved_with_its_calibration(tmp_path: Path) -> None:
    scheduler, made, _ = calibrated("sd")
    scheduler.save_pretrained(tmp_path)
    again = GaussianExponentialScheduler.from_pretrained(tmp_path)
    assert again.calibration.plan(4).coefficients.tolist() == made.plan(4).coefficients.tolist()
    again.set_timesteps(4)
    assert len(again.timesteps) == 4
    with pytest.raises(ValueError, match="plans of 4 calls, none of 5"):
        again.set_timesteps(5)


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        (torch.float32, (4, 8, 8), None),
        (torch.float16, (4, 8, 8), "a network in float32, and is used with a network in float16"),
        (torch.float32, (4, 4, 16), "states of 4 x 8 x 8, and is used with states of 4 x 4 x 16"),
    ],
)
def test_a_scheduler_tells_what_it_sees_of_another_use(
    dtype: torch.dtype, shape: tuple[int, ...], words: str | None, tmp_path: Path
) -> None:
    """Once in a run, also after it was saved; of guidance and weights it sees nothing."""
    scheduler, made, gaussian = calibrated("sd")
    fitted = {"guidance": [3.0], "conditions": ["prompts"], "dtype": "float32", "shape": [4, 8, 8], "weights": "0f"}
    told = Calibration(made.plans, made.about | {"for": fitted})
    GaussianExponentialScheduler.from_config(scheduler.config, gaussian=gaussian, calibration=told).save_pretrained(
        tmp_path
    )
    again = GaussianExponentialScheduler.from_pretrained(tmp_path)
    again.set_timesteps(4)
    state = torch.zeros(1, *shape, dtype=dtype)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for time in again.timesteps:
            state = again.step(again.scale_model_input(state, time), time, state).prev_sample
    expected = [f"The plan was fitted for {words}; what it loses there was not measured."] if words else []
    assert [str(one.message) for one in found] == expected


def test_of_a_network_in_half_precision_float32_is_no_news() -> None:
    """Pipelines carry its output on in float32."""
    scheduler, made, gaussian = calibrated("sd")
    told = Calibration(made.plans, made.about | {"for": {"dtype": "bfloat16"}})
    again = GaussianExponentialScheduler.from_config(scheduler.config, gaussian=gaussian, calibration=told)
    again.set_timesteps(4)
    state = torch.zeros(1, 4, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.step(again.scale_model_input(state, again.timesteps[0]), again.timesteps[0], state)


# At the command line


def test_calibrate_and_sample_with_it(tmp_path: Path) -> None:
    place = tmp_path / "plans.json"
    asked = "--calls 4 --seeds 0-3 --held-out 9,10 --fine 24 --effort 4 --json"
    result = CliRunner().invoke(app, ["calibrate", "fashion-mnist", *asked.split(), "--out", str(place)])
    assert result.exit_code == 0, result.output
    (plan,) = json.loads(result.stdout)["plans"]
    assert plan["calls"] == 4
    assert 0 < plan["held_out"] < 1
    told = read_calibration(place).fitted_for
    assert (told.guidance, told.conditions, told.dtype, told.shape) == ((1.0,), (NONE,), "float32", (1, 28, 28))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = generate(SampleRequest(seeds=(0, 1), steps=4, calibration=str(place)))
    assert made.summary["nfe"] == 4
    assert made.images.shape == (2, 1, 28, 28)
    words = "guidance 1, no condition, and is used with guidance 2, classes; what it loses there was not measured"
    with pytest.warns(UserWarning, match=words):
        generate(SampleRequest(seeds=(0,), steps=4, condition=7, guidance=2.0, calibration=str(place)))
    with pytest.raises(ValueError, match="not both"):
        generate(SampleRequest(seeds=(0,), steps=4, teleport=10.0, calibration=str(place)))
    with pytest.raises(ValueError, match="plans of 4 calls"):
        generate(SampleRequest(seeds=(0,), steps=9, calibration=str(place)))


@pytest.mark.parametrize("kind", ["full", "low-rank", "paper"])
def test_a_fitted_step_is_the_sum_of_its_terms(kind: str) -> None:
    """The step applies one gain to each image and state; the formula names six terms a call."""
    gaussian, generator = GAUSSIANS[kind], torch.Generator().manual_seed(0)
    covariance, level = gaussian.covariance, NoiseLevel.join(EDM()(torch.tensor([3.0, 1.0, 0.4])), NoiseLevel.clean())
    coefficients = torch.randn(3, LOOK_BACK, TERMS, generator=generator, dtype=torch.float64)
    answers = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64)
    start = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    turn = iter(answers)
    run = sample(lambda *_: next(turn), start, level, fitted_exponential(gaussian, coefficients))
    seen: list[Seen] = []
    state = covariance.analyse(start - gaussian.mean)
    for i in range(3):
        seen.insert(0, (level[i], state, covariance.analyse(answers[i] - gaussian.mean)))
        terms = step_terms(seen, level[i + 1], covariance)
        state = flown(state, level[i], level[i + 1], covariance) + combine(coefficients[i, : i + 1].flatten(), terms)
        assert_close(run.x[i + 1], gaussian.mean + covariance.synthesise(state))
