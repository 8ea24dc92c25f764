"""Commands that hold a model against the theory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..files import check_folder, check_targets
from .base import (
    ANALYSE,
    app,
    finish,
    given,
    kept_in,
    look_at,
    only,
    out,
    parse_numbers,
    parse_seeds,
    progress_bars,
    say_check,
    tell,
    the_model,
)
from .options import (
    AlongOption,
    ClassesOption,
    ClassOption,
    ColumnOption,
    DataGaussianOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    FolderOption,
    FullOption,
    GuidanceOption,
    GuidancesOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    ModelNamedOption,
    ModelOption,
    NegativeOption,
    PromptOption,
    PromptsOption,
    QuietOption,
    SeedsOption,
    SolverOption,
    SplitOption,
    StatisticsOption,
    StepsOption,
)


@app.command(rich_help_panel=ANALYSE)
def report(
    model: ModelOption = "fashion-mnist",
    data: DataOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    labelled: LabelsOption = True,
    gaussian: DataGaussianOption = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="Number of the model's own samples that stand for data that are not at hand."),
    ] = None,
    seeds: SeedsOption = "0-63",
    steps: StepsOption = 51,
    solver: SolverOption = "ddim",
    prompts: PromptsOption = None,
    classes: ClassesOption = None,
    guidance: GuidancesOption = None,
    negative: NegativeOption = None,
    regimes: Annotated[
        bool,
        typer.Option(
            "--regimes",
            help="Show the three regimes along the noise, too: 32 seeds are cloned, for about a third more calls of "
            "the network, and 64 images of the data are held out.",
        ),
    ] = False,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for index.html, figures/ and results.json.")
    ] = Path("report"),
    frechet: Annotated[
        int | None,
        typer.Option(
            "--frechet",
            help="Number of samples for each Fréchet distance; 0 leaves these out. Default: 300, or 5,000 with --full.",
        ),
    ] = None,
    full: FullOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare a trained network's sampling with the closed-form theory, and write a page on what was found.

    Of several prompts and guidance weights, the page is about the first of each and compares all of them in a section.
    Sections are kept as they are found, until the page is written: interrupted, the same command goes on.

    Example: underpaint report --model fashion-mnist --seeds 0-63 --out report/
    """
    chosen = parse_seeds(seeds)
    targets = ("index.html", "results.json", "figures/geometry.png", "parts/first.safetensors")
    check_folder(folder)
    check_targets(*(folder / name for name in targets))
    from ..recipes.report.build import report as compute
    from ..recipes.report.settings import Settings
    from ..recipes.shared.checkpoints import drop_parts
    from ..recipes.shared.model_and_data import Sources

    asked = ((*(prompts or ()), *(classes or ())), tuple(guidance or (1.0,)), negative)
    sources = Sources(model, data, split, column, labelled, gaussian, device, dtype, samples)
    judged = frechet if frechet is not None else 5000 if full else 300
    settings = Settings(sources, chosen, steps, solver, judged, full, *asked, regimes)
    with kept_in(folder / "parts"), progress_bars(quiet) as progress:
        computed = compute(settings, progress, folder / "parts", tell(quiet))
        from ..figures.report_page import write_report

        results = write_report(computed, folder, progress)
    drop_parts(folder / "parts")
    if not (as_json or quiet):
        say_check(computed.check)
    left = [f"Left out: {name} ({why})." for name, why in computed.left_out.items()]
    words = (f"Data: {computed.setup['data']}.", *left)
    finish(results, as_json, quiet, *words, then=f"Open {folder / 'index.html'}")


