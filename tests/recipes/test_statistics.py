"""Statistics of much data: every kind of covariance against dense references, and one result however it is come by."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.data.named import SYSTEM_FOLDER
from underpaint.data.sources import open_source
from underpaint.data.store import gaussian_provenance, load_gaussian, load_mixture, save_gaussian
from underpaint.data.stream import Chunk, Source
from underpaint.files import write_tensors
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.recipes.shared.request import Conditioning
from underpaint.recipes.statistics.accumulation import Result, take_statistics
from underpaint.recipes.statistics.memory_plan import Settings, StatisticsPlan, parse_memory, plan_statistics
from underpaint.recipes.statistics.sources import latents, open_data, own_samples, parse_size
from underpaint.sampling.exponential import gaussian_exponential
from underpaint.sampling.solvers import find_solver, heun
from underpaint.sampling.teleport import teleport
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.cosine import cosine_transform
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian, guided_gaussian
from underpaint.theory.mixture import Mixture
from underpaint.theory.sums import Full, LowRank, Rows, Sketch, Stationary, Sums

IMAGE = (2, 4, 3)
D = 24


def rows_like(count: int, seed: int = 0, image: tuple[int, int, int] = IMAGE) -> Tensor:
    """Rows of a covariance that falls off with frequency, off centre; float64."""
    channels, height, width = image
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *image, generator=generator, dtype=torch.float64)
    frequency = 1 + torch.arange(height).unsqueeze(1) + torch.arange(width)
    mix = torch.eye(channels, dtype=torch.float64) + 0.5
    coloured = cosine_transform(torch.einsum("nchw,ck->nkhw", noise, mix) / frequency**1.5, inverse=True)
    place = torch.linspace(0.5, 1.5, height * width, dtype=torch.float64).reshape(height, width)
    return (coloured * place).flatten(1) + 0.3


def source_of(rows: Tensor, labels: list[int] | None = None, step: int = 8, shape: tuple[int, ...] = IMAGE) -> Source:
    """Rows in memory, read in small chunks."""
    given = None if labels is None else torch.tensor(labels)

    def read(start: int, stop: int) -> Chunk:
        return Chunk(rows[start:stop].unflatten(1, shape), None if given is None else given[start:stop])

    classes = {n: f"class {n}" for n in sorted(set(labels or []))}
    return Source("rows", shape, len(rows), read, "rows in memory", "as they are", classes, step)


def take(source: Source, **settings: object) -> Result:
    result = take_statistics(plan_statistics(source, Settings(**settings)))  # type: ignore[arg-type]
    assert result is not None
    return result


def same(a: Result, b: Result) -> bool:
    """To the last bit."""
    pairs = [(a.gaussian, b.gaussian), *((a.classes[k][1], b.classes[k][1]) for k in a.classes | b.classes)]
    return a.notes == b.notes and all(
        torch.equal(x.mean, y.mean)
        and torch.equal(x.eigenvalues, y.eigenvalues)
        and torch.equal(x.basis, y.basis)
        and x.covariance.residual == y.covariance.residual
        for x, y in pairs
    )


# Kinds of covariance: one contract


SKETCHES: dict[str, Sketch] = {
    "full": Full(D),
    "truncated": Full(D, rank=7),
    "low-rank": LowRank(D, rank=7),
    "stationary": Stationary(IMAGE),
    "low frequencies": Stationary(IMAGE, 2),
    "rows": Rows(400, D),
}


@pytest.fixture(scope="module", params=SKETCHES.values(), ids=SKETCHES)
def fitted(request: pytest.FixtureRequest) -> Gaussian:
    """As a sketch of 400 rows has it, in float64."""
    rows = rows_like(400)
    sums = Sums(request.param, rows[:50].mean(0))
    for part in rows.split(150):
        sums.add(part)
    return Gaussian(sums.mean, sums.covariance(torch.float64))


def test_the_basis_is_orthonormal_and_the_matrix_that_of_the_definition(fitted: Gaussian) -> None:
    covariance = fitted.covariance
    dense = covariance.basis[:, :]
    assert_close(dense.T @ dense, torch.eye(covariance.rank, dtype=torch.float64), rtol=0, atol=1e-12)
    outside = torch.eye(D, dtype=torch.float64) - dense @ dense.T
    expected = dense @ covariance.eigenvalues.diag() @ dense.T + covariance.residual * outside
    assert_close(covariance.matrix(), expected, rtol=1e-11, atol=1e-12)
    assert bool((covariance.eigenvalues.diff() <= 0).all())
    assert_close(covariance.spectrum.sort().values, torch.linalg.eigvalsh(expected), rtol=1e-9, atol=1e-12)


def test_coordinates_and_functions_are_those_of_the_matrix(fitted: Gaussian) -> None:
    covariance, rows = fitted.covariance, rows_like(5, seed=1)
    coordinates = covariance.analyse(rows)
    assert_close(covariance.synthesise(coordinates), rows, rtol=1e-11, atol=1e-12)
    values, vectors = torch.linalg.eigh(covariance.matrix())
    for function in (lambda v: v, lambda v: torch.exp(-v), lambda v: 1 / (1 + v)):
        expected = rows @ (vectors * function(values)) @ vectors.T
        assert_close(covariance.spectral(function, rows), expected, rtol=1e-9, atol=1e-11)
        assert_close(
            covariance.synthesise(function(covariance.variances) * coordinates), expected, rtol=1e-9, atol=1e-11
        )
    assert covariance.to(dtype=torch.float32).spectral(lambda v: v, rows.float()).dtype == torch.float32


@pytest.mark.parametrize("level", [EDM()(0.4), DDPM()(300)], ids=repr)
def test_denoiser_density_and_flow_are_the_dense_formulas(fitted: Gaussian, level: NoiseLevel) -> None:
    x, (alpha, sigma) = rows_like(5, seed=2), (level.alpha, level.sigma)
    matrix, identity = fitted.covariance.matrix(), torch.eye(D, dtype=torch.float64)
    noisy = alpha**2 * matrix + sigma**2 * identity
    pulled = alpha * matrix @ torch.linalg.solve(noisy, (x - alpha * fitted.mean).T)
    assert_close(fitted.denoise(x, level), fitted.mean + pulled.T, rtol=1e-9, atol=1e-10)
    normal = scipy.stats.multivariate_normal((alpha * fitted.mean).numpy(), noisy.numpy())
    assert_close(fitted.log_prob(x, level), torch.from_numpy(normal.logpdf(x.numpy())), rtol=1e-9, atol=1e-9)
    there = EDM()(0.05)
    values, vectors = torch.linalg.eigh(matrix)
    scale = ((values * there.alpha**2 + there.sigma**2) / (values * alpha**2 + sigma**2)).sqrt()
    moved = (x - alpha * fitted.mean) @ (vectors * scale) @ vectors.T
    assert_close(fitted.flow(x, level, there), there.alpha * fitted.mean + moved, rtol=1e-9, atol=1e-10)


def test_samples_have_the_covariance(fitted: Gaussian) -> None:
    drawn = fitted.sample(40_000, torch.Generator().manual_seed(0))
    scale = float(fitted.covariance.matrix().diagonal().max())
    assert_close(drawn.mean(0), fitted.mean, rtol=0, atol=0.02 * scale**0.5)
    assert_close(torch.cov(drawn.T), fitted.covariance.matrix(), rtol=0, atol=0.04 * scale)


@pytest.mark.parametrize("order", [1, 2])
def test_the_exponential_solver_and_teleport_are_exact_on_it(fitted: Gaussian, order: int) -> None:
    level = EDM().grid(4)
    x = initial_noise(range(3), D, level[0], torch.float64)
    exact = fitted.flow(x, level[0], level[-1])
    solver = gaussian_exponential(fitted, order, corrector=True)
    assert_close(sample(fitted, x, level, solver).final, exact, rtol=1e-7, atol=1e-7)
    assert_close(teleport(fitted, fitted, x, level, 3, solver).final, exact, rtol=1e-7, atol=1e-7)


def test_it_can_be_guided_mixed_truncated_and_looked_at(fitted: Gaussian) -> None:
    x, level = rows_like(4, seed=3), EDM()(0.5)
    moved = Gaussian(fitted.mean + 1, replace(fitted.covariance, eigenvalues=fitted.eigenvalues.clone()))
    assert_close(guided_gaussian(fitted, moved, 2.0).mean, fitted.mean + 2)
    other = Gaussian(fitted.mean, replace(fitted.covariance, eigenvalues=2 * fitted.eigenvalues))
    with pytest.raises(ValueError, match="equal covariances"):
        guided_gaussian(fitted, other, 2.0)
    mixture = Mixture(torch.ones(2), (fitted, moved))
    assert_close(
        mixture.log_prob(x, level), torch.logaddexp(fitted.log_prob(x, level), moved.log_prob(x, level)) - np.log(2)
    )
    short = fitted.truncate(3).covariance
    assert_close(short.matrix().trace(), fitted.covariance.matrix().trace(), rtol=1e-10, atol=0)
    assert_close(short.basis, fitted.basis[:, :3], rtol=0, atol=0)
    assert_close(fitted.coordinates(x)[:, 1], (x - fitted.mean) @ fitted.basis[:, 1], rtol=1e-10, atol=1e-12)


# What is kept of the data


def test_sums_of_all_kinds_against_numpy() -> None:
    rows = rows_like(1000)
    exact = torch.from_numpy(np.cov(rows.numpy().T))
    spectrum = torch.from_numpy(scipy.fft.dctn(rows.unflatten(1, IMAGE).numpy(), axes=(2, 3), norm="ortho")).flatten(2)
    found = {}
    for name, sketch in SKETCHES.items():
        sums = Sums(sketch, rows[0])  # a centre far from the mean
        for part in rows.split(300):
            sums.add(part)
        found[name] = sums.covariance(torch.float64)
        assert sums.count == 1000
        assert_close(sums.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        assert_close(found[name].spectrum.sum(), exact.trace(), rtol=1e-10, atol=0)
    assert_close(found["full"].matrix(), exact, rtol=1e-9, atol=1e-12)
    assert_close(found["truncated"].matrix(), Covariance.of(exact, 7, torch.float64).matrix(), rtol=1e-8, atol=1e-10)
    transform = torch.from_numpy(scipy.fft.dctn(np.eye(D).reshape(D, *IMAGE), axes=(2, 3), norm="ortho")).flatten(1)
    diagonal = (transform.T @ found["stationary"].matrix() @ transform).reshape(2, 12, 2, 12)
    for f in range(12):
        assert_close(diagonal[:, f, :, f], torch.from_numpy(np.cov(spectrum[:, :, f].numpy().T)), rtol=1e-9, atol=1e-12)
        diagonal[:, f, :, f] = 0
    assert float(diagonal.abs().max()) < 1e-12
    low, whole = (
        (transform.T @ c @ transform).reshape(2, 12, 2, 12) for c in (found["low frequencies"].matrix(), exact)
    )
    together = [width * i + j for width in IMAGE[2:] for i in range(2) for j in range(2)]
    for f in range(12):
        for g in range(12):
            expected = whole[:, f, :, g] if f == g or {f, g} <= {*together} else torch.zeros(2, 2)
            assert_close(low[:, f, :, g], expected.to(low), rtol=1e-8, atol=1e-11)


def test_low_rank_is_close_to_the_best_and_exact_where_it_can_be() -> None:
    image = (3, 8, 8)
    rows = rows_like(800, image=image)
    exact = torch.cov(rows.T)

    def fit(rows: Tensor, rank: int) -> Covariance:
        sums = Sums(LowRank(192, rank), rows[:9].mean(0))
        sums.add(rows)
        return sums.covariance(torch.float64)

    best = Covariance.of(exact, 16, torch.float64)
    error, least = (torch.linalg.matrix_norm(c.matrix() - exact, "nuc") for c in (fit(rows, 16), best))
    assert least < error < (1 + 16 / (32 - 16 - 1)) * least
    assert_close(fit(rows, 16).eigenvalues[:4], best.eigenvalues[:4], rtol=0.1, atol=0)
    assert_close(fit(rows, 192).matrix(), exact, rtol=0, atol=1e-5)
    # rows in a space of fewer dimensions than the sketch
    flat = rows[:, :10] @ torch.randn(10, 192, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.cov(flat.T)
    for given in (flat, flat.float()):
        found = fit(given, 16)
        assert_close(found.matrix(), expected, rtol=0, atol=1e-5 * float(expected.diagonal().max()))
        assert found.residual < 1e-6 * float(expected.diagonal().max())
    with pytest.raises(ValueError, match="rank must lie between 1 and the dimension 192, got 193"):
        LowRank(192, 193)
    with pytest.raises(ValueError, match="oversampling >= 1"):
        LowRank(192, 9, 0.5)


@pytest.mark.parametrize(
    "sketch", [Full(700), LowRank(700, 40), Stationary((7, 10, 10), 5)], ids=["full", "low-rank", "stationary"]
)
def test_the_number_of_threads_does_not_change_a_bit(sketch: Sketch) -> None:
    rows = torch.randn(1100, 700, generator=torch.Generator().manual_seed(0))
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            sums = Sums(sketch, rows[0])
            sums.add(rows)
            assert torch.get_num_threads() == number
            results.append(sums)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0].kept, results[1].kept)
    assert torch.equal(results[0].total, results[1].total)


def test_float32_products_lose_little_whatever_comes_first() -> None:
    """Data sorted by their mean are the worst: the first chunk's mean is far from that of all."""
    rows = rows_like(6000)
    rows = (rows + 3 * torch.linspace(-1, 1, len(rows)).unsqueeze(1)).float()
    single, double = (take(source_of(rows, step=512), precise=precise).gaussian for precise in (False, True))
    exact = torch.cov(rows.double().T)
    scale = float(exact.diagonal().max())
    assert_close(double.covariance.to(dtype=torch.float64).matrix(), exact, rtol=0, atol=1e-5 * scale)
    assert_close(single.eigenvalues, double.eigenvalues, rtol=1e-4, atol=1e-6 * scale)
    assert_close(double.eigenvalues, torch.linalg.eigvalsh(exact).flip(0), rtol=1e-9, atol=1e-12 * scale)


