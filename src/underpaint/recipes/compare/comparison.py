"""How much of a network each analytic denoiser explains, at each noise level: on noised data and on its own way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...analysis import agreement
from ...analysis.summary import Summary
from ...bounds import MOST_ITEMS, SEEDS, check_seeds, integer, positive
from ...data.labels import join_by_name
from ...data.named import known_classes
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import find_solver
from ...theory.cloud import PointCloud
from ...theory.denoiser import Denoiser
from ...theory.stitched import Stitched
from ..shared.model_and_data import ModelAndData, Sources, load_model_and_data
from ..shared.request import Conditioning
from ..shared.results import listed, picture, quantity, table
from .families import Sweeps, controls, count_shared, released
from .tuning import States, Sweep, Swept, sketch, sweep

#: Classes beyond these are not measured.
_CLASSES = 20
#: Seeds whose samples are shown.
_SHOWN = 8
#: What margins of the blend over the best release are called, before its name.
_BLENDED = "blended less "


@dataclass(frozen=True)
class Settings:
    """What to compare, and how finely.

    ``label`` is a class, for models that know classes; each class is looked at besides. ``images`` data points are
    noised, of those held out, and of each class a quarter as many of its own. ``ratios`` are the sigma/alpha to look
    at, each at the nearest level of the sampling grid. Families are tuned on as many other seeds, and on half as many
    other images.
    """

    sources: Sources = field(default_factory=Sources)
    label: int | None = None
    images: int = 32
    seeds: tuple[int, ...] = tuple(range(16))
    steps: int = 40
    solver: str = "dpmpp-2m"
    ratios: tuple[float, ...] = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1)
    sweeps: Sweeps = field(default_factory=Sweeps)

    def __post_init__(self) -> None:
        if self.images < 8 or len(self.seeds) < 2:
            raise ValueError(f"A comparison needs 8 images and 2 seeds, got {self.images} and {len(self.seeds)}.")
        if self.steps < 2 or not self.ratios:
            raise ValueError(f"A comparison needs 2 steps and a level, got {self.steps} and {len(self.ratios)}.")
        for ratio in self.ratios:
            positive(ratio, "sigma/alpha of a comparison")
        check_seeds(self.seeds)
        integer(self.images, "number of images", 8, MOST_ITEMS)
        find_solver(self.solver)

    @property
    def tuning(self) -> tuple[int, ...]:
        """As many seeds as are shown, and none of them."""
        shown = set(self.seeds)
        return tuple(islice((seed for seed in range(SEEDS) if seed not in shown), len(self.seeds)))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that the tables and figures show; explained variance is that of the network's denoised images, about
    the data mean."""

    setup: dict[str, Any]
    level: NoiseLevel = quantity()
    explained: dict[str, dict[str, Summary]] = quantity("explained variance by states, denoiser and level")
    overall: dict[str, dict[str, Summary]] = quantity("explained variance, mean over levels, by states and denoiser")
    r2: dict[str, dict[str, Summary]] = quantity("r2 within each denoised image, by states, denoiser and level")
    signal: dict[str, Tensor] = quantity("mean square of the network's denoised images about the data mean, by level")
    sweeps: dict[str, Sweep] = quantity("on the tuning states")
    margin: dict[str, dict[str, Summary]] = quantity(
        "explained variance, mean over levels: stitched and blended less the best release, by states"
    )
    stitched: dict[str, list[str]] = quantity("of what each is made at each level")
    distance: dict[str, Summary] = quantity("root mean square per number to the network's sample from the same noise")
    classes: dict[str, dict[str, Tensor]] = quantity("explained variance on noised data of a class, by level")
    samples: dict[str, Tensor] = picture()

    @property
    def finding(self) -> str:
        """Which denoiser explains the network best on its own way, beside the plain ones and the best release; and how
        much more than any release the blend of ours explains, on all states."""
        found = self.overall["trajectories"]
        best = max(found, key=lambda name: float(found[name].mean))
        release = max(self.setup["releases"], key=lambda name: float(found[name].mean), default="")
        others = [name for name in ("Gaussian", "mixture", "exact", release) if name in found and name != best]
        told = listed([f"{name} {float(found[name].mean):.3f}" for name in others])
        if float(found[best].mean) <= 0:
            return (
                "No denoiser explains anything of the network's denoised images on its own trajectories: the data mean "
                f"is nearer to them than {best} ({float(found[best].mean):.3f}; 0 is the data mean, 1 is all) and all "
                f"others are ({told})."
            )
        return (
            f"Of the network's denoised images on its own trajectories, the denoiser called {best} explains most: "
            f"{float(found[best].mean):.3f} ± {float(found[best].reach):.3f} of the variance about the data mean, on "
            f"average over the levels (1 is all). Others explain less: {told}.{self._beyond_releases()}"
        )

    def _beyond_releases(self) -> str:
        """How much more than the best release the blend explains, or less, a sentence after others; none where there
        is none."""
        told = [
            f"{_beside(part, 'the best release')} on {states} ({kind.removeprefix(_BLENDED)})"
            for states in ("trajectories", "noised data")
            for kind, part in self.margin[states].items()
            if kind.startswith(_BLENDED)
        ]
        return f" The blend explains {listed(told)}." if told else ""


