"""Seeds on a border between two pictures, for data whose borders are known."""

from __future__ import annotations

import torch
from analytic import SCHEDULE, subject
from torch import Tensor

from underpaint.recipes.explorer.steady import _OTHERS, moved_by_other_noise, steadiest
from underpaint.recipes.shared.request import Sampler
from underpaint.sampling.trajectory import initial_noise
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture


def starts(seeds: range, share: float, draws: int) -> Tensor:
    """The noise of each seed, and the same changed a little, [1 + draws, seed, D]."""
    level = SCHEDULE.grid(20)[0]
    start = initial_noise(seeds, 36, level)
    others = [initial_noise([_OTHERS + draws * seed + k for seed in seeds], 36, level) for k in range(draws)]
    return torch.stack([start, *((1 - share**2) ** 0.5 * start + share * other for other in others)])


def test_seeds_beside_a_border_are_those_whose_picture_moves_far():
    """Of two Gaussians that mirror each other, the one on whose side the noise lies is painted."""
    side = torch.zeros(36, dtype=torch.float64)
    side[0] = 1
    mixture = Mixture(torch.ones(2), tuple(Gaussian.isotropic(sign * side, 1e-4) for sign in (1, -1)))
    model, seeds = subject({None: mixture}).model, range(40)
    moved = moved_by_other_noise(Sampler(model, SCHEDULE.grid(20), "heun"), model, seeds, 0.2, 3)
    sides = starts(seeds, 0.2, 3)[:, :, 0].sign()
    crossed = (sides[1:] != sides[0]).any(0)
    assert 0 < int(crossed.sum()) < 20
    torch.testing.assert_close(moved[crossed], torch.full_like(moved[crossed], 2 / 6), rtol=0.02, atol=0)
    assert float(moved[~crossed].max()) < 0.05


def test_of_a_gaussian_every_picture_moves_as_its_flow_says():
    model, level, seeds = subject().model, SCHEDULE.grid(200), range(5)
    gaussian = subject().gaussian
    moved = moved_by_other_noise(Sampler(model, level, "heun"), model, seeds, 0.1, 2)
    finals = torch.stack([gaussian.flow(x, level[0], level[-1]) for x in starts(seeds, 0.1, 2)])
    exact = (finals[1:] - finals[0]).double().square().mean(2).sqrt().amax(0)
    torch.testing.assert_close(moved, exact, rtol=5e-3, atol=0)


def test_the_steadiest_neighbours_have_no_bad_one_among_them():
    moved = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.25, 0.05])
    assert [steadiest(moved, count) for count in (1, 2, 3, 6)] == [5, 4, 2, 0]
    assert steadiest(torch.tensor([0.2, 0.2, 0.1]), 2) == 0
