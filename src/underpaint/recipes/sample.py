"""Sample images and write them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..assets import folder as boxed
from ..bounds import check_seeds
from ..data.store import load_gaussian
from ..files import check_folder, replacing
from ..models.checking.measures import size_of
from ..models.model import Condition, Model
from ..noise import NoiseLevel
from ..progress import Progress, silent
from ..sampling.fitted import read_calibration
from ..sampling.solvers import Solver, find_solver
from ..sampling.teleport import steps_above, teleport
from ..sampling.trajectory import initial_noise, sample
from ..theory.gaussian import Gaussian
from .shared.request import Request, cases, find_denoiser, load_on, network_calls

_OF_ALL = (
    "The jump is by the Gaussian of all the data, and a class or a prompt leads away from it, so images may become "
    "others. Give --gaussian with statistics of what is asked for, or a plan of `underpaint calibrate` in its place."
)
_TOO_STRONG = "Or a guidance of {:g} is too strong: give a --guidance nearer to 1."
_TOO_LOW = (
    "Or the jump lands too low, where a Gaussian's samples are no images any more: give --teleport a higher ratio."
)


@dataclass(frozen=True)
class SampleRequest:
    """What to sample: ``condition`` is a class or a prompt, ``teleport`` the ratio sigma/alpha to skip to in closed
    form, ``calibration`` a file whose plan for ``steps`` calls takes the place of solver and grid; ``solver`` is
    dpmpp-2m unless told; ``device`` and ``dtype`` are of the network."""

    model: str = "fashion-mnist"
    seeds: tuple[int, ...] = tuple(range(16))
    steps: int = 25
    solver: str | None = None
    teleport: float | None = None
    condition: Condition | None = None
    guidance: float = 1.0
    gaussian: str | None = None
    negative: str | None = None
    calibration: str | None = None
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_seeds(self.seeds)


@dataclass(frozen=True, eq=False)
class Samples:
    """Images [B, C, H, W] in [0, 1] for the request's seeds, and how they were made."""

    images: Tensor
    seeds: tuple[int, ...]
    summary: dict[str, Any]

    @property
    def finding(self) -> str:
        """How many images in how many calls, and what a jump replaced."""
        calls, skip = self.summary["nfe"], self.summary["skip"]
        images = "1 image" if len(self.seeds) == 1 else f"{len(self.seeds)} images"
        words = f"{images}, {calls} {'call' if calls == 1 else 'calls'} of the network each."
        if not skip:
            return words
        steps = "The first step was" if skip == 1 else f"The first {skip} steps were"
        return f"{words} {steps} taken in closed form, down to σ/α {self.summary['teleported_to']:.3g}."


