"""Solvers that are learned for few calls, in our own words: what the published ones can express, on any model.

    python benchmarks/learned.py --model fashion-mnist --calls 3 4 5 8 10 --out learned.json

fits three forms to a network, each from the best plain solver, which it contains:

- *times*, as LD3 (Tong et al. 2024, arXiv 2405.15506): N times and N told times under a fixed update;
- *consistent*, as DyWeight (Zhao et al. 2026, arXiv 2603.11607): weights on all past calls that keep a constant image,
  whose noise left over says where a state is, and told times;
- *scalars*, as S4S (Frankel et al. 2025, arXiv 2502.17423), BNS (Shaul et al. 2024, arXiv 2403.01329) and GS (Oganov et
  al. 2025, arXiv 2510.17699): any weights on x_T and all past calls, and told times, N (N + 5)/2 + 1 numbers.

Published ones descend a gradient of LPIPS or of a discriminator through the network. Here the distance to the network's
own fine solution is made small by Levenberg-Marquardt with derivatives by differences, from least squares step by step:
no gradient, and fewer calls for the same error. What is found is kept beside the file until it is complete. The file
is for `underpaint bench --learned`; `--calibration` holds a plan against it here, on the held-out seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import underpaint as up
from underpaint.bounds import MOST_STEPS, check_integers, integer
from underpaint.cli.base import in_a_sentence, parse_seeds
from underpaint.files import check_targets
from underpaint.models.fingerprint import fingerprint
from underpaint.models.schedulers.peers import grids, lay, peer
from underpaint.noise import NoiseLevel, Schedule
from underpaint.recipes.benchmark.benchmark import bootstrap_ratio
from underpaint.recipes.shared.checkpoints import Parts, drop_parts
from underpaint.recipes.shared.request import Request, Sampler, cases, find_denoiser, prepare
from underpaint.sampling.fitted import Calibration, read_calibration
from underpaint.sampling.linear import LearnedRules, LinearRule, linear_rule, write_rules
from underpaint.sampling.solvers import ddim_step
from underpaint.sampling.use import in_turn

#: Plain solvers that a fit may begin with, and hold its times to.
PLAIN = ("DDIM", "DPM-Solver++ 2M", "DPM-Solver++ 3M", "UniPC-2 bh2", "UniPC-3 bh2", "DEIS-3")
FORMS = ("times", "consistent", "scalars")


@dataclass(frozen=True, eq=False)
class Problem:
    """Seeds, and where the network's own fine solution of them ends.

    ``noise`` [B, D] is x_T at the schedule's first level; states and images [L, B, D] of the fine solution serve the
    least squares that a fit begins with.
    """

    denoise: up.Denoiser
    schedule: Schedule
    noise: Tensor
    level: NoiseLevel
    states: Tensor
    seen: Tensor
    wanted: Tensor

    def errors(self, final: Tensor) -> Tensor:
        """Root mean square distance to the fine solution of each seed, [B] float64."""
        return (final - self.wanted).double().square().mean(1).sqrt()

    def state(self, there: NoiseLevel) -> Tensor:
        """The fine solution at any level: from its last state above, with the image seen there."""
        if not there.ratio < self.level.ratio[0]:
            return self.noise * float(there.sigma / self.schedule.grid(1).sigma[0])
        k = int((self.level.ratio >= there.ratio).sum()) - 1
        return ddim_step(self.states[k], self.seen[min(k, len(self.seen) - 1)], self.level[k], there)


@dataclass(frozen=True, eq=False)
class Run:
    """A rule, what it knew in the end, its image and the errors by seed."""

    rule: LinearRule
    known: list[Tensor]
    final: Tensor
    errors: Tensor

    @property
    def loss(self) -> float:
        """Mean square over seeds and numbers."""
        return float(self.errors.square().mean())


def pose(denoise: up.Denoiser, schedule: Schedule, seeds: Sequence[int], dimension: int, fine: int) -> Problem:
    """The problem of some seeds: the solution that `underpaint bench` holds all against."""
    level, first = lay(schedule, "log", fine), schedule.grid(1)[0]
    noise = up.initial_noise(seeds, dimension, first)
    run = up.sample(denoise, up.initial_noise(seeds, dimension, level[0]), level, peer("UniPC-3 bh2"))
    return Problem(denoise, schedule, noise, level, run.x, run.denoised, run.final)


def run(problem: Problem, rule: LinearRule, like: Run | None = None) -> Run:
    """Solve by a rule; what it has in common with the beginning of another run is not called for again."""
    known, same = [problem.noise], like is not None
    for i in range(rule.calls):
        if same and like is not None:
            other = like.rule
            same = bool(torch.equal(rule.weights[i], other.weights[i]) and rule.told[i].sigma == other.told[i].sigma)
        if same and like is not None:
            known.append(like.known[i + 1])
        else:
            with torch.no_grad():
                known.append(problem.denoise(rule.state(i, known), rule.told[i]))
    final = rule.state(rule.calls, known)
    return Run(rule, known, final, problem.errors(final))


class Told:
    """The levels that a network is told of, as parameters: log(sigma/alpha) within the schedule's range."""

    def __init__(self, schedule: Schedule, first: NoiseLevel) -> None:
        ratio = schedule.grid(1000).ratio[:-1].log()
        self.schedule, self.first = schedule, first
        self.low, self.high = float(ratio[-1]), float(ratio[ratio.isfinite()][0])

    def pack(self, told: NoiseLevel) -> Tensor:
        return told.log_ratio.clamp(self.low, self.high)

    def unpack(self, values: Tensor) -> NoiseLevel:
        """Levels of the parameters; a first one without signal stays."""
        told = self.schedule.level(values.clamp(self.low, self.high).exp())
        return NoiseLevel.join(self.first, told[1:]) if self.first.alpha == 0 else told


