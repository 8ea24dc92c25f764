"""What a user chooses among data: how pictures are to be, the split, the column, and whether labels are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from .decode import Geometry


@dataclass(frozen=True)
class Choice:
    """See `open_source`, whose arguments these are."""

    geometry: Geometry = field(default_factory=Geometry)
    split: str = "train"
    column: str | None = None
    labels: bool = True
