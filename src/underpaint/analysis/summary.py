"""Mean and spread over samples, the one way in which measures are reported, and how sure a value is of few samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Groups that samples are cut into to see how a value depends on which of them are there.
_GROUPS = 16


@dataclass(frozen=True, eq=False)
class Summary:
    """Mean, 5 % and 95 % quantile over samples, float64, each of the shape that is left without the sample axis; the
    standard error of the mean, and of how many samples it is."""

    mean: Tensor
    low: Tensor
    high: Tensor
    error: Tensor | None = None
    count: int = 0

    @staticmethod
    def of(values: Tensor, axis: int = -1) -> Summary:
        values = values.double()
        low, high = torch.quantile(
            values, torch.tensor([0.05, 0.95], dtype=torch.float64, device=values.device), dim=axis
        )
        count = values.shape[axis]
        error = (values.std(axis) / count**0.5).cpu() if count > 1 else None
        return Summary(values.mean(axis).cpu(), low.cpu(), high.cpu(), error, count)

    def __getitem__(self, index: int | slice) -> Summary:
        error = None if self.error is None else self.error[index]
        return Summary(self.mean[index], self.low[index], self.high[index], error, self.count)

    def __format__(self, spec: str) -> str:
        return f"{float(self.mean):{spec}} [{float(self.low):{spec}}, {float(self.high):{spec}}]"

    def interval(self) -> tuple[float, float] | None:
        """Where the mean of all possible samples lies, to 95 % (Student's t); None for a single sample."""
        if self.error is None:
            return None
        reach = float(self.reach)
        return float(self.mean) - reach, float(self.mean) + reach

    @property
    def reach(self) -> Tensor:
        """How far the mean of all possible samples may lie from the mean, to 95 % (Student's t); NaN for a single
        sample."""
        if self.error is None:
            return torch.full_like(self.mean, torch.nan)
        return _student(self.count - 1) * self.error


def interval(values: Tensor) -> tuple[float, float] | None:
    """Where the mean of all possible samples lies, to 95 %, by those of which values [B] are."""
    return Summary.of(values).interval()


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Where a probability lies, to 95 %, of which ``hits`` of ``count`` trials came true.

    Source: Wilson 1927, the score interval; it keeps within 0 and 1, also where all or none came true.
    """
    square = 1.959963984540054**2
    middle, share = (hits + square / 2) / (count + square), hits / count
    reach = (square * (share * (1 - share) / count + square / (4 * count**2))) ** 0.5 / (1 + square / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def left_out(count: int) -> list[Tensor]:
    """Indices of ``count`` samples without each of up to sixteen groups of them in turn."""
    places = torch.arange(count)
    groups = min(_GROUPS, count)
    return [places[places % groups != group] for group in range(groups)]


def jackknife(value: float, others: Tensor) -> tuple[float, float]:
    """Where a value lies, to 95 %, by what it is without each of G groups of samples in turn, [G].

    The standard error is the root of (G - 1)/G sum_g (v_g - mean)^2. Source: Tukey 1958; Efron & Tibshirani 1993,
    "An Introduction to the Bootstrap", chapter 11. Good for smooth functions of means.
    """
    others, count = others.double(), len(others)
    error = float((others - others.mean()).square().sum() * (count - 1) / count) ** 0.5
    reach = _student(count - 1) * error
    return value - reach, value + reach


def by_group(statistic: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """A statistic of the samples at some indices, without each group of them in turn: [G, ...]."""
    return torch.stack([statistic(kept) for kept in left_out(count)])


def root_mean_square(errors: Tensor) -> float:
    """Of the errors [B] of samples, each a root mean square itself."""
    return float(errors.square().mean().sqrt())


def _student(freedom: int) -> float:
    from scipy.stats import t  # type: ignore[import-untyped,unused-ignore]

    return float(t.ppf(0.975, freedom))