@dataclass(frozen=True, eq=False)
class Times:
    """N - 1 times between a first and 0, and N told ones, under the update of a plain solver."""

    solver: str
    told: Told

    def parameters(self, start: LinearRule) -> Tensor:
        return torch.cat([start.told.log_ratio[1:], self.told.pack(start.told)])

    def rule(self, values: Tensor) -> LinearRule | None:
        """The rule; None where the times do not fall."""
        count = (len(values) + 1) // 2
        inner = self.told.schedule.level(values[: count - 1].exp())
        level = NoiseLevel.join(self.told.first, inner, NoiseLevel.clean())
        if not bool((level.ratio.diff() < 0).all()):
            return None
        return linear_rule(peer(self.solver), level, self.told.unpack(values[count - 1 :]))


@dataclass(frozen=True, eq=False)
class Weights:
    """All weights of a rule, or all that keep a constant image, and N told times.

    A row is *consistent* if for images that are all c, and x_T = alpha_T c + sigma_T eps, its state holds alpha c, with
    the alpha that the network is told of: so its newest weight is alpha - alpha_T w_0 - (sum of the other weights), and
    w_0 says how much noise is left.
    """

    told: Told
    consistent: bool

    def rows(self, told: NoiseLevel) -> list[tuple[Tensor, Tensor]]:
        """Of each row what is given [i + 1], and what is free [F, i + 1]; w_0 is in units of the noise."""
        first, ends = self.told.first, [*told.alpha.tolist(), 1.0]
        unit = 1 / float(first.sigma)
        parts = []
        for i, alpha in enumerate(ends):
            free, given = torch.eye(i + 1, dtype=torch.float64), torch.zeros(i + 1, dtype=torch.float64)
            free[0, 0] = unit
            if self.consistent and i == 0:
                free, given = free[:0], torch.ones(1, dtype=torch.float64)
            elif self.consistent:
                free, given[i] = free[:i], alpha
                free[:, i] = -free[:, 1:].sum(1) - float(first.alpha) * free[:, 0]
            parts.append((given, free))
        return parts

    def parameters(self, start: LinearRule) -> Tensor:
        """Those of a rule that is one of these."""
        parts = [self.told.pack(start.told)]
        for i, (given, free) in enumerate(self.rows(start.told)):
            parts.append(torch.linalg.lstsq(free.T, (start.weights[i, : i + 1] - given).unsqueeze(1)).solution[:, 0])
        return torch.cat(parts)

    def rule(self, values: Tensor) -> LinearRule:
        count = self._calls(len(values))
        told = self.told.unpack(values[:count])
        weights, place = torch.zeros(count + 1, count + 1, dtype=torch.float64), count
        for i, (given, free) in enumerate(self.rows(told)):
            weights[i, : i + 1] = given + values[place : place + len(free)] @ free
            place += len(free)
        return LinearRule(told, weights)

    def _calls(self, size: int) -> int:
        count = 1
        while count + count * (count + 1) // 2 + (0 if self.consistent else count + 1) < size:
            count += 1
        return count

    def least_squares(self, problem: Problem, told: NoiseLevel) -> LinearRule:
        """Row by row, the weights that lead nearest to the fine solution at each told level."""
        count = len(told)
        weights = torch.zeros(count + 1, count + 1, dtype=torch.float64)
        known = [problem.noise * float(self.told.first.sigma / problem.schedule.grid(1).sigma[0])]
        for i, (given, free) in enumerate(self.rows(told)):
            wanted = problem.wanted if i == count else problem.state(told[i])
            parts = torch.stack(known).double()
            terms = torch.einsum("fk,kbd->fbd", free, parts).flatten(1)
            left = (wanted - torch.einsum("k,kbd->bd", given, parts)).flatten()
            gram = terms @ terms.T
            gram += 1e-9 * torch.diag(gram.diagonal())
            weights[i, : i + 1] = given
            if len(free):
                weights[i, : i + 1] += torch.linalg.solve(gram, terms @ left) @ free
            if i < count:
                with torch.no_grad():
                    known.append(problem.denoise(LinearRule(told, weights).state(i, known), told[i]))
        return LinearRule(told, weights)


