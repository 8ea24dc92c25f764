"""The explorer without a browser: what the server lets in, what it shows, and what it keeps to itself."""

from __future__ import annotations

import base64
import contextvars
import io
import itertools
import json
import re
import runpy
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from contrast import contrast
from matplotlib.figure import Figure
from PIL import Image
from tiny import tiny_ddpm, tiny_stable_diffusion
from typer.testing import CliRunner

import underpaint.web.server_state
from underpaint import assets
from underpaint.analysis.summary import Summary
from underpaint.cli import app
from underpaint.data.store import load_gaussian, save_gaussian
from underpaint.figures.style import COLOURS
from underpaint.noise import DDPM, preserving
from underpaint.progress import silent
from underpaint.recipes.explorer.painting import Curves
from underpaint.recipes.explorer.steady import moved_by_other_noise
from underpaint.recipes.explorer.teleport import PLAN, SolverComparison
from underpaint.recipes.shared.request import Conditioning, Request, Sampler
from underpaint.recipes.shared.results import to_json
from underpaint.sampling.fitted import Calibration, Plan, fingerprint, write_calibration
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.gaussian import Gaussian
from underpaint.web import show
from underpaint.web.checks import Read, condition, seed
from underpaint.web.script import constructor
from underpaint.web.server_state import (
    MADE_PLAN,
    NO_PLAN,
    STEADY_SEEDS,
    STEADY_STEPS,
    TELL_SECONDS,
    ServerState,
    Stopped,
    watched,
)
from underpaint.web.show import Answer
from underpaint.web.tabs import TABS, ask
from underpaint.web.tabs.fewer_calls import heun_words, opens_at
from underpaint.web.tabs.painting import OWN
from underpaint.web.tour import TOUR
from underpaint.web.turns import MAX_WAITING

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra web (gradio) is not installed")

#: Every control of the page, as a visitor of a small model might leave it.
VALUES: dict[str, Any] = {
    "model": "tiny", "prompt": "", "label": "any", "seed": 3, "steps": 6, "guidance": 1, "solver": "ddim",
    "schedule": OWN, "variance": 0.0, "at": 0.5, "seeds": 2, "tolerance": 0.1, "calls": 4, "landing": 0.5,
    "levels": "the model's own", "direction": "data", "number": 1, "magnitude": 4, "from": 0.0, "to": 0.5,
    "across": "path of the estimate", "across number": 1, "down": "random", "down number": 2, "enter": 0.5,
    "span": 0.3, "points": 3, "toward": "", "neighbours": 2, "other seed": 8, "other end": "", "path": "arc of noise",
    "pictures": 5, "plan": NO_PLAN,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a model of 8 x 8 colour pictures, statistics of its data, and the data."""
    place = tmp_path_factory.mktemp("models")
    tiny_ddpm(place / "tiny")
    generator = numpy.random.default_rng(0)
    numpy.save(place / "data.npy", generator.integers(0, 255, (40, 8, 8, 3), dtype=numpy.uint8))
    (place / "tiny" / "underpaint.json").write_text(json.dumps({"name": "tiny", "data": str(place / "data.npy")}))
    rows = torch.randn(400, 192, generator=torch.Generator().manual_seed(0))
    save_gaussian(place / "stats.safetensors", Gaussian.fit(rows * torch.linspace(2, 0.1, 192)))
    return place


@pytest.fixture(scope="module")
def server_state(place: Path) -> ServerState:
    return ServerState((str(place / "tiny"),), (str(place / "stats.safetensors"),))


@pytest.fixture(scope="module")
def answers(server_state: ServerState) -> dict[str, Answer]:
    """What each tab says to these controls."""
    return {name: ask(name, server_state, VALUES, silent) for name in TABS}


def test_a_network_that_is_no_denoiser_is_told_in_words(
    server_state: ServerState, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model was never trained. It is checked once, and a model of the box not at all."""
    monkeypatch.setattr(underpaint.web.server_state, "check_case", None)
    (said,) = server_state.doubts("tiny", silent)
    assert answers["Paint"].view["words"][0] == said
    assert said.startswith(
        "tiny is no denoiser of its stated schedule, and numbers about it describe no diffusion model"
    )
    assert server_state.doubts("fashion-mnist", silent) == []


def test_words_that_a_model_does_not_know_are_told_on_every_tab(tmp_path: Path) -> None:
    tiny_stable_diffusion(tmp_path / "painter")
    state = ServerState((str(tmp_path / "painter"),))
    asked = VALUES | {"model": "painter", "steps": 4, "prompt": "a zebra", "other end": "a red fox"}
    told = "painter does not know the word {!r}: its tokenizer has it only in pieces"
    with pytest.warns(UserWarning, match="does not know the word"):
        words = ask("Morph", state, asked, silent).view["words"]
    assert [line.startswith(told.format(word)) for line, word in zip(words, ("zebra", "fox"), strict=False)] == [
        True
    ] * 2
    known = ask("Morph", state, asked | {"prompt": "a bear", "other end": "red"}, silent).view["words"]
    assert not any("does not know" in line for line in known)


def pictures(view: Any) -> torch.Tensor:
    """A sheet's pixels [H, W, C], bytes."""
    kind, _, content = view["src"].partition(";base64,")
    assert kind == "data:image/png"
    return torch.from_numpy(numpy.array(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")))


def content(link: dict[str, str]) -> bytes:
    return base64.b64decode(link["href"].partition(",")[2])


# ---- what is let in -------------------------------------------------------------------------------------------------
def test_the_page_starts_with_what_was_given_and_offers_the_box(server_state: ServerState):
    assert server_state.first == "tiny"
    assert set(server_state.places) == {"tiny", *assets.names()}
    boxed = ServerState()
    assert boxed.first == "fashion-mnist"  # where theory and network agree
    assert ServerState(("fashion-mnist",)).first == "fashion-mnist"


def test_folders_of_one_name_are_told_apart(place: Path, tmp_path: Path):
    (tmp_path / "tiny").mkdir()
    assert list(ServerState((str(place / "tiny"), str(tmp_path / "tiny"))).places)[:2] == ["tiny (1)", "tiny (2)"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((("nowhere",),), "There is no model 'nowhere'"),
        (((), ("a",)), "1 files of statistics for 0 models"),
        ((("fashion-mnist",), ("nowhere.safetensors",)), "There is no file nowhere.safetensors"),
        (((), (), None, None, ("a",)), "1 files of calibrated plans for 0 models"),
        ((("fashion-mnist",), (), None, None, ("nowhere.json",)), "nowhere.json"),
    ],
)
def test_the_desk_says_what_is_missing(arguments, words: str):
    with pytest.raises(ValueError, match=words):
        ServerState(*arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "/etc/passwd"}, "There is no model '/etc/passwd' on this page"),
        ({"model": "../tiny"}, "There is no model"),
        ({"model": None}, "There is no model None"),
        ({"model": ["tiny"]}, "There is no model"),
        ({"seed": -1}, "The seed must be a whole number from 0"),
        ({"seed": 2**40}, "The seed must be a whole number from 0"),
        ({"seed": 1.5}, "The seed must be a whole number"),
        ({"seed": None}, "The seed must be a whole number, such as 0, and is empty"),
        ({"seed": "7"}, "The seed must be a whole number"),
        ({"seed": True}, "The seed must be a whole number"),
        ({"steps": 10**6}, "The number of steps must be a whole number from 4 to 100"),
        ({"steps": float("nan")}, "The number of steps must be a whole number"),
        ({"solver": "magic"}, "Unknown solver 'magic'"),
        ({"solver": {}}, "Unknown solver"),
    ],
)
def test_questions_out_of_bounds_are_refused_whatever_the_page_lets_through(
    server_state: ServerState, change, words: str
):
    with pytest.raises(ValueError, match=words):
        server_state.request(VALUES | change)


