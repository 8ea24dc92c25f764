"""Commands that sample: images, and plans for few calls."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import check_targets
from .base import SAMPLE, app, err, finish, kept_in, parse_seeds, progress_bars, say_check, tell, the_model
from .options import (
    CalibrationOption,
    ClassesOption,
    ClassOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    GaussianOption,
    GuidanceOption,
    JsonOption,
    ModelArgument,
    ModelNamedOption,
    ModelOption,
    NegativeOption,
    PromptOption,
    PromptsOption,
    QuietOption,
    SeedsOption,
    SolverUnlessPlannedOption,
    StatisticsOption,
    StepsOption,
    TeleportOption,
)


@app.command(rich_help_panel=SAMPLE)
def sample(
    model: ModelOption = "fashion-mnist",
    seeds: SeedsOption = "0-15",
    steps: StepsOption = 25,
    solver: SolverUnlessPlannedOption = None,
    teleport: TeleportOption = None,
    prompt: PromptOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    gaussian: GaussianOption = None,
    calibration: CalibrationOption = None,
    place: Annotated[
        Path, typer.Option("--out", "-o", help="A .png file for one grid, or a folder for one PNG a seed.")
    ] = Path("samples.png"),
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample images: a grid, or a folder with one image a seed.

    Example: underpaint sample --seeds 0-15 --steps 20 --teleport 10 --out samples.png
    """
    chosen = parse_seeds(seeds)
    from ..recipes.sample import SampleRequest, generate, places, write_images

    check_targets(*places(chosen, place))

    if prompt is not None and label is not None:
        raise ValueError("Give a --prompt or a --class, not both.")
    condition = label if prompt is None else prompt
    how = (steps, solver, teleport, condition, guidance, gaussian, negative, calibration, device, dtype)
    request = SampleRequest(model, chosen, *how)
    with progress_bars(quiet) as progress:
        result = generate(request, progress)
    written = write_images(result, place)
    results = {"finding": result.finding} | result.summary | {"files": [str(path) for path in written]}
    left = f"Left off: {result.summary['left_off']}" if result.summary["left_off"] else ""
    finish(results, as_json, quiet, left, then=f"Images: {place}")
    if result.summary["outside"] and not (as_json or quiet):
        err.print(result.summary["outside"], style="red", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=SAMPLE)
def calibrate(
    model: ModelArgument = None,
    named: ModelNamedOption = None,
    calls: Annotated[str, typer.Option("--calls", help="Numbers of calls to plan for.")] = "3-6,8,10,14,20",
    prompts: PromptsOption = None,
    classes: ClassesOption = None,
    guidance: Annotated[
        list[float] | None,
        typer.Option(
            "--guidance",
            help="Classifier-free guidance weight; 1 is none. Several times: plans for the range. Default: 1.",
        ),
    ] = None,
    negative: NegativeOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="CALLS|TIME",
            help="What to spend, in place of --seeds, --held-out, --fine and --effort: calls of the denoiser, such as "
            "20000, or a time, such as 15min. The least is 13,000 calls for the default --calls, and 1,360 for --calls "
            "5.",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Seeds of the trajectories to fit to. Default: 0-31.")
    ] = None,
    held_out: Annotated[str | None, typer.Option("--held-out", help="Seeds to judge on. Default: 1000-1015.")] = None,
    fine: Annotated[
        int | None, typer.Option("--fine", help="Steps of the fine solution. Default: as many as it needs.", min=20)
    ] = None,
    effort: Annotated[
        int | None,
        typer.Option(
            "--effort", help="How long to search for each plan, in calls of the denoiser for each seed. Default: 150."
        ),
    ] = None,
    origin: Annotated[
        str, typer.Option("--from", help="What to fit to: network; data, which takes no call of the network; or both.")
    ] = "network",
    data: DataOption = None,
    components: Annotated[
        int | None,
        typer.Option("--components", help="With --from data or both: number of Gaussians of the mixture. Default: 30."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="With --from data or both: rank of each of them. Default: 64.")
    ] = None,
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    place: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("calibration.json"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit plans for few calls to a model: at which noise levels to call it, and the coefficients of each step.

    `sample --calibration`, `bench --calibration` and GaussianExponentialScheduler take the file. What is found is kept
    beside it until it is complete: interrupted, the same command goes on.

    Given --guidance several times, such as 1.5, 3 and 7.5, each plan is for all weights from the least to the largest:
    its coefficients follow the weight that you sample at.

    With --from data, a mixture of Gaussians of the data takes the place of the network: in seconds, without a call of
    the network, plans that are not as good as those fitted to it, and far better than plain solvers.
    With --from both, it is the prior of a fit to few seeds, such as --seeds 0-3 --held-out 1000-1003 --fine 60 --effort
    40.

    Example: underpaint calibrate fashion-mnist --calls 5,8,10 --out fashion-mnist.json
    """
    model = the_model(model, named)
    mixture: dict[str, Any] = {"data": data, "components": components, "rank": rank}
    given = {name: value for name, value in mixture.items() if value is not None}
    chosen, numbers, unseen = (
        parse_seeds("0-31" if seeds is None else seeds),
        parse_seeds(calls, "Calls"),
        parse_seeds("1000-1015" if held_out is None else held_out),
    )
    parts = place.with_name(f"{place.name}.part")
    check_targets(place, parts / "first.safetensors")
    from ..recipes.calibrate import calibrate_model, finding
    from ..recipes.shared.checkpoints import drop_parts
    from ..recipes.shared.from_data import DataModel
    from ..recipes.shared.request import Request
    from ..sampling.fitted import write_calibration

    conditions, weights = (*(prompts or ()), *(classes or ())), tuple(sorted({*(guidance or (1.0,))}))
    request = Request(
        model, conditions, weights, negative, chosen, statistics=tuple(gaussian or ()), device=device, dtype=dtype
    )
    how: dict[str, Any] = {"calls": numbers, "held_out": unseen, "fine": fine}
    how |= {
        "effort": 150 if effort is None else effort,
        "origin": origin,
        "data": DataModel(**given) if given else None,
    }
    how |= {"budget": budget, "tell": tell(quiet)}
    with kept_in(parts), progress_bars(quiet) as progress:
        found = calibrate_model(request, parts, None if quiet else say_check, progress=progress, **how)
        write_calibration(place, found)
    drop_parts(parts)
    plans = [{"calls": plan.calls, "solver": plan.solver} | plan.errors for plan in found.plans]
    results = {"finding": finding(found)} | found.about | {"plans": plans, "file": str(place)}
    words = ["sample", "--model", model, "--calibration", str(place), "--steps", str(found.plans[0].calls)]
    words += ["--prompt", prompts[0]] if prompts else ["--class", str(classes[0])] if classes else []
    words += [] if weights[-1] == 1 else ["--guidance", f"{weights[-1]:g}"]
    words += [] if negative is None else ["--negative", negative]
    then = f"Plans: {place}\nTo sample by one: underpaint {shlex.join(words)}"
    finish(results, as_json, quiet, *(f"  {plan}" for plan in found.plans), then=then)
