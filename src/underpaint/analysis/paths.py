"""Paths of images between two: straight lines, arcs of noise, and strings that stay where a denoiser says images are.

A *string* is a chain of K states with fixed ends. It moves across itself, never along, until nothing pulls it sideways.
At temperature 0 each state follows the score at its level: the string becomes a minimum-energy path, which crosses from
one mode to another over the lowest saddle. At temperature 1 each state is the mean of the noisy data in the hyperplane
across the path: the string becomes a principal curve.

States are taken over alpha, x/alpha = x0 + (sigma/alpha) eps, so that the ends are the same at each level.

Sources: E, Ren & Vanden-Eijnden 2007 (simplified string method); Ren, Vanden-Eijnden, Maragakis & E 2005
(finite-temperature strings); Moreau, Coeurdoux, Ferre & Vanden-Eijnden 2026, arXiv 2602.22122 (on diffusion models).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bounds import integer, number, shown
from ..noise import NoiseLevel, preserving
from ..sampling.solvers import Solver
from ..sampling.trajectory import sample
from ..theory.denoiser import Denoiser, checked
from .density import flow_to_noise

#: Kinds of paths that `morph` finds.
KINDS = ("straight", "noise", "minimum-energy", "principal")
#: How it finds them, unless told: pictures, sigma/alpha, levels down to it and rounds at each, walkers of each point.
POINTS, RATIO, LEVELS, ROUNDS, WALKERS = 11, 0.3, 10, 6, 8


def straight(start: Tensor, end: Tensor, points: int) -> Tensor:
    """Equally spaced points on the line between two rows [D], ends included: [points, D]."""
    return torch.lerp(start, end, torch.linspace(0, 1, points).to(start).unsqueeze(1))


def great_circle(start: Tensor, end: Tensor, points: int) -> Tensor:
    """Equally spaced points on the arc between two rows [D], ends included: [points, D].

    sin((1-s) w) / sin w * a + sin(s w) / sin w * b with the angle w between them: of two noises, points that are as
    long as noise is. Source: Shoemake 1985.
    """
    a, b = start.double(), end.double()
    angle = torch.atan2((a / a.norm() - b / b.norm()).norm(), (a / a.norm() + b / b.norm()).norm()) * 2
    if float(angle.sin()) < 1e-6:  # the same direction, or opposite ones, between which no arc is singled out
        return straight(start, end, points)
    share = torch.linspace(0, 1, points, dtype=torch.float64, device=a.device).unsqueeze(1)
    arc = ((1 - share) * angle).sin() / angle.sin() * a + (share * angle).sin() / angle.sin() * b
    return arc.to(start)


def arc_lengths(path: Tensor) -> Tensor:
    """Length along a path [K, D] up to each of its points, [K] float64."""
    steps = path.diff(dim=0).double().norm(dim=1)
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def respace(path: Tensor) -> Tensor:
    """The same path [K, D] with its points at equal distances along it; the ends stay."""
    lengths = arc_lengths(path)
    if float(lengths[-1]) == 0:
        return path
    wanted = torch.linspace(0, 1, len(path), dtype=torch.float64, device=path.device) * lengths[-1]
    right = torch.searchsorted(lengths, wanted).clamp(1, len(path) - 1)
    gap = (lengths[right] - lengths[right - 1]).clamp(min=1e-300)
    share = ((wanted - lengths[right - 1]) / gap).clamp(0, 1).to(path).unsqueeze(1)
    return torch.cat([path[:1], torch.lerp(path[right - 1], path[right], share)[1:-1], path[-1:]])


def smooth(path: Tensor, share: float) -> Tensor:
    """Each point but the ends moved by a share of the way to the middle of its neighbours."""
    middle = (path[:-2] + path[2:]) / 2
    return torch.cat([path[:1], torch.lerp(path[1:-1], middle, share), path[-1:]])


def tangents(path: Tensor) -> Tensor:
    """Unit vectors [K, D] along a path, from each point's neighbours."""
    along = torch.cat([path[1:2] - path[:1], path[2:] - path[:-2], path[-1:] - path[-2:-1]])
    return along / along.norm(dim=1, keepdim=True).clamp(min=1e-30)


def across(vectors: Tensor, along: Tensor) -> Tensor:
    """The part of vectors [..., K, D] that is orthogonal to unit vectors [K, D]."""
    return vectors - (vectors * along).sum(-1, keepdim=True) * along


#: Share of the way to the middle of its neighbours that a point moves each round, where means over walkers are noisy.
SMOOTHING = 0.2


@dataclass(frozen=True, eq=False)
class Strung:
    """A path found by `pull_string`.

    Attributes:
        path: states over alpha [K, D], the ends as given.
        walkers: at temperature 1, noisy data in the hyperplane across each point [W, K, D], over alpha; else None.
        level: the last of the levels.
        pull: root mean square of what still pulls the string sideways, (D(x) - x) across the path, a number of the
            state, at each level.
    """

    path: Tensor
    walkers: Tensor | None
    level: NoiseLevel
    pull: Tensor


