"""Take a guided prediction apart: which of the network's outputs were combined into what the scheduler was given.

Told by value: two outputs are the halves of guidance if some combination of them reproduces what was stepped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

#: What may be left of the stepped prediction's squared norm: half precision rounds so much.
_LEFT = 1e-3
#: A prediction of a smaller share than this took no part.
_SLIGHT = 1e-3
#: Numbers on the last axis (of a token, a line) from which on each may have a scale of its own; two predictions would
#: span too much of fewer.
_WIDE = 8


def guidance_halves(outputs: Sequence[Tensor], guided: Tensor) -> tuple[Tensor, Tensor] | str | None:
    """The conditional and the unconditional prediction that were combined into the guided one, rows [B, D].

    guided = k ((1 - w) unconditional + w conditional): the unconditional is what there is less of. The factor k is
    left out but for its sign, which is negative where a pipeline negates its prediction; where guidance is rescaled,
    each row has its own, or each token.

    Args:
        outputs: of the network, in the order of its calls: [B, ...] or several of these, one after the other. They may
            go on where the prediction ends, with a learned variance or the tokens of an image.
        guided: what was stepped, [B, ...].

    Returns:
        The halves; None if one output alone is the prediction; a sentence where it was made in another way.
    """
    target = _rows(guided)
    parts = [part for output in outputs for part in _parts(output, guided)]
    found = [
        (left, pair, weights)
        for pair in combinations(parts, 2)
        for left, weights in [_weights(*pair, target, guided)]
        if weights is not None
    ]
    if found:
        _, (first, second), weights = min(found, key=lambda each: each[0])
        sign = -1 if weights.sum() < 0 else 1
        lesser, larger = (second, first) if sign * weights[0] > sign * weights[1] else (first, second)
        return sign * larger, sign * lesser
    if any(_alone(part, target) for part in parts):
        return None
    return (
        "the prediction that was stepped is neither an output of the network nor a combination of two; "
        f"of its shape, {tuple(guided.shape)}, {len(parts)} were seen"
    )


def made_of(outputs: Sequence[Tensor], stepped: Tensor) -> bool:
    """Whether a prediction that was stepped was made of outputs of the network alone: one of them, guidance between
    two, or any combination, as guidance between more."""
    if not isinstance(guidance_halves(outputs, stepped), str):
        return True
    target = _rows(stepped)
    parts = [part for output in outputs for part in _parts(output, stepped)]
    if not parts or target.shape[1] < _WIDE * len(parts):
        return False
    left = target.unsqueeze(-1) - (spans := torch.stack(parts, -1)) @ torch.linalg.pinv(spans) @ target.unsqueeze(-1)
    return bool(left.square().sum() <= _LEFT * target.square().sum())


def _rows(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten(1).to("cpu", torch.float64)


def _parts(output: Tensor, like: Tensor) -> list[Tensor]:
    """An output as rows like those of the stepped prediction: of the same size, or what the output begins or ends
    with."""
    if output.ndim == 0 or len(output) % len(like) or not output.is_floating_point():
        return []
    found: list[Tensor] = []
    for part in output.split(len(like)):
        if part[0].numel() == like[0].numel():
            found.append(part)
        elif part.ndim == like.ndim and all(mine >= its for mine, its in zip(part.shape, like.shape, strict=True)):
            found.append(part[tuple(slice(size) for size in like.shape)])
            found.append(part[tuple(slice(mine - its, mine) for mine, its in zip(part.shape, like.shape, strict=True))])
    return [rows for rows in map(_rows, found) if bool(torch.isfinite(rows).all())]


def _alone(part: Tensor, target: Tensor) -> bool:
    """Whether a prediction was stepped as it is or negated, but for a factor for each row."""
    factor = (part * target).sum(1, keepdim=True) / part.square().sum(1, keepdim=True).clamp(min=1e-300)
    return bool((target - factor * part).square().sum() <= _LEFT * target.square().sum())


def _weights(first: Tensor, second: Tensor, target: Tensor, guided: Tensor) -> tuple[float, Tensor | None]:
    """What a combination of two predictions leaves of the one that was stepped, and the weights [2] in it, if both took
    part and reproduce it: found for each row, or for each token where tokens have scales of their own."""
    for size in (target.shape[1], guided.shape[-1]):
        tokens = size < target.shape[1]
        if tokens and size < _WIDE:
            continue
        a, b, goal = (part.reshape(-1, size) for part in (first, second, target))
        weights = _least_squares(a, b, goal)
        left = float((goal - weights[:, :1] * a - weights[:, 1:] * b).square().sum() / goal.square().sum())
        if not left <= _LEFT:
            continue
        shares = weights / weights.abs().sum(1, keepdim=True).clamp(min=1e-300)
        middle = shares.median(0).values
        alike = not tokens or bool((shares - middle).abs().median() <= _SLIGHT)
        return left, weights.sum(0) if alike and float(middle.abs().min()) > _SLIGHT else None
    return 1.0, None


def _least_squares(a: Tensor, b: Tensor, goal: Tensor) -> Tensor:
    """The weights [R, 2] with which rows a and b [R, S] come nearest to the goal; the smallest, where they are many."""
    pair = torch.stack([a, b], 1)
    gram = pair @ pair.transpose(1, 2)
    return (torch.linalg.pinv(gram, rtol=1e-14, hermitian=True) @ (pair @ goal.unsqueeze(-1))).squeeze(-1)
