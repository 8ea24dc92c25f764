"""Plans for a model: read what is asked for, and fit the Gaussian exponential integrator to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..calibration.calibrate import calibrate
from ..sampling.fitted import Calibration
from .shared.request import Request, cases, find_denoiser, in_turn, prepare


def calibrate_model(request: Request, **how: Any) -> Calibration:
    """Fit plans to a model, for all that is asked of it together: row i is run in case i modulo their number.

    Args:
        request: the model, its cases, and the seeds to fit to.
        how: ``calls``, ``held_out``, ``fine``, ``effort`` and ``progress`` of `calibrate`.

    Raises:
        ValueError: as `prepare` and `calibrate`, or the statistics of the data are not known.
    """
    sampler = prepare(request)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(
            f"A calibration needs the Gaussian of the data of {model.name}; give a file with --gaussian (`underpaint "
            "stats` makes one, of a model's own samples if there is nothing else)."
        )
    listed = cases(request, model)
    denoise = in_turn([find_denoiser(model, case) for case in listed])
    found = calibrate(denoise, gaussian, model.schedule, seeds=request.seeds, **how)
    asked: dict[str, Any] = {"model": model.name, "place": request.model, "cases": [str(case) for case in listed]}
    asked["statistics"] = dict(sampler.theory.about)
    return replace(found, about=asked | found.about)
