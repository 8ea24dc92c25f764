"""Mean and spread over samples, the one way in which measures are reported."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Summary:
    """Mean, 5 % and 95 % quantile over samples, float64, each of the shape that is left without the sample axis."""

    mean: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(values: Tensor, axis: int = -1) -> Summary:
        values = values.double()
        low, high = torch.quantile(
            values, torch.tensor([0.05, 0.95], dtype=torch.float64, device=values.device), dim=axis
        )
        return Summary(values.mean(axis).cpu(), low.cpu(), high.cpu())

    def __getitem__(self, index: int | slice) -> Summary:
        return Summary(self.mean[index], self.low[index], self.high[index])

    def __format__(self, spec: str) -> str:
        return f"{float(self.mean):{spec}} [{float(self.low):{spec}}, {float(self.high):{spec}}]"


def root_mean_square(errors: Tensor) -> float:
    """Of the errors [B] of samples, each a root mean square itself."""
    return float(errors.square().mean().sqrt())
