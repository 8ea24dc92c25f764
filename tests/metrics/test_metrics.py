"""The Frechet distance against references, its reference files, and the classifier that gives its features."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from underpaint.data.idx import read_idx
from underpaint.metrics.features import (
    FASHION,
    FeatureSet,
    SmallClassifier,
    load_classifier,
    load_features,
    load_statistics,
    save_classifier,
)
from underpaint.metrics.frechet import (
    INCEPTION,
    FrechetScore,
    Statistics,
    frechet_distance,
    frechet_score,
    read_reference,
    sampling_floor,
    write_reference,
)
from underpaint.theory.moments import Moments

DATA = Path("/usr/share/datasets/fashion-mnist")


def normal_rows(count: int, size: int, seed: int) -> Tensor:
    """Correlated rows with a mean of their own, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    shift = torch.randn(size, generator=generator, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mix + shift


def by_sqrtm(a: Moments, b: Moments) -> float:
    """The textbook form, with the matrix square root of scipy."""
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root).real)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_distance_equals_scipy(size: int) -> None:
    a, b = Moments.of(normal_rows(500, size, 0)), Moments.of(normal_rows(300, size, 1))
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)


def test_distance_of_diagonal_gaussians() -> None:
    """tr (sqrt A - sqrt B)^2 where A and B commute; one variance is zero in one of them."""
    a = Statistics("s", torch.tensor([1.0, 0.0, -2.0]), torch.diag(torch.tensor([4.0, 9.0, 0.0])))
    b = Statistics("s", torch.tensor([0.0, 0.0, 1.0]), torch.diag(torch.tensor([1.0, 16.0, 25.0])))
    assert frechet_distance(a, b) == pytest.approx(1 + 9 + 1 + 1 + 25, abs=1e-6)


def test_distance_of_rank_deficient_covariances() -> None:
    """Fewer rows than features. A^{1/2} B A^{1/2} has rank 1 here, with one known eigenvalue."""
    u, v = torch.zeros(2, 50, dtype=torch.float64).unbind()
    u[0], v[0], v[1] = 3.0, 1.0, 2.0
    a, b = Moments(2, u * 0, torch.outer(u, u)), Moments(2, u * 0, torch.outer(v, v))
    assert frechet_distance(a, b) == pytest.approx(9 + 5 - 2 * 3, abs=1e-5)
    few = Moments.of(normal_rows(10, 50, 2))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6 * float(few.covariance.trace()))


@given(size=st.integers(1, 12), count=st.integers(2, 40), seed=st.integers(0, 2**20), scale=st.floats(1e-3, 1e3))
def test_distance_is_symmetric_zero_on_itself_and_scales(size: int, count: int, seed: int, scale: float) -> None:
    rows, others = normal_rows(count, size, seed), normal_rows(60, size, seed + 1)
    a, b = Moments.of(rows), Moments.of(others)
    spread = float(a.covariance.trace() + b.covariance.trace())
    distance = frechet_distance(a, b)
    assert distance >= 0
    assert frechet_distance(b, a) == pytest.approx(distance, abs=1e-6 * spread)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * spread)
    scaled = frechet_distance(Moments.of(scale * rows), Moments.of(scale * others))
    assert scaled == pytest.approx(scale**2 * distance, abs=1e-6 * scale**2 * spread)


def test_distance_refuses_other_dimensions() -> None:
    with pytest.raises(ValueError, match="Cannot compare 3 features with 4"):
        frechet_distance(Moments.of(normal_rows(9, 3, 0)), Moments.of(normal_rows(9, 4, 0)))


