"""Calls of the network that a jump saves, and solvers that spend equal calls."""

from __future__ import annotations

import torch

from ...figures import explorer as figures
from ...figures.explorer import level_names
from ...figures.style import COLOURS
from ...models.schedulers.peers import steps_of
from ...noise import NoiseLevel
from ...progress import Progress
from ...recipes.explorer.plans import doubts_of
from ...recipes.explorer.teleport import (
    AFTER,
    FROM_DATA,
    Hybrids,
    SolverComparison,
    SolverErrors,
    TeleportLengths,
    compare_solvers,
    compare_teleports,
)
from ...recipes.shared.request import Request, Sampler, only
from ...sampling.fitted import Calibration
from .. import show
from ..checks import Values, chosen, integer, number
from ..script import write_script
from ..server_state import MADE_PLAN, NO_PLAN, ServerState
from ..show import Answer, View, mean

#: Which levels solvers are compared on -> the lowest of them, or None for the schedule's own grid.
LEVELS = {"even in log σ/α": 0.1, "the model's own": None}


def teleport_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """Jumps of rising length against plain sampling."""
    request, sampler = server_state.request(values, values["seeds"])
    jumps = TeleportLengths(tolerance=number(values["tolerance"], "allowed error", 0.001, 10))
    result = compare_teleports(sampler, request, jumps, progress)
    frames = {f"seed {seed}, full": result.plain[k : k + 1] for k, seed in enumerate(request.seeds)}
    frames |= {f"seed {seed}, jump": result.finals[:, k] for k, seed in enumerate(request.seeds)}
    kinds = (("predicted", result.predicted, "Gaussian", True), ("measured", result.measured, "network", False))
    lines = [
        show.line(name, torch.stack([result.level.ratio, summary.mean], 1), COLOURS[colour], dashed)
        for name, summary, colour, dashed in kinds
    ]
    axes = {"reverse": True, "logX": True, "level": result.tolerance}
    unit = "standard deviations of the data; flat line: allowed"
    errors = show.chart("error: how far the final picture moves", "σ_skip", unit, lines, **axes)
    film = show.film(frames, _jumped(result), opens_at(result), chart=errors, split=len(request.seeds))
    script = write_script("teleport", request, compare_teleports, figures.jumps, jumps)
    return show.answer("teleport", _advice(result), result, figures.jumps, script, film=film)


def opens_at(result: Hybrids) -> int:
    """Which jump is shown first: the longest that theory allows; where it allows none, the shortest whose error is one
    standard deviation of the data, so that one sees what goes wrong, or half of one, if else the network were left
    hardly a step; or the longest."""
    if result.advised > 0:
        return result.skip.index(result.advised)
    shorter = result.measured.mean.tolist()[:-1]
    found = (k for least in (1, 0.5) for k, error in enumerate(shorter) if error >= least)
    return next(found, len(shorter))


def _jumped(result: Hybrids) -> list[str]:
    """A caption for each skip: where it lands, what it saves and what it costs."""
    full = result.nfe[0]
    rows = zip(
        result.skip, level_names(result.level), result.nfe, result.predicted.mean, result.measured.mean, strict=True
    )
    return [
        f"σ_skip = {ratio}: {skip} steps skipped, {nfe} calls instead of {full} ({full - nfe} saved); "
        f"error predicted {float(predicted):.2g}, measured {float(measured):.2g}"
        for skip, ratio, nfe, predicted, measured in rows
    ]


def _advice(result: Hybrids) -> list[str]:
    cost = float(result.measured.mean[result.skip.index(result.advised)])
    found = (
        f"the longest of these jumps within {result.tolerance:g} skips {result.advised} of {result.setup['steps']} "
        f"steps; measured, it costs {cost:.2g}"
        if result.advised
        else f"none of these jumps stays within {result.tolerance:g}"
    )
    return [
        f"The jump is one exact step of the {result.setup['jump by']}; the network takes the other "
        "steps. Errors are root mean squares over the picture, the mean of the seeds.",
        f"By its predicted error, {found}. The prediction is of first order: it does not see that a small change may "
        "tip a picture into another, nor that the network makes up for much of what a jump left out.",
    ]