def test_sums_about_different_centres_are_not_added() -> None:
    with pytest.raises(ValueError, match="different centres"):
        Sums(Full(2), torch.zeros(2)).merge(Sums(Full(2), torch.ones(2)))
    with pytest.raises(ValueError, match="at least 2 rows, got 0"):
        Sums(Full(2), torch.zeros(2)).covariance()


# The recipe


def test_classes_and_notes() -> None:
    rows, labels = rows_like(100).float(), [(7 * i) % 3 for i in range(97)] + [-1, -1, 8]
    result = take(source_of(rows, labels))
    assert_close(result.gaussian.covariance.matrix(), torch.cov(rows.double().T), rtol=0, atol=1e-5)
    # neither the two rows without a label nor the one row alone
    assert {label: count for label, (count, _) in result.classes.items()} == {0: 33, 1: 32, 2: 32}
    for label, (_, gaussian) in result.classes.items():
        chosen = rows[torch.tensor(labels) == label].double()
        assert_close(gaussian.mean.double(), chosen.mean(0), rtol=0, atol=1e-6)
        assert_close(gaussian.covariance.matrix(), torch.cov(chosen.T), rtol=0, atol=1e-5)
    notes = result.notes
    assert (notes["count"], notes["shape"], notes["class_names"][1]) == (100, list(IMAGE), "class 1")
    assert notes["range"] == [float(rows.min()), float(rows.max())]
    assert notes["statistics"].startswith("full covariance of 24 dimensions, also of 5 classes")
    assert not take(source_of(rows, labels), classes=False).classes