def test_the_spectrum_of_a_reference_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are scored by it; the floors need no other. Values are those of statistics that keep nothing."""
    solved, solve = list[int](), torch.linalg.eigh
    monkeypatch.setattr("torch.linalg.eigh", lambda matrix: (solved.append(len(matrix)), solve(matrix))[1])
    known = Moments.of(normal_rows(200, 4, 1))
    reference = Statistics.of(known, "toy-4")
    rows = [Moments.of(normal_rows(50, 4, seed)) for seed in (2, 3, 4)]
    scores = [frechet_score(Statistics.of(one, "toy-4"), reference) for one in rows]
    assert solved == [4]
    assert [score.value for score in scores] == pytest.approx([frechet_distance(one, known) for one in rows], rel=1e-9)
    assert len(solved) == 4


@pytest.mark.parametrize("count", [60, 240])
def test_sampling_floor_is_the_mean_score_of_a_perfect_sampler(count: int) -> None:
    values = torch.tensor([3.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    truth = Statistics("s", torch.zeros(8), values.diag())
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(300, count, 8, generator=generator, dtype=torch.float64) * values.sqrt()
    scores = [frechet_distance(Moments.of(sample), truth) for sample in rows]
    assert sampling_floor(truth, count) == pytest.approx(sum(scores) / len(scores), rel=0.1)


def test_sampling_floor_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        sampling_floor(Statistics("s", torch.zeros(3), torch.eye(3)), 1)


def test_score_carries_space_counts_and_both_floors() -> None:
    a = Statistics.of(Moments.of(normal_rows(50, 3, 0)), "toy-3")
    b = Statistics.of(Moments.of(normal_rows(200, 3, 1)), "toy-3")
    score = frechet_score(a, b)
    floor = sampling_floor(b, 50) + sampling_floor(b, 200)
    assert score == FrechetScore(frechet_distance(a, b), "toy-3", 50, 200, pytest.approx(floor))
    assert str(score).startswith(f"{score.value:.4g} in toy-3 (50 against 200 samples")
    with pytest.raises(ValueError, match="'toy-3' with a reference of 'other'"):
        frechet_score(a, Statistics("other", b.mean, b.covariance))


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(3), torch.eye(2), "got shapes"),
        (torch.zeros(3, 1), torch.eye(3), "got shapes"),
        (torch.tensor([0.0, float("nan")]), torch.eye(2), "The mean of s features holds NaN"),
        (torch.zeros(2), torch.full((2, 2), float("inf")), "The covariance of s features holds NaN"),
    ],
)
def test_statistics_refuse_what_cannot_be_compared(mean: Tensor, covariance: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Statistics("s", mean, covariance)


@pytest.mark.parametrize("count", [None, 123])
def test_reference_round_trip(tmp_path: Path, count: int | None) -> None:
    moments = Moments.of(normal_rows(30, 4, 0))
    path = tmp_path / "reference.stats"
    write_reference(path, Statistics("toy-4", moments.mean, moments.covariance, count))
    back = read_reference(path)
    assert (back.space, back.count) == ("toy-4", count)
    assert torch.equal(back.mean, moments.mean)
    assert torch.equal(back.covariance, moments.covariance)


def test_reads_the_files_of_edm(tmp_path: Path) -> None:
    """Only mu and sigma, in any float type; their space is Inception's and their count unknown."""
    np.savez(tmp_path / "cifar.npz", mu=np.ones(3, np.float32), sigma=np.eye(3))
    reference = read_reference(tmp_path / "cifar.npz")
    assert (reference.space, reference.count, reference.mean.dtype) == (INCEPTION, None, torch.float64)
    assert reference.mean.tolist() == [1, 1, 1]


def test_reference_never_unpickles(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "object.npz", mu=np.array([Trap()], dtype=object), sigma=np.eye(1))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"mu": Trap(), "sigma": np.eye(1)}))
    with pytest.raises(ValueError, match="cannot be read as an array without pickles"):
        read_reference(tmp_path / "object.npz")
    with pytest.raises(ValueError, match="pickled statistics are not loaded"):
        read_reference(tmp_path / "pickle.npz")
    assert not (tmp_path / "sprung").exists()


def test_reference_says_what_is_wrong(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", mu=np.ones(3))
    np.savez_compressed(tmp_path / "whole.npz", mu=np.ones(300), sigma=normal_rows(300, 300, 0).numpy())
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:2000])
    (tmp_path / "hit.npz").write_bytes(whole[:5000] + b"\0" * 2000 + whole[7000:])
    np.save(tmp_path / "single.npy", np.ones(3))
    for name, message in (
        ("absent.npz", "There is no file"),
        ("other.npz", r"holds \['mu'\]; expected mu \[F\] and sigma"),
        ("cut.npz", "is not a complete"),
        ("hit.npz", "cannot be read as an array without pickles"),
        ("single.npy", "is not a complete"),
    ):
        with pytest.raises(ValueError, match=message):
            read_reference(tmp_path / name)


