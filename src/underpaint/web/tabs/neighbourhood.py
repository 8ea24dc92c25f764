"""What lies around a sample: nudges on its way, a map of its neighbourhood, and the training images nearest to it."""

from __future__ import annotations

import torch

from ...figures import explorer as figures
from ...figures.explorer import level_names
from ...figures.maps import manifold_map
from ...figures.perturbation import displacements, magnitude_names, step_names
from ...figures.style import COLOURS, MODES
from ...progress import Progress
from ...recipes.explorer.nearest_images import NearestImages, NearestSettings, find_nearest_images
from ...recipes.map import Map, MapSettings, map_around
from ...recipes.perturb import Nudges, Perturbed, perturb
from ...recipes.shared.request import Request, Sampler, name_condition
from .. import show
from ..checks import MAX_POINTS, MAX_SEEDS, Values, condition, direction, integer, number, step
from ..script import write_script
from ..server_state import ServerState
from ..show import Answer, View, mean


def perturb_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """Nudges along one direction, by time and magnitude."""
    request, sampler = server_state.request(values)
    first, last = sorted(min(step(values, name, request.steps), request.steps - 1) for name in ("from", "to"))
    steps = tuple(sorted(set(torch.linspace(first, last, 5).round().int().tolist())))
    largest = number(values["magnitude"], "magnitude", 0.1, 100)
    sizes = tuple(round(sign * largest * share, 4) for sign in (-1, 1) for share in (0.25, 0.5, 1.0))
    nudges = Nudges((direction(values, "direction", "number"),), steps, sizes)
    result = perturb(sampler, request, nudges, progress)
    middle = len(sizes) // 2
    plain = result.plain.expand(len(steps), 1, *result.plain.shape)
    shown = torch.cat([result.images[0, :, :middle], plain, result.images[0, :, middle:]], 1)
    names = magnitude_names([*result.magnitude[:middle], 0, *result.magnitude[middle:]], "σ")
    title = f"finished pictures after a nudge along {result.directions[0]}: rows when, columns how far"
    beside = ("without a nudge", result.plain[None])
    view = show.grid(title, shown, step_names(result), names, _nudged(result, names), beside)
    words = [
        result.finding,
        "Lengths are in standard deviations of the noise at the step, so an early 4σ is far longer than a late one.",
        f"Theory: {result.setup['predicted from']}. It answers all lengths alike; where the measured lines part, the "
        "network is not linear.",
    ]
    script = write_script("perturb", request, perturb, displacements, nudges)
    charts = [_gains(result, names)]
    return show.answer("perturb", words, result, displacements, script, grids=[view], charts=charts)


def _gains(result: Perturbed, names: list[str]) -> View:
    """Displacement along the nudge by time, a line for each length."""
    ratio, lengths = result.level.ratio, [name for name in names if name != "plain"]
    lines = [
        show.line(name, torch.stack([ratio, result.along.mean[0, :, k]], 1), MODES[k]) for k, name in enumerate(lengths)
    ]
    if result.predicted_along is not None:
        foreseen = torch.stack([ratio, result.predicted_along.mean[0]], 1)
        lines.append(show.line("theory", foreseen, COLOURS["network"], dashed=True))
    axes = {"reverse": True, "logX": True}
    return show.chart("what becomes of a nudge", "σ/α at the nudge", "displacement along it / nudge", lines, **axes)


