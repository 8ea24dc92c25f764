"""Plans for a range of guidance: their coefficients are straight lines in its logarithm."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close
from typer.testing import CliRunner

import underpaint as up
from underpaint.calibration.budget import Memory
from underpaint.calibration.calibrate import calibrate
from underpaint.calibration.fit import Fit, plan_of
from underpaint.calibration.selection import PlanSelector
from underpaint.calibration.solution import FineSolution, distances, solve_finely
from underpaint.cli import app
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.sampling.fitted import Calibration, Plan, read_calibration, write_calibration
from underpaint.sampling.use import InTurn, Knowing, Use, by_guidance, in_turn

WEIGHTS = (1.0, 1.5, 2.0)
SEEDS, HELD, JUDGED = range(24), range(100, 112), range(200, 216)
SCHEDULE = up.EDM()


def gaussian(seed: int, largest: float, mean: float) -> up.Gaussian:
    """Of eight numbers, with axes of its own."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=draw, dtype=torch.float64)).Q
    variances = largest * torch.logspace(0, -2, 8, dtype=torch.float64)
    return up.Gaussian(mean * torch.ones(8, dtype=torch.float64), up.Covariance(variances, basis, 0.0))


#: All data, and those that are asked for: no seed is on a border between them.
GAUSSIAN, PART = gaussian(0, 4.0, 0.0), gaussian(1, 1.0, 0.5)


def asked(weight: float) -> up.Denoiser:
    """Part of the data, with guidance."""
    return Knowing(up.guide(GAUSSIAN, PART, weight), lambda: Use(guidance=(weight,), conditions=("classes",)))


@pytest.fixture(scope="module")
def plans() -> Calibration:
    return calibrate(in_turn([asked(w) for w in WEIGHTS]), GAUSSIAN, SCHEDULE, (5,), SEEDS, HELD, fine=60, effort=20)


def errors(plans: Calibration, weight: float, fine: FineSolution) -> torch.Tensor:
    solver, level = plans.solver(GAUSSIAN, 5)
    x = up.initial_noise(JUDGED, GAUSSIAN.dimension, level[0], torch.float64)
    final = up.sample(asked(weight), x, level, solver).final
    return distances(GAUSSIAN.covariance.analyse(final - GAUSSIAN.mean), fine.final, GAUSSIAN.dimension)


def test_one_plan_serves_all_weights_nearly_as_plans_for_each_do(plans: Calibration) -> None:
    """At the ends of the range, and between them, where nothing was fitted; one for all does not."""
    assert plans.plan(5).slopes is not None
    assert plans.about["for"]["guidance"] == [*WEIGHTS]
    turn = in_turn([asked(w) for w in WEIGHTS])
    same = calibrate(lambda x, level: turn(x, level), GAUSSIAN, SCHEDULE, (5,), SEEDS, HELD, fine=60, effort=20)
    for weight in (1.0, 1.25, 2.0):
        fine = solve_finely(asked(weight), GAUSSIAN, SCHEDULE, JUDGED, 60, whole=False)
        own = calibrate(asked(weight), GAUSSIAN, SCHEDULE, (5,), range(8), HELD, fine=60, effort=20)
        mine, best, flat = (float(errors(known, weight, fine).mean()) for known in (plans, own, same))
        assert mine < 0.7 * flat
        assert mine < 3.5 * best


def test_the_plan_at_a_weight_is_on_the_line() -> None:
    level, draw = up.EDM().grid(3), torch.Generator().manual_seed(0)
    values, slopes = torch.randn(2, 2, 3, 6, generator=draw, dtype=torch.float64)
    plan = Plan(level, values, slopes=slopes)
    assert_close(plan.at(1.0).coefficients, values)
    assert_close(plan.at(math.e**2).coefficients, values + 2 * slopes)
    assert plan.at(3.0).slopes is None
    assert_close(plan.at(3.0).at(9.0).coefficients, plan.at(3.0).coefficients)


def test_a_run_of_the_fit_is_what_the_plan_samples(plans: Calibration) -> None:
    """The fit carries each row at its own weight in one batch; a plan is told one weight, row by row."""
    turn = in_turn([asked(w) for w in WEIGHTS])
    fine = solve_finely(turn, GAUSSIAN, SCHEDULE, range(9), 40)
    run = Fit(turn, GAUSSIAN, fine).run((1, 10, 20, 30))
    judge = PlanSelector(turn, GAUSSIAN, SCHEDULE, fine, fine)
    found = judge.errors(plan_of(run, fine.level[0]), fine)
    assert_close(found, run.errors, rtol=1e-6, atol=1e-9)


def test_a_file_keeps_the_slopes(plans: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path / "plans.json", plans)
    again = read_calibration(tmp_path / "plans.json")
    assert again.ranged
    assert_close(again.plan(5).slopes, plans.plan(5).slopes)


def test_beyond_the_range_the_nearest_plan_serves_and_it_is_told(plans: Calibration) -> None:
    ends = plans.plan(5).at(2.0).coefficients
    assert_close(plans.at(9.0).plan(5).coefficients, ends)
    solver, level = plans.solver(GAUSSIAN, 5)
    x = up.initial_noise([0], GAUSSIAN.dimension, level[0], torch.float64)
    for weight, sentence in ((1.7, None), (9.0, "fitted for guidance 1 to 2, and is used with guidance 9")):
        assert (plans.doubt(Use(guidance=(weight,)), 5) is None) == (sentence is None)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            up.sample(asked(weight), x, level, solver)
        assert [sentence in str(one.message) for one in told] == ([True] if sentence else [])
    assert plans.at(1.5).doubt(Use(guidance=(1.7,)), 5) is not None