@pytest.mark.parametrize(
    ("tab", "change", "words"),
    [
        ("Theory", {"schedule": "magic"}, "The schedule must be one of"),
        ("Theory", {"variance": 1e9}, "The power of ten of λ must be a number from -6 to 6"),
        ("Theory", {"at": 2}, "The time must be a number from 0 to 1"),
        ("Teleport", {"seeds": 9}, "The number of seeds must be a whole number from 1 to 8"),
        ("Teleport", {"tolerance": 0}, "The allowed error must be"),
        ("Solvers", {"calls": 1000}, "The number of calls must be"),
        ("Solvers", {"levels": "magic"}, "The levels must be one of even in log σ/α, the model's own"),
        ("Solvers", {"plan": "/etc/passwd"}, "The plan must be one of none, made of the data"),
        ("Perturb", {"direction": "/etc/passwd.safetensors"}, "The direction must be one of"),
        ("Perturb", {"number": 99}, "The number of the direction must be"),
        ("Perturb", {"to": 7}, "The share of the way must be"),
        ("Perturb", {"magnitude": float("inf")}, "The magnitude must be"),
        ("Map", {"points": 99}, "The number of points must be"),
        ("Map", {"span": -1}, "The span must be"),
        ("Morph", {"path": "curvy"}, "The path must be one of arc of noise, minimum-energy path, principal curve"),
        ("Morph", {"pictures": 99}, "The number of pictures must be a whole number from 3 to 15"),
        ("Morph", {"other seed": 3}, "A path needs two pictures"),
        ("Morph", {"other seed": -1}, "The other seed must be"),
        ("Morph", {"other seed": None}, "The other seed must be a whole number, such as 0, and is empty"),
        ("Retrieve", {"neighbours": 0}, "The number of neighbours must be"),
    ],
)
def test_each_tab_checks_its_own_controls(server_state: ServerState, tab: str, change, words: str):
    with pytest.raises(ValueError, match=words):
        TABS[tab](server_state, VALUES | change, silent)


def test_a_question_names_files_without_their_folders(server_state: ServerState, place: Path):
    request, sampler = server_state.request(VALUES, seeds=3)
    assert request == Request("tiny", seeds=(3, 4, 5), steps=6, statistics=("stats.safetensors",))
    assert sampler.theory.everything is not None
    assert str(place) not in constructor(request)


class Labelled:
    name, embed, classes = "labelled", None, 4


class Prompted:
    name, embed, classes = "prompted", str.upper, 0


def test_conditions_are_what_the_model_takes():
    assert [condition(value, Labelled) for value in ("any", "", None, "2", 2)] == [None, None, None, 2, 2]
    assert condition("  a red \n apple ", Prompted) == "a red apple"
    for value, words in (("4", "from 0 to 3"), ("a dog", "is a number from 0 to 3"), ("9" * 50, "from 0 to 3")):
        with pytest.raises(ValueError, match=words):
            condition(value, Labelled)
    for value in ("x" * 301, "an apple\0"):
        with pytest.raises(ValueError, match=f"text of at most 300 characters, got {len(value)}: '{value[:2]}"):
            condition(value, Prompted)


def test_models_are_loaded_once_and_prompts_are_not_shared(server_state: ServerState):
    first, second = server_state.model("tiny"), server_state.model("tiny")
    assert first.network is second.network
    assert first._prompts is not second._prompts


def test_a_failure_is_not_kept():
    server_state, calls = ServerState(), []

    def make() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not yet")
        return 7

    with pytest.raises(ValueError, match="not yet"):
        server_state.keep(("x", "y"), make)
    assert [server_state.keep(("x", "y"), make) for _ in range(2)] == [7, 7]
    assert len(calls) == 2


