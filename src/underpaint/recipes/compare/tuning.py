"""Families of denoisers on states to tune on: what each member explains, and which is chosen at each level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...analysis import agreement
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...theory.denoiser import Denoiser
from ...theory.stitched import Stitched
from ..shared.model_and_data import ModelAndData
from ..shared.results import quantity
from .families import Family, Sweeps, gaussian_families, local_families


@dataclass(frozen=True, eq=False)
class States:
    """States [M, B, D] at M levels, what the network makes of them, and the data mean [D]."""

    level: NoiseLevel
    x: Tensor
    network: Tensor
    mean: Tensor

    @staticmethod
    def noised(rows: Tensor, level: NoiseLevel, denoise: Denoiser, mean: Tensor, seed: int = 0) -> States:
        """Rows of data, noised to each level."""
        x = agreement.noised(rows, level, seed)
        return States(level, x, agreement.denoised_at(denoise, x, level), mean)

    def joined(self, other: States) -> States:
        """The states of both."""
        x, network = (torch.cat(pair, 1) for pair in ((self.x, other.x), (self.network, other.network)))
        return States(self.level, x, network, self.mean)

    def answers(self, denoise: Denoiser) -> Tensor:
        """What a denoiser makes of the states, [M, B, D]."""
        return agreement.denoised_at(denoise, self.x, self.level)

    def explained(self, denoise: Denoiser) -> Tensor:
        """Shares of the network that a denoiser explains, [M, B]; see `agreement.explained_shares`."""
        return agreement.explained_shares(self.network, self.answers(denoise), self.mean)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What the members of a family explain, on states that are not among those shown."""

    what: str
    values: tuple[float, ...]
    explained: Tensor = quantity(
        "explained variance of the denoised image about the data mean, [value, temperature, level]"
    )
    chosen: Tensor = quantity(
        "the same, by the member that is chosen at each level, with as many images as it knows then"
    )
    temperatures: tuple[float, ...] = (1.0,)
    images: tuple[int, int] | None = None

    @property
    def by_value(self) -> Tensor:
        """At the best temperature of each value and level, [value, level]."""
        return self.explained.max(1).values


@dataclass(frozen=True, eq=False)
class Swept:
    """All members of all families, and what was found of them on the tuning states.

    Attributes:
        found: by family.
        calibrated: of all families but the Gaussians, the denoiser that takes each level's best member.
        members: every one of them, by name; and what is calibrated, where it knows more images than they do.
        answers: of every member at some coordinates of the states, [K, M, B, d].
    """

    found: dict[str, Sweep]
    calibrated: dict[str, Denoiser]
    members: dict[str, Denoiser]
    answers: Tensor


def sweep(subject: ModelAndData, sweeps: Sweeps, states: States, progress: Progress = silent) -> Swept:
    """Every family on the states.

    Choosing members by the network's own answers is a calibration, as in the sources of those denoisers.
    """
    offered = gaussian_families(subject, sweeps) | (local_families(subject, sweeps) if sweeps.local else {})
    families = {name: family for name, family in offered.items() if family.values}
    counts = (len(family.values) * len(family.temperatures) + bool(family.remake) for family in families.values())
    advance = progress("sweeps", sum(counts))
    some = sketch(states.network.shape[2])
    found: dict[str, Sweep] = {}
    calibrated: dict[str, Denoiser] = {}
    members: dict[str, Denoiser] = {}
    answers = [torch.empty(0, *states.network[..., some].shape)]
    for name, family in families.items():
        found[name], best, asked, told = tune(name, family, states, some, advance)
        members |= asked
        answers.append(told)
        if name != "rank":
            calibrated[name] = best
    return Swept(found, calibrated, members, torch.cat(answers))


def tune(
    name: str, family: Family, states: States, some: Tensor, advance: Callable[[], None]
) -> tuple[Sweep, Stitched, dict[str, Denoiser], Tensor]:
    """What the members of a family explain; the denoiser that takes the best of them at each level; and all that were
    asked, with their answers at some coordinates, [K, M, B, d]."""
    explained: list[Tensor] = []
    answers: list[Tensor] = []

    def ask(member: Denoiser) -> None:
        answer = states.answers(member)
        explained.append(agreement.explained_variance(states.network, answer, states.mean))
        answers.append(answer[..., some])
        advance()

    members = dict[str, Denoiser]()
    for label, member in family.members(name):
        members[label] = member
        ask(member)
    every = torch.stack(explained)
    best, chosen = Stitched.best(states.level, members, every), every.amax(0)
    if family.images:
        best = replace(best, denoisers=dict(family.members(name, more=True)))
        ask(best)
        members, chosen = {**members, f"{name}, of {family.images[1]:,}": best}, explained[-1]
    shape = len(family.values), len(family.temperatures), len(states.level)
    values, temperatures = tuple(family.values), family.temperatures
    swept = Sweep(family.what, values, every.view(shape), chosen, temperatures, family.images)
    return swept, best, members, torch.stack(answers)


def sketch(dimension: int, most: int = 2048) -> Tensor:
    """Coordinates of a state that least squares look at: drawn, where there are more than enough."""
    return torch.randperm(dimension, generator=torch.Generator().manual_seed(0))[:most]
