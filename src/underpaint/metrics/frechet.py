"""Frechet distance between two sets of features, and what it takes to read one: the feature space and the sample sizes.

Sources: Dowson & Landau 1982 (the distance between Gaussians), Heusel et al. 2017 (its use on network features),
Chong & Forsyth 2020 (its bias at finite sample sizes).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.npy import float64_of, read_npz
from ..files import path_of, replacing
from ..theory.covariance import ROUNDING, check_symmetric, eigensystem
from ..theory.moments import Moments

#: The features of EDM's reference files (the pool3 layer of the 2015 Inception network); the files do not name them.
INCEPTION = "inception-2048"


class MeanAndCovariance(Protocol):
    """Anything with a mean [F] and a covariance [F, F], such as `Moments` and `Statistics`."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean [F] and covariance [F, F] (float64) of features, with the name of their space and, where known, their count.

    Raises:
        ValueError: the shapes do not match, or a value is NaN or infinite.
    """

    space: str
    mean: Tensor
    covariance: Tensor
    count: int | None = None

    def __repr__(self) -> str:
        return f"Statistics({self.space}, {len(self.mean)} features, {self.count or 'unknown'} items)"

    def __post_init__(self) -> None:
        size = len(self.mean) if self.mean.ndim == 1 else -1
        if self.covariance.shape != (size, size):
            raise ValueError(
                f"Statistics need a mean [F] and a covariance [F, F], got shapes {tuple(self.mean.shape)} and "
                f"{tuple(self.covariance.shape)}."
            )
        for name in ("mean", "covariance"):
            if getattr(self, name).is_complex():
                raise ValueError(f"The {name} of {self.space} features holds complex numbers; expected real ones.")
            value = getattr(self, name).detach().to("cpu", torch.float64)
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"The {name} of {self.space} features holds NaN or infinite values; check the samples."
                )
            object.__setattr__(self, name, value)
        check_symmetric(self.covariance)

    @staticmethod
    def of(moments: Moments, space: str) -> Statistics:
        """The statistics of features of which the moments are known (at least two rows)."""
        return Statistics(space, moments.mean, moments.covariance, moments.count)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues [F] of the covariance, ascending, none below 0, and eigenvectors [F, F]: found once, however many
        distances are measured to these. ValueError for a matrix that is no covariance."""
        return eigensystem(self.covariance)


