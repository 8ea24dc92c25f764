"""Numbers within bounds, and one sentence for what lies beyond them."""

from __future__ import annotations

import math

import pytest
import torch

from underpaint.bounds import MOST_STEPS, SEEDS, a, check_seeds, integer, number, shown
from underpaint.cli import parse_seeds
from underpaint.cli.base import sentence
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, spaced_ratios
from underpaint.recipes.map import MapSettings
from underpaint.recipes.perturb import Nudges
from underpaint.recipes.shared.request import Conditioning, Request
from underpaint.recipes.statistics.memory_plan import parse_memory
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.denoiser import guide
from underpaint.theory.gaussian import Gaussian

LEVEL = EDM().grid(4)


def test_nouns_have_the_article_that_is_said():
    """As the names of classes and types in messages: by how they are spoken, not by their first letter alone."""
    for noun in ("int", "EDMEulerScheduler", "LCMScheduler", "ndarray", "object", "AutoencoderKL", "SDEScheduler"):
        assert a(noun) == f"an {noun}"
    for noun in ("list", "UNet2DModel", "UniPCMultistepScheduler", "FluxPipeline", "LlamaModel", "NoneType", "str"):
        assert a(noun) == f"a {noun}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 11, -1, True, None, "3", 10**400])
def test_a_number_out_of_bounds_is_shown_beside_them(value):
    with pytest.raises(ValueError, match="The weight must be a number from 0 to 10, got "):
        number(value, "weight", 0, 10)
    with pytest.raises(ValueError, match="The count must be a whole number from 0 to 10, got "):
        integer(value, "count", 0, 10)


def test_numbers_within_bounds_are_taken():
    assert number(3, "weight", 0, 10) == 3.0
    assert integer(4.0, "count", 0, 10) == 4
    with pytest.raises(ValueError, match=r"whole number from 0 to 10, got 4\.5"):
        integer(4.5, "count", 0, 10)


def test_what_is_long_is_shown_in_part():
    assert shown("ab") == "'ab'"
    assert len(shown("x" * 10_000)) < 80
    assert shown(10**5000) == "a huge number"


@pytest.mark.parametrize("text", ["0-99999999999", "0-1000000", str(SEEDS), "9" * 5000, f"0,{10**30}", "²"])
def test_ranges_have_an_end(text):
    with pytest.raises(ValueError, match=r"^Seeds are .{10,160}$"):
        parse_seeds(text)
    assert parse_seeds(f"{SEEDS - 1}, 0-2") == (SEEDS - 1, 0, 1, 2)


@pytest.mark.parametrize("seeds", [(), [], (-1,), (2**32,), (0.5,), (True,), range(2**32 - 1, 2**32 + 1), range(10**9)])
def test_seeds_are_whole_numbers_of_32_bits(seeds):
    """torch's generator would give the noise of seed 0 for 2**32, and that of 2**32 - 1 for -1."""
    for taken in (check_seeds, lambda s: initial_noise(s, 4, LEVEL[0]), lambda s: Request(seeds=s)):
        with pytest.raises(ValueError, match="Seeds are "):
            taken(seeds)


def test_noise_needs_a_dimension_and_fractions():
    with pytest.raises(ValueError, match="dimension must be a whole number"):
        initial_noise([0], 0, LEVEL[0])
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch\.int64"):
        initial_noise([0], 4, LEVEL[0], torch.int64)


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
def test_grids_have_an_end(schedule):
    for steps in (MOST_STEPS + 1, 10**30, 2.5):
        with pytest.raises(ValueError, match="number of steps of a grid must be a whole number from 1 to 100,000"):
            schedule.grid(steps)
    for start in (-1.0, 0.0, math.nan):
        with pytest.raises(ValueError, match="begins at a positive noise-to-signal ratio"):
            schedule.grid(4, start)
    with pytest.raises(ValueError, match="number of levels"):
        spaced_ratios(10**12, 80.0, 0.1)


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e30, -1e30])
def test_guidance_is_finite(weight):
    gaussian = Gaussian.isotropic(torch.zeros(4), 1.0)
    for taken in (lambda: guide(gaussian, gaussian, weight), lambda: Conditioning(1, weight)):
        with pytest.raises(ValueError, match="The guidance weight must be a number from -1,000 to 1,000"):
            taken()


def test_nudges_and_maps_are_bounded_before_anything_is_sampled():
    for magnitude in (math.nan, math.inf, 1e30):
        with pytest.raises(ValueError, match="magnitude of a nudge must be a number"):
            Nudges(magnitudes=(1.0, magnitude))
    with pytest.raises(ValueError, match="at most 1,000 magnitudes"):
        Nudges(magnitudes=(1.0,) * 1001)
    for wrong in ({"points": 10**9 + 1}, {"span": 1e30}, {"ratio": 1e300}):
        with pytest.raises(ValueError, match="must be a"):
            MapSettings(**wrong)


def test_memory_is_a_number():
    assert parse_memory("8GB") == 8e9
    assert parse_memory("1.5 kB") == 1500
    assert parse_memory(".5M") == 5e5
    for text in ("", ".", "0GB", "1.2.3GB", "nanGB", "9" * 400 + "TB", "1e3GB", "-1GB"):
        with pytest.raises(ValueError, match="Memory is a number such as 8GB"):
            parse_memory(text)


def test_a_state_is_fractional_and_a_denoiser_keeps_its_shape():
    gaussian = Gaussian.isotropic(torch.zeros(4), 1.0)
    x = initial_noise([0, 1, 2], 4, LEVEL[0])
    with pytest.raises(ValueError, match=r"The denoiser made \(1, 4\) of torch.float32 of states \(3, 4\)"):
        sample(lambda rows, level: gaussian(rows, level)[:1], x, LEVEL)
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch\.int64"):
        sample(gaussian, x.long(), LEVEL)
    for wrong in (x[:0], torch.full_like(x, math.nan)):
        with pytest.raises(ValueError, match="start states"):
            sample(gaussian, wrong, LEVEL)


def test_the_command_line_says_one_printable_line():
    assert sentence(ValueError("a\nb\x1b[31m")) == r"a b\x1b[31m"
    assert len(sentence(ValueError("x" * 100_000))) < 200
    assert sentence(FileNotFoundError(2, "No such file", "there")) == "No such file: there"
    assert "not enough memory" in sentence(MemoryError())
    assert "not enough memory" in sentence(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert sentence(RuntimeError("a mistake of ours")) is None


def test_a_level_of_noise_alone_still_begins_a_flow():
    assert float(Flow().grid(3, math.inf).alpha[0]) == 0.0
    assert isinstance(LEVEL[0], NoiseLevel)
