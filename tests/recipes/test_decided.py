"""When features are decided: each measure on pictures made for it, and the theory where it must be exact."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from underpaint.analysis import decided
from underpaint.metrics.scenes import Reader, Reading, SceneReader, load_reader, save_reader
from underpaint.models.model import Model
from underpaint.noise import DDPM, EDM
from underpaint.recipes.report.decided import emerged, measure_decided
from underpaint.recipes.shared.model_and_data import ModelAndData
from underpaint.sampling.trajectory import initial_noise
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.moments import Moments

OBJECTS = ("dark thing", "bright thing")


class Thresholds(torch.nn.Module):
    """A reader that needs no training: a cell's class follows from its mean brightness."""

    def forward(self, images: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(images, 4).mean(1)
        return torch.stack([-(cells.abs()), -(cells + 1).abs(), -(cells - 1).abs()], 1)


def two_tone(top: float, bottom: float) -> Tensor:
    image = torch.full((1, 3, 16, 16), top)
    image[:, :, 8:] = bottom
    return image


def test_explained_is_one_at_the_end_and_zero_at_the_mean():
    final = torch.randn(50, 3, dtype=torch.float64)
    values = torch.stack([final.mean(0).expand_as(final), 0.5 * (final + final.mean(0)), final])
    torch.testing.assert_close(decided.explained(values, final), torch.tensor([0.0, 0.75, 1.0], dtype=torch.float64))


def test_explained_ignores_what_a_sample_does_not_have():
    final = torch.tensor([[1.0, 7.0], [3.0, 0.0], [5.0, 9.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    spoiled = final.clone()
    spoiled[:, 1] = 100.0
    assert decided.explained(spoiled[None], final, weight).item() == pytest.approx(1.0)


def test_background_colours_leave_objects_out():
    image = two_tone(0.2, 0.6)
    layout = torch.zeros(1, 4, 4, dtype=torch.bool)
    layout[0, :2, :2] = True
    image[:, :, :8, :8] = 1.0
    colours, weight = decided.background_colours(image, layout)
    torch.testing.assert_close(colours, torch.tensor([[0.2, 0.2, 0.2, 0.6, 0.6, 0.6]]))
    assert bool((weight == 1).all())
    layout[0, 2:] = True
    _, weight = decided.background_colours(image, layout)
    assert weight.tolist() == [[1, 1, 1, 0, 0, 0]]


def test_detail_is_what_a_cell_cannot_hold():
    layout = torch.ones(1, 4, 4, dtype=torch.bool)
    assert decided.detail(torch.full((1, 3, 16, 16), 0.4), layout).abs().max() < 1e-6
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    fine = (0.5 + 0.1 * (2.0 * board - 1)).expand(1, 3, 16, 16)
    torch.testing.assert_close(decided.detail(fine, layout).abs().mean(), torch.tensor(0.1))
    layout[0, :, 2:] = False
    seen = decided.detail(fine, layout).unflatten(1, (3, 16, 16))
    assert seen[..., 8:].abs().max() == 0
    assert seen[..., :8].abs().min() > 0.05


def test_overlap_and_recall_by_hand():
    final = torch.tensor([[[True, True], [False, False]], [[False, False], [False, False]]])
    early = torch.tensor([[[True, False], [True, False]], [[True, True], [True, True]]])
    # one cell shared of three covered; the second picture holds no object and does not count
    assert decided.overlap(early[None], final).item() == pytest.approx(1 / 3)
    found, wanted = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    assert decided.recall(found[None], wanted).item() == pytest.approx(0.5)


def test_objects_are_found_by_the_cells_they_cover():
    cells = torch.zeros(2, 4, 4, dtype=torch.long)
    cells[0, :2, :2] = 2
    cells[1, 0, :3] = 1
    reading = Reading(cells, OBJECTS)
    assert reading.names() == [["bright thing"], []]
    assert reading.layout.sum((1, 2)).tolist() == [4, 3]


def test_a_reader_comes_back_as_it_was(tmp_path: Path):
    torch.manual_seed(0)
    reader = Reader(SceneReader(2, (4, 4, 4)).eval(), OBJECTS, "tiny", (3, 16, 16))
    save_reader(tmp_path, reader, {"test": Moments.of(torch.randn(5, 4))}, note="for a test")
    again = load_reader(tmp_path)
    images = torch.rand(3, 3, 16, 16)
    assert again.objects == OBJECTS
    assert again.shape == (3, 16, 16)
    assert torch.equal(again.network(images), reader.network(images))
    assert again.read(images).cells.shape == (3, 4, 4)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_reader(tmp_path)
    with pytest.raises(ValueError, match="edges multiples of 4"):
        reader.read(torch.rand(1, 3, 15, 16))


def gaussian_subject() -> ModelAndData:
    """A model whose network is the Gaussian of its data, with a reader."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(4000, 3, 4, 4, generator=generator), size=(16, 16))
    rows = 1.2 * smooth.flatten(1) + 0.1 * torch.randn(4000, 768, generator=generator)
    gaussian, schedule = Gaussian.fit(rows), EDM(0.01, 80)

    def network(states: Tensor, times: Tensor, condition: Any) -> Tensor:
        return gaussian(states.flatten(1), schedule(times[0])).unflatten(1, (3, 16, 16))

    model = Model(network, schedule, "x0", (3, 16, 16))
    reader = Reader(cast(SceneReader, Thresholds()), OBJECTS, shape=(3, 16, 16))
    fields: dict[str, Any] = dict.fromkeys(("data", "rows", "mixture", "cloud", "features", "reference"))
    return ModelAndData(model=model, gaussian=gaussian, reader=reader, about={}, **fields)


@pytest.mark.parametrize("schedule", [DDPM(), EDM()])
def test_the_prediction_is_exact_for_gaussian_data(schedule: Any):
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    gaussian = Gaussian.fit(torch.randn(200, 6, generator=generator, dtype=torch.float64) @ mixing, dtype=torch.float64)
    grid = schedule.grid(20)
    x = initial_noise(range(5), 6, grid[0], torch.float64)
    final = gaussian.flow(x, grid[0], grid[-1])
    subject = cast(ModelAndData, SimpleNamespace(gaussian=gaussian))
    for level in grid[:-1]:
        estimate = gaussian(gaussian.flow(x, grid[0], level), level)
        torch.testing.assert_close(emerged(subject, final, level), estimate, rtol=1e-6, atol=1e-8)


def test_a_gaussian_network_decides_when_the_theory_says():
    part = measure_decided(gaussian_subject(), count=40, steps=40)
    assert part is not None
    assert part.measured.shape == part.predicted.shape == (40, 4)
    # the solver's error is all that is between them; where the reader counts objects it may tip single ones over
    difference = (part.measured - part.predicted).abs().amax(0)
    assert bool((difference < torch.tensor([0.01, 0.05, 0.15, 0.01])).all())
    torch.testing.assert_close(part.measured_half, part.predicted_half, rtol=0.05, atol=0)
    assert part.measured[-1].min() > 0.95
    assert part.order(part.measured_half) == part.order(part.predicted_half)