def pull_string(
    denoise: Denoiser,
    path: Tensor,
    level: NoiseLevel,
    walkers: int = 0,
    rounds: int = 8,
    rate: float = 0.5,
    seed: int = 0,
    callback: Callable[[], None] | None = None,
) -> Strung:
    """Pull a path [K, D] of data to where a denoiser has images, level by level from noisy to clean.

    Without walkers x <- x + rate (D(x) - x), sigma^2 times the score: evenly spaced again, the points come to rest
    where it runs along the path, a minimum-energy path of p_sigma. With W walkers for each point, y follow Langevin
    dynamics across the path, y <- D(y) + e^-h (y - D(y)) + sigma sqrt(1 - e^-2h) noise with h = rate, and
    x <- x + rate (mean D(y) - x): at rest x is the mean of p_sigma in its hyperplane, a principal curve. Between levels
    walkers take a step of the flow. After each round the points are spaced evenly again.

    The whole hyperplane counts: where a path bends so much that it meets other images there, walkers find these, too.
    The walkers of all points are given the same noise, so that the w-th of each make a path of noisy images.

    Args:
        denoise: called with W K (or K) rows at a time, walker by walker, each from the first point to the last.
        path: K >= 3 rows; the first and the last stay.
        level: levels from noisy to clean; sigma > 0.
        rounds: at each level.
        rate: 0 < rate <= 1.
        callback: called after each round.

    Raises:
        ValueError: fewer than three points, a level without noise, or a rate beyond its range.
    """
    _check_string(path, level, walkers, rounds, rate)
    asked, generator = checked(denoise), torch.Generator().manual_seed(seed)
    path, ratios = respace(path), level.ratio.to(path)

    def draw() -> Tensor:
        noise = torch.randn(walkers, path.shape[1], generator=generator, dtype=torch.float64)
        return noise.to(path).unsqueeze(1)

    def look(y: Tensor, i: int) -> Tensor:
        return asked(level.alpha[i].to(y) * y.flatten(0, 1), level[i]).view_as(y)

    along, pulls = tangents(path), []
    y = path + ratios[0] * across(draw().expand(-1, len(path), -1), along) if walkers else path.unsqueeze(0)
    for i in range(len(level)):
        kept, fresh = math.exp(-rate), math.sqrt(1 - math.exp(-2 * rate)) * ratios[i]
        for _ in range(rounds):
            denoised = look(y, i)
            pull = denoised.mean(0) - path
            moved = torch.cat([path[:1], (path + rate * (across(pull, along) if walkers else pull))[1:-1], path[-1:]])
            path = respace(smooth(moved, SMOOTHING) if walkers else moved)
            along = tangents(path)
            y = denoised + kept * (y - denoised) + fresh * draw() if walkers else path.unsqueeze(0)
            y = path + across(y - path, along)
            if callback is not None:
                callback()
        pulls.append(across(pull, along)[1:-1].double().square().mean().sqrt().cpu())
        if walkers and i + 1 < len(level):
            denoised = look(y, i)
            y = path + across(denoised + ratios[i + 1] / ratios[i] * (y - denoised) - path, along)
    return Strung(path, y if walkers else None, level[-1], torch.stack(pulls))


def _check_string(path: Tensor, level: NoiseLevel, walkers: int, rounds: int, rate: float) -> None:
    if path.ndim != 2 or len(path) < 3 or not path.is_floating_point():
        raise ValueError(
            f"A string needs three states or more, rows [K, D], got a tensor of shape {tuple(path.shape)}."
        )
    if level.alpha.ndim != 1 or not bool((level.sigma > 0).all()) or not bool((level.alpha > 0).all()):
        raise ValueError(f"A string is pulled at a grid of levels with both signal and noise, got {level!r}.")
    if not 0 < rate <= 1 or rounds < 1 or walkers < 0:
        raise ValueError(
            f"A string needs 0 < rate <= 1, a round or more and no negative number of walkers; got {rate}, {rounds}, "
            f"{walkers}."
        )


@dataclass(frozen=True, eq=False)
class ImagePath:
    """Pictures from one to another.

    Attributes:
        rows: [K, D], the two pictures at the ends.
        pull: for a string, how much still pulls it sideways at each of its levels, as `Strung.pull` but over
            sigma/alpha; below .1 or so it has settled. None for a line or an arc.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(3), variance=1.0)
        >>> level = up.EDM().grid(steps=8)
        >>> ends = torch.zeros(3), torch.ones(3)
        >>> path = up.morph(gaussian, *ends, level, kind="straight", points=5)
        >>> path.rows[2]
        tensor([0.5000, 0.5000, 0.5000])
    """

    rows: Tensor
    pull: Tensor | None = None

    def __repr__(self) -> str:
        return f"ImagePath({len(self.rows)} pictures, dimension {self.rows.shape[1]})"


