"""What networks of other people are like: states of any rank, other ranges and times, tensors as conditions, networks
in train mode, levels at which they must not be asked."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from underpaint.models.model import Model
from underpaint.models.network import evaluating, modules_behind
from underpaint.models.pictures import from_pictures, picture_shape, to_pictures
from underpaint.models.wrap import wrap
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.prediction import Prediction, from_denoised
from underpaint.sampling.solvers import dpmpp_2m
from underpaint.sampling.teleport import respend, teleport
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.schedules import VPSDE, Interpolant
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian


def gaussian_of(dimension: int) -> Gaussian:
    made = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(dimension, 4, generator=made, dtype=torch.float64)).Q
    mean = torch.randn(dimension, generator=made, dtype=torch.float64) / 2
    return Gaussian(mean, Covariance(torch.tensor([4.0, 1.0, 0.3, 0.1]), basis, residual=0.02))


def network_of(gaussian: Gaussian, schedule: Schedule, prediction: Prediction, told=lambda t: t):
    """The Gaussian as a network, which undoes what is done to its time with ``told``."""

    def network(states: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        x, level = states.double().flatten(1), schedule(told(time.double()))
        denoised = gaussian(x, level) + (0 if condition is None else condition.double().flatten(1).sum(1, keepdim=True))
        return from_denoised(denoised, x, level, prediction).to(states).reshape(states.shape)

    return network


def check(model: Model, gaussian: Gaussian) -> None:
    for ratio in (0.05, 1.0, 20.0):
        level = EDM()(ratio)
        x = gaussian.sample(3, torch.Generator().manual_seed(1), level)
        torch.testing.assert_close(model(x, level), gaussian(x, level), rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(24,), (2, 12), (2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 2, 2)])
def test_states_of_any_rank(shape: tuple[int, ...]) -> None:
    gaussian = gaussian_of(24)
    model = wrap(network_of(gaussian, VPSDE(), "eps"), shape, VPSDE(), "eps").to(dtype=torch.float64)
    check(model, gaussian)
    level = model.schedule.grid(12)
    rows = sample(model, initial_noise([0, 1], 24, level[0]), level, dpmpp_2m).final
    images = model.images(rows / 10)
    assert images.shape == (2, *model.image_shape)
    torch.testing.assert_close(model.rows(2 * images - 1), rows / 10)


def test_a_film_is_shown_as_a_strip_of_its_frames() -> None:
    film = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # C F H W
    strip = to_pictures(film, film.shape)
    assert strip.shape == picture_shape((2, 3, 4, 5)) == (2, 4, 15)
    for frame in range(3):
        torch.testing.assert_close(strip[:, :, 5 * frame : 5 * frame + 5], film[:, frame])
    torch.testing.assert_close(from_pictures(strip, (2, 3, 4, 5)), film)
    assert picture_shape((7,)) == (1, 1, 7)
    assert picture_shape((3, 7)) == (1, 3, 7)


@pytest.mark.parametrize(
    ("schedule", "time", "told"),
    [
        (VPSDE(), 999.0, lambda t: t / 999),
        (VPSDE(), lambda level: -2 * level.log_ratio, lambda snr: VPSDE().time(VPSDE().level((-snr / 2).exp()))),
        (Flow(), lambda level: level.alpha, lambda t: 1 - t),
        (Interpolant(lambda t: t, lambda t: 1 - t, 0.0, 1.0), "thousand", lambda t: t / 1000),
        (Interpolant(lambda t: (1 - t).sqrt(), lambda t: t.sqrt()), "schedule", lambda t: t),
    ],
)
@pytest.mark.parametrize("prediction", ["eps", "v", "score"])
def test_times_in_other_units(schedule: Schedule, time, told, prediction: Prediction) -> None:
    gaussian = gaussian_of(8)
    network = network_of(gaussian, schedule, prediction, told)
    check(wrap(network, (8,), schedule, prediction, time=time).to(dtype=torch.float64), gaussian)


def test_data_of_another_range() -> None:
    model = wrap(lambda x, t: x, (1, 2, 2), EDM(), "x0", data_range=(0.0, 255.0))
    rows = torch.tensor([[0.0, 255.0, 51.0, 300.0]])
    images = torch.tensor([[[[0.0, 1.0], [0.2, 1.0]]]])
    torch.testing.assert_close(model.images(rows), images)
    torch.testing.assert_close(model.rows(2 * images - 1), rows.clamp(max=255.0))


def test_conditions_that_are_tensors() -> None:
    gaussian, level = gaussian_of(6), EDM()(1.5)
    network = network_of(gaussian, EDM(), "x0")
    model = wrap(network, (6,), EDM(), "x0", condition=(2, 3), null_condition=torch.zeros(2, 3), batch=2)
    model = model.to(dtype=torch.float64)
    x = gaussian.sample(3, torch.Generator().manual_seed(1), level)
    base, one = gaussian(x, level), torch.ones(2, 3)
    torch.testing.assert_close(model(x, level), base)
    torch.testing.assert_close(model.denoise(x, level), base)  # the same: the tensor for any condition
    torch.testing.assert_close(model.conditional(one)(x, level), base + 6)
    torch.testing.assert_close(model.conditional(one, 3.0)(x, level), base + 18)
    torch.testing.assert_close(model.conditional(one, 3.0, negative=2 * one)(x, level), base + 12 - 3 * 6)
    each = torch.arange(3.0).reshape(3, 1, 1) * one  # one a row, in batches of two
    expected = base + 6 * torch.arange(3.0).reshape(3, 1)
    torch.testing.assert_close(model.conditional(each)(x, level), expected)
    torch.testing.assert_close(model.holding(one)(x, level), base + 6)
    torch.testing.assert_close(model.holding(one).to(dtype=torch.float64)(x, level), base + 6)
    with pytest.raises(ValueError, match=r"conditions of shape \(2, 3\), or \[B, ...\] of these; got \(6,\)"):
        model.conditional(torch.ones(6))
    with pytest.raises(ValueError, match="2 conditions were given for 3 rows"):
        model.conditional(each[:2])(x, level)
    with pytest.raises(ValueError, match="takes no class labels, got 1"):
        model.conditional(1)
    without = wrap(network, (6,), EDM(), "x0", condition=(2, 3))
    with pytest.raises(ValueError, match="has no tensor for 'any condition'; choose one"):
        without(x, level)
    with pytest.raises(ValueError, match="takes no tensors as conditions"):
        wrap(network, (6,), EDM(), "x0").conditional(one)
    with pytest.raises(ValueError, match="class labels or tensors"):
        wrap(network, (6,), EDM(), "x0", classes=3, condition=(2,))
    with pytest.raises(ValueError, match=r"null_condition has the shape \(1,\), and condition is stated as \(2, 3\)"):
        wrap(network, (6,), EDM(), "x0", condition=(2, 3), null_condition=torch.zeros(1))


def test_whole_numbers_as_conditions_stay_whole() -> None:
    words = nn.Embedding(5, 4)
    model = wrap(lambda x, t, c: x + words(c).mean(1), (4,), EDM(), "x0", condition=(3,))
    x, tokens = torch.zeros(2, 4), torch.tensor([1, 4, 2])
    with torch.no_grad():
        expected = words(tokens).mean(0).expand(2, 4)
    torch.testing.assert_close(model.conditional(tokens)(x, EDM()(1.0)), expected)


def test_a_class_is_held_where_none_is_given() -> None:
    model = wrap(lambda x, t, c: c.reshape(-1, 1).to(x) + 0 * x, (3,), EDM(), "x0", classes=4)
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="no label for 'any class'"):
        model(x, EDM()(1.0))
    torch.testing.assert_close(model.holding(2)(x, EDM()(1.0)), x + 2)
    with pytest.raises(ValueError, match="knows class labels 0 to 3, got 4"):
        model.holding(4)


class Noisy(nn.Module):
    """Its answers depend on the batch and on chance, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.drop(self.norm(x))