def test_the_hash_is_that_of_the_contents() -> None:
    rows = rows_like(30).float()
    changed = rows.clone()
    changed[17, 3] += 1e-6
    hashes = [take(source_of(data)).notes["hash"] for data in (rows, rows.clone(), changed)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_bad_items_are_counted_or_with_strict_the_end(tmp_path: Path) -> None:
    rows = rows_like(40).float().numpy()
    rows[[3, 20], 0] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    source = replace(open_source(tmp_path / "rows.npy"), step=8)
    result = take(source)
    assert result.notes["left_out"] == {"count": 2, "items": ["row 3: largest value nan", "row 20: largest value nan"]}
    assert "38 items, 2 left out (the first: row 3" in result.summary
    good = torch.from_numpy(np.delete(rows, [3, 20], axis=0)).double()
    assert_close(result.gaussian.covariance.matrix(), torch.cov(good.T), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="row 3: largest value nan"):
        take(source, strict=True)
    np.save(tmp_path / "none.npy", np.full((4, 3), np.inf, np.float32))
    with pytest.raises(ValueError, match=r"None of the 4 items of none can be used \(row 0: largest value inf\)"):
        take(open_source(tmp_path / "none.npy"))


@pytest.mark.parametrize(
    ("shape", "classes", "memory", "words"),
    [
        ((3, 32, 32), 0, "8GB", "full covariance of 3,072 dimensions; at most 1.2 GB of 8 GB"),
        ((1, 16, 16), 0, "8GB", "256 dimensions; at most 73 MB of 8 GB"),
        ((3, 32, 32), 10, "8GB", "full covariance of 3,072 dimensions, also of 10 classes; at most 3.2 GB"),
        ((3, 32, 32), 10, "2GB", "full covariance of 3,072 dimensions, without its 10 classes (3.2 GB)"),
        ((3, 64, 64), 0, "8GB", "rank-1024 covariance of 12,288 dimensions (full needs 12.5 GB); at most 2.4 GB"),
        ((3, 64, 64), 0, "1GB", "rank-256 covariance of 12,288"),
        ((4, 256, 256), 0, "2GB", "stationary covariance of 262,144 dimensions (full needs 5498.1 GB); at most 0.7 GB"),
    ],
)
def test_the_choice_under_a_memory_limit_is_said_aloud(shape, classes: int, memory: str, words: str) -> None:
    source = Source(
        "x", shape, 10**6, lambda start, stop: Chunk(torch.empty(0)), "", "", dict.fromkeys(range(classes), "")
    )
    assert words in plan_statistics(source, Settings(memory=parse_memory(memory))).words


def test_few_items_are_planned_by_their_number() -> None:
    """Three pictures of 3 x 64 x 64 took 12.5 GB by their dimension."""

    def plan(count: int, **settings: object) -> StatisticsPlan:
        source = Source("x", (3, 64, 64), count, lambda start, stop: Chunk(torch.empty(0)), "", "")
        return plan_statistics(source, Settings(**settings))  # type: ignore[arg-type]

    assert plan(3).words.startswith(
        "rank-2 covariance of 12,288 dimensions, all that 3 items have; at most 4 MB of 8 GB"
    )
    assert plan(5000).words.startswith(
        "rank-4999 covariance of 12,288 dimensions, all that 5,000 items have; at most 5.3"
    )
    assert plan(5000, memory=2e9).words.startswith("rank-512 covariance of 12,288 dimensions (rank-4999 needs 5.")
    assert plan(5000, rank=7).words.startswith("rank-7 covariance")
    assert plan(400, memory=2.4e8).words.startswith("rank-64 covariance of 12,288")


@pytest.mark.parametrize("count", [9, 20, D, D + 1])
def test_statistics_of_few_items_have_their_rank(tmp_path: Path, count: int) -> None:
    rows, labels = rows_like(count).float(), [i % 2 for i in range(count)]
    result = take(source_of(rows, labels, step=4))
    expected = torch.cov(rows.double().T)
    assert result.gaussian.covariance.rank == min(count - 1, D)
    assert_close(result.gaussian.covariance.matrix(), expected, rtol=0, atol=1e-5)
    for label, (number, gaussian) in result.classes.items():
        part = rows[torch.tensor(labels) == label]
        assert (number, gaussian.covariance.rank) == (len(part), min(len(part) - 1, D))
        assert_close(gaussian.covariance.matrix(), torch.cov(part.double().T), rtol=0, atol=1e-5)
    result.save(tmp_path / "s.safetensors")
    assert torch.equal(load_gaussian(tmp_path / "s.safetensors").eigenvalues, result.gaussian.eigenvalues)
    summary, values = result.notes["summary"], torch.linalg.eigvalsh(expected).flip(0).clamp(min=0)
    shares = values / values.sum()
    assert (summary["items"], summary["dimension"], summary["rank"]) == (count, D, min(count - 1, D))
    assert summary["total variance"] == pytest.approx(float(values.sum()), rel=1e-5)
    assert summary["effective rank"] == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-4)
    for share in (90, 99):
        wanted = 1 + int((shares.cumsum(0) < share / 100).sum())
        assert summary[f"components for {share} %"] == wanted
    assert f"effective rank        {summary['effective rank']:,.6g}" in result.table


