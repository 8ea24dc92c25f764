"""The plates of the report: which figure, under which title, and what to see in it, in words made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..recipes.report.build import Report
from . import curves, pictures, regimes


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report, numbered where it is shown; ``draw`` returns None where there is nothing to draw.

    ``measured``: it shows what the network did, which is another thing with a prompt and without.
    """

    name: str
    title: str
    draw: Callable[[Report], Figure | None]
    caption: Callable[[Report], str]
    measured: bool = True


def _film(report: Report) -> str:
    setup = report.setup
    return (
        f"Three seeds in {setup['steps']} steps, from noise on the left to the image on the right. The numbers are "
        "noise-to-signal ratios σ/α. Top row of each: the state, scaled to unit noise. Middle row: the difference of "
        "neighbouring states, stretched so that it can be seen. Bottom row: the image that the network expects at that "
        "moment, x̂_0. Follow the bottom rows. A blurred silhouette appears while the state still shows only noise. "
        "Then outlines become sharp. Texture comes last."
    )


def _geometry(report: Report) -> str:
    part, agreement = report.geometry, report.agreement
    needed = {name: float(summary.mean) for name, summary in part.needed.items()}
    worst, squared = (float(error.mean.max()) for error in (part.rotation_error, part.rotation_error_squared))
    return (
        f"States have {report.subject.model.dimension} numbers, yet one trajectory needs {needed['x']:.1f} principal "
        f"components for 99.9 % of its variance ({needed['difference']:.1f} for its differences, {needed['eps']:.1f} "
        f"for the noise estimates), and two explain {100 * float(part.shares['x'].mean[1]):.2f} %. In the plane of "
        "starting noise and final image each seed turns from the noise to the image. The dashed arc is the rotation "
        f"(α_t, σ_t). The distance from that rotation is at most {100 * worst:.2g} % of |x_t|² on average. (The "
        f"authors' script has α² in place of α: {100 * squared:.2g} %, grey.) The arc is not met exactly, because "
        f"noise and image are not orthogonal: the angle between them is {part.edge_angle:.1f}° on average. The "
        f"Gaussian's own flow from the same noise has {agreement.gaussian_angle:.1f}°."
    )


def _mode_geometry(report: Report) -> str:
    return (
        "Each panel follows one principal component of the data, drawn above it; each colour is one seed. Across: the "
        "component of the state. Up: the component of the endpoint estimate. A dot marks the start. Paths start near "
        "the horizontal axis, where nothing is decided yet. Dashed: the closed form, which knows only the component's "
        "variance and where the seed began. A component of large variance is decided first (the path goes up) and "
        "painted afterwards (it goes outwards). One of small variance loses its noise while it is being decided. Where "
        "a solid line leaves its dashed one, the network departs from the Gaussian."
    )


def _mode_curves(report: Report) -> str:
    part = report.modes
    first, last = float(part.gain[0, 0]), float(part.gain[0, -1])
    names = [f"u{int(part.components[i]) + 1}" for i in (0, -1)]
    return (
        "Closed forms for the schedule of this model and the spectrum of these data. Dark lines are components of "
        "large variance, light ones of small variance. The estimate ξ of a large component rises early, that of a "
        "small one late: outline first, details later. |dξ/dt| is largest when a component is painted. The gain says "
        f"how far the final image moves for a nudge at time t. At the start a nudge of 1 along {names[0]} moves it by "
        f"{first:.2g}, along {names[1]} by {last:.2g}. At the end it moves by the nudge itself."
    )


def _emergence(report: Report) -> str:
    part = report.emergence
    ratio = (part.measured_half / part.predicted_half).nanmedian()
    when = "earlier" if ratio > 1 else "later"
    return (
        f"Left: the variance of a component of the estimate over {len(report.setup['seeds'])} seeds, as a share of "
        "that of the final images. Dashed: the theory's λ/(λ + (σ/α)²). Right: the level at which each of the first "
        f"{len(part.predicted_half)} components passes one half, against the prediction √λ. The order is as predicted "
        f"with a rank correlation of {part.rank_correlation:.2f}; the slope on log axes is {part.slope:.2f}, and 1 in "
        f"theory. The median component appears at {float(ratio):.2f} times the predicted σ/α: {when} than in Gaussian "
        "data of the same spectrum. Real images are not Gaussian. When the kind of object is settled, many components "
        "are settled with it."
    )


