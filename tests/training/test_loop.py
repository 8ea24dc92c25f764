"""The loop of the training scripts: its rate, its averages, and that an interrupted run ends as one that was not."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def average(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("average")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("loop")


def test_exponents_are_those_of_the_paper(average: ModuleType) -> None:
    """Karras et al. 2024, section 3.1: widths of 5 % and 10 % are gammas of 16.97 and 6.94."""
    assert average.exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert average.exponent(0.1) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("width", [0.02, 0.13, 0.25])
def test_a_width_is_the_deviation_of_its_profile(average: ModuleType, width: float) -> None:
    gamma = average.exponent(width)
    t = (np.arange(1_000_000) + 0.5) / 1_000_000
    mass = t**gamma / (t**gamma).sum()
    mean = (mass * t).sum()
    assert math.sqrt((mass * (t - mean) ** 2).sum()) == pytest.approx(width, rel=1e-4)


def test_an_impossible_width_is_refused(average: ModuleType) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        average.exponent(0.3)


def test_the_running_average_has_the_profile(average: ModuleType) -> None:
    """Step s of T weighs (s/T)^(gamma + 1) - ((s - 1)/T)^(gamma + 1): the profile's integral over the step."""
    gamma, count = average.exponent(0.1), 50
    weights = np.zeros(count)
    for step in range(1, count + 1):
        kept = average.kept_share(step, gamma)
        weights *= kept
        weights[step - 1] = 1 - kept
    edges = (np.arange(count + 1) / count) ** (gamma + 1)
    np.testing.assert_allclose(weights, np.diff(edges), atol=1e-15)


