"""Means under softmax weights that arrive block by block."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Powers of 2 are quicker than those of e, many times so where these underflow, as most weights at low noise do.
_LOG2E = math.log2(math.e)
#: Columns of values, of which products are taken of rows.
_FEW = 8


class SoftmaxMean:
    """sum_i w_i v_i / sum_i w_i with w = exp(logits), over any number of blocks, in the memory of one.

    The sums are kept relative to the largest logit seen so far and rescaled when a larger one turns up, so nothing
    overflows and the order of the blocks does not matter.
    """

    def __init__(self) -> None:
        self.top: Tensor | float = -math.inf
        self._mass: Tensor | float = 0.0
        self._total: Tensor | float = 0.0
        self._others: Tensor | float = 0.0

    def add(self, logits: Tensor, values: Tensor, others: Tensor | None = None) -> None:
        """Take in logits [..., B, n], which are overwritten, the values [..., n, W] that they weigh, and one more
        number for each, ``others`` [n]. Weights are of the values' dtype: once the largest logit is taken away, float32
        holds them."""
        peak = torch.clamp(logits.detach().amax(-1, keepdim=True), min=self.top)
        shrink = torch.exp(self.top - peak)
        weights = logits.sub_(peak).to(values.dtype).mul_(_LOG2E).exp2_()
        self._mass = self._mass * shrink + weights.sum(-1, keepdim=True)
        # one column is quicker as a sum of products than as a product of matrices, and a few if they are stored as rows
        single, few = weights.ndim > 2 and values.shape[-1] == 1, 1 < values.shape[-1] <= _FEW
        stored = values.mT.contiguous().mT if few else values
        total = (weights * values.mT).sum(-1, keepdim=True) if single else weights @ stored
        self._total = self._total * shrink + total
        if others is not None:
            self._others = self._others * shrink.squeeze(-1) + weights @ others
        self.top = peak

    @property
    def mean(self) -> Tensor:
        """The weighted mean [..., B, W]."""
        return torch.as_tensor(self._total / self._mass)

    @property
    def know_others(self) -> bool:
        """Whether blocks had the one more number."""
        return isinstance(self._others, Tensor)

    @property
    def mean_of_others(self) -> Tensor:
        """The weighted mean [..., B] of the one more number, where all blocks had it."""
        return torch.as_tensor(self._others / torch.as_tensor(self._mass).squeeze(-1))

    @property
    def log_sum(self) -> Tensor:
        """log sum_i exp(logits) [..., B], float64."""
        return (torch.as_tensor(self.top).double() + torch.as_tensor(self._mass).double().log()).squeeze(-1)
