"""The plates of the report: which figure, under which title, and what to see in it, in words made from the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..recipes.report.build import Report
from . import curves, pictures


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report; ``draw`` returns None where there is nothing to draw."""

    name: str
    title: str
    draw: Callable[[Report], Figure | None]
    caption: Callable[[Report], str]


def _film(report: Report) -> str:
    setup = report.setup
    return (
        f"Three seeds in {setup['steps']} steps, noise on the left; numbers are noise-to-signal ratios σ/α. Top: the "
        "state, scaled to unit noise. Middle: the difference of neighbouring states, each stretched to be seen. "
        "Bottom: the image that the network expects at that moment, x̂_0. Follow the bottom rows: a blurred silhouette "
        "stands while the state still shows nothing but noise; then outlines sharpen; texture comes last."
    )


def _geometry(report: Report) -> str:
    part, agreement = report.geometry, report.agreement
    needed = {name: float(summary.mean) for name, summary in part.needed.items()}
    worst, squared = (float(error.mean.max()) for error in (part.rotation_error, part.rotation_error_squared))
    return (
        f"States have {report.subject.model.dimension} numbers, yet one trajectory needs {needed['x']:.1f} principal "
        f"components for 99.9 % of its variance ({needed['difference']:.1f} for its differences, {needed['eps']:.1f} "
        f"for the noise estimates), and two explain {100 * float(part.shares['x'].mean[1]):.2f} %. In the plane of "
        "starting noise and final image each seed turns from one to the other; the dashed arc is the rotation "
        f"(α_t, σ_t). The distance from that rotation peaks at {100 * worst:.2g} % of |x_t|² on average "
        f"({100 * squared:.2g} % with α² for α, the measure of the authors' script, grey). The arc is not met exactly "
        f"because noise and image are not quite orthogonal: {part.edge_angle:.1f}°, where the Gaussian's own flow has "
        f"{agreement.gaussian_angle:.1f}°."
    )


def _mode_geometry(report: Report) -> str:
    return (
        "Each panel follows one component of the data (inset), one colour a seed: across, the state; up, what the "
        "endpoint estimate shows of it. Paths start near the horizontal axis, where nothing is decided yet. Dashed: "
        "the closed form, which knows only the component's variance and where the seed began. A component of large "
        "variance is decided first (up) and painted afterwards (outwards); one of small variance loses its noise "
        "while it is being decided. Where a solid line leaves its dashed one, the network departs from the Gaussian."
    )


def _mode_curves(report: Report) -> str:
    part = report.modes
    first, last = float(part.gain[0, 0]), float(part.gain[0, -1])
    names = [f"u{int(part.components[i]) + 1}" for i in (0, -1)]
    return (
        "Closed forms for this model's schedule and these data's spectrum, from large variance (dark) to small "
        "(blue). The estimate ξ of a large component rises early, that of a small one late: outline first, details "
        "later. |dξ/dt| says when each is painted. The gain says how far the final image moves for a nudge at time "
        f"t: at the start by {first:.2g} for each unit along {names[0]}, by {last:.2g} along {names[1]}; at the end by "
        "as much as the nudge itself."
    )


def _emergence(report: Report) -> str:
    part = report.emergence
    ratio = (part.measured_half / part.predicted_half).nanmedian()
    when = "earlier" if ratio > 1 else "later"
    return (
        f"Left: how much of a component's final variance over {len(report.setup['seeds'])} seeds the estimate already "
        "shows; dashed, the theory's λ/(λ + (σ/α)²). Right: the level at which the first "
        f"{len(part.predicted_half)} components pass one half, against √λ. The order is as predicted with rank "
        f"correlation {part.rank_correlation:.2f} (slope {part.slope:.2f} on log axes, theory 1). The median component "
        f"appears at {float(ratio):.2f} times the predicted σ/α, that is {when} than in Gaussian data of the same "
        "spectrum: real images are not Gaussian, and settling the object settles many components with it."
    )


def _theory_strips(report: Report) -> str:
    return (
        "The same noise, painted by the network and by three closed-form denoisers. Compare each column: on the left "
        "the first strokes of all four are those of the Gaussian. Further right the Gaussian stays a blend of "
        "everything, the mixture settles on one kind of object, and the exact score of the data on one data point."
    )


def _final(report: Report) -> str:
    part = report.agreement
    return (
        "Final images from the same noise. Last row: the data point nearest to the network's sample, at a root mean "
        f"square distance of {part.retrieved:.3f} a pixel; for the exact score's samples that distance is "
        f"{part.retrieved_exact:.3f}, since they are data points: generation as retrieval."
    )


def _deviation(report: Report) -> str:
    part = report.agreement
    names = ", ".join(f"{name} {float(explained[-1]):.2f}" for name, explained in part.explained.items())
    return (
        "Top: distance of each analytic trajectory from the network's, from the same start (band: 5 to 95 % of seeds). "
        "Bottom left: how much of the network's denoiser each explains on the network's own states. Where the three "
        "lie on one another, at high noise, they say the same, and what is missing to 1 is the network's own error; "
        f"they part where the data stop being Gaussian. At the last level: {names}; a network that had memorised its "
        "data would follow the exact score. Bottom right: the same for the score, which at high noise is near 1 for "
        "anything, so that nothing is concluded from it."
    )


