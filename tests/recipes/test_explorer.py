"""What the explorer computes, on a network that is a Gaussian in its own parametrisation: everything is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from latents import COVARIANCE, GAUSSIANS, IMAGE, VARIANCES, latent_model, latent_sampler, normal

from underpaint.data.datasets import ImageData
from underpaint.figures import explorer as figures
from underpaint.figures.folder import write_result
from underpaint.noise import DDPM, EDM, Flow
from underpaint.recipes.explorer.nearest_images import (
    NearestImages,
    NearestSettings,
    TrainingImages,
    find_nearest_images,
    load_training_images,
)
from underpaint.recipes.explorer.painting import (
    SCHEDULES,
    Curves,
    Painting,
    closed_forms,
    draw_components,
    octaves,
    paint,
    paint_by_theory,
    settled,
)
from underpaint.recipes.explorer.plans import doubts_of
from underpaint.recipes.explorer.teleport import (
    AFTER,
    Hybrids,
    SolverComparison,
    SolverErrors,
    TeleportLengths,
    compare_solvers,
    compare_teleports,
    jumping_gaussian,
)
from underpaint.recipes.shared.request import Request, Sampler, Theory, only, prepare
from underpaint.sampling.fitted import Calibration, Plan
from underpaint.sampling.trajectory import initial_noise
from underpaint.theory.cloud import PointCloud

ASK = Request("latent", seeds=(3,))
APPLE = Request("latent", ("an apple",), (3.0,), seeds=(0, 1))
#: A network without anything known of its data.
BARE = replace(latent_sampler(12, "ddim"), theory=Theory())


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return latent_sampler(80)


@pytest.fixture(scope="module")
def painting(sampler: Sampler) -> Painting:
    return paint(sampler, ASK)


@pytest.fixture(scope="module")
def hybrids(sampler: Sampler) -> Hybrids:
    return compare_teleports(sampler, APPLE, TeleportLengths(4))


@pytest.fixture(scope="module")
def standings() -> SolverErrors:
    return compare_solvers(latent_sampler(10), APPLE, SolverComparison(calls=5, ratio=3.0, fine=40))


@pytest.fixture(scope="module")
def resemblance(sampler: Sampler) -> NearestImages:
    return find_nearest_images(sampler, ASK, NearestSettings(2, 5), library=library())


def library() -> TrainingImages:
    """Thirty images in the autoencoder's plane."""
    model = latent_model()
    rows = GAUSSIANS[""].sample(30, torch.Generator().manual_seed(5))
    images = model.autoencoder.decode(rows.unflatten(1, model.shape))
    return TrainingImages(ImageData(images, "thirty", "thirty images"), PointCloud(rows))


