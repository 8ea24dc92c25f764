"""Statistics of a network's data where these are not at hand: from its Jacobian at high noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bounds import MOST_ITEMS, integer
from ...calibration.own_samples import VarianceRatio, compare_with_samples
from ...calibration.statistics import fit_from_model
from ...data.store import save_gaussian
from ...models.fingerprint import fingerprint
from ...noise import NoiseLevel, Schedule
from ...theory.gaussian import Gaussian
from ...version import __version__
from ..shared.request import Conditioning, find_denoiser, load_on

#: Levels that are tried: from the schedule's first, but no higher ratio than the one, by halves, down to the other.
_HIGH, _LOW = 100.0, 4.0


@dataclass(frozen=True, eq=False)
class NetworkStatistics:
    """The Gaussian that a network states, its variances beside those of a few of its own samples, and notes."""

    gaussian: Gaussian
    compared: VarianceRatio
    notes: dict[str, Any]

    @property
    def summary(self) -> str:
        """What it is of, in a sentence."""
        return f"Statistics from the {self.notes['handling']}"

    @property
    def finding(self) -> str:
        """What it is of, and whether samples agree."""
        return f"{self.summary}. The variance of the network's samples over this is {self.compared}; 1 is the same."

    @property
    def table(self) -> str:
        """The variances, and those of the samples over them: a line for each of the first directions."""
        rows = zip(self.gaussian.eigenvalues.tolist(), self.compared.ratio, self.compared.error, strict=False)
        lines = [
            f"  u{k:<3} {value:<10.4g} {ratio:.2f} ± {error:.2f}" for k, (value, ratio, error) in enumerate(rows, 1)
        ]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write a file that `load_gaussian` reads."""
        save_gaussian(path, self.gaussian, **self.notes)


def take_from_network(
    place: str | Path,
    rank: int | None = None,
    samples: int | None = None,
    case: Conditioning | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> NetworkStatistics:
    """`fit_from_model` of a model in a case, at the first of its levels where the variances agree, and what a few
    samples, drawn from the highest, say of them.

    Args:
        rank: directions to find; 64 unless given, or as many as there are.
        samples: to compare with, 32 unless given.

    Raises:
        ValueError: as `fit_from_model`: the network cannot tell.
    """
    model, case = load_on(str(place), device, dtype), case or Conditioning()
    denoise, dimension = find_denoiser(model, case), model.dimension
    levels = levels_to_try(model.schedule)
    count = integer(32 if samples is None else samples, "number of samples to compare with", 2, MOST_ITEMS)
    kept = min(64, dimension) if rank is None else rank
    gaussian = fit_from_model(denoise, dimension, levels, kept, samples=count)
    compared = compare_with_samples(denoise, gaussian, levels[0], count)
    of = "" if case == Conditioning() else f" ({case})"
    notes = {
        "data": model.name,
        "shape": list(model.shape),
        "handling": f"Jacobian of {model.name}{of}",
        "weights": fingerprint(model),
        "samples": {
            "count": count,
            "ratio": float(compared.overall),
            "error": float(compared.overall_error),
            "ratios": compared.ratio.tolist(),
            "errors": compared.error.tolist(),
        },
        "underpaint": __version__,
    }
    return NetworkStatistics(gaussian, compared, notes)


def levels_to_try(schedule: Schedule) -> NoiseLevel:
    """Levels of falling noise at which a network is asked for its covariance, each of half the ratio before it."""
    known = schedule.grid(100).ratio
    high = float(known[known <= _HIGH][0])
    ratios = [high]
    while ratios[-1] >= 2 * _LOW:
        ratios.append(ratios[-1] / 2)
    return NoiseLevel.join(*map(schedule.level, ratios))
