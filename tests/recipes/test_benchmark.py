"""The benchmark: choices that see tuning seeds alone, and runs that lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributions import MIXTURE
from latents import latent_sampler
from torch import Tensor
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.figures.benchmark import error, frechet, write_bench
from underpaint.metrics.features import FeatureSet
from underpaint.metrics.frechet import Statistics, frechet_distance, write_reference
from underpaint.models.model import Model
from underpaint.models.schedulers.peers import lay, lay_default, peer
from underpaint.noise import DDPM, EDM, NoiseLevel, Schedule
from underpaint.recipes.benchmark import benchmark as recipe
from underpaint.recipes.benchmark.benchmark import Bench, bench, best_peer, bootstrap_ratio, prepare_bench
from underpaint.recipes.benchmark.cells import Cell, Settings, Workbench
from underpaint.recipes.benchmark.tables import check_parquet, page, rows
from underpaint.recipes.shared.processes import Processes
from underpaint.recipes.shared.request import Conditioning, Request, Sampler, Theory, find_denoiser
from underpaint.sampling.fitted import LOOK_BACK, TERMS, Calibration, Plan, write_calibration
from underpaint.sampling.linear import LearnedRules, linear_rule
from underpaint.sampling.solvers import dpmpp_2m, euler
from underpaint.sampling.teleport import respend, teleport
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.moments import Moments

SHAPE, DIMENSION = (1, 2, 3), 6
ROWS = MIXTURE.sample(4000, torch.Generator().manual_seed(0)).float()
GAUSSIAN = Gaussian.fit(ROWS)
PIXELS = FeatureSet("pixels", lambda images: images.flatten(1), SHAPE)
SMALL = Settings(
    calls=(3, 4),
    seeds=(28, 29, 30),
    tuning=(0, 1, 2, 3),
    solvers=("DDIM", "UniPC", "exponential"),
    grids=("linspace", "log"),
    fine=16,
)
ALL = replace(
    SMALL, solvers=("DDIM", "UniPC", "Heun", "exponential", "teleported"), calls=(4,), samples=40, own=32, batch=16
)


def workbench(
    folder: Path,
    settings: Settings = SMALL,
    schedule: Schedule | None = None,
    denoise: Denoiser = MIXTURE,
    called: Callable[[], None] = lambda: None,
    **more: Any,
) -> Workbench:
    """A model whose network is the mixture, with the Gaussian of its data; ``called`` is told of each call."""
    schedule = schedule or DDPM()

    def network(states: Tensor, time: Tensor, condition: Any) -> Tensor:
        called()
        return denoise(states.flatten(1).double(), schedule(time[0])).view_as(states).to(states)

    model = Model(network, schedule, "x0", SHAPE, "mixture")
    sampler = Sampler(model, schedule.grid(8), "dpmpp-2m", Theory(GAUSSIAN, {}, {"all": "of its samples"}))
    return Workbench(sampler, (Conditioning(),), settings, folder, **more)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, Bench]:
    """A whole benchmark, with Fréchet distances in the space of pixels."""
    known = Statistics("pixels", ROWS.mean(0), ROWS.T.cov(), len(ROWS))
    given = workbench(tmp_path_factory.mktemp("cells"), ALL, features=PIXELS, reference=known)
    result = bench(given)
    assert result is not None
    return given, result


# What is measured


def test_errors_are_distances_to_the_fine_solution(found: tuple[Workbench, Bench]) -> None:
    """Against a run of our own: the same noise, the end of UniPC's solution on levels even in log(sigma/alpha)."""
    given, result = found
    model, level = given.sampler.model, lay(DDPM(), "log", SMALL.fine)
    seeds = SMALL.seeds

    def solved(solver: Any, at: NoiseLevel) -> Tensor:
        return sample(model, initial_noise(seeds, DIMENSION, at[0]), at, solver).final

    fine = solved(peer("UniPC-3 bh2"), level)
    (score,) = (s for s in result.of("default", "DDIM") if s.calls == 4)
    expected = (solved(euler, lay_default(DDPM(), "DDIM", 4)) - fine).square().mean(1).sqrt()
    torch.testing.assert_close(score.errors, expected.double(), rtol=1e-4, atol=1e-5)
    assert score.rms == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-4)
    half = (solved(peer("UniPC-3 bh2"), lay(DDPM(), "log", SMALL.fine // 2)) - fine).square().mean().sqrt()
    assert result.floor == pytest.approx(float(half), rel=1e-3)
    assert result.floor > 0


def test_choices_are_made_on_tuning_seeds_alone(found: tuple[Workbench, Bench]) -> None:
    given, result = found
    tuning = [score for score in result.scores if score.role == "tuning"]
    assert all(len(score.errors) == len(SMALL.tuning) for score in tuning)
    for score in result.scores:
        if score.role == "best":
            rivals = [s for s in tuning if (s.family, s.calls) == (score.family, score.calls)]
            assert score.cell == min(rivals, key=lambda s: s.rms).cell
            assert len(rivals) == len(given.candidates(score.family, score.calls))
            assert torch.equal(score.errors, given.errors(score.cell, SMALL.seeds))
    other = bench(workbench(given.folder, replace(ALL, seeds=(35, 36), samples=0)))
    assert other is not None
    cells = [{(s.family, s.calls): s.cell for s in r.scores if s.role == "best"} for r in (result, other)]
    assert cells[0] == cells[1]
    errors = {cell: float(given.errors(cell, SMALL.seeds).square().mean()) for cell in given.candidates("DDIM", 4)}
    assert min(errors, key=errors.__getitem__) != cells[0]["DDIM", 4]  # which would be chosen on the held-out seeds


def test_ratios_are_ours_over_the_peer_that_is_best_on_held_out_seeds(found: tuple[Workbench, Bench]) -> None:
    _, result = found
    for ratio in result.ratios:
        peers = [s for s in result.scores if s.role == ratio.role and s.peer and s.calls == ratio.calls]
        assert [len(s.errors) for s in peers] == [len(SMALL.seeds)] * 3
        (ours,) = (s for s in result.of("best", ratio.family) if s.calls == ratio.calls)
        assert ratio.peer == str(min(peers, key=lambda s: s.rms).cell)
        assert ratio.value == pytest.approx(ours.rms / min(s.rms for s in peers))
        assert ratio.low <= ratio.value <= ratio.high
        nearer = ours.errors < min(peers, key=lambda s: s.rms).errors
        assert ratio.nearer == float(nearer.sum()) / len(SMALL.seeds)
    assert {ratio.role for ratio in result.ratios} == {"best", "default"}
    assert len(result.ratios) == 2 * 2


def test_bootstrap_of_a_ratio() -> None:
    peer_errors = torch.rand(16, generator=torch.Generator().manual_seed(1)) + 0.5
    assert bootstrap_ratio(peer_errors / 2, peer_errors) == pytest.approx((0.5, 0.5, 0.5))
    ours = torch.rand(16, generator=torch.Generator().manual_seed(2)) + 0.5
    value, low, high = bootstrap_ratio(ours, peer_errors)
    a, b = ours.double() ** 2, peer_errors.double() ** 2
    # delta method: the relative variance of a ratio of means of pairs
    deviation = float(0.5 * (a / a.mean() - b / b.mean()).std() / 4)
    assert value == pytest.approx(float((a.mean() / b.mean()).sqrt()))
    assert (high - low) / value == pytest.approx(2 * 1.645 * deviation, rel=0.2)


def test_ours_is_exact_where_the_network_is_its_gaussian(tmp_path: Path) -> None:
    """With and without a jump: the flow in closed form down to the last level, and what is denoised there."""
    given = workbench(tmp_path, denoise=GAUSSIAN)
    first, last = DDPM().grid(1)[0], lay(DDPM(), "log", 3)[-2]
    start = initial_noise((0, 1), DIMENSION, first)
    exact = GAUSSIAN.denoise(GAUSSIAN.flow(start, first, last), last)
    for cell in (Cell("exponential-1", "log", 3), Cell("exponential-3c", "karras", 3, given.landings[1])):
        torch.testing.assert_close(given.values(cell, (0, 1)), exact, rtol=1e-4, atol=1e-4)
        assert given.calls(cell, (0, 1)) == 3


def test_seeds_take_their_cases_in_turn(tmp_path: Path) -> None:
    """A latent model of two prompts, guided: each seed is that of its own prompt, in any company."""
    listed = (Conditioning("an apple", 3.0), Conditioning("a bear", 3.0))
    given = Workbench(latent_sampler(), listed, replace(SMALL, batch=3), tmp_path)
    cell, model = Cell("DPM-Solver++ 2M", "log", 4), given.sampler.model
    found = given.values(cell, (4, 5, 6, 7))
    for case, seeds in zip(listed, ((4, 6), (5, 7)), strict=True):
        level = lay(model.schedule, "log", 4)
        noise = initial_noise(seeds, model.dimension, level[0])
        alone = sample(find_denoiser(model, case), noise, level, peer(cell.solver)).final
        torch.testing.assert_close(found[[seed - 4 for seed in seeds]], alone, rtol=1e-4, atol=1e-5)
    assert given.calls(cell, (4, 5, 6, 7)) == 8


def test_frechet_distances_are_those_of_teleport(found: tuple[Workbench, Bench]) -> None:
    """Both accountings against samples that are teleported here; calls are counted without the jump."""
    given, result = found
    model, level = given.sampler.model, DDPM().grid(8)
    x = initial_noise(range(10_000, 10_040), DIMENSION, level[0])
    own = own_images(model)
    assert [(part.skip, part.accounting, part.nfe) for part in result.skipping] == [
        (0, "saved", 8), (2, "saved", 6), (2, "re-spent", 8), (4, "saved", 4), (4, "re-spent", 8),
    ]  # fmt: skip
    for part in result.skipping[1:]:
        jumped = respend(DDPM(), level, float(level.ratio[part.skip]))
        grid, skip = (level, part.skip) if part.accounting == "saved" else (jumped, 1)
        final = teleport(GAUSSIAN, model, x, grid, skip, dpmpp_2m).final.clamp(-1, 1)
        found_here = Moments.of(final)
        expected = frechet_distance(found_here, given.reference)  # type: ignore[arg-type]
        assert part.frechet.value == pytest.approx(expected, rel=1e-3)
        assert part.to_own == pytest.approx(frechet_distance(found_here, own), rel=0.01)
        assert (part.frechet.space, part.frechet.count) == ("pixels", 40)
    rated = {(s.role, s.family) for s in result.scores if s.frechet}
    assert rated == {(s.role, s.family) for s in result.scores if s.to_own is not None}
    assert {("best", "exponential"), ("best", "teleported")} < rated
    assert any(role == "default" for role, _ in rated)


def own_images(model: Model) -> Moments:
    """Of a long solution by another solver, of the seeds by which images are judged."""
    level = DDPM().grid(400)
    noise = initial_noise(range(10_000, 10_040), DIMENSION, level[0])
    return Moments.of(sample(model, noise, level, dpmpp_2m).final.clamp(-1, 1))


def test_distances_to_the_networks_own_images(found: tuple[Workbench, Bench]) -> None:
    """The network's own are those of any long solution; a solver that is closer to them scores as they do."""
    given, result = found
    own = own_images(given.sampler.model)
    assert result.own is not None
    assert result.own.value == pytest.approx(frechet_distance(own, given.reference), rel=0.02)  # type: ignore[arg-type]
    for score in result.scores:
        if score.frechet is not None:
            final = given.values(score.cell, range(10_000, 10_040)).clamp(-1, 1)
            assert score.to_own == pytest.approx(frechet_distance(Moments.of(final), own), rel=0.05, abs=1e-4)
    longer = replace(given.settings, solvers=("UniPC", "exponential"), calls=(12,))
    close = bench(replace(given, settings=longer))
    assert close is not None
    (at_4,), (at_12,) = result.of("best", "exponential"), close.of("best", "exponential")
    assert at_12.to_own < 0.2 * at_4.to_own  # type: ignore[operator]
    assert abs(at_12.frechet.value - close.own.value) < abs(at_4.frechet.value - result.own.value)  # type: ignore[union-attr]


# Runs that were stopped, and that are shared


def test_a_resumed_run_is_an_uninterrupted_one_and_calls_nothing_twice(tmp_path: Path) -> None:
    calls, limit, settings = 0, 10**9, replace(SMALL, calls=(3,), solvers=("DDIM", "exponential"), batch=2)

    def called() -> None:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt

    def run(name: str, stop: int = 10**9, **changed: Any) -> tuple[Bench | None, int]:
        nonlocal calls, limit
        calls, limit = 0, stop
        return bench(workbench(tmp_path / name, replace(settings, **changed), called=called)), calls

    whole, needed = run("whole")
    assert whole is not None
    for stop in (75, 40):
        with pytest.raises(KeyboardInterrupt):
            run("broken", stop)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "broken").iterdir()}
    resumed, spent = run("broken")
    assert resumed is not None
    assert needed <= 75 + 40 + spent <= needed + 2 * (2 * SMALL.fine)  # a batch was lost at each stop, and no more
    assert rows(resumed) == rows(whole)
    assert len(files) > 4
    assert {file: file.stat().st_mtime_ns for file in files} == files
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "broken" / file.name).read_bytes() == file.read_bytes()
    assert run("broken")[1] == 0
    assert 0 < run("broken", seeds=(28, 29, 30, 31))[1] < needed / 2  # the batch that has grown


