"""The benchmark: how close few calls of a network come to its own fine solution, beside the peers at their best.

The grid and the variant of every family of solvers, peers and ours alike, are those of least error on tuning seeds; the
numbers are those of other seeds, and ours are held against the peer that does best on these. A peer is also shown as
diffusers makes it unless told. Several processes of torchrun share the work by cell; what they find does not depend on
how many they are. They need one folder that all can see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import assets
from ...analysis.summary import root_mean_square
from ...metrics.frechet import FrechetScore, frechet_distance, read_reference
from ...metrics.spaces import find_features
from ...models.schedulers.peers import FAMILIES, calls_of
from ...progress import Progress, Whole, silent
from ...sampling.fitted import read_calibration
from ...sampling.linear import read_rules
from ...sampling.use import use_of
from ..shared.model_and_data import find_quality_measures
from ..shared.processes import Processes, join_processes
from ..shared.request import Conditioning, Request, cases, describe, own_device, prepare
from ..shared.results import listed, picture, quantity
from .cells import LEARNED, OURS, Cell, Keep, Settings, Workbench
from .frechet import Skipped, frechet_of, judged_seeds, seen, skipping, skips

#: Resamples of the seeds for the interval of a ratio.
_DRAWS = 2000

#: A cell of seeds, and what is kept of them.
Job = tuple[Cell, Sequence[int], Keep]


@dataclass(frozen=True, eq=False)
class Score:
    """A cell that spends ``calls`` at most: on tuning seeds ("tuning"), or on held-out seeds as the best of its family
    ("best") or as diffusers makes it ("default")."""

    role: str
    family: str
    calls: int
    cell: Cell
    nfe: int = quantity("calls of the network for each sample")
    errors: Tensor = quantity("root mean square distance to the fine solution, per number, by seed")
    frechet: FrechetScore | None = quantity("Fréchet distance in the named feature space; null where not measured")
    to_own: float | None = quantity("Fréchet distance to the network's own images of the same seeds")

    @property
    def ours(self) -> bool:
        return self.family in OURS

    @property
    def peer(self) -> bool:
        """Whether diffusers offers it: neither ours nor learned."""
        return self.family in FAMILIES

    @property
    def rms(self) -> float:
        """Over all seeds and numbers."""
        return root_mean_square(self.errors)


@dataclass(frozen=True, eq=False)
class Ratio:
    """The error of a family, ours or learned, over that of the peer that does best on the very seeds that are shown:
    each at its "best" grid, or each at its "default" one. In the role "learned", of one of ours over what was learned.
    """

    role: str
    calls: int
    family: str
    peer: str
    value: float = quantity("ratio of root mean squares over held-out seeds")
    low: float = quantity("5 % of resamples of the seeds")
    high: float = quantity("95 % of resamples of the seeds")
    nearer: float = quantity("share of the held-out seeds on which the family is nearer")


@dataclass(frozen=True, eq=False)
class Bench:
    """The comparison. ``own`` is the Fréchet distance of the network's own images, None where none are measured, and
    ``images`` [B, C, H, W] are of the first held-out seeds, by calls and solver."""

    setup: dict[str, Any]
    scores: tuple[Score, ...]
    ratios: tuple[Ratio, ...]
    skipping: tuple[Skipped, ...]
    own: FrechetScore | None
    floor: float = quantity("root mean square distance of the fine solution to one of half as many steps, per number")
    images: dict[int, dict[str, Tensor]] = picture()

    def of(self, role: str, family: str) -> list[Score]:
        """The scores of a family in a role, by calls."""
        return [score for score in self.scores if (score.role, score.family) == (role, family)]

    @property
    def finding(self) -> str:
        """At each number of calls, the nearest that is no peer beside the best peer, or the best peer alone."""
        told = []
        for calls in dict.fromkeys(score.calls for score in self.scores if score.role == "best"):
            known = [ratio for ratio in self.ratios if (ratio.role, ratio.calls) == ("best", calls)]
            best, peer = min(known, key=lambda ratio: ratio.value, default=None), best_peer(self.scores, "best", calls)
            told.append(
                f"{peer.rms:.3g} at {calls} ({peer.cell.solver})"
                if best is None
                else f"{best.value:.2f} at {calls} ({best.family}, {best.low:.2f} to {best.high:.2f})"
            )
        fine = f"on {len(self.setup['seeds'])} held-out seeds, each at its best grid"
        if not self.ratios:
            return f"Distance of the best solver of diffusers to the fine solution, by calls: {listed(told)}; {fine}."
        return (
            "Distance to the network's fine solution over that of the best solver of diffusers, by calls: "
            f"{listed(told)}; {fine}. Below 1 is nearer than diffusers; the range is 5 % to 95 % over seeds."
        )

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(score.family for score in self.scores))


def prepare_bench(
    request: Request,
    settings: Settings,
    folder: str | Path,
    calibration: str | Path | None = None,
    reference: str | Path | None = None,
    space: str | None = None,
    learned: str | Path | None = None,
) -> Workbench:
    """Load what is asked for; ``ask`` gives the grid and the solver whose first steps are skipped, ``space`` a name for
    `find_features` in place of what judges images of the data in the box, ``learned`` a file of benchmarks/learned.py.

    Raises:
        ValueError: as `prepare`; a family that lacks its statistics, plans or rules, plans or rules that were made on
            held-out seeds, rules that were learned for other weights, Fréchet distances where nothing judges the
            images, or what judges them where there are to be none.
    """
    if not settings.samples and (space is not None or reference is not None):
        raise ValueError("--features and --reference are for Fréchet distances; give --samples, too, or neither.")
    sampler = prepare(request)
    listed = cases(request, sampler.model)
    plans = None if calibration is None else read_calibration(calibration)
    features, test, _ = find_quality_measures(assets.folder(str(sampler.model.notes.get("data"))))
    if space is not None:
        features, test = find_features(space, sampler.model.image_shape, own_device(request.device)), None
    # the test split is of all the data: no measure of some classes or prompts
    judged = read_reference(reference) if reference is not None else test if listed == (Conditioning(),) else None
    asked = space, None if reference is None else str(reference)
    rules = None if learned is None else read_rules(learned)
    workbench = Workbench(sampler, listed, settings, Path(folder), plans, features, judged, request.model, asked, rules)
    _check(workbench)
    return workbench


def _check(workbench: Workbench) -> None:
    settings, plans, everything = workbench.settings, workbench.calibration, workbench.sampler.theory.everything
    lacking = [name for name in settings.solvers if name not in workbench.families]
    if LEARNED in lacking:
        raise ValueError("learned needs the rules of benchmarks/learned.py; give --learned FILE.")
    if lacking and workbench.gaussian is not None:
        raise ValueError(f"{', '.join(lacking)} needs the plans of `underpaint calibrate`; give --calibration FILE.")
    if lacking or (plans is not None and everything is None):
        raise ValueError(f"{', '.join(lacking) or 'calibrated'} needs statistics of the data; give --gaussian FILE.")
    if not any(name in FAMILIES for name in workbench.families):
        raise ValueError(f"Ours are compared with peers; give one of {', '.join(FAMILIES)} among the solvers.")
    if not workbench.grids:
        raise ValueError(f"{workbench.sampler.model.name} has none of the grids {', '.join(settings.grids)}.")
    if plans is not None and everything is not None:
        plans.check(everything)
        _check_unseen("The calibration has", plans.about, settings)
        for plan in plans.plans:
            if plan.calls in settings.calls and "calibrated" in workbench.families:
                plans.warn(use_of(workbench.denoiser(settings.seeds)), plan.calls)
    if workbench.learned is not None:
        _check_unseen("The learned rules have", workbench.learned.about, settings)
        if workbench.learned.about.get("weights", workbench.weights) != workbench.weights:
            raise ValueError(
                f"The rules were learned for other weights than these of {workbench.sampler.model.name} (another "
                "network, or another --dtype); learn them anew."
            )
    if settings.samples:
        _check_judge(workbench)


def _check_unseen(who: str, about: Mapping[str, Any], settings: Settings) -> None:
    """ValueError where something was fitted to, or chosen on, seeds that are to judge it."""
    used = {seed for name in ("seeds", "held_out", "judge") for seed in about.get(name, ())} & set(settings.seeds)
    if used:
        raise ValueError(f"{who} used seed {min(used)}; give other --seeds.")


def _check_judge(workbench: Workbench) -> None:
    features, reference = workbench.features, workbench.reference
    if features is None or reference is None:
        model, what = workbench.sampler.model.name, workbench.cases[0].what
        lacking = "--features and --reference" if features is None else "--reference"
        raise ValueError(f"Nothing judges images of {what} by {model}; give {lacking}, or leave out --samples.")
    if features.name != reference.space:
        raise ValueError(
            f"The reference is of the features {reference.space!r}, but images are judged in {features.name!r}; give a "
            "reference in those."
        )


def bench(workbench: Workbench, progress: Progress = silent) -> Bench | None:
    """Solve what the folder does not hold yet, with the other processes of the team if there are any, and compare;
    None on all but the first.

    Memory: the final rows of one cell, and of one batch what its solver holds.
    """
    settings = workbench.settings
    with join_processes() as processes:
        tried = list(_tried(workbench))
        jobs: list[Job] = [(cell, settings.tuning, "rows") for cell in dict.fromkeys(c for _, _, c in tried)]
        _work(workbench, processes, "choosing grids", [(workbench.fine, settings.tuning, "rows"), *jobs], progress)
        tuning = [_score(workbench, "tuning", *cell, settings.tuning) for cell in tried]
        defaults = (score for score in tuning if score.cell.grid == "default")
        tuned = [("best", score) for score in choose(tuning)] + [("default", score) for score in choose(defaults)]
        shown = dict.fromkeys([workbench.fine, workbench.half, *(score.cell for _, score in tuned)])
        _work(workbench, processes, "held-out seeds", [(cell, settings.seeds, "rows") for cell in shown], progress)
        found = [_score(workbench, role, s.family, s.calls, s.cell, settings.seeds) for role, s in tuned]
        jobs = [(cell, judged_seeds(workbench), "features") for cell in _rated(workbench, found)]
        _work(workbench, processes, "Fréchet distances", jobs, progress)
        return None if processes.rank else _gather(workbench, tuning, found)


def _work(workbench: Workbench, processes: Processes, what: str, jobs: Sequence[Job], progress: Progress) -> None:
    """Solve this process's share of the batches, and wait until the others have solved theirs."""
    parts = [(cell, part, keep) for cell, seeds, keep in jobs for part in workbench.batches(seeds)]
    own = parts[processes.rank :: processes.size]
    calls = [calls_of(cell.solver, cell.steps) for cell, _, _ in own]
    whole = Whole(progress if own and not processes.rank else silent, f"{what}, calls", sum(calls))
    for (cell, part, keep), spent in zip(own, calls, strict=True):
        workbench.measured(cell, part, keep)
        whole.reach(whole.done + spent)
    processes.meet()


