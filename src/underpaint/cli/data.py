"""Commands for data and files: statistics, converted checkpoints."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files import check_targets, read_json
from .base import DATA, app, err, finish, kept_in, progress_bars, words
from .options import (
    ClassOption,
    ColumnOption,
    DeviceOption,
    DtypeOption,
    FeaturesOption,
    GuidanceOption,
    JsonOption,
    NegativeOption,
    PromptOption,
    QuietOption,
    SplitOption,
)

if TYPE_CHECKING:
    from ..recipes.shared.request import Conditioning

#: What to do with statistics of a model's data.
_USE = "Give them to `underpaint report`, `sample`, `calibrate` or `bench` as --gaussian."


@app.command(rich_help_panel=DATA)
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
    split: SplitOption = "train",
    column: ColumnOption = None,
    encoder: Annotated[
        str | None, typer.Option("--latents", help="Take statistics of the latents that this model makes of pictures.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            help="DATA is a model: take statistics of so many of its samples, or compare with these (--jacobian).",
        ),
    ] = None,
    jacobian: Annotated[
        bool,
        typer.Option(
            "--jacobian", help="DATA is a model: take the statistics of its data that its network states at high noise."
        ),
    ] = False,
    prompt: PromptOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    features: FeaturesOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    kind: Annotated[
        str, typer.Option("--kind", help="Form of the covariance: auto, full, low-rank or stationary.")
    ] = "auto",
    rank: Annotated[int | None, typer.Option("--rank", help="Number of directions to keep.")] = None,
    memory: Annotated[str, typer.Option("--memory", help="Memory that may be used, such as 8GB or 500MB.")] = "8GB",
    classes: Annotated[
        bool,
        typer.Option(
            "--classes/--no-classes", "--labels/--no-labels", help="Take statistics of each class, too, or do not."
        ),
    ] = True,
    shrinkage: Annotated[
        str | None,
        typer.Option("--shrinkage", help="ledoit-wolf: correct the eigenvalues, which few items tell badly."),
    ] = None,
    precise: Annotated[bool, typer.Option("--precise", help="Compute everything in float64.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an item that cannot be read.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="File for the sums so far. Default: beside --out.")
    ] = None,
    groups: Annotated[
        int, typer.Option("--groups", help="Number of parts of the work, for as many processes at most.")
    ] = 64,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take mean and covariance of data, in one pass that can be stopped, resumed and shared by torchrun.

    With --features, they are those of the pictures' features, as .npz: the reference that `underpaint bench --samples`
    takes. With --jacobian, they are those that a network states of data that are not at hand, beside the variances of a
    few samples.

    Example: underpaint stats images/ --size 32 --out stats.safetensors
    """
    place = place or Path("stats.safetensors" if features is None else "stats.npz")
    if features is not None and place.suffix != ".npz":
        raise ValueError(f"Statistics of features are written as .npz, got --out {place}.")
    part = checkpoint or place.with_name(f"{place.name}.part")
    check_targets(place, part, place.with_name(f"{place.stem}.mean.png"), sources=[data])
    from ..recipes.shared.processes import is_first_process
    from ..recipes.statistics.accumulation import take_statistics
    from ..recipes.statistics.memory_plan import Settings, parse_memory, plan_statistics
    from ..recipes.statistics.sources import open_data, parse_size

    if jacobian:
        _from_network(data, place, rank, samples, (prompt, label, guidance, negative), device, dtype, as_json, quiet)
        return
    settings = Settings(kind, rank, parse_memory(memory), classes, precise, strict, groups, shrinkage=shrinkage)
    case = _case(prompt, label, guidance, negative)
    asked = (parse_size(size), mode, split, encoder, samples, features, device, column, case, classes, dtype)
    source = open_data(data, *asked)
    plan = plan_statistics(source, settings)
    with kept_in(part), progress_bars(quiet) as progress:
        if not quiet and is_first_process():
            err.print(plan.words, highlight=False, soft_wrap=True)
        result = take_statistics(plan, part, progress)
        if result is None:
            return
        result.save(place)
    from ..figures.statistics import write_picture

    picture = write_picture(
        result.gaussian, source.shape if source.pixels else (), place.with_name(f"{place.stem}.mean.png")
    )
    results = {"finding": result.finding} | result.notes
    results |= {"file": str(place), "picture": None if picture is None else str(picture)}
    told = [result.table, f"Read as: {source.handling}"]
    told += [] if picture is None else [f"Mean and first components: {picture}"]
    use = "Give them to `underpaint bench --samples N` as --reference." if features else _USE
    finish(results, as_json, quiet, *told, then=f"Statistics: {place}. {use}")


def _case(prompt: str | None, label: int | None, guidance: float, negative: str | None) -> Conditioning:
    from ..recipes.shared.request import Conditioning

    if prompt is not None and label is not None:
        raise ValueError("Give a --prompt or a --class, not both.")
    return Conditioning(label if prompt is None else prompt, guidance, negative)


def _from_network(
    model: str,
    place: Path,
    rank: int | None,
    samples: int | None,
    case: tuple[str | None, int | None, float, str | None],
    device: str | None,
    dtype: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from ..recipes.statistics.from_network import take_from_network

    result = take_from_network(model, rank, samples, _case(*case), device, dtype)
    result.save(place)
    results = {"finding": result.finding} | result.notes | {"file": str(place)}
    finish(results, as_json, quiet, result.table, then=f"Statistics: {place}. {_USE}")


@app.command(rich_help_panel=DATA)
def convert(
    source: Annotated[Path, typer.Argument(help="An EDM snapshot of NVIDIA's (network-snapshot-*.pkl).")],
    place: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write. Default: the same name, with the ending .safetensors."),
    ] = None,
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
    check_targets(chosen, sources=[source])
    from ..recipes.convert import convert as compute

    summary = compute(source, chosen, None if config is None else read_json(config))
    lines = [f"  {key:<18}{words(value)}" for key, value in summary.items() if key != "finding"]
    finish(summary, as_json, quiet, *lines, then=f"To check it: underpaint check {shlex.quote(str(chosen))}")
