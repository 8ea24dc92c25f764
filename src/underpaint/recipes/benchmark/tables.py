"""The benchmark as tables: one row for each cell that was measured, and a page to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...analysis.summary import Summary
from ...files import replacing
from .benchmark import Bench, Ratio, Score
from .cells import LEARNED
from .frechet import Skipped

_MISSING = "-"


def rows(result: Bench) -> list[dict[str, Any]]:
    """Every cell on the seeds it was measured on, in JSON types; those against skipped steps have no errors."""
    about = {key: result.setup[key] for key in ("model", "cases", "guidance")}
    table = []
    for score in result.scores:
        found = Summary.of(score.errors)
        table.append(
            about
            | {"role": score.role, "family": score.family, "calls": score.calls, "nfe": score.nfe}
            | {"rms": score.rms, "mean": float(found.mean), "low": float(found.low), "high": float(found.high)}
            | {"median": _median(score), "errors": score.errors.tolist()}
            | vars(score.cell)
            | _judged(score)
        )
    for part in result.skipping:
        named = {"role": part.accounting, "family": part.cell.solver, "nfe": part.nfe, "skipped": part.skip}
        table.append(about | named | vars(part.cell) | _judged(part))
    return table


def _judged(part: Score | Skipped) -> dict[str, Any]:
    known = part.frechet
    if known is None:
        return {}
    about = {"features": known.space, "samples": known.count, "floor": known.floor}
    return {"frechet": known.value, "to_own": part.to_own} | about


def check_parquet() -> None:
    """ImportError with what to install, before the work and not after it."""
    if find_spec("pyarrow") is None:
        raise ImportError(
            "results.parquet needs pyarrow; install it with: pip install 'underpaint[scale]', or give --no-parquet "
            "(the same table is in results.json)."
        )


def write_parquet(result: Bench, path: str | Path) -> None:
    """The rows as a Parquet file, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    table = rows(result)
    names = dict.fromkeys(name for row in table for name in row)
    with replacing(path) as temporary:
        columns = pyarrow.table({name: [row.get(name) for row in table] for name in names})
        pyarrow.parquet.write_table(columns, temporary)


def page(result: Bench) -> str:
    """The tables in Markdown, with what each number is."""
    about, calls = result.setup, result.setup["calls"]
    what = "Few calls and Fréchet distance" if about["samples"] else "Few calls"
    parts = [
        f"# {what}: {about['model']}, {'; '.join(about['cases'])}",
        f"Root mean square distance, per number, to the model's own fine solution (UniPC-3, {about['fine']} steps; to "
        f"one of half as many it is {result.floor:.2g}), from the same noise, over {len(about['seeds'])} held-out "
        f"seeds. Grid and variant of every family were chosen on {len(about['tuning'])} other seeds. Calls are those "
        "of the denoiser; Heun, which takes an odd number, is given one less where it must. The best peer is that of "
        "least error in the table itself; in brackets, 5 % and 95 % of the ratio when seeds are drawn anew.",
        "## Each at its own best grid",
        _table(calls, _families(result, "best", _error) + _ratio_lines(result, "best") + _ratio_lines(result, LEARNED)),
        "## At diffusers' defaults",
        "Peers as diffusers makes them with nothing set but the number of steps; ours as above.",
        _table(calls, _families(result, "default", _error) + _ratio_lines(result, "default")),
        *_noticed(result),
        "## Spread over seeds",
        "Mean [5 %, 95 %], median. Where a few seeds make most of a root mean square, the median of ours over the "
        "least of any peer says more; so does the share of seeds on which ours are nearer.",
        _table(calls, _families(result, "best", _spread) + _median_lines(result) + _nearer_lines(result)),
        *_frechet_parts(result, calls),
    ]
    return "\n\n".join(parts) + "\n"


def _frechet_parts(result: Bench, calls: Sequence[int]) -> list[str]:
    own = result.own
    if own is None:
        return []
    lines = [
        f"| {part.skip} | {part.cell.skip:.3g} | {part.accounting} | {part.nfe} | {part.frechet.value:.4g} | "
        f"{part.to_own:.3g} |"
        for part in result.skipping
    ]
    return [
        "## Fréchet distance",
        f"In {own.space}: {own.count:,} samples against {own.reference_count or 'unknown'}; a perfect model would "
        f"score about {own.floor:.2g}. The network's own images (UniPC-3, {result.setup['own']} steps) score "
        f"{own.value:.4g}: what is near to them scores near to that.",
        _table(calls, _judged_lines(result, _distance)),
        "To the network's own images, from the same noise; 0 if they are the same.",
        _table(calls, _judged_lines(result, _distance_to_own)),
        f"## Fréchet distance against skipped steps: {result.setup['solver']}, {result.setup['steps']} steps",
        "\n".join(
            [
                "| skipped | σ/α | accounting | calls of the network | Fréchet distance | to the network's own |",
                "|---" * 6 + "|",
                *lines,
            ]
        ),
    ]


#: How much further a solver may end with more calls before the page says so.
_WORSE = 1.25


