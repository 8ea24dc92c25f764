"""The main job, run small: what it writes, and that its numbers are those of its parts."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import analytic
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.analysis.summary import Summary
from underpaint.cli import app
from underpaint.figures import report_page
from underpaint.figures.report import REPORT_FIGURES, half_words
from underpaint.figures.report_page import explains, summary, write_report
from underpaint.keeping import make_only
from underpaint.noise import DDPM
from underpaint.progress import silent
from underpaint.recipes.report import build, claims
from underpaint.recipes.report.build import Report, left_out, report, words_on_calls
from underpaint.recipes.report.claims import nothing
from underpaint.recipes.report.network_against_theory import measure_frechet
from underpaint.recipes.report.regimes import calls_of_regimes, regimes_of
from underpaint.recipes.report.settings import Settings
from underpaint.recipes.report.trajectories import compare_cases, spread_components
from underpaint.recipes.shared.model_and_data import Sources, cluster
from underpaint.recipes.shared.packing import pack, unpack
from underpaint.recipes.shared.regimes import measure_regimes
from underpaint.recipes.shared.request import Conditioning
from underpaint.recipes.shared.results import to_json
from underpaint.sampling.solvers import dpmpp_2m, euler
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.gaussian import Gaussian

#: Fashion-MNIST has no reader of scenes, and the small report is about one condition and does not ask for regimes.
DRAWN = [
    p.name
    for p in REPORT_FIGURES
    if p.name not in ("decided", "decided-samples", "regimes", "case-samples", "case-geometry")
]


@pytest.fixture(scope="module")
def small() -> Report:
    return report(Settings(seeds=tuple(range(8)), steps=12, samples=8))


@pytest.fixture(scope="module")
def written(small: Report, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("out") / "report"
    return folder, write_report(small, folder, silent)


def test_everything_is_written(written: tuple[Path, dict[str, Any]]):
    folder, results = written
    assert json.loads((folder / "results.json").read_text()) == results
    for name in DRAWN:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (folder / "figures" / f"{name}.svg").read_text()[:1000]
    assert len(list((folder / "figures").iterdir())) == 2 * len(DRAWN)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["report"]


def test_the_page_is_self_contained(written: tuple[Path, dict[str, Any]]):
    page = (written[0] / "index.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == len(DRAWN)
    assert 'src="http' not in page
    assert "<script" not in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert len(captions) == len(DRAWN)
    for caption in captions:
        assert len(caption) > 80
        assert not re.search(r"\bnan\b|\bNone\b|Summary\(|tensor\(", caption)


def test_results_carry_units_and_provenance(written: tuple[Path, dict[str, Any]]):
    _, results = written
    assert results["setup"]["seeds"] == list(range(8))
    assert results["setup"]["nfe"] == 12
    assert results["geometry"]["edge_angle"]["unit"] == "degrees between x_0 and x_T"
    assert len(results["agreement"]["explained"]["value"]["mixture"]) == 12
    assert "strips" not in results["agreement"]
    assert list(results["setup"]["denoisers"]) == ["Gaussian", "mixture", "exact"]
    assert not any("{" in words for words in results["setup"]["denoisers"].values())
    assert {"underpaint", "torch", "diffusers", "python"} <= results["setup"]["versions"].keys()


def test_numbers_are_those_of_the_network(small: Report):
    model = small.subject.model
    level = model.schedule.grid(12)
    again = sample(model, initial_noise([5], model.dimension, level[0]), level, euler)
    torch.testing.assert_close(small.trajectory.x[:, 5:6], again.x, rtol=1e-3, atol=1e-3)
    assert small.hybrid.nfe == tuple(12 - k for k in small.hybrid.skip)
    assert small.frechet is not None
    assert small.frechet.nfe == tuple(20 - k for k in small.frechet.skip)
    # the exact score ends on training images, the network does not
    assert small.agreement.retrieved_exact.mean < 1e-3 < small.agreement.retrieved.mean


def test_theory_curves_are_consistent(small: Report):
    part = small.modes
    torch.testing.assert_close(part.psi[0], torch.ones(len(part.components), dtype=torch.float64))
    # xi by quadrature of its own rate
    integral = torch.trapezoid(part.xi_rate, part.time, dim=0)
    torch.testing.assert_close(integral, part.xi[-1] - part.xi[0], rtol=2e-2, atol=1e-3)


def test_claims_follow_their_bounds(small: Report):
    parts = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    judged = claims.judge(parts)
    assert judged == small.claims
    assert len(judged) >= 14
    broken = dataclasses.replace(small.emergence, rank_correlation=0.1)
    verdicts = {claim.statement: claim.holds for claim in claims.judge(parts | {"emergence": broken})}
    assert not verdicts["Outline first, details later: features of larger variance are settled earlier."]


def test_what_is_asked_for_stands_beside_the_network_that_is_asked_for_nothing(small: Report, tmp_path: Path) -> None:
    """A network that is the Gaussian of all the data unless it is asked for a class, which is far from that."""
    rows, labels = analytic.data()
    known = {0: Gaussian.isotropic(rows[labels == 0].mean(0), 1e-3), None: Gaussian.fit(rows)}
    asked = dataclasses.replace(analytic.subject(known), case=Conditioning(0))
    settings = Settings(seeds=tuple(range(8)), steps=12)
    assert build.asks_for_nothing(asked)
    plain = build._plain(asked, settings, make_only, silent)
    parts = {"subject", "trajectory", "geometry", "modes", "emergence", "agreement", "hybrid", "perturbation"}
    assert plain.keys() == parts | {"regimes"}
    assert plain["regimes"] is None
    alone = build.beside(dataclasses.replace(small, plain_claims=small.claims[:2]), plain)
    assert (alone.frechet, alone.setup["condition"], alone.trajectory) == (None, "unconditional", plain["trajectory"])
    shares = plain["agreement"].shares["Gaussian"]
    torch.testing.assert_close(shares, torch.ones_like(shares), rtol=0, atol=1e-3)
    own = asked.sample(asked.denoise, settings.seeds, asked.model.schedule.grid(12), euler)
    other = build.measure_agreement(asked, own, settings, silent).shares["Gaussian"]
    assert float(other.mean()) < 0.9
    assert not build.asks_for_nothing(dataclasses.replace(asked, case=Conditioning()))
    both = dataclasses.replace(
        small, plain_claims=small.claims[:2], left_out={"a section": "for a reason"}, plain=alone
    )
    results = write_report(both, tmp_path / "report", silent)
    page = (tmp_path / "report" / "index.html").read_text()
    counted = [claims.count_verdicts(part) for part in (small.claims[:2], small.claims)]
    assert results["summary"]["verdicts"] == f"Asked for nothing: {counted[0]}; unconditional: {counted[1]}"
    assert results["summary"]["numbers"].startswith("Asked for nothing: Two principal components hold ")
    assert " Unconditional: Two principal components hold " in results["summary"]["numbers"]
    assert "<th>asked for nothing</th><th>unconditional</th>" in page
    assert page.count("not tested") == len(small.claims) - 2
    assert "<li>a section: for a reason.</li>" in page
    assert [plate["name"] for plate in results["plates"]] == DRAWN
    once = {"mode-curves", "frechet"}  # closed forms, and what is not measured for it
    assert {plate["name"] for plate in results["plates"] if "plain_caption" not in plate} == once
    for name in DRAWN:
        assert (tmp_path / "report" / "figures" / f"{name}-plain.png").is_file() == (name not in once)
    geometry = next(plate for plate in results["plates"] if plate["name"] == "geometry")
    angles = [part.edge_angle for part in (plain["geometry"], small.geometry)]
    for caption, angle in zip((geometry["plain_caption"], geometry["caption"]), angles, strict=True):
        assert f"the angle between them is {angle:.1f}°" in caption
    films = next(plate["caption"] for plate in results["plates"] if plate["name"] == "film-strips")
    assert page.count(html.escape(films)[:60]) == 1  # the same words for both
    assert page.index("<h3>asked for nothing</h3>") < page.index("<h3>unconditional</h3>")
    assert page.count('<div class="columns-2">') == len(DRAWN) - len(once)


def test_figures_are_numbered_as_they_are_there_and_a_warning_comes_first(small: Report, tmp_path: Path):
    """Without the section of Fréchet distances the next one has its number; a network that fails says so at once."""
    wrong = dataclasses.replace(small.check.findings[0], verdict="fails")
    unsound = dataclasses.replace(small.check, findings=(wrong, *small.check.findings[1:]))
    bare = dataclasses.replace(small, frechet=None, check=unsound, claims=())
    results = write_report(bare, tmp_path / "r", silent)
    numbers = [int(plate["title"].split(".")[0]) for plate in results["plates"]]
    assert numbers == list(range(1, len(DRAWN)))
    page = (tmp_path / "r" / "index.html").read_text()
    assert "10. Nudges: measured and predicted gain" in page
    warning = page.index(f'<p class="warning">{html.escape(unsound.short, quote=False)[:40]}')
    assert warning < page.index('class="verdict"')
    assert results["finding"].startswith(unsound.short)


def test_a_claim_that_few_seeds_leave_open_says_so(small: Report, tmp_path: Path):
    """Eight seeds whose values lie on both sides of a bound; the same values in many more seeds are enough."""
    parts = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    statement = "The starting noise and the final image are nearly orthogonal."
    for count, middle, spread, verdict in (
        (8, 82.0, 9.0, "too few to say (8 seeds)"),
        (800, 82.0, 9.0, "holds"),
        (8, 82.0, 0.5, "holds"),
        (800, 70.0, 9.0, "does not hold"),
        (800, 78.0, 9.0, "does not hold (just misses)"),
    ):
        values = middle + spread * torch.linspace(-1, 1, count)
        changed = dataclasses.replace(small.geometry, edge_angle=Summary.of(values))
        found = {claim.statement: claim for claim in claims.judge(parts | {"geometry": changed})}[statement]
        assert found.verdict == verdict
        assert found.open == verdict.startswith("too few")
    assert found.interval is not None
    assert found.interval[0] < 78 < found.interval[1] < 80
    report_of_few = dataclasses.replace(small, claims=(dataclasses.replace(found, verdict="too few to say (8 seeds)"),))
    write_report(report_of_few, tmp_path / "r", silent)
    assert '<td class="open">too few to say (8 seeds)</td>' in (tmp_path / "r" / "index.html").read_text()
    assert claims.count_verdicts(report_of_few.claims) == (
        "0 of 1 claims hold, for 1 there are too few seeds or samples to say"
    )


def test_every_claim_has_an_interval_and_a_verdict(small: Report):
    for claim in small.claims:
        assert claim.interval is not None
        assert claim.interval[0] <= claim.value <= claim.interval[1]
        word = claim.verdict.split(" (")[0]
        assert word in ("holds", "does not hold", "too few to say")
        assert claim.open or (word == "holds") == claim.holds
    assert any(claim.open and "(8 seeds)" in claim.verdict for claim in small.claims)


def test_a_change_that_depends_on_which_samples_are_left_out_has_too_few_of_them(small: Report) -> None:
    """Whatever the network: the Fréchet distances with one group left out are moved apart by a tenth."""
    part = small.frechet
    assert part is not None
    turned = torch.where(torch.arange(len(part.saved_left_out)) % 2 == 0, 0.9, 1.1).unsqueeze(1)
    apart = part.saved_left_out * torch.where(torch.tensor(part.skip) == 0, 1.0, turned)
    (claim,) = claims._frechet(dataclasses.replace(part, saved_left_out=apart))
    assert claim.open
    assert claim.verdict == "too few to say (8 samples)"


def test_sections_that_are_left_out_say_why(small: Report, tmp_path: Path):
    assert set(small.left_out) == {"what is decided when", "three regimes along the noise", "prompts and guidance"}
    settings = Settings(seeds=tuple(range(8)), steps=12)
    more = calls_of_regimes(settings, small.subject)
    said = f"they take about {more:,} more calls of the network for one image; ask for them with --regimes"
    assert small.left_out["three regimes along the noise"] == said
    write_report(small, tmp_path / "r", silent)
    assert "<li>what is decided when: nothing in the box finds" in (tmp_path / "r" / "index.html").read_text()
    subject = dataclasses.replace(small.subject, features=None)
    parts = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)} | {"frechet": None}
    assert "no features for these data" in left_out(settings, subject, parts)["Fréchet distances"]


def test_regimes_are_shown_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the report's own run, of images that are held out for them; kept like other sections; their calls counted."""
    what, held = analytic.subject(), []

    def load(*given: Any, held_out: int, **options: Any) -> Any:
        held.append(held_out)
        return what

    monkeypatch.setattr(build, "load_model_and_data", load)
    settings = Settings(Sources(what.model), seeds=tuple(range(8)), steps=12, regimes=True)
    made = report(settings)
    assert held == [64]
    expected = measure_regimes(what, made.trajectory, range(8))
    assert made.regimes is not None
    assert made.regimes.finding == expected.finding
    assert torch.equal(made.regimes.speciation.share, expected.speciation.share)
    assert "three regimes along the noise" not in made.left_out
    plain = dataclasses.replace(settings, regimes=False)
    more = [build.calls_of_report(one, what, 1) for one in (plain, settings)]
    assert more[1] - more[0] == calls_of_regimes(settings, what) > 0
    monkeypatch.setattr(report_page, "REPORT_FIGURES", [plate for plate in REPORT_FIGURES if plate.name == "regimes"])
    results = write_report(made, tmp_path / "r", silent)
    (plate,) = results["plates"]
    assert expected.finding in plate["caption"]
    assert (tmp_path / "r" / "figures" / "regimes.png").stat().st_size > 5000
    assert results["regimes"]["setup"]["held_out"] == "60 others"
    back = unpack(*pack(made.regimes), build._KEPT)
    assert back.finding == expected.finding
    assert torch.equal(back.strips["another"], made.regimes.strips["another"])


