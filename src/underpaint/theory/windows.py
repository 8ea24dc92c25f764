"""What each place of an image looks at, and the weights of data by these windows, by the quickest of three products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..bounds import MOST_STEPS, integer
from .screening import alike

#: Places whose windows are multiplied together.
_NEIGHBOURS = 8


@dataclass(frozen=True, eq=False)
class Views:
    """What some outputs look at: L places, each with a window of the state.

    Attributes:
        centres: coordinates that each place estimates, [L, C].
        windows: coordinates that it looks at, [L, S]; the number D stands for none.
        shared: whether a place compares its window with those of all L places in the data, or with its own only.
        squares: of an image (C, H, W) and half an edge, where the places are its pixels in order, and the windows all
            entries of the squares about them: then they need not be gathered.
    """

    centres: Tensor
    windows: Tensor
    shared: bool = False
    squares: tuple[tuple[int, int, int], int] | None = None

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Its places, few by few."""
        return tuple(Part.of(windows) for windows in self.windows.split(_NEIGHBOURS))


@dataclass(frozen=True, eq=False)
class Part:
    """A few places, and what of the state all of them see, or some.

    Attributes:
        common: coordinates in all of the windows, [I].
        others: coordinates in some of them, [J].
        seen: whether a place sees each of the others, [l, J].
    """

    common: Tensor
    others: Tensor
    seen: Tensor

    @staticmethod
    def of(windows: Tensor) -> Part:
        """Of windows [l, S]; the number that stands for none is a coordinate like the others, and always 0."""
        counts = windows.flatten().bincount()
        every = counts >= len(windows)
        some = (counts > 0) & ~every
        others = some.nonzero().squeeze(1)
        place = torch.where(some, some.cumsum(0) - 1, len(others))[windows]
        seen = torch.zeros(len(windows), len(others) + 1, dtype=torch.bool, device=windows.device)
        return Part(every.nonzero().squeeze(1), others, seen.scatter_(1, place, True)[:, :-1])


def check_edge(size: int) -> None:
    """Refuse sizes of patches that are not odd, at least 1."""
    integer(size, "size of a patch", -MOST_STEPS, MOST_STEPS)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"A patch about a pixel needs an odd size of at least 1, got {size}.")


def patch_views(shape: tuple[int, int, int], size: int, equivariant: bool) -> tuple[Views, ...]:
    """The views of `LocalCloud.patches`: one for all pixels, or one for each way in which edges cut a patch."""
    check_edge(size)
    channels, height, width = shape
    everything = torch.arange(channels * height * width).unsqueeze(0)
    if size >= 2 * max(height, width) - 1:
        return (Views(everything, everything),)
    half = size // 2
    row, column = (v.flatten() for v in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    steps = torch.cartesian_prod(torch.arange(channels), torch.arange(size) - half, torch.arange(size) - half)
    channel, down, right = steps.T
    rows, columns = row.unsqueeze(1) + down, column.unsqueeze(1) + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    windows = torch.where(inside, (channel * height + rows) * width + columns, everything.numel())
    centres = everything.view(channels, -1).T
    if not equivariant:
        return (Views(centres, windows, squares=(shape, half)),)
    _, kind = inside.unique(dim=0, return_inverse=True)
    alike = [(kind == k).nonzero().squeeze(1) for k in kind.unique()]
    return tuple(Views(centres[places], windows[places][:, inside[places[0]]], shared=True) for places in alike)


def mask_views(seen: Tensor, batch: int = 128) -> tuple[Views, ...]:
    """Views in which coordinate q looks at those j where seen[q, j]; neighbours have windows that are much alike."""
    coordinates, whole = torch.arange(len(seen), device=seen.device), seen.all(1)
    views = []
    if bool(whole.any()):
        views.append(Views(coordinates[whole].unsqueeze(0), coordinates.unsqueeze(0)))
    partial = coordinates[~whole]
    if len(partial):
        order = alike(_sketched(seen[partial].float()), _NEIGHBOURS)
        views += [Views(places.unsqueeze(1), _indices(seen[places])) for places in partial[order].split(batch)]
    return tuple(views)


def _indices(seen: Tensor) -> Tensor:
    """Where rows [l, D] are true, in order: [l, S], with D for none."""
    counts = seen.sum(1)
    row, column = seen.nonzero().T
    index = seen.new_full((len(seen), int(counts.max())), seen.shape[1], dtype=torch.long)
    index[row, torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]] = column
    return index


def _sketched(rows: Tensor, width: int = 8) -> Tensor:
    """A few numbers for each of rows [n, D] that are near where rows are: their leading components, about."""
    start = torch.randn(rows.shape[1], width, generator=torch.Generator().manual_seed(0)).to(rows)
    for _ in range(2):
        start = torch.linalg.qr(rows.T @ (rows @ start)).Q
    return rows @ start