# ---- runs -----------------------------------------------------------------------------------------------------------
def test_stopping_ends_ones_own_run_at_its_next_step():
    server_state, told = ServerState(), []
    with (
        server_state.run("anna", "Paint") as hers,
        server_state.run("ben", "Paint") as his,
        server_state.run("anna", "Map") as other,
    ):
        advance = watched(hers, lambda *news: told.append(news))("sampling", 3)
        advance()
        server_state.stop("anna", "Paint")
        with pytest.raises(Stopped):
            advance()
        assert told == [(1, 3, "sampling")]
        assert not his.is_set()
        assert not other.is_set()
        server_state.stop("anna")
        assert other.is_set()
        assert not his.is_set()
    server_state.stop("anna")  # nothing is left to stop


def test_progress_is_told_a_few_times_a_second_and_at_the_end():
    told: list[tuple[int, int, str]] = []
    advance = watched(threading.Event(), lambda *news: told.append(news))("sampling", 200)
    start = time.monotonic()
    for _ in range(200):
        time.sleep(0.004)
        advance()
    most = (time.monotonic() - start) / TELL_SECONDS + 2
    assert 3 <= len(told) <= most
    assert told[0] == (1, 200, "sampling")
    assert told[-1] == (200, 200, "sampling")


def test_all_long_work_is_done_in_one_thread_and_knows_who_asked():
    server_state, asked = ServerState(), contextvars.ContextVar("asked")

    def visit(name: str) -> tuple[str, int]:
        asked.set(name)
        return server_state.work(lambda: (asked.get(), threading.get_ident()))

    with ThreadPoolExecutor(4) as visitors:
        answers = list(visitors.map(visit, "abcdefgh"))
    assert [name for name, _ in answers] == list("abcdefgh")
    assert len({thread for _, thread in answers}) == 1
    with pytest.raises(ZeroDivisionError):
        server_state.work(lambda: 1 / 0)


def flooded(state: ServerState, asked: list[str], held: threading.Event) -> tuple[ThreadPoolExecutor, list[Any]]:
    """Requests of the visitors ``asked``, one after the other, behind one of anna's that runs until ``held`` is set."""
    visitors, order, began = ThreadPoolExecutor(len(asked) + 2), [], threading.Event()

    def run(visitor: str) -> None:
        order.append(visitor)
        began.set()
        held.wait()

    visitors.submit(state.work, lambda: run("anna"), "anna")
    assert began.wait(10)
    for count, visitor in enumerate(asked, 1):
        visitors.submit(state.work, lambda visitor=visitor: run(visitor), visitor)
        while sum(map(len, state._long._waiting.values())) < count:
            time.sleep(0.001)
    return visitors, order


def test_a_flood_of_one_visitor_does_not_delay_the_next():
    """Whoever comes new is served after the run that is on its way, and then they take turns."""
    held = threading.Event()
    visitors, order = flooded(ServerState(), ["anna"] * MAX_WAITING + ["ben", "ben", "cleo"], held)
    held.set()
    visitors.shutdown()
    assert order[:6] == ["anna", "ben", "cleo", "anna", "ben", "anna"]
    assert order[6:] == ["anna"] * (MAX_WAITING - 2)


def test_what_waits_of_one_visitor_is_bounded_and_leaves_when_it_is_stopped():
    state, held = ServerState(), threading.Event()
    visitors, order = flooded(state, ["anna"] * MAX_WAITING, held)
    with pytest.raises(ValueError, match=f"{MAX_WAITING} requests of yours wait already"):
        state.work(lambda: None, "anna")
    with state.run("ben", "Paint") as stopped:
        his = visitors.submit(state.work, lambda: order.append("ben"), "ben", stopped)
        while "ben" not in state._long._waiting:
            time.sleep(0.001)
        state.stop("ben")
        with pytest.raises(Stopped):  # at once, while anna's still runs
            his.result(10)
    assert not state.close(0.0)  # those that wait are let go, and only the one that runs ends
    held.set()
    visitors.shutdown()
    assert order == ["anna"]
    with pytest.raises(Stopped):
        state.work(lambda: None, "anna")


def test_asking_again_ends_the_run_before():
    server_state = ServerState()
    with server_state.run("anna", "Paint") as first, server_state.run("anna", "Paint") as second:
        assert first.is_set()
        assert not second.is_set()


def test_stopped_work_ends_inside_the_recipe(server_state: ServerState):
    stopped = threading.Event()

    def tell(done: int, total: int, what: str) -> None:
        if done == 1:
            stopped.set()

    for tab in ("Paint", "Teleport", "Solvers", "Perturb", "Map", "Morph", "Retrieve"):
        stopped.clear()
        with pytest.raises(Stopped):
            TABS[tab](server_state, VALUES, watched(stopped, tell))


# ---- what is shown --------------------------------------------------------------------------------------------------
def test_a_sheet_has_every_picture_at_its_place():
    images = torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    view = show.sheet(images)
    shown = pictures(view)
    assert (view["rows"], view["columns"], view["aspect"]) == (2, 3, 5 / 4)
    assert shown.shape == (8, 15, 3)
    assert torch.equal(shown[4:8, 5:10], (images[1, 1] * 255).round().byte().permute(1, 2, 0))


def test_grey_and_large_pictures():
    large = show.sheet(torch.linspace(0, 1, 512).expand(1, 1, 1, 256, 512))
    shown = pictures(large)
    assert shown.shape == (64, 128, 3)
    assert large["aspect"] == 2
    assert shown[:, 0].max() <= 1
    assert shown[:, -1].min() >= 254


