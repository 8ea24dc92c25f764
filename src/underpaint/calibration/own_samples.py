"""Statistics of a network held against a few of its own samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..bounds import MOST_ITEMS, integer
from ..noise import NoiseLevel, preserving, spaced_ratios
from ..sampling.solvers import dpmpp_2m
from ..sampling.trajectory import sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian

#: Directions that are compared at most, those whose variance is at least this share of the first's, and steps to a
#: sample.
DIRECTIONS, SHARE, STEPS = 8, 1e-3, 24
#: Samples end where the noise is this share of the least standard deviation that is compared: denoised there, they have
#: 1/(1 + share^2) of its variance.
_LOW = 0.05
#: How sure an interval is, for all that is compared together.
_SURE = 0.99


@dataclass(frozen=True, eq=False)
class VarianceRatio:
    """The variance of a network's own samples over that of a Gaussian, along its leading directions.

    ``values`` [N, K] are (u_k^T (x_n - mean of x))^2 / lambda_k of the samples, times N/(N - 1): the ratio along a
    direction is their mean over samples, and the overall one their mean over all.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> found = up.VarianceRatio(torch.tensor([[0.5, 1.0], [1.0, 1.5]]))
        >>> found.ratio
        tensor([0.7500, 1.2500])
    """

    values: Tensor = field(repr=False)

    def __repr__(self) -> str:
        return f"VarianceRatio({self})"

    def __str__(self) -> str:
        samples, directions = self.values.shape
        along = "the first direction" if directions == 1 else f"the first {directions} directions"
        return f"{float(self.overall):.2f} ± {float(self.overall_error):.2f} along {along}, {samples} samples"

    @property
    def ratio(self) -> Tensor:
        """Along each direction, [K] float64."""
        return self.values.mean(0)

    @property
    def error(self) -> Tensor:
        """Standard error of each ratio by how much samples differ, [K]; infinite for one sample."""
        return _error(self.values)

    @property
    def overall(self) -> Tensor:
        """Mean ratio of all directions."""
        return self.values.mean()

    @property
    def overall_error(self) -> Tensor:
        """Its standard error."""
        return _error(self.values.mean(1))

    @property
    def least_factor(self) -> float:
        """The factor, either way, by which a ratio is from 1 at least: the largest over the directions and all of them
        together, each where its interval is nearest to 1; 1 where every interval holds 1.

        Intervals are of the logarithm, by Student's t, and hold together with 99 % (Bonferroni).
        """
        ratio = torch.cat([self.ratio, self.overall[None]])
        error = torch.cat([self.error, self.overall_error[None]]) / ratio.clamp(min=1e-30)
        from scipy.stats import t  # type: ignore[import-untyped,unused-ignore]

        reach = float(t.ppf(1 - (1 - _SURE) / (2 * len(ratio)), len(self.values) - 1)) * error
        return float((ratio.clamp(min=1e-30).log().abs() - reach).max().clamp(0, 700).exp())


def _error(values: Tensor) -> Tensor:
    return values.std(0) / len(values) ** 0.5


def compare_with_samples(
    denoise: Denoiser, gaussian: Gaussian, level: NoiseLevel, samples: int = 32, seed: int = 0
) -> VarianceRatio:
    """Draw a few samples of a network, and compare their variance with a Gaussian's along its leading directions.

    They start from the Gaussian's own states at the level, N(alpha mu, alpha^2 Sigma + sigma^2 I), and go by
    DPM-Solver++ 2M to where hardly any noise is left. Where the network is the Gaussian's denoiser the ratio is 1.
    Where the Gaussian's variances are wrong, its states are still nearly the network's, as long as sigma/alpha is
    several times the standard deviations, and the samples have the network's variances.

    Args:
        level: alpha > 0, and sigma/alpha above the standard deviations of the data.

    Calls: ``STEPS`` rows a sample.

    Raises:
        ValueError: fewer than two samples, a Gaussian without variance, or a level below its standard deviations.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> network = gaussian  # or a model
        >>> found = up.compare_with_samples(network, gaussian, up.EDM()(20.0))
        >>> found.least_factor
        1.0
    """
    integer(samples, "number of samples", 2, MOST_ITEMS)
    variances = gaussian.eigenvalues[:DIRECTIONS].double().cpu()
    variances = variances[(variances > 0) & (variances >= SHARE * variances[:1])]
    if not len(variances) or not float(level.ratio) > float(variances[0]) ** 0.5:
        raise ValueError(
            f"Samples are compared from a level of more noise than the standard deviations of the Gaussian, got "
            f"sigma/alpha = {float(level.ratio):.4g} and variances of {gaussian!r}."
        )
    ratios = spaced_ratios(STEPS, float(level.ratio), _LOW * float(variances[-1]) ** 0.5)
    grid = NoiseLevel.join(preserving(ratios), NoiseLevel.clean())
    x = gaussian.to("cpu").sample(samples, torch.Generator().manual_seed(seed), grid[0]).to(gaussian.mean)
    with torch.no_grad():
        rows = sample(denoise, x, grid, dpmpp_2m, every=len(grid)).final
    coordinates = gaussian.coordinates(rows)[:, : len(variances)].double().cpu()
    square = (coordinates - coordinates.mean(0)).square() * samples / (samples - 1)
    return VarianceRatio(square / variances)
