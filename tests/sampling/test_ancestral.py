"""Steps with noise of the Gaussian exponential integrator: exact for Gaussian data, and known samplers without it."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import EDM, NoiseLevel, Schedule, spaced_ratios
from underpaint.sampling.exponential import Rule, _integrals, gaussian_ancestral, gaussian_exponential
from underpaint.sampling.response import respond
from underpaint.sampling.solvers import Solver, ancestral, ddim_step
from underpaint.sampling.trajectory import initial_noise, sample, seeded_noise
from underpaint.theory import modes
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

VALUES = torch.tensor([9.0, 1.0, 0.01, 1e-4], dtype=torch.float64)
KNOWN = Gaussian(torch.zeros(4, dtype=torch.float64), Covariance(VALUES, torch.eye(4).double()))


def draws(seed: int = 3):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("eta", [0.4, 1.0, 1.6])
def test_variance_and_mean_of_gaussian_data_are_kept_in_any_grid(
    schedule: Schedule, order: int, corrector: bool, eta: float
) -> None:
    """Exactly, along every eigenvalue, also for a mean that the solver does not know."""
    for steps in (1, 3):
        level = schedule.grid(steps)

        def run(noise: Tensor, mean: Tensor, level: NoiseLevel = level) -> Tensor:
            def denoise(x: Tensor, at: NoiseLevel) -> Tensor:
                gain = modes.shrinkage(VALUES, at)
                return gain * x + (1 - at.alpha * gain) * mean

            x = (level[0].alpha ** 2 * VALUES + level[0].sigma ** 2).sqrt() * noise + level[0].alpha * mean
            solver = gaussian_ancestral(KNOWN, eta, order=order, corrector=corrector, ending="flow", above=0.0)
            return [state for state, _ in solver(denoise, x, level)][-1]

        found = respond(run, 4)
        assert_close(found.variance, VALUES, rtol=1e-8, atol=1e-14)
        assert_close(found.mean, torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=0)
        assert len(found.drawn) == steps


def test_unless_told_the_covariance_counts_from_levels_above_the_largest_deviation(normal) -> None:
    """Which is 3 here, of a variance of 9: it counts from a ratio of 6, and not from 2."""

    def run(ratio: float, **told: float) -> Tensor:
        level = EDM()(torch.tensor([ratio, ratio / 2, 0.0], dtype=torch.float64))
        solver = gaussian_ancestral(KNOWN, draw=draws(), **told)
        return [state for state, _ in solver(lambda x, at: x.tanh(), ratio * x, level)][1]

    x = normal(5, 4)
    for ratio in (6.0, 2.0):
        counts, does_not = run(ratio, above=0.0), run(ratio, above=100.0)
        assert not torch.allclose(counts, does_not)
        assert_close(run(ratio), counts if ratio > 3 else does_not)


def test_it_is_the_transition_of_the_gaussian(gaussian: Gaussian, schedule: Schedule, normal) -> None:
    level = schedule.grid(4)[:3]
    x, generator = normal(5, 6), torch.Generator().manual_seed(3)
    expected = x
    for here, there in pairwise(level):
        expected = gaussian.transition(expected, here, there, 0.7, generator)
    found = [state for state, _ in gaussian_ancestral(gaussian, 0.7, draws(), above=0.0)(gaussian, x, level)][-1]
    assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_its_mean_is_ddpms_for_any_data(mixture: Mixture, gaussian: Gaussian, normal) -> None:
    """At strength 1 the mean of x' given x depends on the denoised image alone: Ho et al. 2020, eq. 7."""
    x, here, there = normal(5, 6), NoiseLevel(0.6, 0.8), NoiseLevel(0.8, 0.6)
    solver = gaussian_ancestral(gaussian, 1.0, torch.zeros_like, ending="flow", above=0.0)
    ((moved, denoised),) = solver(mixture, x, NoiseLevel.join(here, there))
    alpha = (here.alpha / there.alpha) ** 2
    share = there.alpha * (1 - alpha) / here.sigma**2 * denoised
    assert_close(moved, share + alpha.sqrt() * there.sigma**2 / here.sigma**2 * x, rtol=1e-9, atol=1e-9)


