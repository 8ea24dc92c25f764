"""Nearest data points, streamed."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(points: Tensor, x: Tensor, count: int = 1, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """Distances [B, count] (float64) and indices of the nearest of points [N, D] to rows x [B, D].

    Float32 products pick four times as many candidates as asked, whose distances are then taken directly in float64.

    Raises:
        ValueError: more neighbours are asked for than there are points.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"Cannot name {count} nearest of {len(points)} points.")
    wanted = min(4 * count, len(points))
    best = torch.full((len(x), 0), 0.0, dtype=x.dtype, device=x.device)
    index = torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    centre = points.mean(0)
    rows = x - centre
    for start in range(0, len(points), chunk):
        block = points[start : start + chunk] - centre
        half = block.square().sum(1) / 2 - rows @ block.T
        ids = torch.arange(start, start + len(block), device=x.device).expand(len(x), -1)
        best, index = torch.cat([best, half], 1), torch.cat([index, ids], 1)
        best, order = best.topk(min(wanted, best.shape[1]), largest=False)
        index = index.gather(1, order)
    distance = (points[index].double() - x.double().unsqueeze(1)).norm(dim=2)
    distance, order = distance.topk(count, largest=False)
    return distance, index.gather(1, order)
