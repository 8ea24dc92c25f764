"""Patches that are left out: the result stays, and few are read."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import EDM, Flow, NoiseLevel
from underpaint.theory import screening
from underpaint.theory.local import LocalCloud
from underpaint.theory.screening import Screen, alike, screened_means

SHAPE = (1, 12, 12)


def smooth(normal: Callable[..., Tensor], count: int, seed: int = 0) -> Tensor:
    """Images [N, 144] of neighbouring pixels that are alike, in [-1, 1], float32."""
    place = torch.arange(12, dtype=torch.float64)
    root = torch.linalg.cholesky(torch.exp(-(place.unsqueeze(1) - place).abs() / 6))
    return (root @ normal(count, 144, seed=seed).view(-1, 12, 12) @ root.T).clamp(-1, 1).flatten(1).float()


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Shares of blocks that are read after screening."""
    shares: list[float] = []
    plain = screening._Team.kept

    def kept(team: screening._Team, block: screening._Block) -> list[Tensor] | None:
        found = plain(team, block)
        shares.extend([1.0] if found is None else [len(own) / len(block.patches) for own in found])
        return found

    monkeypatch.setattr(screening._Team, "kept", kept)
    return shares


@pytest.fixture(params=[False, True], ids=["float32", "halves"])
def halves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether bounds are of bfloat16."""
    monkeypatch.setattr(screening, "multiplies_halves", lambda device: request.param)
    return bool(request.param)


@pytest.mark.parametrize("error", [1e-3, 0.05])
@pytest.mark.parametrize(
    "level", [EDM()(0.05), EDM()(0.3), EDM()(1.0), EDM()(30.0), Flow()(0.2), Flow()(1.0)], ids=repr
)
def test_what_is_left_out_is_within_the_error(
    level: NoiseLevel, error: float, halves: bool, normal, read: list[float]
) -> None:
    """Of states that are noised images, and of some that are none."""
    points, fresh = smooth(normal, 160), smooth(normal, 3, 1)
    noise = normal(3, 144, seed=2).float()
    x = torch.cat([float(level.alpha) * fresh + float(level.sigma) * noise, 3 * torch.ones(1, 144), noise[:1] * 0.01])
    full = LocalCloud.patches(points.double(), SHAPE, 5)(x.double(), level).float()
    screened = LocalCloud.patches(points, SHAPE, 5, error=error)(x, level)
    assert relative(screened, full) <= error + 1e-4
    assert read  # it was tried


def test_at_low_noise_few_patches_are_read(halves: bool, normal, read: list[float]) -> None:
    points, fresh = smooth(normal, 160), smooth(normal, 4, 1)
    local = LocalCloud.patches(points, SHAPE, 5, error=1e-3)
    local(fresh + 0.05 * normal(4, 144, seed=2).float(), EDM()(0.05))
    assert sum(read) / len(read) < 0.5
    assert read[0] < 0.5  # from the first block on
    read.clear()
    local(fresh + 30 * normal(4, 144, seed=2).float(), EDM()(30.0))
    assert min(read) == 1.0


def test_all_coordinates_in_bfloat16_leave_fewer_patches_than_a_few_in_float32(
    normal, read: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    points, fresh = smooth(normal, 160), smooth(normal, 4, 1)
    x, shares = fresh + 0.2 * normal(4, 144, seed=2).float(), []
    for halves in (False, True):
        monkeypatch.setattr(screening, "multiplies_halves", lambda device, halves=halves: halves)
        read.clear()
        LocalCloud.patches(points, SHAPE, 5, error=1e-3)(x, EDM()(0.2))
        shares.append(sum(read) / len(read))
    assert shares[1] < 0.8 * shares[0]


def test_where_some_patches_say_that_most_matter_none_is_bounded(
    halves: bool, normal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "_within_reach", lambda *_: pytest.fail("no bound is needed"))
    points, x = smooth(normal, 160), 30 * normal(4, 144, seed=2).float()
    found = LocalCloud.patches(points, SHAPE, 5, error=1e-3)(x, EDM()(30.0))
    assert relative(found, LocalCloud.patches(points, SHAPE, 5)(x, EDM()(30.0))) <= 1e-5


def test_every_patch_below_its_bound(halves: bool, normal) -> None:
    """z.p of any two rows, which are no patches, and a bound that is close where both lie in few directions."""
    for size, count in ((4, 30), (30, 50), (300, 400)):
        screen = Screen.of(normal(count, size).cumsum(1))
        assert len(screen.stages) == (1 if halves else 2)
        z, p = normal(20, size, seed=1), normal(40, size, seed=2).cumsum(1)
        slack = screen.loss * z.norm(dim=1, keepdim=True) * p.norm(dim=1)
        lead, rounded = screen.basis[:, :1].double(), 2.1 / 256 if halves else 0.0
        bounds = [a @ b.T for a, b in zip(screen.shadows(z), screen.shadows(p), strict=True)]
        for bound, one in zip(bounds, screen.shadows(lead.T), strict=True):
            assert bool((bound >= z @ p.T - slack).all())
            assert_close(one @ one.T, torch.full((1, 1), 1 + rounded), rtol=0, atol=1e-5)
        if not halves:
            assert bool((bounds[0] >= bounds[1] - slack).all())  # fine bounds are nearer
            assert float((bounds[0] - bounds[1]).max()) > 0


def test_rounded_to_bfloat16_no_bound_falls_short(normal) -> None:
    """Of log-weights to reach that patches just reach: signs of products in bfloat16 keep the patches."""
    for scale in (1.0, 1e3):
        screen = Screen.of(normal(400, 49).cumsum(1), halves=True)
        z, p = scale * normal(64, 49, seed=1), normal(200, 49, seed=2).cumsum(1)
        lengths = -scale / 2 * p.square().sum(1)
        told = screen.told(lengths)
        assert told.shape == (200, 3)
        assert_close(told.double().sum(1), lengths, rtol=2.0**-22, atol=0)
        logits = z @ p.T + lengths
        slack = 4 * screen.loss * (z.norm(dim=1, keepdim=True) * p.norm(dim=1) - lengths)
        patches = screen.facing(*screen.shadows(p), told, torch.ones_like(told))
        assert patches.dtype == torch.bfloat16
        for i in range(0, 200, 20):
            least = screen.told(slack[:, i] - logits[:, i])
            queries = screen.facing(*screen.shadows(z), torch.ones_like(least), least)
            for query in queries:
                assert i in screening._within_reach(patches, query.unsqueeze(0))[0].tolist()


@given(
    seed=st.integers(0, 999),
    sigma=st.sampled_from([1e-3, 0.02, 0.1, 0.5, 2.0, 100.0]),
    kind=st.sampled_from(["flat", "few", "far", "opposite"]),
    double=st.booleans(),
    halves=st.booleans(),
)
def test_no_weight_is_lost_whatever_the_patches(
    normal, seed: int, sigma: float, kind: str, double: bool, halves: bool
) -> None:
    """Of patches held many times, in clusters, of one direction with one that is 100 times as long, and with their
    opposites; of queries that are noised patches, half way between two, and far from all: what is left out weighs less
    than e^-margin of all in sum, so that means move by less than that times the largest distance, but for rounding."""
    patches = normal(900, 12, seed=seed) * torch.logspace(0, -2, 12)
    if kind == "flat":
        patches[::2] = -1
    elif kind == "few":
        patches = patches[:6].repeat(150, 1) + 1e-3 * normal(900, 12, seed=seed + 1)
    elif kind == "far":
        patches[:, 1:] = 0
        patches[7] *= 100
    else:
        patches[450:] = -patches[:450]
    queries = patches[::60] + sigma * normal(15, 12, seed=seed + 2)
    queries[5:8], queries[8:10] = (patches[10:13] + patches[20:23]) / 2, 30 * queries[8:10]
    values = torch.cat([patches[:, :2], torch.ones_like(patches[:, :1])], 1)
    exact = (-torch.cdist(queries, patches).square() / (2 * sigma**2)).softmax(1) @ values
    dtype = torch.float64 if double or sigma < 1 else torch.float32
    scaled, longest, count = (queries / sigma**2).to(dtype), float(patches.norm(dim=1).max()), len(patches)
    blocks = [
        (part.to(dtype), known.to(dtype)) for part, known in zip(patches.split(100), values.split(100), strict=True)
    ]
    screen = Screen.of(patches[::7].to(dtype), halves)
    for margin in (math.log(count / 1e-2), math.log(count / 1e-6)):
        found = screened_means(scaled, 1 / sigma**2, blocks, 4, screen, longest, margin).double()
        moved = 2 * longest * (count * math.exp(-margin) + (1e-10 if dtype == torch.float64 else 1e-3))
        assert float((found - exact)[:, :2].norm(dim=1).max()) <= moved
        assert_close(found[:, 2], torch.ones(15, dtype=torch.float64), rtol=1e-5, atol=0)


def test_gradients_are_those_of_all_patches(halves: bool, normal, read: list[float]) -> None:
    """Of states of which most patches are left out, and of one far away, whose weights outgrow what some tell of."""
    points, fresh = smooth(normal, 160), smooth(normal, 2, 1)
    x = torch.cat([fresh + 0.1 * normal(2, 144, seed=2).float(), 2 * fresh[:1]])
    gradients = []
    for error in (None, 1e-4):
        asked = x.clone().requires_grad_()
        (LocalCloud.patches(points, SHAPE, 5, error=error)(asked, EDM()(0.1)) * normal(3, 144, seed=3)).sum().backward()
        gradients.append(asked.grad)
    assert relative(gradients[1], gradients[0]) <= 0.01
    assert min(read) < 0.5


def test_images_near_zero_are_taken_again(normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of both signs, whose mean at high noise is so short that no share of the weights is certain to be small."""
    points = torch.cat([smooth(normal, 80), -smooth(normal, 80)])
    local, x = LocalCloud.patches(points, SHAPE, 5, error=1e-3), 200 * normal(2, 144).float()
    full = LocalCloud.patches(points, SHAPE, 5)(x, EDM()(200.0))
    assert not bool(local._within(full, 1e-3).any())
    assert_close(local(x, EDM()(200.0)), full, rtol=0, atol=0)