def _beside(margin: Summary, other: str) -> str:
    """How much more than another, or less, in words; where the interval holds 0, which of them is not known."""
    mean, reach = float(margin.mean), float(margin.reach)
    if not abs(mean) > reach:
        return f"about as much as {other} ({mean:+.3f} ± {reach:.3f})"
    return f"{abs(mean):.3f} ± {reach:.3f} {'more' if mean > 0 else 'less'} than {other}"


def compare(settings: Settings, progress: Progress = silent) -> Comparison:
    """Noise data, sample, and ask every analytic denoiser what the network was asked.

    Denoisers of data are judged on rows that they do not know. What is chosen or fitted by the network's answers (the
    member of a family at each level, the stitched denoiser) is chosen on other rows and seeds than those shown.

    Raises:
        ValueError: as `load_model_and_data`.
    """
    began = time.monotonic()
    subject = load_model_and_data(
        settings.sources,
        case=Conditioning(settings.label),
        progress=progress,
        held_out=2 * settings.images + _CLASSES * (settings.images // 4),
    )
    grid = subject.model.schedule.grid(settings.steps)
    states, tuning, final = gather_states(subject, settings, grid, progress)
    swept = sweep(subject, settings.sweeps, tuning, progress)
    known = {**subject.analytic(), **swept.calibrated}
    made = stitch(subject.analytic(), swept, tuning, progress)
    releases, checks = released(subject, settings.sweeps), controls(subject, settings.sweeps)
    denoisers: dict[str, Denoiser] = {**known, **made, **releases, **checks}
    shares, r2 = measure_states(states, denoisers, progress)
    best = best_of(shares["trajectories"], releases)
    asked = {name: denoisers[name] for name in (*subject.analytic(), *made, *best)}
    drawn = sample_all(asked, subject, settings, grid, progress)
    conditions, joined = network_classes(subject)
    classes = measure_classes(subject, conditions, tuning.level, settings.images // 4, progress)
    setup = describe(settings, subject, time.monotonic() - began) | {"classes": joined, "releases": list(releases)}
    return Comparison(
        setup,
        tuning.level,
        by_kind(shares, Summary.of),
        by_kind(shares, lambda part: Summary.of(part.mean(0))),
        r2,
        {name: (part.network - part.mean).double().square().mean((1, 2)) for name, part in states.items()},
        swept.found,
        {name: margins(found, list(made), best_of(found, releases)) for name, found in shares.items()},
        {name: part.named() for name, part in made.items()},
        {name: Summary.of((part - final).double().square().mean(1).sqrt()) for name, part in drawn.items()},
        classes,
        {name: subject.images(part) for name, part in {"network": final, **drawn}.items()},
    )


def gather_states(
    subject: ModelAndData, settings: Settings, grid: NoiseLevel, progress: Progress = silent
) -> tuple[dict[str, States], States, Tensor]:
    """The states to show, by kind; others to tune on; and the network's samples of the first seeds."""
    held, mean = subject.held, subject.gaussian.mean
    if held is None:
        raise ValueError("Denoisers are judged on rows that they do not know; load the data with held_out.")
    kept, half = nearest_levels(grid[:-1], settings.ratios), min(settings.images, len(held.rows) // 2)
    level, solver = grid[kept], find_solver(settings.solver)

    def sampled(seeds: Sequence[int], task: str) -> tuple[States, Tensor]:
        run = subject.sample(subject.denoise, seeds, grid, solver, task, progress)
        return States(level, run.x[kept], run.denoised[kept], mean), run.final

    own, final = sampled(settings.seeds, "sampling")
    noised = States.noised(held.rows[:half], level, subject.denoise, mean)
    others = States.noised(held.rows[half : half + max(1, half // 2)], level, subject.denoise, mean, seed=1)
    tuning = others.joined(sampled(settings.tuning, "sampling to tune on")[0])
    return {"noised data": noised, "trajectories": own}, tuning, final[:_SHOWN]


def by_kind(
    shares: Mapping[str, Mapping[str, Tensor]], summary: Callable[[Tensor], Summary]
) -> dict[str, dict[str, Summary]]:
    """A summary of the shares explained, by states and denoiser."""
    return {name: {kind: summary(part) for kind, part in found.items()} for name, found in shares.items()}


def nearest_levels(level: NoiseLevel, ratios: Sequence[float]) -> Tensor:
    """Indices of the levels of a grid that are nearest to sigma/alpha = ``ratios`` in log; each once."""
    wanted = torch.tensor(ratios, dtype=torch.float64).log()
    return (level.log_ratio - wanted.unsqueeze(1)).abs().argmin(1).unique()


def stitch(
    plain: Mapping[str, Denoiser], swept: Swept, tuning: States, progress: Progress = silent
) -> dict[str, Stitched]:
    """The denoiser that explains most at each level, of the plain and the calibrated; and the blend by least squares of
    the plain and all members of all families. Both by the tuning states."""
    advance = progress("stitching", len(plain))
    explained, answers = [], []
    for denoise in plain.values():
        answer = tuning.answers(denoise)
        explained.append(agreement.explained_variance(tuning.network, answer, tuning.mean))
        answers.append(answer[..., sketch(answer.shape[2])])
        advance()
    explained += [swept.found[name].chosen for name in swept.calibrated]  # on the same states
    every = torch.cat([torch.stack(answers), swept.answers])
    weights = agreement.stacked_weights(tuning.network[..., sketch(tuning.network.shape[2])], every)
    return {
        "stitched": Stitched.best(tuning.level, {**plain, **swept.calibrated}, torch.stack(explained)),
        "blended": Stitched(tuning.level, {**plain, **swept.members}, weights),
    }


def measure_states(
    states: Mapping[str, States], denoisers: Mapping[str, Denoiser], progress: Progress = silent
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Summary]]]:
    """By states and denoiser: shares explained [M, B], and r2 within each image, over samples."""
    advance = progress("comparing", len(states) * len(denoisers))
    shares: dict[str, dict[str, Tensor]] = {name: {} for name in states}
    r2: dict[str, dict[str, Summary]] = {name: {} for name in states}
    for name, part in states.items():
        constant = part.mean.expand_as(part.network)
        r2[name]["data mean"] = Summary.of(agreement.pixel_r2(part.network, constant))
        for kind, denoise in denoisers.items():
            answers = part.answers(denoise)
            shares[name][kind] = agreement.explained_shares(part.network, answers, part.mean)
            r2[name][kind] = Summary.of(agreement.pixel_r2(part.network, answers))
            advance()
    return shares, r2


def best_of(shares: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """That of the names which explains most, mean over levels and states; none of none."""
    known = list(names)
    return [max(known, key=lambda kind: float(shares[kind].mean()))] if known else []


def margins(shares: Mapping[str, Tensor], made: Sequence[str], best: Sequence[str]) -> dict[str, Summary]:
    """How much more of each state, mean over levels, these explain than the best."""
    return {
        f"{kind} less {other}": Summary.of((shares[kind] - shares[other]).mean(0)) for kind in made for other in best
    }


def sample_all(
    denoisers: Mapping[str, Denoiser],
    subject: ModelAndData,
    settings: Settings,
    grid: NoiseLevel,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """What each denoiser makes of the noises of the first seeds, [B, D]."""
    solver, seeds = find_solver(settings.solver), settings.seeds[:_SHOWN]
    return {
        name: subject.sample(denoise, seeds, grid, solver, f"sampling: {name}", progress).final
        for name, denoise in denoisers.items()
    }


def network_classes(subject: ModelAndData) -> tuple[dict[int, int | None], str]:
    """For each class of the data the network's label of it, None where the network is asked without; and a sentence.

    The model's own data have its own labels. Classes of other data are joined to these by name; those whose name is not
    among them are left out. Where no names are in common, the network is asked without a class.
    """
    labels, model, data = subject.data.labels, subject.model, subject.data
    known = [] if labels is None else labels[labels >= 0].unique().tolist()
    if not known or not model.classes:
        return dict.fromkeys(known), "the network takes no classes" if known else "the data have no classes"
    own = str(model.notes.get("data"))
    if own == data.name:
        missing = [label for label in known if label >= model.classes]
        said = f"; the network knows no {', '.join(map(str, missing))}" if missing else ""
        return {label: label for label in known if label < model.classes}, f"the network's own classes{said}"
    joined = join_by_name({n: data.classes.get(n, str(n)) for n in known}, known_classes(own))
    if not joined:
        return dict.fromkeys(known), (
            f"the network is asked without a class: none of its classes is known to be called as those of {data.name}"
        )
    left = [data.classes.get(n, str(n)) for n in known if n not in joined]
    return dict(joined), "joined to the network's classes by name" + (f", without {', '.join(left)}" if left else "")


def measure_classes(
    subject: ModelAndData,
    conditions: Mapping[int, int | None],
    level: NoiseLevel,
    count: int,
    progress: Progress = silent,
) -> dict[str, dict[str, Tensor]]:
    """Each class on its own: the network, for the label that ``conditions`` gives, against Gaussians and the class's
    points.

    On rows of the class that are held out; empty where there are no labels, the first twenty where there are more.
    """
    labels, model, held = subject.data.labels, subject.model, subject.held
    if labels is None or held is None or held.labels is None:
        return {}
    known = labels[labels >= 0].unique().tolist()
    here = set(held.labels.tolist())
    chosen = [label for label in known if label in conditions and label in here][:_CLASSES]
    advance = progress("classes", len(chosen))
    result = {}
    for label in chosen:
        rows, index = subject.rows[labels == label], known.index(label)
        theirs = conditions[label]
        network = subject.denoise if theirs is None else model.conditional(theirs)
        states = States.noised(held.rows[held.labels == label][:count], level, network, subject.gaussian.mean)
        denoisers: dict[str, Denoiser] = {
            "Gaussian of all": subject.gaussian,
            "Gaussian of the class": subject.mixture.components[index],
            "exact, of the class": PointCloud(rows),
        }
        name = subject.data.classes.get(label, str(label))
        result[name] = {kind: states.explained(denoise).mean(1) for kind, denoise in denoisers.items()}
        advance()
    return result


def describe(settings: Settings, subject: ModelAndData, seconds: float) -> dict[str, Any]:
    """Who, what, and from which data, in JSON types."""
    tuned, shared = count_shared(subject, settings.sweeps)
    return subject.described(settings.solver, settings.steps) | {
        "denoisers": subject.about,
        "images": settings.images,
        "seeds": list(settings.seeds),
        "local": settings.sweeps.local,
        "released": settings.sweeps.released or settings.sweeps.local,
        "shared": shared,
        "shared_tuned": tuned,
        "judged_on": subject.held.source if subject.held else "",
        "tuned_on": {"seeds": list(settings.tuning), "images": "half as many as are shown, others of those held out"},
        "seconds": round(seconds, 1),
    }


def tables(result: Comparison) -> str:
    """The numbers as text: what each denoiser explains at each level, by both measures, and every sweep."""
    levels = [f"{float(ratio):.3g}" for ratio in result.level.ratio]
    parts = [f"judged on {result.setup['judged_on']}, and on the network's own trajectories"]
    for states, explained in result.explained.items():
        overall = result.overall[states]
        values = torch.stack([torch.cat([part.mean, overall[kind].mean[None]]) for kind, part in explained.items()])
        reach = torch.stack([torch.cat([part.reach, overall[kind].reach[None]]) for kind, part in explained.items()])
        title = f"explained variance, {states} (± to 95 %, over states)"
        parts.append(table(title, "σ/α", list(explained), [*levels, "mean"], values, reach=reach))
    for states, found in result.r2.items():
        values = torch.stack([part.mean for part in found.values()])
        parts.append(table(f"r² within images, {states}", "σ/α", list(found), levels, values))
    for name, made in result.stitched.items():
        parts.append(
            "\n".join([f"{name}, by σ/α", *(f"{at:>6}  {what}" for at, what in zip(levels, made, strict=True))])
        )
    for states, margin in result.margin.items():
        parts += [
            f"{kind}, {states}: {float(part.mean):+.3f} ± {float(part.reach):.3f}" for kind, part in margin.items()
        ]
    names, distance = list(result.distance), list(result.distance.values())
    values, reach = (torch.stack([getattr(part, of) for part in distance]).unsqueeze(1) for of in ("mean", "reach"))
    parts.append(table("distance of samples to the network's", "", names, ["rms"], values, reach=reach))
    for name, swept in result.sweeps.items():
        columns = [f"{value:g}" for value in swept.values]
        best = "" if len(swept.temperatures) == 1 else ", each at its best temperature"
        parts.append(table(f"{name}: {swept.what}{best}", "σ/α", levels, columns, swept.by_value.T))
        parts += [_with_more(name, swept, levels)] if swept.images else []
    if result.classes:
        kinds = list(next(iter(result.classes.values())))
        rows = [torch.stack([found[kind].mean() for kind in kinds]) for found in result.classes.values()]
        title = f"classes, mean over levels ({result.setup['classes']})"
        parts.append(table(title, "", list(result.classes), kinds, torch.stack(rows)))
    return "\n\n".join(parts)


def _with_more(name: str, swept: Sweep, levels: Sequence[str]) -> str:
    """What the members that are chosen explain on the tuning states, with few images and with more."""
    assert swept.images is not None
    few, more = (f"{count:,}" for count in swept.images)
    values = torch.stack([swept.by_value.amax(0), swept.chosen], 1)
    title = f"{name}: tuned with {few} images, judged with {more}. The best of each level, on the states it is tuned on"
    return table(title, "σ/α", levels, [few, more], values)
