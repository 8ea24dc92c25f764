"""The last phase: derivatives are those of the end, and what is kept of it is nearer on seeds that it never saw."""

from __future__ import annotations

import pytest
import torch
from mixtures import gaussian_of, mixture
from torch import Tensor
from torch.testing import assert_close

from underpaint.calibration.calibrate import _for_refining, calibrate
from underpaint.calibration.fit import Fit, Run
from underpaint.calibration.refine import _levels, _linearised, _Sketch, affordable, refine, refining_calls
from underpaint.calibration.search import round_calls
from underpaint.calibration.solution import FineSolution, solve_finely
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.sampling.fitted import LOOK_BACK, TERMS
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

LAST = LOOK_BACK * TERMS  # of the last step, whose coefficients all move
Known = tuple[Mixture, Gaussian, FineSolution, FineSolution]


def problem(schedule: Schedule) -> Known:
    data = mixture()
    gaussian = gaussian_of(data, torch.float64)
    solved = (solve_finely(data, gaussian, schedule, seeds, 60) for seeds in (range(16), range(100, 116)))
    return data, gaussian, *solved


@pytest.fixture(scope="module")
def known() -> Known:
    return problem(DDPM())


def held_out(known: Known) -> tuple[Fit, list[float]]:
    data, gaussian, _, unseen = known
    return Fit(data, gaussian, unseen), []


def test_what_is_refined_ends_nearer_on_all_seeds_and_its_levels_leave_the_fine_ones(known: Known) -> None:
    data, gaussian, fine, _ = known
    fit, (judge, errors) = Fit(data, gaussian, fine), held_out(known)

    def unseen(run: Run) -> float:
        errors.append(judge.follow(run.level, run.coefficients).loss)
        return errors[-1]

    begun = fit.run((8, 24, 40, 52))
    calls = fit.calls
    found = refine(fit, DDPM(), begun, 150, unseen)
    assert fit.calls - calls <= 150
    assert found.loss < 0.9 * begun.loss
    assert unseen(found) == min(errors) < 0.95 * errors[0]
    apart = (found.level.log_ratio.unsqueeze(1) - fine.level.log_ratio[1:]).abs().min(1).values
    assert float(apart.max()) > 1e-3


def test_what_does_harm_on_held_out_seeds_is_not_taken(known: Known) -> None:
    data, gaussian, fine, _ = known
    fit = Fit(data, gaussian, fine)
    begun, rising = fit.run((8, 24, 40, 52)), iter(range(100))
    assert refine(fit, DDPM(), begun, 150, lambda run: float(next(rising))) is begun


def test_where_a_bold_step_does_harm_a_damped_one_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few seeds to fit to, one of them on the border between two kinds: also on seeds that nothing was chosen on."""
    data = mixture()
    gaussian = gaussian_of(data, torch.float64)
    sets = (range(200, 208), range(220, 236), range(1000, 1080))
    fine, *others = (solve_finely(data, gaussian, DDPM(), seeds, 60) for seeds in sets)
    judge, test = (Fit(data, gaussian, other) for other in others)
    fit = Fit(data, gaussian, fine)
    begun = fit.run((8, 24, 40, 52))

    def refined(dampings: tuple[float, ...]) -> Run:
        monkeypatch.setattr("underpaint.calibration.refine._DAMPINGS", dampings)
        return refine(fit, DDPM(), begun, 50, lambda run: judge.follow(run.level, run.coefficients).loss)

    assert refined((1e-3,)) is begun
    found = refined((0.1, 1.0, 0.01))
    for unseen in (judge, test):
        before, after = (unseen.follow(run.level, run.coefficients).loss for run in (begun, found))
        assert after < 0.99 * before


def test_the_last_phase_gets_what_goes_beyond_a_round_of_the_search() -> None:
    """Levels j of N, moved both ways, call N - j times each."""
    assert round_calls(8) == 4 * 2 * sum(range(1, 9))
    assert [_for_refining(8, effort) for effort in (150, 340, 1000)] == [0, 52, refining_calls(8) + 3 * 8]
    assert _for_refining(4, 300) == refining_calls(4) + 3 * 4


def test_without_effort_nothing_is_called(known: Known) -> None:
    data, gaussian, fine, _ = known
    fit = Fit(data, gaussian, fine)
    begun = fit.run((8, 24, 40, 52))
    assert refine(fit, DDPM(), begun, refining_calls(4, 0) - 1, lambda run: 0.0) is begun
    assert fit.calls == 4


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()], ids=["ddpm", "edm", "flow"])
def test_derivatives_foretell_where_a_small_step_ends(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every parameter at once; differences as small as double precision bears are derivatives."""
    monkeypatch.setattr("underpaint.calibration.refine._DIFFERENCE", 1e-5)
    data, gaussian, fine, _ = problem(schedule)
    fit = Fit(data, gaussian, fine)
    begun = fit.run((12, 30, 48))
    linear = _linearised(fit, schedule, begun, 4)
    assert linear.derivatives.shape[1] == 3 + 4 + 4 + LOOK_BACK * TERMS
    generator = torch.Generator().manual_seed(0)
    size = linear.derivatives.square().sum((0, 2)).sqrt()
    step = torch.randn(len(size), generator=generator, dtype=torch.float64) / size
    end = fit.follow(*linear.moved(1e-4 * step)).states[-1]
    foretold = torch.einsum("p,bps->bs", 1e-4 * step, linear.derivatives)
    assert float((end - begun.states[-1] - foretold).norm()) < 0.01 * float(foretold.norm())


