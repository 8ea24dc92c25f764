"""Stitched denoisers, of parts whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from distributions import DISTRIBUTIONS, GAUSSIANS, MIXTURE, standard_normal
from torch.testing import assert_close

import underpaint as up
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.stitched import Stitched

PARTS: dict[str, Denoiser] = {"a": GAUSSIANS["full"], "b": MIXTURE, "c": DISTRIBUTIONS["cloud"]}
LEVEL = EDM()(torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64))
SCORE = torch.tensor([[0.9, 0.2, 0.3], [0.8, 0.7, 0.1], [0.1, 0.2, 0.8]])
X = standard_normal(5, 6)


def test_the_best_at_the_nearest_level_answers() -> None:
    """Nearest in log sigma/alpha, for any schedule: borders lie at the root of 10 and of 0.1."""
    stitched = Stitched.best(LEVEL, PARTS, SCORE)
    for sigma, name in ((80.0, "a"), (3.3, "a"), (3.0, "b"), (0.33, "b"), (0.3, "c"), (0.0, "c")):
        assert torch.equal(stitched(X, EDM()(sigma)), PARTS[name](X, EDM()(sigma)))
        level = NoiseLevel(0.6, 0.6 * sigma)
        assert torch.equal(stitched(X, level), PARTS[name](X, level))
    assert stitched.named() == ["a", "b", "c"]


def test_rows_have_their_own_levels() -> None:
    stitched = Stitched.best(LEVEL, PARTS, SCORE)
    levels = EDM()(torch.tensor([20.0, 0.2, 1.5, 0.1, 9.0]))
    expected = [PARTS[k](row[None], at) for k, row, at in zip("acbca", X, levels, strict=True)]
    assert_close(stitched(X, levels), torch.cat(expected))


def test_blends_are_weighted_sums() -> None:
    weights = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, -0.1]])
    blend, level = Stitched(LEVEL, PARTS, weights), DDPM().level(10.0)
    assert_close(blend(X, level), 0.25 * PARTS["a"](X, level) + 0.75 * PARTS["b"](X, level))
    assert blend.named() == ["0.75 b + 0.25 a", "b", "0.50 b + -0.10 c"]


def test_only_those_that_weigh_are_asked() -> None:
    def never(*_: object) -> torch.Tensor:
        raise AssertionError

    stitched = Stitched(LEVEL, {"a": PARTS["a"], "never": never}, torch.tensor([[1.0, 0], [1, 0], [1, 0]]))
    assert torch.equal(stitched(X, EDM()(3.0)), PARTS["a"](X, EDM()(3.0)))


def test_it_is_a_denoiser_for_every_sampler() -> None:
    """Stitched of one Gaussian alone, it takes the Gaussian's exact way; its samples are finite with others, too."""
    gaussian, grid = GAUSSIANS["full"], EDM().grid(300)
    x = 80 * X
    alone = up.Stitched(LEVEL, {"only": gaussian}, torch.ones(3, 1))
    exact = gaussian.flow(x, grid[0], grid[-1])
    assert_close(up.sample(alone, x, grid, up.heun).final, exact, rtol=0, atol=2e-3)
    several = up.sample(Stitched.best(LEVEL, PARTS, SCORE), x, EDM().grid(20), up.dpmpp_2m)
    assert bool(several.x.isfinite().all())
    points = DISTRIBUTIONS["cloud"].points  # type: ignore[union-attr]
    assert float(torch.cdist(several.final, points).min(1).values.max()) < 1e-6  # the last word is the cloud's


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stitched(EDM()(1.0), PARTS, torch.ones(1, 3)), "needs a row of noise levels"),
        (lambda: Stitched(LEVEL, PARTS, torch.ones(3, 2)), r"weights for 3 levels and 3 denoisers, got \(3, 2\)"),
        (lambda: Stitched(LEVEL, PARTS, torch.zeros(3, 3)), "some of each level other than 0"),
        (lambda: Stitched(LEVEL, PARTS, torch.full((3, 3), torch.nan)), "must be finite"),
        (lambda: Stitched.best(LEVEL, PARTS, torch.ones(3, 2)), r"scores of 3 denoisers at 3 levels, got \(3, 2\)"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
