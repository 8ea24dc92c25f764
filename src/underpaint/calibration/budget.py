"""What a fit does with a number of calls, said before it begins: seeds, steps of the fine solution, effort, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..bounds import MOST_ITEMS, integer
from ..sampling.fitted import LOOK_BACK, TERMS
from .fit import BLOCK
from .levels import losing_numbers
from .refine import checks
from .search import most_calls
from .selection import PlanSelector
from .solution import FEWEST, FINEST, ends_for_precision

#: Numbers of seeds to fit to, the most first, and the first seed of those to judge on, half as many.
_SEEDS, _HELD_OUT = (64, 32, 16, 8, 4), 1000
#: Steps of the fine solution, for each call of the longest plan; the second where calls are too few for the first.
#: Plans of 8 calls, on Fashion-MNIST in 20,000, were at .26 of the best peer's distance with 16, and at .41 with 8.
_STEPS = (16, 8)
#: Calls of the search on each seed, for each call of a plan: fewer seeds are taken before it gets less; the most.
_LEAST, _MOST = 4, 40
#: Rows of each seed that are there while terms are made, or while a state is sampled; bytes of a block in double
#: precision, and of its copy.
_MADE, _DOUBLE = 12, 3 * 8 * BLOCK


@dataclass(frozen=True)
class Spending:
    """How a fit of plans spends calls of the denoiser; a call on a batch of B seeds counts B.

    Attributes:
        calls: of the plans.
        seeds, held_out: how many, to fit to and to judge on.
        fine: steps of the fine solution.
        effort: calls on each seed for the search of a plan.
    """

    calls: tuple[int, ...]
    seeds: int
    held_out: int
    fine: int
    effort: int

    @property
    def usual(self) -> int:
        """Calls of the denoiser, if the plans are clearly nearer than plain solvers."""
        return self._rows(PlanSelector.usual_rows(self.held_out))

    def most(self, rivals: int = 0) -> int:
        """Calls of the denoiser at most: plans that are not clearly nearer are held against every solver there is."""
        return self._rows(PlanSelector.most_rows(self.seeds, self.held_out, rivals))

    def options(self) -> dict[str, object]:
        """Of `calibrate`."""
        held_out = range(_HELD_OUT, _HELD_OUT + self.held_out)
        return {"calls": self.calls, "held_out": held_out, "fine": self.fine, "effort": self.effort}

    def _rows(self, judged: int) -> int:
        solutions = self.fine * (self.seeds + self.held_out) + ends_for_precision(self.fine)
        fits = sum(most_calls(count, self.effort) * self.seeds + checks(count) * self.held_out for count in self.calls)
        return solutions + fits + judged * sum(self.calls)

    def __str__(self) -> str:
        return (
            f"About {self.usual:,} calls of the denoiser: fine solutions of {self.fine} steps for {self.seeds} seeds "
            f"to fit to and {self.held_out} to judge on, and a search of {self.effort} calls on each seed for a plan"
        )


@dataclass(frozen=True)
class Memory:
    """What a fit of plans holds beside the denoiser, in bytes.

    The fine solution: states and images of each seed at each of its steps, in memory or, where that is large and kept
    by who has a folder, in files. Beside it, of each seed: two runs of the longest plan (states and images), what the
    coefficients of a step multiply, and some rows more while these are made or a state is sampled; one block in double
    precision; the ends of held-out seeds. Or, if that is more, what tells the loss of each step.

    Attributes:
        each_step: of the fine solution, for each of its steps.
        beside: all else.
    """

    each_step: int
    beside: int

    @staticmethod
    def of(
        calls: int,
        seeds: int,
        held_out: int,
        coordinates: int,
        size: int = 4,
        fine: int | None = None,
        ranged: bool = False,
    ) -> Memory:
        """Of plans of so many calls at most, in coordinates of so many bytes; for a range of guidance terms are twice
        as many."""
        runs, terms = 2 * (2 * calls + 1), LOOK_BACK * TERMS * (1 + ranged)
        rows = seeds * (runs + terms + _MADE) + held_out * _MADE
        losing = losing_numbers(fine or FINEST, seeds, coordinates)
        return Memory(2 * seeds * coordinates * size, max(rows * coordinates * size + _DOUBLE, losing * size))

    def words(self, fine: int | None, in_files: bool) -> str:
        """In a sentence, with the steps of the fine solution, if they are known."""
        steps, each = (100, " for each 100 of its steps") if fine is None else (fine, "")
        beside, solution = f"{self.beside / 1e9:.2g} GB", f"{steps * self.each_step / 1e9:.2g} GB"
        place = "on disk" if in_files else "more"
        return (
            f"The fit takes up to {beside} of memory beside the model, and the fine solution {solution} {place}{each}."
        )


def least_budget(calls: Sequence[int]) -> int:
    """The fewest calls of the denoiser that plans of so many calls can be fitted with: the fewest seeds, and the least
    search."""
    return _least(_bare(calls, _SEEDS[-1], _STEPS[-1]))


def _bare(calls: Sequence[int], seeds: int, steps: int) -> Spending:
    """What is spent on so many seeds and steps for each call, without any search."""
    wanted = tuple(sorted({*calls}))
    return Spending(wanted, seeds, max(4, seeds // 2), min(max(FEWEST, steps * wanted[-1]), FINEST), 0)


def _least(bare: Spending) -> int:
    """With the least search for every plan."""
    return bare.usual + _LEAST * bare.calls[-1] * bare.seeds * len(bare.calls)


def spend(budget: int, calls: Sequence[int]) -> Spending:
    """What to do with so many calls of the denoiser: a fine solution of many steps, as many seeds as leave the search
    its least, and all that is left for the search.

    Raises:
        ValueError: they are too few for any plan.
    """
    integer(budget, "number of calls to spend", 1, MOST_ITEMS)
    for bare in (_bare(calls, seeds, steps) for steps in _STEPS for seeds in _SEEDS):
        if budget >= _least(bare):
            effort = (budget - bare.usual) // (bare.seeds * len(bare.calls))
            return replace(bare, effort=min(effort, _MOST * bare.calls[-1]))
    raise ValueError(
        f"Plans of {', '.join(map(str, bare.calls))} calls take {least_budget(calls):,} calls of the denoiser or more, "
        f"got a budget of {budget:,}; give more, or ask for fewer plans."
    )