def test_lines_are_short_and_say_where_there_is_nothing():
    line = show.line("x", torch.tensor([[1 / 3, float("inf")], [2.0, 1e-9]]), "red")
    assert line["points"] == [[0.33333, None], [2.0, 1e-9]]


def test_each_tab_answers_in_json_types(answers: dict[str, Answer]):
    for name, answer in answers.items():
        view = answer.view
        assert json.loads(json.dumps(view, allow_nan=False)) == view
        assert all(isinstance(words, str) and words for words in view["words"])
        assert {"film", "grids", "charts"} & view.keys(), name


#: Controls that every tab's answer depends on, for a model without prompts and classes, but for Theory's.
SUBJECT = {"model", "label", "seed", "steps", "solver"}


@pytest.mark.parametrize(
    ("tab", "settings"),
    [
        ("Paint", SUBJECT),
        ("Theory", {"model", "schedule", "variance", "at"}),
        ("Features", SUBJECT),
        ("Teleport", SUBJECT | {"seeds", "tolerance"}),
        ("Solvers", SUBJECT | {"seeds", "calls", "landing", "levels", "plan"}),
        ("Perturb", SUBJECT | {"direction", "number", "magnitude", "from", "to"}),
        ("Map", SUBJECT | {"across", "across number", "down", "down number", "enter", "span", "points", "toward"}),
        ("Morph", SUBJECT | {"other seed", "other end", "path", "pictures"}),
        ("Retrieve", SUBJECT | {"neighbours"}),
    ],
)
def test_an_answer_knows_the_settings_that_it_belongs_to(answers: dict[str, Answer], tab: str, settings: set[str]):
    """Those that were read for it, with their values; guidance is none of them where there is nothing to guide to."""
    assert answers[tab].view["settings"] == {name: VALUES[name] for name in settings}


def test_the_files_of_an_answer_belong_to_its_settings(answers: dict[str, Answer]):
    assert answers["Features"].files()["settings"] == answers["Features"].view["settings"]


def test_guidance_belongs_to_an_answer_for_a_class_alone():
    state, values = ServerState(), VALUES | {"model": "fashion-mnist", "guidance": 3}
    for label, more in (("any", set()), ("7", {"guidance"})):
        state.request(read := Read(values | {"label": label}))
        assert read.settings.keys() == SUBJECT | more


def test_controls_remember_what_was_read():
    read = Read({"seed": 3, "steps": 12, "toward": ""})
    assert (read["seed"], read.get("toward"), read.get("nothing"), len(read)) == (3, "", None, 3)
    assert list(read) == ["seed", "steps", "toward"]
    assert read.settings == {"seed": 3, "toward": ""}


def test_the_film_of_a_painting(answers: dict[str, Answer]):
    film = answers["Paint"].view["film"]
    assert [frame["name"] for frame in film["frames"]] == [
        "state xₜ: picture and noise",
        "change Δx in this step, stretched",
        "network's estimate x̂₀ of the finished picture",
        "the Gaussian's estimate, from the same noise",
    ]  # fmt: skip
    assert all(frame["columns"] == 7 for frame in film["frames"])
    assert len(film["captions"]) == 7
    assert film["captions"][-1] == "step 6 of 6, σ/α = 0"
    assert [len(line["points"]) for line in film["chart"]["lines"]] == [7, 7, 7]
    assert [len(film["bars"][kind]) for kind in ("measured", "predicted")] == [7, 7]
    assert film["bars"]["measured"][-1] == [1.0] * len(film["bars"]["names"])
    # state and estimate end in the same picture
    last = [pictures(film["frames"][k])[:, -8:] for k in (0, 2)]
    assert torch.equal(*last)


def test_the_film_of_jumps(answers: dict[str, Answer]):
    film = answers["Teleport"].view["film"]
    assert film["split"] == 2
    assert [frame["columns"] for frame in film["frames"]] == [1, 1, 6, 6]
    assert torch.equal(pictures(film["frames"][0]), pictures(film["frames"][2])[:, :8])  # no skip is plain sampling
    assert "0 steps skipped, 6 calls instead of 6 (0 saved); error predicted 0, measured 0" in film["captions"][0]
    assert "5 steps skipped, 1 calls instead of 6 (5 saved)" in film["captions"][-1]


def test_the_film_of_jumps_opens_where_something_is_to_be_seen():
    def opens(advised: int, *errors: float) -> int:
        measured = Summary.of(torch.tensor(errors).unsqueeze(1))
        return opens_at(SimpleNamespace(skip=(0, 2, 4, 6), advised=advised, measured=measured))

    assert opens(4, 0, 0.1, 0.2, 2.0) == 2
    assert opens(0, 0, 0.5, 1.0, 2.0) == 2  # the first that is another picture
    assert opens(0, 0, 0.1, 0.2, 0.3) == 3
    assert opens(0, 0.4, 0.7, 0.8, 1.1) == 1  # not the last one, which is hardly the network's picture


def test_heun_is_explained_where_its_steps_are_too_long():
    """Half of 157/3.97 - 1 is 19.3: what an error of the denoised picture is multiplied by."""
    level = preserving(torch.tensor([157.0, 3.97, 0.1, 0.0]))
    assert heun_words(0.9, level) == []
    assert "multiplied by up to 19 (" in heun_words(2.5, level)[0]