@app.command(rich_help_panel=ANALYSE)
def check(
    model: ModelArgument = None,
    named: ModelNamedOption = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Images it was trained on, to denoise in place of its own samples.")
    ] = None,
    label: ClassOption = None,
    prompt: PromptOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Is this network a denoiser of its stated schedule? Prints a number and a verdict for each measure, in seconds.

    Exit code 1 if it is not.

    Example: underpaint check my_module:my_model
    """
    model = the_model(model, named)
    from ..recipes.shared.check import check_model
    from ..recipes.shared.request import Request
    from ..recipes.shared.results import to_json

    with progress_bars(quiet) as progress:
        request = Request(model, given(prompt, label), device=device, dtype=dtype)
        found = check_model(request, data, progress, tell(quiet or as_json))
    if as_json:
        said = {"verdict": found.verdict, "short": found.short, "finding": found.short}
        print(json.dumps(to_json(found) | said, ensure_ascii=False))
    else:
        out.print(str(found), highlight=False, soft_wrap=True, markup=False)
    if not found.sound:
        raise typer.Exit(1)


@app.command(rich_help_panel=ANALYSE)
def trajectory(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model, as for the other commands; may be given several times."),
    ] = None,
    prompts: PromptsOption = None,
    classes: ClassesOption = None,
    guidance: GuidancesOption = None,
    negative: NegativeOption = None,
    seeds: SeedsOption = "0-31",
    steps: StepsOption = 51,
    solver: SolverOption = "ddim",
    chunk: Annotated[int, typer.Option("--chunk", help="Number of seeds that are measured and stored at a time.")] = 16,
    states: Annotated[bool, typer.Option("--states", help="Store the trajectories themselves, too.")] = False,
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for what is measured; with the same folder, the work goes on.")
    ] = Path("trajectory"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the geometry of many trajectories, and compare models, conditions and guidance.

    What is measured is kept in the folder: interrupted, the same command goes on.

    Example: underpaint trajectory --class 1 --class 7 --guidance 1 --guidance 3 --out trajectory/
    """
    chosen = parse_seeds(seeds)
    check_folder(folder)
    check_targets(folder / "results.json", folder / "table.csv", folder / "chunks" / "first.safetensors")
    from ..figures.geometry import write_survey
    from ..recipes.shared.request import Request
    from ..recipes.trajectory import prepare_all, survey

    conditions, weights = (*(prompts or ()), *(classes or ())), tuple(guidance or (1.0,))
    asked = (conditions, weights, negative, chosen, steps, solver, tuple(gaussian or ()), device, dtype)
    with kept_in(folder / "chunks"), progress_bars(quiet) as progress:
        prepared = prepare_all([Request(name, *asked) for name in models or ["fashion-mnist"]])
        result = survey(prepared, chosen, folder / "chunks", chunk, states, progress)
    finish(write_survey(result, folder), as_json, quiet, then=look_at(folder, "geometry.png"))