Form = Times | Weights


def levenberg_marquardt(
    problem: Problem,
    form: Form,
    values: Tensor,
    rounds: int,
    judge: Problem | None = None,
    patience: int = 4,
    say: Any = lambda text: None,
) -> Run:
    """The least mean square from some parameters: of all steps, the one nearest on the seeds of the judge, if any.

    Derivatives are forward differences; a change of one row calls again from there on only. No step makes the mean
    square on the seeds of the fit greater.
    """

    def solved(at: Tensor, like: Run | None = None) -> Run | None:
        rule = form.rule(at)
        return None if rule is None else run(problem, unit(problem, rule, form.told.first), like)

    here = solved(values)
    assert here is not None
    best, mu, waited = here, 1e-2, 0
    judged = run(judge, here.rule).loss if judge is not None else here.loss
    for k in range(rounds):
        slopes = _slopes(solved, here, values)
        gram, pull = slopes @ slopes.T, slopes @ (problem.wanted - here.final).double().flatten()
        found = _step(solved, here, values, gram, pull, mu)
        if found is None:
            break
        values, gained, mu = found[0], 1 - found[1].loss / here.loss, found[2] / 5
        here = found[1]
        score = run(judge, here.rule).loss if judge is not None else here.loss
        best, judged, waited = (here, score, 0) if score < judged else (best, judged, waited + 1)
        say(f"round {k + 1}: {here.loss**0.5:.5f} on the fit" + ("" if judge is None else f", {score**0.5:.5f} judged"))
        if gained < 1e-3 or waited >= patience:
            break
    return best


def _slopes(solved: Any, here: Run, values: Tensor) -> Tensor:
    """Derivatives [P, B D] of the image by the parameters."""
    rows = torch.zeros(len(values), here.final.numel(), dtype=torch.float64)
    for k in range(len(values)):
        length = 3e-3 * max(abs(float(values[k])), 0.1)
        for change in (length, -length):  # backwards where there is no way on: at the end of the schedule
            moved = values.clone()
            moved[k] += change
            there = solved(moved, here)
            if there is not None and not torch.equal(there.final, here.final):
                rows[k] = ((there.final - here.final).double() / change).flatten()
                break
    return rows


def _step(
    solved: Any, here: Run, values: Tensor, gram: Tensor, pull: Tensor, mu: float
) -> tuple[Tensor, Run, float] | None:
    """The first step that helps, of ever shorter ones, with its damping."""
    scale = gram.diagonal() + 1e-12 * gram.diagonal().max()
    for _ in range(8):
        moved = values + torch.linalg.solve(gram + mu * torch.diag(scale), pull)
        there = solved(moved, here)
        if there is not None and there.loss < here.loss:
            return moved, there, mu
        mu *= 5
    return None


@dataclass(frozen=True, eq=False)
class Plain:
    """A plain solver on a grid: its table, for noise at the grid's first level, and its mean square."""

    solver: str
    grid: str
    level: NoiseLevel
    rule: LinearRule
    loss: float


def plain_rules(problem: Problem, calls: int) -> list[Plain]:
    """Every plain solver on every grid, the best first."""
    found = []
    for grid in grids(problem.schedule):
        level = lay(problem.schedule, grid, calls)
        for solver in PLAIN:
            rule = linear_rule(peer(solver), level)
            found.append(Plain(solver, grid, level, rule, run(problem, unit(problem, rule, level[0])).loss))
    return sorted(found, key=lambda part: part.loss)


