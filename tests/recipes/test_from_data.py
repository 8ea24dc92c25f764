"""Plans from the data alone: the denoiser that stands in for the network, and that the network is not called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributions import standard_normal
from torch import Tensor
from torch.testing import assert_close
from typer.testing import CliRunner

import underpaint as up
from underpaint.cli import app
from underpaint.data.store import save_gaussian
from underpaint.recipes.calibrate import calibrate_model
from underpaint.recipes.shared.from_data import DataModel, denoiser_from_data
from underpaint.recipes.shared.request import Conditioning, Request, Sampler, Theory
from underpaint.theory.cloud import PointCloud

LEVEL = up.DDPM().level(0.8)


def never(*_: object) -> Tensor:
    raise AssertionError("the network was called")


def images(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three kinds of 4 x 4 images, each about one of its own, as bytes [N, 4, 4], and their labels."""
    made = np.random.default_rng(seed)
    centres, labels = made.integers(40, 216, (3, 4, 4)), made.integers(0, 3, count)
    spread = made.normal(0, 12, (count, 2)) @ made.normal(0, 1, (2, 16)) + made.normal(0, 2, (count, 16))
    return (centres[labels] + spread.reshape(count, 4, 4)).clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pictures, labels = images()
    np.savez(tmp_path / "kinds.npz", images=pictures, labels=labels)
    return tmp_path / "kinds.npz"


def rows_of(data: Path) -> tuple[Tensor, Tensor]:
    found = np.load(data)
    return torch.from_numpy(found["images"]).flatten(1).float() / 127.5 - 1, torch.from_numpy(found["labels"])


def sampler(theory: Theory | None = None, **options: object) -> Sampler:
    model = up.wrap(never, (1, 4, 4), up.DDPM(), "eps", name="silent", **options)
    return Sampler(model, model.schedule.grid(5), theory=theory or Theory())


def test_it_knows_the_data_far_better_than_one_gaussian(data: Path) -> None:
    rows, _ = rows_of(data)
    denoise, about = denoiser_from_data(sampler(), [Conditioning()], DataModel(str(data), 6, 4))
    x = LEVEL.alpha.float() * rows[:64] + LEVEL.sigma.float() * standard_normal(64, 16).float()
    exact = PointCloud(rows).denoise(x, LEVEL)
    errors = [(one(x, LEVEL) - exact).square().mean() for one in (denoise, up.Gaussian.fit(rows))]
    assert errors[0] < 0.3 * errors[1]
    assert about["unconditional"].startswith("6 Gaussians of rank 4 at most, by k-means of 300 rows of 300 ")


def test_a_class_is_a_mixture_of_its_rows_and_guidance_leads_to_it(data: Path) -> None:
    """At noise alone a mixture answers with its mean; guided, from the mean of all by w times the difference."""
    rows, labels = rows_of(data)
    noise = up.DDPM().level(1e6)
    x = noise.sigma.float() * standard_normal(3, 16).float()
    cases = [Conditioning(1), Conditioning(2, 3.0), Conditioning(2, 3.0, 0)]
    denoise, about = denoiser_from_data(sampler(classes=3), cases, DataModel(str(data), 4, 4))
    means = [rows[labels == k].mean(0) for k in range(3)]
    wanted = [means[1], rows.mean(0) + 3 * (means[2] - rows.mean(0)), means[0] + 3 * (means[2] - means[0])]
    assert_close(denoise(x, noise), torch.stack(wanted), rtol=1e-3, atol=1e-3)
    assert set(about) == {"class 0", "class 1", "class 2", "unconditional"}


def test_a_prompt_is_the_gaussian_of_what_it_names(data: Path) -> None:
    rows, labels = rows_of(data)
    part = up.Gaussian.fit(rows[labels == 2])
    known = sampler(Theory(None, {"a fox": part}, {"a fox": "foxes"}))
    denoise, about = denoiser_from_data(known, [Conditioning("a fox", 2.0)], DataModel(str(data), 3, 4))
    whole, _ = denoiser_from_data(known, [Conditioning()], DataModel(str(data), 3, 4))
    x = standard_normal(5, 16).float()
    assert_close(denoise(x, LEVEL), up.guide(whole, part, 2.0)(x, LEVEL))
    assert about["a fox"] == "Gaussian of foxes"
    with pytest.raises(ValueError, match="Nothing is known of the data of 'a cat'; give their statistics"):
        denoiser_from_data(known, [Conditioning("a cat")], DataModel(str(data), 3, 4))


