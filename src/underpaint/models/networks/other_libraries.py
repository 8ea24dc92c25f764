"""Networks of other libraries as models: a few lines each, which say in `wrap`'s words what those libraries state.

No library is imported: what is used of an object is its documented call and attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...noise import DDPM, EDM, NoiseLevel
from ...prediction import Prediction
from ...schedules import Interpolant
from ..model import Model
from ..wrap import wrap

#: denoising-diffusion-pytorch's names of what a network predicts
_OBJECTIVES: dict[str, Prediction] = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}


def from_denoising_diffusion(diffusion: Any) -> Model:
    """A model of denoising-diffusion-pytorch: a ``GaussianDiffusion``, a ``LearnedGaussianDiffusion``, an
    ``ElucidatedDiffusion``, or a ``ContinuousTimeGaussianDiffusion`` (of noise or v).

    What its network predicts is told from one of its own steps. ``objective`` does not always say it: a
    ``LearnedGaussianDiffusion`` predicts noise whatever stands there.

    Raises:
        ValueError: the network is conditioned on its own estimate or on classes, or a step makes of its output what no
            type of prediction does.

    Examples:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> import underpaint as up
        >>> betas = torch.linspace(1e-4, 0.02, 1000)
        >>> bar = (1 - betas).cumprod(0)
        >>> def network(x, t):  # predicts the noise in unit Gaussian data
        ...     return (1 - bar[t.long()]).sqrt().view(-1, 1, 1, 1) * x
        ...
        >>> def p_mean_variance(x, t, clip_denoised):
        ...     at, before, beta = (value[t].view(-1, 1, 1, 1) for value in (bar, bar.roll(1), betas))
        ...     start = (x - (1 - at).sqrt() * network(x, t)) / at.sqrt()
        ...     mean = before.sqrt() * beta * start + (1 - beta).sqrt() * (1 - before) * x
        ...     return mean / (1 - at), None
        ...
        >>> diffusion = SimpleNamespace(  # what GaussianDiffusion states of itself
        ...     model=network,
        ...     betas=betas,
        ...     objective="pred_noise",
        ...     channels=3,
        ...     image_size=8,
        ...     normalize=lambda x: 2 * x - 1,
        ...     p_mean_variance=p_mean_variance,
        ... )
        >>> up.from_denoising_diffusion(diffusion).shape
        (3, 8, 8)
    """
    if getattr(diffusion, "self_condition", False):
        raise ValueError(
            f"{type(diffusion).__name__} has a network that is shown its own last estimate (self_condition); such a "
            "network is no function of the state alone, and has no denoiser."
        )
    if hasattr(diffusion, "preconditioned_network_forward"):
        return _elucidated(diffusion)
    if hasattr(diffusion, "log_snr"):
        return _continuous(diffusion)
    if getattr(diffusion, "objective", None) not in _OBJECTIVES or not hasattr(diffusion, "betas"):
        raise ValueError(
            f"{type(diffusion).__name__} is no diffusion of denoising-diffusion-pytorch that is known here; wrap its "
            "network and state its schedule and prediction type."
        )
    return _discrete(diffusion)


def _discrete(diffusion: Any) -> Model:
    # what it makes of data that are given in [0, 1]
    low, high = diffusion.normalize(torch.tensor([0.0, 1.0])).tolist()
    shape = (diffusion.channels, *_pair(diffusion.image_size))
    schedule, t = DDPM(diffusion.betas.detach().double().cpu()), len(diffusion.betas) // 2
    here, there = schedule(float(t)), schedule(float(t - 1))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(diffusion.betas.device)
    try:
        with torch.no_grad():
            mean = diffusion.p_mean_variance(x=x, t=torch.full((2,), t, device=x.device), clip_denoised=False)[0]
    except TypeError as error:  # a step that takes classes, too, or another library's
        raise ValueError(
            f"The step of {type(diffusion).__name__} takes something else than a state and a time ({error}); wrap its "
            "network and state its schedule and prediction type."
        ) from error
    theirs = _estimate_in_step(mean, x, here, there)
    stated = _OBJECTIVES[diffusion.objective]
    for kind in sorted(_OBJECTIVES.values(), key=lambda kind: kind != stated):
        model = wrap(diffusion.model, shape, schedule, kind, data_range=(low, high), name=type(diffusion).__name__)
        if _agree(model(x.flatten(1), here), theirs):
            return model
    raise _unlike(diffusion)


def _elucidated(diffusion: Any) -> Model:
    return wrap(
        lambda x, sigma: diffusion.preconditioned_network_forward(x, sigma),
        (diffusion.channels, *_pair(diffusion.image_size)),
        EDM(float(diffusion.sigma_min), float(diffusion.sigma_max), float(diffusion.rho)),
        "x0",
        name=type(diffusion).__name__,
    )


def _continuous(diffusion: Any) -> Model:
    def log_snr(t: Tensor) -> Tensor:
        with torch.no_grad():
            return diffusion.log_snr(t.to(diffusion.device, torch.float32)).double().cpu()

    schedule = Interpolant(lambda t: log_snr(t).sigmoid().sqrt(), lambda t: (-log_snr(t)).sigmoid().sqrt())
    shape = (diffusion.channels, *_pair(diffusion.image_size))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(diffusion.device)
    times = [torch.tensor(t, device=diffusion.device) for t in (0.5, 0.4)]
    with torch.no_grad():
        mean = diffusion.p_mean_variance(x, *times)[0]
    theirs = _estimate_in_step(mean, x, schedule(0.5), schedule(0.4)).clamp(-1, 1)
    for kind in ("eps", "v"):
        model = wrap(
            diffusion.model,
            shape,
            schedule,
            kind,
            time=lambda level: -2 * level.log_ratio,
            name=type(diffusion).__name__,
        )
        if _agree(model(x.flatten(1), schedule(0.5)).clamp(-1, 1), theirs):
            return model
    raise _unlike(diffusion)


def _estimate_in_step(mean: Tensor, x: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """The estimate of x0 that an ancestral step from x uses: the mean of the next state is alpha' (x (1 - c)/alpha +
    c x0), with c the share of the noise that goes."""
    share = float(1 - (there.ratio / here.ratio) ** 2)
    return (mean / float(there.alpha) - x * (1 - share) / float(here.alpha)) / share


def from_k_diffusion(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Model:
    """A denoiser of k-diffusion: ``denoiser(x, sigma)`` with sigma [B] gives E[x0 | x] of x = x0 + sigma eps.

    Args:
        shape: (C, H, W) of one state.
        sigma_min, sigma_max: its range; by default its own, or that of Karras22 for a denoiser that states none.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> def denoiser(x, sigma):  # of unit Gaussian data
        ...     return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)
        ...
        >>> model = up.from_k_diffusion(denoiser, shape=(3, 8, 8))
        >>> model(torch.ones(1, model.dimension), up.EDM()(1.0)).unique()
        tensor([0.5000])
    """
    usual = EDM()
    low = getattr(denoiser, "sigma_min", usual.sigma_min) if sigma_min is None else sigma_min
    high = getattr(denoiser, "sigma_max", usual.sigma_max) if sigma_max is None else sigma_max
    return wrap(denoiser, shape, EDM(float(low), float(high)), "x0", name=type(denoiser).__name__)


def from_azula(denoiser: Any, shape: Sequence[int]) -> Model:
    """A denoiser of azula: ``denoiser(x, t).mean`` is E[x0 | x], and ``denoiser.schedule(t)`` gives alpha and sigma
    for t from 0 (data) to 1 (noise).

    Examples:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> import underpaint as up
        >>> class Denoiser:  # of unit Gaussian data, with azula's call and attribute
        ...     def schedule(self, t):
        ...         return 1 - t, t
        ...     def __call__(self, x, t):
        ...         alpha, sigma = (value.view(-1, 1, 1, 1) for value in self.schedule(t))
        ...         return SimpleNamespace(mean=alpha * x / (alpha**2 + sigma**2))
        ...
        >>> model = up.from_azula(Denoiser(), shape=(3, 8, 8))
        >>> model(torch.ones(1, model.dimension), up.EDM()(1.0)).unique()
        tensor([0.5000])
    """
    schedule = Interpolant(lambda t: denoiser.schedule(t)[0], lambda t: denoiser.schedule(t)[1])
    return wrap(lambda x, t: denoiser(x, t).mean, shape, schedule, "x0", name=f"azula {type(denoiser).__name__}")


def from_flow_matching(
    velocity: Callable[..., Tensor], shape: Sequence[int], scheduler: Callable[[Tensor], Any]
) -> Model:
    """A velocity of Meta's flow_matching, ``velocity(x=x, t=t)``, and the scheduler of the path that it was trained on.

    Its time runs from 0 (noise) to 1 (data). With u = alpha' x0 + sigma' eps and x = alpha x0 + sigma eps, the estimate
    is x0 = (sigma' x - sigma u)/(alpha sigma' - sigma alpha'). Source: Lipman et al. 2024 (guide and code), table 1.

    Args:
        scheduler: gives an object with ``alpha_t``, ``sigma_t``, ``d_alpha_t`` and ``d_sigma_t`` at times [...], such
            as ``flow_matching.path.scheduler.CondOTScheduler()``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> import underpaint as up
        >>> def scheduler(t):  # what CondOTScheduler gives
        ...     one = torch.ones_like(t)
        ...     return SimpleNamespace(alpha_t=t, sigma_t=1 - t, d_alpha_t=one, d_sigma_t=-one)
        ...
        >>> def velocity(x, t):  # of unit Gaussian data
        ...     t = t.view(-1, 1, 1, 1)
        ...     return (2 * t - 1) * x / (t**2 + (1 - t) ** 2)
        ...
        >>> model = up.from_flow_matching(velocity, (3, 8, 8), scheduler)
        >>> model(torch.ones(1, model.dimension), up.EDM()(1.0)).unique()
        tensor([0.5000])
    """

    def denoised(x: Tensor, t: Tensor) -> Tensor:
        at = scheduler(t.double())
        alpha, sigma, rise, fall = (
            value.reshape(-1, *[1] * (x.ndim - 1)) for value in (at.alpha_t, at.sigma_t, at.d_alpha_t, at.d_sigma_t)
        )
        estimate = (fall * x - sigma * velocity(x=x, t=t)) / (alpha * fall - sigma * rise)
        return torch.where(sigma > 0, estimate, x / alpha).to(x)

    schedule = Interpolant(lambda t: scheduler(t).alpha_t, lambda t: scheduler(t).sigma_t, noise=0.0, data=1.0)
    name = str(getattr(velocity, "__name__", type(velocity).__name__))
    return wrap(denoised, shape, schedule, "x0", name=name)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours.reshape(theirs.shape), theirs, rtol=1e-2, atol=1e-3)


def _unlike(diffusion: Any) -> ValueError:
    return ValueError(
        f"{type(diffusion).__name__} makes an estimate of its network's output that is none of noise, x0 or v; wrap "
        "its network and state its schedule and prediction type."
    )