def _tried(workbench: Workbench) -> Iterator[tuple[str, int, Cell]]:
    for calls in workbench.settings.calls:
        for family in workbench.families:
            yield from ((family, calls, cell) for cell in workbench.candidates(family, calls))


def _score(workbench: Workbench, role: str, family: str, calls: int, cell: Cell, seeds: Sequence[int]) -> Score:
    return Score(role, family, calls, cell, workbench.calls(cell, seeds), workbench.errors(cell, seeds), None, None)


def choose(scores: Iterable[Score]) -> list[Score]:
    """The best of each family at each number of calls."""
    best: dict[tuple[str, int], Score] = {}
    for score in scores:
        key = score.family, score.calls
        if key not in best or score.rms < best[key].rms:
            best[key] = score
    return list(best.values())


def best_peer(found: Iterable[Score], role: str, calls: int) -> Score:
    """The best of the peers in a role at a number of calls."""
    peers = (score for score in found if (score.role, score.calls, score.peer) == (role, calls, True))
    return min(peers, key=lambda score: score.rms)


def rivals(found: Sequence[Score], calls: int) -> list[Score]:
    """Who is looked at closely at a number of calls: the best peer, the best at diffusers' defaults, what was learned,
    and each of ours."""
    others = [score for score in found if score.calls == calls and not score.peer]
    return [best_peer(found, "best", calls), best_peer(found, "default", calls), *others]


