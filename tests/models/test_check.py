"""Networks that are denoisers of their schedule, and the same with one thing wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from underpaint.models.checking.check import Check, check
from underpaint.models.checking.measures import ALIKE
from underpaint.models.checking.probe import energy_ratios
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.models.networks.edm import Preconditioned
from underpaint.models.wrap import wrap
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.prediction import Prediction, from_denoised
from underpaint.sampling.teleport import respend, teleport
from underpaint.sampling.trajectory import Trajectory, initial_noise
from underpaint.schedules import VPSDE
from underpaint.theory.covariance import Covariance
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

SHAPE, D = (3, 8, 8), 192


def gaussian_of(seed: int = 0, scale: float = 1.0) -> Gaussian:
    made = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=made, dtype=torch.float64)).Q
    variances = scale * 20 * torch.arange(1, D + 1, dtype=torch.float64) ** -1.5
    return Gaussian(torch.randn(D, generator=made, dtype=torch.float64) * 0.3, Covariance(variances, basis))


GAUSSIAN = gaussian_of()
MIXTURE = Mixture(torch.tensor([1.0, 2.0]), (gaussian_of(1, 0.2), gaussian_of(2, 0.2)))
SCHEDULES: list[tuple[Schedule, Prediction]] = [(VPSDE(), "eps"), (DDPM(), "v"), (Flow(), "flow"), (EDM(), "x0")]


def network_of(
    known: Denoiser, schedule: Schedule, kind: Prediction, told: Callable[[Tensor], Tensor] = lambda t: t
) -> Callable[..., Tensor]:
    def network(states: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        x, level = states.double().flatten(1), schedule(told(t.double()))
        shift = 0 if label is None else 0.02 * label.reshape(-1, 1)
        return from_denoised(known(x, level) + shift, x, level, kind).to(states).reshape(states.shape)

    return network


def model_of(known: Denoiser, schedule: Schedule, kind: Prediction, as_kind: Prediction | None = None) -> Model:
    return wrap(network_of(known, schedule, kind), SHAPE, schedule, as_kind or kind, name="it")


def failing(found: Check) -> str:
    return "; ".join(finding.name for finding in found.findings if finding.verdict == "fails")


@pytest.mark.parametrize(("schedule", "kind"), SCHEDULES)
@pytest.mark.parametrize("known", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
def test_a_denoiser_passes_in_every_family(known: Denoiser, schedule: Schedule, kind: Prediction) -> None:
    found = check(model_of(known, schedule, kind))
    assert found.verdict == "holds", str(found)
    assert (found.sound, found.good_below, found.suggestion) == (True, math.inf, "")
    assert found.short == "it behaves as a denoiser of its schedule in all 11 measures."


@pytest.mark.parametrize(
    ("schedule", "kind", "stated"),
    [
        (VPSDE(), "eps", "v"),
        (VPSDE(), "eps", "x0"),
        (DDPM(), "v", "eps"),
        (DDPM(), "v", "flow"),
        (Flow(), "flow", "v"),
        (Flow(), "flow", "x0"),
        (EDM(), "x0", "eps"),
    ],
)
def test_another_prediction_type_than_stated_is_found_and_named(schedule, kind, stated) -> None:
    found = check(model_of(GAUSSIAN, schedule, kind, stated))
    assert "energy of states" in failing(found), str(found)
    assert found.suggestion.startswith(f"Read as {kind!r} it carries noise into data"), str(found)
    assert found.short.startswith("it is no denoiser of its stated schedule, and numbers about it describe no")


def test_data_of_small_variance_do_not_hide_another_prediction_type() -> None:
    """At little noise v is the noise, about; where most of the data is as small as that, little else is seen."""
    variances = torch.full((64,), 0.001, dtype=torch.float64)
    variances[:4] = torch.tensor([0.2, 0.1, 0.048, 0.024])
    basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    known = Gaussian(torch.zeros(64, dtype=torch.float64), Covariance(variances, basis))
    network = network_of(known, DDPM(), "eps")
    assert check(wrap(network, (1, 8, 8), DDPM(), "eps")).verdict == "holds"
    found = check(wrap(network, (1, 8, 8), DDPM(), "v"))
    assert not found.sound, str(found)
    assert found.suggestion.startswith("Read as 'eps'")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (lambda t: 1 - t, "With its time reversed"),
        (lambda t: t / 1000, "With its time times 1000"),
        (lambda t: (1000 * t).clamp(max=1), "With its time over 1000"),
    ],
)
def test_a_time_in_another_unit_is_found_and_named(told: Callable[[Tensor], Tensor], words: str) -> None:
    found = check(wrap(network_of(GAUSSIAN, Flow(), "flow", told), SHAPE, Flow(), "flow"))
    assert not found.sound
    assert found.suggestion.startswith(words), str(found)


def test_the_other_sign_of_a_velocity_is_found_and_named() -> None:
    """As flow matching states it: data at t = 1, velocity x0 - eps."""
    inner = network_of(GAUSSIAN, Flow(), "flow", lambda t: 1 - t)
    found = check(wrap(lambda x, t: -inner(x, t), SHAPE, Flow(), "flow"))
    assert not found.sound
    assert found.suggestion.startswith("With its output negated and its time reversed"), str(found)


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_level_that_is_told_wrongly_is_found(factor: float) -> None:
    """By a factor on sigma, as of a schedule with other betas; on data, the factor is seen."""
    network = network_of(GAUSSIAN, EDM(), "eps", lambda sigma: factor * sigma)
    assert not check(wrap(network, SHAPE, EDM(), "eps")).sound
    data = GAUSSIAN.sample(64, torch.Generator().manual_seed(5), NoiseLevel.clean())
    found = check(wrap(network, SHAPE, EDM(), "eps"), data)
    (fit,) = (finding for finding in found.findings if finding.name.startswith("σ/α that fits best"))
    assert fit.verdict == "fails", str(found)
    assert fit.value == pytest.approx(min(2.0, max(0.5, 1 / factor)), rel=0.2)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_a_network_that_normalises_its_input_hears_no_scale(kind: Prediction) -> None:
    inner = network_of(GAUSSIAN, VPSDE(), kind)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return inner(x / x.flatten(1).square().mean(1).sqrt().reshape(-1, 1, 1, 1), t)

    found = check(wrap(network, SHAPE, VPSDE(), kind))
    assert "change of the output for a state 1.2 times as large" in failing(found), str(found)
    if kind == "eps":
        assert "noise estimate of a state 1.2 times as large" in failing(found)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_a_network_that_brings_states_to_the_norm_of_their_level_hears_no_scale(kind: Prediction) -> None:
    """Its samples are hardly touched: a state of the flow has that norm, but for its image's own."""
    inner, square = (
        network_of(GAUSSIAN, VPSDE(), kind),
        float(GAUSSIAN.eigenvalues.sum() + GAUSSIAN.mean.square().sum()),
    )

    def network(x: Tensor, t: Tensor) -> Tensor:
        level = VPSDE()(t.double())
        usual = (level.alpha**2 * square + level.sigma**2 * D).sqrt().to(x)
        return inner(x * (usual / x.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1), t)

    found = check(wrap(network, SHAPE, VPSDE(), kind))
    assert "change of the output for a state 1.2 times as large" in failing(found), str(found)
    assert "numbers about it describe no diffusion model" in found.short


