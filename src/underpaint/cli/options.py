"""What commands share: options that look and read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MODEL = (
    "A model that comes with underpaint (see `underpaint models`), a folder in diffusers' format, a name on the "
    "Hugging Face hub, or your own my_module:my_function that returns a Model."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", help=_MODEL)]
ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help=_MODEL)]
ModelNamedOption = Annotated[
    str | None, typer.Option("--model", "-m", help="The same: MODEL may also be given like this.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The model's data: a name, a folder, a file, or hf:NAME. Default: the data that the model names.",
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="Split to read, of data that have several.")]
ColumnOption = Annotated[
    str | None,
    typer.Option("--column", help="Column to read, of tables and of tar shards with several pictures under one name."),
]
LabelsOption = Annotated[
    bool, typer.Option("--labels/--no-labels", help="Read the labels of the data, as classes, or do not.")
]
DataGaussianOption = Annotated[
    str | None,
    typer.Option(
        "--gaussian", help="Statistics of the data: a file of `underpaint stats`. Default: they are taken of --data."
    ),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds of the starting noise, such as 0-63 or 1,5,9-12.")]
StepsOption = Annotated[int, typer.Option("--steps", help="Steps of the sampling grid.")]
_SOLVERS = "Solver: ddim, euler, heun, dpmpp-2m or dpmpp-3m."
SolverOption = Annotated[str, typer.Option("--solver", help=_SOLVERS)]
SolverUnlessPlannedOption = Annotated[str | None, typer.Option("--solver", help=f"{_SOLVERS} Default: dpmpp-2m.")]
FullOption = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Take 5,000 samples for Fréchet distances, and spend saved calls on finer steps (an hour on 2 cores).",
    ),
]
TeleportOption = Annotated[
    float | None,
    typer.Option(
        "--teleport",
        metavar="SIGMA",
        help="Replace the steps above this ratio σ/α by one in closed form. It saves their calls.",
    ),
]
ClassOption = Annotated[int | None, typer.Option("--class", help="Class label, for models that know classes.")]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="What to paint, for models that take prompts.")]
ClassesOption = Annotated[list[int] | None, typer.Option("--class", help="Class label; may be given several times.")]
PromptsOption = Annotated[list[str] | None, typer.Option("--prompt", help="Prompt; may be given several times.")]
GuidancesOption = Annotated[
    list[float] | None, typer.Option("--guidance", help="Guidance weight; may be given several times. Default: 1.")
]
NegativeOption = Annotated[
    str | None, typer.Option("--negative", help="Prompt or class to lead away from; default: none.")
]
GuidanceOption = Annotated[float, typer.Option("--guidance", help="Classifier-free guidance weight; 1 is none.")]
GaussianOption = Annotated[
    str | None,
    typer.Option(
        "--gaussian",
        help="Statistics for --teleport or --calibration: a file of `underpaint stats`. Default: those that come with "
        "the model.",
    ),
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        help="A file of `underpaint calibrate`. Its plan for --steps calls is solver and grid.",
    ),
]
StatisticsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gaussian",
        help="Statistics of the data: FILE for all of them, or CONDITION=FILE; may be given several times. Default: "
        "those that come with the model.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Where the network runs, such as cuda or cpu.")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="Precision of the network: float32, float16, bfloat16 or float64.")
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="Feature space of pictures: efficientnet-lite0, inception, the folder of a classifier, or your own "
        "module:function.",
    ),
]
AlongOption = Annotated[
    list[str] | None,
    typer.Option(
        "--along",
        help="Direction: x0:K or eps:K (principal component of the path of x̂_0 or ε̂), data:K, random:SEED, or a "
        ".safetensors file; may be given several times.",
    ),
]
FolderOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for figures and results.json.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no closing words.")]