def test_without_data_the_classes_of_the_statistics_serve(data: Path, tmp_path: Path) -> None:
    rows, labels = rows_of(data)
    parts = {k: (int((labels == k).sum()), up.Gaussian.fit(rows[labels == k])) for k in range(3)}
    place = tmp_path / "stats.safetensors"
    save_gaussian(place, up.Gaussian.fit(rows), parts)
    denoise, about = denoiser_from_data(sampler(), [Conditioning()], DataModel(), (str(place),))
    x = standard_normal(5, 16).float()
    assert_close(denoise(x, LEVEL), up.Mixture.fit(rows, labels)(x, LEVEL), rtol=1e-4, atol=1e-4)
    assert about == {"unconditional": f"3 Gaussians, one for each class of {place}"}
    with pytest.raises(ValueError, match=r"No mixture is fitted to data here \(3 Gaussians.*leave out --data, --comp"):
        denoiser_from_data(sampler(), [Conditioning()], DataModel(components=4), (str(place),))
    save_gaussian(place, up.Gaussian.fit(rows))
    with pytest.raises(ValueError, match="silent does not say what it was trained on; give its data with --data"):
        denoiser_from_data(sampler(), [Conditioning()], DataModel(), (str(place),))


CODE = """
import underpaint as up

def never(*_):
    raise AssertionError("the network was called")

def silent():
    return up.wrap(never, (1, 4, 4), up.DDPM(), "eps", name="silent")
"""


def test_the_command_makes_plans_without_a_call_of_the_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they are near on another mixture of the same data: what a network would have learned."""
    rows, labels = rows_of(data)
    (tmp_path / "silent_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "silent_networks", raising=False)
    gaussian = up.Gaussian.fit(rows)
    save_gaussian("stats.safetensors", gaussian)
    asked = "calibrate silent_networks:silent --from data --data kinds.npz --components 6 --rank 4 --calls 4 --seeds "
    asked += "0-15 --held-out 90-95 --fine 60 --effort 30 --gaussian stats.safetensors --out plans.json"
    result = CliRunner().invoke(app, [*asked.split(), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.stdout)
    assert "6 Gaussians" in told["from"]["data"]["unconditional"]
    # for any network of these data
    assert told["for"] == {"guidance": [1.0], "conditions": ["no condition"], "shape": [1, 4, 4]}
    plans = up.read_calibration("plans.json")
    other, level = up.Mixture.fit(rows, labels, 6), up.DDPM().grid(4)
    x = up.initial_noise(range(200, 232), 16, level[0])
    exact = up.sample(other, x, up.DDPM().grid(300), up.dpmpp_2m).final
    solver, grid = plans.solver(gaussian, 4)

    def error(grid: up.NoiseLevel, solver: object) -> float:
        return float((up.sample(other, x, grid, solver).final - exact).square().mean().sqrt())  # type: ignore[arg-type]

    assert error(grid, solver) < 0.5 * error(level, up.dpmpp_2m)
    result = CliRunner().invoke(app, [*asked.replace("plans.json", "again.json").split()])
    assert "These distances are those of a mixture of the data" in " ".join(result.stdout.split())


def test_the_data_are_the_prior_of_few_seeds(data: Path, tmp_path: Path) -> None:
    """On a network that knows the classes of the data, whose fit from so few seeds alone would be worse."""
    rows, labels = rows_of(data)
    truth, gaussian = up.Mixture.fit(rows, labels, 6), up.Gaussian.fit(rows)
    save_gaussian(tmp_path / "stats.safetensors", gaussian)

    def network(x: Tensor, t: Tensor) -> Tensor:
        flat, level = x.flatten(1), up.DDPM()(t.double())
        return up.from_denoised(truth(flat, level), flat, level, "eps").to(x).reshape(x.shape)

    model = up.wrap(network, (1, 4, 4), up.DDPM(), "eps", name="knowing")
    asked = Request(model, seeds=(0, 1), statistics=(str(tmp_path / "stats.safetensors"),))  # type: ignore[arg-type]
    how = {"calls": (4,), "held_out": (50, 51), "fine": 30, "effort": 10}
    found = calibrate_model(asked, origin="both", data=DataModel(str(data), 6, 4), **how)
    assert found.about["from"]["origin"] == "both"
    told = {"guidance": [1.0], "conditions": ["no condition"], "dtype": "float32", "shape": [1, 4, 4]}
    assert found.about["for"] == told
    plan = found.plan(4)
    assert plan.errors["held_out"] < 0.7 * plan.errors["plain"]


def test_plans_come_from_the_network_or_the_data() -> None:
    with pytest.raises(ValueError, match="made from network, data or both, got 'air'"):
        calibrate_model(Request(), origin="air")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DataModel\(.*rank=3\) is for plans from data; make them from data or both"):
        calibrate_model(Request(), data=DataModel(rank=3))
    asked = Request("emoji-scenes", ("a fox",), (1.0, 3.0))
    with pytest.raises(ValueError, match="Plans from the data alone are for a guidance of 1"):
        calibrate_model(asked, origin="data")
    with pytest.raises(ValueError, match="number of Gaussians of a mixture"):
        DataModel(components=0)
