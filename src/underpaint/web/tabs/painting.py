"""One sample on its way, and the closed forms beside it."""

from __future__ import annotations

import math

import torch

from ...figures import explorer as figures
from ...figures.explorer import band_names, level_names
from ...figures.style import ACCENT, COLOURS, MODES, QUIET
from ...progress import Progress
from ...recipes.explorer.painting import (
    SCHEDULES,
    Bands,
    ClosedForms,
    Curves,
    Painting,
    closed_forms,
    paint,
    paint_by_theory,
)
from .. import show
from ..checks import Values, chosen, number
from ..script import write_script
from ..server_state import ServerState
from ..show import Answer, View

OWN = "the model's own"
#: Closed forms of a schedule are of no prompt and no seed.
_WHATEVER = {"prompt": "", "label": "", "seed": 0, "steps": 12, "guidance": 1, "solver": "ddim"}


def paint_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """The film of one sample."""
    request, sampler = server_state.request(values)
    result = paint(sampler, request, progress)
    frames = {
        "state xₜ: picture and noise": result.states,
        "change Δx in this step, stretched": result.changes,
        "network's estimate x̂₀ of the finished picture": result.estimates,
    }
    if result.predicted is not None:
        frames["the Gaussian's estimate, from the same noise"] = result.predicted
    lines = [
        show.line(name, result.plane[name], COLOURS.get(name, QUIET), name != "network")
        for name in ("rotation", "Gaussian", "network")
        if name in result.plane
    ]
    path = show.chart("the path of the state, in its plane", "component 1", "component 2", lines, square=True)
    bars = {} if result.bands is None else {"bars": _bars(result.bands)}
    steps = len(result.states) - 1
    captions = [f"step {i} of {steps}, σ/α = {ratio}" for i, ratio in enumerate(level_names(result.level))]
    film = show.film(frames, captions, start=round(0.6 * steps), chart=path, **bars)
    script = write_script("painting", request, paint, figures.painting)
    words = [*server_state.doubts(values["model"], progress), *_painted(result)]
    return show.answer("painting", words, result, figures.painting, script, film=film)


def _bars(bands: Bands) -> View:
    """The last frame is the finished picture, where everything stands."""
    finished = torch.ones(1, len(bands.first))
    measured, predicted = (torch.cat([shares, finished]) for shares in (bands.measured, bands.predicted))
    title = "how much of each principal component stands (mark: theory)"
    return show.bars(title, band_names(bands), measured, predicted, bands.features)


def _painted(result: Painting) -> list[str]:
    words = [
        f"{result.nfe} calls of the network. {100 * result.plane_share:.1f} % of the state's movement lies in one "
        "plane, where it nearly follows the rotation αx₀ + σε from its noise ε to its picture x₀."
    ]
    if result.bands is None:
        return [*words, "No statistics of these data are known here, so there is no Gaussian to compare with."]
    order, half = result.bands.rank_correlation, "as theory has it, half stands at σ/α = √λ"
    agreement = "" if math.isnan(order) else f"; rank correlation of measured and predicted σ/α: {order:.2f}"
    return [
        *words,
        "Bars: u1 is the strongest pattern in which the data's pictures differ, u2-3 the next two, and so on. Strong "
        f"ones come first ({half}{agreement}).",
        f"The Gaussian's estimate is of the {result.setup['predicted from']}.",
    ]


def theory_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """Closed forms along a schedule; of the data as a whole, whatever is to be painted."""
    request, sampler = server_state.request({"model": values["model"], **_WHATEVER})
    schedule = chosen(values["schedule"], "schedule", (OWN, *SCHEDULES))
    variance = 10 ** number(values["variance"], "power of ten of λ", -6, 6)
    curves = Curves(None if schedule == OWN else schedule, variance, number(values["at"], "time", 0, 1))
    result = closed_forms(sampler, curves)
    script = write_script("theory", request, closed_forms, figures.closed_form_curves, curves)
    return show.answer(
        "theory", _told(result), result, figures.closed_form_curves, script, charts=_curve_charts(result)
    )


