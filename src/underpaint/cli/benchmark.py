"""The command of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files import check_folder, check_targets
from .base import SAMPLE, app, finish, kept_in, look_at, parse_seeds, progress_bars, say_check
from .options import (
    ClassesOption,
    DeviceOption,
    DtypeOption,
    FeaturesOption,
    FolderOption,
    GuidanceOption,
    JsonOption,
    ModelOption,
    NegativeOption,
    PromptsOption,
    QuietOption,
    SeedsOption,
    StatisticsOption,
)


@app.command(rich_help_panel=SAMPLE)
def bench(
    model: ModelOption = "fashion-mnist",
    prompts: PromptsOption = None,
    classes: ClassesOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    seeds: SeedsOption = "2000-2015",
    tuning: Annotated[str, typer.Option("--tuning", help="Seeds on which grids and variants are chosen.")] = "0-15",
    calls: Annotated[
        str, typer.Option("--calls", help="Calls of the denoiser, such as 5-35 or 5,6,8,10.")
    ] = "3,4,5,6,8,10",
    solvers: Annotated[
        str | None,
        typer.Option(
            "--solvers",
            help="Some of DDIM, DPM-Solver++, UniPC, DEIS, Heun, learned, exponential, teleported, calibrated. "
            "Default: all that can be run.",
        ),
    ] = None,
    grids: Annotated[
        str | None,
        typer.Option(
            "--grids", help="Grids of noise levels to choose from, such as linspace,karras,log. Default: all."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Plans of `underpaint calibrate`, to be compared too.")
    ] = None,
    learned: Annotated[
        Path | None, typer.Option("--learned", help="Rules of benchmarks/learned.py, to be compared too.")
    ] = None,
    fine: Annotated[int, typer.Option("--fine", help="Steps of the solution that all are compared with.")] = 200,
    samples: Annotated[
        int, typer.Option("--samples", help="Number of samples for Fréchet distances; 0 leaves these out.")
    ] = 0,
    own: Annotated[
        int, typer.Option("--own", help="With --samples: steps of the solution for the network's own images.")
    ] = 100,
    steps: Annotated[
        int, typer.Option("--steps", help="With --samples: steps of the grid whose first steps are skipped.")
    ] = 20,
    solver: Annotated[
        str, typer.Option("--solver", help="With --samples: the solver that takes the others.")
    ] = "dpmpp-2m",
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="With --samples: feature statistics (.npz of mu and sigma) to compare with."),
    ] = None,
    features: FeaturesOption = None,
    batch: Annotated[int, typer.Option("--batch", help="Number of seeds that are solved and stored at a time.")] = 64,
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("bench"),
    parquet: Annotated[bool, typer.Option("--parquet/--no-parquet", help="Write results.parquet, too.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare solvers at few calls of a network, ours and those of diffusers, by the distance to its fine solution.

    Of several prompts or classes, seed s is run with that of number s modulo how many there are. The work can be
    stopped, resumed and shared by the processes of torchrun. With --samples, also Fréchet distances to images of the
    data and to the network's own: against calls, and against skipped steps of the grid and solver of --steps and
    --solver.

    Example: underpaint bench --calls 3-6,8,10 --calibration plans.json --out bench/
    """
    check_folder(folder)
    check_targets(folder / "results.json", folder / "table.md", folder / "cells" / "first.safetensors")
    from ..models.schedulers.peers import GRIDS
    from ..recipes.benchmark.benchmark import bench as compute, prepare_bench
    from ..recipes.benchmark.cells import Settings
    from ..recipes.benchmark.tables import check_parquet
    from ..recipes.shared.check import check_case
    from ..recipes.shared.request import Request

    if parquet:
        check_parquet()
    held, tuned, budgets = parse_seeds(seeds), parse_seeds(tuning), parse_seeds(calls, "Calls")
    asked = (
        (*(prompts or ()), *(classes or ())),
        (guidance,),
        negative,
        held,
        steps,
        solver,
        tuple(gaussian or ()),
        device,
        dtype,
    )
    chosen = (_names(solvers), _names(grids) or GRIDS)
    settings = Settings(budgets, held, tuned, *chosen, fine, samples, own, batch)
    given = (calibration, reference, features, learned)
    workbench = prepare_bench(Request(model, *asked), settings, folder / "cells", *given)
    with kept_in(folder / "cells"), progress_bars(quiet) as progress:
        if not quiet:
            say_check(check_case(workbench.sampler.model, workbench.cases[0], progress))
        result = compute(workbench, progress)
    if result is None:
        return
    from ..figures.benchmark import write_bench

    finish(write_bench(result, folder, parquet), as_json, quiet, then=look_at(folder, "table.md"))


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))
