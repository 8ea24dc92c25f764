"""Numbers within bounds, and one sentence for what lies beyond them."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

from underpaint.bounds import MOST_STEPS, SEEDS, a, check_seeds, integer, number, shown
from underpaint.calibration.calibrate import calibrate
from underpaint.cli import parse_seeds
from underpaint.cli.base import sentence
from underpaint.models.pipelines.teleport import teleport_pipeline
from underpaint.models.schedulers.spectrum import spectrum
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, spaced_ratios
from underpaint.recipes.map import MapSettings
from underpaint.recipes.perturb import Nudges
from underpaint.recipes.shared.request import Conditioning, Request
from underpaint.recipes.statistics.memory_plan import parse_memory
from underpaint.sampling.fitted import read_calibration, write_calibration
from underpaint.sampling.trajectory import initial_noise, sample, seeded_noise
from underpaint.theory.denoiser import guide
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

LEVEL = EDM().grid(4)


def test_nouns_have_the_article_that_is_said():
    """As the names of classes and types in messages: by how they are spoken, not by their first letter alone."""
    for noun in ("int", "EDMEulerScheduler", "LCMScheduler", "ndarray", "object", "AutoencoderKL", "SDEScheduler"):
        assert a(noun) == f"an {noun}"
    for noun in ("list", "UNet2DModel", "UniPCMultistepScheduler", "FluxPipeline", "LlamaModel", "NoneType", "str"):
        assert a(noun) == f"a {noun}"


@pytest.mark.parametrize(("kind", "single"), [(numpy.int64, numpy.float32), (numpy.int32, numpy.float64)])
def test_numbers_of_numpy_are_numbers(kind, single, tmp_path):
    """They come from `numpy.arange` and from tables, and were refused, each with a sentence that showed a number."""
    assert type(integer(kind(4), "count", 0, 10)) is int
    assert type(number(single(0.5), "weight", 0, 10)) is float
    level = EDM().grid(kind(4))
    assert torch.equal(level.sigma, LEVEL.sigma)
    gaussian = Gaussian.isotropic(torch.zeros(3), single(0.5))
    seeds = numpy.arange(2, dtype=kind)
    x = initial_noise(seeds, 3, level[0])
    assert torch.equal(x, initial_noise([0, 1], 3, level[0]))
    assert seeded_noise(seeds).seeds == (0, 1)
    run = sample(gaussian, x, level, every=kind(1))
    assert torch.equal(run.rows(kind(1)).final, run.final[1:])
    assert torch.equal(guide(gaussian, gaussian, single(2.0))(x, level[0]), guide(gaussian, gaussian, 2.0)(x, level[0]))
    plans = calibrate(gaussian, gaussian, EDM(), kind([3]), seeds, kind([2]), fine=kind(20), effort=kind(1))
    write_calibration(tmp_path / "plans.json", plans)
    assert read_calibration(tmp_path / "plans.json").about["seeds"] == [0, 1]
    scheduler = DDIMScheduler(clip_sample=False)
    made, plain = spectrum(scheduler, kind(5), eta=single(0.5)), spectrum(scheduler, 5, eta=0.5)
    assert torch.equal(made.variance, plain.variance)
    rows, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), numpy.repeat(kind([0, 1]), 4)
    assert torch.equal(Mixture.fit(rows, labels).mean, Mixture.fit(rows, torch.as_tensor(labels)).mean)
    pipe = DDIMPipeline(None, DDIMScheduler())
    for skip, left in ((kind(3), 7), (single(3.0), 6)):  # steps, and a ratio at which 6 are left
        teleported = teleport_pipeline(pipe, gaussian, skip)
        teleported.scheduler.set_timesteps(10)
        assert len(teleported.scheduler.timesteps) == left
    with pytest.raises(ValueError, match="must be a whole number from 0 to 10, got "):
        integer(single(2.5), "count", 0, 10)
    with pytest.raises(ValueError, match="must be a number from 0 to 10, got "):
        number(single("nan"), "weight", 0, 10)


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
