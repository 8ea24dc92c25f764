"""Plans for a model: read what is asked for, and fit the Gaussian exponential integrator to it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..bounds import shown
from ..calibration.budget import Memory, least_budget, spend
from ..calibration.calibrate import CALLS, HELD_OUT, calibrate, check_options
from ..calibration.few_seeds import FewSeeds
from ..calibration.solution import FEWEST, FineSolution, Precision
from ..models.checking.check import Check
from ..models.fingerprint import digest, fingerprint
from ..models.schedulers.peers import FAMILIES, peer
from ..noise import NoiseLevel
from ..sampling.fitted import Calibration, Plan
from ..sampling.trajectory import initial_noise
from ..sampling.use import in_turn, use_of
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .shared.check import check_case
from .shared.checkpoints import LARGE, Parts, gaussian_tensors
from .shared.from_data import DataModel, denoiser_from_data
from .shared.request import Conditioning, Request, Sampler, cases, find_denoiser, prepare
from .shared.results import listed

#: Peers that a plan cannot be; DDIM and DPM-Solver++ are among this library's own.
_RIVALS = tuple(name for family in ("UniPC", "DEIS") for name in FAMILIES[family])
#: What a plan is fitted to: the network; the data alone, without a call of the network; or few seeds of the network,
#: with the data as the prior.
Origin = Literal["network", "data", "both"]
_ORIGINS = get_args(Origin)
#: Rows of a batch by which a call is timed.
_TIMED = 8


def calibrate_model(
    request: Request,
    parts: Path | None = None,
    say: Callable[[Check], None] | None = None,
    origin: Origin = "network",
    data: DataModel | None = None,
    budget: str | None = None,
    tell: Callable[[str], None] = lambda words: None,
    **how: Any,
) -> Calibration:
    """Fit plans to a model, for all that is asked of it together: row i is run in case i modulo their number.

    Of several weights of guidance, the plans are for all of their range.

    Args:
        request: the model, its cases, and the seeds to fit to.
        parts: folder for the fine solutions and each plan as they are found; asked again, the fit goes on from them.
        say: told what `check` finds of the network, before it is called.
        origin: fit to the "network"; to a mixture of Gaussians of the "data", without a call of the network; or to
            "both", with the mixture as the prior of a fit to few seeds.
        data: which data that mixture is made of, and how.
        budget: calls of the denoiser to spend, as "20000", or time, as "15min"; in place of seeds, ``held_out``,
            ``fine`` and ``effort``.
        tell: told in a sentence each what the data are, what a budget is spent on, and how much memory the fit takes,
            before it begins.
        how: ``calls``, ``held_out``, ``fine``, ``effort`` and ``progress`` of `calibrate`.

    Raises:
        ValueError: as `prepare` and `calibrate`, or the statistics of the data are not known.
    """
    if origin not in _ORIGINS:
        raise ValueError(f"Plans are made from {', '.join(_ORIGINS[:-1])} or {_ORIGINS[-1]}, got {shown(origin)}.")
    if origin == "network" and data is not None:
        raise ValueError(f"{data} is for plans from data; make them from data or both, or leave it out.")
    sampler = prepare(request)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(
            f"A calibration needs the Gaussian of the data of {model.name}; give a file with --gaussian (`underpaint "
            "stats` makes one, of a model's own samples if there is nothing else)."
        )
    listed = cases(request, model)
    if origin == "both" and len({case.guidance for case in listed}) > 1:
        raise ValueError("Plans from both are for one guidance; give one --guidance, or --from network for a range.")
    if origin == "data" and any(case.guidance != 1 for case in listed):
        raise ValueError(
            "Plans from the data alone are for a guidance of 1: a mixture that is guided goes other ways than a "
            "network that is. Give --from network, or --from both, which is judged on it."
        )
    check_options(request.seeds, **how)
    asked: dict[str, Any] = {"model": model.name, "place": request.model, "cases": [str(case) for case in listed]}
    if origin == "both" and budget is not None:
        raise ValueError("A budget is for plans from the network; give seeds, held-out seeds and effort with both.")
    limit = None if budget is None else _read_budget(budget)
    spending = spend(limit, how.get("calls", CALLS)) if isinstance(limit, int) else None
    if origin != "network":
        made = data or DataModel()
        known, of = denoiser_from_data(sampler, listed, made, request.statistics or (request.model,))
        asked["from"] = {"origin": origin, "data": of, "asked": asdict(made)}
        tell(f"Data: {'; '.join(of.values())}.")
        how |= {"prior": known} if origin == "both" else {}
    asked_for = in_turn([find_denoiser(model, case) for case in listed])
    denoise = known if origin == "data" else asked_for
    if origin == "data":  # for any network of these data
        asked["for"] = use_of(asked_for).only(("guidance", "conditions", "shape")).known
    if isinstance(limit, float):
        affordable = max(1, int(limit / _seconds(denoise, sampler)))
        try:
            spending = spend(affordable, how.get("calls", CALLS))
        except ValueError as error:
            raise ValueError(f"A budget of {budget} is {affordable:,} calls of the denoiser here. {error}") from error
    if spending is not None:
        request, how = replace(request, seeds=tuple(range(spending.seeds))), how | spending.options()
        more = f"up to {spending.most(len(_RIVALS)):,} if plans gain little and every plain solver is tried, too"
        tell(f"{spending}; {more}. The least for these plans is {least_budget(spending.calls):,} calls.")
    check_options(request.seeds, **how)
    tell(_memory(gaussian, request, how, parts is not None))
    if say is not None and origin != "data":
        say(check_case(model, listed[0]))
    if parts is not None:
        weights = None if origin == "data" else fingerprint(model)  # which may call the network
        settings = {"weights": weights} | _settings(sampler, listed, gaussian, request, how)
        settings["from"] = asked.get("from")
        how["keep"] = Parts(parts, settings, (FineSolution, NoiseLevel, Plan, Precision))
    how["rivals"] = {name: peer(name) for name in _RIVALS}
    found = calibrate(denoise, gaussian, model.schedule, seeds=request.seeds, **how)
    asked["statistics"] = dict(sampler.theory.about)
    return replace(found, about=asked | found.about)


def finding(found: Calibration) -> str:
    """How near the plans come on held-out seeds, beside the best plain solver, and which are plain solvers."""
    fitted = [plan for plan in found.plans if plan.jumps and plan.errors]
    plain = [str(plan.calls) for plan in found.plans if not plan.jumps]
    ratios = [f"{plan.errors['held_out'] / plan.errors['plain']:.2f} at {plan.calls} calls" for plan in fitted]
    words = []
    if ratios:
        words.append(
            "Distance of the plans to the fine solution on held-out seeds, over that of the best plain solver: "
            f"{listed(ratios)}. Below 1 is nearer."
        )
    if plain:
        words.append(
            f"For {listed(plain)} calls the plan is a plain solver, nearer on held-out seeds than what was fitted; a "
            "larger --budget or more --seeds may help."
        )
    off = found.about["reference_error"]
    words.append(f"The fine solution has {found.about['fine']} steps, and is about {off:.2g} from the exact one.")
    made = found.about.get("from")
    if made is not None and made["origin"] == "data":
        words.append("These distances are those of a mixture of the data; `underpaint bench` measures the network's.")
    return " ".join(words)


def _read_budget(text: str) -> int | float:
    """What a budget is: a whole number of calls of the denoiser, or seconds.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(|s|sec|min|m|h)", text.strip())
    if found is None or (not found[2] and "." in found[1]) or not float(found[1]) > 0:
        words = "A budget is a number of calls of the denoiser, such as 20000, or a time, such as 15min"
        raise ValueError(f"{words}; got {shown(text)}.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2][0]] if found[2] else int(found[1])


def _seconds(denoise: Denoiser, sampler: Sampler) -> float:
    """Seconds of a call of the denoiser for one row of a small batch, once it is warm."""
    model, took = sampler.model, list[float]()
    level = model.schedule.grid(4)[2]
    x = initial_noise(range(_TIMED), model.dimension, level)
    with torch.no_grad():
        for _ in range(2):
            begun = time.perf_counter()
            denoise(x, level).sum().item()
            took.append(time.perf_counter() - begun)
    return took[-1] / _TIMED


def _memory(gaussian: Gaussian, request: Request, how: Mapping[str, Any], kept: bool) -> str:
    """A sentence on the memory that a fit takes beside the model."""
    calls, held_out, fine = max(how.get("calls", CALLS)), how.get("held_out", HELD_OUT), how.get("fine")
    like = gaussian.covariance.analyse(gaussian.mean.unsqueeze(0))
    both = how.get("prior") is not None
    seeds = FewSeeds.seeds_held(len(request.seeds)) if both else len(request.seeds)
    ranged = len({*request.guidance}) > 1
    memory = Memory.of(calls, seeds, len(held_out), like.shape[1], like.element_size(), fine, ranged)
    return memory.words(fine, kept and not both and memory.each_step * (fine or FEWEST) // 2 >= LARGE)


def _settings(
    sampler: Sampler, listed: Sequence[Conditioning], gaussian: Gaussian, request: Request, how: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that all parts depend on besides the denoiser, in JSON types."""
    known = {"gaussian": digest(gaussian_tensors(gaussian))}
    asked = {name: list(how[name]) if name == "held_out" else how[name] for name in ("held_out", "fine") if name in how}
    level = digest({"alpha": sampler.level.alpha, "sigma": sampler.level.sigma})
    cases = [asdict(case) for case in listed]
    return known | asked | {"level": level, "cases": cases, "seeds": list(request.seeds), "model": sampler.model.name}