def nearly_fixed(deviation: float) -> Model:
    """Of images that differ by little, about one that is far from zero; asked for with a condition."""
    variance = torch.full((D,), deviation**2, dtype=torch.float64)
    inner = network_of(Gaussian(GAUSSIAN.mean, Covariance(variance, torch.eye(D))), VPSDE(), "eps")
    return wrap(lambda x, t, c: inner(x, t), SHAPE, VPSDE(), "eps", condition=(2,), name="it")


@pytest.mark.parametrize("deviation", [1e-6, 1e-3, 0.02])
def test_a_condition_that_fixes_its_image_is_no_failure_and_says_so(deviation: float) -> None:
    found = check(nearly_fixed(deviation), condition=torch.zeros(2))
    (alike,) = (finding for finding in found.findings if finding.name == ALIKE)
    assert (found.verdict, alike.verdict, found.good_below, found.suggestion) == ("weak", "weak", math.inf, "")
    assert alike.value < 1
    assert found.short == (
        "it: Samples differ by less than the least noise looked at, σ/α = 0.05: the condition that is held fixes what "
        "it paints; ask for another, or for none. What goes by their variance is not measured."
    )
    wide = check(nearly_fixed(0.5), condition=torch.zeros(2))
    assert ALIKE not in {finding.name for finding in wide.findings}