def _told(result: ClosedForms) -> list[str]:
    """The chosen point of the curves in words."""
    i, variance, ratio = result.index, float(result.variance[0]), float(result.level.ratio[result.index])
    shown = 100 * float(result.xi[i, 0] / result.xi[-1, 0])
    words = [
        f"At t = {float(result.time[i]):.3g} (σ/α = {ratio:.3g}) a component of variance λ = {variance:.3g} is "
        f"{float(result.psi[i, 0]):.3g} times as large in the state as at the start, shows {shown:.0f} % of its end in "
        f"the estimate, and a unit of nudge along it becomes {float(result.gain[i, 0]):.3g} in the finished picture. "
        f"It has half of its variance at σ/α = √λ = {variance**0.5:.3g}."
    ]
    if result.emerged is not None and result.spectrum is not None:
        words.append(
            f"By then {int((result.spectrum > ratio**2).sum())} of the {len(result.spectrum)} components of the data "
            f"have emerged, with {100 * float(result.emerged[i]):.0f} % of its variance."
        )
    return words


def _curve_charts(result: ClosedForms) -> list[View]:
    """The closed forms against time, and the spectrum with what of it has emerged."""
    now = {"reverse": True, "logX": figures.spans_decades(result.time), "mark": float(result.time[result.index])}
    panels = (
        ("ψ: the component in the state", "times its start", result.psi, True),
        ("ξ: the component in the estimate", "share of its end", result.xi / result.xi[-1], False),
        ("|dξ/dt|: when it is painted", "share of its peak", figures.share_of_peak(result.xi_rate), False),
        ("gain: what becomes of a nudge", "displacement for a unit nudge", result.gain, True),
    )
    names = [f"λ = {v:.3g}" for v in result.variance.tolist()]
    charts = []
    for title, y, curves, logarithmic in panels:
        pairs = torch.stack([result.time.unsqueeze(1).expand_as(curves), curves], 2)
        lines = [show.line(names[k], pairs[:, k], MODES[k - 1]) for k in range(1, len(names))]
        lines.append(show.line(names[0], pairs[:, 0], ACCENT, wide=True))
        charts.append(show.chart(title, "time t (sampling runs →)", y, lines, logY=logarithmic, **now))
    return [*charts, *_data_charts(result)]


def _data_charts(result: ClosedForms) -> list[View]:
    """The variances of the data, and the share that has emerged."""
    if result.spectrum is None or result.emerged is None:
        return []
    ratio = result.level.ratio
    index = torch.arange(1, len(result.spectrum) + 1, dtype=torch.float64)
    values = result.spectrum.clamp(min=float(result.spectrum[0]) * 1e-6)
    spectrum = show.line("λ; above the flat line, (σ/α)², it has emerged", torch.stack([index, values], 1), ACCENT)
    emerged = show.line("emerged", torch.stack([ratio, result.emerged], 1), COLOURS["Gaussian"])
    level, now = float(ratio[result.index]) ** 2, float(ratio[result.index])
    return [
        show.chart("the data's components", "component", "variance λ", [spectrum], logX=True, logY=True, level=level),
        show.chart(
            "what of the data has emerged", "σ/α (sampling runs →)", "share of variance", [emerged],
            reverse=True, logX=True, mark=now,
        ),
    ]  # fmt: skip


def features_tab(server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """What emerges when: the Gaussian alone."""
    request, sampler = server_state.request(values)
    result = paint_by_theory(sampler, request)
    ratios = level_names(result.level)
    components = zip(result.component, result.variance.tolist(), strict=True)
    captions = [
        [f"The Gaussian's estimate at σ/α = {ratio}." for ratio in ratios],
        [f"Component u{k}, about grey: λ = {v:.2g}." for k, v in components],
    ]
    pictures = torch.stack([result.estimates, result.components])
    view = show.grid("by σ/α, from noise to image", pictures, ("estimate", "component"), ratios, captions)
    words = [
        "Below each estimate is the component that emerges just then, of √λ nearest to σ/α: outlines first, details "
        "later. The picture is not as good as the network's, for a Gaussian knows no more than mean and covariance."
    ]
    script = write_script("features", request, paint_by_theory, figures.features)
    return show.answer("features", words, result, figures.features, script, grids=[view])