def test_without_variance_it_is_the_ancestral_sampler(mixture: Mixture, schedule: Schedule) -> None:
    """Euler ancestral in k-diffusion's form: down to sigma_down, and up again."""
    flat, level, draw = Gaussian.isotropic(torch.zeros(6, dtype=torch.float64), 0.0), schedule.grid(7), draws()
    x = start = initial_noise(range(5), 6, level[0], torch.float64)
    for here, there in pairwise(level):
        if here.alpha == 0 or there.sigma == 0:
            down, up = float(there.sigma) if there.sigma == 0 else 0.0, float(there.sigma)
        else:
            up = float(there.sigma * (1 - (there.ratio / here.ratio) ** 2).sqrt())
            down = float((there.sigma**2 - up**2).sqrt())
        x = ddim_step(x, mixture(x, here), here, NoiseLevel(float(there.alpha), down))
        if there.sigma > 0:
            x = x + up * draw(x)
    found = sample(mixture, start, level, gaussian_ancestral(flat, 1.0, draws(), 1, False)).final
    assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_order_2_without_variance_is_sde_dpm_solver_plus_plus(mixture: Mixture) -> None:
    """In the form that integrates the line through two calls exactly ('heun' in diffusers' sde-dpmsolver++)."""
    level, draw = EDM().grid(9), draws()
    x = start = initial_noise(range(5), 6, level[0], torch.float64)
    past: list[Tensor] = []
    sigma, time = level.sigma, -level.log_ratio
    for i in range(9):
        past.append(mixture(x, level[i]))
        h = time[i + 1] - time[i]
        gone = -torch.expm1(-2 * h)
        x = sigma[i + 1] / sigma[i] * torch.exp(-h) * x + gone * past[-1]
        if 0 < i < 8:
            x = x + (gone / (-2 * h) + 1) * h * (past[-1] - past[-2]) / (time[i] - time[i - 1])
        if i < 8:
            x = x + sigma[i + 1] * gone.sqrt() * draw(x)
    flat = Gaussian.isotropic(torch.zeros(6, dtype=torch.float64), 0.0)
    found = sample(mixture, start, level, gaussian_ancestral(flat, 1.0, draws(), 2, False, rule="integral")).final
    assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_below_its_ratio_the_midpoint_rule_is_sde_dpm_solver_plus_plus_of_diffusers(
    mixture: Mixture, gaussian: Gaussian
) -> None:
    """In its default form, with diffusers' own steps."""
    level, draw = EDM().grid(9), draws()
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", prediction_type="sample")
    scheduler.set_timesteps(9)
    scheduler.timesteps, scheduler.sigmas = torch.arange(9), level.ratio
    x = start = initial_noise(range(5), 6, level[0], torch.float64)
    state = x / level[0].norm
    for t, (here, there) in enumerate(pairwise(level)):
        denoised, noise = mixture(here.norm * state, here), draw(x) if there.sigma > 0 else None
        state = scheduler.step(denoised, t, state, variance_noise=noise).prev_sample.double() if t < 8 else denoised
    solver = gaussian_ancestral(gaussian, 1.0, draws(), 2, False, above=1e3)
    assert_close(sample(mixture, start, level, solver).final, state, rtol=1e-5, atol=1e-5)


def test_above_its_ratio_the_covariance_counts_and_below_it_does_not(mixture: Mixture, gaussian: Gaussian) -> None:
    """Q of past calls is that of the covariance that counts now."""
    level, flat = EDM().grid(9), Gaussian.isotropic(gaussian.mean, 0.0)
    x = initial_noise(range(5), 6, level[0], torch.float64)

    def run(law: Gaussian, above: float, start: Tensor = x, at: NoiseLevel = level) -> list[Tensor]:
        solver = gaussian_ancestral(law, 0.7, draws(), 1, False, above=above)
        return [state for state, _ in solver(mixture, start, at)]

    split = float(level[4].ratio)  # the step from here still counts
    whole, found = run(gaussian, 0.0), run(gaussian, split)
    assert_close(torch.stack(found[:5]), torch.stack(whole[:5]))
    generator = draws()
    for _ in range(5):
        generator(x)
    solver = gaussian_ancestral(flat, 0.7, generator, 1, False)
    rest = [state for state, _ in solver(mixture, found[4], level[5:])]
    assert_close(torch.stack(found[5:]), torch.stack(rest), rtol=1e-8, atol=1e-9)
    assert_close(run(gaussian, 1e3)[-1], run(flat, 0.0)[-1], rtol=1e-8, atol=1e-9)
    assert float((found[-1] - whole[-1]).norm()) > 1e-2