def unit(problem: Problem, rule: LinearRule, first: NoiseLevel) -> LinearRule:
    """A rule for noise at a grid's first level, as one for noise at the schedule's."""
    return rule.scaled(float(first.sigma / problem.schedule.grid(1).sigma[0]))


def begin(problem: Problem, form: str, plain: Sequence[Plain]) -> tuple[Form, Tensor, float]:
    """A form with parameters to begin from, and their mean square: the best plain solver's, or those of least squares
    on the levels of one, whichever are nearer."""
    best = plain[0]
    told = Told(problem.schedule, best.level[0])
    if form == "times":
        times = Times(best.solver, told)
        return times, times.parameters(best.rule), best.loss
    weights = Weights(told, form == "consistent")
    chosen, values, least = weights, weights.parameters(best.rule), best.loss
    for level in {part.grid: part.level for part in plain}.values():
        other = Weights(Told(problem.schedule, level[0]), form == "consistent")
        fitted = other.least_squares(problem, level[:-1])
        loss = run(problem, unit(problem, fitted, level[0])).loss
        if loss < least:
            chosen, values, least = other, other.parameters(fitted), loss
    return chosen, values, least


def learn(
    problem: Problem, form: str, plain: Sequence[Plain], rounds: int, judge: Problem | None = None, say: Any = print
) -> LinearRule:
    """A rule of one form, for noise at the schedule's first level."""
    chosen, values, least = begin(problem, form, plain)
    calls, best = plain[0].rule.calls, plain[0]
    say(f"{form}, {calls} calls: {best.solver}, {best.grid} {best.loss**0.5:.5f}, begins at {least**0.5:.5f}")
    return levenberg_marquardt(problem, chosen, values, rounds, judge, say=say).rule


def main() -> None:
    args = _arguments()
    torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))
    check_integers(vars(args), fine=(2, MOST_STEPS), rounds=(0, MOST_STEPS))
    check_integers(vars(args), calls=(1, args.fine - 1))
    folder = args.out.with_name(f"{args.out.name}.part")
    check_targets(args.out, folder / "first.safetensors")
    sets = {name: parse_seeds(getattr(args, name)) for name in ("seeds", "judge", "held_out")}
    if len({seed for seeds in sets.values() for seed in seeds}) < sum(map(len, sets.values())):
        raise ValueError("Give other seeds to fit to, to judge on and to hold out.")
    plans = read_calibration(args.calibration) if args.calibration else None
    sampler, denoisers, about = _asked(args)
    if plans is not None:  # a mistake in them shows before the work
        check_plans(plans, sampler, sets["held_out"])
    about |= {name: list(seeds) for name, seeds in sets.items()} | {"fine": args.fine, "rounds": args.rounds}
    about["tried"] = list(args.forms)
    folder.mkdir(parents=True, exist_ok=True)
    keep = Parts(folder, about, (NoiseLevel, LinearRule, Plain))
    problems = [_posed(sampler.model, denoisers, seeds, args.fine, name, keep) for name, seeds in sets.items()]
    rules = {calls: _learned(problems, calls, args, keep) for calls in args.calls}
    judge, held = problems[1:]
    chosen = {c: min(args.forms, key=lambda form, of=of: run(judge, of[form]).loss) for c, of in rules.items()}
    about["forms"] = {str(calls): form for calls, form in chosen.items()}
    write_rules(args.out, LearnedRules(tuple(rules[calls][form] for calls, form in chosen.items()), about))
    found = {calls: {name: run(held, rule).errors for name, rule in of.items()} for calls, of in rules.items()}
    if plans is not None:
        for calls, errors in calibrated(plans, sampler, held, sets["held_out"], args.calls).items():
            found[calls]["calibrated"] = errors
    drop_parts(folder)
    numbers = {calls: {name: errors.tolist() for name, errors in of.items()} for calls, of in found.items()}
    print(json.dumps(about | {"errors": numbers}) if args.json else table(found))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _asked(args: argparse.Namespace) -> tuple[Sampler, list[up.Denoiser], dict[str, Any]]:
    """The model, its denoiser in each case, and what the file says of them."""
    named = {"statistics": tuple(args.gaussian), "device": args.device, "dtype": args.dtype}
    request = Request(args.model, (*args.prompt, *args.label), (args.guidance,), args.negative, **named)
    sampler = prepare(request)
    listed = cases(request, sampler.model)
    about = {"model": sampler.model.name, "place": args.model, "cases": [str(case) for case in listed]}
    about["weights"] = fingerprint(sampler.model)
    return sampler, [find_denoiser(sampler.model, case) for case in listed], about


