"""Commands that make something: images, statistics, converted checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .base import app, check_folder, err, out, parse_seeds, progress_bars, words
from .options import (
    CalibrationOption,
    ClassesOption,
    ClassOption,
    DeviceOption,
    DtypeOption,
    FeaturesOption,
    GaussianOption,
    GuidanceOption,
    JsonOption,
    ModelOption,
    NegativeOption,
    PromptOption,
    PromptsOption,
    QuietOption,
    SeedsOption,
    SolverOption,
    StatisticsOption,
    StepsOption,
    TeleportOption,
)


@app.command()
def sample(
    model: ModelOption = "fashion-mnist",
    seeds: SeedsOption = "0-15",
    steps: StepsOption = 25,
    solver: SolverOption = "dpmpp-2m",
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
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample images: a grid, or a folder with one image a seed.

    Example: underpaint sample --seeds 0-15 --steps 20 --teleport 10 --out samples.png
    """
    chosen = parse_seeds(seeds)
    check_folder(place.parent if place.suffix.lower() == ".png" else place)
    from ..recipes.generate import Request, generate, write_images

    if prompt is not None and label is not None:
        raise ValueError("Give a --prompt or a --class, not both.")
    condition = label if prompt is None else prompt
    request = Request(model, chosen, steps, solver, teleport, condition, guidance, gaussian, negative, calibration)
    with progress_bars(quiet or as_json) as progress:
        result = generate(request, progress)
    written = write_images(result, place)
    if as_json:
        print(json.dumps(result.summary | {"files": [str(path) for path in written]}, ensure_ascii=False))
    elif not quiet:
        calls = result.summary["nfe"]
        out.print(f"{len(chosen)} images, {calls} calls of the network each: {place}", highlight=False)
        if result.summary["left_off"]:
            out.print(f"Left off: {result.summary['left_off']}", highlight=False, soft_wrap=True)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="A name in the box or a folder in diffusers' format.")],
    calls: Annotated[str, typer.Option("--calls", help="Numbers of calls to plan for.")] = "5,6,8,10,14,20",
    prompts: PromptsOption = None,
    classes: ClassesOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of the trajectories to fit to.")] = "0-31",
    held_out: Annotated[str, typer.Option("--held-out", help="Seeds to judge on.")] = "1000-1015",
    fine: Annotated[int, typer.Option("--fine", help="Steps of the fine solution.", min=20)] = 250,
    effort: Annotated[int, typer.Option("--effort", help="Calls on each seed to search a plan's levels.")] = 150,
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    place: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("calibration.json"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit the Gaussian exponential integrator to a model: where to call it, and what to make of each call.

    `sample --calibration`, `bench --calibration` and GaussianExponentialScheduler take the file.

    Example: underpaint calibrate fashion-mnist --calls 5,8,10 --out fashion-mnist.json
    """
    chosen, numbers, unseen = parse_seeds(seeds), parse_seeds(calls, "Calls"), parse_seeds(held_out)
    check_folder(place.parent)
    from ..recipes.ask import Ask
    from ..recipes.calibrate import calibrate_model
    from ..sampling.fitted import write_calibration

    conditions = (*(prompts or ()), *(classes or ()))
    ask = Ask(
        model, conditions, (guidance,), negative, chosen, statistics=tuple(gaussian or ()), device=device, dtype=dtype
    )
    with progress_bars(quiet or as_json) as progress:
        found = calibrate_model(ask, calls=numbers, held_out=unseen, fine=fine, effort=effort, progress=progress)
    write_calibration(place, found)
    if as_json:
        plans = [{"calls": plan.calls, "solver": plan.solver} | plan.errors for plan in found.plans]
        print(json.dumps(found.about | {"plans": plans, "file": str(place)}, ensure_ascii=False))
    elif not quiet:
        for plan in found.plans:
            out.print(f"  {plan}", highlight=False, soft_wrap=True)
        out.print(f"Plans: {place}", highlight=False, soft_wrap=True)


@app.command()
def stats(
    data: Annotated[
        str, typer.Argument(help="Folder, file or shards of pictures, arrays or tables, a name, or hf:NAME.")
    ],
    place: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write. Default: stats.safetensors, or stats.npz.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="Crop and resize pictures: 64, or 64x48 (H x W).")] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="L (grey) or RGB. Default: RGB if some pictures are in colour.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of data that have several.")] = "train",
    column: Annotated[
        str | None, typer.Option("--column", help="Of tables, or of tar shards with several pictures under one name.")
    ] = None,
    encoder: Annotated[str | None, typer.Option("--latents", help="Of this model: statistics of its latents.")] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="DATA is a model: of so many of its samples.")
    ] = None,
    features: FeaturesOption = None,
    device: DeviceOption = None,
    kind: Annotated[str, typer.Option("--kind", help="auto, full, low-rank or stationary.")] = "auto",
    rank: Annotated[int | None, typer.Option("--rank", help="Directions to keep.")] = None,
    memory: Annotated[str, typer.Option("--memory", help="What it may take, such as 8GB or 500MB.")] = "8GB",
    classes: Annotated[bool, typer.Option("--classes/--no-classes", help="Also one for each class.")] = True,
    precise: Annotated[bool, typer.Option("--precise", help="All in float64.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an item that cannot be read.")] = False,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Default: beside --out.")] = None,
    groups: Annotated[int, typer.Option("--groups", help="Parts of the work; more processes are idle.")] = 64,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Mean and covariance of data, in one pass that can be stopped, resumed and shared by torchrun.

    With --features, those of the pictures' features, as .npz: the reference that `underpaint bench --samples` takes.

    Example: underpaint stats images/ --size 32 --out stats.safetensors
    """
    place = place or Path("stats.npz" if features else "stats.safetensors")
    if features and place.suffix != ".npz":
        raise ValueError(f"Statistics of features are written as .npz, got --out {place}.")
    check_folder(place.parent)
    from ..recipes.plan import Settings, make_plan, parse_memory
    from ..recipes.sources import open_data, parse_size
    from ..recipes.statistics import take_statistics
    from ..recipes.team import speaks

    settings = Settings(kind, rank, parse_memory(memory), classes, precise, strict, groups)
    source = open_data(data, parse_size(size), mode, split, encoder, samples, features, device, column)
    plan = make_plan(source, settings)
    with progress_bars(quiet or as_json) as progress:
        if not quiet and speaks():
            err.print(plan.words, highlight=False, soft_wrap=True)
        result = take_statistics(plan, checkpoint or place.with_name(f"{place.name}.part"), progress)
    if result is None:
        return
    result.save(place)
    if as_json:
        print(json.dumps(result.notes, ensure_ascii=False))
    elif not quiet:
        out.print(f"{result.summary}: {place}", highlight=False, soft_wrap=True)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="An EDM snapshot of NVIDIA's (network-snapshot-*.pkl).")],
    place: Annotated[Path | None, typer.Option("--out", "-o", help="Default: the same name, .safetensors.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="JSON keywords of the network, for a plain .pt state dict.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert an EDM checkpoint to safetensors, once and offline, without running anything in it.

    Example: underpaint convert edm-cifar10-32x32-uncond-vp.pkl --out edm-cifar10.safetensors
    """
    chosen = place or source.with_suffix(".safetensors")
    check_folder(chosen.parent)
    from ..files import read_json
    from ..recipes.convert import convert as compute

    summary = compute(source, chosen, None if config is None else read_json(config))
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    elif not quiet:
        for key, value in summary.items():
            out.print(f"  {key:<18}{words(value)}", highlight=False, soft_wrap=True)
