"""The Gaussian exponential integrator with coefficients and levels that were fitted to one denoiser, and their file.

Between two calls a step follows the Gaussian's flow, and adds what the latest calls said beyond it:

    y' = psi y + alpha' sum_j [(a_j + b_j S + e_j S^2) (D_j - G_j) + (c_j + d_j S + f_j S^2) D_j],    y = x - alpha mu.

D_j and G_j are the images that the denoiser and the Gaussian saw in state j, less mu; psi, and the newest level's
S = alpha^2 Sigma / (alpha^2 Sigma + sigma^2), are functions of Sigma. For data of that Gaussian there is nothing to
add; where S vanishes, a step is one of a linear multistep method. What a to f are is for `calibration`.

Plans for a range of guidance w have each of them as a straight line in its logarithm: a(w) = a + a' log w.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bounds import number, shown
from ..files import json_part, json_tensor, read_json, write_text
from ..noise import NoiseLevel
from ..theory import modes
from ..theory.covariance import Covariance, add
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .exponential import EXPONENTIALS, gains_by_call, named_exponential
from .solvers import Solver, Step, find_solver
from .trajectory import check_grid
from .use import NOT_MEASURED, Loss, Use, differences, use_of

#: Calls that a step looks back on, and coefficients for each of them: a, b, c, d, e, f. Older plans have four.
LOOK_BACK, TERMS = 3, 6
_FORMER = 4

#: A level, the centred state at it, and the centred image that the denoiser saw in it, both in coordinates [B, K].
Seen = tuple[NoiseLevel, Tensor, Tensor]


def fitted_exponential(gaussian: Gaussian, coefficients: Tensor) -> Solver:
    """The solver with coefficients a, b, c, d, e, f [N, 3, 6] for each of N steps: of the newest call, and of two
    before it; or with a, b, c, d alone.

    Raises:
        ValueError: when it solves, the grid is of another number of steps.
    """
    covariance, coefficients = gaussian.covariance, _completed(coefficients)

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        if len(level) != len(coefficients) + 1:
            raise ValueError(f"The coefficients are for {len(coefficients)} steps, the grid has {len(level) - 1}.")
        mean, dtype = gaussian.mean.to(x), x.dtype
        gains = partial(_gains, level=level, coefficients=coefficients)
        by_call = gains_by_call(gains, covariance.asked, range(len(coefficients)))
        state = covariance.split(x, level.alpha[0].to(x) * mean)
        due = [torch.zeros_like(state) for _ in range(LOOK_BACK - 1)]  # what former calls add to the next states
        for here, there in pairwise(level):
            denoised = denoise(x, here)
            del x  # what a step holds is LOOK_BACK + 1 states, and what it makes
            own = next(by_call)
            image = covariance.split(denoised, mean)
            _tell(own, state, image, due, covariance)
            state, *due = *due, image
            x = covariance.join(state).to(dtype).add_(mean, alpha=float(there.alpha))
            yield x, denoised
            del denoised

    return solve


def _completed(coefficients: Tensor) -> Tensor:
    """Coefficients with zeros for the terms that former plans do not have."""
    former = coefficients.ndim == 3 and coefficients.shape[-1] == _FORMER
    return torch.nn.functional.pad(coefficients, (0, TERMS - _FORMER)) if former else coefficients


def _tell(gains: Tensor, state: Tensor, image: Tensor, due: Sequence[Tensor], covariance: Covariance) -> None:
    """What is due to the next states grows by what an image that was seen in a state adds; the image becomes what is
    due to the last of them."""
    for of_each, (x, d, *known) in covariance.along(gains, state, image, *due):
        *former, (of_image, of_state) = zip(of_each[::2], of_each[1::2], strict=True)
        for sums, (gain, other) in zip(known, former, strict=True):
            add(sums, gain, d)
            add(sums, other, x)
        d.mul_(of_image)
        add(d, of_state, x)


def _gains(variances: Tensor, calls: Tensor, level: NoiseLevel, coefficients: Tensor) -> Tensor:
    """What calls at some levels [n] add to each of the next states, in gains of the image and of the state that it was
    seen in: [n, 6, M], two for each state.

    With G = shrinkage y the terms of a call are gains of its image and of its state alone. The state that comes next is
    led by the Gaussian's flow, besides. What lies beyond the grid gets nothing.
    """
    count, places = len(coefficients), torch.arange(LOOK_BACK)
    steps = calls.unsqueeze(1) + places
    padded = torch.nn.functional.pad(coefficients.to(variances), (0, 0, 0, 0, 0, LOOK_BACK - 1))[steps, places]
    steps = steps.clamp(max=count - 1)
    a, b, c, d, e, f = (level.alpha[steps + 1].unsqueeze(-1) * padded).unsqueeze(-1).unbind(2)
    newest, own = level[steps], modes.shrinkage(variances, level[calls]).unsqueeze(1)
    known = newest.alpha.unsqueeze(-1) * modes.shrinkage(variances, newest)
    beyond = a + known * (b + known * e)
    of_state = -beyond * own
    of_state[:, 0] += modes.psi(variances, level[calls], level[calls + 1])
    return torch.stack([beyond + c + known * (d + known * f), of_state], 2).flatten(1, 2)


def flown(state: Tensor, here: NoiseLevel, there: NoiseLevel, covariance: Covariance) -> Tensor:
    """The Gaussian's flow of a centred state, in coordinates."""
    return covariance.gains(partial(modes.psi, here=here, there=there), state) * state