def test_the_command_asks_for_regimes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def stop(settings: Settings, *given: Any) -> None:
        seen.append(settings.regimes)
        raise ValueError("enough")

    monkeypatch.setattr(build, "report", stop)
    for option in ([], ["--regimes"]):
        CliRunner().invoke(app, ["report", "--quiet", "-o", str(tmp_path / "r"), *option])
    assert seen == [False, True]


def test_regimes_of_a_class_stand_beside_those_of_no_class() -> None:
    """The collapse is that of the data, and is measured once."""
    rows, labels = analytic.data()
    known = {0: Gaussian.isotropic(rows[labels == 0].mean(0), 1e-3), None: Gaussian.fit(rows)}
    asked = dataclasses.replace(analytic.subject(known), case=Conditioning(0))
    settings = Settings(seeds=tuple(range(8)), steps=12, regimes=True)
    run = asked.sample(asked.denoise, settings.seeds, asked.model.schedule.grid(12), euler)
    found = regimes_of(asked, run, settings, silent)
    assert found.speciation.chance == 1  # all are of one class from the start
    assert found.finding.startswith("Classes are decided above all of the levels looked at (predicted: ")
    plain = build._plain(asked, settings, make_only, silent, found)["regimes"]
    assert plain.collapse is found.collapse
    assert plain.speciation.chance < 1


