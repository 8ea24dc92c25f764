"""Tables that are made from stored results when the book is built: what lies in docs/results.

``<!-- claims -->`` stands for the paper's claims, and ``<!-- teleport -->`` for Fréchet distances, from a MODEL.json
for each model: what the book shows of the results of `underpaint report`. ``<!-- peers -->`` stands for solvers
compared, from a bench-MODEL.md for each model, a bench-MODEL-frechet.md where Fréchet distances were measured too, and
a bench-MODEL-from-data.md of plans that were made without the network (-from-both.md: with few seeds of it): the table
of `underpaint bench` under its command. ``<!-- compared -->`` stands for analytic denoisers compared, from a
compare-MODEL.md for each model. The figure of a table or a comparison lies in figures/ under the same name. What stands
between such a mark and the next ``<!-- /claims -->`` (or other name) is for readers of the repository's page, to whom
it says where the tables are; those of the claims are written into claims.md. All are stored by

    python docs/hooks/results.py report/results.json bench/results.json comparison/results.json
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from reference import cell, in_lines  # mkdocs looks beside this file
from scipy.stats import t

from underpaint.files import write_text
from underpaint.models.schedulers.peers import GRIDS
from underpaint.recipes.report.claims import TOO_FEW

#: Pixels across, and quality, of stored figures: some tens of kilobytes each.
_WIDTH, _QUALITY = 1200, 75
#: What reports of before these were stored do not have.
_WORDS = ("plain_claims", "left_out", "summary", "plates")
STORED = Path(__file__).resolve().parents[1] / "results"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the tables in."""
    for name, lines in {"claims": _claims, "teleport": _teleport, "peers": _peers, "compared": _compared}.items():
        place = re.compile(rf"<!-- {name} -->(?:(?:(?!<!-- ).)*<!-- /{name} -->)?", re.DOTALL)
        if place.search(markdown):
            shown = "\n".join(lines())
            markdown = place.sub(lambda _, shown=shown: shown, markdown)
    return markdown


def store_figures(folder: Path, name: str) -> None:
    """Keep the figures of a report as small pictures, in place of those that were there."""
    place = STORED / "figures" / name
    for old in place.glob("*.webp"):
        old.unlink()
    for path in sorted(folder.glob("*.png")):
        store_figure(path, place / f"{path.stem}.webp")


def store_figure(path: Path, place: Path) -> None:
    """Keep one figure as a small picture; where there is none, none is left that could be of earlier results."""
    place.unlink(missing_ok=True)
    if path.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            shown = picture.convert("RGB")
            shown.thumbnail((_WIDTH, 10 * _WIDTH))
            shown.save(place, quality=_QUALITY, method=6)


def claims_page() -> str:
    """The tables of the claims, for those who read the repository's page and not the book."""
    lines = [
        "# The paper's claims: tables",
        "Made from stored reports by docs/hooks/results.py; [the page about them](../claims.md) says what they mean.",
        "\n".join(_claims()),
        "## Skipped steps and quality",
        "\n".join(_teleport()),
    ]
    return "\n\n".join(lines) + "\n"


