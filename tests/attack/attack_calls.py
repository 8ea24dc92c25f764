"""Cases for the Python interface: each function as it works, with one argument given a value of the grammar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

import underpaint as up
from underpaint.metrics.frechet import Statistics, frechet_distance
from underpaint.noise import NoiseLevel
from underpaint.theory.local import LocalCloud, Smoothed

D, B = 12, 5
#: (value, fits): see `attack_values.Value`.
Given = tuple[Any, bool | None]


@dataclass(frozen=True)
class Call:
    """One call, as `attack_cases.Case` is one of the command line."""

    what: str
    call: Callable[[], Any]
    fits: bool | None = False


def rows(count: int = B, dimension: int = D, seed: int = 0) -> Tensor:
    """Rows of a standard normal, float32."""
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def of_rows(right: Tensor, rng: Random, finite: bool = True, narrow: bool | None = False) -> Iterator[Given]:
    """Tensors in the place of rows; NaN is among them only where it has to be refused."""
    kinds = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
    yield from ((right.to(kind), False) for kind in kinds)
    yield from ((right.to(kind), None) for kind in (torch.float64,))
    shapes = (right[0], right[0, 0], right.unsqueeze(0), right.unsqueeze(2), right[:, :0])
    yield from ((shape, False) for shape in shapes)
    yield right[:, :-1], narrow
    if finite:
        for value in (math.nan, math.inf, -math.inf):
            holed = right.clone()
            holed.view(-1)[rng.randrange(right.numel())] = value
            yield holed, False
        yield right[:0], False


def of_count(low: int, high: int, rng: Random) -> Iterator[Given]:
    """Numbers in the place of a whole number from low to high."""
    yield from ((low - 1 - beyond, False) for beyond in (0, 1, rng.randrange(2, 10**6)))
    yield from ((high + 1 + beyond, False) for beyond in (0, rng.randrange(10**6), 10**12, 10**30))
    yield from ((odd, False) for odd in (math.nan, math.inf, low + 0.5))
    yield from ((fit, None) for fit in {low, min(low + 1, high)})


def of_number(low: float, high: float, rng: Random) -> Iterator[Given]:
    """Numbers in the place of one strictly between low and high."""
    yield from ((odd, False) for odd in (math.nan, math.inf, -math.inf))
    if math.isfinite(low):
        yield from ((odd, False) for odd in (low, low - rng.random() - 1e-3, -1e30))
    if math.isfinite(high):
        yield from ((odd, False) for odd in (high + 1, 1e30))


def of_seeds(rng: Random) -> Iterator[Given]:
    """Sequences in the place of seeds."""
    odd: list[Any] = [(), [], range(0), (-1,), (2**32,), (10**30,), (0.5,), (math.nan,), (None,), (True,), range(10**9)]
    yield from ((value, False) for value in [*odd, (0, -rng.randrange(1, 99)), ("0",)])
    yield (0, 2**32 - 1), None


def of_names(*right: str) -> Iterator[Given]:
    """Texts in the place of one of some names."""
    odd: list[Any] = ["", "x", right[0].upper(), right[0] + " ", None, 0]
    yield from ((value, False) for value in odd)
    yield from ((value, None) for value in right)


def of_labels(count: int) -> Iterator[Given]:
    """Tensors in the place of labels [N]."""
    right = torch.arange(count) % 2
    odd = (right[:-1], right.unsqueeze(1), right[:0], torch.arange(count), right.double().fill_(math.nan), right + 0.5j)
    yield from ((value, False) for value in odd)


def calls(rng: Random) -> Iterator[Call]:
    """All cases of a seed."""
    for name, (call, arguments) in table(rng).items():
        right = {key: value for key, (value, _) in arguments.items()}
        yield Call(f"{name}: as it is", partial(call, **right), None)
        for key, (_, odd) in arguments.items():
            for value, fits in odd:
                yield Call(f"{name} {key}={_short(value)}", partial(call, **{**right, key: value}), fits)
    yield from _denoisers()


def _short(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:40]


def _denoisers() -> Iterator[Call]:
    """Functions that are no denoisers, in the place of one."""
    x, level = rows(), up.EDM().grid(4)
    odd: dict[str, Callable[[Tensor, NoiseLevel], Any]] = {
        "one row for all": lambda x, level: x[:1],
        "no batch": lambda x, level: x[0],
        "one number a row": lambda x, level: x[:, :1],
        "whole numbers": lambda x, level: x.long(),
        "NaN": lambda x, level: x * math.nan,
        "infinity": lambda x, level: x * math.inf,
        "another axis": lambda x, level: x.unsqueeze(1),
        "complex numbers": lambda x, level: x.to(torch.complex64),
    }
    gaussian = up.Gaussian.fit(rows(50))
    for name, denoise in odd.items():
        for solver in (up.euler, up.heun, up.dpmpp_2m, up.dpmpp_3m, up.gaussian_exponential(gaussian, 2, True)):
            yield Call(f"sample denoiser: {name}", lambda d=denoise, s=solver: up.sample(d, x, level, s).x)
        yield Call(f"teleport denoiser: {name}", lambda d=denoise: up.teleport(gaussian, d, x, level, 1).x)
        yield Call(f"choose_skip denoiser: {name}", lambda d=denoise: up.choose_skip(d, gaussian, level).skip)
        yield Call(
            f"fit_from_model denoiser: {name}",
            lambda d=denoise: up.fit_from_model(d, D, up.EDM()(torch.tensor(9.0)), 3).mean,
        )


def table(rng: Random) -> dict[str, tuple[Callable[..., Any], dict[str, tuple[Any, Iterator[Given]]]]]:
    """name -> (function, argument -> (a right value, odd ones))."""
    x, data, level, schedule = rows(), rows(60, seed=1), up.EDM().grid(4), up.EDM()
    gaussian, labels = up.Gaussian.fit(data), torch.arange(60) % 2
    mixture, cloud = up.Mixture.fit(data, labels), up.PointCloud(data)
    low = gaussian.truncate(3)
    model = _model()
    one = level[1]
    images = torch.zeros(2, 3, 2, 2)
    listed: dict[str, Any] = {
        "initial_noise": (
            lambda seeds, dimension, dtype: up.initial_noise(seeds, dimension, level[0], dtype),
            {
                "seeds": (range(3), of_seeds(rng)),
                "dimension": (D, of_count(1, 2**40, rng)),
                "dtype": (torch.float32, iter([(torch.int64, False), (torch.bool, False), (torch.float64, None)])),
            },
        ),
        "sample": (
            lambda x, every: up.sample(gaussian, x, level, every=every).x,
            {"x": (x, of_rows(x, rng)), "every": (1, of_count(1, 2**31, rng))},
        ),
        "teleport": (
            lambda x, skip: up.teleport(gaussian, gaussian, x, level, skip).x,
            {"x": (x, of_rows(x, rng)), "skip": (1, of_count(0, 3, rng))},
        ),
        "steps_above": (lambda ratio: up.steps_above(level, ratio), {"ratio": (3.0, of_number(0, math.inf, rng))}),
        "respend": (lambda ratio: up.respend(schedule, level, ratio).sigma, {"ratio": (3.0, of_number(0, 80, rng))}),
        "choose_skip": (
            lambda seeds, tolerance: up.choose_skip(gaussian, gaussian, level, seeds, tolerance).skip,
            {"seeds": (range(2), of_seeds(rng)), "tolerance": (0.1, of_number(0, math.inf, rng))},
        ),
        "NoiseLevel": (
            lambda alpha, sigma: up.NoiseLevel(alpha, sigma).log_ratio.exp(),
            {
                "alpha": (torch.ones(3), of_levels()),
                "sigma": (torch.ones(3), of_levels()),
            },
        ),
        "Gaussian.fit": (
            lambda data, rank: up.Gaussian.fit(data, rank).eigenvalues,
            {"data": (data, of_rows(data, rng, narrow=None)), "rank": (3, of_count(0, D, rng))},
        ),
        "Gaussian.isotropic": (
            lambda mean, variance: up.Gaussian.isotropic(mean, variance).denoise(x, one),
            {"mean": (torch.zeros(D), of_vectors(D)), "variance": (1.0, of_variances())},
        ),
        "Gaussian.truncate": (lambda rank: gaussian.truncate(rank).eigenvalues, {"rank": (2, of_count(0, D, rng))}),
        "Gaussian.sample": (lambda count: gaussian.sample(count), {"count": (2, of_count(0, 2**40, rng))}),
        "Moments.of": (lambda data: up.Moments.of(data).covariance, {"data": (data, of_rows(data, rng, narrow=None))}),
        "Mixture.fit": (
            lambda data, labels, rank: up.Mixture.fit(data, labels, rank).eigenvalues,
            {
                "data": (data, of_rows(data, rng, narrow=None)),
                "labels": (labels, of_labels(60)),
                "rank": (3, of_count(0, D, rng)),
            },
        ),
        "Mixture": (
            lambda weights: up.Mixture(weights, mixture.components).denoise(x, one),
            {"weights": (torch.ones(2), of_vectors(2, positive=True))},
        ),
        "PointCloud": (lambda points: up.PointCloud(points).denoise(x, one), {"points": (data, of_points(data, rng))}),
        "PointCloud.of_class": (
            lambda label: up.PointCloud.of_class(data, labels, label).mean,
            {"label": (1, iter([(2, False), (-1, False), (10**30, False), (0.5, False), (math.nan, False)]))},
        ),
        "Covariance": (
            lambda values, basis, residual: up.Covariance(values, basis, residual).eigenvalues,
            {
                "values": (torch.ones(3), of_vectors(3, variances=True)),
                "basis": (torch.eye(D)[:, :3], of_rows(torch.eye(D)[:, :3], rng)),
                "residual": (0.1, of_variances()),
            },
        ),
        "guide": (
            lambda weight: up.guide(gaussian, gaussian, weight)(x, one),
            {"weight": (2.0, of_number(-math.inf, 1000, rng))},
        ),
        "guided_gaussian": (
            lambda weight: up.guided_gaussian(gaussian, gaussian, weight).mean,
            {"weight": (2.0, of_number(-math.inf, 1000, rng))},
        ),
        "to_denoised": (
            lambda output, x, kind: up.to_denoised(output, x, one, kind),
            {
                "output": (x, of_outputs(x)),
                "x": (x, of_outputs(x)),
                "kind": ("eps", of_names("x0", "eps", "v", "flow", "score")),
            },
        ),
        "gaussian_exponential": (
            lambda order, end: up.sample(gaussian, x, level, up.gaussian_exponential(gaussian, order, ending=end)).x,
            {"order": (1, of_count(1, 3, rng)), "end": ("flow", of_names("flow", "denoised"))},
        ),
        "find_solver": (lambda name: up.find_solver(name), {"name": ("ddim", of_names("ddim", "heun"))}),
        "Model": (lambda x: model(x, one), {"x": (x, of_rows(x, rng, finite=False))}),
        "Model.images": (
            lambda rows: model.images(rows),
            {"rows": (x, iter([(x[:, :-1], False), (x.long(), False), (x[..., :0], False), (x.bool(), False)]))},
        ),
        "Model.rows": (
            lambda images: model.rows(images),
            {"images": (images, iter([(images[0], False), (images.byte(), False), (images[:, :1], False)]))},
        ),
        "Model.conditional": (
            lambda label, guidance, negative: model.conditional(label, guidance, negative)(x, one),
            {
                "label": (1, iter([*of_count(0, 2, rng), ("a dog", False), (True, False), (None, False)])),
                "guidance": (2.0, of_number(-math.inf, 1000, rng)),
                "negative": (0, iter([*of_count(0, 3, rng), ("a dog", False), (torch.ones(3), False)])),
            },
        ),
        "Model.holding": (
            lambda label: model.holding(label)(x, one),
            {"label": (1, iter([*of_count(0, 2, rng), ("a dog", False), (None, False)]))},
        ),
        "wrap": (
            lambda shape, prediction, time, classes, null, data_range, batch: up.wrap(
                lambda x, t, c=None: x, shape, schedule, prediction, time=time, classes=classes, null_class=null,
                data_range=data_range, batch=batch,
            )(x, one),
            {
                "shape": ((3, 2, 2), of_shapes()),
                "prediction": ("eps", of_names("eps", "x0")),
                "time": ("sigma", iter([(time, False) for time in ("", "t", math.nan, math.inf, None)])),
                "classes": (3, iter([(-1, False), (0.5, False), (math.nan, False)])),
                "null": (2, iter([(-1, False), (10**30, False), (0.5, False)])),
                "data_range": ((-1.0, 1.0), iter([((1, -1), False), ((0, 0), False), ((0, math.nan), False),
                                                ((-math.inf, 1), False), ((0, 1, 2), False), ((), False)])),
                "batch": (4, of_count(1, 2**31, rng)),
            },
        ),
        "frechet_distance": (
            lambda mean, covariance: frechet_distance(
                Statistics("a", mean, covariance, 9), Statistics("a", torch.zeros(3).double(), torch.eye(3).double(), 9)
            ),
            {
                "mean": (torch.zeros(3).double(), of_vectors(3)),
                "covariance": (torch.eye(3).double(), of_matrices()),
            },
        ),
        "fit_from_model": (
            lambda dimension, rank, points, sweeps: up.fit_from_model(
                gaussian, dimension, schedule(torch.tensor(20.0)), rank, points=points, sweeps=sweeps
            ).eigenvalues,
            {
                "dimension": (D, iter([(0, False), (-1, False), (D + 1, False), (1.5, False)])),
                "rank": (2, of_count(1, D, rng)),
                "points": (2, of_count(1, 10**6, rng)),
                "sweeps": (2, of_count(1, 10**6, rng)),
            },
        ),
        "fit_from_samples": (
            lambda count, rank, seed: up.fit_from_samples(gaussian, D, level, count, rank, seed=seed).mean,
            {
                "count": (30, of_count(2, 10**6, rng)),
                "rank": (2, of_count(1, D, rng)),
                "seed": (0, iter([(-1, False), (2**32, False), (0.5, False), (math.nan, False)])),
            },
        ),
        "calibrate": (
            lambda calls, seeds, held, fine, effort: up.calibrate(
                low, low, schedule, calls, seeds, held, fine=fine, effort=effort
            ).plans[0].calls,
            {
                "calls": ((2,), iter([((), False), ((0,), False), ((1,), False), ((10**30,), False), ((2.5,), False)])),
                "seeds": ((0, 1), of_seeds(rng)),
                "held": ((5, 6), iter([((), False), ((0,), False), ((-1,), False), ((2**32,), False)])),
                "fine": (20, of_count(4, 10**5, rng)),
                "effort": (2, of_count(0, 10**6, rng)),
            },
        ),
        "LocalCloud.patches": (
            lambda size: LocalCloud.patches(data, (3, 2, 2), size).denoise(x, one),
            {"size": (1, of_count(1, 10**5, rng))},
        ),
        "Smoothed": (
            lambda width, draws: Smoothed(gaussian, width, draws)(x, one),
            {"width": (0.1, of_variances()), "draws": (2, of_count(1, 10**5, rng))},
        ),
    }  # fmt: skip
    for name, known in (("Gaussian", gaussian), ("low rank", low), ("Mixture", mixture), ("PointCloud", cloud)):
        for method in ("denoise", "score", "log_prob"):
            call = getattr(known, method, None)
            if call is not None:
                listed[f"{name}.{method}"] = (
                    lambda x, call=call: call(x, one),
                    {"x": (x, of_rows(x, rng, finite=False))},
                )
    for name, made in {
        "DDPM": lambda steps, start: up.DDPM().grid(steps, start),
        "EDM": lambda steps, start: up.EDM().grid(steps, start),
        "Flow": lambda steps, start: up.Flow().grid(steps, start),
        "VPSDE": lambda steps, start: up.VPSDE().grid(steps, start),
    }.items():
        listed[f"{name}.grid"] = (
            lambda steps, start, made=made: made(steps, start).sigma,
            {
                "steps": (4, of_count(1, 10**5, rng)),
                "start": (3.0, iter([(math.nan, False), (0.0, False), (-1.0, False)])),
            },
        )
    listed["DDPM"] = (
        lambda steps, first, last: up.DDPM("linear", steps, first, last).grid(3).sigma,
        {
            "steps": (1000, of_count(2, 10**6, rng)),
            "first": (1e-4, of_number(0, 1, rng)),
            "last": (0.02, of_number(0, 1, rng)),
        },
    )
    listed["EDM"] = (
        lambda low, high, rho: up.EDM(low, high, rho).grid(3).sigma,
        {"low": (0.01, of_number(0, 80, rng)), "high": (80.0, of_number(0.01, math.inf, rng)),
         "rho": (7.0, iter([(math.nan, False), (0.0, False), (-7.0, False), (math.inf, None)]))},
    )  # fmt: skip
    listed["Flow"] = (lambda shift: up.Flow(shift).grid(3).sigma, {"shift": (1.0, of_number(0, math.inf, rng))})
    return listed


def of_shapes() -> Iterator[Given]:
    """In the place of the shape of a state."""
    odd: list[Any] = [(), (0, 2), (-3, 2, 2), (3, 2.0, 2), ("3",), (3, 4, 5), (True, 12)]
    yield from ((value, False) for value in odd)


def of_levels() -> Iterator[Given]:
    """In the place of three alphas or sigmas."""
    odd = ([1, math.nan, 1], [1, math.inf, 1], [1, -1, 1], [1, 1], [[1, 1]])
    yield from ((torch.tensor(value), False) for value in odd)
    yield from ((value, False) for value in (math.nan, -1.0, torch.ones(3, dtype=torch.complex64)))


def of_vectors(length: int, positive: bool = False, variances: bool = False) -> Iterator[Given]:
    """In the place of a vector of numbers."""
    right = torch.ones(length)
    for value in (math.nan, math.inf, *((-1.0,) if positive or variances else ()), *((0.0,) if positive else ())):
        holed = right.clone()
        holed[1] = value
        yield holed, False
    yield from ((odd, False) for odd in (right[:-1], right.unsqueeze(0), right[0], right.to(torch.complex64)))


def of_variances() -> Iterator[Given]:
    """In the place of a variance."""
    yield from ((value, False) for value in (math.nan, math.inf, -math.inf, -1e-3, -1e30))
    yield 0.0, None


def of_matrices() -> Iterator[Given]:
    """In the place of a covariance of three dimensions."""
    right = torch.eye(3).double()
    upper = right.clone()
    upper[0, 2] = 1
    odd = (-right, upper, right[:2], right[:2, :2], right * math.nan, right * math.inf, right[0], right.unsqueeze(0))
    yield from ((value, False) for value in odd)


def of_outputs(x: Tensor) -> Iterator[Given]:
    """In the place of what a network put out, or of its states."""
    yield from ((value, False) for value in (x[:1], x[0], x[:, :-1], x.long(), x.bool(), x.to(torch.complex64)))


def of_points(data: Tensor, rng: Random) -> Iterator[Given]:
    """In the place of data points, which may be bytes."""
    yield from ((value, fits) for value, fits in of_rows(data, rng) if value.dtype != torch.uint8)


def _model() -> up.Model:
    """A network of 3 x 2 x 2 with three classes and one for any."""

    def network(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return 0.5 * x if label is None else 0.5 * x + label.to(x).view(-1, 1, 1, 1)

    return up.wrap(network, (3, 2, 2), up.EDM(), "x0", time="sigma", classes=3, null_class=3)
