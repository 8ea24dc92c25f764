"""What a fit of plans holds at once beside the denoiser is what it states before it begins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from steps import Peak, gaussian_of

from underpaint.calibration.budget import Memory
from underpaint.calibration.calibrate import calibrate
from underpaint.calibration.solution import FineSolution, Precision
from underpaint.noise import EDM, NoiseLevel
from underpaint.recipes.shared.checkpoints import Parts, drop_parts
from underpaint.sampling.fitted import Plan


class Held(Peak):
    """The peak beside what lies in files."""

    def _watch(self, tensor: torch.Tensor) -> None:
        if getattr(tensor.untyped_storage(), "filename", None) is None:
            super()._watch(tensor)


def test_a_step_of_the_fine_solution_is_a_state_and_an_image_of_each_seed() -> None:
    assert Memory.of(4, seeds=3, held_out=2, coordinates=100).each_step == 2 * 3 * 100 * 4


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [1 << 14, 1 << 18], ids=["16,384", "latents of Flux"])
def test_a_fit_keeps_within_the_memory_that_is_stated(
    dimension: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fine solution in files; of small data, what does not grow with them is made small with them."""
    seeds = 4
    monkeypatch.setattr("underpaint.recipes.shared.checkpoints.LARGE", 1 << 20)
    if dimension < 1 << 18:
        monkeypatch.setattr("underpaint.calibration.fit.BLOCK", 1 << 18)
        monkeypatch.setattr("underpaint.calibration.budget._DOUBLE", 3 * 8 << 18)
        monkeypatch.setattr("underpaint.calibration.levels._COORDINATES", 256)
    gaussian, fine = gaussian_of(dimension, "8", "cpu"), 10

    def network(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        return torch.lerp(gaussian.denoise(x, level), x.tanh(), 0.1)

    stated = Memory.of(4, seeds, 2, dimension + 8, fine=fine)
    parts = Parts(tmp_path, {}, (FineSolution, NoiseLevel, Plan, Precision))
    with Held(gaussian.basis, gaussian.mean) as peak:
        calibrate(network, gaussian, EDM(), (4,), range(seeds), (1000, 1001), fine, 12, keep=parts)
    assert peak.most <= stated.beside
    assert peak.most > 0.4 * stated.beside
    laid = [path.stat().st_size for path in tmp_path.glob("*.laid")]
    assert sum(laid) == fine * stated.each_step
    drop_parts(tmp_path)
    assert not tmp_path.exists()


def test_two_gigabytes_are_enough_for_packed_latents_of_flux() -> None:
    """4,096 tokens of 64 numbers, 16 seeds, plans of up to 14 calls."""
    assert Memory.of(14, 16, 16, 4096 * 64 + 64, fine=160).beside < 2e9


def test_the_words_on_memory() -> None:
    memory = Memory(2_000_000, 300_000_000)
    said = "The fit takes up to 0.3 GB of memory beside the model, and the fine solution "
    assert memory.words(250, in_files=True) == said + "0.5 GB on disk."
    assert memory.words(None, in_files=False) == said + "0.2 GB more for each 100 of its steps."