def reports() -> dict[str, dict[str, Any]]:
    """The stored reports by model, those of examples after those of the box."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(STORED.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda known: ":" in known[1]["setup"].get("place", "")))


def store(path: Path) -> Path:
    """Keep what the book shows of the results of a report, as one line of JSON, or of a benchmark or a comparison, as
    Markdown."""
    results = json.loads(path.read_text(encoding="utf-8"))
    name = results["setup"]["model"]
    if "claims" in results:
        shown = {part: results.get(part) for part in ("setup", "claims", "frechet")}
        (shown["frechet"] or {}).pop("saved_left_out", None)
        shown["conditions"] = results.get("conditions") and {"cases": results["conditions"]["cases"]}
        shown |= {part: results[part] for part in _WORDS if part in results}
        place, text = STORED / f"{name}.json", json.dumps(shown, ensure_ascii=False, separators=(",", ":")) + "\n"
    elif "stitched" in results:
        place, text = STORED / f"compare-{name}.md", "\n".join(_comparison(results)) + "\n"
    else:
        table = re.sub("^#", "###", path.with_name("table.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
        heading, _, rest = table.partition("\n")
        made = (results["setup"]["calibration"] or {}).get("from")
        kind = f"-from-{made['origin']}" if made else "-frechet" if results["setup"]["samples"] else ""
        source = made and {"data": "data alone", "both": "data and a few seeds"}[made["origin"]]
        heading = heading.replace("Few calls", f"Few calls with plans from {source}") if made else heading
        place = STORED / f"bench-{name}{kind}.md"
        commands = "\n".join(map(in_lines, bench_commands(results["setup"])))
        text = f"{heading}\n\n```bash\n{commands}\n```\n{rest}"
    write_text(place, text)
    if "claims" in results:
        write_text(STORED / "claims.md", claims_page())
        store_figures(path.parent / "figures", name)
    else:
        of_distances = "frechet.png" if place.stem.endswith("-frechet") else "error.png"
        shown = "samples.png" if "stitched" in results else of_distances
        store_figure(path.with_name(shown), STORED / "figures" / f"{place.stem}.webp")
    return place


def _claims() -> Iterator[str]:
    """What holds on which model, then a section for each model."""
    found = reports()
    if len(found) > 1:
        yield f"| the paper says | {' | '.join(found)} |\n|---|{'---|' * len(found)}"
        for statement in dict.fromkeys(claim["statement"] for report in found.values() for claim in report["claims"]):
            yield f"| {_written(statement)} | {' | '.join(_verdict(report, statement) for report in found.values())} |"
    for name, report in found.items():
        setup, held = report["setup"], sum(claim["holds"] and not _is_open(claim) for claim in report["claims"])
        yield f"\n## On {name}\n"
        plain = {claim["statement"]: claim for claim in report.get("plain_claims") or ()}
        asked = " with what is asked for" if plain else ""
        yield f"{held} of {len(report['claims'])} hold{asked}. Made by\n\n```bash\n{in_lines(command(report))}\n```\n"
        versions = ", ".join(f"{package} {version}" for package, version in setup["versions"].items())
        yield f"with {versions}; data: {cell(setup['data'])}.\n"
        heads = ["the paper says", "measured", "found", "bound", "", *(["asked for nothing"] if plain else [])]
        yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
        for claim in report["claims"]:
            words = (claim["statement"], claim["measure"], _found(claim), claim["bound"])
            beside = [_beside(plain.get(claim["statement"]))] if plain else []
            yield f"| {' | '.join([*map(_written, words), _word(claim), *beside])} |"


def _verdict(report: dict[str, Any], statement: str) -> str:
    """Verdict and number of a claim on one model, where it was tested there."""
    claims = [claim for claim in report["claims"] if claim["statement"] == statement]
    return f"{_word(claims[0])}: {claims[0]['value']:.4g}" if claims else "not tested"


def _beside(claim: dict[str, Any] | None) -> str:
    """Verdict and number of the network that is asked for nothing."""
    return "not tested" if claim is None else f"{_word(claim)}: {_written(_found(claim))}"


def _word(claim: dict[str, Any]) -> str:
    """The verdict, which reports of before the intervals do not have."""
    if _is_open(claim):
        return f"? {claim['verdict']}"
    return "✓ holds" if claim["holds"] else "**✗ does not hold**"


def _is_open(claim: dict[str, Any]) -> bool:
    return str(claim.get("verdict", "")).startswith(TOO_FEW)


def _written(text: str) -> str:
    """The text of a claim in a cell, its x_0 and x_{t−1} with indices set low."""
    return re.sub(r"&#95;(?:\{(.*?)\}|(\w))", r"<sub>\1\2</sub>", cell(text))


def _found(claim: dict[str, Any]) -> str:
    low_high = "" if claim["spread"] is None else " [{:.3g}, {:.3g}]".format(*claim["spread"])
    return f"{claim['value']:.4g}{low_high}"


def _teleport() -> Iterator[str]:
    """Fréchet distance against skipped steps, and of closed forms, for each model that has a feature space."""
    for name, report in reports().items():
        if report["frechet"] is None:
            continue
        part = {key: entry["value"] for key, entry in report["frechet"].items()}
        others = ", ".join(f"{kind} {distance:.2f}" for kind, distance in part["baselines"].items())
        yield f"\n**{name}**: {part['solver']}, {part['steps']} steps; feature space {part['features']}, "
        yield f"{part['samples']:,} samples. In place of the network: {others}.\n"
        heads = ["steps skipped", "landed on σ/α", "calls", "Fréchet distance, saved"]
        columns = [part["skip"], _short(part["ratio"]), part["nfe"], [f"{d:.2f}" for d in part["saved"]]]
        if part["respent"]:
            heads.append(f"re-spent ({part['steps']} calls)")
            columns.append(["", *(f"{d:.2f}" for d in part["respent"])])
        yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
        yield from (f"| {' | '.join(map(str, row))} |" for row in zip(*columns, strict=True))


def _peers() -> Iterator[str]:
    """The stored tables, each under its figure and its command; what was asked for stands below the heading, not in
    it."""
    for path in sorted(STORED.glob("bench-*.md")):
        heading, _, rest = path.read_text(encoding="utf-8").partition("\n")
        title, _, cases = heading.partition(", ")
        yield f"{title}\n\nSampled: {cases}.\n" if cases else f"{heading}\n"
        if (STORED / "figures" / f"{path.stem}.webp").is_file():
            yield f"![{title.lstrip('# ')}: distance against calls](results/figures/{path.stem}.webp)\n"
        yield rest.lstrip("\n")


def _compared() -> Iterator[str]:
    """The stored comparisons, one after the other."""
    for path in sorted(STORED.glob("compare-*.md")):
        yield path.read_text(encoding="utf-8")


def _comparison(results: dict[str, Any]) -> Iterator[str]:
    """What the book shows of a comparison: its command, what each denoiser explains, and what is stitched."""
    setup, level, overall = results["setup"], results["level"]["value"], results["overall"]["value"]
    ratios = _short([sigma / alpha for alpha, sigma in zip(level["alpha"], level["sigma"], strict=True)])
    yield f"### {setup['model']}\n\n```bash\n{in_lines(compare_command(setup))}\n```\n"
    yield f"Data: {setup['data']}. {setup['images']} are noised to judge on, of {setup['judged_on']}.\n"
    if 0 < setup.get("shared_tuned", 0) < setup["shared"]:
        yield f"Shared patches are tuned with {setup['shared_tuned']:,} images, and judged with {setup['shared']:,}.\n"
    heads = f"| σ/α | {' | '.join(ratios)} |"
    for states, explained in results["explained"]["value"].items():
        yield f"Explained variance on {states}, mean ± 95 % over states:\n"
        yield f"{heads} mean |\n|---|{'---|' * (len(ratios) + 1)}"
        for name, part in explained.items():
            whole = overall[states][name]
            cells = [f"{mean:.3f}" for mean in part["mean"]]
            yield f"| {name} | {' | '.join(cells)} | {whole['mean']:.3f} ± {_reach(whole, setup, states):.3f} |"
        yield ""
        for kind, part in results["margin"]["value"][states].items():
            yield f"{kind}: {part['mean']:+.3f} ± {_reach(part, setup, states):.3f}.\n"
    yield f"r² within images, on trajectories:\n\n{heads}\n|---|{'---|' * len(ratios)}"
    for name, part in results["r2"]["value"]["trajectories"].items():
        yield f"| {name} | {' | '.join(f'{mean:.3f}' for mean in part['mean'])} |"
    yield "\nWhat is stitched and blended:\n\n| σ/α | stitched | blended |\n|---|---|---|"
    made = results["stitched"]["value"]
    blended = [_heaviest(parts) for parts in made["blended"]]
    yield from (f"| {' | '.join(row)} |" for row in zip(ratios, made["stitched"], blended, strict=True))
    yield "\nRoot mean square distance of samples to the network's from the same noise:\n\n| | |\n|---|---|"
    yield from (f"| {name} | {part['mean']:.3f} |" for name, part in results["distance"]["value"].items())


def _heaviest(parts: str, most: int = 3) -> str:
    """The heaviest parts of a blend, and how many more there are."""
    known = parts.split(" + ")
    more = f" + {len(known) - most} more" if len(known) > most else ""
    return " + ".join(known[:most]) + more


def _reach(part: dict[str, Any], setup: dict[str, Any], states: str) -> float:
    """How far a mean may be off, to 95 %, by its standard error and the number of states."""
    count = len(setup["seeds"]) if states == "trajectories" else setup["images"]
    return float(t.ppf(0.975, count - 1)) * float(part["error"])


def compare_command(setup: dict[str, Any]) -> str:
    """The command that makes a stored comparison again."""
    words = ["underpaint", "compare", "--model", setup["model"], "--images", str(setup["images"])]
    words += ["--seeds", _seeds(setup["seeds"]), "--local", str(setup["local"])]
    words += ["--released", str(setup["released"])] if setup["local"] else []
    words += ["--shared", str(setup["shared"])] if setup.get("shared") else []
    words += ["--tune-shared", str(setup["shared_tuned"])] if setup.get("shared_tuned") else []
    label = re.fullmatch(r"class (\d+)", setup["condition"])
    return shlex.join([*words, *(["--class", label[1]] if label else [])])


def _short(numbers: list[float]) -> list[str]:
    return [f"{number:.3g}" for number in numbers]


def command(report: dict[str, Any]) -> str:
    """The command that makes a stored report again, from what it says of itself."""
    setup, several = report["setup"], report.get("conditions")
    cases = several["cases"]["value"] if several else [setup.get("condition", "unconditional")]
    place, samples = setup.get("place", setup["model"]), setup.get("own_samples")
    words = ["underpaint", "report", "--model", place, "--seeds", _seeds(setup["seeds"])]
    words += ["--samples", str(samples)] if samples else []
    words += ["--steps", str(setup["steps"]), "--solver", setup["solver"], *_asked(cases)]
    if report.get("frechet") and report["frechet"]["respent"]["value"]:
        words.append("--full")
    words += ["--regimes"] if report.get("regimes") else []
    return f"{'cd examples && ' if ':' in place else ''}{shlex.join(words)}"


def bench_commands(setup: dict[str, Any]) -> Iterator[str]:
    """The same for a benchmark, after the command that makes the calibration, if it had one."""
    plans = setup["calibration"]
    if plans:
        words = ["underpaint", "calibrate", *_placed(plans), *_asked(plans["cases"]), "--calls", _seeds(plans["calls"])]
        words += ["--seeds", _seeds(plans["seeds"]), "--held-out", _seeds(plans["held_out"])]
        words += ["--fine", str(plans["fine"]), "--effort", str(plans["effort"]), *_origin(plans.get("from"))]
        words += ["--out", "calibration.json"]
        yield shlex.join(words)
    learned = setup.get("learned")
    if learned:
        words = ["python", "benchmarks/learned.py", "--model", *_placed(setup), *_asked(learned["cases"])]
        words += ["--calls", *map(str, learned["calls"]), "--seeds", _seeds(learned["seeds"])]
        words += ["--judge", _seeds(learned["judge"]), "--held-out", _seeds(learned["held_out"])]
        words += ["--fine", str(learned["fine"]), "--rounds", str(learned["rounds"])]
        words += ["--forms", *dict.fromkeys(learned.get("tried") or learned["forms"].values()), "--out", "learned.json"]
        yield shlex.join(words)
    words = ["underpaint", "bench", "--model", *_placed(setup), *_asked(setup["cases"])]
    words += ["--seeds", _seeds(setup["seeds"]), "--tuning", _seeds(setup["tuning"]), "--calls", _seeds(setup["calls"])]
    words += ["--solvers", ",".join(setup["solvers"])] if setup["solvers"] else []
    words += [] if tuple(setup["grids"]) == GRIDS else ["--grids", ",".join(setup["grids"])]
    words += ["--fine", str(setup["fine"])]
    words += [] if setup["batch"] == 64 else ["--batch", str(setup["batch"])]
    words += _judged(setup) if setup["samples"] else []
    words += ["--calibration", "calibration.json"] if plans else []
    words += ["--learned", "learned.json"] if learned else []
    yield shlex.join(words)


def _origin(made: dict[str, Any] | None) -> list[str]:
    """What plans are fitted to, where that is not the network alone."""
    if made is None:
        return []
    asked = made["asked"]
    words = ["--from", made["origin"], *(["--data", asked["data"]] if asked["data"] else [])]
    for name, usual in (("components", 30), ("rank", 64)):
        words += [] if asked[name] == usual else [f"--{name}", str(asked[name])]
    return words


def _judged(setup: dict[str, Any]) -> list[str]:
    """The samples of a benchmark, whose first steps are skipped, and by what they are judged."""
    words = ["--samples", str(setup["samples"])]
    words += [] if setup["own"] == 100 else ["--own", str(setup["own"])]
    words += [] if setup["steps"] == 20 else ["--steps", str(setup["steps"])]
    words += [] if setup["solver"] == "dpmpp-2m" else ["--solver", setup["solver"]]
    for flag, given in zip(("--features", "--reference"), setup["judge"], strict=True):
        words += [flag, given] if given else []
    return words


def _placed(setup: dict[str, Any]) -> list[str]:
    """The model as it was asked for, and the file of its statistics, unless both are in the box."""
    known = setup["statistics"].get("all", setup["place"])
    return [setup["place"], *([] if known == setup["place"] else ["--gaussian", known])]


def _asked(cases: list[str]) -> list[str]:
    """The options that ask for cases, given in words."""
    parts = [re.fullmatch(r"(.*?)(?:, guidance ([\d.]+))?(?:, away from (.*))?", case).groups() for case in cases]
    conditions, weights, negatives = (dict.fromkeys(column) for column in zip(*parts, strict=True))
    words: list[str] = []
    for text in conditions:
        label = re.fullmatch(r"class (\d+)", text)
        words += [] if text == "unconditional" else ["--class", label[1]] if label else ["--prompt", text]
    for flag, values in (("--guidance", weights), ("--negative", negatives)):
        if any(values):
            words += [word for value in values if value or flag == "--guidance" for word in (flag, value or "1")]
    return words


def _seeds(seeds: list[int]) -> str:
    whole = seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if whole else ",".join(map(str, seeds))


if __name__ == "__main__":
    for given in sys.argv[1:]:
        print(store(Path(given)))