def test_other_settings_are_other_cells(tmp_path: Path) -> None:
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1

    cell, given = Cell("exponential-1", "log", 4), workbench(tmp_path, called=called)
    first = given.values(cell, (0, 1))
    for other in (
        workbench(tmp_path, called=called, schedule=DDPM.stable_diffusion()),
        replace(given, sampler=replace(given.sampler, theory=Theory(Gaussian.isotropic(torch.zeros(6), 1.0)))),
    ):
        before = calls
        assert not torch.equal(other.values(cell, (0, 1)), first)
        assert calls == before + 4
    before = calls
    assert torch.equal(given.values(cell, (0, 1)), first)
    assert calls == before


def test_work_is_dealt_by_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, one after the other in place of side by side: together what one does, and nothing twice."""
    monkeypatch.setattr(Processes, "meet", lambda processes: None)
    jobs = [(Cell(name, "log", 3), (0, 1, 2), "rows") for name in ("DDIM", "UniPC-2 bh1", "DEIS-2")]
    shares = []
    for rank in (0, 1):
        given = workbench(tmp_path / "two", replace(SMALL, batch=2))
        before = set((tmp_path / "two").glob("*"))
        recipe._work(given, Processes(rank, 2), "", jobs, recipe.silent)
        shares.append(set((tmp_path / "two").glob("*")) - before)
    assert [len(share) for share in shares] == [3, 3]
    recipe._work(workbench(tmp_path / "one", replace(SMALL, batch=2)), Processes(), "", jobs, recipe.silent)
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()


SCRIPT = """
import json, sys
from pathlib import Path
from test_benchmark import rows, workbench
from underpaint.recipes.benchmark.benchmark import bench