def solvers_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """Solvers at equal calls, plain and after a jump."""
    request, sampler = server_state.request(values, values["seeds"])
    calls = integer(values["calls"], "number of calls", 2, 30)
    landing = 10 ** number(values["landing"], "power of ten of σ_skip", -0.5, 2)
    low = LEVELS[chosen(values["levels"], "levels", tuple(LEVELS))]
    source, plans, said = _plans(server_state, values, request, sampler, calls, progress)
    contest = SolverComparison(calls, landing, low, plan=source)
    result = compare_solvers(sampler, request, contest, progress, plans)
    grids = [_standing(result, request.seeds, "from the start", "")]
    if result.jumps:
        grids.append(_standing(result, request.seeds, f"after a jump to σ/α = {result.ratio:.3g}", AFTER))
    best = result.best
    words = [
        f"Closest to the fine solution: {best}, at {mean(result.error[best])} (root mean square per number of the "
        f"state) with {result.nfe[best]} calls of the network. Every solver has {contest.calls} calls of the denoiser; "
        "Heun, two a step, may spend one less.",
        *heun_words(float(result.error["heun"].mean), contest.level(sampler.model.schedule, steps_of("heun", calls))),
        *said,
    ]
    script = write_script("solvers", request, compare_solvers, figures.contest, contest)
    return show.answer("solvers", words, result, figures.contest, script, grids=grids)


def heun_words(error: float, level: NoiseLevel) -> list[str]:
    """Why Heun is far off where it is: in a step it adds the change of the denoised picture, times half of (sigma/alpha
    before over sigma/alpha after, less one); see `heun`."""
    if error < 1:
        return []
    ratio = level.ratio[level.ratio > 0]
    factor = float((ratio[:-1] / ratio[1:] - 1).max()) / 2
    return [
        "Heun is far off here because these steps are too long for it: in a step it adds what the network's estimate "
        f"changes, multiplied by up to {factor:.2g} (half of σ/α before the step divided by σ/α after it, less one). "
        "More calls, or a start after the jump, make its steps shorter."
    ]


def _plans(
    server_state: ServerState, values: Values, request: Request, sampler: Sampler, calls: int, progress: Progress
) -> tuple[str | None, Calibration | None, list[str]]:
    """Where the calibrated plan comes from, the plans that hold it, and what there is to say of it."""
    name, wanted = str(values["model"]), chosen(values["plan"], "plan", server_state.plans(values["model"]))
    if wanted == NO_PLAN:
        return None, None, []
    case = only(request, sampler)
    if wanted == MADE_PLAN:
        made = server_state.made_plan(name, sampler, case, calls, progress)
        told = (
            f"The calibrated plan was fitted to {made.about['from']['data'][case.what]}, without a call of the network."
        )
        return FROM_DATA, made, [told]
    plans = server_state.calibration(name)
    if all(plan.calls != calls for plan in plans.plans):
        known = ", ".join(str(plan.calls) for plan in plans.plans)
        return None, None, [f"{wanted} has plans of {known} calls; choose one of these to see it among the solvers."]
    return wanted, plans, doubts_of(plans, sampler, case, calls)


def _standing(result: SolverErrors, seeds: tuple[int, ...], title: str, suffix: str) -> View:
    """The pictures of each solver below the fine solution, with their distances from it."""
    names = {name: f"{name}: {mean(result.error[name + suffix])}" for name in result.names(suffix)}
    shown = torch.stack([result.fine, *(result.finals[name + suffix] for name in names)])
    rows = ["fine solution", *names.values()]
    captions = [[f"{row}, seed {seed}" for seed in seeds] for row in rows]
    return show.grid(title, shown, rows, [f"seed {s}" for s in seeds], captions, ("fine solution", result.fine))