#: Log-weights of data rows [n, D], some places after others, [l, B, n]: of states [B, D] scaled by alpha/sigma^2, views
#: and (alpha/sigma)^2.
Weigh = Callable[[Tensor, Views, float], Callable[[Tensor], Iterator[Tensor]]]
#: So many log-weights stay in the cache of a CPU until they are added up.
_CACHED = 1 << 18


def cheapest(views: Views) -> tuple[Weigh, int]:
    """Of three ways to weigh windows the quickest, and how many numbers of a state it holds for each place."""
    size = views.windows.shape[1]
    if views.squares is None:
        held = [part.seen.numel() for part in views.parts]
        if 2 * size * len(views.windows) < sum(held):
            return gathered, size
        return parted, max(1, -(-max(held) // len(views.windows)))
    channels, height, width = views.squares[0]
    return (banded, channels * width) if 2 * size > channels * width + height else (gathered, size)


def gathered(scaled: Tensor, views: Views, square: float) -> Callable[[Tensor], Iterator[Tensor]]:
    """From the windows of both: of so many places together as the cache holds for the first of all data rows, and of
    the same ones for later rows, which may be fewer."""
    last = views.windows.new_full((len(views.windows), 1), scaled.shape[1])
    windows = torch.cat([views.windows, last], 1).to(scaled.device)  # the column of zeros, for half squared lengths
    queries, together = _columns(scaled)[windows].mT, 0
    queries[..., -1] = -square / 2

    def logits(stored: Tensor) -> Iterator[Tensor]:
        nonlocal together
        columns = _columns(stored)
        if not together:
            together = max(1, _CACHED // (len(scaled) * len(stored))) if stored.device.type == "cpu" else len(windows)
        for index, query in zip(windows.split(together), queries.split(together), strict=True):
            patches = columns.index_select(0, index.flatten()).view(*index.shape, -1)
            patches[:, -1] = patches[:, :-1].square().sum(1)
            yield query @ patches

    return logits


def parted(scaled: Tensor, views: Views, square: float) -> Callable[[Tensor], Iterator[Tensor]]:
    """From what neighbours see in common, once for all of them, and from the rest with zeros where one does not look:
    alike windows are cheaper to multiply than to gather."""
    states = torch.cat([scaled, scaled.new_zeros(len(scaled), 1)], 1)
    parts = [
        (part.common.to(states.device), part.others.to(states.device), part.seen.to(states)) for part in views.parts
    ]

    def logits(stored: Tensor) -> Iterator[Tensor]:
        columns, first = _columns(stored), 0
        found = stored.new_empty(len(views.windows), len(states), len(stored))
        for common, others, seen in parts:
            few, all_see = columns.index_select(0, others), columns.index_select(0, common)
            shared = torch.addmm(all_see.square().sum(0), states.index_select(1, common), all_see, beta=-square / 2)
            here = found[first : first + len(seen)]
            here.copy_(torch.sub(shared, (seen @ few.square()).unsqueeze(1), alpha=square / 2))
            queries = seen.unsqueeze(1) * states.index_select(1, others)  # quicker made than kept
            here.flatten(0, 1).addmm_(queries.flatten(0, 1), few)
            first += len(seen)
        yield found

    return logits


def banded(scaled: Tensor, views: Views, square: float) -> Callable[[Tensor], Iterator[Tensor]]:
    """Of squares about all pixels: sums along rows and then columns are products with banded
    matrices of ones. The first product weighs each row of the image with the band, the second adds rows up."""
    assert views.squares is not None
    (channels, height, width), half = views.squares
    down, right = (_band(edge, half, scaled) for edge in (height, width))
    parts = scaled.view(-1, channels, height, width).permute(2, 0, 1, 3)  # row by row
    queries = (parts.unsqueeze(1) * right[:, None, None, :]).reshape(height, -1, channels * width)

    def logits(stored: Tensor) -> Iterator[Tensor]:
        images = stored.view(-1, channels, height, width)
        rows = torch.bmm(queries, images.permute(2, 0, 1, 3).reshape(height, -1, channels * width).mT)
        squares = (images.square().sum(1) @ right).permute(1, 2, 0).unsqueeze(2)
        rows.view(height, width, -1, len(images)).sub_(squares, alpha=square / 2)
        yield (down @ rows.flatten(1)).view(height * width, -1, len(images))

    return logits


def _band(edge: int, half: int, like: Tensor) -> Tensor:
    """Ones where two places of ``edge`` are at most ``half`` apart, [edge, edge]."""
    place = torch.arange(edge, device=like.device)
    return ((place.unsqueeze(1) - place).abs() <= half).to(like)


def _columns(rows: Tensor) -> Tensor:
    """Coordinates of rows [n, D], and one more of zeros, [D + 1, n]: a column is picked at once."""
    columns = rows.new_zeros(rows.shape[1] + 1, len(rows))
    columns[:-1] = rows.T
    return columns
