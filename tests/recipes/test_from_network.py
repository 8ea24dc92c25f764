"""`underpaint stats MODEL --jacobian`: the statistics that a network states, beside a few of its samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.data.store import gaussian_provenance, load_gaussian
from underpaint.noise import DDPM, EDM, Flow, Schedule
from underpaint.recipes.statistics.from_network import levels_to_try
from underpaint.schedules import VPSDE, Truncated

CODE = """
import torch
import underpaint as up

TRUTH = up.Gaussian(torch.full((64,), 0.2), up.Covariance(torch.tensor([4.0, 1.0, 0.2]), torch.eye(64)[:, :3], 0.01))
LIE = up.Gaussian(TRUTH.mean, up.Covariance(torch.tensor([40.0, 10.0, 2.0]), torch.eye(64)[:, :3], 0.1))

def told(x, sigma):
    return TRUTH(x.flatten(1), up.EDM()(sigma.double())).reshape(x.shape)

def lying(x, sigma):
    gaussian = LIE if float(sigma.max()) > 2 else TRUTH
    return gaussian(x.flatten(1), up.EDM()(sigma.double())).reshape(x.shape)

def sound():
    return up.wrap(told, shape=(1, 8, 8), schedule=up.EDM(), prediction="x0", name="sound")

def liar():
    return up.wrap(lying, shape=(1, 8, 8), schedule=up.EDM(), prediction="x0", name="liar")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stated_networks.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "stated_networks"


def test_the_command_finds_them_and_says_what_samples_have(module: str, tmp_path: Path) -> None:
    place = tmp_path / "stats.safetensors"
    words = ["stats", f"{module}:sound", "--jacobian", "--rank", "3", "--out", str(place)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = load_gaussian(place)
    assert_close(found.eigenvalues, torch.tensor([4.0, 1.0, 0.2], dtype=torch.float64), rtol=0.02, atol=0)
    assert_close(found.mean, torch.full((64,), 0.2), rtol=0, atol=1e-2)
    said = json.loads(done.stdout)["samples"]
    assert said == gaussian_provenance(place)["samples"]
    assert abs(said["ratio"] - 1) < 3 * said["error"]
    assert said["error"] == pytest.approx((2 / 96) ** 0.5, rel=0.6)  # of 96 squares of unit normals
    assert (said["count"], len(said["ratios"]), len(said["errors"])) == (32, 3, 3)
    printed = CliRunner().invoke(app, [*words, "--samples", "200"]).output
    assert "Statistics from the Jacobian of sound" in printed
    assert "along the first 3 directions, 200 samples" in printed


def test_a_network_that_cannot_tell_is_refused_and_nothing_is_written(module: str, tmp_path: Path) -> None:
    place = tmp_path / "stats.safetensors"
    done = CliRunner().invoke(app, ["stats", f"{module}:liar", "--jacobian", "--rank", "3", "--out", str(place)])
    assert isinstance(done.exception, ValueError)
    assert "does not tell the covariance of its data" in str(done.exception)
    assert "of which its own samples have 0." in str(done.exception)
    assert not place.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "8"), "does not read --size 8 beside --jacobian"),
        (("--split", "test", "--precise"), "does not read --split test, --precise beside --jacobian"),
        (("--memory", "8GB"), "does not read --memory 8GB beside --jacobian"),
        (("--rank", "0"), "rank must lie between 1 and the dimension 64, got 0."),
        (("--rank", "65"), "rank must lie between 1 and the dimension 64, got 65."),
        (("--samples", "1"), "The number of samples to compare with must be a whole number from 2 to"),
    ],
)
def test_what_it_cannot_do_is_refused(module: str, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    place = tmp_path / "s.safetensors"
    done = CliRunner().invoke(app, ["stats", f"{module}:sound", "--jacobian", *words, "--out", str(place)])
    assert isinstance(done.exception, ValueError)
    assert said in str(done.exception)
    assert not place.exists()


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow(), VPSDE(), Truncated(EDM(), 0.5, 30.0)], ids=str)
def test_levels_to_try_fall_by_halves(schedule: Schedule) -> None:
    ratio = levels_to_try(schedule).ratio
    assert 4 <= float(ratio[-1]) < 8 < float(ratio[0]) <= 100
    assert_close(ratio[1:], ratio[:-1] / 2, rtol=1e-4, atol=0)
