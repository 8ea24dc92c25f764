"""From what a user asks to denoisers, conditions and statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latents import COVARIANCE, DIMENSION, GAUSSIANS, MEANS, VARIANCES, latent_model, latent_sampler, normal
from scipy.integrate import solve_ivp

from underpaint.data.datasets import load_data
from underpaint.data.store import load_gaussian, save_gaussian
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.noise import DDPM
from underpaint.recipes.shared.request import (
    Conditioning,
    Request,
    Theory,
    as_condition,
    cases,
    find_denoiser,
    load_theory,
    only,
    own_device,
    prepare,
)
from underpaint.sampling.trajectory import initial_noise
from underpaint.sampling.use import in_turn
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian


@pytest.fixture(scope="module")
def fashion() -> Model:
    return load_model("fashion-mnist")


def test_cases_are_conditions_times_guidance(fashion: Model):
    request = Request(conditions=("an apple", "a bear"), guidance=(1.0, 2.0), negative="a bear")
    assert cases(request, latent_model()) == (
        Conditioning("an apple"),
        Conditioning("an apple", 2.0, "a bear"),
        Conditioning("a bear"),
        Conditioning("a bear", 2.0, "a bear"),
    )
    assert cases(Request(), fashion) == (Conditioning(),)
    assert cases(Request(conditions=(3,), guidance=(2.0,), negative="4"), fashion) == (Conditioning(3, 2.0, 4),)
    assert as_condition("4", latent_model()) == "4"


def test_cases_that_cannot_be_run_get_a_sentence(fashion: Model):
    latent = latent_model()
    for request, model, words in (
        (Request(guidance=(3.0,)), fashion, "need a class or a prompt"),
        (Request(conditions=(3,), negative="4"), fashion, "acts through guidance"),
        (Request(conditions=("a boot",)), fashion, "takes no prompts, got 'a boot'"),
        (Request(conditions=(3, "a boot")), fashion, "takes no prompts, got 'a boot'"),
        (Request(conditions=(12,)), fashion, "knows class labels 0 to 9, got 12"),
        (Request(conditions=(12,)), latent, "takes no class labels"),
        (Request(conditions=(3,), guidance=(2.0,), negative="a boot"), fashion, "takes no prompts, got 'a boot'"),
    ):
        with pytest.raises(ValueError, match=words):
            cases(request, model)
    sampler = latent_sampler(4)
    assert only(Request(conditions=("an apple",)), sampler) == Conditioning("an apple")
    for several in (Request(conditions=("an apple", "a bear")), Request(conditions=("an apple",), guidance=(1.0, 2.0))):
        with pytest.raises(ValueError, match="One condition and one guidance at a time"):
            only(several, sampler)


def test_cases_in_words():
    assert str(Conditioning()) == "unconditional"
    assert str(Conditioning(3)) == "class 3"
    assert str(Conditioning("an apple", 7.5, "a bear")) == "an apple, guidance 7.5, away from a bear"
    assert str(Conditioning(3, 2.0, 0)) == "class 3, guidance 2, away from class 0"


def test_denoisers_are_those_of_the_cases():
    model, level = latent_model(), DDPM()(400.0)
    x = normal(3, DIMENSION, seed=5)
    for case, mean in (
        (Conditioning(), MEANS[""]),
        (Conditioning("an apple"), MEANS["an apple"]),
        (Conditioning("an apple", 3.0), MEANS[""] + 3 * (MEANS["an apple"] - MEANS[""])),
        (Conditioning("an apple", 3.0, "a bear"), MEANS["a bear"] + 3 * (MEANS["an apple"] - MEANS["a bear"])),
    ):
        expected = Gaussian(mean, GAUSSIANS[""].covariance)(x, level)
        torch.testing.assert_close(find_denoiser(model, case)(x, level), expected, rtol=1e-5, atol=1e-5)
        guided = Theory(GAUSSIANS[""], {p: GAUSSIANS[p] for p in ("an apple", "a bear")}).guided(case)
        torch.testing.assert_close(guided(x, level), expected)


@pytest.mark.parametrize(("seeds", "turns"), [(None, [0, 1, 2, 0, 1]), ([7, 3, 2, 2, 10], [1, 0, 2, 2, 1])])
def test_denoisers_take_rows_in_turn(seeds: list[int] | None, turns: list[int]):
    level, x = DDPM().grid(2)[0], torch.arange(10.0).reshape(5, 2)
    found = in_turn([lambda x, level, k=k: 100.0 * k + x for k in range(3)], seeds)(x, level)
    assert found.tolist() == (x + 100 * torch.tensor(turns).unsqueeze(1)).tolist()


def test_guidance_between_unequal_covariances_is_integrated():
    """There is no closed form; the reference solves each mode's equation dy/ds = (y - D)/s with scipy."""
    wider = Gaussian(MEANS["an apple"], Covariance(VARIANCES * 1.5, COVARIANCE.basis))
    guided = Theory(GAUSSIANS[""], {"an apple": wider}).guided(Conditioning("an apple", 3.0))
    assert not isinstance(guided, Gaussian)
    sampler = latent_sampler()
    start, ratio = initial_noise((0,), DIMENSION, sampler.level[0]), sampler.level.ratio.numpy()
    means = [(MEANS[prompt] @ COVARIANCE.basis).numpy() for prompt in ("", "an apple")]
    variances = [VARIANCES.numpy(), 1.5 * VARIANCES.numpy()]

    def rate(s, y):
        away, to = (m + v / (v + s**2) * (y - m) for m, v in zip(means, variances, strict=True))
        return (y - away - 3 * (to - away)) / s

    y = (start[0].double() / sampler.level.alpha[0]) @ COVARIANCE.basis
    solved = solve_ivp(rate, (ratio[0], ratio[-2]), y.numpy(), rtol=1e-8, atol=1e-8).y[:, -1]
    exact = sampler.level.alpha[-2] * COVARIANCE.basis @ torch.from_numpy(solved)
    torch.testing.assert_close(sampler.predict(guided, start)[-2, 0].double(), exact, rtol=5e-3, atol=5e-3)