def _theory_strips(report: Report) -> str:
    return (
        "The same noise, painted by the network and by three denoisers in closed form. Compare the columns. On the "
        "left all four agree with the Gaussian. Further right the Gaussian remains a blend of everything, the mixture "
        "settles on one kind of object, and the exact score of the data on one image of the data."
    )


def _final(report: Report) -> str:
    part = report.agreement
    return (
        "Final images from the same noise. Last row: the image of the data that is nearest to the network's sample, at "
        f"a root mean square distance of {part.retrieved:.3f} a pixel. For samples of the exact score this distance is "
        f"{part.retrieved_exact:.3f}: they are images of the data, so that generation is retrieval."
    )


def _deviation(report: Report) -> str:
    part = report.agreement
    names = ", ".join(f"{name} {float(explained[-1]):.2f}" for name, explained in part.explained.items())
    below = " (below 0: further from it than the data mean is)" * any(bool(v[-1] < 0) for v in part.explained.values())
    return (
        "Top: distance of each analytic trajectory from the network's, from the same start (band: 5 to 95 % of seeds). "
        "Bottom left: how much of the network's denoised image each explains, on the network's own states. At the "
        "highest noise the three curves are nearly one; as far as the exact score stays below 1 there, that is "
        "the network's own error. They part where the data are no longer like a Gaussian. At the last level: "
        f"{names}{below}. A network that had memorised its data would follow the exact score. "
        "Bottom right: the same for the score. At high noise it is near 1 for any denoiser, so "
        "that nothing is concluded from it."
    )


def _hybrid(report: Report) -> str:
    part = report.hybrid
    errors = ", ".join(f"{k}: {float(e):.2g}" for k, e in zip(part.skip, part.error.mean, strict=True))
    return (
        f"The first k of {report.setup['steps']} steps are replaced by one step in closed form, to the σ/α that is "
        "given on the left. The network takes the other steps as usual, so that k calls are saved. Read downwards: up "
        "to which jump does each object stay the same? Mean square change of the final image, by steps skipped: "
        f"{errors}."
    )


def _frechet(report: Report) -> str:
    part = report.frechet
    if part is None:
        return ""
    words = (
        f"Fréchet distance to the test split in the feature space {part.features}, {part.samples} samples, the same "
        f"seeds for every point; {part.nfe[0]} calls of the network without a skip, {part.nfe[-1]} at the right end. "
        "Where the curve is flat, skipping costs no quality. It climbs where the jump lands at levels where the data "
        "are no longer like a Gaussian."
    )
    few = " So few samples bias every number up, that of training images included: compare them only with each other."
    return words + (few if part.samples < 5000 else "")


def _perturbation(report: Report) -> str:
    part = report.perturbation
    return (
        "The state is nudged along one component, by one standard deviation of the noisy data, early, in the middle or "
        "late. Then sampling goes on as usual. Bars: the gain that the theory predicts. Points: how far the final "
        f"image moved along the component for a nudge of 1 ({part.along.shape[-1]} seeds, mean and 5 to 95 %). "
        "Triangles: how far it moved in any direction. Where a triangle lies far above its point, the network turned "
        "the nudge into another change. The flow of a Gaussian cannot do that."
    )


def _perturbed(report: Report) -> str:
    return (
        "The seed that these nudges moved most, and how it differs from the sample without a nudge. Compare the rows. "
        "An early nudge can change which object appears. A late nudge along the same component is only added to the "
        "image."
    )


def _cases(report: Report) -> str:
    return (
        "The same noise with each condition and guidance weight. Left: the image that the network expects along the "
        "way, for one seed. Right: the final images of several seeds. Guidance pulls the estimate towards the "
        "condition from the first steps on. Look along each row for the level at which its colours and its objects "
        "appear."
    )


def _case_geometry(report: Report) -> str:
    part = report.conditions
    if part is None:
        return ""
    needed = [float(g.needed["x"].mean) for g in part.geometry]
    return (
        f"Mean and 5 to 95 % of seeds. Trajectories need {min(needed):.1f} to {max(needed):.1f} principal components "
        "for 99.9 % of their variance over these conditions. Stronger guidance moves the final image away from the "
        "data, and the path away from the rotation in a plane."
    )