result = bench(workbench(Path(sys.argv[1]) / "cells"))
if result is not None:
    (Path(sys.argv[1]) / "rows.json").write_text(json.dumps(rows(result)))
"""


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        place = tmp_path / str(processes)
        place.mkdir()
        subprocess.run([sys.executable, *launcher, str(tmp_path / "run.py"), str(place)], env=environment, check=True)
    assert (tmp_path / "1" / "rows.json").read_bytes() == (tmp_path / "2" / "rows.json").read_bytes()
    files = sorted((tmp_path / "1" / "cells").iterdir())
    assert files
    for file in files:
        assert (tmp_path / "2" / "cells" / file.name).read_bytes() == file.read_bytes()


# What comes out


def test_the_finding_holds_ours_against_the_best_peer(found: tuple[Workbench, Bench]) -> None:
    _, result = found
    (best,) = {
        r
        for r in result.ratios
        if r.role == "best" and r.value == min(q.value for q in result.ratios if q.role == "best")
    }
    assert f"by calls: {best.value:.2f} at 4 ({best.family}, {best.low:.2f} to {best.high:.2f}); on 3" in result.finding
    peers = [score for score in result.scores if score.role == "best" and score.peer]
    nearest = min(peers, key=lambda score: score.rms)
    alone = replace(result, ratios=(), scores=tuple(peers)).finding
    assert f"by calls: {nearest.rms:.3g} at 4 ({nearest.cell.solver}); on 3 held-out seeds" in alone


def test_the_panel_of_defaults_shows_all_of_it(found: tuple[Workbench, Bench]) -> None:
    """Its limits were those of the panel beside it, so that a peer that is far off at its defaults was cut off."""
    _, result = found
    far = (replace(score, errors=1e3 * score.errors) if score.role == "default" else score for score in result.scores)
    for panel in error(replace(result, scores=tuple(far))).axes[:2]:
        least, most = panel.get_ylim()
        drawn = [y for line in panel.lines for y in line.get_ydata()]
        assert least < min(drawn)
        assert max(drawn) < most


def test_tables_and_figures(found: tuple[Workbench, Bench], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    _, result = found
    content = write_bench(result, tmp_path)
    assert content["finding"] == result.finding
    assert content["table"] == json.loads((tmp_path / "results.json").read_text())["table"] == rows(result)
    stored = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [{name: value for name, value in row.items() if value is not None} for row in stored] == [
        {name: value for name, value in row.items() if value is not None} for row in rows(result)
    ]
    for name in ("error", "images", "frechet", "skipping"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
    guided = replace(result, scores=tuple(replace(score, nfe=2 * score.nfe) for score in result.scores))
    for line in error(guided).axes[2].lines[:2]:  # of the network, as in the other panels
        assert line.get_xdata().tolist() == [2 * score.nfe for score in result.of("best", line.get_label())]
    drawn, to_own = (
        {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        for axes in frechet(result).axes  # type: ignore[union-attr]
    )
    for label, role in (("best peer", "best"), ("best peer at diffusers' defaults", "default")):
        peer_there = best_peer(result.scores, role, 4)
        assert drawn[label] == [peer_there.frechet.value]  # type: ignore[union-attr]
        assert to_own[label] == [peer_there.to_own]
    (teleported,) = result.of("best", "teleported")
    assert drawn["teleported"] == [teleported.frechet.value]  # type: ignore[union-attr]
    assert to_own["teleported"] == [teleported.to_own]
    assert drawn["the network's own images"] == 2 * [result.own.value]  # type: ignore[union-attr]
    text = (tmp_path / "table.md").read_text()
    assert text == page(result)
    assert text.startswith("# Few calls and Fréchet distance: ")
    assert page(replace(result, setup=result.setup | {"samples": 0})).startswith("# Few calls: ")
    (score,) = (s for s in result.of("best", "UniPC") if s.calls == 4)
    assert str(score.cell) == f"UniPC-{score.cell.solver[6:]}, {score.cell.grid}"
    assert f"{score.rms:.4g} ({score.cell.solver[6:]}, {score.cell.grid})" in text
    (ratio,) = (r for r in result.ratios if (r.role, r.family, r.calls) == ("best", "teleported", 4))
    assert f"| teleported / best peer | **{ratio.value:.2f}**" in text
    budgets, shown = result.setup["calls"], {score.family: score.ours for score in result.scores}
    least = [min(middle(result, name, calls) for name, ours in shown.items() if not ours) for calls in budgets]
    shares = [middle(result, "teleported", calls) / peer for calls, peer in zip(budgets, least, strict=True)]
    assert f"| teleported / least of a peer, medians | {' | '.join(f'{share:.2f}' for share in shares)} |" in text
    assert "In pixels: 40 samples against 4000" in text
    assert f"(UniPC-3, 32 steps) score {result.own.value:.4g}:" in text  # type: ignore[union-attr]
    assert f"| teleported | {teleported.frechet.value:.4g} |" in text  # type: ignore[union-attr]
    assert f"| teleported | {teleported.to_own:.3g} |" in text
    last = result.skipping[-1]
    assert f"| {last.nfe} | {last.frechet.value:.4g} | {last.to_own:.3g} |" in text
    json.dumps(content, allow_nan=False)


def middle(result: Bench, family: str, calls: int) -> float:
    """The median error of a family at its own best grid."""
    (score,) = (score for score in result.of("best", family) if score.calls == calls)
    return float(score.errors.median())


def test_plans_of_a_calibration_compete(tmp_path: Path) -> None:
    """A plan without coefficients is the Gaussian's flow: known in closed form. Numbers of calls without a plan are
    left out."""
    level = NoiseLevel.join(DDPM()(torch.tensor([999.0, 500.0, 200.0, 0.0])), NoiseLevel.clean())
    plans = Calibration((Plan(level, torch.zeros(3, LOOK_BACK, TERMS)),), {"seeds": [0, 1]})
    settings = replace(SMALL, solvers=("DDIM", "calibrated"))
    result = bench(workbench(tmp_path, settings, calibration=plans))
    assert result is not None
    (score,) = result.of("best", "calibrated")
    assert (score.calls, score.nfe) == (3, 3)
    x = initial_noise(SMALL.seeds, DIMENSION, level[0])
    fine = workbench(tmp_path).values(workbench(tmp_path).fine, SMALL.seeds)
    expected = (GAUSSIAN.flow(x, level[0], NoiseLevel.clean()) - fine).square().mean(1).sqrt()
    torch.testing.assert_close(score.errors, expected.double(), rtol=1e-3, atol=1e-4)
    assert "| calibrated / best peer | **" in page(result)


def test_plans_that_were_fitted_for_something_else_are_told(tmp_path: Path) -> None:
    """Before anything is solved, once for each plan that is shown; nothing where they do not compete."""
    level = NoiseLevel.join(DDPM()(torch.tensor([999.0, 500.0, 200.0, 0.0])), NoiseLevel.clean())
    losses = [{"calls": 3, "use": {"guidance": [1.0], "conditions": ["no condition"]}, "ratio": 2, "low": 1, "high": 3}]
    about = {"for": {"guidance": [3.0], "conditions": ["prompts"], "dtype": "float32"}, "losses": losses}
    plans = Calibration((Plan(level, torch.zeros(3, LOOK_BACK, TERMS)), Plan(DDPM().grid(7), solver="dpmpp-2m")), about)
    given = workbench(tmp_path, replace(SMALL, solvers=("DDIM", "calibrated")), calibration=plans)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        recipe._check(given)
        recipe._check(workbench(tmp_path, replace(SMALL, solvers=("DDIM",)), calibration=plans))
    assert [str(one.message) for one in told] == [
        "The plan was fitted for guidance 3, prompts, and is used with guidance 1, no condition; there, at 3 calls, "
        "its error was 2.00 times (1.00 to 3.00) that of a plan for it."
    ]


def test_learned_rules_compete(tmp_path: Path) -> None:
    """A table of DDIM is DDIM, whatever it is called: neither a peer nor ours, but ours are held against it, too."""
    schedule, settings = DDPM(), replace(SMALL, solvers=("DDIM", "learned", "exponential"), grids=("log",))
    level = lay(schedule, "log", 3)
    rule = linear_rule(euler, level).scaled(float(level.sigma[0] / schedule.grid(3).sigma[0]))
    about = {"seeds": [5], "judge": [6], "weights": workbench(tmp_path).weights}
    given = workbench(tmp_path, settings, learned=LearnedRules((rule,), about))
    result = bench(given)
    assert result is not None
    (score,) = result.of("best", "learned")
    same = given.errors(Cell("DDIM", "log", 3), SMALL.seeds)
    torch.testing.assert_close(score.errors, same, rtol=1e-4, atol=1e-5)
    assert (score.calls, score.nfe, score.peer, score.ours) == (3, 3, False, False)
    assert {s.family for s in result.scores if s.peer} == {"DDIM"}
    (over,) = (r for r in result.ratios if r.role == "learned")
    (ours,) = (s for s in result.of("best", "exponential") if s.calls == 3)
    assert (over.family, over.calls, over.value) == ("exponential", 3, pytest.approx(ours.rms / score.rms))
    share = 100 * float((ours.errors < score.errors).double().mean())
    text = page(result)
    assert f"| exponential / learned | **{over.value:.2f}** [{over.low:.2f}, {over.high:.2f}] | - |" in text
    assert f"| exponential nearer than learned | {share:.0f} % | - |" in text
    (peer_there,) = (r for r in result.ratios if (r.role, r.family) == ("best", "learned"))
    assert f"| learned / best peer | **{peer_there.value:.2f}**" in text
    assert result.setup["learned"] == about | {"calls": [3]}
    write_bench(result, tmp_path / "out", parquet=False)
    for wrong, words in (
        (about | {"judge": [29]}, "learned rules have used seed 29"),
        (about | {"weights": "x"}, "other"),
    ):
        with pytest.raises(ValueError, match=words):
            recipe._check(replace(given, learned=LearnedRules((rule,), wrong)))
    with pytest.raises(ValueError, match=r"learned needs the rules of benchmarks/learned\.py; give --learned FILE"):
        recipe._check(replace(given, learned=None))


def test_a_peer_that_ends_in_nan_or_gets_worse_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not end the run, is nobody's best, and the page says where it was met."""

    def broken(name: str) -> Any:
        solver = peer(name)

        def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Any:
            for state, denoised in solver(denoise, x, level):
                off = torch.nan if name == "UniPC-3 bh2" else 10.0 if name == "UniPC-2 bh1" else 0.0
                yield state + (off if len(level) == 5 else 0.0), denoised

        return solve

    monkeypatch.setattr("underpaint.recipes.benchmark.cells.peer", broken)
    settings = replace(SMALL, solvers=("UniPC", "exponential"), grids=("log",), fine=20)
    given = workbench(tmp_path, settings)
    monkeypatch.setattr(Workbench, "fine", Cell("dpmpp-3m", "log", 20))
    monkeypatch.setattr(Workbench, "half", Cell("dpmpp-3m", "log", 10))
    result = bench(given)
    assert result is not None
    lost = [s for s in result.scores if s.rms == torch.inf]
    assert {(s.role, str(s.cell), s.calls) for s in lost} == {("tuning", "UniPC-3 bh2, log", 4)}
    text = page(result)
    assert "Ended in NaN or infinity, and can be no one's best: UniPC-3 bh2, log, in 4 calls." in text
    assert "UniPC-2 bh1 from 3 to 4 calls (" in text
    assert "UniPC-3 bh2 from 3 to 4 calls (" in text
    content = write_bench(result, tmp_path / "out", parquet=False)
    json.dumps(content, allow_nan=False)
    monkeypatch.setattr(Workbench, "fine", Cell("UniPC-3 bh2", "log", 4))
    with pytest.raises(ValueError, match="NaN or infinite"):  # which everything would be held against
        given.solve(given.fine, (0,))


