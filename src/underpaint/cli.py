"""The command line. Commands parse, call a recipe, and show; heavy imports happen inside them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import __version__

app = typer.Typer(
    name="underpaint",
    help="Analytic diffusion: closed-form theory on real models, and faster sampling with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out, err = Console(), Console(stderr=True)

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="A name in the box (see `underpaint models`) or a folder in diffusers' format."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The model's data: a name, a folder of images or idx files, a .npy or .npz file. Default: what it names.",
    ),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds, such as 0-63 or 1,5,9-12.")]
StepsOption = Annotated[int, typer.Option("--steps", help="Steps of the sampling grid.")]
SolverOption = Annotated[str, typer.Option("--solver", help="ddim, euler, heun, dpmpp-2m or dpmpp-3m.")]
FullOption = Annotated[
    bool,
    typer.Option("--full", help="5,000 samples for Fréchet distances, in both accountings (over an hour on 2 cores)."),
]
TeleportOption = Annotated[
    float | None,
    typer.Option("--teleport", metavar="SIGMA", help="Skip to this ratio σ/α in closed form (accounting: saved)."),
]
ClassOption = Annotated[int | None, typer.Option("--class", help="Class label, for models that know classes.")]
GuidanceOption = Annotated[float, typer.Option("--guidance", help="Classifier-free guidance weight; 1 is none.")]
GaussianOption = Annotated[
    str | None,
    typer.Option("--gaussian", help="Statistics for --teleport: a file of underpaint. Default: those in the box."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no closing words.")]


def parse_seeds(text: str) -> tuple[int, ...]:
    """'0-3,8' -> (0, 1, 2, 3, 8); ValueError says what was wrong."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ValueError(f"Seeds are numbers and ranges such as 0-63 or 1,5,9-12; got {text!r}.")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"Each seed may be given once; got {text!r}.")
    return tuple(seeds)


def check_folder(folder: Path) -> None:
    """Fail before the work, not after it, where the results could not be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"Cannot write to the folder {folder}: {existing} is a file; choose another --out.")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"Cannot write to the folder {folder}: {existing} is not writable; choose another --out.")


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A recipe's progress as bars on standard error."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    words = TextColumn("{task.description:<34}")
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=quiet) as bars:

        def task(what: str, total: int) -> Callable[[], None]:
            number = bars.add_task(what, total=total)
            return lambda: bars.advance(number)

        yield task


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"underpaint {__version__}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
]


@app.callback()
def _main(version: VersionOption = False) -> None:
    """Analytic diffusion: closed-form theory on real models, and faster sampling with it."""


@app.command()
def report(
    model: ModelOption = "fashion-mnist",
    data: DataOption = None,
    seeds: SeedsOption = "0-63",
    steps: StepsOption = 51,
    solver: SolverOption = "ddim",
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for index.html, figures/ and results.json.")
    ] = Path("report"),
    full: FullOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Hold a trained network's sampling against the closed-form theory, and write what was found as a page.

    Example: underpaint report --model fashion-mnist --seeds 0-63 --out report/
    """
    chosen = parse_seeds(seeds)
    check_folder(folder)
    from .recipes.report import Settings, report as compute

    settings = Settings(model, data, chosen, steps, solver, samples=5000 if full else 300, respent=full)
    with progress_bars(quiet or as_json) as progress:
        computed = compute(settings, progress)
        from .figures.page import write_report

        results = write_report(computed, folder, progress)
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
    elif not quiet:
        held = sum(claim.holds for claim in computed.claims)
        out.print(f"{held} of {len(computed.claims)} claims hold. Open {folder / 'index.html'}", highlight=False)


@app.command()
def sample(
    model: ModelOption = "fashion-mnist",
    seeds: SeedsOption = "0-15",
    steps: StepsOption = 25,
    solver: SolverOption = "dpmpp-2m",
    teleport: TeleportOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    gaussian: GaussianOption = None,
    place: Annotated[
        Path, typer.Option("--out", "-o", help="A .png file for one grid, or a folder for one PNG a seed.")
    ] = Path("samples.png"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample images: a grid, or a folder with one image a seed.

    Example: underpaint sample --seeds 0-15 --steps 20 --teleport 10 --out samples.png
    """
    chosen = parse_seeds(seeds)
    check_folder(place.parent if place.suffix.lower() == ".png" else place)
    from .recipes.generate import Request, generate, write_images

    request = Request(model, chosen, steps, solver, teleport, label, guidance, gaussian)
    with progress_bars(quiet or as_json) as progress:
        result = generate(request, progress)
    written = write_images(result, place)
    if as_json:
        print(json.dumps(result.summary | {"files": [str(path) for path in written]}, ensure_ascii=False))
    elif not quiet:
        calls = result.summary["nfe"]
        out.print(f"{len(chosen)} images, {calls} calls of the network each: {place}", highlight=False)


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the models in the box, with what their cards say."""
    from .recipes.box import inventory

    found = inventory()
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for entry in found:
        out.print(entry["name"], style="bold")
        for key, value in entry.items():
            if key != "name":
                out.print(f"  {key:<18}{_words(value)}", highlight=False, soft_wrap=True)


def _words(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Entry point: what a user can mend becomes one sentence and exit code 2."""
    try:
        app(prog_name="underpaint")
    except (ValueError, OSError, ImportError) as error:
        words = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        err.print(f"underpaint: {words}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