def _decided(report: Report) -> str:
    part = report.decided
    if part is None:
        return ""
    halves = zip(part.features, part.measured_half.tolist(), part.predicted_half.tolist(), strict=True)
    words = "; ".join(f"{name} at {half_words(m)} (theory {half_words(p)})" for name, m, p in halves)
    return (
        f"How much of four features of the final picture the estimate already has ({part.samples} samples without a "
        "prompt): the colour of the background, where objects are, which objects they are (a reader finds them), and "
        "detail finer than four pixels inside them. Dashed: the same for the final picture with each principal "
        "component weakened to what has emerged of it by the Gaussian theory. Half of each feature is there at σ/α: "
        f"{words}. From first to last, the network decides: {', '.join(part.order(part.measured_half))}; the theory: "
        f"{', '.join(part.order(part.predicted_half))}."
    )


def half_words(ratio: float) -> str:
    """The σ/α at which half of a feature is there; some have half of it before the first step."""
    return "the start" if math.isnan(ratio) else f"{ratio:.2g}"


def _decided_samples(report: Report) -> str:
    return (
        "Top rows: the network's estimates. Bottom rows: the same final pictures, as they would emerge if every "
        "component were Gaussian. The network shows one object at levels where the Gaussian still shows a blend."
    )


_BETWEEN = (
    " Between the first two of these levels (green) the class is mostly settled, and no image of the data has all of "
    "the weight: there a network can follow the exact score and still make something new."
)


def _regimes(report: Report) -> str:
    part = report.regimes
    if part is None:
        return ""
    born, count = part.speciation, len(part.setup["seeds"])
    between = "" if regimes.borders(part) is None else _BETWEEN
    return (
        "Pictures: what the exact score of the data and the network expect of the first seed's state at each σ/α, and "
        "two images that it ends in when the rest of the way is drawn at random. Where these two have nothing in "
        f"common, nothing is decided yet; where they are one image, all is. First curve: the share of {count} such "
        f"pairs that end in one class ({born.classes}); by chance it is {100 * born.chance:.3g} %. Second: "
        "how many images of the data share the exact posterior of a noisy image that is not among them, by how many "
        f"are known. Third: what the exact score and the Gaussian explain of the network. {part.finding}{between} A "
        "jump by teleport should land where the share is still near chance; further down it decides the class in the "
        "network's place."
    )


def _regime_figure(report: Report) -> Figure | None:
    return None if report.regimes is None else regimes.along(report.regimes)


REPORT_FIGURES = (
    ReportFigure("film-strips", "Painting in three films", pictures.film_strips, _film),
    ReportFigure("geometry", "Trajectories are planar rotations", curves.trajectory_geometry, _geometry),
    ReportFigure("mode-geometry", "One component at a time", curves.mode_geometry, _mode_geometry),
    ReportFigure("mode-curves", "What the theory predicts for these data", curves.mode_curves, _mode_curves, False),
    ReportFigure("emergence", "Outline first, details later: measured", curves.emergence, _emergence),
    ReportFigure("theory-strips", "The network beside the closed forms", pictures.theory_strips, _theory_strips),
    ReportFigure("final-samples", "Where each of them ends", pictures.final_samples, _final),
    ReportFigure("deviation", "When the theory lets go", curves.deviation, _deviation),
    ReportFigure("hybrid-samples", "Teleport: skipping the early steps", pictures.hybrid_samples, _hybrid),
    ReportFigure("frechet", "Quality against skipped steps", curves.frechet, _frechet),
    ReportFigure("perturbation", "Nudges: measured and predicted gain", curves.perturbation_gain, _perturbation),
    ReportFigure("perturbed-samples", "Nudges: what they change", pictures.perturbed_samples, _perturbed),
    ReportFigure("decided", "What is decided when", curves.decided, _decided),
    ReportFigure("decided-samples", "What is decided when: pictures", pictures.decided_samples, _decided_samples),
    ReportFigure("regimes", "Three regimes along the noise", _regime_figure, _regimes),
    ReportFigure("case-samples", "Prompts and guidance: pictures", pictures.case_samples, _cases),
    ReportFigure("case-geometry", "Prompts and guidance: geometry", curves.case_geometry, _case_geometry),
)