def test_a_correction_foretells_the_trial_that_it_is_from(known: Known) -> None:
    data, gaussian, fine, _ = known
    fit = Fit(data, gaussian, fine)
    linear = _linearised(fit, DDPM(), fit.run((8, 24, 40, 52)), 2)
    step = linear.step(1e-3)
    trial = fit.follow(*linear.moved(step))
    moved = trial.states[-1] - linear.run.states[-1]
    again = linear.corrected(step, trial, linear.run)
    # all but the last step's own, which stay its terms
    others = slice(0, -LAST)
    own = torch.einsum("p,bps->bs", step[-LAST:], linear.derivatives[:, -LAST:])
    assert_close(again.derivatives[:, -LAST:], linear.derivatives[:, -LAST:])
    before, after = (
        float((torch.einsum("p,bps->bs", step[others], one.derivatives[:, others]) + own - moved).norm())
        for one in (linear, again)
    )
    assert after < 1e-6 * before


def test_levels_keep_their_order_and_stay_within_the_schedule(known: Known) -> None:
    data, gaussian, fine, _ = known
    fit = Fit(data, gaussian, fine)
    level = fine.level[torch.tensor([1, 30, 59])]
    for change in (torch.full((3,), 1e3), torch.full((3,), -1e3), torch.tensor([-1e3, 1e3, -1e3])):
        moved = _levels(fit, DDPM(), level, change.double())
        assert bool((moved.log_ratio.diff() < 0).all())
        assert float(moved.ratio[-1]) >= float(fine.level.ratio[-1]) * (1 - 1e-9)
        assert float(moved.ratio[0]) <= float(fine.level.ratio[0]) * (1 + 1e-9)


def test_a_sketch_keeps_products_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 10_000, generator=generator)
    b = a + torch.randn(64, 10_000, generator=generator)
    sketch = _Sketch(10_000)
    assert sketch(a).shape[1] <= 4096
    assert float((sketch(a) * sketch(b)).sum()) == pytest.approx(float((a * b).sum()), rel=0.01)
    assert torch.equal(_Sketch(12)(a[:, :12]), a[:, :12])


def test_an_effort_allows_as_many_directions_as_it_pays() -> None:
    """Levels: N (N + 1)/2 calls, each direction of N - 1 steps N (N - 1)/2, and one trial."""
    assert refining_calls(5) == 15 + 4 * 10 + 5
    assert [affordable(5, effort) for effort in (19, 20, 30, 60, 500)] == [-1, 0, 1, 4, 4]


def test_calibrate_refines_and_says_so() -> None:
    """What the search leaves of the effort; neither takes more calls than the effort allows."""
    data, gaussian, calls = mixture(), gaussian_of(mixture()), list[int]()

    def counted(x: Tensor, level: NoiseLevel) -> Tensor:
        calls[-1] += 1
        return data(x, level)

    found = []
    for refined in (False, True):
        calls.append(0)
        how = {"fine": 40, "effort": 300, "refined": refined}
        found.append(calibrate(counted, gaussian, DDPM(), (4,), range(16), range(100, 116), **how))
    plain, refined = found
    assert refined.plan(4).errors["held_out"] < plain.plan(4).errors["held_out"]
    assert refined.about["refined"]
    assert not plain.about["refined"]
    times, fine = refined.plan(4).level.log_ratio[1:-1], plain.plan(4).level.log_ratio[1:-1]
    assert float((times - fine).abs().max()) > 1e-4
    assert calls[1] > calls[0]