def _posed(
    model: up.Model, denoisers: Sequence[up.Denoiser], seeds: Sequence[int], fine: int, name: str, keep: Parts
) -> Problem:
    """The problem of some seeds, solved now or before."""
    turned = in_turn(denoisers, seeds)

    def solve() -> dict[str, Tensor]:
        _say(f"fine solution of {len(seeds)} seeds")
        found = pose(turned, model.schedule, seeds, model.dimension, fine)
        return {part: getattr(found, part) for part in ("noise", "states", "seen", "wanted")}

    tensors = keep(f"fine solution, {name}", solve)
    return Problem(turned, model.schedule, level=lay(model.schedule, "log", fine), **tensors)


def _learned(problems: Sequence[Problem], calls: int, args: argparse.Namespace, keep: Parts) -> dict[str, LinearRule]:
    """The best plain solver, and a rule of each form, of so many calls."""
    fit, judge, held = problems
    plain = keep(f"plain, {calls} calls", lambda: plain_rules(fit, calls))
    rules = {"plain": unit(fit, plain[0].rule, plain[0].level[0])}
    for form in args.forms:
        rules[form] = keep(f"{form}, {calls} calls", lambda: learn(fit, form, plain, args.rounds, judge, _say))  # noqa: B023
    _say(f"{calls} calls, held out: {', '.join(f'{n} {run(held, rule).loss ** 0.5:.5f}' for n, rule in rules.items())}")
    return rules


def check_plans(plans: Calibration, sampler: Sampler, seeds: Sequence[int]) -> None:
    """Refuse plans that these held-out seeds cannot judge, or that were made with other statistics.

    Raises:
        ValueError: the plans have used one of the seeds, or their Gaussian is not the model's.
    """
    used = {*plans.about.get("seeds", ()), *plans.about.get("held_out", ())} & set(seeds)
    if used:
        raise ValueError(f"The calibration has used seed {min(used)}; give other --held-out.")
    if sampler.theory.everything is None:
        raise ValueError(f"Plans need the Gaussian of the data of {sampler.model.name}; give it by --gaussian.")
    plans.check(sampler.theory.everything)


def calibrated(
    plans: Calibration, sampler: Sampler, held: Problem, seeds: Sequence[int], calls: Sequence[int]
) -> dict[int, Tensor]:
    """Errors of a calibration's plans on the held-out seeds."""
    gaussian, found = sampler.theory.everything, {}
    for count in {plan.calls for plan in plans.plans} & set(calls):
        solver, level = plans.solver(gaussian, count)
        x = up.initial_noise(seeds, gaussian.dimension, level[0])
        found[count] = held.errors(up.sample(held.denoise, x, level, solver, every=len(level)).final)
    return found


def table(found: dict[int, dict[str, Tensor]]) -> str:
    """Root mean squares and medians, and each over the best of the others that are no plan, in Markdown."""
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    lines = [f"| calls | {' | '.join(map(str, found))} |", "|---" * (len(found) + 1) + "|"]
    for name in names:
        cells = [
            f"{of[name].square().mean().sqrt():.4g}, median {of[name].median():.4g}" if name in of else "-"
            for of in found.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for mine, other in (("scalars", "plain"), ("calibrated", "scalars")):
        if all(name in of for of in found.values() for name in (mine, other)):
            cells = []
            for of in found.values():
                value, low, high = bootstrap_ratio(of[mine], of[other])
                nearer = float((of[mine] < of[other]).double().mean())
                cells.append(f"**{value:.2f}** [{low:.2f}, {high:.2f}], nearer on {100 * nearer:.0f} %")
            lines.append(f"| {mine} / {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--class", dest="label", type=int, action="append", default=[])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--negative")
    parser.add_argument("--gaussian", action="append", default=[], help="statistics, for --calibration")
    parser.add_argument("--calls", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 14, 20, 35])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seeds", default="0-15", help="to fit to")
    parser.add_argument("--judge", default="1000-1015", help="to say which step of a fit, and which form, is kept")
    parser.add_argument("--held-out", default="2000-2047", help="that nothing is chosen on")
    parser.add_argument("--fine", type=int, default=200, help="steps of the solution that is to be met")
    parser.add_argument("--rounds", type=int, default=30, help="of Levenberg-Marquardt at most")
    parser.add_argument("--calibration", type=Path, help="plans to hold against them")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("learned.json"))
    parser.add_argument("--json", action="store_true", help="print errors by seed as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    with in_a_sentence("learned.py"):
        main()
