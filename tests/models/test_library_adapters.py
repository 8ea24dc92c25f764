"""Networks of other libraries: stand-ins with their documented attributes give back the Gaussian that is inside, and
where a library is installed its own objects agree with it by value."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from underpaint.models.model import Model
from underpaint.models.networks.edm import EDMScaling, Preconditioned
from underpaint.models.networks.other_libraries import (
    from_azula,
    from_denoising_diffusion,
    from_flow_matching,
    from_k_diffusion,
)
from underpaint.models.wrap import wrap
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.prediction import Prediction, from_denoised
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

SHAPE = (1, 4, 4)
BETAS = torch.linspace(1e-3, 0.06, 200)


def gaussian_of(dimension: int = 16) -> Gaussian:
    made = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(dimension, 4, generator=made, dtype=torch.float64)).Q
    mean = torch.randn(dimension, generator=made, dtype=torch.float64) / 2
    return Gaussian(mean, Covariance(torch.tensor([4.0, 1.0, 0.3, 0.1]), basis, residual=0.02))


def network_of(level_of: Callable[[Tensor], NoiseLevel], prediction: Prediction) -> Callable[..., Tensor]:
    gaussian = gaussian_of()

    def network(states: Tensor, time: Tensor) -> Tensor:
        x, level = states.double().flatten(1), level_of(time.double())
        return from_denoised(gaussian(x, level), x, level, prediction).to(states).reshape(states.shape)

    return network


def check(model: Model) -> None:
    gaussian = gaussian_of()
    for ratio in (0.2, 1.0, 9.0):
        level = EDM()(ratio)
        x = gaussian.sample(3, torch.Generator().manual_seed(1), level).float()
        assert_close(model(x, level), gaussian(x.double(), level).float(), rtol=0, atol=5e-3)


class Discrete(nn.Module):
    """What GaussianDiffusion of denoising-diffusion-pytorch states, and its own step from output to estimate."""

    def __init__(
        self, objective: str, network: Callable[..., Tensor], unit: bool = False, wrong: float = 0.0, does: str = ""
    ) -> None:
        super().__init__()
        self.model, self.objective, self.does, self.wrong = network, objective, does or objective, wrong
        self.channels, self.image_size, self.self_condition = 1, (4, 4), False
        self.register_buffer("betas", BETAS)
        self.normalize = (lambda x: x) if unit else (lambda x: 2 * x - 1)

    def p_mean_variance(self, x: Tensor, t: Tensor, clip_denoised: bool) -> tuple[Tensor, None]:
        """q(x_{t-1} | x_t, x_0) of the estimate: Ho et al. 2020, equation 7."""
        assert not clip_denoised
        bars = (1 - BETAS.double()).cumprod(0)
        bar, before, beta = (value[t].reshape(-1, 1, 1, 1) for value in (bars, bars.roll(1), BETAS.double()))
        out = self.model(x, t)[:, : self.channels]
        start = {
            "pred_noise": (x - (1 - bar).sqrt() * out) / bar.sqrt(),
            "pred_v": bar.sqrt() * x - (1 - bar).sqrt() * out,
            "pred_x0": out,
        }[self.does]
        mean = before.sqrt() * beta * (start + self.wrong) + (1 - beta).sqrt() * (1 - before) * x
        return (mean / (1 - bar)).float(), None


@pytest.mark.parametrize(("objective", "kind"), [("pred_noise", "eps"), ("pred_v", "v"), ("pred_x0", "x0")])
def test_denoising_diffusion_pytorch_in_discrete_times(objective: str, kind: Prediction) -> None:
    model = from_denoising_diffusion(Discrete(objective, network_of(DDPM(BETAS.double()), kind)))
    check(model)
    assert (model.shape, model.data_range) == (SHAPE, (-1.0, 1.0))
    unit = from_denoising_diffusion(Discrete(objective, network_of(DDPM(BETAS.double()), kind), unit=True))
    assert unit.data_range == (0.0, 1.0)


@pytest.mark.parametrize("stated", ["pred_v", "pred_x0"])
def test_a_learned_variance_is_left_aside_and_a_wrong_objective_is_told_from_a_step(stated: str) -> None:
    """As of LearnedGaussianDiffusion, whose network predicts noise and a variance, whatever ``objective`` says."""
    noise = network_of(DDPM(BETAS.double()), "eps")
    model = from_denoising_diffusion(
        Discrete(stated, lambda x, t: torch.cat([noise(x, t), torch.ones_like(x)], 1), does="pred_noise")
    )
    assert model.prediction == "eps"
    check(model)


def test_an_estimate_of_no_type_is_refused() -> None:
    network = network_of(DDPM(BETAS.double()), "eps")
    with pytest.raises(ValueError, match="Discrete makes an estimate of its network's output that is none of noise"):
        from_denoising_diffusion(Discrete("pred_noise", network, wrong=0.1))
    guided = Discrete("pred_noise", network)
    guided.p_mean_variance = lambda x, t, classes, clip_denoised=True: None
    with pytest.raises(ValueError, match=r"step of Discrete takes something else than a state and a time .*classes"):
        from_denoising_diffusion(guided)
    looped = Discrete("pred_noise", network)
    looped.self_condition = True
    with pytest.raises(ValueError, match="shown its own last estimate"):
        from_denoising_diffusion(looped)
    with pytest.raises(ValueError, match="SimpleNamespace is no diffusion"):
        from_denoising_diffusion(SimpleNamespace(objective="pred_mean"))


class Continuous(nn.Module):
    """What ContinuousTimeGaussianDiffusion states; its network is told the log-SNR."""

    def __init__(self, kind: Prediction) -> None:
        super().__init__()
        self.model = network_of(lambda snr: NoiseLevel(snr.sigmoid().sqrt(), (-snr).sigmoid().sqrt()), kind)
        self.kind, self.channels, self.image_size, self.device = kind, 1, 4, torch.device("cpu")

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(1e-4 + 10 * t**2))

    def p_mean_variance(self, x: Tensor, time: Tensor, time_next: Tensor) -> tuple[Tensor, None]:
        """q(x_s | x_t, x_0) of the clipped estimate, by Bayes for a pair of levels."""
        (a, s), (b, r) = ((v.sigmoid().sqrt(), (-v).sigmoid().sqrt()) for v in map(self.log_snr, (time, time_next)))
        out = self.model(x, self.log_snr(time).expand(len(x)))
        start = (x - s * out) / a if self.kind == "eps" else a * x - s * out
        ratio, spread = a / b, s**2 - (a / b * r) ** 2
        return (ratio * r**2 * x + b * spread * start.clamp(-1, 1)) / s**2, None


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_denoising_diffusion_pytorch_in_continuous_time(kind: Prediction) -> None:
    model = from_denoising_diffusion(Continuous(kind))
    assert model.prediction == kind
    check(model)


def test_k_diffusion() -> None:
    denoiser = network_of(EDM(), "x0")
    check(from_k_diffusion(denoiser, SHAPE))
    denoiser.sigma_min, denoiser.sigma_max = torch.tensor(0.03), torch.tensor(14.6)
    assert from_k_diffusion(denoiser, SHAPE).schedule == EDM(float(torch.tensor(0.03)), float(torch.tensor(14.6)))
    assert from_k_diffusion(denoiser, SHAPE, 0.1, 9.0).schedule == EDM(0.1, 9.0)


def test_azula() -> None:
    def rectified(t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - 0.999 * t, 0.001 + 0.999 * t

    class Denoiser(nn.Module):
        schedule = staticmethod(rectified)

        def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
            return SimpleNamespace(mean=network_of(lambda t: NoiseLevel(*rectified(t)), "x0")(x, t))

    check(from_azula(Denoiser(), SHAPE))


def vp_path(t: Tensor) -> SimpleNamespace:
    """The VP path with its data at t = 1, and rates by differences."""

    def pair(t: Tensor) -> tuple[Tensor, Tensor]:
        integral = 0.1 * (1 - t) + 9.95 * (1 - t) ** 2
        return (-integral / 2).exp(), (-torch.expm1(-integral)).sqrt()

    (alpha, sigma), h = pair(t), 1e-6
    rise, fall = ((b - a) / (2 * h) for a, b in zip(pair(t - h), pair(t + h), strict=True))
    return SimpleNamespace(alpha_t=alpha, sigma_t=sigma, d_alpha_t=rise, d_sigma_t=fall)


def straight(t: Tensor) -> SimpleNamespace:
    return SimpleNamespace(alpha_t=t, sigma_t=1 - t, d_alpha_t=torch.ones_like(t), d_sigma_t=-torch.ones_like(t))


@pytest.mark.parametrize("path", [vp_path, straight])
def test_flow_matching(path: Callable[[Tensor], SimpleNamespace]) -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        """alpha' x0 + sigma' eps, with x0 and eps as the Gaussian expects them."""
        at = path(t.double())
        level = NoiseLevel(at.alpha_t, at.sigma_t)
        denoised, eps = (network_of(path_level, kind)(x, t).double() for kind in ("x0", "eps"))
        assert torch.equal(path_level(t).sigma, level.sigma)
        rates = (rate.reshape(-1, 1, 1, 1) for rate in (at.d_alpha_t, at.d_sigma_t))
        rise, fall = rates
        return (rise * denoised + fall * eps).float()

    def path_level(t: Tensor) -> NoiseLevel:
        at = path(t.double())
        return NoiseLevel(at.alpha_t, at.sigma_t)

    model = from_flow_matching(velocity, SHAPE, path)
    assert model.name == "velocity"
    check(model)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_edm_preconditioning_of_any_network(shape: tuple[int, ...]) -> None:
    """Around F of data of standard deviation .5, at any rank: c_skip, c_out, c_in and c_noise of Karras22, table 1."""
    seen: list[Tensor] = []

    def inner(x: Tensor, noise: Tensor) -> Tensor:
        seen.append(noise)
        return x.sin()

    class F(nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return inner(x, noise)

    model = wrap(Preconditioned(F()), shape, EDM(), "x0")
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    for sigma in (0.01, 0.7, 40.0):
        total = sigma**2 + 0.25
        expected = 0.25 / total * x + sigma * 0.5 / math.sqrt(total) * (x / math.sqrt(total)).sin()
        assert_close(model(x, EDM()(sigma)), expected)
        assert_close(seen[-1], torch.full((2,), math.log(sigma) / 4))
    one = wrap(Preconditioned(F(), EDMScaling(sigma_data=1.0)), shape, EDM(), "x0")
    assert_close(one(x, EDM()(1.0)), x / 2 + (x / math.sqrt(2)).sin() / math.sqrt(2))


# Their own objects


class Net(nn.Module):
    """Every answer depends on the state and on the time."""

    def __init__(self, out: int = 1) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(out, 1, 3, 3, generator=made) / 3)
        self.channels, self.out_dim = 1, out
        self.self_condition, self.random_or_learned_sinusoidal_cond = False, False

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Any = None) -> Tensor:
        wave = torch.sin(t.to(x).reshape(-1, 1, 1, 1) / 7)
        return nn.functional.conv2d(x, self.weight, padding=1) * (1 + wave) + wave


X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_v", "pred_x0"])
def test_their_gaussian_diffusion(schedule: str, objective: str) -> None:
    library = pytest.importorskip("denoising_diffusion_pytorch")
    theirs = library.GaussianDiffusion(Net(), image_size=4, objective=objective, beta_schedule=schedule)
    model = from_denoising_diffusion(theirs)
    for t in (900, 500, 20):
        level = NoiseLevel(theirs.sqrt_alphas_cumprod[t], theirs.sqrt_one_minus_alphas_cumprod[t])
        expected = theirs.model_predictions(X.reshape(2, *SHAPE), torch.full((2,), t)).pred_x_start
        assert_close(model(X, level), expected.flatten(1).detach(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_v", "pred_x0"])
def test_their_learned_variance(objective: str) -> None:
    library = pytest.importorskip("denoising_diffusion_pytorch.learned_gaussian_diffusion")
    theirs = library.LearnedGaussianDiffusion(Net(2), image_size=4, objective=objective)
    model = from_denoising_diffusion(theirs)
    for t in (900, 500, 20):
        level = NoiseLevel(theirs.sqrt_alphas_cumprod[t], theirs.sqrt_one_minus_alphas_cumprod[t])
        expected = theirs.p_mean_variance(x=X.reshape(2, *SHAPE), t=torch.full((2,), t), clip_denoised=False)[3]
        assert_close(model(X, level), expected.flatten(1).detach(), rtol=2e-3, atol=2e-3)


def test_their_other_diffusions() -> None:
    library = pytest.importorskip("denoising_diffusion_pytorch")
    net = Net()
    net.random_or_learned_sinusoidal_cond = True
    elucidated = library.ElucidatedDiffusion(net, image_size=4, channels=1)
    expected = elucidated.preconditioned_network_forward(X.reshape(2, *SHAPE), 0.8).flatten(1).detach()
    assert_close(from_denoising_diffusion(elucidated)(X, EDM()(0.8)), expected, rtol=1e-5, atol=1e-5)
    for kind, theirs in (
        ("eps", library.ContinuousTimeGaussianDiffusion(net, image_size=4, channels=1)),
        ("v", library.VParamContinuousTimeGaussianDiffusion(net, image_size=4, channels=1)),
    ):
        model = from_denoising_diffusion(theirs)
        snr = theirs.log_snr(torch.tensor(0.3)).detach()
        alpha, sigma = snr.sigmoid().sqrt(), (-snr).sigmoid().sqrt()
        out = net(X.reshape(2, *SHAPE), snr.expand(2)).flatten(1).detach()
        expected = (X - sigma * out) / alpha if kind == "eps" else alpha * X - sigma * out
        assert model.prediction == kind
        assert_close(model(X, NoiseLevel(alpha, sigma)), expected, rtol=1e-3, atol=1e-3)


def test_their_k_diffusion_denoisers() -> None:
    external = pytest.importorskip("k_diffusion.external")
    bar = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    for theirs in (
        external.VDenoiser(Net()),
        external.DiscreteEpsDDPMDenoiser(Net(), bar, quantize=False),
        external.DiscreteVDDPMDenoiser(Net(), bar, quantize=False),
    ):
        model = from_k_diffusion(theirs, SHAPE)
        for sigma in (0.05, 1.3, 9.0):
            expected = theirs(X.reshape(2, *SHAPE), torch.full((2,), sigma)).flatten(1).detach()
            assert_close(model(X, EDM()(sigma)), expected, rtol=1e-4, atol=1e-4)


def test_their_azula_denoisers() -> None:
    denoise, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
    for schedule in (noise.VPSchedule(), noise.CosineSchedule(), noise.RectifiedSchedule(), noise.VESchedule()):
        for make in (denoise.SimpleDenoiser, denoise.KarrasDenoiser):
            theirs = make(Net(), schedule)
            t = torch.full((2,), 0.4)
            alpha, sigma = (float(value[0]) for value in schedule(t.double()))
            expected = theirs(X.reshape(2, *SHAPE), t).mean.flatten(1).detach()
            model = from_azula(theirs, SHAPE)
            level = NoiseLevel(torch.tensor(alpha), torch.tensor(sigma))
            assert_close(model(X, level), expected, rtol=1e-4, atol=1e-4)


def test_their_flow_matching_paths() -> None:
    path, schedulers = pytest.importorskip("flow_matching.path"), pytest.importorskip("flow_matching.path.scheduler")
    for scheduler in (
        schedulers.CondOTScheduler(),
        schedulers.PolynomialConvexScheduler(2),
        schedulers.VPScheduler(),
        schedulers.CosineScheduler(),
    ):
        net, t = Net(), torch.full((2,), 0.6)

        def velocity(x: Tensor, t: Tensor, net: nn.Module = net) -> Tensor:
            return net(x, t)

        at = scheduler(t.double())
        level = NoiseLevel(at.alpha_t[0], at.sigma_t[0])
        one = torch.tensor(0.6, dtype=torch.float64)
        expected = path.AffineProbPath(scheduler).velocity_to_target(
            net(X.reshape(2, *SHAPE), t), X.reshape(2, *SHAPE), one
        )
        model = from_flow_matching(velocity, SHAPE, scheduler)
        assert_close(model(X, level), expected.flatten(1).detach().float(), rtol=1e-4, atol=1e-4)