def _rated(workbench: Workbench, found: Sequence[Score]) -> list[Cell]:
    """Whose Fréchet distance is measured: the network's own, the rivals', and those of the sampler's grid and solver
    as they are shortened."""
    if not workbench.settings.samples:
        return []
    cells = [score.cell for calls in workbench.settings.calls for score in rivals(found, calls)]
    return list(dict.fromkeys([workbench.own, *cells, *(cell for _, _, cell in skips(workbench))]))


def _gather(workbench: Workbench, tuning: Sequence[Score], found: Sequence[Score]) -> Bench:
    rated, budgets = set(_rated(workbench, found)), workbench.settings.calls
    own = seen(workbench, workbench.own) if rated else None

    def judged(score: Score) -> Score:
        if own is None or score.cell not in rated:
            return score
        images = seen(workbench, score.cell)
        return replace(score, frechet=frechet_of(workbench, images), to_own=frechet_distance(images, own))

    return Bench(
        setup=_setup(workbench),
        scores=(*map(judged, found), *tuning),
        ratios=tuple(_ratios(found)),
        floor=root_mean_square(workbench.errors(workbench.half, workbench.settings.seeds)),
        skipping=() if own is None else tuple(skipping(workbench, own)),
        own=None if own is None else frechet_of(workbench, own),
        images={calls: _images(workbench, rivals(found, calls)) for calls in budgets},
    )