def test_the_command(tmp_path: Path) -> None:
    options = ["--calls", "2", "--seeds", "100,101", "--tuning", "0", "--fine", "4", "--grids", "log", "--json"]
    options += ["--solvers", "DDIM,exponential", "--out", str(tmp_path), "--samples", "0", "--no-parquet"]
    run = CliRunner().invoke(app, ["bench", *options])
    assert run.exit_code == 0, run.output
    content = json.loads(run.stdout)
    best = [row for row in content["table"] if row["role"] == "best"]
    assert [(row["family"], row["nfe"], len(row["errors"])) for row in best] == [
        ("DDIM", 2, 2), ("exponential", 2, 2),
    ]  # fmt: skip
    assert content["setup"]["features"]
    assert {"cells", "error.png", "images.svg", "results.json", "table.md"} <= {p.name for p in tmp_path.iterdir()}


def test_what_parquet_needs_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underpaint.recipes.benchmark.tables.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'underpaint\[scale\]', or give --no-parquet"):
        check_parquet()
    run = CliRunner().invoke(app, ["bench", "--calls", "x"])
    assert isinstance(run.exception, ImportError)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"calls": (1,)}, "between 2 and the steps of the fine solution, 200"),
        ({"calls": (5, 200)}, "between 2 and the steps of the fine solution, 200"),
        ({"seeds": (3,)}, "at least 2 seeds and 1 to tune on, got 1 and 16"),
        ({"seeds": (3, 99)}, "3 is among both"),
        ({"solvers": ("magic",)}, "no solver 'magic' to compare; choose from DDIM"),
        ({"grids": ("square",)}, "no grid 'square' to compare; choose from linspace"),
        ({"samples": 1}, "0 or at least 2 samples"),
        ({"own": 1, "samples": 2}, "own images need at least 2 steps, got 1"),
        ({"own": 10, "samples": 2}, "own images need more steps than the 10 calls .* got 10; give more with --own"),
        ({"batch": 0}, "batches of at least 1"),
    ],
)
def test_bad_settings_get_a_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**settings)