@pytest.mark.parametrize(
    ("order", "rule", "corrector", "measured", "last"),
    [
        (1, "midpoint", False, 1, -2.8e-2),
        (2, "midpoint", False, 2, 2.5e-4),
        (2, "integral", False, 2, 5.3e-4),
        (1, "midpoint", True, 2, -1.37e-3),
        (2, "midpoint", True, 1.67, -1.14e-4),  # 1.86 from 128 to 256 steps, on its way to 2
    ],
)
def test_weak_order(order: int, rule: Rule, corrector: bool, measured: float, last: float) -> None:
    """Of the samples' variance, exactly, where the solver does not know that of the data: first order for steps of
    order 1, second for those of order 2, of which the midpoint rule has half the error, and less with the corrector."""
    true, wrong = torch.ones(1, dtype=torch.float64), Gaussian.isotropic(torch.zeros(1, dtype=torch.float64), 0.0)

    def error(steps: int) -> float:
        level = EDM().level(spaced_ratios(steps + 1, 4.0, 0.1))

        def run(noise: Tensor, mean: Tensor) -> Tensor:
            solver = gaussian_ancestral(wrong, 1.0, order=order, corrector=corrector, rule=rule)
            x = (true + level.sigma[0] ** 2).sqrt() * noise
            return [state for state, _ in solver(lambda x, at: modes.shrinkage(true, at) * x, x, level)][-1]

        return float(respond(run, 1).variance / (true + level.sigma[-1] ** 2) - 1)

    coarse, fine = error(64), error(128)
    assert abs(math.log2(coarse / fine) - measured) < 0.05
    assert_close(fine, last, rtol=0.03, atol=0)


def test_the_corrector_brings_the_spectrum_nearer_without_a_call() -> None:
    """Distance of the spectra of Gaussian data, exactly, in ten calls from above the widest component."""
    level = EDM().level(spaced_ratios(10, 7.0, 0.01, 7.0))
    level = NoiseLevel.join(level, NoiseLevel.clean())

    def apart(corrector: bool, eta: float) -> float:
        def run(noise: Tensor, mean: Tensor) -> Tensor:
            x = (VALUES + level.sigma[0] ** 2).sqrt() * noise
            solver = gaussian_ancestral(KNOWN, eta, corrector=corrector)
            return [state for state, _ in solver(lambda x, at: modes.shrinkage(VALUES, at) * x, x, level)][-1]

        found = respond(run, 4).variance
        return float((found.sqrt() - VALUES.sqrt()).square().sum() / VALUES.sum())

    assert apart(True, 1.0) < 0.9 * apart(False, 1.0) < 0.1
    assert apart(True, 0.6) < 0.8 * apart(False, 0.6) < 0.5 * apart(False, 1.0)


@pytest.mark.parametrize(("eta", "ours", "peer"), [(1.0, 0.46, 0.72), (0.6, 0.43, 0.70)])
def test_few_calls_end_nearer_to_a_mixture_than_sde_dpm_solver_plus_plus(eta: float, ours: float, peer: float) -> None:
    """Steps of order 1 with the corrector: Wasserstein distance to three narrow modes, data of variance 3.9, of 2,000
    samples in 6 calls from sigma = 80."""

    def normal(mean: float, variance: float) -> Gaussian:
        covariance = Covariance(torch.tensor([variance], dtype=torch.float64), torch.eye(1, dtype=torch.float64))
        return Gaussian(torch.tensor([mean], dtype=torch.float64), covariance)

    modes_of = normal(-2.0, 0.04), normal(0.5, 0.25), normal(3.0, 0.01)
    mixture, level = Mixture(torch.tensor([0.5, 0.3, 0.2]), modes_of), EDM().grid(6)
    exact = mixture.sample(40_000, torch.Generator().manual_seed(0)).flatten().sort().values.view(2000, 20).mean(1)
    x = initial_noise(range(2000), 1, level[0], torch.float64)

    def distance(solver: Solver) -> float:
        found = sample(mixture, x, level, solver).final.flatten().sort().values
        return float((found - exact).square().mean().sqrt())

    flat = Gaussian.isotropic(torch.zeros(1, dtype=torch.float64), 0.0)
    assert abs(distance(gaussian_ancestral(normal(-0.25, 3.9), eta, draws(), order=1)) - ours) < 0.05
    assert abs(distance(gaussian_ancestral(flat, eta, draws(), 2, False)) - peer) < 0.05