def tiny_classifier() -> SmallClassifier:
    torch.manual_seed(0)
    return SmallClassifier((4, 6, 5), classes=3).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A written classifier folder with feature moments of 20 rows for each split."""
    splits = {"train": Moments.of(normal_rows(20, 5, 0)), "test": Moments.of(normal_rows(20, 5, 1))}
    save_classifier(tmp_path, tiny_classifier(), "toy-5", splits, training={"seed": 0})
    return tmp_path


def test_classifier_head_reads_the_features() -> None:
    network, images = tiny_classifier(), torch.rand(2, 1, 28, 28) * 2 - 1
    features = network.features(images)
    assert features.shape == (2, 5)
    assert bool((features >= 0).all())
    torch.testing.assert_close(network(images), features @ network.head.weight.T + network.head.bias)


def test_classifier_folder_round_trip(folder: Path) -> None:
    network, images = load_classifier(folder), torch.rand(2, 1, 28, 28) * 2 - 1
    assert not network.training
    assert network.widths == (4, 6, 5)
    assert torch.equal(network(images), tiny_classifier()(images))
    assert load_features(folder).name == "toy-5"
    statistics = load_statistics("train", folder)
    assert (statistics.space, statistics.count) == ("toy-5", 20)
    assert torch.equal(statistics.covariance, Moments.of(normal_rows(20, 5, 0)).covariance)
    with pytest.raises(ValueError, match=r"No split 'valid' in .*; choose one of test, train"):
        load_statistics("valid", folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -4])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file"):
        load_classifier(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"name": "x", "architecture": 3}'])
def test_broken_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json (is not|holds)"):
        load_classifier(folder)


def test_missing_parts_are_refused(folder: Path) -> None:
    for name, load in (("features.safetensors", load_statistics), ("model.safetensors", load_classifier)):
        (folder / name).unlink()
        with pytest.raises(ValueError, match=f"There is no file .*{name}"):
            load(folder=folder)
    with pytest.raises(ValueError, match=r"There is no file .*config\.json"):
        load_classifier(folder / "absent")


@pytest.mark.parametrize("architecture", [{"widths": [4, 6, 7]}, {"depth": 3}, {"widths": "wide"}])
def test_weights_that_do_not_fit_the_config_are_refused(folder: Path, architecture: dict) -> None:
    (folder / "config.json").write_text(json.dumps({"name": "x", "architecture": architecture}))
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        load_classifier(folder)


def test_extraction_in_batches_equals_the_whole() -> None:
    rows = torch.rand(23, 784, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = tiny_classifier()
    whole = network.features(rows.view(-1, 1, 28, 28))
    seen: list[int] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(len(images))
        return network.features(images)

    torch.testing.assert_close(FeatureSet("toy-5", watched, batch=10).extract(rows), whole)
    assert seen == [10, 10, 3]


def test_extraction_clamps_and_checks_rows() -> None:
    space = FeatureSet("toy-5", tiny_classifier().features)
    rows = 2 * torch.randn(4, 784, generator=torch.Generator().manual_seed(0))
    assert torch.equal(space.extract(rows), space.extract(rows.clamp(-1, 1)))
    for bad, message in (
        (rows[:, :700], "dimension 784, got 700"),
        (rows.view(-1, 1, 28, 28), "flatten images"),
        (rows[:0], "at least one row"),
        (rows * float("nan"), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            space.extract(bad)


def test_score_of_rows_is_that_of_their_features() -> None:
    space = FeatureSet("toy-5", tiny_classifier().features)
    rows = torch.rand(2, 30, 784, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reference = space.statistics(rows[1])
    a, b = (Moments.of(space.extract(part)) for part in rows)
    score = space.score(rows[0], reference)
    assert (score.space, score.count, score.reference_count) == ("toy-5", 30, 30)
    assert score.value == pytest.approx(frechet_distance(a, b))


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"Fashion-MNIST is not in {DATA}")
def test_shipped_classifier_and_its_statistics() -> None:
    """At least 92 % of the test split, and the stored statistics are those of the weights that ship."""
    images = read_idx(DATA / "t10k-images-idx3-ubyte.gz").flatten(1).float() / 127.5 - 1
    labels = read_idx(DATA / "t10k-labels-idx1-ubyte.gz").long()
    network, space = load_classifier(), load_features()
    features = space.extract(images)
    accuracy = float((network.head(features).argmax(1) == labels).double().mean())
    assert accuracy >= 0.92
    config = json.loads((FASHION / "config.json").read_text())
    assert accuracy == pytest.approx(config["training"]["accuracy"], abs=5e-4)
    stored = load_statistics("test")
    assert (stored.space, stored.count) == (space.name, 10_000)
    assert frechet_distance(stored, Moments.of(features)) < 1e-4
    assert (load_statistics("train").count, load_statistics("train").mean.shape) == (60_000, features.shape[1:])


def test_shipped_files_are_small() -> None:
    assert (FASHION / "README.md").is_file()
    assert sum(path.stat().st_size for path in FASHION.iterdir()) < 1_500_000
