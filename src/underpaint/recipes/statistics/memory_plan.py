"""How the statistics of data are to be taken: which covariance fits into memory, and how the work is cut up."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from ...bounds import MOST_ITEMS, integer, shown
from ...data.stream import Source, digest
from ...theory.shrinkage import FEWEST
from ...theory.sums import Full, LowRank, Rows, Sketch, Stationary

#: Estimates of eigenvalues from those of few items; see `theory.shrinkage`.
SHRINKAGE = ("ledoit-wolf",)
KINDS = ("auto", "full", "low-rank", "stationary")
#: Ranks that the automatic choice goes through.
_RANKS = (1024, 512, 256, 128, 64)


@dataclass(frozen=True)
class Settings:
    """How statistics are taken; ``memory`` in bytes bounds the automatic choice of the kind and of the classes.

    Attributes:
        kind: see `KINDS`.
        rank: of a low-rank covariance, or to truncate a full one to.
        classes: also one Gaussian for each class, if there are labels and memory for it.
        precise: products in float64 as well; about half as fast.
        strict: an item that cannot be read ends it.
        groups: how many parts the work is cut into, at most; more processes than this are idle.
        interval: seconds between checkpoints.
        shrinkage: see `SHRINKAGE`; None leaves eigenvalues as they are.
    """

    kind: str = "auto"
    rank: int | None = None
    memory: float = 8e9
    classes: bool = True
    precise: bool = False
    strict: bool = False
    groups: int = 64
    interval: float = 60.0
    shrinkage: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Unknown kind of covariance {shown(self.kind)}; choose from {', '.join(KINDS)}.")
        if self.groups < 1 or (self.rank is not None and self.rank < 1):
            raise ValueError(f"rank and groups must be at least 1, got {self.rank} and {self.groups}.")
        integer(self.groups, "number of groups", 1, MOST_ITEMS)
        integer(self.rank or 1, "rank", 1, MOST_ITEMS)
        if self.kind == "stationary" and self.rank is not None:
            raise ValueError(
                f"A stationary covariance has no rank; leave out --rank {self.rank}, or give another --kind."
            )
        if self.shrinkage not in (None, *SHRINKAGE):
            raise ValueError(f"Unknown shrinkage {self.shrinkage!r}; choose {', '.join(SHRINKAGE)} or none.")
        if self.shrinkage and (self.rank or self.kind not in ("auto", "full")):
            raise ValueError("Shrinkage needs the whole spectrum; leave out --rank and --kind.")


@dataclass(frozen=True, eq=False)
class StatisticsPlan:
    """What to do: chunks of ``chunk`` items, groups of ``group`` chunks; ``words`` say what was chosen and why."""

    source: Source
    settings: Settings
    sketch: Sketch
    classes: bool
    chunk: int
    group: int
    words: str

    @property
    def chunks(self) -> int:
        return math.ceil(self.source.count / self.chunk)

    @property
    def groups(self) -> int:
        return math.ceil(self.source.count / (self.chunk * self.group))

    @property
    def identity(self) -> str:
        """Changes with all that decides the result."""
        data, precise = (self.source.identity, self.source.count), self.settings.precise
        return digest(*data, repr(self.sketch), self.classes, precise, self.chunk, self.group)


def plan_statistics(source: Source, settings: Settings | None = None) -> StatisticsPlan:
    """Choose the kind of covariance, the chunks and the groups.

    Raises:
        ValueError: the kind that was asked for does not suit the data, or nothing fits into the memory.
    """
    settings = settings or Settings()
    if source.space:  # a Fréchet distance takes the root of the smallest variances, too
        if settings.kind not in ("auto", "full") or settings.rank:
            raise ValueError("Statistics of features are full; leave out --kind and --rank.")
        settings = replace(settings, kind="full", classes=False, precise=True)
    if settings.shrinkage:
        settings = replace(settings, kind="full")
    check_enough(source, settings)
    chunk = 2 ** int(math.log2(min(max(2**24 / source.dimension, 1), source.step, source.count)))
    group = math.ceil(math.ceil(source.count / chunk) / settings.groups)
    options = _options(source, settings)

    def cost(sketch: Sketch, classes: int = 1) -> str:
        needed = _memory(sketch, classes, source, chunk)
        return f"{needed / 1e9:.1f} GB" if needed >= 1e8 else f"{math.ceil(needed / 1e6)} MB"

    sketch = next((option for option in options if _memory(option, 1, source, chunk) <= settings.memory), None)
    if sketch is None:
        raise ValueError(
            f"{settings.memory / 1e9:g} GB are not enough: a {_title(options[-1])} covariance needs "
            f"{cost(options[-1])}."
        )
    words, classes = f"{_title(sketch)} covariance of {source.dimension:,} dimensions", 1
    if isinstance(sketch, Rows):
        words += f", all that {source.count:,} items have"
    if sketch is not options[0]:
        words += f" ({_title(options[0])} needs {cost(options[0])})"
    if settings.classes and len(source.classes) > 1:
        number = len(source.classes)
        if _memory(sketch, number, source, chunk) <= settings.memory:
            words, classes = f"{words}, also of {number:,} classes", number
        else:
            words += f", without its {number:,} classes ({cost(sketch, number)})"
    words += f"; at most {cost(sketch, classes)} of {settings.memory / 1e9:g} GB"
    return StatisticsPlan(source, settings, sketch, classes > 1, chunk, group, words)


def check_enough(source: Source, settings: Settings, bad: int = 0, first: str = "") -> None:
    """Refuse data of which too few items are left, once ``bad`` of them were found that cannot be used, the ``first``
    of these for a reason in words.

    Raises:
        ValueError: they are.
    """
    what, fewest = ("Shrinkage needs", FEWEST) if settings.shrinkage else ("Statistics need", 2)
    if source.count - bad < fewest:
        of = f", of which {bad:,} or more cannot be used (the first: {first})" if bad else ""
        raise ValueError(f"{what} at least {fewest} items; {source.name} has {source.count:,}{of}.")


def _options(source: Source, settings: Settings) -> list[Sketch]:
    """The sketches to choose from, best first."""
    few = (
        source.count <= source.dimension and not source.space
    )  # their products with each other are fewer than those of the dimensions
    full: list[Sketch] = [
        Rows(source.count, source.dimension, settings.rank) if few else Full(source.dimension, settings.rank)
    ]
    most = min(source.dimension, source.count - 1)
    ranks = (
        [settings.rank] if settings.rank else [r for r in _RANKS if 2 * r < source.dimension and r <= most] or [most]
    )
    low: list[Sketch] = [LowRank(source.dimension, rank) for rank in ranks]
    image = source.shape if len(source.shape) == 3 else None
    still: list[Sketch] = [Stationary.usual((image[0], image[1], image[2]))] if image else []
    auto = full + low + ([] if settings.rank else still)  # which has none
    options = {"full": full, "low-rank": low, "stationary": still, "auto": auto}[settings.kind]
    if not options:
        raise ValueError(
            f"A stationary covariance needs images or latents (C, H, W); {source.name} has {source.shape}."
        )
    return options


def _memory(sketch: Sketch, classes: int, source: Source, chunk: int) -> int:
    """Bytes at the peak: sums so far, of a group, and on their way (3 a class), one decomposition (7), and chunks. Rows
    that are kept belong to one class each."""
    times = 3 * (1 if isinstance(sketch, Rows) else classes) + 7
    return 8 * math.prod(sketch.shape) * times + 32 * chunk * source.dimension


def _title(sketch: Sketch) -> str:
    if isinstance(sketch, LowRank):
        return f"rank-{sketch.rank}"
    if isinstance(sketch, Rows):
        return f"rank-{min(sketch.rank or sketch.count, sketch.count - 1)}"
    return "full" if isinstance(sketch, Full) else "stationary"


def parse_memory(text: str) -> float:
    """'8GB' -> 8e9, '500 MB' -> 5e8.

    Raises:
        ValueError: it is not of that form.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d*)?|\.\d+) *([kMGT]?)B?", text.strip())
    if not found or not float(found[1]):
        raise ValueError(f"Memory is a number such as 8GB or 500MB, got {shown(text)}.")
    return float(found[1]) * 1000.0 ** " kMGT".index(found[2] or " ")
