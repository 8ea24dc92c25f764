"""The spectrum of samplers as a result: values, files, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import underpaint as up
from underpaint.cli import main
from underpaint.recipes.spectrum import SpectrumRequest, find_scheduler, parse_settings, spectra, tables

pytestmark = pytest.mark.filterwarnings("ignore:__array")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["underpaint", "spectrum", *arguments])
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_a_request_gives_what_the_function_gives() -> None:
    request = SpectrumRequest("DDIM", (4, 8), (0.1, 2.0), {"timestep_spacing": "trailing"}, {"eta": 1.0})
    found = spectra(request)
    scheduler, notes = find_scheduler("DDIMScheduler", {"timestep_spacing": "trailing"})
    assert "clip_sample" in notes["left off"]
    for share, mean, steps in zip(found.share, found.mean, (4, 8), strict=True):
        one = up.spectrum(scheduler, steps, (0.1, 2.0), eta=1.0)
        assert_close(share, one.share)
        assert_close(mean, one.mean)
    assert (found.calls, found.draws) == ([4, 8], [4, 8])
    assert "4 steps" in tables(found)
    given = replace(found, share=torch.tensor([[0.2, 1.5], [0.9, 1.02]]))
    assert given.finding == (
        "Samples of DDIMScheduler have in 4 steps 0.2 to 1.5 times and in 8 steps 0.9 to 1.02 times the variance of "
        "the data (1 is exact). In 8 steps most is wrong where the eigenvalue of the data is 0.1."
    )


def test_a_config_is_read_as_its_class_reads_it(tmp_path: Path) -> None:
    scheduler, _ = find_scheduler("DPMSolverMultistep", {"use_karras_sigmas": True})
    scheduler.save_config(tmp_path)
    by_config = spectra(SpectrumRequest(None, (5,), (1.0,), config=str(tmp_path)))
    by_name = spectra(SpectrumRequest("DPMSolverMultistep", (5,), (1.0,), {"use_karras_sigmas": True}))
    assert_close(by_config.share, by_name.share)
    assert by_config.sampler == "DPMSolverMultistepScheduler"


def test_eigenvalues_may_be_those_of_statistics(tmp_path: Path) -> None:
    up.save_gaussian(tmp_path / "g.safetensors", up.Gaussian.isotropic(torch.zeros(4), 0.5))
    found = spectra(SpectrumRequest("EulerDiscrete", (5,), gaussian=str(tmp_path / "g.safetensors")))
    assert found.eigenvalues.tolist() == [0.5]


def test_the_command_writes_numbers_and_a_figure(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("--scheduler", "DDPM", "--steps", "4", "--eigenvalues", "1,0.1", "--json", "--quiet")
    assert run(monkeypatch, *asked) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path("spectrum", "results.json").read_text())
    assert Path("spectrum", "spectrum.png").stat().st_size > 5000
    expected = up.spectrum(find_scheduler("DDPM", {})[0], 4, (1.0, 0.1)).share
    assert printed["share"]["value"] == [expected.tolist()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name a scheduler of diffusers"),
        (("--scheduler", "Nothing"), "has no scheduler 'Nothing'"),
        (("--scheduler", "DDIM", "--set", "colour=1"), "has no setting colour"),
        (("--scheduler", "DDIM", "--set", "beta_schedule=odd"), "odd"),
        (("--scheduler", "DDIM", "--set", "eta"), "as name=value"),
        (("--scheduler", "DDIM", "--step", "colour=1"), "takes no colour"),
        (("--scheduler", "DDIM", "--step", "eta=-1"), "eta of a step of a DDIMScheduler must be a number, 0 or more"),
        (("--scheduler", "DDIM", "--step", "eta=much"), "0 or more, got 'much'"),
        (("--scheduler", "DDIM", "--step", "generator=3"), "takes no generator"),
        (("--scheduler", "DDIM", "--step", "use_clipped_model_output=3"), "must be true or false, got 3"),
        (("--scheduler", "UniPC", "--set", "solver_type=bh1", "--steps", "5"), "try another number of steps"),
        (("--scheduler", "DDIM", "--steps", "2000"), "from 1 to 1,000"),
        (("--scheduler", "DDIM", "--eigenvalues", "0"), "must be a number from"),
        (("--scheduler", "DDIM", "--eigenvalues", "1,1"), "each given once"),
        (("--scheduler", "DDIM", "--eigenvalues", "1", "--gaussian", "fashion-mnist"), "not both"),
        (("--scheduler", "VQDiffusion"), "cannot be made"),
        (("--scheduler", "ScoreSdeVe"), "noise levels"),
        (("--config", "nothing.json"), "nothing.json"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, tmp_path: Path, capsys, arguments: tuple[str, ...], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_on_the_betas_of_ddpm_heun_and_kdpm2_leave_too_much_of_a_detail() -> None:
    """Variance over that of the data along 0.01, as measured by sampling on the exact denoiser: Heun 4.4 and 1.09,
    KDPM2 ancestral 14 and 1.65 in ten and fifty steps. Both have other betas by default."""
    betas = {"beta_start": 1e-4, "beta_end": 0.02}
    for name, shares in (("HeunDiscrete", (4.33, 1.09)), ("KDPM2AncestralDiscrete", (14.4, 1.62))):
        found = spectra(SpectrumRequest(name, (10, 50), (0.01,), betas)).share.flatten()
        assert_close(found, torch.tensor(shares, dtype=torch.float64), rtol=5e-3, atol=0)


def test_settings_are_json_or_text() -> None:
    assert parse_settings(["a=1", "b=true", "c=True", "d=heun", "e=[1, 2]", "f=", "g=.5"]) == {
        "a": 1,
        "b": True,
        "c": True,
        "d": "heun",
        "e": [1, 2],
        "f": "",
        "g": 0.5,
    }