def frechet_distance(a: MeanAndCovariance, b: MeanAndCovariance) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^{1/2}): the squared 2-Wasserstein distance of N(mu_a, A) and N(mu_b, B).

    A B has the eigenvalues of the symmetric B^{1/2} A B^{1/2}, so that the trace of its root needs two symmetric
    eigenvalue problems in float64, no matrix square root, and no full rank. That of ``b`` alone is kept, if these are
    `Statistics`: let ``b`` be what many are compared with. An eigenvalue of zero comes out as rounding noise of size
    1e-16, whose root is 1e-8: that, relative to the traces, is the accuracy for each missing rank.

    The distance of *samples* is biased up, the more the fewer they are: compare values at equal counts only, and see
    `sampling_floor` for what a perfect sampler would get. Source: Dowson & Landau 1982.

    Raises:
        ValueError: the dimensions differ, or a matrix is no covariance, since it has negative eigenvalues.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"Cannot compare {len(a.mean)} features with {len(b.mean)}; extract both in one feature space."
        )
    mean_a, mean_b, cov_a, cov_b = (t.to("cpu", torch.float64) for t in (a.mean, b.mean, a.covariance, b.covariance))
    values, vectors = b.spectrum if isinstance(b, Statistics) else eigensystem(cov_b)
    _check_covariance(cov_a)
    root = vectors * values.sqrt()  # B^{1/2} up to a rotation on the right, which leaves eigenvalues alone
    overlap = torch.linalg.eigvalsh(root.T @ cov_a @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(float(distance), 0.0)


def _check_covariance(matrix: Tensor) -> None:
    """Refuse a matrix with negative eigenvalues, by a Cholesky factor, at a fraction of the cost of finding them."""
    slack = ROUNDING * matrix.diagonal().max().clamp(min=1e-300)
    if int(torch.linalg.cholesky_ex(matrix + slack * torch.eye(len(matrix), dtype=matrix.dtype)).info):
        eigensystem(matrix)  # which says what is wrong, or finds that it is but rounding


def sampling_floor(reference: Statistics, count: int) -> float:
    """What ``count`` samples from the reference itself, Gaussian with its covariance, score on average.

    To first order in 1/N, with eigenvalues l_i:  tr(Sigma)/N + 1/(2(N - 1)) [sum_ij l_i l_j/(l_i + l_j) + sum_i l_i/2].
    The first term is the error of the mean. The second is the Bures metric, sum_ij E_ij^2 / (2 (l_i + l_j)), averaged
    over Wishart errors E of the covariance. Good from about five samples a feature. Heavy tails raise it, separate
    clusters lower it: real images, in a classifier's features, score somewhat less.

    Raises:
        ValueError: fewer than two samples.
    """
    if count < 2:
        raise ValueError(f"A sampling floor needs at least 2 samples, got {count}.")
    values, _ = reference.spectrum
    sums = values.unsqueeze(0) + values.unsqueeze(1)
    pairs = torch.where(sums > 0, torch.outer(values, values) / sums, 0.0).sum()
    return float(values.sum() / count + (pairs + values.sum() / 2) / (2 * (count - 1)))


@dataclass(frozen=True)
class FrechetScore:
    """A Frechet distance, its feature space, both counts, and the mean score of a perfect sampler at these counts.

    Counts are None where a reference file does not state them; a reference of unknown count is taken as exact.
    """

    value: float
    space: str
    count: int | None
    reference_count: int | None
    floor: float

    def __str__(self) -> str:
        sizes = " against ".join("unknown" if n is None else str(n) for n in (self.count, self.reference_count))
        return f"{self.value:.4g} in {self.space} ({sizes} samples, floor {self.floor:.2g})"


def frechet_score(samples: Statistics, reference: Statistics) -> FrechetScore:
    """Compare samples with a reference of the same feature space; the floor counts the sampling error of both.

    Raises:
        ValueError: the feature spaces differ.
    """
    if samples.space != reference.space:
        raise ValueError(
            f"Cannot compare features of {samples.space!r} with a reference of {reference.space!r}; "
            "extract both with one feature set."
        )
    floor = sum(sampling_floor(reference, n) for n in (samples.count, reference.count) if n is not None)
    return FrechetScore(frechet_distance(samples, reference), samples.space, samples.count, reference.count, floor)


def read_reference(path: str | Path) -> Statistics:
    """Read reference statistics from an .npz file with ``mu`` [F] and ``sigma`` [F, F], as EDM and pytorch-fid write.

    ``space`` and ``count``, which `write_reference` adds, are read where they are there; else the space is `INCEPTION`.
    Pickled content is never loaded.

    Raises:
        ValueError: the file is missing, damaged, pickled, or lacks mu and sigma; or sigma is no covariance.
    """
    path = path_of(path, "reference statistics, an .npz file with mu and sigma")
    if not path.is_file():
        raise ValueError(f"There is no file {path}; expected reference statistics, an .npz file with mu and sigma.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a complete .npz file; pickled statistics are not loaded: save mu and sigma as .npz."
        )
    arrays = read_npz(path, ("mu", "sigma", "space", "count"))
    if not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} holds {sorted(arrays) or 'no known arrays'}; expected mu [F] and sigma [F, F].")
    try:
        mean, covariance = (float64_of(arrays[name], name) for name in ("mu", "sigma"))
        space = str(arrays["space"]) if "space" in arrays else INCEPTION
        found = Statistics(space, mean, covariance, _count(arrays["count"]) if "count" in arrays else None)
        found.spectrum  # noqa: B018  a matrix that is no covariance is found out here, by name
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no mean and covariance: {error}") from error
    return found


def _count(array: np.ndarray) -> int:
    if array.shape != () or array.dtype.kind not in "iu" or int(array) < 1:
        raise ValueError(f"the count is {str(array)[:40]}, expected a whole number of samples.")
    return int(array)


def write_reference(path: str | Path, statistics: Statistics) -> None:
    """Write statistics as an .npz file that EDM and pytorch-fid read too; `read_reference` is its inverse."""
    arrays = {
        "mu": statistics.mean.numpy(),
        "sigma": statistics.covariance.numpy(),
        "space": np.array(statistics.space),
    }
    if statistics.count is not None:
        arrays["count"] = np.array(statistics.count)
    # Given an open file, numpy does not add .npz to the name.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