def test_few_items_are_resumed_to_the_last_bit(tmp_path: Path) -> None:
    rows, labels = rows_like(20).float(), [i % 2 for i in range(20)]
    source, settings = source_of(rows, labels, step=2), Settings(interval=0.0)
    whole = take_statistics(plan_statistics(source, settings))
    with pytest.raises(InterruptedError):
        take_statistics(plan_statistics(failing(source, 13), settings), tmp_path / "part")
    resumed = take_statistics(plan_statistics(source, settings), tmp_path / "part")
    assert whole is not None
    assert resumed is not None
    assert same(whole, resumed)


def test_shrinkage_is_that_of_the_theory(tmp_path: Path) -> None:
    """Of all items and of each class, unless it has too few."""
    rows, labels = rows_like(50).float(), [0] * 5 + [1] * 45
    result = take(source_of(rows, labels), shrinkage="ledoit-wolf")
    plain = take(source_of(rows, labels))
    assert_close(result.gaussian.eigenvalues, plain.gaussian.shrunk(50).eigenvalues, rtol=1e-4, atol=1e-7)
    assert_close(result.classes[1][1].eigenvalues, plain.classes[1][1].shrunk(45).eigenvalues, rtol=1e-4, atol=1e-7)
    assert_close(result.classes[0][1].eigenvalues, plain.classes[0][1].eigenvalues)
    assert (result.notes["shrinkage"], result.notes["classes not shrunk"]) == ("ledoit-wolf", [0])
    result.save(tmp_path / "s.safetensors")
    assert gaussian_provenance(tmp_path / "s.safetensors")["shrinkage"] == "ledoit-wolf"
    for settings, words in (
        ({"shrinkage": "oracle"}, "Unknown shrinkage 'oracle'; choose ledoit-wolf or none"),
        ({"shrinkage": "ledoit-wolf", "rank": 3}, "needs the whole spectrum; leave out --rank"),
        ({"shrinkage": "ledoit-wolf", "kind": "stationary"}, "needs the whole spectrum"),
    ):
        with pytest.raises(ValueError, match=words):
            take(source_of(rows, labels), **settings)
    with pytest.raises(ValueError, match="needs at least 13 items; rows has 11"):
        take(source_of(rows[:11]), shrinkage="ledoit-wolf")


@pytest.mark.parametrize(
    ("fewest", "settings", "words"),
    [
        (13, {"shrinkage": "ledoit-wolf"}, "Shrinkage needs at least 13 items; rows has 40, of which 28 or more"),
        (2, {}, "Statistics need at least 2 items; rows has 40, of which 39 or more"),
    ],
)
def test_too_few_that_can_be_read_end_the_pass_as_soon_as_that_is_known(
    fewest: int, settings: dict[str, str], words: str
) -> None:
    """The first can be read, and of the last only so many that with it there is one too few."""
    whole, seen = source_of(rows_like(40).float(), step=4), list[int]()

    def read(start: int, stop: int, rest: int = fewest - 2) -> Chunk:
        seen.append(start)
        good = [i == 0 or i >= 40 - rest for i in range(start, stop)]
        bad = tuple(f"{i}: is no picture" for i, fine in enumerate(good, start) if not fine)
        return Chunk(whole.read(start, stop).data[torch.tensor(good)], None, bad)

    with pytest.raises(ValueError, match=words + r" cannot be used \(the first: 1: is no picture\)"):
        take(replace(whole, read=read), **settings)
    assert max(seen) == (28 if settings else 36)  # the 28th that cannot be read is item 28
    enough = replace(whole, read=lambda start, stop: read(start, stop, fewest - 1))
    assert take(enough, **settings).notes["count"] == fewest