def test_the_film_of_a_path_is_beside_the_straight_line(answers: dict[str, Answer]):
    """Both begin and end with the two samples; the dots of the chart are what the network takes away."""
    answer, film = answers["Morph"], answers["Morph"].view["film"]
    assert [frame["name"] for frame in film["frames"]] == ["straight line", "arc of noise"]
    assert (film["split"], len(film["captions"]), film["captions"][2]) == (2, 5, "picture 3 of 5: 50% of the way")
    straight, path = (pictures(frame).float() for frame in film["frames"])
    assert torch.equal(straight[:, :8], path[:, :8])
    assert torch.equal(straight[:, -8:], path[:, -8:])
    for shown, found in zip((straight, path), answer.result.pictures, strict=True):
        assert torch.equal(shown, pictures(show.sheet(found.unsqueeze(0))).float())
    assert not torch.equal(straight, path)
    lines = film["chart"]["lines"]
    assert [line["name"] for line in lines] == ["straight line", "arc of noise"]
    assert [point[1] for point in lines[0]["points"]] == pytest.approx(answer.result.residual[0].tolist(), rel=1e-4)
    assert answer.result.log_prob is None


def test_grids_have_a_caption_for_every_picture(answers: dict[str, Answer]):
    for tab, shape in (("Features", (2, 9)), ("Solvers", (6, 2)), ("Perturb", (4, 7)), ("Map", (3, 3))):
        grid = answers[tab].view["grids"][0]
        assert (grid["rows"], grid["columns"]) == shape
        assert (len(grid["rowNames"]), len(grid["columnNames"])) == shape
        assert [len(row) for row in grid["captions"]] == [shape[1]] * shape[0]
        assert pictures(grid).shape == (8 * shape[0], 8 * shape[1], 3)


def test_neighbours_are_the_data_themselves(answers: dict[str, Answer], place: Path):
    answer, data = answers["Retrieve"], numpy.load(place / "data.npy")
    grid = answer.view["grids"][0]
    nearest = int(answer.result.index[-1, 0])
    assert torch.equal(pictures(grid)[8:16, -8:], torch.from_numpy(data[nearest]))
    assert f"Training image {nearest}," in grid["captions"][1][-1]


def test_a_calibration_that_was_given_is_among_the_solvers(place: Path, tmp_path: Path):
    """Its pictures are those of its plan, and its distance stands beside the others'."""
    statistics = str(place / "stats.safetensors")
    gaussian = load_gaussian(statistics)
    made = Plan(DDPM().grid(4), solver="exponential-2c")
    file = tmp_path / "plans.json"
    write_calibration(file, Calibration((made,), {"cases": ["class 3"], "gaussian": fingerprint(gaussian)}))
    state = ServerState((str(place / "tiny"),), (statistics,), calibrations=(str(file),))
    assert state.plans("tiny") == ("plans.json", NO_PLAN, MADE_PLAN)
    assert state.plans("fashion-mnist") == (NO_PLAN, MADE_PLAN)
    values = VALUES | {"plan": "plans.json"}
    answer = TABS["Solvers"](state, values, silent)
    started, jumped = answer.view["grids"]
    assert started["rowNames"][-1] == f"calibrated plan: {show.mean(answer.result.error[PLAN])}"
    assert not any("plan" in name for name in jumped["rowNames"])
    _, sampler = state.request(values, 2)
    start = initial_noise((3, 4), 192, made.level[0])
    final = sample(sampler.model, start, made.level, made.after_jump(gaussian)).final
    torch.testing.assert_close(answer.result.finals[PLAN], sampler.model.images(final))
    assert answer.result.nfe[PLAN] == 4
    assert answer.view["words"][-1] == (
        "The calibrated plan was made for class 3, and here it is run for unconditional."
    )
    assert "plan='plans.json'" in answer.script
    other = TABS["Solvers"](state, values | {"calls": 3}, silent)
    assert other.view["words"][-1].startswith("plans.json has plans of 4 calls")
    assert PLAN not in other.result.error


@pytest.mark.slow
def test_a_plan_is_made_of_the_data_alone_where_none_was_given(server_state: ServerState):
    """Once for each number of calls, without a call of the network; never with guidance."""
    _, sampler = server_state.request(VALUES)
    silenced = replace(sampler, model=replace(sampler.model, network=None))
    plans = server_state.made_plan("tiny", silenced, Conditioning(), 4, silent)
    assert [plan.calls for plan in plans.plans] == [4]
    assert server_state.made_plan("tiny", silenced, Conditioning(), 4, None) is plans
    answer = TABS["Solvers"](server_state, VALUES | {"plan": MADE_PLAN}, silent)
    assert answer.view["grids"][0]["rowNames"][-1].startswith("calibrated plan: ")
    assert "without a call of the network" in answer.view["words"][-1]
    with pytest.raises(ValueError, match="is for a guidance of 1"):
        server_state.made_plan("tiny", sampler, Conditioning(3, 2.0), 4, silent)


def test_theory_is_of_the_data_whatever_is_painted(server_state: ServerState):
    view = TABS["Theory"](server_state, VALUES | {"schedule": "EDM", "variance": 1.0, "prompt": "x" * 999}, silent).view
    assert len(view["charts"]) == 6
    assert "variance λ = 10 is " in view["words"][0]
    assert view["charts"][0]["logX"]
    assert view["charts"][0]["lines"][-1]["name"] == "λ = 10"


@pytest.mark.parametrize("tab", ["Perturb", "Map"])
def test_a_tab_says_what_was_found_as_the_command_does(answers: dict[str, Answer], tab: str):
    answer = answers[tab]
    assert answer.result.finding in " ".join(answer.view["words"])
    assert json.loads(content(answer.files()["downloads"][1]))["finding"] == answer.result.finding


def test_options_are_written_without_their_defaults():
    assert constructor(SolverComparison()) == "SolverComparison()"
    assert eval(
        constructor(SolverComparison(5, 3.0, None)), {"SolverComparison": SolverComparison}
    ) == SolverComparison(5, 3.0, None)
    assert constructor(Curves(None, 2.0)) == "Curves(variance=2.0)"