def test_the_network_of_a_gaussian_paints_as_the_theory_says(sampler: Sampler, painting: Painting):
    """Its path is the Gaussian's, and each band stands exactly as far as its components have emerged."""
    gaussian, level = GAUSSIANS[""], sampler.level
    start = initial_noise((3,), 32, level[0])
    final = gaussian.flow(start, level[0], level[-1])
    torch.testing.assert_close(painting.estimates, painting.predicted, atol=2e-4, rtol=0)
    torch.testing.assert_close(painting.estimates[-1], sampler.model.images(final)[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(painting.states[0], sampler.model.images(start / level.norm[0])[0].float())
    torch.testing.assert_close(painting.plane["network"], painting.plane["Gaussian"], atol=0.02, rtol=0)
    assert painting.nfe == 2 * 80 - 1
    bands = painting.bands
    assert (bands.first, bands.last) == ((1, 2, 4, 8, 16, 32), (1, 3, 7, 15, 31, 32))
    torch.testing.assert_close(bands.measured, bands.predicted, atol=5e-3, rtol=0)
    c = gaussian.coordinates(final)[0, 1:3].double()
    phi = (VARIANCES[1:3] / (VARIANCES[1:3] + level.ratio[40] ** 2)).sqrt()
    share = 1 - ((1 - phi) * c).square().sum() / c.square().sum()
    torch.testing.assert_close(bands.predicted[40, 1], share, atol=1e-3, rtol=0)
    assert bands.rank_correlation == pytest.approx(1)


def test_the_rotation_meets_the_path_at_both_ends(painting: Painting):
    path, rotation = painting.plane["network"], painting.plane["rotation"]
    for end in (0, -1):
        torch.testing.assert_close(path[end], rotation[end], atol=1e-6, rtol=1e-6)
    assert 0.9 < painting.plane_share <= 1


def test_bands_are_octaves_of_the_rank():
    for rank in (1, 2, 7, 32, 33):
        bands = octaves(rank)
        assert [k for band in bands for k in range(rank)[band]] == list(range(rank))
        assert [band.start for band in bands] == [2**i - 1 for i in range(len(bands))]
    final = torch.tensor([3.0, 4.0, 1.0])
    shares = settled(torch.stack([final, 0 * final, 2 * final]), final, octaves(3))
    torch.testing.assert_close(shares, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_without_statistics_there_is_only_the_network():
    result = paint(BARE, ASK)
    assert result.predicted is None
    assert result.bands is None
    assert set(result.plane) == {"network", "rotation"}
    assert closed_forms(BARE).spectrum is None
    for work in (lambda: compare_teleports(BARE, ASK), lambda: paint_by_theory(BARE, ASK)):
        with pytest.raises(ValueError, match="No statistics of the data of latent are known"):
            work()
    standings = compare_solvers(BARE, ASK, SolverComparison(4, fine=8))
    assert not standings.jumps
    assert set(standings.error) == {"euler", "heun", "dpmpp-2m", "dpmpp-3m"}


def test_a_painting_is_of_one_seed(sampler: Sampler):
    with pytest.raises(ValueError, match="of one seed, in 2 steps or more; got 2 and 80"):
        paint(sampler, replace(ASK, seeds=(0, 1)))


def test_a_loaded_model_is_prepared_as_one_that_is_named():
    made = prepare(Request("latent", steps=7, solver="heun"), latent_model())
    assert len(made.level) == 8
    assert made.theory.everything is None
    with pytest.raises(ValueError, match="Unknown solver 'magic'"):
        prepare(Request("latent", solver="magic"), latent_model())


@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_closed_forms(sampler: Sampler, schedule: str | None):
    result = closed_forms(sampler, Curves(schedule, variance=0.3, at=0.25), points=50)
    alpha, sigma, first = result.level.alpha, result.level.sigma, result.level[0]
    spread = (sigma**2 + 0.3 * alpha**2).sqrt()
    torch.testing.assert_close(result.psi[:, 0], spread / (first.sigma**2 + 0.3 * first.alpha**2).sqrt())
    torch.testing.assert_close(result.xi[:, 0], 0.3 * alpha / spread**2 * result.psi[:, 0])
    torch.testing.assert_close(result.gain[:, 0], math.sqrt(0.3) / spread)
    assert bool(torch.isfinite(result.xi_rate).all())
    share = VARIANCES**2 / (VARIANCES + result.level.ratio[9] ** 2)
    torch.testing.assert_close(result.emerged[9], share.sum() / VARIANCES.sum())
    assert result.index == round(0.25 * (len(result.level) - 1))


def test_rate_is_the_derivative_of_xi(sampler: Sampler):
    result = closed_forms(sampler, Curves("rectified flow", variance=0.3), points=2000)
    slope = torch.gradient(result.xi[:, 0], spacing=(result.time,))[0]
    torch.testing.assert_close(result.xi_rate[5:-5, 0], slope[5:-5], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [{"schedule": "magic"}, {"variance": 0.0}, {"at": 1.5}])
def test_curves_say_what_is_wrong(bad):
    with pytest.raises(ValueError, match=r"Unknown schedule|must be positive|share of the way"):
        Curves(**bad)


def test_the_theory_paints_the_components_that_emerge(sampler: Sampler):
    result = paint_by_theory(sampler, ASK, shown=6)
    assert result.component[0] == 1
    assert list(result.component) == sorted(result.component)
    share = VARIANCES.cumsum(0) / VARIANCES.sum()
    assert share[result.component[-1] - 2] < 0.99 <= share[result.component[-1] - 1]
    start, there = initial_noise((3,), 32, sampler.level[0]), result.level[3]
    estimate = GAUSSIANS[""].denoise(GAUSSIANS[""].flow(start, sampler.level[0], there), there)
    torch.testing.assert_close(result.estimates[3], sampler.model.images(estimate)[0])
    move, middle = 2 * VARIANCES[0].sqrt() * COVARIANCE.basis[:, 0], GAUSSIANS[""].mean
    change = sampler.model.images(middle + move) - sampler.model.images(middle - move)
    torch.testing.assert_close(2 * result.components[0] - 1, change / change.abs().max())


def test_components_of_a_pixel_model_are_pictures():
    model = replace(latent_model(), autoencoder=None)
    first, third = draw_components(model, GAUSSIANS[""], [0, 2])
    for shown, k in ((first, 0), (third, 2)):
        column = COVARIANCE.basis[:, k].reshape(2, 4, 4)
        torch.testing.assert_close(2 * shown - 1, (column / column.abs().max()).float())


def test_jumps_of_a_gaussian_network_cost_nothing(hybrids: Hybrids):
    """Also under guidance, which is a Gaussian's again; only the solver's own error is left."""
    assert hybrids.skip == (0, 20, 40, 59, 79)
    assert hybrids.nfe == tuple(2 * (2 * (80 - k) - 1) for k in hybrids.skip)
    assert hybrids.setup["jump by"] == "Gaussian of an apple, guided as the network is"
    assert float(hybrids.predicted.mean.max()) < 1e-6
    assert float(hybrids.measured.mean.max()) < 0.01
    assert hybrids.advised == 79
    torch.testing.assert_close(hybrids.finals[0], hybrids.plain)
    torch.testing.assert_close(hybrids.finals[2], hybrids.plain, atol=1e-3, rtol=0)


def test_a_wrong_gaussian_is_foreseen_and_measured():
    """Jumping by 'a bear' when 'an apple' is painted: long jumps cost more, and the advice is a short one."""
    result = compare_teleports(
        latent_sampler(40, theory=Theory(GAUSSIANS["a bear"])), APPLE, TeleportLengths(5, tolerance=0.3)
    )
    assert bool((result.measured.mean.diff() > 0).all())
    assert bool((result.predicted.mean.diff() > 0).all())
    assert result.predicted.mean[result.skip.index(result.advised)] <= 0.3
    assert result.advised < result.skip[-1]
    # of a linear network the first order is exact, up to the sum over levels
    shift = (result.predicted.mean / result.measured.mean)[1:]
    assert float(shift.min()) > 0.8
    assert float(shift.max()) < 1.25


def test_the_gaussian_integrator_wins_where_everything_is_gaussian(standings: SolverErrors):
    """It follows the flow exactly, and ends by the denoised image of the last level, as the others do."""
    assert standings.best.startswith("Gaussian exponential")
    sampler, contest = latent_sampler(10), SolverComparison(5, ratio=3.0)
    guided, _ = jumping_gaussian(sampler, only(APPLE, sampler))
    level = contest.level(sampler.model.schedule, 5)
    start = initial_noise(APPLE.seeds, 32, level[0])
    ended = guided.denoise(guided.flow(start, level[0], level[-2]), level[-2])
    torch.testing.assert_close(standings.finals["Gaussian exponential"], sampler.model.images(ended), atol=1e-4, rtol=0)
    assert float(standings.error["Gaussian exponential"].mean) < 0.02
    assert all(float(standings.error[name].mean) > 0.1 for name in ("euler", "dpmpp-2m", "heun"))
    # a jump is exact here, and leaves the same calls for less of the way
    assert standings.error["euler" + AFTER].mean < standings.error["euler"].mean
    assert {standings.nfe[name] for name in standings.nfe} == {10}


def test_neighbours_are_the_nearest(sampler: Sampler, resemblance: NearestImages, painting: Painting):
    assert resemblance.step == (0, 20, 40, 60, 80)
    torch.testing.assert_close(resemblance.estimates, painting.estimates[list(resemblance.step)])
    points = library().cloud.points
    final = GAUSSIANS[""].flow(initial_noise((3,), 32, sampler.level[0]), sampler.level[0], sampler.level[-1])
    distance, index = torch.cdist(final.double(), points)[0].sort()
    torch.testing.assert_close(resemblance.distance[-1], distance[:2] / 32**0.5, rtol=1e-3, atol=0)
    assert resemblance.index[-1].tolist() == index[:2].tolist()
    assert float(resemblance.exact[-1]) < 1e-6  # at sigma = 0 the exact score names one of them
    between = torch.cdist(points, points).fill_diagonal_(math.inf).amin(1) / 32**0.5
    torch.testing.assert_close(resemblance.between.mean, between.mean())
    shown = ((library().data.rows()[index[0]] + 1) / 2).reshape(IMAGE)
    torch.testing.assert_close(resemblance.neighbours[-1, 0], shown)


def test_what_cannot_be_looked_up():
    with pytest.raises(ValueError, match="latent does not name the data"):
        load_training_images(latent_model())
    with pytest.raises(ValueError, match="1 neighbour or more"):
        NearestSettings(0)


@pytest.mark.parametrize("options", [{"count": 0}, {"tolerance": 0.0}])
def test_jumps_say_what_is_wrong(options):
    with pytest.raises(ValueError, match="above 0"):
        TeleportLengths(**options)


@pytest.mark.parametrize("jump", [False, True])
def test_levels_of_a_contest(jump: bool):
    """As many calls from the start as after the jump, which is the first interval; even in the log, or the own grid."""
    schedule, contest = DDPM(), SolverComparison(5, 4.0, 0.1)
    level = contest.level(schedule, 5, jump)
    assert len(level) == 6 + jump
    first = float(schedule.grid(9).ratio[0])
    assert level.ratio[[0, -2, -1]].tolist() == pytest.approx([first, 0.1, 0])
    even = level.ratio[jump:-1].log().diff()
    torch.testing.assert_close(even, even[:1].expand_as(even))
    own = SolverComparison(5, 4.0, None).level(schedule, 5, jump)
    torch.testing.assert_close(own.ratio[jump:], schedule.grid(5, start=4.0 if jump else None).ratio)
    with pytest.raises(ValueError, match="must lie below the first level of the grid"):
        SolverComparison(5, 200.0).level(schedule, 5, jump=True)
    if jump:
        assert [float(level.ratio[1]), float(own.ratio[1])] == pytest.approx([4, 4])


def test_a_single_step_has_no_level_between_and_levels_from_noise_alone_begin_beside_it():
    two = SolverComparison(2, 4.0, 0.1)
    for schedule in (DDPM(), Flow()):
        assert two.level(schedule, 1).ratio.tolist() == [float(schedule.grid(50).ratio[0]), 0]
    level = two.level(Flow(), 5)
    assert level.ratio[[0, 1, -2, -1]].tolist() == pytest.approx([math.inf, float(Flow().grid(50).ratio[1]), 0.1, 0])
    even = level.ratio[1:-1].log().diff()
    torch.testing.assert_close(even, even[:1].expand_as(even))


@pytest.mark.parametrize("options", [{"calls": 1}, {"calls": 60}, {"ratio": 0.0}, {"low": 30.0}, {"low": 0.0}])
def test_contests_say_what_is_wrong(options):
    with pytest.raises(
        ValueError, match=r"A contest needs 2 calls to those of the fine solution \(50\)|positive noise-to-signal"
    ):
        SolverComparison(**options)


DRAWN = {
    "painting": lambda: (paint(latent_sampler(12, "ddim"), ASK), figures.painting),
    "bare": lambda: (paint(BARE, ASK), figures.painting),
    "curves": lambda: (closed_forms(BARE, Curves("EDM"), points=20), figures.closed_form_curves),
    "all-curves": lambda: (closed_forms(latent_sampler(12), points=20), figures.closed_form_curves),
    "features": lambda: (paint_by_theory(latent_sampler(12), ASK), figures.features),
    "jumps": lambda: (compare_teleports(latent_sampler(6, "ddim"), APPLE, TeleportLengths(2)), figures.jumps),
    "contest": lambda: (compare_solvers(BARE, APPLE, SolverComparison(4, fine=8)), figures.contest),
    "resemblance": lambda: (
        find_nearest_images(BARE, ASK, NearestSettings(2, 4), library=library()),
        figures.resemblance,
    ),
}


@pytest.mark.parametrize("name", ["bare", *(pytest.param(n, marks=pytest.mark.slow) for n in DRAWN if n != "bare")])
def test_each_figure_draws_and_its_numbers_are_json(tmp_path, name: str):
    result, draw = DRAWN[name]()
    written = write_result(result, {name: draw(result)}, tmp_path)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert json.loads((tmp_path / "results.json").read_text()) == written


def test_names(painting: Painting):
    assert figures.level_names(painting.level)[-1] == "0"
    assert figures.band_names(painting.bands)[:3] == ["u1", "u2-3", "u4-7"]


def test_a_time_axis_is_logarithmic_where_time_spans_decades():
    assert figures.spans_decades(EDM().time(EDM().grid(20)[:-1]))
    assert not figures.spans_decades(Flow().time(Flow().grid(20)[:-1]))
    torch.testing.assert_close(figures.share_of_peak(normal(9, 2)).amax(0), torch.ones(2, dtype=torch.float64))


def test_a_plan_that_was_fitted_for_something_else_is_told_and_else_another_prompt(sampler: Sampler) -> None:
    case = only(APPLE, sampler)
    about = {"for": {"guidance": [1.0], "conditions": ["no condition"]}, "cases": ["unconditional"]}
    plan = Plan(DDPM().grid(4), solver="dpmpp-2m")
    assert doubts_of(Calibration((plan,), about), sampler, case, 4) == [
        "The plan was fitted for guidance 1, no condition, and is used with guidance 3, prompts; what it loses there "
        "was not measured."
    ]
    about = {"for": {"guidance": [3.0], "conditions": ["prompts"]}, "cases": ["a pear, guidance 3"]}
    assert doubts_of(Calibration((plan,), about), sampler, case, 4) == [
        "The calibrated plan was made for a pear, guidance 3, and here it is run for an apple, guidance 3."
    ]
    assert doubts_of(Calibration((plan,), about | {"cases": [str(case)]}), sampler, case, 4) == []
