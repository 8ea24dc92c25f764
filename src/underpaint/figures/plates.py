"""The plates of the report: which figure, under which title, and what to see in it, in words made from the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..recipes.report import Report
from . import curves, pictures


@dataclass(frozen=True)
class Plate:
    """One figure of the report; ``draw`` returns None where there is nothing to draw."""

    name: str
    title: str
    draw: Callable[[Report], Figure | None]
    caption: Callable[[Report], str]


def _film(report: Report) -> str:
    return (
        f"Three seeds, sampled in {report.setup['steps']} steps ({report.setup['nfe']} calls of the network), noise "
        f"on the left. Top: the state, scaled to "
        "unit noise. Middle: the difference of neighbouring states, each stretched to be seen. Bottom: the image that "
        "the network expects at that "
        "moment, x̂_0. Look at the bottom rows: a blurred silhouette stands long before the state shows anything but "
        "noise, then outlines sharpen, "
        "and texture comes last. The differences look like noise minus image from the start: the path already points "
        "at its end."
    )


def _geometry(report: Report) -> str:
    part = report.geometry
    worst = float(part.rotation_error.mean.max())
    return (
        f"Although images have {report.subject.model.dimension} pixels, one trajectory needs "
        f"{float(part.needed['x'].mean):.1f} principal components for 99.9 % of its "
        f"variance ({float(part.needed['difference'].mean):.1f} for its differences, "
        f"{float(part.needed['eps'].mean):.1f} for the noise estimates); two explain "
        f"{100 * float(part.shares['x'].mean[1]):.2f} % of the state's. In the plane of starting noise and final "
        f"image the seeds follow the dashed arc (α_t, σ_t): a rotation. "
        f"The residual peaks at {100 * worst:.2g} % of |x_t|² on average. With α² in place of α, as in the authors' "
        f"script, it is a different and larger number (grey). "
        f"Noise and image stand at {part.edge_angle:.1f}°."
    )


def _mode_geometry(report: Report) -> str:
    return (
        "Each panel follows one component of the data (inset): across, the state; up, what the endpoint estimate "
        "shows of it; one colour a seed, starting near the horizontal "
        "axis, where nothing is decided. Dashed: the Gaussian's closed form, which depends on nothing but the "
        "component's variance and the seed's starting point. "
        "Large components (left) leave the axis early and move outwards; small ones (right) lose their noise first, "
        "and what they become is little foretold by where they began: "
        "there the network departs from the Gaussian."
    )


def _mode_curves(report: Report) -> str:
    part = report.modes
    first, last = float(part.gain[0, 0]), float(part.gain[0, -1])
    return (
        "Closed forms for this model's schedule and these data's spectrum, from large variance (dark) to small "
        "(blue). The estimate ξ of a large component rises early, "
        "of a small one late: outline first, details later. |dξ/dt| says when each is painted. The gain says how far "
        "the final image moves for a unit nudge: "
        f"at the first level {first:.2g} along u{int(part.components[0]) + 1} but {last:.2g} along "
        f"u{int(part.components[-1]) + 1}; late nudges stay where the component has variance and die where it has none."
    )


def _emergence(report: Report) -> str:
    part = report.emergence
    return (
        f"Left: how much of a component's final variance over {len(report.setup['seeds'])} seeds the estimate already "
        f"shows; dashed, the theory's sigmoid λ/(λ + (σ/α)²). "
        f"Right: the level at which the first {len(part.predicted_half)} components pass one half, against √λ. Rank "
        f"correlation {part.rank_correlation:.3f}, slope {part.slope:.2f} on log axes "
        "(theory: 1). Large components keep to the line. Small ones tend to lie below it: their fine variance is "
        "conditional on the object, and the network settles it later than a Gaussian would."
    )


def _theory_strips(report: Report) -> str:
    return (
        "The same noise, painted by the network and by three closed-form denoisers. On the left all four agree: the "
        "network's first strokes are the Gaussian's. The Gaussian then stays "
        "a blend of everything; the mixture settles on one kind of object; the exact score of the training set snaps "
        "to one training image."
    )


def _final(report: Report) -> str:
    part = report.agreement
    return (
        "Final images from the same noise. Last row: the training image nearest to the network's sample. The exact "
        "score returns training images "
        f"(root mean square distance to the nearest {part.retrieved_exact:.3f} a pixel), the network does not "
        f"({part.retrieved:.3f})."
    )


def _deviation(report: Report) -> str:
    part = report.agreement
    names = ", ".join(f"{name} {float(ev.min()):.2f}" for name, ev in part.explained.items())
    return (
        "Distance of each analytic trajectory from the network's, from the same start (top; band: 5 to 95 % of "
        "seeds), and how much of the network's denoiser each explains on the network's "
        f"own states (bottom left; least values: {names}). All agree while noise rules, and part where the data stop "
        f"being Gaussian. At the end the Gaussian explains the network better than the exact score "
        "of the training set does: the network does not memorise. The score's own explained variance (bottom right) "
        "is near 1 at high noise for anything, so nothing is concluded from it."
    )


def _hybrid(report: Report) -> str:
    part = report.hybrid
    return (
        f"The first k of {report.setup['steps']} steps replaced by one closed-form step, then the network as usual "
        f"(accounting: saved). Read downwards: objects stay the same until the jump lands near σ/α = 3, "
        f"then lose identity. Mean square change at {part.skip[0]} steps {float(part.error.mean[0]):.2g}, at "
        f"{part.skip[len(part.skip) // 2]} steps {float(part.error.mean[len(part.skip) // 2]):.2g}."
    )


def _frechet(report: Report) -> str:
    part = report.frechet
    if part is None:
        return ""
    small = (
        f" With {part.samples} samples every number is biased up, training images included: compare them with each "
        f"other only."
        if part.samples < 5000
        else ""
    )
    return (
        f"Fréchet distance to the test split in the feature space {part.features}, {part.samples} samples, the same "
        f"seeds for every point; {part.nfe[0]} calls without a skip. "
        f"Flat to the left: calls saved for nothing lost. Then the Gaussian no longer holds and the curve climbs "
        f"towards the Gaussian's own distance.{small}"
    )


def _perturbation(report: Report) -> str:
    return (
        "A nudge of half a standard deviation of the noisy state along one component, early, in the middle and late; "
        "then sampling as usual. Bars (theory) against points (network, 8 seeds, 5 to 95 %): "
        "displacement of the final image along the component, for a unit of nudge. Components of small variance "
        "forget the nudge. Triangles: length of the whole displacement; where it stands far above the point, the "
        "network turned the nudge into a change of something else."
    )


def _perturbed(report: Report) -> str:
    return (
        "One seed after those nudges, and what changed against the plain sample. Early nudges along large components "
        "change the object; late ones only shade it."
    )


PLATES = (
    Plate("film-strips", "Figure 1. Painting in three films", pictures.film_strips, _film),
    Plate("geometry", "Figure 1. Trajectories are planar rotations", curves.trajectory_geometry, _geometry),
    Plate("mode-geometry", "Figure 2. One component at a time", curves.mode_geometry, _mode_geometry),
    Plate("mode-curves", "Figure 3. What the theory predicts for these data", curves.mode_curves, _mode_curves),
    Plate("emergence", "Figure 3. Outline first, details later: measured", curves.emergence, _emergence),
    Plate("theory-strips", "Figure 4. The network beside the closed forms", pictures.theory_strips, _theory_strips),
    Plate("final-samples", "Figure 4. Where each of them ends", pictures.final_samples, _final),
    Plate("deviation", "Figure 4. When the theory lets go", curves.deviation, _deviation),
    Plate("hybrid-samples", "Figure 4. Teleport: skipping the early steps", pictures.hybrid_samples, _hybrid),
    Plate("frechet", "Figure 4. Quality against skipped steps", curves.frechet, _frechet),
    Plate("perturbation", "Nudges: measured and predicted gain", curves.perturbation_gain, _perturbation),
    Plate("perturbed-samples", "Nudges: what they change", pictures.perturbed_samples, _perturbed),
)