def morph(
    denoise: Denoiser,
    start: Tensor,
    end: Tensor,
    level: NoiseLevel,
    kind: str = "principal",
    points: int = POINTS,
    ratio: float = RATIO,
    begin: float | None = None,
    levels: int = LEVELS,
    rounds: int = ROUNDS,
    walkers: int = WALKERS,
    seed: int = 0,
    solver: Solver | None = None,
    noises: tuple[Tensor, Tensor] | None = None,
    callback: Callable[[], None] | None = None,
) -> ImagePath:
    """A path of pictures between two, rows [D] of data.

    ``straight`` is the line between them. ``noise`` takes both back to noise along the flow, and samples the arc
    between these noises. ``minimum-energy`` and ``principal`` pull the line to where the denoiser has images
    (`pull_string`), and sample on from there: from the string itself, or from the first walker of each point.

    Args:
        denoise: as `pull_string` calls it.
        level: the sampler's grid, from noisy to clean.
        points: K >= 3.
        ratio: sigma/alpha down to which strings are pulled.
        begin: sigma/alpha from which; by default half the distance of the two pictures.
        levels: from ``begin`` to ``ratio``, evenly in the logarithm.
        rounds: at each of them.
        walkers: for each point of a principal curve.
        noises: of the two, where they are known, for ``noise``.
        callback: called after each step and round.

    Raises:
        ValueError: an unknown kind, numbers out of range, or a ratio above that where sampling begins.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> ends = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> turns = torch.linspace(0, 2 * torch.pi, 100)
        >>> circle = up.PointCloud(2 * torch.stack([turns.cos(), turns.sin()], dim=1))
        >>> level = up.EDM().grid(steps=16)
        >>> path = up.morph(circle, *ends, level, kind="minimum-energy", points=5)
        >>> path.rows.norm(dim=1).round(decimals=1)
        tensor([2., 2., 2., 2., 2.])
    """
    _check_morph(start, end, level, kind, points, ratio, begin)
    advance = callback or (lambda: None)

    def finish(state: Tensor, tail: NoiseLevel) -> Tensor:
        final = sample(denoise, state, tail, solver, lambda *_: advance(), every=len(tail)).final
        return torch.cat([start[None], final[1:-1], end[None]])

    line = straight(start, end, points)
    if kind == "straight":
        advance()
        return ImagePath(line)
    if kind == "noise":
        first, last = noises or flow_to_noise(denoise, torch.stack([start, end]), level[:-1])
        return ImagePath(finish(great_circle(first, last, points), level))
    high = min(begin or max(float((start - end).norm()) / 2, 2 * ratio), float(level.ratio[0]))
    along = preserving(high * torch.logspace(0, 1, levels, base=ratio / high, dtype=torch.float64))
    count = walkers if kind == "principal" else 0
    string = pull_string(denoise, line, along, count, rounds, seed=seed, callback=advance)
    state = string.path if string.walkers is None else string.walkers[0]
    tail = NoiseLevel.join(along[-1], below(level, ratio))
    return ImagePath(finish(along[-1].alpha.to(state) * state, tail), string.pull / along.ratio)


def below(level: NoiseLevel, ratio: float) -> NoiseLevel:
    """The levels of a grid with clearly less noise than a ratio."""
    return level[level.ratio < 0.95 * ratio]


def _check_morph(
    start: Tensor, end: Tensor, level: NoiseLevel, kind: str, points: int, ratio: float, begin: float | None
) -> None:
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of path {shown(kind)}; choose one of {', '.join(KINDS)}.")
    if start.shape != end.shape or start.ndim != 1 or not start.is_floating_point():
        raise ValueError(f"A path joins two rows [D], got {tuple(start.shape)} and {tuple(end.shape)}.")
    if bool((start == end).all()):
        raise ValueError("A path needs two pictures, and these are the same one.")
    integer(points, "number of pictures of a path", 3, 10_000)
    check_ratios(level, ratio, begin)


def check_ratios(level: NoiseLevel, ratio: float, begin: float | None) -> None:
    """Refuse ratios down to which, and from which, `morph` cannot pull strings on a grid.

    Raises:
        ValueError: they are.
    """
    number(ratio, "ratio of a path", 1e-4, 1e4)
    highest = float(level.ratio[0])
    if ratio >= highest:
        raise ValueError(f"The ratio of a path has to be below {highest:.4g}, where sampling begins; got {ratio}.")
    if begin is not None and not ratio < number(begin, "ratio at which to begin", 1e-4, 1e6):
        raise ValueError(f"Strings are pulled from more noise to less, got {begin} to {ratio}.")