def step_terms(seen: Sequence[Seen] | deque[Seen], there: NoiseLevel, covariance: Covariance) -> Tensor:
    """What a step's coefficients multiply, for each call: alpha' (D - G), S of it, alpha' D, S of it, and S^2 of both.
    [F, B, K]."""
    newest, like, _ = seen[0]
    known = covariance.gains(lambda values: newest.alpha * modes.shrinkage(values, newest), like)
    terms = like.new_empty((TERMS * len(seen), *like.shape))
    for own, (level, state, denoised) in zip(terms.split(TERMS), seen, strict=True):
        shrinkage = covariance.gains(partial(modes.shrinkage, level=level), like)
        alpha = there.alpha.to(like)
        own[0], own[2] = alpha * (denoised - shrinkage * state), alpha * denoised
        torch.mul(own[:4:2], known, out=own[1:4:2])
        torch.mul(own[1:4:2], known, out=own[4:])
    return terms


def combine(coefficients: Tensor, terms: Tensor) -> Tensor:
    """Their sum [B, K] with coefficients [F]."""
    return torch.einsum("f,fbk->bk", coefficients.to(terms), terms)


def jumping(gaussian: Gaussian, solver: Solver) -> Solver:
    """A solver whose first interval is the Gaussian's flow, without a call of the denoiser (`teleport`, skip = 1)."""

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        landed = gaussian.flow(x, level[0], level[1])
        yield landed, gaussian.denoise(x, level[0])
        yield from solver(denoise, landed, level[1:])

    return solve