def test_data_that_do_not_vary_have_no_directions(tmp_path: Path) -> None:
    source, part = source_of(torch.ones(20, D)), tmp_path / "s.part"
    summary = take(source).notes["summary"]
    assert [summary[name] for name in ("rank", "effective rank", "components for 90 %")] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"got 20 with 0 directions\. The sums are kept in .*s\.part: take others"):
        take_statistics(plan_statistics(source, Settings(shrinkage="ledoit-wolf")), part)
    result = take_statistics(plan_statistics(source), part)
    assert result is not None
    assert result.notes["count"] == 20


def test_the_command_prints_and_draws_a_summary(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8))
    place = tmp_path / "out.safetensors"
    shown = CliRunner().invoke(app, ["stats", str(tmp_path / "a.npy"), "--out", str(place)])
    assert shown.exit_code == 0, shown.output
    assert "components for 90 %" in shown.output
    told = shown.stdout
    assert (tmp_path / "out.mean.png").read_bytes()[:4] == b"\x89PNG"
    shown = CliRunner().invoke(app, ["stats", str(tmp_path / "a.npy"), "--out", str(place), "--json"])
    found = json.loads(shown.stdout)
    assert found["summary"]["rank"] == 30
    assert found["picture"] == str(tmp_path / "out.mean.png")
    many = [found["summary"][f"components for {share} %"] for share in (90, 99)]
    assert found["finding"] == (
        "Statistics of 40 items, 0 left out. "
        f"90 % of their variance lies in {many[0]} of 30 directions, 99 % in {many[1]}."
    )
    assert f"{found['finding']}\nStatistics: {place}. Give them to `underpaint report`" in told
    assert gaussian_provenance(place)["summary"] == found["summary"]


def test_what_cannot_be_planned_is_refused() -> None:
    flat, images = source_of(rows_like(9), shape=(D,)), source_of(rows_like(9))
    for source, settings, words in (
        (flat, {"kind": "stationary"}, r"needs images or latents \(C, H, W\); rows has \(24,\)"),
        (images, {"memory": 1e3}, "1e-06 GB are not enough: a stationary covariance needs 1 MB"),
        (images, {"kind": "dense"}, "Unknown kind of covariance 'dense'; choose from auto, full"),
        (images, {"kind": "stationary", "rank": 3}, "A stationary covariance has no rank; leave out --rank 3"),
        (images, {"memory": 1e3, "rank": 3}, "are not enough: a rank-3 covariance"),
        (images, {"rank": 0}, "must be at least 1"),
        (images, {"kind": "low-rank", "rank": 25}, "between 1 and the dimension 24, got 25"),
        (source_of(rows_like(1)), {}, "at least 2 items; rows has 1"),
    ):
        with pytest.raises(ValueError, match=words):
            take(source, **settings)
    for text in ("8 apples", "", "GB", "1.2.3GB"):
        with pytest.raises(ValueError, match="Memory is a number such as 8GB"):
            parse_memory(text)
    assert (parse_memory("8GB"), parse_memory("500 MB"), parse_memory("3e"[:1])) == (8e9, 5e8, 3.0)
    assert (parse_size("64"), parse_size("64x48"), parse_size(None)) == ((64, 64), (64, 48), None)
    with pytest.raises(ValueError, match="A size is 64 or"):
        parse_size("0x4")


# However it is come by


def failing(source: Source, at: int) -> Source:
    """Breaks off when the item ``at`` is read."""

    def read(start: int, stop: int) -> Chunk:
        if start <= at < stop:
            raise InterruptedError
        return source.read(start, stop)

    return replace(source, read=read)


@pytest.mark.parametrize("kind", ["full", "low-rank", "stationary"])
def test_resumed_it_is_the_same_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    rows, labels = rows_like(200).float(), [i % 2 for i in range(200)]
    source, settings = source_of(rows, labels), Settings(kind, rank=None if kind == "stationary" else 5, interval=0.0)
    whole = take_statistics(plan_statistics(source, settings))
    checkpoint, seen = tmp_path / "part", []

    def read(start: int, stop: int) -> Chunk:
        seen.append(start)
        return source.read(start, stop)

    for at in (90, 150):
        with pytest.raises(InterruptedError):
            take_statistics(plan_statistics(failing(source, at), settings), checkpoint)
    resumed = take_statistics(plan_statistics(replace(source, read=read), settings), checkpoint)
    assert whole is not None
    assert resumed is not None
    assert same(whole, resumed)
    assert seen == list(range(144, 200, 8))  # only what had not been summed
    assert checkpoint.is_file()
    resumed.save(tmp_path / "stats.safetensors")
    assert not checkpoint.exists()


def test_the_sums_are_kept_until_the_result_is_on_the_disk(tmp_path: Path) -> None:
    source, checkpoint = source_of(rows_like(80).float()), tmp_path / "part"
    first = take_statistics(plan_statistics(source), checkpoint)
    (tmp_path / "taken").mkdir()
    assert first is not None
    with pytest.raises(OSError, match=r"taken could not be written: Is a directory; what was there before"):
        first.save(tmp_path / "taken")
    again = take_statistics(plan_statistics(failing(source, 0)), checkpoint)  # nothing is read any more
    assert again is not None
    assert same(first, again)
    again.save(tmp_path / "stats.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stats.safetensors", "taken"]


@pytest.mark.parametrize("kind", ["full", "low-rank", "stationary"])
def test_the_result_is_the_same_for_any_number_of_threads(tmp_path: Path, kind: str) -> None:
    """Decompositions, too; these differed by 8e-16 between one thread and two."""
    source = source_of(rows_like(500, image=(3, 12, 12)).float(), shape=(3, 12, 12))
    threads, contents = torch.get_num_threads(), set()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            result = take_statistics(plan_statistics(source, Settings(kind, None if kind == "stationary" else 40)))
            assert result is not None
            result.save(tmp_path / "stats.safetensors")
            contents.add((tmp_path / "stats.safetensors").read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert len(contents) == 1


def test_a_checkpoint_of_other_work_is_refused(tmp_path: Path) -> None:
    source = source_of(rows_like(80).float())
    with pytest.raises(InterruptedError):
        take_statistics(plan_statistics(failing(source, 60), Settings(interval=0.0)), tmp_path / "part")
    for settings in (Settings("stationary"), Settings(precise=True), Settings(groups=3)):
        with pytest.raises(ValueError, match="checkpoint of other data or settings"):
            take_statistics(plan_statistics(source, settings), tmp_path / "part")


def test_where_a_checkpoint_cannot_be_written_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "part could not be written: the disk is full.")

    source = source_of(rows_like(80).float())
    whole = take_statistics(plan_statistics(source))
    monkeypatch.setattr("underpaint.recipes.statistics.accumulation.write_part", full)
    with pytest.warns(UserWarning, match=r"the disk is full\. The work goes on without it\."):
        result = take_statistics(plan_statistics(source, Settings(interval=0.0)), tmp_path / "part")
    assert whole is not None
    assert result is not None
    assert same(whole, result)
    result.save(tmp_path / "stats.safetensors")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    source, place = source_of(rows_like(80).float()), tmp_path / "part"
    take_statistics(plan_statistics(source), place)
    content = bytearray(place.read_bytes())
    content[-20] ^= 4
    place.write_bytes(content)
    with pytest.raises(ValueError, match="part is damaged: its checksum does not fit; remove it or move it away"):
        take_statistics(plan_statistics(source), place)