def test_bad_workbenches_get_a_sentence(tmp_path: Path) -> None:
    write_reference(tmp_path / "other.npz", Statistics("other", torch.zeros(2), torch.eye(2), 10))
    level = NoiseLevel.join(DDPM()(torch.tensor([999.0, 500.0])), NoiseLevel.clean())
    plans = Calibration((Plan(level, torch.zeros(1, LOOK_BACK, TERMS)),), {"seeds": [0], "held_out": [2005]})
    write_calibration(tmp_path / "plans.json", plans)
    for request, settings, more, words in (
        (
            Request(),
            Settings(solvers=("calibrated", "DDIM")),
            {},
            "calibrated needs the plans of `underpaint calibrate`; give --calib",
        ),
        (Request(), Settings(solvers=("exponential",)), {}, "compared with peers; give one of DDIM"),
        (Request(), Settings(), {"calibration": tmp_path / "plans.json"}, "has used seed 2005"),
        (Request(conditions=(3, "a boot")), Settings(), {}, "takes no prompts, got 'a boot'"),
        (Request(conditions=(3,)), Settings(samples=4), {}, "Nothing judges images of class 3"),
        (Request(), Settings(samples=4), {"reference": tmp_path / "other.npz"}, "of the features 'other'"),
    ):
        with pytest.raises(ValueError, match=words):
            prepare_bench(request, settings, tmp_path, **more)
    bare = workbench(tmp_path)
    bare = replace(bare, sampler=replace(bare.sampler, theory=Theory()))
    with pytest.raises(ValueError, match="exponential needs statistics of the data"):
        recipe._check(bare)
    with pytest.raises(ValueError, match="has none of the grids linspace"):
        recipe._check(workbench(tmp_path, replace(SMALL, grids=("linspace",)), EDM()))
