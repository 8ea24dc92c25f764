"""Solvers as tables of numbers: every state is a weighted sum of the noise and of the images that were denoised so far.

    x_i = sum_j w_ij k_j,    k = (x_T, D_0, ..., D_{i-1}),    D_i = D(x_i; told_i),    i = 0 .. N,

for the state x_i before call i, and for the image at the end. DDIM, DPM-Solver++, UniPC, DEIS and Heun are such tables
on any grid; those that learn weights and times for few calls (BNS, Shaul et al. 2024; S4S, Frankel et al. 2025; GS,
Oganov et al. 2025; DyWeight, Zhao et al. 2026) choose their numbers. They have N (N + 5)/2 + 1 of them at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bounds import shown
from ..files import json_part, json_tensor, read_json, write_text
from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser
from .solvers import Solver, Step


@dataclass(frozen=True, eq=False)
class LinearRule:
    """A solver of N calls as a table.

    Attributes:
        told: the levels [N] that the denoiser is told of in its calls; a rule may tell it of others than the state has.
        weights: [N + 1, N + 1] float64, lower triangular. Row i makes the state before call i, the last the image.
    """

    told: NoiseLevel
    weights: Tensor

    def __post_init__(self) -> None:
        size = len(self.told) + 1
        if self.weights.shape != (size, size):
            raise ValueError(f"{size - 1} calls take weights {(size, size)}, got {tuple(self.weights.shape)}.")
        if not bool(self.weights.isfinite().all()) or bool(self.weights.triu(1).any()):
            raise ValueError("Weights are finite numbers, 0 for what is known later only.")

    def __repr__(self) -> str:
        return f"LinearRule({self.calls} calls)"

    @property
    def calls(self) -> int:
        return len(self.told)

    def scaled(self, factor: float) -> LinearRule:
        """The same rule for noise that is divided by a factor."""
        return LinearRule(self.told, torch.cat([factor * self.weights[:, :1], self.weights[:, 1:]], 1))

    def state(self, row: int, known: Sequence[Tensor]) -> Tensor:
        """What row i makes of the noise and the images seen so far, i + 1 tensors [B, D]."""
        weights = self.weights[row].tolist()
        total = weights[0] * known[0]
        for weight, part in zip(weights[1 : row + 1], known[1:], strict=False):
            if weight:
                total = total.add(part, alpha=weight)
        return total

    def solve(self, denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        """The rule as a solver; of the grid, only its length matters.

        Raises:
            ValueError: the grid is of another number of steps.
        """
        if len(level) != self.calls + 1:
            raise ValueError(f"The rule is of {self.calls} calls, the grid has {len(level) - 1} steps.")
        known, state = [x], self.state(0, [x])
        for i, told in enumerate(self.told):
            known.append(denoise(state, told))
            state = self.state(i + 1, known)
            yield state, known[-1]


def linear_rule(solver: Solver, level: NoiseLevel, told: NoiseLevel | None = None) -> LinearRule:
    """The table of a solver that is linear in the state and in what is denoised, on a grid that ends at sigma = 0.

    The solver is run once on unit vectors: what it asks the denoiser about, and where it ends, are the rows.

    Args:
        told: levels [N] that the denoiser is told of in place of the N of the grid at which it is called. The noise
            that it finds is then taken for that of the state, as in LD3 (Tong et al. 2024): D = (x - sigma eps)/alpha.

    Raises:
        ValueError: the solver calls the denoiser more often than once a level, and there are levels to tell it of.
    """
    size = 2 * len(level)
    asked: list[tuple[Tensor, NoiseLevel]] = []

    def record(x: Tensor, here: NoiseLevel) -> Tensor:
        seen = torch.zeros_like(x)
        seen[0, len(asked) + 1] = 1
        as_told = told[len(asked)] if told is not None and len(asked) < len(told) else here
        asked.append((x[0], as_told))
        if told is None or here.alpha == 0:
            return seen
        noise = (x - float(as_told.alpha) * seen) / float(as_told.sigma)
        return (x - float(here.sigma) * noise) / float(here.alpha)

    start = torch.zeros(1, size, dtype=torch.float64)
    start[0, 0] = 1
    if told is not None and len(told) != len(level) - 1:
        raise ValueError(f"A grid of {len(level) - 1} steps has as many calls, got {len(told)} levels to tell.")
    with torch.no_grad():
        *_, (end, _) = solver(record, start, level)
    if told is not None and len(asked) != len(told):
        raise ValueError(f"The solver calls {len(asked)} times, but there are {len(told)} levels to tell.")
    rows = torch.stack([*(state for state, _ in asked), end[0]]).double()
    return LinearRule(NoiseLevel.join(*(here for _, here in asked)), rows[:, : len(asked) + 1].contiguous())


@dataclass(frozen=True, eq=False)
class LearnedRules:
    """Rules that were learned for one denoiser, of several numbers of calls; ``about`` says how they came about."""

    rules: tuple[LinearRule, ...]
    about: dict[str, Any]

    def __repr__(self) -> str:
        return f"LearnedRules(of {', '.join(str(rule.calls) for rule in self.rules)} calls)"

    def rule(self, calls: int) -> LinearRule:
        """The rule of a number of calls; ValueError says which there are."""
        for rule in self.rules:
            if rule.calls == calls:
                return rule
        known = ", ".join(str(rule.calls) for rule in self.rules)
        raise ValueError(f"There are learned rules of {known} calls, none of {calls}.")


def write_rules(path: str | Path, learned: LearnedRules) -> None:
    """Write learned rules as JSON, whole or not at all."""
    rules = [
        {"alpha": r.told.alpha.tolist(), "sigma": r.told.sigma.tolist(), "weights": r.weights.tolist()}
        for r in learned.rules
    ]
    write_text(path, json.dumps({"kind": "learned rules", "about": learned.about, "rules": rules}) + "\n")


def read_rules(path: str | Path) -> LearnedRules:
    """What `write_rules` wrote.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    content = read_json(path, "learned rules; benchmarks/learned.py makes some")
    try:
        if content.get("kind") != "learned rules":
            raise ValueError(f"its kind is {shown(content.get('kind'))}")
        rules = tuple(map(_read_rule, json_part(content, "rules", list)))
        return LearnedRules(rules, json_part(content, "about", dict))
    except ValueError as error:
        raise ValueError(f"{path} holds no learned rules ({error}); benchmarks/learned.py makes some.") from error


def _read_rule(rule: Any) -> LinearRule:
    alpha, sigma, weights = (json_tensor(json_part(rule, name, list), name) for name in ("alpha", "sigma", "weights"))
    return LinearRule(NoiseLevel(alpha, sigma), weights)