@pytest.mark.parametrize(
    "tab", ["Features", *(pytest.param(t, marks=pytest.mark.slow) for t in TABS if t != "Features")]
)
def test_downloads_and_the_script_that_makes_them_again(
    answers: dict[str, Answer], place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tab: str
):
    """The script runs by itself, beside the model's folder, and gives the numbers that the page gave."""
    answer = answers[tab]
    picture, numbers, script = answer.files()["downloads"]
    assert [link["name"].partition(".")[2] for link in (picture, numbers, script)] == ["png", "json", "py"]
    assert Image.open(io.BytesIO(content(picture))).width > 300
    given = json.loads(content(numbers))
    assert given == to_json(answer.result)
    for name in ("tiny", "stats.safetensors"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_bytes(content(script))
    runpy.run_path("run.py")
    found = json.loads(Path(answer.name, "results.json").read_text())
    assert Path(answer.name, f"{answer.name}.png").is_file()
    for result in (given, found):  # statistics are told by their path there
        result.get("setup", {}).pop("statistics", None)
    assert found == given


# ---- the server -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def hosts() -> list[str | bytes | None]:
    """Whom this process looked up."""
    return []


@pytest.fixture(scope="module")
def address(server_state: ServerState, hosts: list[Any]) -> Iterator[str]:
    from underpaint.web.server import start

    find_nearest_images = socket.getaddrinfo

    def recorded(host: Any, *more: Any, **named: Any) -> Any:
        hosts.append(host)
        return find_nearest_images(host, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", recorded)
        blocks, address = start(server_state)
        yield address
        blocks.close()


@needs_gradio
def test_the_server_is_at_home_only(address: str, hosts: list[Any]):
    import httpx

    assert set(hosts) <= {"127.0.0.1", "localhost"}

    assert address.startswith("http://127.0.0.1:")
    reply = httpx.get(address)
    assert reply.status_code == 200
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    config = httpx.get(f"{address}config").json()
    assert config["analytics_enabled"] is False
    assert not any(call["api_visibility"] == "public" for call in config["dependencies"])


@needs_gradio
def test_the_browser_hears_of_every_control_that_changes(address: str):
    """Any change hands all values to the page's script, in the order of their names, without asking the server."""
    import httpx

    config = httpx.get(f"{address}config").json()
    (call,) = [c for c in config["dependencies"] if "underpaint-settings" in str(c["js"])]
    labels = json.loads(re.search(r"labels = ({.*?});", call["js"])[1])
    shown = {part["id"]: part["props"].get("label") for part in config["components"]}
    assert set(labels) == set(VALUES)
    assert [shown[part] for part in call["inputs"]] == list(labels.values())
    assert sorted(call["targets"]) == sorted([part, "change"] for part in call["inputs"])
    assert call["backend_fn"] is False


@needs_gradio
def test_every_answer_says_how_to_bring_it_up_to_date(address: str):
    import httpx

    parts = httpx.get(f"{address}config").json()["components"]
    words = {part["props"]["value"] for part in parts if str(part["props"].get("elem_id")).endswith("-run")}
    answers = [part["props"] for part in parts if "again" in part["props"].get("props", {})]
    again = {props["elem_id"]: props["props"]["again"] for props in answers}
    assert set(again) == {f"{tab.lower()}-{part}" for tab in TABS for part in ("view", "files")}
    assert {f"Press “{word}” for the new ones." for word in words} < set(again.values())


@needs_gradio
def test_a_flood_at_the_door_is_taken_in_turns_too(address: str, monkeypatch: pytest.MonkeyPatch):
    """Gradio hands requests on as they come, and turns are taken behind it."""
    import httpx

    config, order, held = httpx.get(f"{address}config").json(), [], threading.Event()
    shown = {part["id"]: part["props"].get("value") for part in config["components"]}
    named = {part["props"].get("elem_id"): part["id"] for part in config["components"]}

    def ask(visitor: str, tab: str) -> None:
        def answered(state: ServerState, values: Any, progress: Any) -> Answer:
            order.append(visitor)
            held.wait(20)
            return Answer("x", {}, None, lambda _: Figure(), "")

        monkeypatch.setitem(TABS, tab, answered)
        (call,) = [c for c in config["dependencies"] if [named[f"{tab.lower()}-run"], "click"] in c["targets"]]
        body = {"fn_index": call["id"], "session_hash": visitor, "data": [shown[part] for part in call["inputs"]]}
        assert httpx.post(f"{address}gradio_api/queue/join", json=body).status_code == 200
        time.sleep(0.1)

    for tab in ("Paint", "Features", "Teleport", "Map"):
        ask("anna", tab)
    ask("ben", "Solvers")
    held.set()
    end = time.monotonic() + 20
    while len(order) < 5 and time.monotonic() < end:
        time.sleep(0.02)
    assert sorted(order) == ["anna"] * 4 + ["ben"]
    assert order.index("ben") == 1


@needs_gradio
@pytest.mark.parametrize("path", ["gradio_api/upload", "gradio_api/upload?upload_id=x", "gradio_api/component_server"])
def test_nothing_is_taken_in(address: str, path: str):
    import httpx

    assert httpx.post(address + path, files={"files": ("x.py", b"print()")}).status_code == 403


@needs_gradio
def test_messages_have_a_length_and_it_is_bounded(address: str):
    import httpx

    door = f"{address}gradio_api/queue/join"
    assert httpx.post(door, content=b"x" * (1 << 19)).status_code == 413
    assert httpx.post(door, content=iter([b"{}"])).status_code == 411
    assert httpx.post(door, json={}).status_code == 422  # let in, and found to be no question


@needs_gradio
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "x.gradio.live", "[::2]:1"]
)
def test_a_page_elsewhere_cannot_speak_to_this_machine_by_a_name_of_its_own(address: str, host: str):
    """DNS rebinding: the browser believes that it is still at that page, and says so in the Host header."""
    import httpx

    from underpaint.web.server import refused

    assert httpx.get(address, headers={"host": host}).status_code == 421
    for home in ("localhost", "localhost:7860", "LOCALHOST:1", "[::1]", "[::1]:7860", "127.0.0.1:7860"):
        assert refused({"path": "/", "method": "GET", "headers": [(b"host", home.encode())]}) is None
    shared = {"path": "/", "method": "GET", "headers": [(b"host", b"x.gradio.live")]}
    assert refused(shared, share=True) is None