def test_theory_is_absent_where_statistics_are():
    apple = {"an apple": GAUSSIANS["an apple"]}
    assert Theory().guided(Conditioning()) is None
    assert Theory(parts=apple).guided(Conditioning("an apple")) is GAUSSIANS["an apple"]
    assert Theory(parts=apple).guided(Conditioning("an apple", 2.0)) is None
    assert Theory(GAUSSIANS[""], apple).guided(Conditioning("an apple", 2.0, "a bear")) is None
    assert Theory(GAUSSIANS[""], apple).guided(Conditioning("a bear")) is None
    known, words = Theory(GAUSSIANS[""], apple).nearest(Conditioning("a bear"))
    assert known is GAUSSIANS[""]
    assert "there are no statistics of a bear" in words
    assert Theory().nearest(Conditioning())[0] is None


def test_statistics_of_the_box_and_its_classes(fashion: Model):
    theory = load_theory(Request(conditions=(7,), guidance=(2.0,), negative="0"), fashion)
    torch.testing.assert_close(theory.everything.mean, load_gaussian("fashion-mnist").mean)
    assert set(theory.parts) == {0, 7}
    data = load_data("fashion-mnist")
    for label, gaussian in theory.parts.items():
        torch.testing.assert_close(gaussian.mean, data.rows(data.labels == label).mean(0), rtol=1e-4, atol=1e-4)
        assert str(int((data.labels == label).sum())) in theory.about[f"class {label}"].replace(",", "")


