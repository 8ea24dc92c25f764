"""The book: what it names exists, what it shows runs, and what it says of results is what they say."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
import typer
from PIL import Image

import underpaint
from underpaint import assets
from underpaint.cli import app
from underpaint.figures.style import RC

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[2]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]}
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in a language, without those whose title says that they need what is not here."""
    found = re.findall(rf"^```{language}( title=\"needs .*?\")?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [code for needed, code in found if not needed]


def whole(text: str) -> str:
    """Commands that go on in further lines, in one line each."""
    return re.sub(r" \\\n +", " ", text)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hook(name): a module of docs/hooks."""
    monkeypatch.syspath_prepend(DOCS / "hooks")

    def load(name: str) -> ModuleType:
        if name in {"gallery", "names", "notebook", "reference", "reports", "results"}:
            pytest.importorskip("griffe", reason="needs the extra docs")
        return importlib.import_module(name)

    return load


def boxed(model: str) -> bool:
    return assets.folder(model) is not None


def exists(name: str) -> bool:
    """Whether a dotted name of the package can be had: a module, or something in it."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_named_functions_exist(page: str) -> None:
    missing = [name for name in re.findall(r"\]\[(underpaint[\w.]*)\]", PAGES[page]) if not exists(name)]
    assert not missing


def test_a_missing_function_would_be_seen() -> None:
    assert exists("underpaint.theory.modes.psi")
    assert exists("underpaint.noise.NoiseLevel.ratio")
    assert not exists("underpaint.theory.modes.psy")
    assert not exists("underpaint.theory.nothing.psi")


def test_the_theory_names_every_closed_form() -> None:
    """Each function of `modes`, and what a Gaussian can do, stands beside its formula."""
    text = "".join(page for name, page in PAGES.items() if "/theory/" in name)
    from underpaint.theory import modes

    forms = {name for name, value in vars(modes).items() if callable(value) and value.__module__ == modes.__name__}
    assert {name for name in forms if not name.startswith("_")} <= set(re.findall(r"theory\.modes\.(\w+)\]", text))
    for name in ("denoise", "score", "flow", "log_prob", "sample", "rotation"):
        assert f"Gaussian.{name}]" in text


PYTHON = [name for name, text in PAGES.items() if name != "README.md" and blocks(text, "python")]


@pytest.mark.parametrize("page", PYTHON)
def test_python_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in blocks(PAGES[page], "python"):
        if boxed("emoji-scenes") or "pipe" not in code:
            exec(compile(code, page, "exec"), names)


def test_the_readme_is_short() -> None:
    """At most 900 words outside its code, cells of tables and signs between words counted, too."""
    text = re.sub(r"^```.*?^```$|^    .*$|<[^>]*>", "", PAGES["README.md"], flags=re.MULTILINE | re.DOTALL)
    assert len(text.split()) <= 900


def test_the_lines_of_the_readme_are_those_of_the_book() -> None:
    readme, book = (blocks(PAGES[page], "python")[0] for page in ("README.md", "docs/index.md"))
    assert readme.replace("range(16)", "range(4)").replace("[16,", "[4,") == book


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "underpaint " in text])
def test_commands_on_a_page_exist(page: str) -> None:
    lines = whole("\n".join(blocks(PAGES[page], "bash"))).splitlines()
    inline = re.findall(r"`(underpaint [a-z-][^`]*)`", PAGES[page])
    for line in [line for line in lines if "underpaint" in line] + inline:
        words = shlex.split(re.sub(r".*-m underpaint\.cli|.*?\bunderpaint(?= )", "", line), comments=True)
        command = GROUP if words[0].startswith("-") else COMMANDS[words.pop(0)]
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= known | {"--help"}, line


def fenced(text: str) -> list[str]:
    """The lines of all code blocks, without the indentation of the block."""
    found = re.findall(r"^( *)```[^\n]*\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [line.removeprefix(indent) for indent, code in found for line in code.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_code_on_a_page_is_not_cut(page: str) -> None:
    """What is shown whole on a screen of 1280 pixels."""
    assert not [line for line in fenced(PAGES[page]) if len(line) > 88]


def test_code_of_the_gallery_is_not_cut() -> None:
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text())
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"}
    for name, code in ({path.name: path.read_text() for path in EXAMPLES.glob("*.py")} | cells).items():
        assert not [line for line in code.splitlines() if len(line) > 88], name


