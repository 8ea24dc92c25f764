"""A denoiser made of the data alone, in the place of a network that is not to be called.

Unconditionally it is a mixture of Gaussians, of clusters by k-means. For a class it is a mixture of the rows of that
class, for a prompt the Gaussian of what the prompt names; guidance leads from one to the other as it does in the
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ... import assets
from ...bounds import MOST_ITEMS, integer
from ...data.datasets import ImageData, load_data
from ...data.named import is_missing
from ...data.store import gaussian_provenance, load_mixture
from ...models.model import Condition, Model
from ...sampling.use import in_turn
from ...theory.denoiser import Denoiser, guide
from ...theory.mixture import Mixture
from .model_and_data import check_several, encode, k_means_mixture
from .request import Conditioning, Sampler, check_statistics, is_ours, name_condition

#: Rows of the data that a mixture is fitted to, at most: drawn without replacement.
_MOST = 10_000
#: Rows of a cluster, at least, in the mean.
_LEAST = 50


@dataclass(frozen=True)
class DataModel:
    """Which data a denoiser is made of, and how.

    Attributes:
        data: a name, a folder or a file; by default what the model says that it was trained on.
        components: Gaussians of the mixture, at most.
        rank: of each, at most; the other directions have their mean variance.
    """

    data: str | None = None
    components: int = 30
    rank: int = 64

    def __post_init__(self) -> None:
        integer(self.components, "number of Gaussians of a mixture", 1, MOST_ITEMS)
        integer(self.rank, "rank of the Gaussians of a mixture", 1, MOST_ITEMS)


def denoiser_from_data(
    sampler: Sampler, cases: Sequence[Conditioning], how: DataModel, statistics: Sequence[str] = ()
) -> tuple[Denoiser, dict[str, str]]:
    """What the network would answer in these cases (row i in case i modulo their number) if it knew no more than a
    mixture of Gaussians does; and what that was made of, by condition. No call of the network.

    ``statistics`` are files, of which the first with classes serves where there are no data.

    Raises:
        ValueError: there are no data and no statistics of them by class, nothing is known of a case's condition, or
            ``how`` says what to fit where nothing is fitted.
    """
    known = _Known(sampler, how, tuple(statistics))
    denoise = in_turn([_in_case(known, case) for case in cases])
    if not known.fitted and how != DataModel():
        raise ValueError(
            f"No mixture is fitted to data here ({'; '.join(known.about.values())} is taken); leave out --data, "
            "--components and --rank."
        )
    return denoise, known.about


def _in_case(known: _Known, case: Conditioning) -> Denoiser:
    cond = known.of(case.condition)
    return cond if case.guidance == 1 else guide(known.of(case.negative), cond, case.guidance)


@dataclass(frozen=True)
class _Known:
    sampler: Sampler
    how: DataModel
    statistics: tuple[str, ...]

    @cached_property
    def about(self) -> dict[str, str]:
        return {}

    @cached_property
    def fitted(self) -> list[int]:
        """Rows of the data that mixtures were fitted to."""
        return []

    @cached_property
    def _made(self) -> dict[Condition | None, Denoiser]:
        return {}

    @property
    def _model(self) -> Model:
        return self.sampler.model

    def of(self, condition: Condition | None) -> Denoiser:
        """The denoiser of a condition, made once."""
        if condition not in self._made:
            made, self.about[name_condition(condition)] = self._make(condition)
            self._made[condition] = made
        return self._made[condition]

    def _make(self, condition: Condition | None) -> tuple[Denoiser, str]:
        if condition is None:
            return self._everything()
        rows = self._class(condition)
        if len(rows) > 1:
            return self._mixture(rows), f"{self._words(rows)} of {name_condition(condition)}"
        theory = self.sampler.theory
        if condition in theory.parts:
            source = theory.about.get(name_condition(condition), "the statistics that are given")
            return theory.parts[condition], f"Gaussian of {source}"
        what = name_condition(condition)
        raise ValueError(
            f"Nothing is known of the data of {what!r}; give their statistics with --gaussian '{what}=FILE', or a "
            "prompt that names just one class of the statistics."
        )

    def _everything(self) -> tuple[Denoiser, str]:
        if self._images is not None:
            check_several(self._images)
            return self._mixture(self._rows), f"{self._words(self._rows)} of {self._images.source}"
        for source in self.statistics:
            whole = assets.folder(source) is not None or Path(source).is_file()
            if whole and is_ours(source) and gaussian_provenance(source).get("classes"):
                mixture = load_mixture(source)
                for part in mixture.components:
                    check_statistics(source, part, self._model)
                return mixture, f"{len(mixture.components)} Gaussians, one for each class of {source}"
        raise ValueError(
            f"{self._model.name} does not say what it was trained on; give its data with --data, or statistics by "
            "class with --gaussian."
        )

    @cached_property
    def _images(self) -> ImageData | None:
        name = self._model.notes.get("data") if self.how.data is None else self.how.data
        return (
            None
            if name is None or (self.how.data is None and is_missing(str(name)))
            else load_data(str(name), shape=self._model.image_shape).take(_MOST)
        )

    @cached_property
    def _rows(self) -> Tensor:
        assert self._images is not None
        return encode(self._model, self._images)

    def _class(self, condition: Condition) -> Tensor:
        """The rows of a class; none where the data have no such labels."""
        labels = None if self._images is None or isinstance(condition, str) else self._images.labels
        return torch.empty(0, self._model.dimension) if labels is None else self._rows[labels == condition]

    def _mixture(self, rows: Tensor) -> Mixture:
        self.fitted.append(len(rows))
        return k_means_mixture(rows, self._count(rows), self.how.rank)

    def _count(self, rows: Tensor) -> int:
        return max(1, min(self.how.components, len(rows) // _LEAST))

    def _words(self, rows: Tensor) -> str:
        count, rank = self._count(rows), min(self.how.rank, rows.shape[1])
        parts = "1 Gaussian" if count == 1 else f"{count} Gaussians"
        return f"{parts} of rank {rank:,} at most, by k-means of {len(rows):,} rows"