@pytest.mark.parametrize(
    "held", [lambda net: net, lambda net: partial(net), lambda net: net.forward, lambda net: lambda x, t: net(x, t)]
)
def test_a_network_in_train_mode_answers_as_in_eval_mode(held) -> None:
    net = Noisy()
    net.drop.eval()
    x, level = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), EDM()(1.0)
    answer = wrap(held(net), (4,), EDM(), "x0")(x, level)
    assert [part.training for part in net.modules()] == [True, True, False]  # each as it was
    assert int(net.norm.num_batches_tracked) == 0
    torch.testing.assert_close(answer, net.eval()(x, level.sigma).detach())


def test_eval_mode_ends_with_an_error_too() -> None:
    net = Noisy()
    model = wrap(net, (3,), EDM(), "x0")  # of another width than its norm
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3), EDM()(1.0))
    assert net.norm.training
    with evaluating(net):
        assert not net.norm.training


SCALE = nn.Linear(1, 1, bias=False).double()


def helper(x: Tensor) -> Tensor:
    return SCALE(x)


def test_modules_are_found_wherever_a_function_holds_them() -> None:
    """And their dtype and device are the model's."""
    inner, other = nn.Linear(2, 2), nn.Linear(3, 3)

    class Sampler:
        def __init__(self) -> None:
            self.net, self.size = inner, 3

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return self.net(x)

    def nested(x: Tensor, t: Tensor, extra: nn.Module = other) -> Tensor:
        return helper(x)

    assert modules_behind(inner) == [inner]
    assert modules_behind(Sampler()) == [inner]
    assert modules_behind(partial(lambda x, t, net: net(x), net=inner)) == [inner]
    assert modules_behind(nested) == [SCALE, other]
    assert modules_behind(torch.sin) == []
    model = wrap(lambda x, t: helper(x.unsqueeze(-1)).squeeze(-1), (4,), EDM(), "x0")
    assert model.dtype == torch.float64


