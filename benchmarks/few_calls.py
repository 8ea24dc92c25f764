"""The README's table of few calls: measured again by one command, from what the stored tables say of themselves.

    python benchmarks/few_calls.py                        # the table, from the stored tables in docs/results
    python benchmarks/few_calls.py --print                # the commands that measure them, folder by folder
    python benchmarks/few_calls.py --run build/few-calls --write README.md   # runs them all, stores, and writes

Each stored table begins with its commands: plans by `underpaint calibrate`, rules by benchmarks/learned.py, and
`underpaint bench`. --run runs them in a folder for each table. What a folder holds is not made again: stopped, the same
command goes on; delete a folder to measure anew. Beside its results a folder keeps the commands that made them, in
commands.json: results of other commands are refused. All of them take hours on a few cores.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pages import check_page, put

from underpaint.cli.base import in_a_sentence
from underpaint.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
STORED, MARKS = ROOT / "docs" / "results", ("<!-- few calls -->\n", "<!-- end of few calls -->\n")
CALLS = (3, 4, 5, 6, 8, 10, 14, 20)
#: What a folder keeps beside its results: of each, the command that makes it, after those that make what it reads.
KEPT = "commands.json"


@dataclass(frozen=True)
class Line:
    """A line of the README: what it is called, the stored table, and whose error is over that of the best solver of
    diffusers, or of what was learned."""

    words: str
    table: str
    family: str = "calibrated"
    learned: bool = False


LINES = (
    Line("calibrated / best solver, `fashion-mnist`", "bench-fashion-mnist"),
    Line("calibrated, `cifar10`", "bench-cifar10"),
    Line("calibrated, `emoji-scenes` with prompts and guidance 3", "bench-emoji-scenes"),
    Line("plans from the data, no network call, `fashion-mnist`", "bench-fashion-mnist-from-data"),
    Line("plans from the data, no network call, `cifar10`", "bench-cifar10-from-data"),
    Line("no plan, the Gaussian alone, `cifar10`", "bench-cifar10", "exponential"),
    Line("calibrated / learned times and weights, `fashion-mnist`", "bench-fashion-mnist", learned=True),
    Line("calibrated / learned times and weights, `cifar10`", "bench-cifar10", learned=True),
    Line("calibrated / learned times and weights, `emoji-scenes`", "bench-emoji-scenes", learned=True),
)


@dataclass(frozen=True)
class Stored:
    """A stored table: the commands that measure it, and its rows by section."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Stored:
        return cls(name, (STORED / f"{name}.md").read_text(encoding="utf-8"))

    @property
    def commands(self) -> list[list[str]]:
        """Each in words."""
        block = self.text.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
        return [shlex.split(line) for line in block.splitlines()]

    @cached_property
    def sections(self) -> list[dict[str, dict[int, str]]]:
        """Of each part its rows, and of each row its cells by calls."""
        found = []
        for part in self.text.split("\n| calls |")[1:]:
            head, _, *rows = ("|" + part).split("\n\n")[0].splitlines()
            calls = [int(cell) for cell in _cells(head)]
            found.append({_cells(row)[0]: dict(zip(calls, _cells(row)[1:], strict=True)) for row in rows})
        return found

    def ratio(self, line: Line, calls: int) -> tuple[float, float] | None:
        """Of root mean squares, the larger of that to the peers at their best grids and at their defaults; and of
        medians. None where there is none."""
        best, defaults, spread = self.sections
        against = f"{line.family} / {'learned' if line.learned else 'best peer'}"
        told = [part.get(against, {}).get(calls, "-") for part in ([best] if line.learned else [best, defaults])]
        values = [float(re.findall(r"\*\*([\d.]+)\*\*", cell)[0]) for cell in told if cell != "-"]
        if not values:
            return None
        if not line.learned:
            return max(values), float(spread[f"{line.family} / least of a peer, medians"][calls])
        mine, theirs = (float(spread[name][calls].rpartition(" ")[2]) for name in (line.family, "learned"))
        return max(values), mine / theirs


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def table(lines: Sequence[Line] = LINES) -> str:
    """As markdown: ratios of root mean squares, in brackets those of medians."""
    rows = [f"| calls | {' | '.join(map(str, CALLS))} |", "|---" * (len(CALLS) + 1) + "|"]
    for line in lines:
        stored = Stored.read(line.table)
        ratios = (stored.ratio(line, calls) for calls in CALLS)
        cells = ["" if ratio is None else f"{_short(ratio[0])} ({_short(ratio[1])})" for ratio in ratios]
        rows.append(f"| {line.words} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def names() -> list[str]:
    """The stored tables that the README needs."""
    return list(dict.fromkeys(line.table for line in LINES))


def runnable(words: Sequence[str]) -> list[str]:
    """A command for this Python, and for the scripts of this repository, from any folder."""
    first = {"underpaint": [sys.executable, "-m", "underpaint"], "python": [sys.executable]}[words[0]]
    return first + [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words[1:]]


def run(words: Sequence[str], folder: Path) -> None:
    """Run a command in a folder; what it says of its own mistakes is enough, and its exit code is ours."""
    if code := subprocess.run(words, cwd=folder, check=False).returncode:
        raise SystemExit(code)


def made_by(words: Sequence[str]) -> str:
    """The file that a command makes."""
    return words[words.index("--out") + 1] if "--out" in words else "bench/results.json"


def making(words: Sequence[str], commands: Sequence[Sequence[str]]) -> list[str]:
    """A command as it is written, after those that make what it reads."""
    return [shlex.join(one) for one in commands if one == words or made_by(one) in words]


def known_commands(folder: Path) -> dict[str, Any]:
    """What a folder keeps of the commands that made its results."""
    return read_json(folder / KEPT) if (folder / KEPT).exists() else {}


def due(folder: Path, commands: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """The commands whose results a folder does not hold, or holds of something that is to be made again.

    Raises:
        ValueError: it holds a result of other commands.
    """
    known = known_commands(folder)
    waiting = set[str]()
    for words in commands:
        made = made_by(words)
        if not (folder / made).exists() or waiting & set(words):
            waiting.add(made)
            yield words
        elif known.get(made) != making(words, commands):
            by = known.get(made, ["commands that are not known"])
            by = "; ".join(by) if isinstance(by, list) else by
            raise ValueError(
                f"{folder / made} was made by {by}; the table is of {'; '.join(making(words, commands))}. Delete it to "
                "make it again, or give another folder."
            )


def keep(folder: Path, words: Sequence[str], commands: Sequence[Sequence[str]]) -> None:
    """Keep which command is making a result: it is there once the command is through."""
    known = known_commands(folder)
    write_text(folder / KEPT, json.dumps(known | {made_by(words): making(words, commands)}, indent=1) + "\n")


def drop(folder: Path, left: Sequence[Sequence[str]]) -> None:
    """Remove results that are to be made again, before the first of them is: what read the old ones would otherwise
    look finished if the run is stopped in between."""
    for words in left:
        (folder / made_by(words)).unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="measure the tables there, and store them")
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), help="tables to measure")
    parser.add_argument("--print", action="store_true", help="show the commands, and run none")
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    asked = parser.parse_args()
    check_page(asked.write, MARKS)
    home, names_of = asked.run or Path("build/few-calls"), asked.only if asked.run or asked.print else ()
    commands = {name: Stored.read(name).commands for name in names_of}
    left = {name: list(due(home / name, of)) for name, of in commands.items()}
    for name, of in left.items():
        folder = home / name
        if not asked.print:
            drop(folder, of)
        for words in of:
            print(f"cd {folder}; {shlex.join(words)}", file=sys.stdout if asked.print else sys.stderr, flush=True)
            if not asked.print:
                folder.mkdir(parents=True, exist_ok=True)
                keep(folder, words, commands[name])
                run(runnable(words), folder)
        if asked.run and not asked.print:
            run([sys.executable, str(ROOT / "docs" / "hooks" / "results.py"), "bench/results.json"], folder)
    if asked.print:
        return
    found = table()
    print(found)
    if asked.write is not None:
        put(found, asked.write, MARKS)


if __name__ == "__main__":
    with in_a_sentence("few_calls.py"):
        main()
