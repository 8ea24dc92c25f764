"""What denoisers are trained on: levels, scales and targets by value, and that both scripts train with them."""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import underpaint
from underpaint.files import read_tensors
from underpaint.noise import DDPM, EDM, NoiseLevel, spaced_ratios
from underpaint.theory.gaussian import Gaussian

TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("objective")


@pytest.fixture
def denoiser(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("denoiser")


@pytest.fixture
def edm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("edm")


def test_the_gain_is_how_the_variance_of_the_denoised_image_grows(objective: ModuleType) -> None:
    """By differences of the variance of the denoiser of `Gaussian`, measured on its own noisy samples."""
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(
        [9, 4, 2, 1, 0.3, 0.1]
    )
    gaussian = Gaussian.fit(rows)
    ratio, step = torch.tensor([0.05, 0.4, 2.0, 10.0]).double(), 1e-4

    def variance(s: torch.Tensor) -> torch.Tensor:
        spectrum = gaussian.eigenvalues.double()
        return (spectrum**2 / (spectrum + s[:, None] ** 2)).mean(1)

    slope = (variance(ratio * np.exp(step)) - variance(ratio * np.exp(-step))) / (2 * step)
    torch.testing.assert_close(objective.gain(gaussian.eigenvalues, ratio), -slope / 2, rtol=1e-6, atol=0)
    clean = gaussian.sample(200_000, torch.Generator().manual_seed(1))
    level = NoiseLevel(torch.tensor(1.0), ratio[2])
    noisy = clean + ratio[2].float() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    measured = gaussian.denoise(noisy, level).var(0).mean()
    assert float(measured) == pytest.approx(float(variance(ratio)[2]), rel=0.02)


def test_levels_are_drawn_as_often_as_they_say(objective: ModuleType) -> None:
    """One of each of as many parts of equal probability: shares of bins to one draw in 4,000, and no drift."""
    levels = objective.training_levels(DDPM("linear")(torch.arange(1000)), torch.tensor([80.0, 10.0, 1.0, 0.1]))
    assert float(levels.probability.sum()) == pytest.approx(1)
    drawn = levels.draw(4000, torch.Generator().manual_seed(0))
    assert bool((drawn.diff() >= 0).all())
    share = torch.bincount(drawn, minlength=1000) / 4000
    torch.testing.assert_close(share.cumsum(0), levels.probability.cumsum(0).float(), rtol=0, atol=1 / 4000 + 1e-6)
    log = levels.level.log_ratio
    high = levels.level.ratio > objective.HIGH
    beyond = 0.5 * torch.erfc((log[high][0] - np.log(objective.CENTRE)) / objective.SPREAD / np.sqrt(2))
    expected = objective.HIGH_SHARE + (1 - objective.HIGH_SHARE) * float(beyond)
    assert float(levels.probability[high].sum()) == pytest.approx(expected, abs=0.01)


def test_targets_are_posterior_means_at_high_noise_and_the_image_below(objective: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 5, generator=generator), torch.arange(40) % 3
    targets = objective.Targets(rows, labels, null=3, least=1.5)
    told = torch.tensor([0, 3, 2, 3, 1])
    level = NoiseLevel(torch.tensor([0.9, 0.5, 0.3, 0.2, 0.6]), torch.tensor([0.1, 1.0, 0.9, 2.0, 0.8]))
    noisy = torch.randn(5, 5, generator=generator)
    found = targets(rows[:5], noisy, level, told)
    for i in (0, 4):
        assert torch.equal(found[i], rows[i])
    for i in (1, 2, 3):
        points = rows if told[i] == 3 else rows[labels == told[i]]
        logits = -(noisy[i] - level.alpha[i].float() * points).square().sum(1) / (2 * level.sigma[i].float() ** 2)
        torch.testing.assert_close(found[i], logits.softmax(0) @ points, rtol=1e-4, atol=1e-5)


def test_targets_leave_the_solution_of_the_regression_where_it_is(objective: ModuleType) -> None:
    """The mean of target and image agree given the state's own level: over many states, to four standard errors."""
    generator = torch.Generator().manual_seed(0)
    rows, count = torch.randn(6, 2, generator=generator), 40_000
    targets = objective.Targets(rows, torch.zeros(6, dtype=torch.long), null=0, least=0.1)
    clean = rows[torch.randint(6, (count,), generator=generator)]
    level = NoiseLevel(torch.ones(count), torch.full((count,), 0.8))
    noisy = clean + 0.8 * torch.randn(clean.shape, generator=generator)
    gap = (targets(clean, noisy, level, torch.zeros(count, dtype=torch.long)) - clean) * noisy
    assert bool((gap.mean(0).abs() < 4 * gap.std(0) / count**0.5).all())


def test_a_scale_divides_each_error(objective: ModuleType) -> None:
    denoised, target = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert float(objective.relative_error(denoised, target, torch.tensor([10.0, 0.5]))) == pytest.approx(2.25)


def test_a_network_that_grows_answers_as_before(denoiser: ModuleType) -> None:
    """Twice as many blocks, but for the attention that is left behind, which adds nothing here."""
    torch.manual_seed(0)
    old = type(denoiser.build_network()).from_config(
        {
            **denoiser.build_network((32, 32), 1).config,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
    )
    for name, weight in old.named_parameters():
        if "attentions.0.to_out" in name or "attentions.1.to_out" in name:
            torch.nn.init.zeros_(weight) if "mid" not in name else None
    new = denoiser.build_network((32, 32), 2)
    denoiser.grow(old, new)
    x, t, label = torch.randn(3, 4, 14, 14), torch.tensor([3, 400, 900]), torch.tensor([0, 10, 4])
    with torch.no_grad():
        before, after = (network(x, t, class_labels=label).sample for network in (old, new))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in new.parameters()) > 1.2 * sum(p.numel() for p in old.parameters())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """JPEGs of single colours, as bytes end to end."""
    parts, colours = [], [(255, 0, 0), (0, 128, 0), (10, 20, 250), (200, 200, 200)]
    for colour in colours:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), colour).save(buffer, "JPEG", quality=95)
        parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
    path = tmp_path / "colours.npz"
    np.savez(
        path, train_bytes=np.concatenate(parts), train_offsets=np.cumsum([0, *map(len, parts)]),
        train_labels=np.array([0, 1, 2, 1]), classes=np.array(["a", "b", "c"]),
    )  # fmt: skip
    return path