def test_leaving_ends_runs_and_does_not_wait_for_what_will_not_end():
    state, release = ServerState(), threading.Event()
    with ThreadPoolExecutor(1) as visitor, state.run("a", "Paint") as stopped:
        visitor.submit(state.work, stopped.wait)
        time.sleep(0.05)
        assert state.close(2.0)
    assert stopped.is_set()
    state = ServerState()
    with ThreadPoolExecutor(1) as visitor:
        visitor.submit(state.work, release.wait)
        time.sleep(0.05)
        began = time.monotonic()
        assert not state.close(0.1)
        assert time.monotonic() - began < 1
        release.set()


@needs_gradio
def test_no_file_is_given_out(address: str, place: Path):
    import httpx

    for path in ("/etc/passwd", place / "tiny" / "model_index.json", place / "data.npy", Path("pyproject.toml")):
        for door in ("gradio_api/file=", "file=", "gradio_api/proxy=file://"):
            reply = httpx.get(f"{address}{door}{path}")
            assert reply.status_code in (403, 404), (door, path)


@needs_gradio
def test_what_goes_wrong_becomes_one_sentence(caplog: pytest.LogCaptureFixture):
    import gradio

    from underpaint.web.page import sentences

    with pytest.raises(gradio.Error, match="&lt;b&gt; is no seed"), sentences():
        raise ValueError("<b> is no seed")
    with pytest.raises(gradio.Error, match="not your doing"), sentences():
        raise RuntimeError("secret")
    assert "secret" in caplog.text


@needs_gradio
def test_the_page_fits_its_controls_to_the_model(server_state: ServerState):
    from underpaint.web.layout import build
    from underpaint.web.page import FITTED, Page

    _, page = build(server_state)
    assert isinstance(page, Page)
    assert set(page.controls) == set(VALUES)
    assert len(page.fitting("tiny")) == len(FITTED)
    assert not any(update.get("visible") for update in page.fitting("tiny"))
    label = page.fitting("fashion-mnist")[1]
    assert page.fitting("fashion-mnist")[2]["value"] == 1  # where theory and network agree
    assert label["visible"]
    assert label["choices"][:3] == ["any", ("0: T-shirt", "0"), ("1: trouser", "1")]
    assert server_state.class_names("tiny") == []