def _setup(workbench: Workbench) -> dict[str, Any]:
    about = describe(workbench.sampler, workbench.cases[0], workbench.settings.seeds)
    features = None if workbench.features is None else workbench.features.name
    made = workbench.calibration
    plans = None if made is None else made.about | {"calls": [plan.calls for plan in made.plans]}
    rules = workbench.learned
    learned = None if rules is None else rules.about | {"calls": [rule.calls for rule in rules.rules]}
    listed = [str(case) for case in workbench.cases]
    more = {"place": workbench.place, "cases": listed, "features": features, "judge": workbench.judge}
    return about | asdict(workbench.settings) | more | {"calibration": plans, "learned": learned}


def _ratios(found: Sequence[Score]) -> Iterator[Ratio]:
    learned = {score.calls: score for score in found if score.family == LEARNED}
    for role in ("best", "default"):
        for score in found:
            if not score.peer:
                yield _ratio(role, score, best_peer(found, role, score.calls))
    for score in found:
        if score.ours and score.calls in learned:
            yield _ratio(LEARNED, score, learned[score.calls])


def _ratio(role: str, score: Score, other: Score) -> Ratio:
    nearer = float((score.errors < other.errors).double().mean())
    return Ratio(role, score.calls, score.family, str(other.cell), *bootstrap_ratio(score.errors, other.errors), nearer)


def bootstrap_ratio(ours: Tensor, peer: Tensor, draws: int = _DRAWS) -> tuple[float, float, float]:
    """Ratio of the root mean squares of errors [B] of the same seeds; 5 % and 95 % of it when seeds are drawn anew."""
    index = torch.randint(len(ours), (draws, len(ours)), generator=torch.Generator().manual_seed(0))
    a, b = ours.double().square(), peer.double().square()
    again = (a[index].mean(1) / b[index].mean(1)).sqrt()
    low, high = torch.quantile(again, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return float((a.mean() / b.mean()).sqrt()), low, high


def _images(workbench: Workbench, scores: Sequence[Score], count: int = 8) -> dict[str, Tensor]:
    """Of the first held-out seeds: the fine solution, and some others."""
    cells = {"fine": workbench.fine} | {str(score.cell): score.cell for score in scores}
    seeds = workbench.settings.seeds
    return {name: workbench.sampler.model.images(workbench.values(cell, seeds)[:count]) for name, cell in cells.items()}