@app.command(rich_help_panel=ANALYSE)
def compare(
    model: ModelOption = "fashion-mnist",
    data: DataOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    labelled: LabelsOption = True,
    gaussian: DataGaussianOption = None,
    images: Annotated[int, typer.Option("--images", help="Number of images of the data to add noise to.")] = 32,
    seeds: SeedsOption = "0-15",
    steps: StepsOption = 40,
    solver: SolverOption = "dpmpp-2m",
    label: ClassOption = None,
    local: Annotated[
        int,
        typer.Option("--local", help="Number of images that smoothed and local denoisers know; 0 leaves these out."),
    ] = 1000,
    released: Annotated[
        int, typer.Option("--released", help="Number of images that released denoisers know; 0: as many as --local.")
    ] = 0,
    shared: Annotated[
        int,
        typer.Option(
            "--shared",
            help="Number of images, of those of --local, whose patches all places share; 0: as many as keep the time "
            "in bounds (1,000 of 28 × 28 pixels). Time grows with it.",
        ),
    ] = 0,
    tune_shared: Annotated[
        int,
        typer.Option(
            "--tune-shared",
            help="Number of images, of those of --shared, that size and temperature of shared patches are chosen with; "
            "0: as many as keep the time in bounds (142 of 28 × 28 pixels).",
        ),
    ] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("comparison"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare a network with every analytic denoiser, ours and released ones, at every noise level: tables, sweeps,
    figures.

    Denoisers of data are judged on images that they do not know. Families are tuned on other seeds and images than
    those shown; of all, a stitched denoiser takes the best at each level, and a blended one a weighted sum of those
    that help.

    Example: underpaint compare --model fashion-mnist --seeds 0-15 --out comparison/
    """
    chosen = parse_seeds(seeds)
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.comparison import write_comparison
    from ..recipes.compare.comparison import Settings, compare as compute, tables
    from ..recipes.compare.families import Sweeps
    from ..recipes.shared.model_and_data import Sources

    sources = Sources(model, data, split, column, labelled, gaussian, device, dtype)
    sweeps = Sweeps(local=local, released=released, shared=shared, tune_shared=tune_shared)
    settings = Settings(sources, label, images, chosen, steps, solver, sweeps=sweeps)
    with progress_bars(quiet) as progress:
        result = compute(settings, progress)
    data = f"Data: {result.setup['data']}."
    then = look_at(folder, "agreement.png")
    finish(write_comparison(result, folder), as_json, quiet, data, tables(result), then=then)


@app.command(rich_help_panel=ANALYSE)
def retrieve(
    model: ModelOption = "fashion-mnist",
    data: DataOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    labelled: LabelsOption = True,
    seeds: SeedsOption = "0-15",
    steps: StepsOption = 25,
    solver: SolverOption = "dpmpp-2m",
    label: ClassOption = None,
    samples: Annotated[int, typer.Option("--samples", help="Number of finished images to check for copies.")] = 128,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("retrieval"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look up the training images nearest to samples on their way, and check whether samples copy them.

    Example: underpaint retrieve --model fashion-mnist --seeds 0-15 --out retrieval/
    """
    chosen = parse_seeds(seeds)
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.retrieval import write_retrieval
    from ..recipes.retrieve import Settings, retrieve as compute
    from ..recipes.shared.model_and_data import Sources

    sources = Sources(model, data, split, column, labelled, device=device, dtype=dtype)
    settings = Settings(sources, label, chosen, steps, solver, samples)
    with progress_bars(quiet) as progress:
        result = compute(settings, progress)
    data = f"Data: {result.setup['data']}."
    finish(write_retrieval(result, folder), as_json, quiet, data, then=look_at(folder, "suspects.png"))


@app.command(rich_help_panel=ANALYSE)
def regimes(
    model: ModelOption = "fashion-mnist",
    prompt: PromptOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    data: DataOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    labelled: LabelsOption = True,
    gaussian: DataGaussianOption = None,
    images: Annotated[int, typer.Option("--images", help="Number of held-out images to add noise to.")] = 64,
    levels: Annotated[int, typer.Option("--levels", help="Number of noise levels at which samples are cloned.")] = 8,
    nudge: Annotated[
        float,
        typer.Option("--nudge", help="Move clones by this share of the noise, and leave the rest to the flow."),
    ] = 0.0,
    seeds: SeedsOption = "0-31",
    steps: StepsOption = 30,
    solver: SolverOption = "dpmpp-2m",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("regimes"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the noise levels at which classes are decided, and at which the exact score collapses on single images:
    predicted and measured.

    Example: underpaint regimes --model fashion-mnist --seeds 0-31 --out regimes/
    """
    chosen = parse_seeds(seeds)
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.regimes import write_regimes
    from ..recipes.regimes import Settings, regimes as compute, tables
    from ..recipes.shared.model_and_data import Sources

    sources = Sources(model, data, split, column, labelled, gaussian, device, dtype)
    asked = only(given(prompt, label)), guidance, nudge
    settings = Settings(sources, chosen, steps, solver, levels, images, 20, *asked)
    with progress_bars(quiet) as progress:
        result = compute(settings, progress)
    data = f"Data: {result.setup['data']}."
    then = look_at(folder, "regimes.png")
    finish(write_regimes(result, folder), as_json, quiet, data, tables(result), then=then)


@app.command(rich_help_panel=ANALYSE)
def perturb(
    model: ModelOption = "fashion-mnist",
    prompt: PromptOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    seeds: SeedsOption = "0-3",
    steps: StepsOption = 30,
    solver: SolverOption = "ddim",
    along: AlongOption = None,
    at: Annotated[str | None, typer.Option("--at", help="Steps after which to nudge, such as 0,10,20.")] = None,
    magnitudes: Annotated[
        str, typer.Option("--magnitudes", help="Lengths of the nudges, in the unit of --unit.")
    ] = "-8,-4,-2,2,4,8",
    unit: Annotated[
        str, typer.Option("--unit", help="Unit of the lengths: sigma of the noise level, or norm of the state.")
    ] = "sigma",
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("perturb"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Nudge samples on their way, and compare what becomes of the nudge with what the theory predicts.

    Example: underpaint perturb --class 7 --along data:1 --along x0:1 --out perturb/
    """
    chosen, sizes, when = (
        parse_seeds(seeds),
        parse_numbers(magnitudes),
        parse_seeds(at, "Steps") if at is not None else (),
    )
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.perturbation import write_perturbed
    from ..recipes.perturb import Nudges, perturb as compute
    from ..recipes.shared.request import Request, prepare

    asked = (given(prompt, label), (guidance,), negative, chosen, steps, solver, tuple(gaussian or ()), device, dtype)
    nudges, request = Nudges(tuple(along or ("x0:1",)), when, sizes, unit), Request(model, *asked)
    with progress_bars(quiet) as progress:
        result = compute(prepare(request), request, nudges, progress)
    finish(write_perturbed(result, folder), as_json, quiet, then=look_at(folder, "gain.png"))


@app.command("map", rich_help_panel=ANALYSE)
def map_command(
    model: ModelOption = "fashion-mnist",
    prompt: PromptOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample to look around.")] = 0,
    steps: StepsOption = 30,
    solver: SolverOption = "ddim",
    along: AlongOption = None,
    span: Annotated[float, typer.Option("--span", help="How far to move, as a share of the state's length.")] = 0.5,
    points: Annotated[int, typer.Option("--points", help="Number of images in a strip; it is odd.")] = 7,
    enter: Annotated[
        int | None,
        typer.Option("--enter", help="Step after which the state is moved. Default: move the finished sample."),
    ] = None,
    toward: Annotated[
        str | None, typer.Option("--toward", help="A prompt or class into which the grid's second axis blends.")
    ] = None,
    ratio: Annotated[
        float, typer.Option("--sigma", help="Noise-to-signal ratio σ/α at which the moved sample is denoised.")
    ] = 0.2,
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("map"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map the images around a sample, and measure which directions stay on the manifold of images.

    Example: underpaint map --class 7 --enter 12 --toward 8 --out map/
    """
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.maps import write_map
    from ..recipes.map import MapSettings, map_around
    from ..recipes.shared.request import Request, prepare

    asked = (given(prompt, label), (guidance,), negative, (seed,), steps, solver, tuple(gaussian or ()), device, dtype)
    chart, request = (
        MapSettings(tuple(along or MapSettings.along), span, points, enter, toward, ratio),
        Request(model, *asked),
    )
    with progress_bars(quiet) as progress:
        result = map_around(prepare(request), request, chart, progress)
    finish(write_map(result, folder), as_json, quiet, then=look_at(folder, "map.png"))


@app.command(rich_help_panel=ANALYSE)
def morph(
    start: Annotated[
        str, typer.Argument(metavar="A", help="A seed (3), a seed and its condition (3@7), or a picture.")
    ],
    end: Annotated[str, typer.Argument(metavar="B", help="Where to go, given in the same way.")],
    model: ModelOption = "fashion-mnist",
    prompt: PromptOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    negative: NegativeOption = None,
    steps: StepsOption = 30,
    solver: SolverOption = "ddim",
    paths: Annotated[
        str, typer.Option("--paths", help="Paths to find: some of straight, noise, minimum-energy, principal.")
    ] = "straight,noise,minimum-energy,principal",
    points: Annotated[int, typer.Option("--points", help="Number of pictures of a path, both ends included.")] = 11,
    ratio: Annotated[
        float,
        typer.Option("--sigma", help="Lowest σ/α at which the network shapes a path; densities are measured there."),
    ] = 0.3,
    walkers: Annotated[
        int, typer.Option("--walkers", help="Number of noisy pictures for each point of a principal curve.")
    ] = 8,
    rounds: Annotated[
        int, typer.Option("--rounds", help="How often a path is shaped anew at each of 10 noise levels.")
    ] = 6,
    gaussian: StatisticsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    folder: FolderOption = Path("morph"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go from one picture to another along paths that stay where the network knows pictures.

    Writes a film strip and an animation of each path, and measures how well its pictures stay among images.

    Example: underpaint morph 3@7 8@9 --out morph/
    """
    check_folder(folder)
    check_targets(folder / "results.json")
    from ..figures.morph import write_morph
    from ..recipes.morph import MorphSettings, morph as compute, prepare_ends
    from ..recipes.shared.request import Request

    asked = ((guidance,), negative, (0,), steps, solver, tuple(gaussian or ()), device, dtype)
    request = Request(model, given(prompt, label), *asked)
    settings = MorphSettings(tuple(paths.split(",")), points, ratio, rounds=rounds, walkers=walkers)
    with progress_bars(quiet) as progress:
        result = compute(prepare_ends(request, start, end), request, start, end, settings, progress)
    changed = [f"{name} was {how}." for name, how in result.setup["changed"].items()]
    finish(write_morph(result, folder), as_json, quiet, *changed, then=look_at(folder, "morph.png"))