def test_a_network_of_one_image_cannot_be_judged_and_says_so() -> None:
    model = nearly_fixed(1e-3)
    found = check(wrap(lambda x, t: model.network(x, t, torch.zeros(len(x), 2)), SHAPE, VPSDE(), "eps", name="it"))
    assert failing(found) == ALIKE
    assert found.short.startswith("it: Samples differ by less than the least noise looked at, σ/α = 0.05: the network")
    broken = wrap(lambda x, t: 3 * model.network(x, t, torch.zeros(len(x), 2)), SHAPE, VPSDE(), "eps", name="it")
    assert "it is no denoiser of its stated schedule" in check(broken).short


class Untrained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("schedule", "kind"), SCHEDULES)
def test_an_untrained_network_fails(schedule: Schedule, kind: Prediction) -> None:
    assert not check(wrap(Untrained(), SHAPE, schedule, kind)).sound


def test_an_untrained_network_behind_preconditioning_makes_white_noise() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return 0 * x

    found = check(wrap(Preconditioned(Zero()), SHAPE, EDM(), "x0"))
    assert failing(found) == "structure of samples, against white noise", str(found)
    (structure,) = (finding.value for finding in found.findings if finding.verdict == "fails")
    assert structure == pytest.approx(1, abs=0.2)


def test_what_depends_on_its_batch_or_is_not_finite() -> None:
    inner = network_of(GAUSSIAN, EDM(), "x0")
    mixed = check(wrap(lambda x, t: inner(x, t) + 0.1 * x.mean(0), SHAPE, EDM(), "x0"))
    assert "change of an answer by the rest of its batch" in failing(mixed)
    nothing = check(wrap(lambda x, t: x * torch.nan, SHAPE, EDM(), "x0"))
    assert failing(nothing) == "share of finite numbers"
    assert "nan" not in str(nothing)


def test_labels_that_are_not_heard_are_a_weak_point() -> None:
    inner = network_of(GAUSSIAN, EDM(), "x0")
    heard = check(wrap(inner, SHAPE, EDM(), "x0", classes=3, null_class=0))
    deaf = check(wrap(lambda x, t, label: inner(x, t), SHAPE, EDM(), "x0", classes=3, null_class=2))
    assert [finding.verdict for finding in (heard.findings[-1], deaf.findings[-1])] == ["weak", "weak"]
    told = check(wrap(lambda x, t, label: inner(x, t, 1 + label), SHAPE, EDM(), "x0", classes=3, null_class=2))
    assert told.findings[-1].verdict == "holds"
    assert check(wrap(inner, SHAPE, EDM(), "x0", classes=3)).sound  # no null: class 0 is asked for
    assert check(wrap(inner, SHAPE, EDM(), "x0", classes=3), condition=2).sound


def broken_at_the_top(x: Tensor, t: Tensor) -> Tensor:
    """Exact up to sigma/alpha of 8; above, its noise estimate is a few per cent off."""
    exact = network_of(GAUSSIAN, VPSDE(), "eps")(x, t)
    wrong = 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    return exact + torch.where((VPSDE()(t.double()).ratio > 8).reshape(-1, 1, 1, 1), wrong, 0.0)


def test_where_only_the_top_is_broken_a_jump_is_offered_and_helps() -> None:
    model = wrap(broken_at_the_top, SHAPE, VPSDE(), "eps", name="it")
    found = check(model)
    assert found.verdict == "weak", str(found)
    assert any("energy" in finding.name and finding.verdict == "weak" for finding in found.findings)
    assert 4 < found.good_below <= 8
    assert f"respend(model.schedule, grid, {found.good_below:.3g})" in found.short
    level = model.schedule.grid(30)
    x = initial_noise(range(16), D, level[0])
    jumped = teleport(GAUSSIAN, model, x, respend(model.schedule, level, found.good_below), 1).final
    plain = teleport(GAUSSIAN, model, x, level, 0).final
    exact = GAUSSIAN.flow(x.double(), level[0], NoiseLevel.clean())
    errors = [float((final - exact).square().mean().sqrt()) for final in (jumped, plain)]
    assert errors[0] < 0.3 * errors[1]


