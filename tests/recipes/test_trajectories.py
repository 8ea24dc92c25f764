"""The survey of trajectories: its numbers against closed forms, and that nothing stored is lost or mistaken."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latents import DIMENSION, GAUSSIANS, MEANS, THEORY, latent_model, latent_sampler, path
from typer.testing import CliRunner

from underpaint.analysis import geometry
from underpaint.analysis.summary import Summary
from underpaint.cli import app
from underpaint.figures.geometry import write_survey
from underpaint.files import read_tensors, write_tensors
from underpaint.models.fingerprint import fingerprint
from underpaint.recipes.shared.request import Conditioning, Request, Sampler, Theory
from underpaint.recipes.shared.results import to_json
from underpaint.recipes.trajectory import LAGS, MEASURES, Survey, prepare_all, survey, table
from underpaint.sampling.trajectory import initial_noise

APPLE = Conditioning("an apple", 3.0)
SEEDS = tuple(range(6))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    cases = (Conditioning(), Conditioning("an apple"), APPLE, Conditioning("an apple", 3.0, "a bear"))
    return survey([(latent_sampler(), cases)], SEEDS, tmp_path_factory.mktemp("chunks"), chunk=4)


def test_geometry_is_that_of_the_exact_flow(measured: Survey):
    """The network is a guided Gaussian, whose states have a closed form: measure those instead."""
    row, level = measured.rows[2], latent_sampler().level
    mean = MEANS[""] + 3.0 * (MEANS["an apple"] - MEANS[""])
    x = path(mean, initial_noise(SEEDS, DIMENSION, level[0]), level)
    exact = {
        "states needed": geometry.components_needed(x).double().mean(),
        "differences needed": geometry.components_needed(x.diff(dim=0)).double().mean(),
        "plane residual": geometry.plane_residual(x).amax(0).mean(),
        "rotation error": geometry.rotation_error(x, level).amax(0).mean(),
        "angle": geometry.edge_angle(x).mean(),
        **{f"cosine {lag}": c.mean() for lag, c in zip(LAGS, geometry.difference_cosines(x, LAGS), strict=True)},
    }
    for name, value in exact.items():
        assert row.measures[name].mean.item() == pytest.approx(value.item(), rel=5e-3), name
    residual = geometry.plane_residual(x).mean(1)
    torch.testing.assert_close(row.curves["plane residual"].mean, residual, rtol=1e-2, atol=1e-6)
    assert row.nfe == 2 * (2 * 120 - 1)  # Heun, guided


def test_the_guided_gaussian_is_met_and_the_plain_one_missed_by_as_much_as_it_should(measured: Survey):
    start = initial_noise(SEEDS, DIMENSION, latent_sampler().level[0])
    level = latent_sampler().level
    plain = path(MEANS[""], start, level)
    for row, toward in ((measured.rows[2], MEANS[""]), (measured.rows[3], MEANS["a bear"])):
        guided = path(toward + 3.0 * (MEANS["an apple"] - toward), start, level)
        error = (guided - plain).square().sum(2) / guided.square().sum(2)
        assert row.measures["guided error"].mean < 1e-4
        assert row.measures["guided holds to"].mean == 0
        assert row.measures["Gaussian error"].mean.item() == pytest.approx(error.mean().item(), rel=1e-2)
        torch.testing.assert_close(row.curves["Gaussian error"].mean, error.mean(1), rtol=1e-2, atol=1e-5)
        held = [float(level.ratio[int((error[:, b] > 0.01).nonzero()[0]) - 1]) for b in range(len(SEEDS))]
        assert row.measures["Gaussian holds to"].mean.item() == pytest.approx(sum(held) / len(held), rel=0.03)


def test_unconditional_and_unguided_rows(measured: Survey):
    plain, conditional = measured.rows[:2]
    assert "guided error" not in plain.measures
    assert plain.measures["Gaussian error"].mean < 1e-4
    assert conditional.measures["guided error"].mean < 1e-4 < conditional.measures["Gaussian error"].mean
    assert plain.nfe == conditional.nfe == 2 * 120 - 1


def test_the_table_holds_the_measures(measured: Survey):
    lines = list(csv.DictReader(io.StringIO(table(measured))))
    assert [line["condition"] for line in lines] == ["", "an apple", "an apple", "an apple"]
    assert [line["negative"] for line in lines] == ["", "", "", "a bear"]
    assert lines[0]["guided error"] == ""
    for name in MEASURES:
        summary = measured.rows[3].measures[name]
        found = [float(lines[3][name + part]) for part in ("", " 5%", " 95%")]
        assert found == [float(summary.mean), float(summary.low), float(summary.high)]
    json.dumps(to_json(measured), allow_nan=False)


def test_what_is_stored_is_not_asked_for_again(tmp_path: Path):
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1

    def request(
        seeds: tuple[int, ...] = SEEDS, case: Conditioning = APPLE, sampler: Sampler | None = None
    ) -> tuple[Survey, int]:
        nonlocal calls
        calls = 0
        own = sampler or latent_sampler(12, "ddim", called=called)
        return survey([(own, [case])], seeds, tmp_path, chunk=2), calls

    each = 12  # one batch a chunk, guided: both halves of it share a call
    first, cost = request()
    assert cost == 3 * each
    again, cost = request()
    assert cost == 0
    assert to_json(again) == to_json(first)
    files = sorted(tmp_path.iterdir())
    files[1].unlink()
    assert request()[1] == each
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is damaged: it is no complete file of parts; it is made anew"):
        damaged, cost = request()
    assert cost == each
    assert to_json(damaged) == to_json(first)
    assert files[2].read_bytes() == whole
    assert request((*SEEDS, 6, 7))[1] == each  # only the new ones
    assert request(case=Conditioning("an apple", 2.0))[1] == 4 * each - each
    assert request(case=Conditioning("an apple", 3.0, "a bear"))[1] == 3 * each
    for other in (
        latent_sampler(13, "ddim", called=called),
        latent_sampler(12, "dpmpp-2m", called=called),
        latent_sampler(12, "ddim", Theory(GAUSSIANS[""]), called),
        latent_sampler(12, "ddim", replace(THEORY, everything=GAUSSIANS["a bear"]), called),
    ):
        assert request(sampler=other)[1] > 0
        assert request(sampler=other)[1] == 0
    assert request()[1] == 0  # and what was there before still is


def test_a_chunk_of_other_settings_under_the_same_name_is_not_taken(tmp_path: Path):
    sampler = latent_sampler(12, "ddim")
    first = survey([(sampler, [APPLE])], (0, 1), tmp_path)
    (file,) = tmp_path.iterdir()
    right = file.read_bytes()
    wrong = {name: tensor + 1 for name, tensor in read_tensors(file).items()}
    write_tensors(file, wrong, {"model": "latent"})
    with pytest.warns(UserWarning, match="it is made anew"):
        again = survey([(sampler, [APPLE])], (0, 1), tmp_path)
    assert to_json(again) == to_json(first)
    assert file.read_bytes() == right


def test_other_weights_are_another_model(tmp_path: Path):
    linear = torch.nn.Linear(3, 3)
    model = replace(latent_model(), network=linear)
    before = fingerprint(model)
    assert before == fingerprint(replace(model, batch=7))
    with torch.no_grad():
        linear.weight[0, 0] += 1e-3
    assert fingerprint(model) != before


def test_a_killed_run_continues_and_loses_nothing(tmp_path: Path):
    """kill -9 in the middle; then the same run again gives, bit for bit, what an uninterrupted one gives."""
    seeds, whole, broken = tuple(range(12)), tmp_path / "whole", tmp_path / "broken"
    code = (
        "from latents import slow_sampler; from underpaint.recipes.shared.request import Conditioning; "
        "from underpaint.recipes.trajectory import survey; import sys; "
        "survey([(slow_sampler(), [Conditioning('an apple', 3.0)])], range(12), sys.argv[1], chunk=1, states=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code, str(broken)], env=environment)
    patience = time.monotonic() + 120
    while len(list(broken.glob("latent*.safetensors"))) < 3 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    stored = {file.name: file.stat().st_mtime_ns for file in broken.glob("latent*.safetensors")}
    assert 3 <= len(stored) < 12
    sampler = [(latent_sampler(15, "ddim"), [APPLE])]  # the same, without the waiting
    continued, uninterrupted = (survey(sampler, seeds, place, 1, states=True) for place in (broken, whole))
    assert to_json(continued) == to_json(uninterrupted)
    assert table(continued) == table(uninterrupted)
    files = sorted(whole.iterdir())
    assert len(files) == 12
    for file in files:
        assert (broken / file.name).read_bytes() == file.read_bytes()
    assert {name: (broken / name).stat().st_mtime_ns for name in stored} == stored  # not even written again


def test_states_are_kept_when_asked(tmp_path: Path):
    sampler = latent_sampler(12, "ddim")
    survey([(sampler, [APPLE])], (3, 4), tmp_path, states=True)
    (file,) = tmp_path.iterdir()
    stored = read_tensors(file)
    run = sampler.sample(sampler.model.conditional("an apple", 3.0), (3, 4))
    assert torch.equal(stored["x"], run.x)
    assert torch.equal(stored["denoised"], run.denoised)
    assert file.name.startswith("latent-an-apple-guidance-3-seeds-3-4-")


def test_the_finding_compares_the_cases(measured: Survey):
    """Of one row the numbers, of several the least and the largest with their names."""
    row = measured.rows[2]
    one = Survey((row,), MEASURES)
    mean = {name: float(part.mean) for name, part in row.measures.items()}
    assert one.finding == (
        f"A trajectory needs {mean['states needed']:.3g} principal components for 99.9 % of its variance, and at most "
        f"{100 * mean['plane residual']:.2g} % of |x_t|² lies outside the plane of its start and its end. The "
        f"condition's Gaussian, guided alike, follows it to within 1 % of |x_t|² down to σ/α "
        f"{mean['guided holds to']:.3g}."
    )
    needed = [Summary.of(torch.tensor([value])) for value in (2.5, 4.0, 2.0, 3.0)]
    rows = [
        replace(row, measures={**row.measures, "states needed": value})
        for row, value in zip(measured.rows, needed, strict=True)
    ]
    said = Survey(tuple(rows), MEASURES).finding
    assert "needs 2 (latent, an apple, guidance 3) to 4 (latent, an apple) principal components" in said


def test_few_steps_and_no_statistics(tmp_path: Path):
    """Lags that do not fit are left out, as is what needs statistics; the figure says why."""
    found = survey([(latent_sampler(4, "ddim", Theory()), [APPLE])], (0, 1), tmp_path / "chunks")
    (row,) = found.rows
    assert [name for name in row.measures if name.startswith("cosine")] == ["cosine 1", "cosine 2"]
    assert not any("error" in name for name in row.measures if name != "rotation error")
    content = write_survey(found, tmp_path)
    assert content["finding"].endswith("No statistics of the data are known, so there is no closed form beside it.")
    assert content == json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "table.csv").read_text() == table(found)
    assert (tmp_path / "geometry.png").stat().st_size > 5000


def test_bad_surveys_get_a_sentence(tmp_path: Path):
    prepared = [(latent_sampler(12), [APPLE])]
    with pytest.raises(ValueError, match="needs seeds and chunks of at least 1, got 0 and 16"):
        survey(prepared, (), tmp_path)
    with pytest.raises(ValueError, match="got 2 and 0"):
        survey(prepared, (1, 2), tmp_path, chunk=0)
    with pytest.raises(ValueError, match="at least 3 steps"):
        survey([(latent_sampler(2), [APPLE])], (1,), tmp_path)
    two = [Request(conditions=(3,), statistics=("a.safetensors",))] * 2
    with pytest.raises(ValueError, match="give --gaussian with one --model at a time"):
        prepare_all(two)
    with pytest.raises(ValueError, match="None of fashion-mnist takes 'a boot'"):
        prepare_all([Request(conditions=(3, "a boot"))])


def test_the_command_measures_and_stores(tmp_path: Path):
    options = ["--class", "7", "--guidance", "1", "--guidance", "3", "--seeds", "0-2", "--steps", "5", "--chunk", "2"]
    result = CliRunner().invoke(app, ["trajectory", *options, "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["setup"]["guidance"], row["nfe"]["value"]) for row in rows] == [(1, 5), (3, 10)]
    for row in rows:
        errors = [row["measures"]["value"][f"{name} error"]["mean"] for name in ("Gaussian", "guided")]
        assert all(math.isfinite(error) for error in errors)
        assert errors[1] < errors[0]  # the class's own Gaussian foretells more than that of all data
    assert len(list((tmp_path / "chunks").iterdir())) == 4
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