def test_long_commands_go_on_in_further_lines(hook: Any) -> None:
    command = hook("results").command(REPORT)
    lines = hook("reference").in_lines(command).splitlines()
    assert max(map(len, lines)) <= 88
    assert len(lines) > 1
    assert lines[1].startswith("    --")
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert whole("\n".join(lines)) == command
    shown = fenced(hook("reference").on_page_markdown("<!-- commands -->"))
    assert len(shown) > len(COMMANDS) // 2
    assert max(map(len, shown)) <= 88


@pytest.mark.parametrize("page", PAGES)
def test_formulas_can_be_set(page: str) -> None:
    converter = pytest.importorskip("latex2mathml.converter", reason="needs the extra docs")
    formulas = re.findall(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$", PAGES[page], re.DOTALL)
    for block, line in formulas:
        assert "<merror" not in converter.convert(block or line)


def test_every_room_has_a_page() -> None:
    rooms = {path.stem for path in Path(underpaint.__file__).parent.iterdir() if not path.stem.startswith("_")}
    shown = dict(re.findall(r"<!-- room (\w+)(?:: ([\w. ]+))? -->", "".join(PAGES.values())))
    assert shown.keys() >= rooms - {"assets", "cli", "moved", "py", "version", "web"}
    for room, first in shown.items():
        assert all(exists(f"underpaint.{room}.{module}") for module in first.split())


def test_gallery_and_navigation_agree() -> None:
    listed = re.findall(r"gallery/(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(name for name in listed if name != "index") == SCRIPTS


def test_what_a_script_needs_and_is_not_here_is_said(hook: Any, tmp_path: Path) -> None:
    """It is not run, and its page says why."""
    gallery = hook("gallery")
    for need, said in (
        ('PACKAGE = "no-such-package"', "the package `no-such-package`, which was not installed"),
        ('MODEL = "none"', "the model `none`, which was not in the box"),
    ):
        (tmp_path / "script.py").write_text(f'"""Title\n\nWords."""\n{need}\nraise SystemExit(1)\n')
        example = gallery._example(tmp_path / "script.py")
        assert example.missing == said
        assert f"This script needs {said} when the book was built" in gallery._page(example)
    assert gallery._missing(None, "matplotlib") is None


@pytest.mark.parametrize("page", PAGES)
def test_links_into_the_gallery_lead_somewhere(page: str) -> None:
    linked = set(re.findall(r"gallery/(\w+)\.(?:md|png)", PAGES[page]))
    assert linked <= {*SCRIPTS, "index"}


#: A picture in Markdown or HTML, and what stands for it where it is not seen.
PICTURE = re.compile(r"!\[([^\]]*)\]\(|<img(?![^>]* alt=\"([^\"]+)\")")


@pytest.mark.parametrize("page", PAGES)
def test_pictures_say_what_they_show(page: str) -> None:
    assert all(len(words) > 20 for words, _ in PICTURE.findall(PAGES[page]))


def test_pictures_of_the_gallery_and_the_notebook_say_what_they_show(hook: Any) -> None:
    for package in ("nbformat", "nbclient"):
        pytest.importorskip(package, reason="needs the extra docs")
    gallery = hook("gallery")
    words = "Each `panel` [is](../guides/data.md)\none. More.\n\nLeft: x."
    example = gallery.Example("a", "A title", words, "", pictures=(Path("a.png"),))
    assert "![A title. Each panel is one.](a.png)" in gallery._page(example)
    assert "[![A title](a.png)](a.md)" in gallery._index({"Group": ["a"]}, {"a": example})
    drawn = {"outputs": [{"data": {"image/png": "AAAA"}}]}
    cell = importlib.import_module("nbformat").from_dict(drawn)
    shown, _ = hook("notebook")._outputs(cell, "n", "## A title\n\nWhat is seen. More.")
    assert shown == ["![A title. What is seen.](n.png)"]


def test_a_picture_is_a_link_to_itself_unless_it_leads_elsewhere(hook: Any) -> None:
    opened = hook("pictures").on_page_content
    picture = '<img alt="a > b" src="a.png" />'
    assert opened(f"<p>{picture}</p>") == f'<p><a href="a.png" title="Open this picture large">{picture}</a></p>'
    assert opened(f'<a href="b.html">{picture}</a>') == f'<a href="b.html">{picture}</a>'


def test_a_room_of_public_names_alone_has_no_empty_table(hook: Any) -> None:
    room = hook("reference")._room
    assert "| module |" not in room("schedules", [])
    assert room("schedules", []).startswith("Public names: [`Interpolant`]")
    assert "| module | what it holds |" in room("theory", [])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_gallery_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = re.search(r'^MODEL = "(.+)"$', (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE)
    if needed and not boxed(needed[1]):
        pytest.skip(f"the box has no {needed[1]}")
    package = re.search(r'^PACKAGE = "(.+)"$', (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE)
    if package and not any(metadata.distributions(name=package[1])):
        pytest.skip(f"{package[1]} is not installed")
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context(RC):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "store the notebook without outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert (names["run"].nfe, names["quick"].nfe) == (20, 20 - names["skip"])
    assert "14 calls in place of 20" in capsys.readouterr().out
    matplotlib.pyplot.close("all")


CLAIM = {"statement": "A|B.", "measure": "x_{t−1}", "value": 0.51234, "spread": [0.4, 0.6], "bound": "at least 0.9"}
REPORT = {
    "setup": {
        "model": "emoji-scenes",
        "data": "scenes",
        "seeds": [3, 4, 5],
        "steps": 51,
        "solver": "ddim",
        "seconds": 12.3,
        "versions": {"torch": "2"},
        "condition": "a red apple, guidance 3",
    },
    "conditions": {"cases": {"value": ["a red apple, guidance 3", "a fox, on grass", "a fox, on grass, guidance 3"]}},
    "claims": [{**CLAIM, "holds": False}, {**CLAIM, "statement": "C.", "spread": None, "holds": True}],
    "frechet": None,
}


def test_claims_are_shown_with_their_command(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = hook("results")
    (tmp_path / "one.json").write_text(json.dumps(REPORT))
    (tmp_path / "two.json").write_text(json.dumps({**REPORT, "claims": REPORT["claims"][1:]}))
    monkeypatch.setattr(results, "STORED", tmp_path)
    page = results.on_page_markdown("before\n<!-- claims -->\nafter")
    assert "| A&#124;B. | **✗ does not hold**: 0.5123 | not tested |" in page
    assert "| C. | ✓ holds: 0.5123 | ✓ holds: 0.5123 |" in page
    found = "x<sub>t−1</sub> | 0.5123 &#91;0.4, 0.6&#93; | at least 0.9 | **✗ does not hold** |"
    assert f"| A&#124;B. | {found}" in page
    assert "1 of 2 hold." in page
    assert page.startswith("before")
    assert page.endswith("after")


def test_stored_tables_can_be_read_on_the_repositorys_page(hook: Any) -> None:
    """They are linked from where the book has them, and those of the claims are what the stored reports say."""
    results = hook("results")
    assert (DOCS / "results" / "claims.md").read_text() == results.claims_page()
    for page, name, pattern in (
        ("claims.md", "claims", "claims.md"),
        ("claims.md", "teleport", "claims.md"),
        ("peers.md", "peers", "bench-*.md"),
        ("theory/released.md", "compared", "compare-*.md"),
    ):
        text = (DOCS / page).read_text()
        (words,) = re.findall(rf"<!-- {name} -->(.*?)<!-- /{name} -->", text, re.DOTALL)
        linked = {(DOCS / page).parent / link for link in re.findall(r"\]\((.*?)\)", words)}
        assert {path.resolve() for path in linked} == set((DOCS / "results").glob(pattern))
        assert "On this page of the repository" not in results.on_page_markdown(text)


def test_no_page_of_the_book_links_to_what_the_book_leaves_out(hook: Any) -> None:
    """The tables are in its pages, and in files of their own for the repository alone: a link to one was dead."""
    results = hook("results")
    for page in sorted(DOCS.rglob("*.md")):
        if results.STORED not in page.parents:
            links = re.findall(r"\]\(([^)#]*results/[^)]*\.(?:md|json))", results.on_page_markdown(page.read_text()))
            assert not links, f"{page.relative_to(DOCS)}: {links}"


def test_the_command_of_a_report_is_one_that_makes_it(hook: Any) -> None:
    words = shlex.split(hook("results").command(REPORT))
    assert words[:2] == ["underpaint", "report"]
    options = list(zip(words[2::2], words[3::2], strict=True))
    assert options == [
        ("--model", "emoji-scenes"),
        ("--seeds", "3-5"),
        ("--steps", "51"),
        ("--solver", "ddim"),
        ("--prompt", "a red apple"),
        ("--prompt", "a fox, on grass"),
        ("--guidance", "3"),
        ("--guidance", "1"),
    ]
    setup = {**REPORT["setup"], "condition": "class 7"}
    assert hook("results").command({"setup": setup}).endswith("--solver ddim --class 7")
    assert "--class" not in hook("results").command({"setup": {**setup, "condition": "unconditional"}})
    mine = {**setup, "place": "power_spectra:model", "own_samples": 200}
    assert (
        hook("results")
        .command({"setup": mine})
        .startswith("cd examples && underpaint report --model power_spectra:model --seeds 3-5 --samples 200 ")
    )


@pytest.mark.parametrize("path", sorted((DOCS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_stored_reports_are_whole_and_short(path: Path, hook: Any) -> None:
    text = path.read_text()
    stored = json.loads(text)
    assert text.count("\n") == 1
    assert len(text) < 30_000, "store no more than the book shows"
    assert stored["setup"]["model"] == path.stem
    place = stored["setup"].get("place", path.stem)
    beginning = f"underpaint report --model {place} "
    assert hook("results").command(stored).removeprefix("cd examples && ").startswith(beginning)
    assert place == path.stem or (DOCS.parent / "examples" / f"{place.partition(':')[0]}.py").is_file()
    known = {"statement", "measure", "value", "spread", "bound", "holds"}
    for claim in stored["claims"]:  # of before the intervals, or with them
        assert set(claim) in (known, known | {"interval", "verdict"})
    assert "saved_left_out" not in (stored["frechet"] or {})


BENCH = {
    "model": "emoji-scenes",
    "place": "emoji-scenes",
    "statistics": {"all": "emoji-scenes", "a red apple": "emoji-scenes, apple"},
    "cases": ["a red apple, guidance 3"],
    "seeds": [7, 8, 9],
    "tuning": [1, 3],
    "calls": [5, 6, 10],
    "solvers": [],
    "fine": 100,
    "samples": 300,
    "own": 50,
    "batch": 32,
    "steps": 10,
    "solver": "heun",
    "judge": ["inception", "edm.npz"],
    "grids": ["karras", "log"],
    "calibration": None,
}


def test_a_benchmark_is_stored_as_its_table_under_its_command(
    hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = hook("results")
    monkeypatch.setattr(results, "STORED", tmp_path / "stored")
    (tmp_path / "stored").mkdir()
    (tmp_path / "results.json").write_text(json.dumps({"setup": BENCH, "table": []}))
    (tmp_path / "table.md").write_text("# Few calls\n\nWords.\n\n## At best\n\n| a | b |\n")
    assert results.store(tmp_path / "results.json").name == "bench-emoji-scenes-frechet.md"
    page = results.on_page_markdown("before\n\n<!-- peers -->")
    assert page.startswith("before\n\n### Few calls\n\n```bash\nunderpaint bench --model emoji-scenes ")
    assert page.endswith("```\n\nWords.\n\n#### At best\n\n| a | b |\n")
    for name, colour in (("error", "red"), ("frechet", "blue")):
        Image.new("RGB", (1200, 600), colour).save(tmp_path / f"{name}.png")
    results.store(tmp_path / "results.json")
    picture = "![Few calls: distance against calls](results/figures/bench-emoji-scenes-frechet.webp)"
    assert f"### Few calls\n\n{picture}\n\n```bash" in results.on_page_markdown("<!-- peers -->")
    with Image.open(tmp_path / "stored" / "figures" / "bench-emoji-scenes-frechet.webp") as shown:
        red, _, blue = shown.convert("RGB").getpixel((9, 9))
    assert blue > 200 > 50 > red, "a table of Fréchet distances has their figure"
    (tmp_path / "frechet.png").unlink()
    results.store(tmp_path / "results.json")
    assert not list((tmp_path / "stored" / "figures").glob("*.webp")), "a figure of earlier results is left"
    (words,) = [shlex.split(line) for line in whole(page).splitlines() if line.startswith("underpaint")]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert (options["--seeds"], options["--tuning"], options["--calls"]) == ("7-9", "1,3", "5,6,10")
    assert (options["--prompt"], options["--guidance"], options["--samples"]) == ("a red apple", "3", "300")
    assert (options["--batch"], options["--steps"], options["--solver"]) == ("32", "10", "heun")
    assert options["--own"] == "50"
    assert (options["--features"], options["--reference"]) == ("inception", "edm.npz")
    flags = {flag for parameter in COMMANDS["bench"].params for flag in parameter.opts}
    assert set(options) <= flags
    (tmp_path / "results.json").write_text(json.dumps({"setup": BENCH | {"samples": 0}, "table": []}))
    assert results.store(tmp_path / "results.json").name == "bench-emoji-scenes.md"


def test_a_comparison_is_stored_as_tables_under_its_command(
    hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a standard error of .01 over 16 seeds, 95 % are 2.131 times as much; over 8 images, 2.365 times."""
    results = hook("results")
    monkeypatch.setattr(results, "STORED", tmp_path)
    two, one = {"mean": [0.5, 0.25], "error": [0.01, 0.01]}, {"mean": 0.375, "error": 0.01}
    setup = {"model": "it", "images": 8, "seeds": list(range(16)), "local": 500, "released": 600, "data": "some data",
             "judged_on": "others", "condition": "class 3", "shared": 1000, "shared_tuned": 142}  # fmt: skip
    states = ("noised data", "trajectories")
    given = {
        "setup": setup,
        "level": {"value": {"alpha": [1.0, 1.0], "sigma": [10.0, 0.5]}},
        "explained": {"value": {name: {"exact": two} for name in states}},
        "overall": {"value": {name: {"exact": one} for name in states}},
        "margin": {"value": {name: {"stitched less GoldDiff": one} for name in states}},
        "r2": {"value": {name: {"data mean": two} for name in states}},
        "stitched": {
            "value": {
                "stitched": ["mixture", "patches"],
                "blended": ["0.30 a + 0.20 b + 0.10 c + 0.10 d + 0.10 e", "patches"],
            }
        },
        "distance": {"value": {"stitched": one}},
    }
    (tmp_path / "results.json").write_text(json.dumps(given))
    assert results.store(tmp_path / "results.json").name == "compare-it.md"
    page = results.on_page_markdown("before\n\n<!-- compared -->")
    assert page.startswith("before\n\n### it\n\n```bash\nunderpaint compare --model it --images 8 --seeds 0-15 ")
    for line in (
        "Data: some data. 8 are noised to judge on, of others.",
        "Shared patches are tuned with 142 images, and judged with 1,000.",
        "| σ/α | 10 | 0.5 | mean |",
        "| exact | 0.500 | 0.250 | 0.375 ± 0.024 |",
        "| exact | 0.500 | 0.250 | 0.375 ± 0.021 |",
        "stitched less GoldDiff: +0.375 ± 0.021.",
        "| data mean | 0.500 | 0.250 |",
        "| 10 | mixture | 0.30 a + 0.20 b + 0.10 c + 2 more |",
        "| 0.5 | patches | patches |",
        "| stitched | 0.375 |",
    ):
        assert line in page.splitlines()
    (words,) = [shlex.split(line) for line in whole(page).splitlines() if line.startswith("underpaint")]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert (options["--local"], options["--released"], options["--class"]) == ("500", "600", "3")
    assert (options["--shared"], options["--tune-shared"]) == ("1000", "142")
    assert set(options) <= {flag for parameter in COMMANDS["compare"].params for flag in parameter.opts}


def test_a_calibrated_benchmark_names_both_commands(hook: Any) -> None:
    plans = {**BENCH, "calls": [5, 8], "seeds": [0, 1, 2], "fine": 90}
    plans |= {"held_out": [10, 11], "effort": 40}
    lines = list(hook("results").bench_commands(BENCH | {"calibration": plans}))
    assert [line.split()[1] for line in lines] == ["calibrate", "bench"]
    words = shlex.split(lines[0])[3:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert (options["--seeds"], options["--held-out"], options["--calls"]) == ("0-2", "10-11", "5,8")
    assert (options["--fine"], options["--effort"], options["--guidance"]) == ("90", "40", "3")
    assert set(options) <= {flag for parameter in COMMANDS["calibrate"].params for flag in parameter.opts}
    assert f"--calibration {options['--out']}" in lines[1]
    assert "--grids karras,log" in lines[1]


def test_plans_from_the_data_say_so_in_their_command(
    hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = hook("results")
    monkeypatch.setattr(results, "STORED", tmp_path / "stored")
    (tmp_path / "stored").mkdir()
    made = {"origin": "data", "data": {}, "asked": {"data": "shoes", "components": 10, "rank": 64}}
    plans = {**BENCH, "calls": [5, 8], "seeds": [0, 1], "fine": 90, "held_out": [10, 11], "effort": 40, "from": made}
    line, _ = results.bench_commands(BENCH | {"calibration": plans})
    assert "--from data --data shoes --components 10 --out" in line
    assert {"--from", "--data", "--components"} <= {
        flag for parameter in COMMANDS["calibrate"].params for flag in parameter.opts
    }
    (tmp_path / "table.md").write_text("# Few calls\n")
    (tmp_path / "results.json").write_text(json.dumps({"setup": BENCH | {"calibration": plans}}))
    assert results.store(tmp_path / "results.json").name.endswith("-from-data.md")


def test_the_commands_of_a_benchmark_name_model_and_statistics_as_they_were_given(hook: Any) -> None:
    placed = {"model": "tiny", "place": "runs/tiny.safetensors", "statistics": {"all": "tiny stats.safetensors"}}
    setup = BENCH | placed | {"cases": ["unconditional"]}
    lines = list(hook("results").bench_commands(setup | {"calibration": setup | {"held_out": [10], "effort": 40}}))
    usual = setup | {"batch": 64, "own": 100, "steps": 20, "solver": "dpmpp-2m", "judge": [None, None]}
    known = {"--batch", "--own", "--steps", "--solver", "--features", "--reference"}
    assert not known & set(shlex.split(next(hook("results").bench_commands(usual))))
    expected = ["runs/tiny.safetensors", "--gaussian", "tiny stats.safetensors"]
    assert shlex.split(lines[0])[2:5] == expected
    assert shlex.split(lines[1])[3:6] == expected


def test_of_a_report_is_stored_what_the_book_shows(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = hook("results")
    monkeypatch.setattr(results, "STORED", tmp_path / "stored")
    (tmp_path / "stored").mkdir()
    (tmp_path / "results.json").write_text(json.dumps(REPORT | {"geometry": list(range(1000))}, indent=1))
    place = results.store(tmp_path / "results.json")
    assert place.name == "emoji-scenes.json"
    stored = json.loads(place.read_text())
    assert stored == {key: REPORT[key] for key in ("setup", "claims", "frechet", "conditions")}
    assert results.command(stored) == results.command(REPORT)


def test_every_public_name_has_a_page_and_every_function_another(hook: Any) -> None:
    names = hook("names")
    listed = [name for page in names.pages().values() for name in page]
    assert sorted(listed) == sorted(underpaint._HOME)
    assert names.pages()["reference/names/check.md"] == ["Check", "check"]
    assert "::: underpaint.models.checking.check.Check\n" in names._of_names(["Check", "check"])
    assert names.inside("sampling.teleport") == "reference/inside/sampling.teleport.md"
    assert "members:\n        - skips_nothing\n" in names._of_module("sampling.teleport")
    assert "theory.modes" not in names.modules(), "a public module has a page of its own"
    shown = hook("reference").on_page_markdown("<!-- room sampling: solvers -->")
    assert shown.splitlines()[0].startswith("Public names: [`SkipChoice`][underpaint.sampling.auto.SkipChoice], ")
    assert re.search(r"\| \[`sampling.solvers`\]\(inside/sampling.solvers.md\) \| [A-Z]", shown)
    assert set(re.findall(r"inside/([\w.]+)\.md", shown)) == set(names.modules("sampling"))


def test_a_report_is_a_page_with_its_figures(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, shown = hook("results"), hook("reports")
    for module in (results, shown):
        monkeypatch.setattr(module, "STORED", tmp_path / "stored")
    (tmp_path / "figures").mkdir()
    (tmp_path / "stored").mkdir()
    Image.new("RGB", (2400, 600), "red").save(tmp_path / "figures" / "film.png")
    words = {
        "plain_claims": [{**CLAIM, "value": 0.95, "holds": True}],
        "left_out": {"a section": "for a reason"},
        "summary": {"verdicts": "1 of 2 claims hold", "numbers": "Two components."},
        "plates": [
            {"name": "film", "title": "1. A film", "caption": "What is seen in x_0."},
            {"name": "path", "title": "2. A path", "caption": "With it.", "plain_caption": "Without."},
        ],
    }
    (tmp_path / "results.json").write_text(json.dumps(REPORT | words))
    results.store(tmp_path / "results.json")
    with Image.open(tmp_path / "stored" / "figures" / "emoji-scenes" / "film.webp") as picture:
        assert picture.size == (1200, 300)
    (name, report), *_ = results.reports().items()
    page = "\n\n".join(shown.page(name, report))
    assert page.startswith("# The report on emoji-scenes\n\n1 of 2 claims hold. Two components.")
    film = "[![1. A film](../results/figures/emoji-scenes/film.webp)](../results/figures/emoji-scenes/film.webp)"
    assert f"## 1. A film\n\n{film}\n\nWhat is seen" in page
    assert "- a section: for a reason." in page
    condition = REPORT["setup"]["condition"]
    both = (
        f"## 2. A path\n\n### Asked for nothing\n\nWithout.\n\n### {condition[:1].upper()}{condition[1:]}\n\nWith it."
    )
    assert both in page
    table = results.on_page_markdown("<!-- claims -->")
    assert "1 of 2 hold with what is asked for." in table
    assert "| **✗ does not hold** | ✓ holds: 0.95 &#91;0.4, 0.6&#93; |" in table
    assert "| ✓ holds | not tested |" in table


def test_lists_of_the_reference_are_complete(hook: Any) -> None:
    reference = hook("reference")
    names = reference.on_page_markdown("<!-- public names -->")
    assert set(re.findall(r"\| \[`(\w+)`\]\[underpaint", names)) == set(underpaint._HOME)
    assert all(exists(target) for target in re.findall(r"\]\[(underpaint[\w.]*)\]", names))
    assert not re.search(r"\| +\|$", names, re.MULTILINE), "a public name without documentation"
    commands = reference.on_page_markdown("<!-- commands -->")
    for name, command in COMMANDS.items():
        assert f"## underpaint {name}\n" in commands
        for parameter in command.params:
            assert parameter.opts[-1] in commands or parameter.param_type_name == "argument"
    models = reference.on_page_markdown("<!-- models -->")
    assert "| fashion-mnist |" in models
    assert re.search(r"^\| objects \|(  \|)* [a-z]+[a-z; ]+ \|(  \|)*$", models, re.MULTILINE), (
        "of a model of classes there are none"
    )
    assert reference.cell("a|b `c|d` x_t") == "a&#124;b `c\\|d` x&#95;t"


def test_formulas_become_mathml(hook: Any) -> None:
    pytest.importorskip("latex2mathml", reason="needs the extra docs")
    page = (
        '<p>x <span class="arithmatex">\\(\\sqrt{\\lambda} &lt; 1\\)</span></p><div class="arithmatex">\\[a\n\\]</div>'
    )
    made = hook("formulas").on_page_content(page)
    inline, block = ElementTree.fromstring(f"<body>{made}</body>").iter("{http://www.w3.org/1998/Math/MathML}math")
    assert "".join(inline.itertext()) == "λ<1"
    assert "".join(next(inline.iter("{http://www.w3.org/1998/Math/MathML}msqrt")).itertext()) == "λ"
    assert (inline.get("display"), block.get("display")) == ("inline", "block")
    assert '<div class="formula"><math' in made
    assert "arithmatex" not in made


@pytest.mark.slow
def test_the_book_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml", "nbclient"):
        pytest.importorskip(package, reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[-3000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 40
    fetched = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?https?:|<link[^>]* href=\"?https?:[^>]*stylesheet")
    for page in pages:
        assert not fetched.search(page.read_text()), page