@pytest.mark.parametrize("form", ["pictures", "array"])
def test_data_that_have_changed_are_other_data(tmp_path: Path, form: str) -> None:
    """In size, in time, or in a block with the same size and time; a copy of the names alone is not enough."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    place = tmp_path / "data"
    place.mkdir()
    if form == "array":
        files = [place / "all.npy"]
        np.save(files[0], pixels)
    else:
        files = [place / f"{i}.png" for i in range(9)]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image).save(file)

    def identity() -> str:
        return plan_statistics(open_data(place)).identity

    first, times = identity(), files[-1].stat()
    (place / ".hidden").touch()
    (place / "stats.safetensors.part").touch()
    assert identity() == first
    os.utime(files[-1], ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert identity() != first
    content = bytearray(files[-1].read_bytes())
    content[-1] ^= 1
    files[-1].write_bytes(content)
    os.utime(files[-1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert identity() != first
    content[-1] ^= 1
    files[-1].write_bytes(content)
    os.utime(files[-1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert identity() == first


SCRIPT = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from underpaint.data.sources import open_source
from underpaint.recipes.statistics.memory_plan import Settings, plan_statistics
from underpaint.recipes.statistics.accumulation import take_statistics

data, out, kind, kill = sys.argv[1:]
source, marker = replace(open_source(data), step=16), Path(out + ".killed")

def read(start, stop):
    if kill != "none" and os.environ.get("RANK") == kill and start >= 300 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return source.read(start, stop)

plan = plan_statistics(replace(source, read=read), Settings(kind, rank=20, interval=0.0))
result = take_statistics(plan, Path(out + ".part"))
if result is not None:
    result.save(out)
"""


def launch(script: Path, processes: int, *arguments: object) -> str:
    """What went wrong, if anything did."""
    command = [sys.executable, str(script), *map(str, arguments)]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return "" if done.returncode == 0 else done.stdout.decode()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "low-rank", "stationary"])
def test_any_number_of_processes_gives_the_same_file(tmp_path: Path, kind: str) -> None:
    """1, 3 and 4 over gloo; and 4 of which one is killed with SIGKILL, resumed by 3."""
    (tmp_path / "run.py").write_text(SCRIPT)
    labels = np.arange(603) % 2
    images = rows_like(603, image=(3, 6, 6)).clamp(-1, 1).float().reshape(-1, 3, 6, 6).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    runs = {f"{n}.safetensors": n for n in (1, 3, 4)}
    for name, processes in runs.items():
        assert launch(tmp_path / "run.py", processes, tmp_path / "data.npz", tmp_path / name, kind, "none") == ""
    killed = (tmp_path / "data.npz", tmp_path / "killed.safetensors", kind, "2")
    assert launch(tmp_path / "run.py", 4, *killed)
    (_, notes) = json.loads(torch_metadata(tmp_path / "killed.safetensors.part"))["structure"]["tuple"]
    done = dict(notes["dict"])["groups"]
    assert done == 20  # of 38; rank 2 was killed in the round of groups 20 to 23, and no more is lost
    assert launch(tmp_path / "run.py", 3, *killed) == ""
    contents = {(tmp_path / name).read_bytes() for name in (*runs, "killed.safetensors")}
    assert len(contents) == 1


