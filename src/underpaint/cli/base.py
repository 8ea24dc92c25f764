"""What commands share: the application, parsing, progress bars, and how results are shown."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from ..bounds import MOST_ITEMS, SEEDS, shown
from ..damage import out_of_memory
from ..version import __version__
from .idle import check_read
from .progress import progress_on

if TYPE_CHECKING:  # so that `underpaint --help` need not wait for torch
    from ..models.checking.check import Check

app = typer.Typer(
    name="underpaint",
    help="Analytic diffusion: closed-form theory on real models, and faster sampling with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: Groups of commands, as `underpaint --help` lists them.
ANALYSE, SAMPLE, DATA, LOOK = "Analyse a model", "Sample, and sample faster", "Data and statistics", "Look"
out, err = Console(), Console(stderr=True)
#: Options that some commands take several times, and what goes with them.
OFTEN = (
    *("--model", "--prompt", "--class", "--guidance", "--negative", "--gaussian", "--calibration"),
    *("--along", "--step", "--set"),
)


class Command(TyperCommand):
    """A command that says so where an option would be left unread: given several times to a command that takes it once,
    or without others that it needs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        *_, found = self.make_parser(ctx).parse_args(args=list(args))
        for option in found:
            name = next((name for name in option.opts if name in OFTEN), None)
            if name and not option.multiple and found.count(option) > 1:
                raise ValueError(f"`underpaint {self.name}` takes {name} once, got it {found.count(option)} times.")
        rest = super().parse_args(ctx, args)
        check_read(str(self.name), ctx)
        return rest


def parse_seeds(text: str, what: str = "Seeds") -> tuple[int, ...]:
    """'0-3,8' -> (0, 1, 2, 3, 8); ValueError says what was wrong."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ValueError(f"{what} are numbers and ranges such as 0-63 or 1,5,9-12; got {shown(text)}.")
        if last >= SEEDS or len(seeds) + last - first >= MOST_ITEMS:
            raise ValueError(f"{what} are at most {MOST_ITEMS:,} numbers below {SEEDS:,}; got {shown(text)}.")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{what} may be given once each; got {shown(text)}.")
    return tuple(seeds)


def parse_numbers(text: str) -> tuple[float, ...]:
    """'-4,0.5' -> (-4.0, 0.5); ValueError says what was wrong."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"Expected numbers such as -4,0.5,2; got {shown(text)}.") from None


def given(*conditions: str | int | None) -> tuple[str | int, ...]:
    """Those that are not None."""
    return tuple(condition for condition in conditions if condition is not None)


def only(conditions: tuple[str | int, ...]) -> str | int | None:
    """The one condition that is given, if any."""
    if len(conditions) > 1:
        raise ValueError("Give --class or --prompt, not both.")
    return conditions[0] if conditions else None


def the_model(argument: str | None, option: str | None) -> str:
    """The model of a command that takes it as its argument or as --model."""
    if argument is None and option is None:
        raise ValueError("Name the model, such as fashion-mnist; `underpaint models` lists those in the box.")
    if argument is not None and option is not None:
        raise ValueError(f"Name one model, not both {shown(argument)} and --model {shown(option)}.")
    return str(option if argument is None else argument)


def in_paragraphs(docstring: str) -> str:
    """A docstring with one line a paragraph: a window wraps it by its own width, not by that of the source."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(docstring))


def progress_bars(quiet: bool) -> AbstractContextManager[Callable[[str, int], Callable[[], None]]]:
    """A recipe's progress on standard error: bars on a terminal, else a line now and then."""
    return progress_on(err, quiet)


@contextmanager
def kept_in(parts: Path) -> Iterator[None]:
    """Where the work is interrupted, say what is kept and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, ValueError) and not hasattr(error, "raised_by"):
            raise  # of what was asked, not of the work
        if parts.exists() and os.environ.get("RANK", "0") == "0":
            words = f"What was found so far is kept in {parts}; the same command goes on from there."
            err.print(words, highlight=False, soft_wrap=True, markup=False)
        raise


def tell(quiet: bool) -> Callable[[str], None]:
    """What prints a sentence on standard error before the work, or does nothing."""
    if quiet:
        return lambda words: None
    return lambda words: err.print(words, highlight=False, soft_wrap=True, markup=False)


def say_check(check: Check) -> None:
    """What was found of the network, in a sentence on standard error; in red where it is no denoiser."""
    err.print(check.short, style=None if check.sound else "red", highlight=False, markup=False, soft_wrap=True)


def finish(results: Mapping[str, Any], as_json: bool, quiet: bool, *words: str, then: str = "") -> None:
    """How every command ends: the numbers as JSON; or words such as tables, what was found, and what to do next."""
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
    elif not quiet:
        for told in filter(None, (*words, results["finding"], then)):
            out.print(told, highlight=False, soft_wrap=True, markup=False)


def look_at(folder: Path, name: str) -> str:
    """What to look at first in a folder of results."""
    return f"Look at {folder / name}. All numbers are in {folder / 'results.json'}."


def words(value: Any) -> str:
    """A value of a card or of the doctor, as people read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "missing"}[value]
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"underpaint {__version__}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _main(version: VersionOption = False) -> None:
    """Analytic diffusion: closed-form theory on real models, and faster sampling with it."""


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Our own warnings are sentences, too."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1]):
        err.print(f"underpaint: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    else:
        err.print(warnings.formatwarning(message, category, filename, lineno, line), end="", markup=False)


def main() -> None:
    """Entry point."""
    with in_a_sentence("underpaint"), warnings.catch_warnings():
        warnings.showwarning = _warned
        app(prog_name="underpaint")


@contextmanager
def in_a_sentence(program: str) -> Iterator[None]:
    """What a user of a program can mend becomes one sentence and exit code 2."""
    try:
        yield
    except Exception as error:
        message = sentence(error)
        if message is None:
            raise
        err.print(f"{program}: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


def sentence(error: Exception) -> str | None:
    """What a user is told of an error, in one line of printable text; None for an error that is ours."""
    if out_of_memory(error):
        return "There is not enough memory for this; ask for fewer images, seeds or steps at a time."
    text = str(error)
    if hasattr(error, "raised_by"):
        text = f"{error.raised_by} raised {type(error).__name__}{': ' if text else ''}{text}"
    elif not isinstance(error, ValueError | OSError | ImportError):
        return None
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    words = " ".join(text.split())
    words = re.sub(r"\S{161,}", lambda long: f"{long[0][:80]}...{long[0][-40:]}", words)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words)