@needs_gradio
def test_the_page_begins_with_a_prompt_that_the_model_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first of its own: another may ask for what it does not know."""
    from underpaint.web.layout import build

    own = {"prompts": ["a blue cup", "two cups"]}
    (tmp_path / "underpaint.json").write_text(json.dumps(own), encoding="utf-8")
    boxed = json.loads((assets.folder("emoji-scenes") / "underpaint.json").read_text(encoding="utf-8"))
    for place, named in ((str(tmp_path), own["prompts"]), ("emoji-scenes", boxed["prompts"]), ("fashion-mnist", [])):
        _, page = build(ServerState((place,)))
        control = page.controls["prompt"]
        first = named[0] if named else ""
        assert (control.value, control.visible) == (first, bool(named))
        assert [choice for choice, _ in control.choices] == named
        name = page.server_state.first
        monkeypatch.setattr(page.server_state, "model", lambda name: SimpleNamespace(embed=len))
        monkeypatch.setattr(page.server_state, "class_names", lambda name: [])
        fitted = page.fitting(name)[0]
        assert (fitted["value"], fitted["choices"]) == (first, named)


def test_a_seed_reaches_the_server_as_it_is_written(page: Any) -> None:
    """One of 2.5 was rounded in the page, whose box went on to show 2.5 above a picture of seed 2."""
    for name in ("seed", "other seed"):
        assert page.controls[name].preprocess(2.5) == 2.5
        assert type(page.controls[name].preprocess(2)) is int
        with pytest.raises(ValueError, match=f"The {name} must be a whole number from 0 .*, got 2.5"):
            seed({name: 2.5}, name)


# ---- how the page begins, and its tour ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def page() -> Any:
    pytest.importorskip("gradio")
    from underpaint.web.layout import build

    return build(ServerState())[1]


def test_the_page_begins_with_seeds_that_are_not_on_a_border(page: Any, monkeypatch: pytest.MonkeyPatch):
    """Of the seeds that were tried, no two neighbours move less when their noise changes a little."""
    state = page.server_state
    seed = state.steady_seed(state.first)
    model = state.model(state.first)
    sampler = Sampler(model, model.schedule.grid(STEADY_STEPS))
    moved = moved_by_other_noise(sampler, model, range(STEADY_SEEDS)).tolist()
    worst = [max(pair) for pair in itertools.pairwise(moved)]
    assert worst[seed] == min(worst)
    monkeypatch.setattr(underpaint.web.server_state, "moved_by_other_noise", None)
    assert state.steady_seed(state.first) == seed  # found once
    first, view = page.began()
    assert first == view["settings"]["seed"] == seed
    assert view["settings"] == {"model": "fashion-mnist", "label": "any", "seed": seed, "steps": 12, "solver": "ddim"}
    assert page.controls["guidance"].value == 1


def test_the_curve_that_theory_begins_with_is_not_flat(page: Any):
    view = TABS["Theory"](page.server_state, page.defaults("fashion-mnist"), silent).view
    for title in ("ψ: the component in the state", "gain: what becomes of a nudge"):
        (chart,) = (chart for chart in view["charts"] if chart["title"] == title)
        chosen = [point[1] for point in chart["lines"][-1]["points"]]
        assert max(chosen) > 2 * min(chosen)
        assert chosen not in [[point[1] for point in line["points"]] for line in chart["lines"][:-1]]


def test_a_step_of_the_tour_sets_every_control_and_says_what_to_look_at(page: Any):
    seed, outputs = page.server_state.steady_seed("fashion-mnist"), [*page.controls, "tabs", "words", "onward"]
    visitor, first = SimpleNamespace(session_hash="anna"), {name: c.value for name, c in page.controls.items()}
    for number, stage in enumerate(TOUR, 1):
        updates = page.touring(number)(visitor)
        assert len(updates) == len(outputs) + len(TOUR)
        found = dict(zip(outputs, updates, strict=False))
        values = {name: found[name]["value"] for name in page.controls}
        assert values == first | {"model": "fashion-mnist", "seed": seed} | dict(stage.settings)
        assert found["tabs"]["selected"] == stage.page
        assert f"Step {number} of 6: {stage.name}.</b> {stage.words}" in found["words"]
        assert 2 <= stage.words.count(". ") + 1 <= 4
        assert f'data-next="{number % 6 + 1}"' in found["words"]
        assert [update["variant"] for update in updates[-6:]].index("primary") == number - 1
    assert [stage.name for stage in TOUR] == ["Watch", "Predict", "Skip", "Nudge", "Retrieve", "Break"]
    assert TOUR[-1].settings["guidance"] > 1
    assert all("guidance" not in stage.settings for stage in TOUR[:-1])


@needs_gradio
def test_words_can_be_read_by_light_and_in_the_dark():
    """The theme's text on its grounds, and the page's own ink on its paper."""
    from underpaint.web.server import _DARK, _LIGHT, _theme

    theme = _theme()
    assert (theme.body_background_fill, theme.body_background_fill_dark) == ("#fdfbf7", "#16162a")
    for colours in (_LIGHT, _DARK):
        assert contrast(colours["body_text_color"], colours["body_background_fill"]) > 7
        assert contrast(colours["button_primary_text_color"], colours["button_primary_background_fill"]) > 4.5
    for ground in ("block_background_fill", "input_background_fill", "button_secondary_background_fill"):
        assert contrast(_DARK["body_text_color"], _DARK[ground]) > 4.5
    folder = Path(underpaint.web.server_state.__file__).parent
    light, dark = re.findall(r"{ (--paper: [^}]*)}", (folder / "page.css").read_text())
    (by_day, at_night) = (dict(part.strip().split(": ") for part in kind.split(";")[:-1]) for kind in (light, dark))
    assert by_day.keys() == at_night.keys()
    assert contrast(by_day["--ink"], "#ffffff") > 7
    assert contrast(at_night["--ink"], at_night["--paper"]) > 7
    assert contrast(at_night["--theory"], at_night["--paper"]) > 4.5
    assert by_day["--ink"] == COLOURS["network"]  # whose line is the brightest in the dark
    assert f'[style*="{COLOURS["network"]}"] {{ color: var(--ink); }}' in (folder / "page.css").read_text()
    script = (folder / "result.js").read_text()
    assert not re.findall(r"#[0-9a-f]{3,6}\b|\bblack\b|\bwhite\b", script)  # colours are the style's, or the answer's


@needs_gradio
def test_every_step_of_the_tour_runs_its_tab_and_can_be_reached_by_keys(address: str):
    """Each has a button, in a box that a button folds away; a click sets the controls, and then asks the tab."""
    import httpx

    config = httpx.get(f"{address}config").json()
    parts = {part["id"]: part for part in config["components"]}
    named = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    (box,) = [part for part in parts.values() if part["props"].get("elem_id") == "tour"]
    assert (box["type"], box["props"]["open"]) == ("accordion", True)
    for number, stage in enumerate(TOUR, 1):
        (ready,) = [c for c in config["dependencies"] if [named[f"tour-{number}"], "click"] in c["targets"]]
        after = [c for c in config["dependencies"] if c["trigger_after"] == ready["id"]]
        asked = [c for c in after if c["backend_fn"]]
        assert ["scrollTo" in c["js"] for c in after if not c["backend_fn"]] == [True]
        assert [c["outputs"] for c in asked] == [[named[f"{stage.tab.lower()}-{part}"] for part in ("view", "files")]]
        assert asked[0]["trigger_only_on_success"]
        stops = [c for c in config["dependencies"] if [named[f"{stage.tab.lower()}-stop"], "click"] in c["targets"]]
        assert any(asked[0]["id"] in stop["cancels"] for stop in stops)
    (onward,) = [c for c in config["dependencies"] if [named["tour-next"], "click"] in c["targets"]]
    assert onward["backend_fn"] is False
    assert "tour-${next}" in onward["js"]


def test_the_command_says_how_to_get_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, ["explore"])
    assert isinstance(result.exception, ImportError)
    assert "pip install 'underpaint[web]'" in str(result.exception)


@needs_gradio
def test_the_command_checks_before_it_serves():
    result = CliRunner().invoke(app, ["explore", "--model", "nowhere"])
    assert isinstance(result.exception, ValueError)
    assert "There is no model 'nowhere'" in str(result.exception)
    assert CliRunner().invoke(app, ["explore", "--port", "0"]).exit_code == 2