def test_neighbours_in_order_are_alike(normal) -> None:
    rows = normal(1000, 3) * torch.tensor([10.0, 1.0, 0.1])
    order = alike(rows, 50)
    assert sorted(order.tolist()) == list(range(1000))
    inside = torch.stack([part.std(0)[0] for part in rows[order].split(125)])
    assert float(inside.mean()) < 3
    assert len(alike(rows[:0])) == 0


@pytest.mark.parametrize("error", [0.0, 1.0, float("nan")])
def test_errors_are_checked(error: float) -> None:
    with pytest.raises(ValueError, match="relative error of a denoised image must lie between 0 and 1"):
        LocalCloud.patches(torch.zeros(3, 144), SHAPE, 5, error=error)


def test_all_within_the_margin_of_the_sum_is_read(halves: bool) -> None:
    """500 patches whose log-weights lie 7 below the largest, with a margin of 8, weigh a third of all in sum;
    1,000 more are far away, so that the query lies along the leading direction and bounds are close."""
    generator = torch.Generator().manual_seed(0)
    around = torch.nn.functional.normalize(torch.randn(500, 7, generator=generator, dtype=torch.float64), dim=1)
    others = torch.cat([torch.full((500, 1), 1 - 7 / 50, dtype=torch.float64), (1 - 0.86**2) ** 0.5 * around], 1)
    top = torch.eye(8, dtype=torch.float64)[:1]
    patches = torch.cat([top, others, -top.expand(1000, 8)]).float()
    values = torch.cat([torch.zeros(1, 1), torch.ones(1500, 1)])
    query = 50 * torch.eye(8)[:1]
    found = screened_means(query, 1.0, [(patches, values)], 64, Screen.of(patches), 1.0, 8.0)
    weight = 500 * math.exp(-7)
    assert_close(found, torch.tensor([[weight / (1 + weight)]]), atol=1e-4, rtol=0)
