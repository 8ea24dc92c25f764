"""Nothing stored of one network is taken for another's of the same name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from underpaint.files import read_tensors
from underpaint.models.model import Model
from underpaint.models.wrap import wrap
from underpaint.noise import EDM
from underpaint.recipes.shared.request import Conditioning, Request, prepare
from underpaint.recipes.statistics.sources import own_samples
from underpaint.recipes.trajectory import survey


def shrinking(share: float) -> Model:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return share * x / (1 + t.reshape(-1, 1, 1, 1) ** 2)

    return wrap(network, (1, 2, 2), EDM(), "x0")


def test_trajectories_of_two_functions_of_one_name(tmp_path: Path) -> None:
    asked = Request(model="network", steps=4)
    for share in (0.5, 0.9, 0.5):
        survey([(prepare(asked, shrinking(share)), [Conditioning()])], (0, 1), tmp_path, states=True)
    one, other = (read_tensors(file)["x"] for file in tmp_path.iterdir())
    assert one.shape == other.shape
    assert not torch.equal(one, other)


def test_samples_of_two_functions_of_one_name() -> None:
    one, other, again = (own_samples(shrinking(share), 4, steps=3).identity for share in (0.5, 0.9, 0.5))
    assert one == again != other