def _nudged(result: Perturbed, names: list[str]) -> list[list[str]]:
    """What each nudge did, along itself, beside the theory's number."""
    foreseen = result.predicted_along
    captions = []
    for i, when in enumerate(step_names(result)):
        theory = "" if foreseen is None else f" (theory: {float(foreseen.mean[0, i]):.2g})"
        moved = [f"a unit of nudge becomes {float(v):.2g}{theory}" for v in result.along.mean[0, i]]
        moved.insert(len(moved) // 2, "nothing moved")
        captions.append([f"{name} at {when}: {words}" for name, words in zip(names, moved, strict=True)])
    return captions


def map_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """The images around a sample."""
    request, sampler = server_state.request(values)
    chart = _chart(values, request, sampler)
    result = map_around(sampler, request, chart, progress)
    offsets = [f"{float(s):+.2g}".replace("-", "−") if s else "0" for s in result.offset]
    beside = ("the sample itself", result.strips[0, chart.points // 2][None])
    grids = []
    if result.grid is not None:
        rows = offsets[::-1] if result.blend is None else [f"{float(s):.0%}" for s in result.blend]
        other = chart.along[1] if result.blend is None else f"towards {name_condition(result.setup['toward'])}"
        captions = [[f"{across} along {chart.along[0]}, {row} {other}" for across in offsets] for row in rows]
        title = f"{chart.along[0]} across, {other} {'up' if result.blend is None else 'down'}"
        grids.append(show.grid(title, result.grid, rows, offsets, captions, beside))
    captions = [[f"{offset} along {name}" for offset in offsets] for name in result.directions]
    grids.append(show.grid("each direction by itself", result.strips, result.directions, offsets, captions, beside))
    script = write_script("map", request, map_around, manifold_map, chart)
    return show.answer("map", _mapped(result), result, manifold_map, script, grids=grids)


def _chart(values: Values, request: Request, sampler: Sampler) -> MapSettings:
    enter = step(values, "enter", request.steps)
    toward = condition(values.get("toward"), sampler.model)
    points = integer(values["points"], "number of points", 3, MAX_POINTS)
    along = (direction(values, "across", "across number"), direction(values, "down", "down number"))
    return MapSettings(
        along=tuple(dict.fromkeys(along)),
        span=number(values["span"], "span", 0.01, 3),
        points=points + 1 - points % 2,
        enter=min(enter, request.steps - 1) if toward is not None else enter,
        toward=None if toward is None else str(toward),
    )


def _mapped(result: Map) -> list[str]:
    finished = result.step == result.setup["steps"]
    moved = "the finished sample was moved" if finished else f"the state at step {result.step} was moved and sampled on"
    return [
        f"Here {moved}, by shares of its length. x0:1 is the first principal component of the path of the estimate, "
        "eps:1 of the noise's, data:1 of the data.",
        f"Is a direction one of images? {result.finding}",
    ]


def retrieve_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """The nearest training images along the way."""
    request, sampler = server_state.request(values)
    known = server_state.training_images(str(values["model"]), progress)
    count = integer(values["neighbours"], "number of neighbours", 1, MAX_SEEDS)
    lookup = NearestSettings(count)
    result = find_nearest_images(sampler, request, lookup, progress, known)
    ratios = level_names(result.level)
    names = ["network's estimate", *(f"nearest {k + 1}" for k in range(count)), "exact score's"]
    pictures = torch.stack([result.estimates, *result.neighbours.unbind(1), result.exact_estimates])
    beside = ("network's estimate", result.estimates)
    view = show.grid("by σ/α, from noise to image", pictures, names, ratios, _found(result, ratios), beside)
    words = [
        f"Searched: {result.source}. The finished picture lies {float(result.distance[-1, 0]):.2f} from the nearest of "
        f"them (root mean square per number of the state); each of them lies {mean(result.between)} from the nearest "
        "other. Much less than that would be a copy.",
    ]
    script = write_script("retrieve", request, find_nearest_images, figures.resemblance, lookup)
    return show.answer("retrieve", words, result, figures.resemblance, script, grids=[view])


def _found(result: NearestImages, ratios: list[str]) -> list[list[str]]:
    """Captions by row and column of the grid."""
    rows = [[f"The network's estimate at σ/α = {ratio}." for ratio in ratios]]
    for k in range(result.index.shape[1]):
        pairs = zip(ratios, result.index[:, k].tolist(), result.distance[:, k].tolist(), strict=True)
        rows.append([f"Training image {i}, {d:.2f} from the estimate at σ/α = {ratio}." for ratio, i, d in pairs])
    exact = zip(ratios, result.exact.tolist(), strict=True)
    return [*rows, [f"The exact score at σ/α = {ratio}: {d:.2g} from a training image." for ratio, d in exact]]