def torch_metadata(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return opened.metadata()["underpaint"]


@pytest.fixture
def hosts() -> object:
    """Two network namespaces with a cable between them."""
    names, address = ("underpaint-a", "underpaint-b"), "10.231.17."

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    if not shutil.which("ip"):
        pytest.skip("the tool ip is not here")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "up-a", "netns", names[0], "type", "veth", "peer", "name", "up-b", "netns", names[1])
        for i, (name, link) in enumerate(zip(names, ("up-a", "up-b"), strict=True)):
            ip("-n", name, "addr", "add", f"{address}{i + 1}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, ("up-a", "up-b"), strict=True)), f"{address}1"
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here ({error.stderr.decode().strip()})")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.slow
def test_two_hosts_give_the_same_file_as_one(tmp_path: Path, hosts: tuple[list[tuple[str, str]], str]) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    np.save(tmp_path / "data.npy", rows_like(500).float().numpy())
    assert launch(tmp_path / "run.py", 1, tmp_path / "data.npy", tmp_path / "one", "full", "none") == ""
    places, master = hosts
    running = []
    for rank, (name, link) in enumerate(places):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
        address = ["--nproc-per-node", "2", "--master-addr", master, "--master-port", "29511"]
        work = [str(tmp_path / "run.py"), str(tmp_path / "data.npy"), str(tmp_path / "two"), "full", "none"]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": link, "OMP_NUM_THREADS": "1"}
        command = ["ip", "netns", "exec", name, *torchrun, *address, *work]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        outputs = [process.communicate(timeout=240)[0].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], outputs
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# What statistics are taken of


class Halves:
    """An autoencoder that keeps the upper half of a picture."""

    shape = (1, 8, 3)

    def encode(self, images: Tensor) -> Tensor:
        return images[:, :, :4] + 3

    def decode(self, states: Tensor) -> Tensor:
        return states


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A latent model that believes in 0.5, whatever it sees; `load_model` gives it."""
    model = Model(lambda x, *_: torch.full_like(x, 0.5), EDM(), "x0", (1, 4, 3), "halves", autoencoder=Halves())
    found = {("halves", torch.device("cpu")): model}
    monkeypatch.setattr("underpaint.recipes.shared.request.load_model", lambda name, device, dtype: found[name, device])
    return model


def test_a_models_own_samples(model: Model) -> None:
    source = open_data("halves", samples=6, device="cpu")
    assert (source.count, source.shape) == (6, (1, 4, 3))
    assert "seeds 0 to 5, 25 steps of dpmpp-2m" in source.handling
    assert_close(source.read(2, 4).data, torch.full((2, 12), 0.5), rtol=0, atol=1e-6)
    source, level = own_samples(model, 6, steps=3, solver="ddim", batch=2), EDM().grid(3)
    believed = replace(model, network=lambda x, *_: x.tanh())
    run = sample(believed, initial_noise(range(1, 5), 12, level[0]), level, find_solver("ddim"))
    assert_close(own_samples(believed, 6, 3, "ddim", batch=3).read(1, 5).data, run.final, rtol=0, atol=1e-6)
    assert len(source.read(0, 5).data) == 5


def test_samples_of_a_class_are_those_of_its_denoiser() -> None:
    """Guided, and said so; of features as of pixels."""
    model = load_model("fashion-mnist")
    case, level = Conditioning(3, 2.0), model.schedule.grid(2)
    source = own_samples(model, 4, steps=2, solver="ddim", case=case)
    x = initial_noise(range(4), model.dimension, level[0])
    expected = sample(model.conditional(3, 2.0), x, level, find_solver("ddim")).final
    assert_close(source.read(0, 4).data, expected, rtol=0, atol=1e-5)
    assert source.handling.startswith("samples (class 3, guidance 2) of fashion-mnist, seeds 0 to 3")
    assert source.identity != own_samples(model, 4, steps=2, solver="ddim").identity
    with pytest.raises(ValueError, match=r"\(class 3, guidance 2\) is for samples of a model; give --samples"):
        open_data("fashion-mnist", case=case)
    with pytest.raises(
        ValueError, match=r"A device \('cpu'\) is of a network; give --samples, --latents or --features"
    ):
        open_data("fashion-mnist", device="cpu")
    with pytest.raises(ValueError, match="leave out --mode, --no-labels, or --samples"):
        open_data("fashion-mnist", mode="", samples=4, labels=False)


def test_latents_are_what_the_model_encodes(tmp_path: Path, model: Model) -> None:
    rows = rows_like(40).clamp(-1, 1).float()
    expected = rows[:, :12] + 3
    source = latents(source_of(rows, shape=(1, 8, 3)), model)
    result = take(source)
    assert (source.shape, source.handling) == ((1, 4, 3), "as they are; latents of halves")
    assert_close(result.gaussian.covariance.matrix(), torch.cov(expected.double().T), rtol=0, atol=1e-5)
    np.save(tmp_path / "a.npy", rows.unflatten(1, (8, 3)).numpy())
    named = open_data(tmp_path / "a.npy", encoder="halves", device="cpu")
    assert_close(named.read(3, 7).values.flatten(1), expected[3:7])
    pixels = replace(model, autoencoder=None)
    assert latents(source, pixels) is source  # the rows of a pixel model are images


def test_values_that_are_no_pixels_are_not_encoded(tmp_path: Path, model: Model) -> None:
    np.save(tmp_path / "a.npy", np.linspace(-2, 3, 40 * 72, dtype=np.float32).reshape(40, 3, 8, 3)[..., [0, 0, 1, 2]])
    with pytest.raises(ValueError, match=r"values of a lie in \[-2, 3\], but the images of halves in \[-1, 1\]"):
        latents(open_source(tmp_path / "a.npy"), model).read(0, 40)


@pytest.mark.data
@pytest.mark.slow
def test_fashion_mnist_is_what_the_box_holds() -> None:
    if not (SYSTEM_FOLDER / "fashion-mnist").is_dir():
        pytest.skip("the complete Fashion-MNIST (Debian: dataset-fashion-mnist) is not on this machine")
    result, boxed = take(open_source(SYSTEM_FOLDER / "fashion-mnist")), load_gaussian("fashion-mnist")
    assert_close(result.gaussian.mean, boxed.mean, rtol=0, atol=1e-6)
    assert_close(result.gaussian.eigenvalues, boxed.eigenvalues, rtol=1e-5, atol=1e-6)
    assert [count for count, _ in result.classes.values()] == [6000] * 10


# Files


@pytest.mark.parametrize("kind", ["full", "low-rank", "stationary"])
def test_files_hold_every_kind_and_every_class(tmp_path: Path, kind: str) -> None:
    rows, labels = rows_like(90).float(), [i % 3 for i in range(90)]
    result = take(source_of(rows, labels), kind=kind, rank=None if kind == "stationary" else 5)
    path, x = tmp_path / "stats.safetensors", rows_like(4, seed=5).float()
    result.save(path)
    pairs = [(load_gaussian(path), result.gaussian)]
    pairs += [(load_gaussian(path, label), gaussian) for label, (_, gaussian) in result.classes.items()]
    for again, gaussian in pairs:
        assert torch.equal(again.denoise(x, EDM()(0.5)), gaussian.denoise(x, EDM()(0.5)))
        assert torch.equal(again.eigenvalues, gaussian.eigenvalues)
    mixture = load_mixture(path)
    assert_close(mixture.weights, torch.full((3,), 1 / 3, dtype=torch.float64))
    assert_close(mixture.components[2].mean, result.classes[2][1].mean, rtol=0, atol=0)
    notes = gaussian_provenance(path)
    assert (notes["count"], notes["data"], notes["class_names"]["0"]) == (90, "rows", "class 0")
    assert notes["covariance"] == ("stationary" if kind == "stationary" else "low-rank")
    with pytest.raises(ValueError, match="holds no class 7; known are 0, 1, 2"):
        load_gaussian(path, 7)


def test_the_authors_published_files_are_brought_to_our_range(tmp_path: Path) -> None:
    """Ascending eigenvalues of images in [0, 1]."""
    images = rows_like(200).clamp(-1, 1)
    unit = (images + 1) / 2
    values, vectors = torch.linalg.eigh(torch.cov(unit.T).float())
    for scale, given in ((1, unit), (2, 2 * unit - 1)):
        tensors = {"eigval": scale**2 * values, "eigvec": vectors, "imgmean": given.mean(0).float() - (scale - 1) * 1.5}
        torch.save(tensors, tmp_path / "pca.pt")
        found = load_gaussian(tmp_path / "pca.pt")
        assert_close(found.covariance.matrix(), torch.cov(images.T), rtol=0, atol=1e-5)
        if scale == 1:
            assert_close(found.mean.double(), images.mean(0), rtol=0, atol=1e-6)
        else:  # a mean outside [0, 1] is not of such images, and stays as it is
            assert_close(found.mean, tensors["imgmean"], rtol=0, atol=0)
    assert bool((found.eigenvalues.diff() <= 0).all())


def test_mu_and_sigma_are_read_as_they_are(tmp_path: Path) -> None:
    rows = rows_like(100)
    np.savez(tmp_path / "ref.npz", mu=rows.mean(0).numpy(), sigma=np.cov(rows.numpy().T))
    found = load_gaussian(tmp_path / "ref.npz")
    assert_close(found.mean, rows.mean(0).float())
    assert_close(found.covariance.matrix(), torch.cov(rows.T), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="knows no classes"):
        load_gaussian(tmp_path / "ref.npz", 1)


class Runs:
    """What a pickle can do when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.place,))