def test_mirrors_follow_the_images(edm: ModuleType) -> None:
    images = torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3)
    assert edm.with_mirrors(images)[2].tolist() == [2, 1, 0, 5, 4, 3]


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(script.__file__), *options])
    script.main()


def test_an_edm_network_of_classes_is_trained_and_loaded(
    edm: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "toy"
    options = ("--batch", "4", "--mult", "1", "1", "--blocks", "1", "--minutes", "0.002", "--device", "cpu")
    run(edm, monkeypatch, "--data", str(archive), "--out", str(out), *options)
    record = json.loads((out / "training.json").read_text())
    assert record["images"] == 4 * record["steps"] > 0
    assert record["images_per_second"] > 0
    model = underpaint.load_model(out / "toy.safetensors")
    assert (model.classes, model.null_class) == (3, 3)
    level = EDM()(torch.tensor(1.0))
    answer = model(torch.zeros(2, model.dimension), level)
    assert bool(torch.isfinite(answer).all())


def test_a_run_goes_on_from_pictures_of_half_the_size(
    edm: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = ("--batch", "4", "--mult", "1", "1", "--blocks", "1", "--device", "cpu")
    first, second = tmp_path / "first", tmp_path / "second"
    run(edm, monkeypatch, "--data", str(archive), "--out", str(first), *form, "--minutes", "0.002", "--pool", "2")
    start = ("--start", str(first / "first.safetensors"), "--rate", "0")
    run(edm, monkeypatch, "--data", str(archive), "--out", str(second), *form, "--minutes", "0.001", *start)
    before, after = (
        json.loads((first / "training.json").read_text()),
        json.loads((second / "training.json").read_text()),
    )
    assert (before["pool"], after["pool"]) == (2, 1)
    assert [part["steps"] for part in after["earlier"]] == [before["steps"]]
    one, two = (read_tensors(folder / f"{folder.name}.safetensors") for folder in (first, second))
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], msg=name)
    with pytest.raises(ValueError, match="another form"):
        run(edm, monkeypatch, "--data", str(archive), "--out", str(tmp_path / "x"), *form, *start, "--channels", "64")


def test_pooled_pixels_are_means(edm: ModuleType) -> None:
    images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert edm.pooled(images, 2).tolist() == [[[[2, 4], [10, 12]]]]  # means 2.5 and 4.5, rounded to even
    torch.testing.assert_close(edm.pooled(images / 8 - 1, 2)[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]) / 8 - 1)


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_the_exact_denoiser_has_no_loss_at_high_noise(edm: ModuleType, archive: Path, drop: float) -> None:
    """Of the images told, or of all, mirrored ones among them; one that leaves the mirrors out has some."""
    data = underpaint.load_data(archive)
    images = data.images.clone()
    images[..., :8] = 0
    rows, labels = edm.with_mirrors(images), data.labels.repeat(2)
    levels = edm.training_levels(EDM()(spaced_ratios(20, 80.0, edm.EXACT_FROM + 0.1).flip(0)), torch.full((768,), 0.2))

    def answer(points: torch.Tensor, names: torch.Tensor) -> torch.nn.Module:
        class Exact(torch.nn.Module):
            def forward(self, x: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
                told = torch.stack([(names == one) | (one == 3) for one in label])
                apart = torch.cdist(x.flatten(1).double(), points.double() / 127.5 - 1).square()
                weight = (-apart / (2 * sigma[:, None].double() ** 2)).masked_fill(~told, -torch.inf).softmax(1)
                return (weight @ (points.double() / 127.5 - 1)).float()

        return Exact()

    def value(network: torch.nn.Module) -> float:
        loss = edm.denoising_loss(
            network, rows, labels, 3, data.shape, levels, edm.Settings(minutes=1.0, rate=1.0, batch=64), drop
        )
        return float(loss(torch.Generator().manual_seed(0)))

    assert value(answer(rows, labels)) < 1e-4
    assert value(answer(rows[:4], labels[:4])) > 1