def test_statistics_from_files(tmp_path: Path):
    model, whole, part = latent_model(), tmp_path / "all.safetensors", tmp_path / "a=b.safetensors"
    save_gaussian(whole, GAUSSIANS[""])
    save_gaussian(part, GAUSSIANS["an apple"])
    files, model = (
        (str(whole), f"an apple={whole}", f"x = y={whole}"),
        replace(model, embed=lambda _: torch.zeros(1, 32)),
    )
    theory = load_theory(Request("latent", ("an apple", "x = y"), statistics=files), model)
    torch.testing.assert_close(theory.everything.mean, GAUSSIANS[""].mean.float())
    assert set(theory.parts) == {"an apple", "x = y"}
    assert load_theory(Request("latent", statistics=(str(part),)), model).everything is not None
    assert load_theory(Request("latent"), model).everything is None
    with pytest.raises(ValueError, match=r"'an apple=.* are of an apple, which is not asked for; ask for it, or leave"):
        load_theory(Request("latent", ("x = y",), statistics=files), model)
    classes = tmp_path / "classes.safetensors"
    bear = Gaussian(MEANS["a bear"], Covariance.isotropic(DIMENSION, 2.0))
    save_gaussian(classes, GAUSSIANS[""], {2: (50, bear)})
    labelled = Model(lambda *_: None, DDPM(), "v", (2, 4, 4), classes=3, null_class=3)
    theory = load_theory(Request("latent", conditions=(1, 2), statistics=(str(classes),)), labelled)
    assert set(theory.parts) == {2}
    torch.testing.assert_close(theory.parts[2].mean, bear.mean.float())


def test_a_prompt_has_the_statistics_of_the_only_class_that_it_names(tmp_path: Path):
    """'apple' stands in 'an apple', not in 'a pineapple'; two names are none."""
    file = tmp_path / "objects.safetensors"
    parts = {name: (50, GAUSSIANS[prompt]) for name, prompt in (("apple", "an apple"), ("bear", "a bear"))}
    save_gaussian(file, GAUSSIANS[""], parts)
    prompts = ("an apple on the left", "a bear", "an apple and a bear", "a pineapple")
    model = replace(latent_model(), embed=lambda prompt: torch.zeros(1, 32))
    theory = load_theory(Request("latent", conditions=prompts, statistics=(str(file),)), model)
    assert set(theory.parts) == {"an apple on the left", "a bear"}
    torch.testing.assert_close(theory.parts["a bear"].mean, GAUSSIANS["a bear"].mean.float())
    assert theory.about["an apple on the left"].endswith("objects.safetensors, apple")


def test_statistics_that_do_not_fit_get_a_sentence(tmp_path: Path, fashion: Model):
    save_gaussian(tmp_path / "small.safetensors", GAUSSIANS[""])
    for text, words in (
        (str(tmp_path / "small.safetensors"), "statistics of all are of dimension 32, but fashion-mnist works in 784"),
        (f"3={tmp_path / 'small.safetensors'}", "statistics of class 3 are of dimension 32"),
        ("none.safetensors", "no file none.safetensors"),
    ):
        with pytest.raises(ValueError, match=words):
            load_theory(Request(conditions=(3,), statistics=(text,)), fashion)


def test_preparing():
    sampler = prepare(Request(steps=7, solver="heun", dtype="bfloat16"))
    assert sampler.model.dtype == torch.bfloat16
    assert len(sampler.level) == 8
    assert sampler.theory.everything is not None
    for options, words in (
        ({"solver": "magic"}, "Unknown solver 'magic'"),
        ({"device": "quantum"}, "no device 'quantum' here"),
        ({"dtype": "float8"}, "Unknown dtype 'float8'; choose one of float32"),
        ({"model": "nothing"}, "no model 'nothing'"),
        ({"steps": 0}, "at least 1 step"),
    ):
        with pytest.raises(ValueError, match=words):
            prepare(Request(**options))


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == torch.device("cuda:1")
    assert own_device("cuda:0") == torch.device("cuda:0")
    assert own_device("cpu") == torch.device("cpu")