def generate(request: SampleRequest, progress: Progress = silent, batch: int = 64) -> Samples:
    """Sample one image a seed, deterministically; a seed gives the same image in any company (to rounding).

    Raises:
        ValueError: unknown model, solver or class; a teleport or a calibration without statistics, or both of them, or
            statistics without either; a solver beside a calibration; a jump beyond the grid; no plan of so many calls.
    """
    if request.gaussian is not None and request.teleport is None and request.calibration is None:
        raise ValueError("Statistics are for --teleport or --calibration; give one of them, too, or no --gaussian.")
    if request.solver is not None and request.calibration is not None:
        raise ValueError(f"A calibrated plan is a solver; give --solver {request.solver} or --calibration, not both.")
    made = "dpmpp-2m" if request.solver is None else request.solver
    model, solver = load_on(request.model, request.device, request.dtype), find_solver(made)
    asked = Request(
        request.model,
        () if request.condition is None else (request.condition,),
        (request.guidance,),
        request.negative,
    )
    (case,) = cases(asked, model)
    denoise = find_denoiser(model, case)
    level = model.schedule.grid(request.steps)
    skip, gaussian = 0, None
    if request.calibration is not None:
        solver, level, made = _calibrated(request, model)
    elif request.teleport is not None:
        gaussian = _statistics(request, model)
        skip = steps_above(level, request.teleport)
        if skip and case.condition is not None and request.gaussian is None:
            warnings.warn(_OF_ALL, stacklevel=2)
    parts = [request.seeds[start : start + batch] for start in range(0, len(request.seeds), batch)]
    advance = progress("sampling", len(parts) * (len(level) - 1 - skip))
    finals, nfe = [], 0
    for part in parts:
        x = initial_noise(part, model.dimension, level[0])
        if gaussian is None:
            run = sample(denoise, x, level, solver, lambda *_: advance(), every=len(level))
        else:
            run = teleport(gaussian, denoise, x, level, skip, solver, lambda *_: advance(), every=len(level))
        finals.append(run.final)
        nfe = run.nfe * network_calls(model, case)
    rows = torch.cat(finals)
    size = size_of(model, rows)
    landed = {"skip": skip, "teleported_to": float(level.ratio[skip])} if skip else {"skip": 0}
    summary = asdict(request) | landed | {"solver": made, "nfe": nfe, "left_off": model.notes.get("left off")}
    doubts = [_TOO_LOW] * bool(skip) + [_TOO_STRONG.format(case.guidance)] * (not 0 <= case.guidance <= 1)
    summary["outside"] = None if size.verdict == "holds" else " ".join([size.means, *doubts])
    return Samples(model.images(rows), request.seeds, summary)


def _calibrated(request: SampleRequest, model: Model) -> tuple[Solver, NoiseLevel, str]:
    """The solver of a calibration's plan for the calls that are asked for, its grid, and what the solver is called."""
    if request.teleport is not None:
        raise ValueError("A calibrated plan begins with its own jump; give --teleport or --calibration, not both.")
    calibration = read_calibration(str(request.calibration))
    solver, level = calibration.solver(_statistics(request, model), request.steps)
    return solver, level, calibration.plan(request.steps).solver


def _statistics(request: SampleRequest, model: Model) -> Gaussian:
    source = request.gaussian
    if source is None and boxed(request.model):
        source = request.model
    if source is None:
        raise ValueError(
            f"A jump needs the Gaussian of the data that {request.model} was trained on; give a file with --gaussian."
        )
    gaussian = load_gaussian(source)
    if gaussian.dimension != model.dimension:
        raise ValueError(
            f"The statistics are of dimension {gaussian.dimension}, the model's images of {model.dimension}."
        )
    return gaussian


def places(seeds: Sequence[int], place: Path) -> list[Path]:
    """The files that `write_images` writes.

    Raises:
        ValueError: the place is no folder, and ends as files of another kind do.
    """
    if place.suffix.lower() == ".png":
        return [place]
    check_folder(place, "a folder, or a name that ends in .png")
    return [place / f"seed-{seed:06d}.png" for seed in seeds]


def write_images(samples: Samples, place: Path) -> list[Path]:
    """Write one grid if place ends in .png, else a folder with one PNG a seed; each says in its metadata how it was
    made."""
    paths = places(samples.seeds, place)
    if paths == [place]:
        columns = min(8, max(1, round(len(samples.seeds) ** 0.5)) if len(samples.seeds) < 64 else 8)
        _write_png(_sheet(samples.images, columns), place, samples.summary)
        return paths
    for path, seed, image in zip(paths, samples.seeds, samples.images, strict=True):
        _write_png(image, path, samples.summary | {"seeds": [seed]})
    return paths


def _sheet(images: Tensor, columns: int) -> Tensor:
    """Images side by side, row by row, the last row filled with black."""
    rows = -(-len(images) // columns)
    full = torch.zeros(rows * columns, *images.shape[1:])
    full[: len(images)] = images
    return full.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _write_png(image: Tensor, path: Path, summary: dict[str, Any]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    array = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    notes = PngInfo()
    notes.add_text("underpaint", json.dumps(summary))
    with replacing(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", pnginfo=notes)
