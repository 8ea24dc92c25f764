"""Plans for a model: read what is asked for, and fit the Gaussian exponential integrator to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..bounds import shown
from ..calibration.calibrate import calibrate, check_options
from ..calibration.solution import FineSolution, Precision
from ..models.checking.check import Check
from ..models.fingerprint import digest, fingerprint
from ..models.schedulers.peers import FAMILIES, peer
from ..noise import NoiseLevel
from ..sampling.fitted import Calibration, Plan
from ..theory.gaussian import Gaussian
from .shared.check import check_case
from .shared.checkpoints import Parts, gaussian_tensors
from .shared.from_data import DataModel, denoiser_from_data
from .shared.request import Conditioning, Request, Sampler, cases, find_denoiser, in_turn, prepare

#: Peers that a plan cannot be; DDIM and DPM-Solver++ are among this library's own.
_RIVALS = tuple(name for family in ("UniPC", "DEIS") for name in FAMILIES[family])
#: What a plan is fitted to: the network; or the data alone, without a call of the network.
Origin = Literal["network", "data"]


def calibrate_model(
    request: Request,
    parts: Path | None = None,
    say: Callable[[Check], None] | None = None,
    origin: Origin = "network",
    data: DataModel | None = None,
    **how: Any,
) -> Calibration:
    """Fit plans to a model, for all that is asked of it together: row i is run in case i modulo their number.

    Args:
        request: the model, its cases, and the seeds to fit to.
        parts: folder for the fine solutions and each plan as they are found; asked again, the fit goes on from them.
        say: told what `check` finds of the network, before it is called.
        origin: fit to the "network", or to a mixture of Gaussians of the "data", without a call of the network.
        data: which data that mixture is made of, and how.
        how: ``calls``, ``held_out``, ``fine``, ``effort`` and ``progress`` of `calibrate`.

    Raises:
        ValueError: as `prepare` and `calibrate`, or the statistics of the data are not known.
    """
    if origin not in get_args(Origin):
        raise ValueError(f"Plans are made from {' or '.join(get_args(Origin))}, got {shown(origin)}.")
    sampler = prepare(request)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(
            f"A calibration needs the Gaussian of the data of {model.name}; give a file with --gaussian (`underpaint "
            "stats` makes one, of a model's own samples if there is nothing else)."
        )
    listed = cases(request, model)
    check_options(request.seeds, **how)
    asked: dict[str, Any] = {"model": model.name, "place": request.model, "cases": [str(case) for case in listed]}
    if origin == "data":
        made = data or DataModel()
        denoise, of = denoiser_from_data(sampler, listed, made, request.statistics or (request.model,))
        asked["from"] = {"data": of, "asked": asdict(made)}
    else:
        if say is not None:
            say(check_case(model, listed[0]))
        denoise = in_turn([find_denoiser(model, case) for case in listed])
    if parts is not None:
        weights = None if origin == "data" else fingerprint(model)  # which may call the network
        settings = {"weights": weights} | _settings(sampler, listed, gaussian, request, how)
        settings["from"] = asked.get("from")
        how["keep"] = Parts(parts, settings, (FineSolution, NoiseLevel, Plan, Precision))
    how["rivals"] = {name: peer(name) for name in _RIVALS}
    found = calibrate(denoise, gaussian, model.schedule, seeds=request.seeds, **how)
    asked["statistics"] = dict(sampler.theory.about)
    return replace(found, about=asked | found.about)


def _settings(
    sampler: Sampler, listed: Sequence[Conditioning], gaussian: Gaussian, request: Request, how: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that all parts depend on besides the denoiser, in JSON types."""
    known = {"gaussian": digest(gaussian_tensors(gaussian))}
    asked = {name: list(how[name]) if name == "held_out" else how[name] for name in ("held_out", "fine") if name in how}
    level = digest({"alpha": sampler.level.alpha, "sigma": sampler.level.sigma})
    cases = [asdict(case) for case in listed]
    return known | asked | {"level": level, "cases": cases, "seeds": list(request.seeds), "model": sampler.model.name}