NETWORK = """
import torch
import underpaint as up

TRUTH = up.Gaussian(torch.full((64,), 0.2), up.Covariance(torch.tensor([0.5, 0.2, 0.1]), torch.eye(64)[:, :3], 1e-3))

def told(x, sigma):
    return TRUTH(x.flatten(1), up.EDM()(sigma.double())).reshape(x.shape)

def model():
    return up.wrap(told, shape=(1, 8, 8), schedule=up.EDM(), prediction="x0", name="known")
"""


def test_own_samples_stand_for_data_that_are_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are of other seeds than the report's, and nothing is claimed of training data."""
    (tmp_path / "known_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = report(Settings(Sources("known_network:model", samples=40), seeds=tuple(range(8)), steps=12, regimes=True))
    model = made.subject.model
    level = model.schedule.grid(25)
    expected = sample(model, initial_noise(range(8, 48), 64, level[0]), level, dpmpp_2m).final
    assert_close(made.subject.rows, expected, rtol=0, atol=1e-5)
    assert made.setup["data"] == "samples of known, seeds 8 to 47, 25 steps of dpmpp-2m, in the place of data"
    assert (made.setup["place"], made.setup["own_samples"]) == ("known_network:model", 40)
    said = {claim.statement for claim in made.claims}
    assert len(said) == 13
    assert not any("training" in statement for statement in said)
    assert made.left_out["claims on the training data"] == "samples of the model stand for them"
    assert made.left_out["three regimes along the noise"].startswith("samples of the model stand for the data")
    write_report(made, tmp_path / "r", silent)
    for wrong, why in (({"samples": 19}, "20 to"), ({"samples": 40, "data": "a"}, "not both")):
        with pytest.raises(ValueError, match=why):
            Sources("known_network:model", **wrong)


def test_data_that_do_not_vary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "known_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "flat.npy", np.full((8, 8, 8), 100, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"the rank-0 Gaussian of 8 images of flat.npy has none; give data that vary"):
        report(Settings(Sources("known_network:model", data=str(tmp_path / "flat.npy"))))


def test_without_a_feature_space_the_rest_is_still_there(small: Report, tmp_path: Path):
    bare = dataclasses.replace(small, frechet=None)
    results = write_report(bare, tmp_path / "bare", silent)
    assert results["frechet"] is None
    assert not (tmp_path / "bare" / "figures" / "frechet.png").exists()


def test_a_failed_write_leaves_the_old_report(small: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "index.html").write_text("old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(small, tmp_path / "r", silent)
    assert (tmp_path / "r" / "index.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_few_own_samples_explain_nothing_and_the_page_says_so(small: Report):
    """A share below 0 is no number to read: of fewer samples than they have numbers, the page says what would help."""
    few = dataclasses.replace(small.subject, rows=small.subject.rows[:100], own=True, fitted=True)
    shares = {name: torch.full_like(part, -0.057) for name, part in small.agreement.shares.items()}
    part = dataclasses.replace(small.agreement, shares=shares)
    numbers = summary(dataclasses.replace(small, subject=few, agreement=part))["numbers"]
    assert (
        "the Gaussian explains nothing of the denoised image at σ/α ≥ 10 (it is fitted to 100 images of 784" in numbers
    )
    assert "which are too few; a larger --samples may explain more)" in numbers
    assert "%" not in numbers.partition("Gaussian")[2]
    assert "too few" not in summary(small)["numbers"]
    assert [explains(share) for share in (0.9214, 0.0004, -0.0004)] == ["explains 92.1 %", *["explains nothing"] * 2]
    assert nothing(torch.tensor([-0.2, 0.1])) != "" == nothing(torch.tensor([0.2]))


def test_frechet_distances_can_be_left_out(small: Report):
    subject, settings = small.subject, Settings(seeds=tuple(range(8)), steps=12, samples=0)
    assert measure_frechet(subject, 0, False, silent) is None
    assert "Fréchet" not in words_on_calls(settings, subject, 1)
    asked = words_on_calls(dataclasses.replace(settings, samples=30), subject, 1)
    assert "3,240 of them for Fréchet distances of 30 samples each (--frechet changes that number)" in asked
    parts = {"frechet": None, "decided": None, "conditions": None, "regimes": None, "hybrid": small.hybrid}
    assert left_out(settings, subject, parts)["Fréchet distances"] == "none were asked for"


def test_settings_are_checked():
    for options, words in (
        ({"seeds": (1, 2)}, "at least 8 seeds"),
        ({"seeds": (1,) * 9}, "differ"),
        ({"steps": 5}, "at least 12 steps"),
        ({"samples": 1}, "at least 2 samples, or 0"),
        ({"samples": 0, "respent": True}, r"spent again for Fréchet distances \(--full\); leave that out"),
        ({"solver": "x"}, "Unknown solver"),
    ):
        with pytest.raises(ValueError, match=words):
            Settings(**options)


def test_json_has_no_nan():
    assert to_json({"a": float("nan"), "b": torch.tensor([1.0, float("inf")])}) == {"a": None, "b": [1.0, None]}
    assert to_json(DDPM()(0.0))["alpha"] == pytest.approx((1 - 1e-4) ** 0.5)


def test_conditions_are_compared_from_the_same_noise(small: Report):
    subject, settings = small.subject, Settings(seeds=tuple(range(8)), steps=12)
    listed = [Conditioning(), Conditioning(1), Conditioning(1, 3.0)]
    part = compare_cases(subject, listed, settings, silent)
    assert part is not None
    assert part.cases == ("unconditional", "class 1", "class 1, guidance 3")
    assert part.nfe == (12, 12, 24)
    torch.testing.assert_close(part.finals[0], small.trajectory.final[:8], rtol=1e-4, atol=1e-4)
    # trousers are what class 1 is: guided samples come nearer to the mean of the class than unconditional ones
    trousers = subject.rows[subject.data.labels == 1].mean(0)
    distance = (part.finals - trousers).norm(dim=2).mean(1)
    assert distance[0] > distance[1]
    assert compare_cases(subject, [Conditioning()], settings, silent) is None
    compared = dataclasses.replace(small, conditions=part)
    for plate in REPORT_FIGURES:
        if plate.name in ("case-samples", "case-geometry"):
            assert plate.draw(compared) is not None
            assert "principal components" in plate.caption(compared) or "guidance" in plate.caption(compared)
    for plate in REPORT_FIGURES:
        if figure := plate.draw(compared):
            assert overlapping_titles(figure) == [], plate.name


def overlapping_titles(figure: Figure) -> list[tuple[str, str]]:
    figure.canvas.draw()
    names = {axes.get_title(place) for axes in figure.axes for place in ("left", "center", "right")} - {""}
    titles = [text for text in figure.findobj(Text) if text.get_text() in names]
    return [
        (one.get_text(), other.get_text())
        for one, other in combinations(titles, 2)
        if one.get_window_extent().overlaps(other.get_window_extent())
    ]


def test_clusters_are_never_lonely():
    rows = torch.cat([torch.zeros(30, 4), torch.ones(30, 4), torch.full((1, 4), 50.0)])
    labels = cluster(rows, 3)
    assert torch.bincount(labels)[labels.unique()].min() >= 2


def test_components_are_spread_and_distinct():
    chosen = spread_components(784)
    assert chosen[0] == 0
    assert chosen[-1] == 260
    assert len(chosen.unique()) == len(chosen) == 6
    assert spread_components(3).max() < 3


def test_half_of_a_feature_may_be_there_from_the_start():
    """No caption says "nan": a share that starts above one half never rises through it."""
    assert [half_words(ratio) for ratio in (2.4321, float("nan"))] == ["2.4", "the start"]


def test_the_legend_of_angles_stands_over_no_line(small: Report):
    """Whichever side of the panel the Gaussian's own angle is on."""
    (plate,) = (plate for plate in REPORT_FIGURES if plate.name == "geometry")
    figure = plate.draw(small)
    figure.canvas.draw()
    panel = next(axes for axes in figure.axes if axes.get_xlabel() == "degrees")
    legend = panel.get_legend().get_window_extent()
    tops = [part.get_window_extent().y1 for part in (*panel.lines, *panel.patches)]
    assert len(tops) == 18
    assert max(tops) <= legend.y0
    assert all(tick == round(tick) for tick in panel.get_yticks())
