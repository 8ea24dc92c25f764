"""Calibrated plans to compare solvers with: read from a file, or made of the data alone while the visitor waits."""

from __future__ import annotations

from collections.abc import Sequence

from ...calibration.calibrate import calibrate
from ...progress import Progress, silent
from ...sampling.fitted import Calibration
from ...sampling.use import use_of
from ..shared.from_data import DataModel, denoiser_from_data
from ..shared.request import Conditioning, Sampler, find_denoiser
from .painting import known_gaussian

#: Steps of the fine solution, and calls on each seed to search with: less than `calibrate` spends, for a visitor waits.
FINE, EFFORT = 60, 60


def plan_from_data(
    sampler: Sampler,
    case: Conditioning,
    calls: int,
    statistics: Sequence[str] = (),
    progress: Progress = silent,
) -> Calibration:
    """A plan of so many calls that is fitted to a mixture of Gaussians of the data, without a call of the network.

    ``statistics`` are files, of which the first with classes serves where there are no data.

    Raises:
        ValueError: with guidance, under which such plans do not serve; or neither data nor statistics are known.
    """
    gaussian = known_gaussian(sampler)
    if case.guidance != 1:
        raise ValueError(
            "A plan from the data alone is for a guidance of 1: a mixture that is guided goes other ways than a "
            "network that is. Set the guidance to 1, or take no plan."
        )
    denoise, about = denoiser_from_data(sampler, [case], DataModel(), statistics)
    advance = progress("a mixture of the data", 1)
    advance()
    found = calibrate(denoise, gaussian, sampler.model.schedule, [calls], fine=FINE, effort=EFFORT, progress=progress)
    return Calibration(found.plans, found.about | {"cases": [str(case)], "from": {"origin": "data", "data": about}})


def doubts_of(calibration: Calibration, sampler: Sampler, case: Conditioning, calls: int) -> list[str]:
    """What there is to say where a plan is used for something else than it was fitted for, or for none of the cases
    that it was made for; in words."""
    doubt = calibration.doubt(use_of(find_denoiser(sampler.model, case)), calls)
    if doubt is not None:
        return [doubt]
    cases = calibration.about.get("cases")
    if not isinstance(cases, list) or str(case) in cases:
        return []
    return [f"The calibrated plan was made for {'; '.join(map(str, cases))}, and here it is run for {case}."]
