"""Mean and covariance of data of any size: one pass, bounded memory, any number of processes, resumable.

The items are cut into chunks and the chunks into groups, both of a size that the data alone decide. A group is summed
from zero, and the sums of the groups are added in the order of the groups, whoever made them; each product, and each
decomposition at the end, is the work of one thread. So the result is the same to the last bit for any number of
processes and threads, interrupted or not (on processors of one kind, and with the same libraries).
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.store import save_gaussian
from ...data.stream import Chunk
from ...metrics.frechet import Statistics, write_reference
from ...progress import Progress, Whole, silent
from ...theory.blocks import one_thread
from ...theory.gaussian import Gaussian
from ...theory.sums import Sums, column_sums
from ...version import __version__
from ..shared.checkpoints import read_part, write_part
from ..shared.processes import Message, Processes, join_processes
from .memory_plan import StatisticsPlan, check_enough

#: The label under which items without labels are summed.
_ALL = -1
_NAMED = 20


class Tally:
    """What is known of the items so far: sums for each class, range, hash, and which items could not be read."""

    def __init__(self, plan: StatisticsPlan, centre: Tensor) -> None:
        self.plan, self.centre = plan, centre
        self.groups = 0
        self.sums: dict[int, Sums] = {}
        self.low, self.high = math.inf, -math.inf
        self.bad, self.named = 0, list[str]()
        self.hashes = list[str]()

    def add_group(self, group: int, advance: Callable[[], None]) -> None:
        """Read and add the chunks of a group, and tell of each."""
        digest = hashlib.sha256()
        start = group * self.plan.group
        for chunk in self.plan.source.chunks(self.plan.chunk, start, start + self.plan.group):
            if self.plan.settings.strict and chunk.bad:
                raise ValueError(f"{chunk.bad[0]} (without --strict such items are left out).")
            self.bad += len(chunk.bad)
            self.named = (self.named + list(chunk.bad))[:_NAMED]
            self.check_enough()
            digest.update(chunk.data.contiguous().numpy().data)
            if len(chunk.data):
                self._add(chunk)
            advance()
        self.hashes.append(digest.hexdigest())
        self.groups += 1

    def _add(self, chunk: Chunk) -> None:
        rows = chunk.values.flatten(1)
        self.low, self.high = min(self.low, float(rows.min())), max(self.high, float(rows.max()))
        rows = rows.double() if self.plan.settings.precise else rows
        if not self.plan.classes or chunk.labels is None:
            self._of(_ALL).add(rows)
            return
        for label in chunk.labels.unique().tolist():
            self._of(label).add(rows[chunk.labels == label])

    def _of(self, label: int) -> Sums:
        if label not in self.sums:
            self.sums[label] = Sums(self.plan.sketch, self.centre)
        return self.sums[label]

    def merge(self, other: Tally) -> None:
        """Add what comes after; the other's sums are used up."""
        self.groups += other.groups
        for label, sums in sorted(other.sums.items()):
            if label in self.sums:
                self.sums[label].merge(sums)
            else:
                self.sums[label] = sums
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.bad, self.named = self.bad + other.bad, (self.named + other.named)[:_NAMED]
        self.hashes += other.hashes
        self.check_enough()

    def check_enough(self) -> None:
        """End the pass by a ValueError where too few items can be left, as soon as that is known."""
        check_enough(self.plan.source, self.plan.settings, self.bad, next(iter(self.named), ""))

    def pack(self) -> Message:
        tensors = {"centre": self.centre}
        for label, sums in self.sums.items():
            tensors |= {f"{label}.total": sums.total, f"{label}.kept": sums.kept}
        notes = {"groups": self.groups, "range": [self.low, self.high], "bad": self.bad, "named": self.named}
        counts = {label: sums.count for label, sums in self.sums.items()}
        return tensors, notes | {"hashes": self.hashes, "counts": counts}

    @staticmethod
    def unpack(plan: StatisticsPlan, parcel: Message) -> Tally:
        tensors, notes = parcel
        tally = Tally(plan, tensors["centre"])
        tally.groups, (tally.low, tally.high) = notes["groups"], notes["range"]
        tally.bad, tally.named, tally.hashes = notes["bad"], notes["named"], notes["hashes"]
        for label, count in notes["counts"].items():
            sums = tally._of(int(label))
            sums.count, sums.total, sums.kept = count, tensors[f"{label}.total"], tensors[f"{label}.kept"]
        return tally

    def overall(self) -> Sums:
        """The sums of all classes together."""
        if list(self.sums) == [_ALL]:
            return self.sums[_ALL]
        whole = Sums(self.plan.sketch, self.centre)
        for _, sums in sorted(self.sums.items()):
            whole.merge(sums)
        return whole