def test_a_weight_has_to_be_known(plans: Calibration) -> None:
    solver, level = plans.solver(GAUSSIAN, 5)
    x = up.initial_noise([0, 1], GAUSSIAN.dimension, level[0], torch.float64)
    with pytest.raises(ValueError, match="guidance 1 to 2, and the denoiser does not tell its weight"):
        up.sample(GAUSSIAN, x, level, solver)
    with pytest.raises(ValueError, match="the denoiser has 1 and 2; sample at one weight at a time"):
        up.sample(in_turn([asked(1.0), asked(2.0)]), x, level, solver)
    with pytest.raises(ValueError, match=r"guidance 1 to 2, and a scheduler does not see guidance"):
        GaussianExponentialScheduler.from_config(DDPMScheduler(), gaussian=GAUSSIAN, calibration=plans)
    with pytest.raises(ValueError, match=r"at\(guidance\)"):
        plans.plan(5).after_jump(GAUSSIAN)
    with pytest.raises(ValueError, match="guidance of a plan"):
        plans.plan(5).at(0.0)
    with pytest.raises(ValueError, match="guidance of a plan"):
        plans.at("3")  # type: ignore[arg-type]


def test_what_a_range_cannot_be_is_refused_before_anything_is_solved() -> None:
    def never(x: torch.Tensor, level: up.NoiseLevel) -> torch.Tensor:
        raise AssertionError("called")

    def told(weight: float) -> up.Denoiser:
        return Knowing(never, lambda: Use(guidance=(weight,)))

    def fit(weights: tuple[float, ...], seeds: int = 4, **more: up.Denoiser) -> None:
        calibrate(in_turn([told(w) for w in weights]), GAUSSIAN, SCHEDULE, (3,), range(seeds), HELD, fine=20, **more)

    with pytest.raises(ValueError, match="weights above 0, got 0"):
        fit((0.0, 2.0))
    with pytest.raises(ValueError, match=r"There are 3 cases to fit to .* and 2 seeds: some would not be seen"):
        fit(WEIGHTS, seeds=2)
    with pytest.raises(ValueError, match="with a prior are for one guidance"):
        fit(WEIGHTS, prior=GAUSSIAN)


def test_rows_of_a_batch_in_turn() -> None:
    turn = in_turn([asked(w) for w in (2.0, 2.0, 5.0)])
    assert isinstance(turn, InTurn)
    assert turn.guidance(5).tolist() == [2, 2, 5, 2, 2]
    (first, of_first), (last, of_last) = by_guidance(turn, 5)
    assert (first.tolist(), last.tolist()) == ([0, 1, 3, 4], [2])
    x, level = up.initial_noise(range(5), GAUSSIAN.dimension, SCHEDULE(3.0), torch.float64), SCHEDULE(3.0)
    assert_close(of_first(x[first], level), turn(x, level)[first])
    assert_close(of_last(x[last], level), asked(5.0)(x[last], level))
    assert in_turn([asked(2.0), asked(2.0)]).guidance(4) is None
    assert in_turn([asked(2.0), GAUSSIAN]).guidance(4) is None
    with pytest.raises(ValueError, match="got none"):
        in_turn([])


def test_memory_of_a_range_holds_twice_the_terms() -> None:
    one, several = (Memory.of(8, 64, 16, 65536, ranged=ranged) for ranged in (False, True))
    assert several.beside - one.beside == 64 * 18 * 65536 * 4


def test_the_command_takes_several_weights(tmp_path: Path) -> None:
    """Tiny: a plan of three calls, from which a sample at another weight in the range follows."""
    place = tmp_path / "plans.json"
    asked_for = ["--class", "1", "--class", "2", "--seeds", "0-3", "--held-out", "4-7", "--fine", "20", "--effort", "0"]
    weights = ["--guidance", "1.5", "--guidance", "3"]
    run = CliRunner().invoke(app, ["calibrate", "cifar10", "--calls", "3", *asked_for, *weights, "--out", str(place)])
    assert run.exit_code == 0, run.output
    assert "--guidance 3" in run.output
    assert read_calibration(place).fitted_for.guidance == (1.5, 3.0)
    words = ["sample", "--model", "cifar10", "--class", "1", "--guidance", "2", "--steps", "3"]
    run = CliRunner().invoke(app, [*words, "--calibration", str(place), "--out", str(tmp_path / "samples.png")])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, ["calibrate", "cifar10", *asked_for[:4], "--seeds", "0-2", *weights])
    assert "4 cases to fit to" in str(run.exception)


def test_where_seeds_are_few_one_for_all_is_nearer_on_others() -> None:
    turn = in_turn([asked(w) for w in WEIGHTS])
    few = calibrate(turn, GAUSSIAN, SCHEDULE, (5,), range(6), HELD, fine=60, effort=0)
    assert (few.plan(5).jumps, few.ranged) == (True, False)
    assert few.fitted_for.guidance == WEIGHTS


def test_what_a_use_takes_to_tell_is_asked_for_once_in_a_fit() -> None:
    """To tell it takes a look at all weights of a network, and a plan is held against dozens of solvers."""
    asked_for = []

    def told(weight: float) -> up.Denoiser:
        def use() -> Use:
            asked_for.append(weight)
            return Use(guidance=(weight,))

        return Knowing(up.guide(GAUSSIAN, PART, weight), use)

    turn = in_turn([told(2.0), told(2.0)])
    calibrate(turn, GAUSSIAN, SCHEDULE, (3,), range(4), HELD, fine=20, effort=4)
    assert len(asked_for) <= 8