@pytest.mark.parametrize("power", [1.0, 1.25, 2.0, 5.0])
def test_weights_are_their_integrals(power: float) -> None:
    start, end, nodes = 1.0, -0.5, [1.0, 1.7]
    given = [torch.tensor(values, dtype=torch.float64) for values in (nodes, start, end)]
    for variance in (0.0, 0.3, 20.0):

        def kernel(t: float, j: int, variance: float = variance) -> float:
            newton = math.prod(t - node for node in nodes[: j + 1])
            return power * newton * math.exp(2 * t) / (variance + math.exp(2 * t)) ** (1 + power / 2)

        scale = (variance + math.exp(2 * end)) ** (power / 2)
        expected = [scale * quad(kernel, end, start, args=(j,), epsabs=1e-13)[0] for j in (0, 1)]
        found = _integrals(torch.tensor([variance], dtype=torch.float64), *given, power)[:, 0]
        assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", ["integral", "midpoint"])
def test_little_noise_is_the_flow(mixture: Mixture, gaussian: Gaussian, schedule: Schedule, rule: Rule) -> None:
    level = schedule.grid(6, 20.0)  # from pure noise, any strength draws the state anew
    x = initial_noise(range(4), 6, level[0], torch.float64)
    flow = sample(mixture, x, level, gaussian_exponential(gaussian, 2, True, "denoised", rule=rule)).final
    near = [
        (
            sample(mixture, x, level, gaussian_ancestral(gaussian, eta, draws(), rule=rule, above=0.0)).final - flow
        ).norm()
        for eta in (1e-3, 1e-4)
    ]
    assert near[1] < 0.2 * near[0]
    assert near[1] < 1e-2 * flow.norm()


def test_a_seed_means_its_noise_in_any_batch(mixture: Mixture, gaussian: Gaussian) -> None:
    level = EDM().grid(5)

    def sampled(seeds: range) -> Tensor:
        x = initial_noise(seeds, 6, level[0], torch.float64)
        return sample(mixture, x, level, gaussian_ancestral(gaussian, 1.0, seeded_noise(seeds))).final

    assert_close(sampled(range(2, 4)), sampled(range(5))[2:4], rtol=1e-12, atol=1e-12)
    first = seeded_noise(range(3))(torch.empty(3, 6, dtype=torch.float64))
    start = initial_noise(range(3), 6, NoiseLevel(0.0, 1.0), torch.float64)
    assert float((first - start).abs().min()) > 1e-6  # and never that which the state began with


def test_a_solver_with_noise_of_seeds_gives_the_same_twice(mixture: Mixture, gaussian: Gaussian) -> None:
    level, seeds = EDM().grid(5), range(3)
    x = initial_noise(seeds, 6, level[0], torch.float64)
    for solver in (gaussian_ancestral(gaussian, 1.0, seeded_noise(seeds)), ancestral(seeded_noise(seeds))):
        first, second = (sample(mixture, x, level, solver).final for _ in range(2))
        assert torch.equal(first, second)
    draw = seeded_noise(seeds)
    given = draw(x)
    assert not torch.equal(draw(x), given)  # by itself it goes on
    assert torch.equal(draw.anew()(x), given)


def test_noise_for_other_rows_and_no_strength_are_refused(gaussian: Gaussian) -> None:
    with pytest.raises(ValueError, match="3 seeds for 2 rows"):
        seeded_noise(range(3))(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="strength eta"):
        gaussian_ancestral(gaussian, -1.0)
    with pytest.raises(ValueError, match="ratio above which the covariance counts"):
        gaussian_ancestral(gaussian, above=-1.0)
    with pytest.raises(ValueError, match="'integral' or 'midpoint', got 'trapezoid'"):
        gaussian_ancestral(gaussian, rule="trapezoid")