@dataclass(frozen=True, eq=False)
class Plan:
    """How to spend a number of calls.

    Attributes:
        level: the grid; sigma = 0 at its end. If there are coefficients, its first interval is a jump.
        coefficients: [N, 3, 6] float64, of `fitted_exponential`; None where a plain solver did better.
        slopes: what is added to them for each unit of log w, likewise, where the plan is for a range of guidance w; see
            `at`.
        solver: the name of that plain solver, one of `EXPONENTIALS` or of `SOLVERS`.
        errors: distances to the fine solution, means over seeds, in units of the data: what was fitted, on the seeds of
            the fit ("fit") and on held-out ones, and the best plain solver on these ("plain"); where it was measured,
            5 % and 95 % of their ratio when seeds are drawn anew ("ratio_low", "ratio_high"), and the best of further
            solvers ("rival").
    """

    level: NoiseLevel
    coefficients: Tensor | None = None
    solver: str = "fitted"
    errors: dict[str, float] = field(default_factory=dict)
    slopes: Tensor | None = None

    def __post_init__(self) -> None:
        check_grid(self.level)
        if self.coefficients is not None:
            object.__setattr__(self, "coefficients", _completed(self.coefficients))
        if self.coefficients is None:
            if self.solver not in EXPONENTIALS:
                find_solver(self.solver)
            if self.slopes is not None:
                raise ValueError("A plan that is a plain solver has no slopes; leave them out, or give coefficients.")
        for name, given in (("coefficients", self.coefficients), ("slopes", self.slopes)):
            if given is None:
                continue
            if given.shape != (len(self.level) - 2, LOOK_BACK, TERMS):
                raise ValueError(
                    f"A grid of {len(self.level)} levels takes {name} {(len(self.level) - 2, LOOK_BACK, TERMS)}, got "
                    f"{tuple(given.shape)}."
                )
            if not bool(given.isfinite().all()):
                raise ValueError(f"{name.capitalize()} must be finite numbers, got NaN or infinity among them.")

    def __repr__(self) -> str:
        return f"Plan({self})"

    def __str__(self) -> str:
        words = f"{self.calls} calls, {self.solver}"
        if self.errors:
            errors = [("fitted", self.errors["held_out"]), ("best plain solver", self.errors["plain"])]
            (_, mine), (other, theirs) = errors if self.jumps else reversed(errors)
            words += f": {mine:.4f} from the fine solution on held-out seeds, {other} {theirs:.4f}"
            if {"ratio_low", "ratio_high"} <= self.errors.keys():
                low, high = self.errors["ratio_low"], self.errors["ratio_high"]
                words += f", fitted over plain {low:.2f} to {high:.2f} (5 % to 95 % over seeds)"
            if self.errors.get("rival", float("inf")) < mine:
                words += f"; another solver of diffusers is nearer: {self.errors['rival']:.4f}"
        return words

    @property
    def jumps(self) -> bool:
        """Whether the first interval is the Gaussian's flow, without a call."""
        return self.coefficients is not None

    def at(self, guidance: float) -> Plan:
        """The plan at one weight of guidance, above 0: coefficients + slopes log(guidance). Itself if it has no slopes.

        Raises:
            ValueError: the weight is not above 0.
        """
        if self.slopes is None or self.coefficients is None:
            return self
        lean = math.log(number(guidance, "guidance of a plan", 1e-6, 1e6))
        return replace(self, coefficients=self.coefficients + lean * self.slopes, slopes=None)

    @property
    def calls(self) -> int:
        """Calls of the denoiser."""
        return len(self.level) - 1 - self.jumps

    def after_jump(self, gaussian: Gaussian) -> Solver:
        """The solver of the intervals that call the denoiser."""
        if self.solver in EXPONENTIALS:
            return named_exponential(self.solver, gaussian)
        if self.coefficients is None:
            return find_solver(self.solver)
        if self.slopes is not None:
            raise ValueError("This plan is for a range of guidance; take that of your weight: `at(guidance)`.")
        return fitted_exponential(gaussian, self.coefficients)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Plans for several numbers of calls, of one denoiser with its Gaussian; ``about`` says how they came about.

    Used for something else than they were fitted for, as far as both are known, they warn; see `doubt`. Plans for a
    range of guidance take the weight from the denoiser, or from `at`.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=4.0)
        >>> seeds = {"seeds": range(4), "held_out": range(4, 6)}
        >>> plans = up.calibrate(gaussian, gaussian, up.EDM(), [3], **seeds, fine=20, effort=1)
        >>> solver, level = plans.solver(gaussian, 3)
        >>> x = up.initial_noise([0], 1, level[0])
        >>> up.sample(gaussian, x, level, solver).nfe
        3
    """

    plans: tuple[Plan, ...]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        made = self.about.get("gaussian")
        if made is not None and not (isinstance(made, dict) and {*made} == {"dimension", "variance", "largest"}):
            raise ValueError(f"A calibration names the dimension and two variances of its Gaussian, got {shown(made)}.")
        for name, value in (made or {}).items():
            number(value, f"{name} of a calibration's Gaussian", 0, 1e300)
        _ = self.fitted_for, self.losses  # so that what is wrong shows here

    def __repr__(self) -> str:
        return f"Calibration(plans of {', '.join(str(plan.calls) for plan in self.plans)} calls)"

    def plan(self, calls: int) -> Plan:
        """The plan of a number of calls; ValueError says which there are."""
        for plan in self.plans:
            if plan.calls == calls:
                return plan
        known = ", ".join(str(plan.calls) for plan in self.plans)
        raise ValueError(f"The calibration has plans of {known} calls, none of {calls}; calibrate for that number too.")

    def solver(self, gaussian: Gaussian, calls: int) -> tuple[Solver, NoiseLevel]:
        """The solver of a number of calls, and the grid that it is for.

        Raises:
            ValueError: there is no plan of so many calls, or it was made with another Gaussian; when it solves, the
                plan is for a range of guidance, and the denoiser has not one that it tells.
        """
        self.check(gaussian)
        plan = self.plan(calls)
        if plan.slopes is not None:
            return self._asking(gaussian, calls), plan.level
        inner = plan.after_jump(gaussian)
        return self._warning(jumping(gaussian, inner) if plan.jumps else inner, calls), plan.level

    def _asking(self, gaussian: Gaussian, calls: int) -> Solver:
        """The solver of a plan for a range of guidance, which asks the denoiser for its weight."""

        def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
            told = use_of(denoise).guidance
            if told is None or len(told) != 1:
                what = "does not tell its weight" if told is None else f"has {' and '.join(f'{w:g}' for w in told)}"
                raise ValueError(
                    f"The plan is for {self.range}, and the denoiser {what}; sample at one weight at a time, or take "
                    "the plans of one: `calibration.at(guidance)`."
                )
            self.warn(use_of(denoise), calls)
            return Calibration(self.at(told[0]).plans, {}).solver(gaussian, calls)[0](denoise, x, level)

        return solve

    @property
    def range(self) -> str:
        """The range of guidance of plans that are for one, in words."""
        return self.fitted_for.words(["guidance"], between=True) if self.fitted_for.guidance else "a range of guidance"

    @property
    def ranged(self) -> bool:
        """Whether there are plans for a range of guidance."""
        return any(plan.slopes is not None for plan in self.plans)

    def at(self, guidance: float) -> Calibration:
        """The plans at one weight of guidance; outside the range that they were fitted for, those at its end. Itself if
        they are for no range.

        Examples:
            >>> import torch
            >>> import underpaint as up
            >>> from underpaint.sampling.fitted import Plan
            >>> level = up.EDM().grid(3)
            >>> plan = Plan(level, torch.zeros(2, 3, 6), slopes=torch.ones(2, 3, 6))
            >>> plans = up.Calibration((plan,), {"for": {"guidance": [1.0, 4.0]}})
            >>> [float(plans.at(w).plan(2).coefficients.max().exp()) for w in (2.0, 9.0)]
            [2.0, 4.0]
        """
        if not self.ranged:
            return self
        given = number(guidance, "guidance of a plan", -1e6, 1e6)
        known = self.fitted_for.guidance or (given,)
        weight = min(max(given, min(known)), max(known))
        about = self.about | {"for": self.fitted_for.known | {"guidance": [weight]}}
        return Calibration(tuple(plan.at(weight) for plan in self.plans), about)

    @property
    def fitted_for(self) -> Use:
        """What the plans were fitted for, as far as it is known."""
        return Use.read(self.about.get("for", {}))

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What was measured of the plans where they were not fitted for."""
        return tuple(map(Loss.read, json_part({"losses": [], **self.about}, "losses", list)))

    def doubt(self, used: Use, calls: int) -> str | None:
        """A sentence where a use is not what the plan of so many calls was fitted for: what differs, and what the plan
        loses by it where that was measured. None where nothing differs that is known."""
        differ = differences(self.fitted_for, used)
        if not differ:
            return None
        fitted, now = self.fitted_for.words(differ, between=True), used.words(differ)
        told = [loss.words for loss in self.losses if loss.calls == calls and loss.use == used.only(differ)]
        return f"The plan was fitted for {fitted}, and is used with {now}; {(told or [NOT_MEASURED])[0]}."

    def warn(self, used: Use, calls: int) -> None:
        """Warn where there is a doubt; at one place, so that one is told once."""
        doubt = self.doubt(used, calls)
        if doubt is not None:
            warnings.warn(doubt, stacklevel=1)

    def _warning(self, solver: Solver, calls: int) -> Solver:
        """The same solver, which warns of a denoiser that it was not fitted for."""
        if self.fitted_for == Use():
            return solver

        def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
            self.warn(use_of(denoise), calls)
            return solver(denoise, x, level)

        return solve

    def check(self, gaussian: Gaussian) -> None:
        """ValueError if this is not the Gaussian of the calibration."""
        made, given = self.about.get("gaussian"), fingerprint(gaussian)
        if made is not None and any(abs(made[key] - given[key]) > 1e-3 * abs(made[key]) for key in given):
            raise ValueError(
                f"The calibration was made with a Gaussian of {_words(made)}, this one has {_words(given)}; give the "
                "same statistics, or calibrate anew."
            )