@dataclass(frozen=True, eq=False)
class Result:
    """The Gaussian of all items, those of the classes (label -> count, Gaussian), what is noted beside them, and where
    the sums are kept until they are saved."""

    gaussian: Gaussian
    classes: dict[int, tuple[int, Gaussian]]
    notes: dict[str, Any]
    checkpoint: Path | None = None

    @property
    def summary(self) -> str:
        """How much went in, and what was left out."""
        left = self.notes["left_out"]
        first = f" (the first: {left['items'][0]})" if left["count"] else ""
        return f"Statistics of {self.notes['count']:,} items, {left['count']:,} left out{first}"

    @property
    def finding(self) -> str:
        """How much went in, and in how many directions it varies."""
        about = self.notes["summary"]
        return (
            f"{self.summary}. 90 % of their variance lies in {about['components for 90 %']:,} of "
            f"{about['dimension']:,} directions, 99 % in {about['components for 99 %']:,}."
        )

    @property
    def table(self) -> str:
        """What the covariance is like, a line for each number."""
        lines = (f"  {name:<22}{value:,.6g}" for name, value in self.notes["summary"].items())
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write a file that `load_gaussian` reads; of features, one that `read_reference` reads. Then the checkpoint
        goes."""
        space, known = self.notes.get("features"), self.gaussian
        if space is None:
            save_gaussian(path, known, self.classes, **self.notes)
        else:
            write_reference(path, Statistics(space, known.mean, known.covariance.matrix(), self.notes["count"]))
        if self.checkpoint:
            self.checkpoint.unlink(missing_ok=True)


def take_statistics(plan: StatisticsPlan, checkpoint: Path | None = None, progress: Progress = silent) -> Result | None:
    """Carry out a plan, together with the other processes of the team if there are any; None on all but the first.

    In each round every process sums one group, and the first adds them up in order. ``checkpoint`` is a file of all
    sums so far, written by the first process after a round if the last one is older than the settings' interval, and
    when they are complete: what is killed loses the work since it was written. It goes when the result is saved. Disk:
    twice the sums, the old and the new.

    Raises:
        ValueError: nothing can be read, the checkpoint is damaged or of other work, or with ``strict`` an item is bad.
        ConnectionError: another process went away.
    """
    with join_processes() as processes:
        tally = _start(plan, processes, checkpoint)
        whole = Whole(silent if processes.rank else progress, f"{plan.source.count:,} items, chunks", plan.chunks)
        whole.reach(tally.groups * plan.group)
        saved = time.monotonic()
        missing = range(tally.groups, plan.groups, processes.size)
        for first in missing:
            for part in _round(plan, processes, tally.centre, first, whole.advance):
                tally.merge(part)
                whole.reach(tally.groups * plan.group)
            if checkpoint and processes.rank == 0 and time.monotonic() - saved >= plan.settings.interval:
                _keep(checkpoint, tally)
                saved = time.monotonic()
    if processes.rank:
        return None
    if checkpoint and (missing or not checkpoint.is_file()):
        _keep(checkpoint, tally)
    try:
        return replace(_finish(tally, progress), checkpoint=checkpoint)
    except ValueError as error:  # no statistics of the sums: those stay, for others can be taken of them
        kept = f" The sums are kept in {checkpoint}: take others of them, or remove it." if checkpoint else ""
        raise ValueError(f"{error}{kept}") from error


def summarise(gaussian: Gaussian, count: int) -> dict[str, Any]:
    """What a covariance is like, in JSON types: how many numbers it stands for, and how many of them matter."""
    covariance = gaussian.covariance
    return {
        "items": count,
        "dimension": covariance.dimension,
        "rank": covariance.dimension if covariance.residual else int((covariance.eigenvalues > 0).sum()),
        "total variance": covariance.total,
        "residual variance": covariance.residual,
        "effective rank": covariance.effective_rank,
        "components for 90 %": covariance.components_for(0.9),
        "components for 99 %": covariance.components_for(0.99),
    }


def _keep(checkpoint: Path, tally: Tally) -> None:
    """Write the sums so far; where that is not possible, the work goes on, as long as it is not interrupted."""
    try:
        write_part(checkpoint, {"plan": tally.plan.identity}, tally.pack())
    except OSError as error:
        warnings.warn(f"{error.strerror or error} The work goes on without it.", stacklevel=2)


def _start(plan: StatisticsPlan, processes: Processes, checkpoint: Path | None) -> Tally:
    """The work so far, or none about the mean of the first chunk: known to the first process, and told the others."""
    tally = Tally(plan, torch.zeros(plan.source.dimension, dtype=torch.float64))
    if processes.rank == 0:
        if checkpoint and checkpoint.is_file():
            try:
                tally = Tally.unpack(plan, read_part(checkpoint, {"plan": plan.identity}))
            except ValueError as error:
                raise ValueError(f"{error}; remove it or move it away, and the work begins anew.") from error
        else:
            tally.centre = _first_mean(plan)
    done = processes.share(torch.tensor([tally.groups]))
    tally.groups, tally.centre = int(done), processes.share(tally.centre)
    return tally


def _first_mean(plan: StatisticsPlan) -> Tensor:
    reason = "they are empty"
    for chunk in plan.source.chunks(plan.chunk):
        if len(chunk.data):
            return column_sums(chunk.values.flatten(1)) / len(chunk.data)
        reason = chunk.bad[0] if chunk.bad else reason
    raise ValueError(f"None of the {plan.source.count:,} items of {plan.source.name} can be used ({reason}).")


def _round(
    plan: StatisticsPlan, processes: Processes, centre: Tensor, first: int, advance: Callable[[], None]
) -> Iterator[Tally]:
    """Each process sums one group from ``first`` on; the first process gets them, in order."""
    here = min(processes.size, plan.groups - first)
    if processes.rank < here:
        own = Tally(plan, centre)
        own.add_group(first + processes.rank, advance)
        if processes.rank:
            processes.send(own.pack())
        else:
            yield own
    if processes.rank == 0:
        yield from (Tally.unpack(plan, processes.receive(rank)) for rank in range(1, here))


def _finish(tally: Tally, progress: Progress) -> Result:
    plan, source = tally.plan, tally.plan.source
    labels = [label for label, sums in sorted(tally.sums.items()) if label != _ALL and sums.count > 1]
    plain = list[int]()
    advance = progress("decompositions", 1 + len(labels))
    dtype = torch.float64 if source.space else torch.float32

    def gaussian(sums: Sums) -> Gaussian:
        with one_thread():
            fitted = Gaussian(sums.mean.to(dtype), sums.covariance(dtype))
        advance()
        return fitted.shrunk(sums.count) if plan.settings.shrinkage else fitted

    def of_class(label: int) -> Gaussian:
        try:
            return gaussian(tally.sums[label])
        except ValueError:  # too few items to shrink by
            plain.append(label)
            sums = tally.sums[label]
            return Gaussian(sums.mean.to(dtype), sums.covariance(dtype))

    whole = tally.overall()
    notes = {
        "data": source.name,
        "count": whole.count,
        "shape": list(source.shape),
        "handling": source.handling,
        "range": [tally.low, tally.high],
        "statistics": plan.words,
        "products": "float64" if plan.settings.precise else "float32",
        "hash": hashlib.sha256("".join(tally.hashes).encode()).hexdigest(),
        "left_out": {"count": tally.bad, "items": tally.named},
        "shrinkage": plan.settings.shrinkage,
        "class_names": {label: source.classes.get(label, str(label)) for label in labels},
        "underpaint": __version__,
    } | ({"features": source.space} if source.space else {})
    result = gaussian(whole)
    notes["summary"] = summarise(result, whole.count)
    classes = {label: (tally.sums[label].count, of_class(label)) for label in labels}
    return Result(result, classes, notes | ({"classes not shrunk": plain} if plan.settings.shrinkage else {}))
