"""What underpaint can do with the pipelines that people run, as a table for the book: each of the tests' tiny pipelines
and each ability, measured with the installed diffusers.

    python benchmarks/pipelines.py                                   # shows the table
    python benchmarks/pipelines.py --write docs/guides/pipelines.md  # puts it between the page's marks
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import abilities
import diffusers
import transformers
import zoo

BEGIN, END = "<!-- table of pipelines -->\n", "<!-- end of the table -->\n"
ASKED = list(abilities.ABILITIES)


def row(name: str) -> list[str]:
    """The cells of a pipeline: its name, and a mark or the number of a note for each ability."""
    case = abilities.Case(*zoo.ZOO[name]())
    cells = {ability: abilities.measured(case, ability) for ability in ASKED}
    told = {ability: why for (of, ability), why in zoo.INEXACT.items() if of == name}
    return [title(name, case), *(cells[a] if cells[a] == "yes" else told.get(a, cells[a]) for a in ASKED)]


def title(name: str, case: abilities.Case) -> str:
    """The class of diffusers, and which of two that have one."""
    cls = type(case.pipe).__name__
    return f"{cls} ({zoo.TOLD_APART[name]})" if name in zoo.TOLD_APART else cls


def table(rows: list[list[str]]) -> str:
    """As markdown, with a note below for each reason."""
    reasons = list(dict.fromkeys(cell for cells in rows for cell in cells[1:] if cell not in ("yes", "")))
    marks = {"yes": "✓", "": "·", **{reason: f"[{i}]" for i, reason in enumerate(reasons, 1)}}
    lines = [f"Measured with diffusers {diffusers.__version__}.", ""]
    lines += [f"| pipeline | {' | '.join(ASKED)} |", f"|---|{'---|' * len(ASKED)}"]
    lines += [f"| {cells[0]} | {' | '.join(marks[cell] for cell in cells[1:])} |" for cells in rows]
    lines += ["", *(f"- {marks[reason]} {reason.rstrip('.')}." for reason in reasons)]
    lines += ["", "· is not asked: its scheduler takes other steps, or there is no denoiser to compare with."]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def written(page: str, found: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{found}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    page = parser.parse_args().write
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    found = table([row(name) for name in zoo.ZOO])
    print(found)
    if page is not None:
        page.write_text(written(page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