def fingerprint(gaussian: Gaussian) -> dict[str, float]:
    """What tells Gaussians apart in a calibration: the dimension, the total variance and the largest."""
    variances = gaussian.covariance.variances.double()
    return {"dimension": gaussian.dimension, "variance": float(variances.sum()), "largest": float(variances.max())}


def _words(made: dict[str, float]) -> str:
    return f"dimension {made['dimension']:.0f} and total variance {made['variance']:.4g}"


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write plans as JSON, whole or not at all.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=4.0)
        >>> seeds = {"seeds": range(4), "held_out": range(4, 6)}
        >>> plans = up.calibrate(gaussian, gaussian, up.EDM(), [3], **seeds, fine=20, effort=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     up.write_calibration(f"{folder}/plans.json", plans)
        ...
    """
    plans = [
        {
            "calls": plan.calls,
            "solver": plan.solver,
            "errors": plan.errors,
            "alpha": plan.level.alpha.tolist(),
            "sigma": plan.level.sigma.tolist(),
            "coefficients": None if plan.coefficients is None else plan.coefficients.tolist(),
        }
        | ({} if plan.slopes is None else {"slopes": plan.slopes.tolist()})
        for plan in calibration.plans
    ]
    write_text(path, json.dumps({"kind": "calibration", "about": calibration.about, "plans": plans}) + "\n")


def read_calibration(path: str | Path) -> Calibration:
    """What `write_calibration` wrote.

    Raises:
        ValueError: there is no such file, or it holds something else.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=4.0)
        >>> seeds = {"seeds": range(4), "held_out": range(4, 6)}
        >>> plans = up.calibrate(gaussian, gaussian, up.EDM(), [3], **seeds, fine=20, effort=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     up.write_calibration(f"{folder}/plans.json", plans)
        ...     read = up.read_calibration(f"{folder}/plans.json")
        ...
        >>> [plan.calls for plan in read.plans]
        [3]
    """
    content = read_json(path, "a calibration; `underpaint calibrate` makes one")
    try:
        plans = tuple(map(_read_plan, json_part(content, "plans", list)))
        if not plans:
            raise ValueError("there are no plans in it")
        return Calibration(plans, json_part(content, "about", dict))
    except ValueError as error:
        raise ValueError(f"{path} is no calibration ({error}); `underpaint calibrate` makes one.") from error


def _read_plan(plan: Any) -> Plan:
    fitted = json_part(plan, "coefficients", list, type(None))
    slopes = json_part({"slopes": None, **plan}, "slopes", list, type(None))
    level = NoiseLevel(*(json_tensor(json_part(plan, name, list), name) for name in ("alpha", "sigma")))
    errors = json_part(plan, "errors", dict)
    if errors and not {"held_out", "plain"} <= errors.keys():
        raise ValueError("its errors do not name the held-out and the plain one")
    return Plan(
        level,
        None if fitted is None else json_tensor(fitted, "coefficients"),
        json_part(plan, "solver", str),
        {name: number(error, f"error {name!r} of a plan") for name, error in errors.items()},
        None if slopes is None else json_tensor(slopes, "slopes"),
    )
