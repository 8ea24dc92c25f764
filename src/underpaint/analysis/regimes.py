"""Where along the noise a data set and a network change their regime, measured; `theory.regimes` predicts it.

Source: Biroli, Bonnaire, de Bortoli & Mezard 2024, "Dynamical regimes of diffusion models", arXiv 2402.18491.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..bounds import SEEDS
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..sampling.solvers import Solver, ancestral
from ..sampling.trajectory import Callback, sample, seeded_noise
from ..theory.cloud import as_rows
from ..theory.denoiser import Denoiser
from ..theory.moments import check_rows
from ..theory.softmax import SoftmaxMean

#: Log-weights that are held at once, and points that are weighed together at least.
_LOGITS, _FEWEST = 1 << 22, 64


def posterior_entropy(
    points: Tensor,
    x: Tensor,
    level: NoiseLevel,
    counts: Sequence[int] = (),
    order: Tensor | None = None,
    chunk: int = 2048,
    progress: Progress = silent,
) -> Tensor:
    """Entropy H of the exact posterior weights w_i(x) of points [N, D], in nats; exp(H) is their perplexity.

    H = log sum_i exp(l_i) - sum_i w_i l_i with l_i = -|x - alpha x_i|^2 / 2 sigma^2 and w = softmax(l), up to a
    constant of x. All is done in float64 and one pass over the points, in memory O(chunk (B + D)); where there are many
    rows, chunks are smaller.

    Args:
        x: rows [B, D].
        level: one for all rows, or one for each; sigma > 0 and alpha > 0.
        counts: numbers of points to know, rising; all unless given.
        order: the order [N] in which points become known; that of the data unless given.
        chunk: points that are weighed together, at most.
        progress: told of each chunk.

    Returns:
        [len(counts), B] float64: entropies for the first so many points.

    Raises:
        ValueError: counts that do not rise from 1 to at most N, a level without noise or signal, or rows of another
            dimension.
    """
    check_rows(x, points.shape[1])
    counts = tuple(counts) or (len(points),)
    if list(counts) != sorted(set(counts)) or not 1 <= counts[0] <= counts[-1] <= len(points):
        raise ValueError(f"Numbers of points must rise from 1 to at most {len(points)}, got {list(counts)}.")
    if not bool(((level.sigma > 0) & (level.alpha > 0)).all()):
        raise ValueError("The posterior weights of points need a level with noise and signal.")
    order = torch.arange(len(points)) if order is None else order
    alpha, sigma = level.columns(x.double())
    centre = as_rows(points[order[:chunk]], torch.float64).mean(0)
    exact, square = alpha / sigma**2 * (x.double() - alpha * centre), (alpha / sigma) ** 2
    sums, found = SoftmaxMean(), []
    chunk = min(chunk, max(_FEWEST, _LOGITS // max(1, len(x))))
    edges = sorted({*range(0, counts[-1], chunk), *counts})
    advance = progress("weighing the data", len(edges) - 1)
    for start, stop in pairwise(edges):
        rows = as_rows(points[order[start:stop]], torch.float64) - centre
        logits = torch.addmm(-square * rows.square().sum(1) / 2, exact, rows.T)
        # a log-weight is the value that it weighs itself: [B, 1, n] and [B, n, 1]
        sums.add(logits.clone().unsqueeze(1), logits.unsqueeze(2))
        if stop in counts:
            found.append((sums.log_sum - sums.mean.squeeze(2)).squeeze(1))
        advance()
    return torch.stack(found).clamp(min=0)


def clone(
    denoise: Denoiser, x: Tensor, level: NoiseLevel, seeds: Sequence[int], callback: Callback | None = None
) -> Tensor:
    """Two independent stochastic completions of each state x [B, D] at level[0], along the grid: [2, B, D].

    They share the state and nothing after it. `ancestral` steps draw both, so that each is a sample of p(x0 | x) as the
    denoiser has it, in the limit of small steps. Noise belongs to the seeds, one for each state, in any batch.
    """
    solver = ancestral(_noise_of_copies(seeds))
    finals = sample(denoise, x.repeat(2, 1), level, solver, callback, every=len(level)).final
    return finals.unflatten(0, (2, len(x)))


def nudge(
    denoise: Denoiser,
    x: Tensor,
    level: NoiseLevel,
    seeds: Sequence[int],
    size: float,
    solver: Solver,
    callback: Callback | None = None,
) -> Tensor:
    """Two copies of each state x [B, D] at level[0], moved by sigma size eps with fresh noise each, and followed along
    the grid by a solver of the flow: [2, B, D].

    Nothing else is drawn, so that copies part only where the flow itself parts neighbours. Noise belongs to the seeds.
    """
    copies = x.repeat(2, 1)
    copies = copies + (size * level.sigma[0]).to(copies) * _noise_of_copies(seeds)(copies)
    return sample(denoise, copies, level, solver, callback, every=len(level)).final.unflatten(0, (2, len(x)))


def _noise_of_copies(seeds: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Noise for two copies of a row for each seed."""
    return seeded_noise([(2 * seed + copy + SEEDS // 2) % SEEDS for copy in (0, 1) for seed in seeds])


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Means [K, F] of features [N, F] by class, of the labels [N] that there are, in their order."""
    return torch.stack([features[labels == label].double().mean(0) for label in labels.unique()])


def nearest_class(means: Tensor, features: Tensor) -> Tensor:
    """Place [...] of the nearest of class means [K, F] to features [..., F]."""
    return torch.cdist(features.double(), means.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)


def chance_alike(labels: Tensor) -> float:
    """Share of pairs of different samples that are of one class, of labels [B]: what independent runs would show."""
    counts = labels.unique(return_counts=True)[1].double()
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def crossing(ratio: Tensor, values: Tensor, target: float) -> float:
    """The ratio below which values [N] stay at or above a target, at falling ratios [N] > 0; linear in log ratio
    between them. Infinite where they are above throughout, NaN where they end below."""
    below = (values < target).nonzero().flatten()
    if not len(below):
        return math.inf
    if int(below[-1]) == len(values) - 1:
        return math.nan
    last = int(below[-1])
    part = (target - values[last]) / (values[last + 1] - values[last])
    return float(torch.lerp(ratio[last].log(), ratio[last + 1].log(), part.to(ratio)).exp())
