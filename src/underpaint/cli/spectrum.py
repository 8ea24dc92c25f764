"""The command that looks at samplers without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files import check_folder, check_targets
from .base import SAMPLE, app, finish, look_at, parse_numbers, parse_seeds, progress_bars
from .options import FolderOption, JsonOption, QuietOption


@app.command(rich_help_panel=SAMPLE)
def spectrum(
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="A scheduler of diffusers, such as DDIM or DPMSolverMultistep.")
    ] = None,
    steps: Annotated[str, typer.Option("--steps", help="Numbers of steps, such as 10 or 5,10,50.")] = "5,10,20,50",
    eigenvalues: Annotated[
        str | None, typer.Option("--eigenvalues", help="Variances of the data, such as .01,1. Default: 1e-4 to 100.")
    ] = None,
    gaussian: Annotated[
        str | None,
        typer.Option(
            "--gaussian",
            help="Take the eigenvalues of these statistics: a file, or a model that comes with underpaint.",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="A scheduler_config.json, or the folder of a pipeline.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of its config, as NAME=VALUE; may be given several times."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--step", help="An option of its step, such as eta=1; may be given several times."),
    ] = None,
    folder: FolderOption = Path("spectrum"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What does a sampler make of Gaussian data in so many steps? Variance by eigenvalue, exactly; no network.

    Example: underpaint spectrum --scheduler DPMSolverMultistep --steps 10,50 --set use_karras_sigmas=true
    """
    numbers = parse_seeds(steps, "Steps")
    values = None if eigenvalues is None else parse_numbers(eigenvalues)
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.spectrum import write_spectrum
    from ..recipes.spectrum import SpectrumRequest, parse_settings, spectra, tables

    request = SpectrumRequest(
        scheduler, numbers, values, parse_settings(settings or ()), parse_settings(options or ()), config, gaussian
    )
    with progress_bars(quiet) as progress:
        result = spectra(request, progress)
    off = [why.replace(", which would break the probability flow", "") for why in result.left_off.values()]
    left = [f"Left off: {why}." for why in off]
    then = look_at(folder, "spectrum.png")
    finish(write_spectrum(result, folder), as_json, quiet, tables(result), *left, then=then)
