"""What a sampler does to a spectrum, for any scheduler of diffusers: no network, no data."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bounds import A, number, shown
from ..data.store import load_gaussian
from ..files import path_of, read_json
from ..models.schedulers.configs import left_off
from ..models.schedulers.spectrum import spectrum
from ..progress import Progress, silent
from .shared.results import listed, quantity, table

#: From so small to so large a variance are eigenvalues asked for; by default four in a factor of ten of 1e-4 to 100.
_LEAST, _MOST = 1e-9, 1e9
_DEFAULT = tuple(10 ** (k / 4) for k in range(-16, 9))
_STEPS = 1000
#: Rows that are printed.
_SHOWN = 7


@dataclass(frozen=True)
class SpectrumRequest:
    """Whose steps to look at.

    Attributes:
        scheduler: a class of diffusers, such as "DDIM"; None for that of the config.
        steps: numbers of steps.
        eigenvalues: variances of the data; None for some from 1e-4 to 100, or those of ``gaussian``.
        settings: of the scheduler's config.
        step: of its `step`, such as {"eta": 1.0}.
        config: a scheduler's ``scheduler_config.json``, or a folder with one.
        gaussian: statistics of data whose eigenvalues are taken, a file or a model in the box.
    """

    scheduler: str | None = None
    steps: tuple[int, ...] = (5, 10, 20, 50)
    eigenvalues: tuple[float, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    gaussian: str | None = None


@dataclass(frozen=True, eq=False)
class Spectra:
    """What a sampler makes of Gaussian data in S numbers of steps, along K eigenvalues of their covariance.

    Attributes:
        sampler: the class of the scheduler.
        settings: what was set, of its config and of its `step`.
        left_off: what its config asks for and would not be linear.
        steps, calls, draws: numbers of steps, calls of the network, and draws of noise on the way, [S] each.
        eigenvalues: lambda, [K].
        share: variance of the samples over lambda, [S, K].
        initial: the part of it that comes from the noise at the start, [S, K].
        mean: what becomes of a mean of 1, [S, K].
    """

    sampler: str
    settings: dict[str, Any]
    left_off: dict[str, str]
    steps: list[int]
    calls: list[int]
    draws: list[int]
    eigenvalues: Tensor = quantity("squared unit of the data")
    share: Tensor = quantity()
    initial: Tensor = quantity()
    mean: Tensor = quantity()

    @property
    def finding(self) -> str:
        """How far the variance is off with the fewest and with the most steps, and where most."""
        few, many = self.steps.index(min(self.steps)), self.steps.index(max(self.steps))
        told = [
            f"in {self.steps[k]} steps {float(self.share[k].min()):.3g} to {float(self.share[k].max()):.3g} times"
            for k in sorted({few, many})
        ]
        worst = float(self.eigenvalues[self.share[many].log().abs().nan_to_num(math.inf).argmax()])
        return (
            f"Samples of {self.sampler} have {listed(told)} the variance of the data (1 is exact). In "
            f"{self.steps[many]} steps most is wrong where the eigenvalue of the data is {worst:.3g}."
        )


def spectra(request: SpectrumRequest, progress: Progress = silent) -> Spectra:
    """Run the scheduler's steps on the exact denoiser of Gaussian data; see `spectrum`.

    Raises:
        ValueError: no such scheduler, setting, number of steps or eigenvalue; or as `spectrum`.
    """
    values = _eigenvalues(request)
    if not request.steps or any(not 1 <= steps <= _STEPS for steps in request.steps):
        raise ValueError(f"Numbers of steps are from 1 to {_STEPS:,}, got {shown(request.steps)}.")
    scheduler, notes = find_scheduler(request.scheduler, request.settings, request.config)
    advance, found = progress("numbers of steps", len(request.steps)), []
    for steps in request.steps:
        found.append(spectrum(scheduler, steps, values, **request.step))
        advance()
    return Spectra(
        type(scheduler).__name__,
        {**request.settings, **request.step},
        notes,
        [one.steps for one in found],
        [one.calls for one in found],
        [one.draws for one in found],
        values,
        torch.stack([one.share for one in found]),
        torch.stack([one.initial for one in found]) / values,
        torch.stack([one.mean for one in found]),
    )


def find_scheduler(
    name: str | None, settings: Mapping[str, Any], config: str | Path | None = None
) -> tuple[Any, dict[str, str]]:
    """A scheduler of diffusers by the name of its class, with or without "Scheduler", or by its config, and a note on
    what of it is left off: clipping and thresholding, after which nothing is linear.

    Raises:
        ValueError: there is no such class, or it has no such setting.
    """
    given = {} if config is None else read_json(_config_file(path_of(config, "a scheduler's config, or its folder")))
    stated = given.get("_class_name") if name is None else name
    if not isinstance(stated, str):
        raise ValueError("Name a scheduler of diffusers, such as --scheduler DDIM, or a config that states its class.")
    kind = _scheduler_class(stated)
    known = inspect.signature(kind.__init__).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())  # of a package that is not installed
    if settings.keys() - known.keys() and not open_ended:
        wrong = ", ".join(sorted(settings.keys() - known.keys()))
        raise ValueError(f"{A(kind.__name__)} has no setting {wrong}; known are {', '.join([*known][1:])}.")
    defaults = {key: p.default for key, p in known.items()}
    asked = {**{key: value for key, value in given.items() if key in known}, **settings}
    off = {key: False for key in ("clip_sample", "thresholding") if key in known}
    try:
        return kind(**{**asked, **off}), left_off({**defaults, **asked})
    except (TypeError, NotImplementedError, AttributeError, KeyError, RuntimeError) as error:
        reason = re.split(r"\n|, but expected", str(error))[0].rstrip(".:") or type(error).__name__
        raise ValueError(f"{A(kind.__name__)} cannot be made of these settings: {reason}.") from None


def _scheduler_class(name: str) -> Any:
    import diffusers

    short = name.removesuffix("Scheduler")
    for full in (f"{short}{middle}Scheduler" for middle in ("", "Discrete", "Multistep")):
        found = getattr(diffusers, full, None) if full.isidentifier() else None
        if isinstance(found, type):
            return found
    raise ValueError(f"diffusers has no scheduler {shown(name)}; give a name such as DDIM, or EulerDiscreteScheduler.")


def _config_file(path: Path) -> Path:
    places = (path, path / "scheduler_config.json", path / "scheduler" / "scheduler_config.json")
    return next((place for place in places if place.is_file()), path)


def _eigenvalues(request: SpectrumRequest) -> Tensor:
    if request.eigenvalues is not None and request.gaussian is not None:
        raise ValueError("Give eigenvalues or the statistics that hold them, not both.")
    if request.gaussian is not None:
        stored = load_gaussian(request.gaussian).covariance.stored
        return stored[stored >= _LEAST]
    asked = _DEFAULT if request.eigenvalues is None else request.eigenvalues
    values = [number(value, "eigenvalue, a variance,", _LEAST, _MOST) for value in asked]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"Eigenvalues are one or more variances, each given once; got {shown(asked)}.")
    return torch.tensor(values, dtype=torch.float64)


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """["eta=0.5", "solver_type=heun"] -> {"eta": 0.5, "solver_type": "heun"}; values are JSON, or else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier() or key in found:
            raise ValueError(f"A setting is given once, as name=value, such as eta=0.5; got {shown(pair)}.")
        try:
            found[key] = json.loads(f"0{text}" if re.fullmatch(r"\.\d+(e[+-]?\d+)?", text) else text)
        except (json.JSONDecodeError, RecursionError):
            found[key] = {"True": True, "False": False, "None": None}.get(text, text)
    return found


def tables(result: Spectra) -> str:
    """The shares of the variance and the means as text, for some eigenvalues."""
    count = len(result.eigenvalues)
    rows = torch.linspace(0, count - 1, min(count, _SHOWN)).round().long()
    names = [f"{value:.3g}" for value in result.eigenvalues[rows].tolist()]
    columns = [
        f"{n} steps" if n == c else f"{n} steps, {c} calls" for n, c in zip(result.steps, result.calls, strict=True)
    ]
    title = f"{result.sampler}: variance of the samples over that of the data, by eigenvalue of the data"
    parts = [table(title, "eigenvalue", names, columns, result.share.T[rows], ".3g")]
    if bool(((result.mean - 1).abs() > 0.01).any()):
        parts.append(table("what becomes of a mean of 1", "eigenvalue", names, columns, result.mean.T[rows], ".3g"))
    return "\n\n".join(parts)