def test_hostile_and_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    good, ran = tmp_path / "good.safetensors", tmp_path / "was-run"
    save_gaussian(good, take(source_of(rows_like(30)), kind="stationary").gaussian)
    parts = {"mean": torch.zeros(4), "eigenvalues": torch.ones(2), "basis": torch.eye(4)[:, :2]}
    still = {"mean": torch.zeros(4), "eigenvalues": torch.ones(4), "mix": torch.ones(4, 1, 1), "order": torch.arange(4)}
    about: dict[str, object] = {"kind": "gaussian", "residual": 0.0}
    (tmp_path / "short.safetensors").write_bytes(good.read_bytes()[:-9])
    write_tensors(tmp_path / "nan.safetensors", parts | {"mean": torch.full((4,), torch.nan)}, about)
    write_tensors(tmp_path / "negative.safetensors", parts | {"eigenvalues": -torch.ones(2)}, about)
    write_tensors(tmp_path / "shape.safetensors", parts | {"mean": torch.zeros(3)}, about)
    write_tensors(tmp_path / "bare.safetensors", parts, {"kind": "gaussian"})
    write_tensors(
        tmp_path / "twice.safetensors", still | {"order": torch.tensor([0, 0, 1, 2])}, about | {"size": [2, 2]}
    )
    write_tensors(tmp_path / "size.safetensors", still, about | {"size": [2, 3]})
    write_tensors(tmp_path / "classes.safetensors", parts, about | {"classes": [1]})
    torch.save(Runs(ran), tmp_path / "evil.pt")
    torch.save({"eigval": torch.ones(3), "eigvec": torch.eye(4), "imgmean": torch.zeros(4)}, tmp_path / "unfit.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    np.savez(tmp_path / "evil.npz", mu=np.array([Runs(ran)], dtype=object), sigma=np.eye(1))
    np.savez(tmp_path / "unfit.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "nan.npz", mu=np.zeros(2), sigma=np.full((2, 2), np.nan))
    (tmp_path / "short.npz").write_bytes((tmp_path / "unfit.npz").read_bytes()[:99])
    for name, words in (
        ("short.safetensors", "not a complete safetensors file"),
        ("nan.safetensors", "mean of a Gaussian is finite, but this one holds NaN"),
        ("negative.safetensors", "damaged .*>= 0"),
        ("shape.safetensors", r"damaged .*mean has shape \(3,\)"),
        ("bare.safetensors", "damaged .*residual"),
        ("twice.safetensors", "not a permutation"),
        ("size.safetensors", "A cosine basis of size"),
        ("evil.pt", "cannot be read as tensors eigval"),
        ("unfit.pt", "cannot be read as tensors eigval"),
        ("other.pt", "cannot be read as tensors eigval"),
        ("evil.npz", r"cannot be read as mu \[D\] and sigma"),
        ("unfit.npz", r"cannot be read as mu \[D\] and sigma"),
        ("nan.npz", "this matrix holds NaN"),
        ("short.npz", r"cannot be read as mu \[D\] and sigma"),
    ):
        with pytest.raises(ValueError, match=words):
            load_gaussian(tmp_path / name)
    with pytest.raises(ValueError, match="its classes are not described"):
        load_mixture(tmp_path / "classes.safetensors")
    with pytest.raises(ValueError, match="holds no classes"):
        load_mixture(good)
    assert not ran.exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from underpaint.cli import app

    np.save(tmp_path / "a.npy", rows_like(50).float().numpy())
    out = tmp_path / "s.safetensors"
    app(["stats", str(tmp_path / "a.npy"), "--out", str(out), "--rank", "4", "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["count"] == 50
    assert "full covariance of 24 dimensions; at most" in shown.err
    assert load_gaussian(out).covariance.rank == 4
    app(["stats", str(tmp_path / "a.npy"), "--out", str(out), "--quiet"], standalone_mode=False)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
    assert load_gaussian(out).covariance.full
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "s.safetensors"]
    monkeypatch.setenv("RANK", "1")  # of several processes the first alone says what they do
    app(["stats", str(tmp_path / "a.npy"), "--out", str(out)], standalone_mode=False)
    assert "full covariance" not in capsys.readouterr().err


def test_teleport_by_a_stationary_gaussian_lands_where_heun_does() -> None:
    """Data of two classes are no Gaussian; at high noise their statistics are enough."""
    rows, level = rows_like(300, image=(1, 4, 6)), EDM().grid(60)
    gaussian = take(source_of(rows, shape=(1, 4, 6)), kind="stationary").gaussian.to(dtype=torch.float64)
    x = initial_noise(range(4), D, level[0], torch.float64)
    fine = sample(gaussian, x, level, heun).final
    assert_close(teleport(gaussian, gaussian, x, level, 20, heun).final, fine, rtol=0, atol=5e-3)