def _noticed(result: Bench) -> list[str]:
    """What readers of a table should know of a peer: where it ended in NaN, and where more calls made it worse though
    each number of calls had its best grid."""
    broken = [s for s in result.scores if s.peer and not math.isfinite(s.rms)]
    words = [f"{cell}, in {calls} calls" for cell, calls in dict.fromkeys((str(s.cell), s.calls) for s in broken)]
    lines = [f"Ended in NaN or infinity, and can be no one's best: {'; '.join(words)}."] if words else []
    worse = [words for solver in _variants(result) for words in _worse(result, solver)]
    if worse:
        lines.append(
            f"Further from the fine solution with more calls, on tuning seeds at the best grid: {'; '.join(worse)}."
        )
    return [" ".join(lines)] if lines else []


def _variants(result: Bench) -> list[str]:
    """The solvers of peers."""
    return list(dict.fromkeys(score.cell.solver for score in result.scores if score.peer))


def _worse(result: Bench, solver: str) -> list[str]:
    """Where a solver's least error over grids rises from one number of calls to the next."""
    least: dict[int, float] = {}
    for score in result.scores:
        if score.role == "tuning" and score.cell.solver == solver:
            least[score.calls] = min(least.get(score.calls, math.inf), score.rms)
    return [
        f"{solver} from {fewer} to {more} calls ({least[fewer]:.3g}, {least[more]:.3g})"
        for fewer, more in pairwise(sorted(least))
        if least[more] > _WORSE * least[fewer]
    ]


def _table(calls: Sequence[int], lines: Sequence[tuple[str, list[str]]]) -> str:
    head = ["| calls | " + " | ".join(map(str, calls)) + " |", "|---" * (len(calls) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in lines)])


def _families(result: Bench, role: str, write: Callable[[Score], str], suffix: str = "") -> list[tuple[str, list[str]]]:
    """A line for each family in a role; those without a number are left out."""
    lines = []
    for family in result.families:
        known = {score.calls: write(score) for score in result.of(role, family)}
        cells = [known.get(calls) or _MISSING for calls in result.setup["calls"]]
        if set(cells) != {_MISSING}:
            lines.append((family + suffix, cells))
    return lines


def _ratio_lines(result: Bench, role: str) -> list[tuple[str, list[str]]]:
    return _each_ratio(result, role, "/", lambda ratio: f"**{ratio.value:.2f}** [{ratio.low:.2f}, {ratio.high:.2f}]")


def _nearer_lines(result: Bench) -> list[tuple[str, list[str]]]:
    """Shares of seeds, each at its own best grid."""
    roles = ("best", LEARNED)
    return [
        line
        for role in roles
        for line in _each_ratio(result, role, "nearer than", lambda ratio: f"{100 * ratio.nearer:.0f} %")
    ]


def _each_ratio(result: Bench, role: str, word: str, write: Callable[[Ratio], str]) -> list[tuple[str, list[str]]]:
    known = {(ratio.family, ratio.calls): write(ratio) for ratio in result.ratios if ratio.role == role}
    other = LEARNED if role == LEARNED else "best peer"
    return [
        (f"{family} {word} {other}", [known.get((family, calls), _MISSING) for calls in result.setup["calls"]])
        for family in dict.fromkeys(family for family, _ in known)
    ]


def _median_lines(result: Bench) -> list[tuple[str, list[str]]]:
    """Medians over seeds of each family that is no peer, over the least of any peer's, each at its own best grid."""
    peers: dict[int, float] = {}
    for score in result.scores:
        if score.role == "best" and score.peer:
            peers[score.calls] = min(peers.get(score.calls, math.inf), _median(score))
    lines = _families(result, "best", lambda s: f"{s.errors.median() / peers[s.calls]:.2f}" if not s.peer else "")
    return [(f"{family} / least of a peer, medians", cells) for family, cells in lines]


def _median(score: Score) -> float:
    return float(score.errors.median())


def _error(score: Score) -> str:
    return f"{score.rms:.4g} ({_how(score)})"


def _how(score: Score) -> str:
    """Variant and grid, without the family, which stands beside them."""
    solver = score.cell.solver
    variant = solver.removeprefix("exponential").removeprefix(score.family).strip("- ")
    grid = str(score.cell).removeprefix(f"{solver}, ")
    return grid if variant.lower() in ("", score.family.lower()) else f"{variant}, {grid}"


def _spread(score: Score) -> str:
    return f"{Summary.of(score.errors):.3g}, {_median(score):.3g}"


def _judged_lines(result: Bench, write: Callable[[Score], str]) -> list[tuple[str, list[str]]]:
    """Those whose images were judged, at their best grids and at diffusers' defaults."""
    return _families(result, "best", write) + _families(result, "default", write, " (default)")


def _distance(score: Score) -> str:
    return f"{score.frechet.value:.4g}" if score.frechet else ""


def _distance_to_own(score: Score) -> str:
    return "" if score.to_own is None else f"{score.to_own:.3g}"