def _hybrid(report: Report) -> str:
    part = report.hybrid
    errors = ", ".join(f"{k}: {float(e):.2g}" for k, e in zip(part.skip, part.error.mean, strict=True))
    return (
        f"The first k of {report.setup['steps']} steps replaced by one closed-form step to the σ/α named, then the "
        "network as usual (accounting: saved). Read downwards: how long does each object stay itself? Mean square "
        f"change of the final image, by steps skipped: {errors}."
    )


def _frechet(report: Report) -> str:
    part = report.frechet
    if part is None:
        return ""
    words = (
        f"Fréchet distance to the test split in the feature space {part.features}, {part.samples} samples, the same "
        f"seeds for every point; {part.nfe[0]} calls of the network without a skip, {part.nfe[-1]} at the right end. "
        "Where the curve is flat, calls are saved at no cost; it climbs where the jump lands below the range in which "
        "the Gaussian speaks for the data."
    )
    few = " So few samples bias every number up, that of training images included: compare them only with each other."
    return words + (few if part.samples < 5000 else "")


def _perturbation(report: Report) -> str:
    part = report.perturbation
    return (
        "A nudge of one standard deviation of the noisy state along one component, early, in the middle and late; "
        "then sampling as usual. Bars: the theory's gain. Points: displacement of the final image along the component "
        f"for a unit of nudge ({part.along.shape[-1]} seeds, mean and 5 to 95 %). Triangles: length of the whole "
        "displacement; where it stands far above the point, the network turned the nudge into a change of something "
        "else, which a Gaussian flow cannot do."
    )


def _perturbed(report: Report) -> str:
    return (
        "The seed that those nudges moved most, and what changed against its plain sample. Compare the rows: the same "
        "component nudged early may change the object, nudged late it is merely added."
    )


def _cases(report: Report) -> str:
    return (
        "The same noise under each condition and guidance weight. Left: what the network expects along the way, one "
        "seed. Right: where several seeds end. Guidance pulls the estimate towards the condition from the first steps "
        "on: read across how early each row knows its colours and its objects."
    )


def _case_geometry(report: Report) -> str:
    part = report.conditions
    if part is None:
        return ""
    needed = [float(g.needed["x"].mean) for g in part.geometry]
    return (
        f"Mean and 5 to 95 % of seeds. Trajectories need {min(needed):.1f} to {max(needed):.1f} principal components "
        "for 99.9 % of their variance over these conditions; stronger guidance moves the final image away from the "
        "data, and with it the path from the plane rotation."
    )


def _decided(report: Report) -> str:
    part = report.decided
    if part is None:
        return ""
    halves = zip(part.features, part.measured_half.tolist(), part.predicted_half.tolist(), strict=True)
    words = "; ".join(f"{name} at {m:.2g} (theory {p:.2g})" for name, m, p in halves)
    return (
        f"How much of four features of the finished picture stands in the estimate, {part.samples} samples without a "
        "prompt: colour of the background, where objects stand (overlap), which they are (found by a reader), and "
        "what is finer than four pixels inside them. Dashed: the same reading of the final picture with each "
        "principal component attenuated to what the Gaussian theory says has emerged of it. Half of each stands at "
        f"σ/α: {words}. Decided first to last by the network: {', '.join(part.order(part.measured_half))}; by the "
        f"theory: {', '.join(part.order(part.predicted_half))}."
    )


def _decided_samples(report: Report) -> str:
    return (
        "Top rows: the network's estimates. Bottom rows: the same finished pictures as they would emerge if every "
        "component were Gaussian. The network commits to an object where the Gaussian still blends."
    )


REPORT_FIGURES = (
    ReportFigure("film-strips", "Figure 1. Painting in three films", pictures.film_strips, _film),
    ReportFigure("geometry", "Figure 1. Trajectories are planar rotations", curves.trajectory_geometry, _geometry),
    ReportFigure("mode-geometry", "Figure 2. One component at a time", curves.mode_geometry, _mode_geometry),
    ReportFigure("mode-curves", "Figure 3. What the theory predicts for these data", curves.mode_curves, _mode_curves),
    ReportFigure("emergence", "Figure 3. Outline first, details later: measured", curves.emergence, _emergence),
    ReportFigure(
        "theory-strips", "Figure 4. The network beside the closed forms", pictures.theory_strips, _theory_strips
    ),
    ReportFigure("final-samples", "Figure 4. Where each of them ends", pictures.final_samples, _final),
    ReportFigure("deviation", "Figure 4. When the theory lets go", curves.deviation, _deviation),
    ReportFigure("hybrid-samples", "Figure 4. Teleport: skipping the early steps", pictures.hybrid_samples, _hybrid),
    ReportFigure("frechet", "Figure 4. Quality against skipped steps", curves.frechet, _frechet),
    ReportFigure("perturbation", "Nudges: measured and predicted gain", curves.perturbation_gain, _perturbation),
    ReportFigure("perturbed-samples", "Nudges: what they change", pictures.perturbed_samples, _perturbed),
    ReportFigure("decided", "What is decided when", curves.decided, _decided),
    ReportFigure("decided-samples", "What is decided when: pictures", pictures.decided_samples, _decided_samples),
    ReportFigure("case-samples", "Prompts and guidance: pictures", pictures.case_samples, _cases),
    ReportFigure("case-geometry", "Prompts and guidance: geometry", curves.case_geometry, _case_geometry),
)