def test_overlaps_are_integrals(average: ModuleType) -> None:
    steps, gammas = torch.tensor([300.0, 1000.0, 700.0]), torch.tensor([6.94, 16.97, 3.0])
    t = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40
    profiles = torch.stack([
        torch.where(t <= end, (gamma + 1) * t**gamma / end ** (gamma + 1), 0.0)
        for end, gamma in zip(steps.double(), gammas.double(), strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(
        average.overlap(steps, gammas, steps, gammas), profiles @ profiles.T / 40, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15])
def test_an_average_of_another_width_comes_from_the_copies(average: ModuleType, tmp_path: Path, width: float) -> None:
    """To 2 % of what separates it from the nearer of the averages that were kept, on a random walk."""
    walk = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    kept = {w: torch.zeros(8, dtype=torch.float64) for w in (*average.WIDTHS, width)}
    for step, point in enumerate(walk, 1):
        for w, state in kept.items():
            state.lerp_(point, 1 - average.kept_share(step, average.exponent(w)))
        if step % 50 == 0:
            average.keep_copies(tmp_path, step, {w: {"x": kept[w]} for w in average.WIDTHS})
    made = average.reconstruct(tmp_path, width)["x"]
    apart = min(float((kept[width] - kept[w]).norm()) for w in average.WIDTHS)
    assert float((made - kept[width]).norm()) < 0.02 * apart


def test_the_rate_warms_up_and_ends_at_zero(loop: ModuleType) -> None:
    settings = loop.Settings(minutes=1.0, rate=0.4, batch=1, warmup=10)
    assert loop.rate_at(settings, 0, 0.0) == pytest.approx(0.04)
    assert loop.rate_at(settings, 9, 0.0) == pytest.approx(0.4)
    assert loop.rate_at(settings, 500, 0.5) == pytest.approx(0.2)
    assert loop.rate_at(settings, 500, 2 / 3) == pytest.approx(0.1)
    assert loop.rate_at(settings, 999, 1.01) == pytest.approx(0.0)


def test_the_end_is_the_next_time_of_that_name(loop: ModuleType) -> None:
    now = datetime(2024, 2, 28, 23, 30, tzinfo=timezone.utc)
    assert loop.minutes_until("23:45", now) == 15
    assert loop.minutes_until("05:00", now) == 330
    assert loop.minutes_until("23:30", now) == 24 * 60


class Interrupted(Exception):
    pass


def quadratic(network: nn.Linear, stop: int | None = None) -> Callable[[torch.Generator], Tensor]:
    """A noisy square loss, which raises at the call ``stop``."""
    calls = itertools.count()

    def loss(generator: torch.Generator) -> Tensor:
        if next(calls) == stop:
            raise Interrupted
        x = torch.randn(16, 3, generator=generator)
        wanted = x.sum(1, keepdim=True) + torch.randn(16, 1, generator=generator)
        return (network(x) - wanted).square().mean()

    return loss


def ticking() -> Callable[[], float]:
    """A clock on which each step takes a second."""
    return itertools.count().__next__


def make_network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_an_interrupted_run_ends_as_one_that_was_not(
    loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 30)
    settings = loop.Settings(minutes=3.0, rate=0.05, batch=16, warmup=20)
    whole = make_network()
    record = loop.train(whole, quadratic(whole), tmp_path / "whole", settings, clock=ticking())
    for stop in (
        170,
        111,
        None,
    ):  # the first part ends after 155 steps, the second, which saves every 31, after 93 more
        parted = make_network()
        try:
            again = loop.train(parted, quadratic(parted, stop), tmp_path / "parts", settings, clock=ticking())
        except Interrupted:
            continue
    assert record["steps"] == 180
    assert again == record
    torch.testing.assert_close(parted.state_dict(), whole.state_dict(), rtol=0, atol=0)
    names = [sorted(path.name for path in (tmp_path / part / "averages").iterdir()) for part in ("whole", "parts")]
    assert names[0] == names[1]
    assert len(names[0]) == 2 * loop.COPIES


def test_a_complete_run_gives_another_average_and_trains_no_further(loop: ModuleType, tmp_path: Path) -> None:
    settings = loop.Settings(minutes=5.0, rate=0.05, batch=16)
    first = make_network()
    loop.train(first, quadratic(first), tmp_path, settings, clock=ticking())
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    second = make_network()
    record = loop.train(second, quadratic(second, stop=0), tmp_path, replace(settings, width=0.1), clock=ticking())
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint
    assert record["steps"] == 300
    wider = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["averages"][0.1]
    torch.testing.assert_close(dict(second.state_dict()), dict(wider), rtol=1e-4, atol=1e-6)
    assert not torch.equal(first.weight, second.weight)


def test_a_run_of_no_time_is_refused(loop: ModuleType, tmp_path: Path) -> None:
    network = make_network()
    with pytest.raises(ValueError, match="Nothing was trained"):
        loop.train(network, quadratic(network), tmp_path, loop.Settings(minutes=0.0, rate=0.1, batch=1))


def test_workers_add_up_to_the_step_of_their_mean_loss(loop: ModuleType, tmp_path: Path) -> None:
    settings = loop.Settings(minutes=1.0, rate=0.05, batch=32, workers=2, seed=3)
    parted, alone = make_network(), make_network()
    run = loop.Run(parted, settings, tmp_path / "two")
    run.advance(quadratic(parted), 0.0)
    single = loop.Run(alone, replace(settings, workers=1), tmp_path / "one")
    generators, one_part = [torch.Generator().manual_seed(seed) for seed in (3, 1003)], quadratic(alone)
    single.advance(lambda _: torch.stack([one_part(generator) for generator in generators]).mean(), 0.0)
    torch.testing.assert_close(parted.state_dict(), alone.state_dict(), rtol=1e-6, atol=1e-7)
    assert float(run.running[0]) == pytest.approx(float(single.running[0]), rel=1e-6)
    assert settings.part == 16


def test_a_network_that_normalises_over_the_batch_takes_one_worker(loop: ModuleType, tmp_path: Path) -> None:
    settings = loop.Settings(minutes=1.0, rate=0.05, batch=32, workers=2)
    with pytest.raises(ValueError, match="one worker"):
        loop.Run(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), settings, tmp_path)


def test_mixed_precision_rounds_the_calls_and_trains_as_float32_does(loop: ModuleType, tmp_path: Path) -> None:
    settings = loop.Settings(minutes=1.0, rate=0.05, batch=32, workers=2, warmup=1)
    weights = {}
    for half in (False, True):
        chosen, network = replace(settings, bfloat16=half), make_network()
        with chosen.mixed_precision():
            assert network(torch.ones(1, network.in_features)).dtype is (torch.bfloat16 if half else torch.float32)
        assert chosen.layout is (torch.contiguous_format if half else torch.channels_last)
        inner = quadratic(network)

        def loss(generator: torch.Generator, inner: Callable = inner, chosen: object = chosen) -> Tensor:
            with chosen.mixed_precision():
                return inner(generator).float()

        run = loop.Run(network, chosen, tmp_path / str(half))
        for _ in range(5):
            run.advance(loss, 0.0)
        weights[half] = torch.cat([weight.flatten() for weight in network.parameters()]).detach()
        assert weights[half].dtype is torch.float32
    assert 0 < (weights[True] - weights[False]).norm() / weights[False].norm() < 0.05


def test_a_gpu_is_given_mixed_precision_and_a_cpu_only_where_it_is_asked_for(loop: ModuleType) -> None:
    def read(*words: str) -> bool:
        parser = argparse.ArgumentParser()
        loop.add_options(parser, 1.0, 1.0, 1)
        return loop.read_settings(parser.parse_args(["--out", "x", *words])).bfloat16

    assert not read("--device", "cpu")
    assert read("--device", "cpu", "--bfloat16")
