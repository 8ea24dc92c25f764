"""The way from one sample to another, picture by picture, beside the straight line."""

from __future__ import annotations

import torch

from ...analysis.paths import KINDS
from ...figures.morph import morph_strips
from ...figures.style import ACCENT, QUIET
from ...progress import Progress
from ...recipes.morph import WORDS, Morph, MorphSettings, morph
from .. import show
from ..checks import MAX_PICTURES, Values, chosen, condition, integer, seed
from ..script import write_script
from ..server_state import ServerState
from ..show import Answer

#: Kinds of path as the page names them; the straight line is always beside.
PATHS = {WORDS[kind]: kind for kind in KINDS if kind != "straight"}
#: What a visitor's path may spend: levels, rounds, walkers and draws, and no densities, which cost the most.
_BUDGET = {"levels": 6, "rounds": 3, "walkers": 4, "draws": 4, "probes": 0}


def morph_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """A path between two samples under a slider, beside the straight line."""
    request, sampler = server_state.request(values)
    kind = PATHS[chosen(values["path"], "path", tuple(PATHS))]
    points = integer(values["pictures"], "number of pictures", 3, MAX_PICTURES)
    other, told = seed(values, "other seed"), condition(values["other end"], sampler.model)
    ends = (str(request.seeds[0]), str(other) if told is None else f"{other}@{told}")
    settings = MorphSettings(("straight", kind), points, **_BUDGET)
    result = morph(sampler, request, *ends, settings, progress)
    frames = {WORDS[name]: pictures for name, pictures in zip(result.paths, result.pictures, strict=True)}
    captions = [f"picture {k + 1} of {points}: {k / (points - 1):.0%} of the way" for k in range(points)]
    film = show.film(frames, captions, points // 2, chart=_pulls(result), split=2)
    script = write_script("morph", request, morph, morph_strips, settings, ends)
    return show.answer("morph", _compared(result), result, morph_strips, script, film=film)


def _pulls(result: Morph) -> show.View:
    """What the network takes away from each picture, along both paths."""
    shares = torch.linspace(0, 1, result.residual.shape[1], dtype=torch.float64)
    looks = zip(result.paths, result.residual, (QUIET, ACCENT), strict=True)
    lines = [show.line(WORDS[name], torch.stack([shares, row], 1), colour) for name, row, colour in looks]
    unit = "root mean square of what it takes away"
    return show.chart("how far the network moves each picture", "share of the way", unit, lines)


def _compared(result: Morph) -> list[str]:
    middle = result.residual.shape[1] // 2
    straight, path = result.residual[:, middle].tolist()
    name, ratio = WORDS[result.paths[1]], float(result.residual_level.ratio)
    return [
        f"From {result.ends[0]} to {result.ends[1]}. A picture halfway along the straight line is both pictures at "
        "once; one of a good path is a picture of its own.",
        f"The chart says how far the network moves a picture that was given a little noise (σ/α = {ratio:.2g}): "
        f"halfway {straight:.2g} on the straight line and {path:.2g} on the path, called {name}, which is "
        f"{float(result.length[1]):.2g} times as long. A picture that the network knows is moved less than a mixture "
        "of two; one without detail is moved least of all.",
    ]
