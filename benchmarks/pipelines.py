"""What underpaint can do with the pipelines that people run, as a table for the book: each of the tests' tiny pipelines
and each ability, measured with the installed diffusers.

    python benchmarks/pipelines.py                                   # shows the table
    python benchmarks/pipelines.py --write docs/guides/pipelines.md  # puts it between the page's marks
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import abilities
import diffusers
import transformers
import zoo
import zoo_more  # noqa: F401
from pages import show_or_write

from underpaint.cli.base import in_a_sentence

MARKS = "<!-- table of pipelines -->\n", "<!-- end of the table -->\n"
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


def found() -> str:
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    return table([row(name) for name in zoo.ZOO])


if __name__ == "__main__":
    with in_a_sentence("pipelines.py"):
        show_or_write(__doc__, MARKS, found)
