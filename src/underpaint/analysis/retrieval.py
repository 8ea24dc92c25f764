"""Nearest data points, streamed, and what they say of memorisation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ..theory.moments import check_rows

#: Rows that are compared with the data at once.
_BATCH = 256
#: Two points count as one if they are nearer than this share of the median distance between two at random.
_ALIKE = 0.1


def nearest(points: Tensor, x: Tensor, count: int = 1, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """Distances [B, count] (float64) and indices of the nearest of points [N, D] to rows x [B, D].

    Float32 products pick four times as many candidates as asked, whose distances are then taken directly in float64.
    Memory: O(chunk (D + 256)) and O(256 count D), whatever N and B.

    Raises:
        ValueError: more neighbours are asked for than there are points, or the dimensions differ.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"Cannot name {count} nearest of {len(points)} points.")
    check_rows(x, points.shape[1])
    found = [_nearest(points, rows, count, chunk) for rows in x.split(_BATCH)]
    distance, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distance, index


def _nearest(points: Tensor, rows: Tensor, count: int, chunk: int) -> tuple[Tensor, Tensor]:
    wanted = min(4 * count, len(points))
    best, index = rows.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
    for start, half in _half_squares(points, rows, chunk):
        value, place = half.topk(min(wanted, half.shape[1]), largest=False)
        best, index = torch.cat([best, value], 1), torch.cat([index, place + start], 1)
        best, order = best.topk(min(wanted, best.shape[1]), largest=False)
        index = index.gather(1, order)
    distance = (points[index].double() - rows.double().unsqueeze(1)).norm(dim=2)
    distance, order = distance.topk(count, largest=False)
    return distance, index.gather(1, order)


def _half_squares(points: Tensor, rows: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """(|x - y|^2 - |x|^2) / 2 about a common centre, chunk by chunk of points y: its first index, and [B, n]."""
    centre = points[:chunk].mean(0)
    for start in range(0, len(points), chunk):
        block = points[start : start + chunk] - centre
        yield start, torch.addmm(block.square().sum(1) / 2, rows - centre, block.T, alpha=-1)


def apart_from(points: Tensor, x: Tensor, known: Tensor, apart: float, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """The nearest of points [N, D] to rows x [B, D] of those that lie ``apart`` or further from the points at indices
    ``known`` [B, E]: distances [B] (float64) and indices [B].

    So the second neighbour is another picture, and not the same one again, or a near copy of it.

    Raises:
        ValueError: all points are nearer than that to one of the known ones.
    """
    check_rows(x, points.shape[1])
    found = [_apart(points, *part, apart, chunk) for part in zip(x.split(_BATCH), known.split(_BATCH), strict=True)]
    distance, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distance, index


def _apart(points: Tensor, rows: Tensor, known: Tensor, apart: float, chunk: int) -> tuple[Tensor, Tensor]:
    best, index = rows.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
    blocks = [_half_squares(points, points[one], chunk) for one in known.T]
    bounds = [_bound(points, points[one], apart, chunk) for one in known.T]
    for start, half in _half_squares(points, rows, chunk):
        for block, bound in zip(blocks, bounds, strict=True):
            half = half.masked_fill(next(block)[1] < bound, torch.inf)
        value, place = half.topk(min(4, half.shape[1]), largest=False)
        best, index = torch.cat([best, value], 1), torch.cat([index, place + start], 1)
        best, order = best.topk(min(4, best.shape[1]), largest=False)
        index = index.gather(1, order)
    if not bool(best[:, 0].isfinite().all()):
        raise ValueError(f"Of {len(points)} points there are too few that lie {apart:.3g} apart; nearly all are alike.")
    distance = (points[index].double() - rows.double().unsqueeze(1)).norm(dim=2)
    distance, order = distance.masked_fill(~best.isfinite(), torch.inf).min(1)
    return distance, index.gather(1, order.unsqueeze(1)).squeeze(1)


def _bound(points: Tensor, rows: Tensor, distance: float, chunk: int) -> Tensor:
    """What `_half_squares` gives for points at a distance from rows [B, D], [B, 1]."""
    return ((distance**2 - (rows - points[:chunk].mean(0)).double().square().sum(1)) / 2).to(rows.dtype).unsqueeze(1)


def other_nearest(points: Tensor, index: Tensor, count: int = 1, apart: float = 0.0) -> Tensor:
    """Distances of the points at ``index`` [B] to the nearest *other* points, [B, count] float64.

    What a fresh sample of the same data would show, against one point less. With ``apart``, near copies within this
    distance of a point, and of each other, count as one; see `apart_from`.
    """
    if apart > 0:
        known, distances = index.unsqueeze(1), []
        for _ in range(count):
            distance, found = apart_from(points, points[index], known, apart)
            known = torch.cat([known, found.unsqueeze(1)], 1)
            distances.append(distance)
        return torch.stack(distances, 1)
    distance, found = nearest(points, points[index], count + 1)
    itself = found == index.unsqueeze(1)
    # where duplicates have crowded the point itself out, the last one goes in its place
    itself[~itself.any(1), -1] = True
    return distance[~itself].view(len(index), count)


def copy_distance(points: Tensor, pairs: int = 512, seed: int = 0) -> float:
    """The distance below which two points count as one: a tenth of the median distance between two drawn at random.

    Copies among the points hardly change that, as they would the distance of nearest neighbours.
    """
    count = min(pairs, len(points) * (len(points) - 1) // 2)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(points), (count,), generator=generator)
    other = (first + torch.randint(1, len(points), (count,), generator=generator)) % len(points)
    return _ALIKE * float((points[first].double() - points[other].double()).norm(dim=1).median())


def repeated(points: Tensor) -> int:
    """How many of points [N, D] are another one again, number by number."""
    rows = points.detach().cpu().contiguous().numpy()
    return len(points) - len({hashlib.blake2b(row, digest_size=16).digest() for row in rows})


def ranks(points: Tensor, x: Tensor, target: Tensor, chunk: int = 8192) -> Tensor:
    """Place of the points at indices ``target`` [B] among all points, ordered by distance from rows x [B, D]. [B].

    1 is the nearest. Points nearer by less than the rounding of products in float32 are not counted as nearer.
    """
    places = []
    for rows, chosen in zip(x.split(_BATCH), target.split(_BATCH), strict=True):
        centre = points[:chunk].mean(0)
        own, row = (points[chosen] - centre).double(), (rows - centre).double()
        reach = own.square().sum(1) / 2 - (own * row).sum(1)
        slack = 4 * torch.finfo(points.dtype).eps * row.norm(dim=1) * (own.norm(dim=1) + row.norm(dim=1))
        limit = (reach - slack).to(rows.dtype).unsqueeze(1)
        nearer = [(half < limit).sum(1) for _, half in _half_squares(points, rows, chunk)]
        places.append(1 + torch.stack(nearer).sum(0))
    return torch.cat(places)


def closeness(samples: Tensor, fresh: Tensor) -> tuple[float, float]:
    """P(a sample's distance [S] is below a fresh image's [F]), ties halved, and its standard error if both are alike.

    0.5: samples lie no nearer to the data than fresh images of the same kind. Source: the statistic of Mann & Whitney
    1947, divided by S F.
    """
    a, b = samples.double().contiguous(), fresh.double().sort().values
    below = torch.searchsorted(b, a, right=True) + torch.searchsorted(b, a)
    share = float(1 - below.double().mean() / (2 * len(b)))
    return share, float(((len(a) + len(b) + 1) / (12 * len(a) * len(b))) ** 0.5)