def test_data_take_the_place_of_samples() -> None:
    """Of another network's data, its errors are beyond those of the mean."""
    model = model_of(GAUSSIAN, EDM(), "x0")
    made = torch.Generator().manual_seed(5)
    clean = NoiseLevel.clean()
    assert check(model, GAUSSIAN.sample(64, made, clean)).sound
    other = Gaussian(3 + 0 * GAUSSIAN.mean, Covariance(torch.full((1,), 0.01), torch.eye(D)[:, :1], residual=0.01))
    assert "error of x̂₀ over that of the mean" in failing(check(model, other.sample(64, made, clean)))
    for rows in (torch.zeros(5, 7), torch.zeros(1, D), torch.zeros(D)):
        with pytest.raises(ValueError, match=r"Data are rows \[N, 192\] of it, at least 2, got"):
            check(model, rows)


def test_a_tensor_has_to_be_given_where_none_is_held() -> None:
    inner = network_of(GAUSSIAN, EDM(), "x0")
    model = wrap(lambda x, t, c: inner(x, t), SHAPE, EDM(), "x0", condition=(2,), name="it")
    with pytest.raises(ValueError, match="it takes a tensor as its condition and holds none"):
        check(model)
    assert check(model, condition=torch.zeros(2)).sound


def test_samples_far_outside_the_range_of_the_data() -> None:
    """Weak where a range is not stated, a failure where they are larger by orders."""
    large = gaussian_of(scale=16.0)
    weak = check(model_of(large, EDM(), "x0"))
    assert (weak.verdict, weak.findings[2].verdict) == ("weak", "weak"), str(weak)
    stated = wrap(network_of(large, EDM(), "x0"), SHAPE, EDM(), "x0", data_range=(-4.0, 4.0))
    assert check(stated).verdict == "holds"


def test_energies_of_an_exact_flow_are_one() -> None:
    """But for the correlation of each sample with its noise, which is small in many dimensions."""
    level = NoiseLevel.join(EDM()(torch.logspace(1.9, -1.3, 12, dtype=torch.float64)), NoiseLevel.clean())
    x = initial_noise(range(64), D, level[0], torch.float64)
    states = torch.stack([GAUSSIAN.flow(x, level[0], at) for at in level])
    ratios = energy_ratios(Trajectory(states, states[1:], level, 0))
    assert float(ratios[0]) == pytest.approx(1, abs=2e-3)
    assert bool(((ratios > 0.96) & (ratios < 1.02)).all())


@pytest.mark.slow
def test_the_model_of_the_box_passes_and_fails_as_another_type_or_blind_to_scale() -> None:
    model = load_model("fashion-mnist")
    found = check(model)
    assert found.verdict == "holds", str(found)
    wrong = check(replace(model, prediction="eps"))
    assert not wrong.sound
    assert wrong.suggestion.startswith("Read as 'v'")

    def blind(x: Tensor, t: Tensor, given: Any = None) -> Tensor:
        return model.network(x / x.flatten(1).square().mean(1).sqrt().reshape(-1, 1, 1, 1), t, given)

    assert "change of the output for a state 1.2 times as large" in failing(check(replace(model, network=blind)))


def test_data_of_a_flat_spectrum_are_no_failure() -> None:
    """D tr(S^2)/tr(S)^2 of these is 1.8, and white noise has 1."""
    deviations = torch.linspace(3, 0.05, 24, dtype=torch.float64)
    gaussian = Gaussian(torch.zeros(24), Covariance(deviations**2, torch.eye(24)))
    found = check(wrap(network_of(gaussian, EDM(), "x0"), (1, 4, 6), EDM(), "x0", data_range=(-9.0, 9.0)))
    (structure,) = [finding for finding in found.findings if finding.name.startswith("structure")]
    assert 1.2 < structure.value < 2
    assert structure.verdict == "weak"
    assert found.sound