def test_a_model_is_not_asked_outside_its_levels() -> None:
    gaussian = gaussian_of(6)
    asked: list[float] = []

    def network(states: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma[0]))
        return network_of(gaussian, EDM(), "x0")(states, sigma)

    model = wrap(network, (6,), EDM(), "x0").to(dtype=torch.float64).truncated(0.05, 12.0)
    x = torch.zeros(2, 6, dtype=torch.float64)
    assert model.ratios == (0.05, 12.0)
    assert wrap(network, (6,), EDM(), "x0").ratios == (0.0, math.inf)
    for ratio in (0.01, 13.0, torch.tensor([1.0, 80.0])):
        with pytest.raises(ValueError, match=r"may be asked at sigma/alpha from 0.05 to 12, got"):
            model(x, EDM()(ratio))
    assert not asked
    # a jump from pure noise into its range is exact, and asks nothing above it
    grid = respend(model.schedule, NoiseLevel.join(EDM()(80.0), model.schedule.grid(60)), 12.0)
    start = initial_noise(range(2), 6, grid[0], torch.float64)
    run = teleport(gaussian, model, start, grid, 1, dpmpp_2m)
    assert 0.05 - 1e-6 <= min(asked) < max(asked) <= 12 + 1e-6
    torch.testing.assert_close(run.final, gaussian.flow(start, grid[0], NoiseLevel.clean()), rtol=0, atol=0.02)


def test_ddpm_truncated_asks_at_whole_levels_of_its_own() -> None:
    model = wrap(lambda x, t: 0 * x, (3,), DDPM(), "eps").truncated(high=10.0)
    grid = model.schedule.grid(5)
    assert float(grid.ratio[0]) == pytest.approx(10.0)
    assert sample(model, torch.ones(1, 3), grid, dpmpp_2m).final.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": None}, "kind of time None; choose one of schedule, thousand"),
        ({"data_range": (1.0, 1.0)}, r"range of the data is \(lowest, highest\), got \(1.0, 1.0\)"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(lambda x, t: x, (3,), EDM(), "x0", **options)
