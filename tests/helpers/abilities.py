"""What underpaint can do with a pipeline, each found by value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from underpaint.models.load import load_model
from underpaint.models.pipelines.record import Recording, record
from underpaint.models.pipelines.replay import replayed_model
from underpaint.models.pipelines.teleport import teleport_pipeline
from underpaint.models.schedulers.families import names_of
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.noise import NoiseLevel
from underpaint.sampling.exponential import gaussian_exponential
from underpaint.sampling.solvers import euler
from underpaint.sampling.teleport import teleport
from underpaint.sampling.trajectory import sample
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

STEPS, SKIP = 4, 1
#: Schedulers whose steps are Euler's, which our own solver makes.
FIRST_ORDER = {"DDIM", "CogVideoXDDIM", "EulerDiscrete", "FlowMatchEulerDiscrete"}


@dataclass
class Case:
    """A pipeline with what it is called with, and a run of it."""

    pipe: Any
    given: Mapping[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = inspect.signature(type(self.pipe).__call__).parameters
        self.options = {"num_inference_steps": STEPS, **({"output_type": "np"} if "output_type" in known else {})}

    def call(self, target: Callable[..., Any]) -> Any:
        """The seeded call of a pipeline, or of what calls it."""
        torch.manual_seed(2)
        return target(**self.given, **self.options, generator=torch.Generator().manual_seed(1))

    def recorded(self, pipe: Any) -> Recording:
        return self.call(lambda **given: record(pipe, **given))

    @cached_property
    def seen(self) -> Recording:
        return self.recorded(self.pipe)

    @cached_property
    def model(self) -> Any:
        return replayed_model(self.pipe, **self.given, generator=torch.Generator().manual_seed(1))

    @cached_property
    def refusal(self) -> str:
        """Why there is no model of it; empty if there is one."""
        try:
            _ = self.model
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def gaussian(self) -> Gaussian:
        dimension = self.seen.trajectory.x.shape[2]
        basis = torch.linalg.qr(torch.randn(dimension, 3, generator=torch.Generator().manual_seed(0))).Q
        mean = 0.2 * torch.randn(dimension, generator=torch.Generator().manual_seed(1))
        return Gaussian(mean, Covariance(torch.tensor([3.0, 2.0, 1.0]), basis, 0.3))


def records(case: Case) -> float:
    """A recorded run is the bare run, to the bit; its states and estimates are those of the scheduler's first step."""
    bare, found = (_array(output) for output in (case.call(case.pipe), case.seen.output))
    assert np.array_equal(bare, found)
    return 0.0


def shows(case: Case) -> float:
    """The last state is decoded to what the pipeline returned."""
    found, returned = case.seen.decode(case.seen.trajectory.final).numpy(), _array(case.seen.output)
    if returned.ndim >= 4:
        returned = np.moveaxis(returned, -1, -3)
    return float(abs(found - returned).max())


def replays(case: Case) -> float:
    """The denoiser is what the pipeline stepped with, in any order and for several rows."""
    trajectory, worst = case.seen.trajectory, 0.0
    for i in range(len(trajectory) - 1, -1, -1):
        found = case.model(trajectory.x[i].float().repeat(2, 1), trajectory.level[i])
        worst = max(worst, _apart(found, trajectory.denoised[i].expand_as(found)))
    return worst


def samples(case: Case) -> float:
    """Our own loop over the denoiser comes to the pipeline's own final state, where its steps are Euler's."""
    trajectory = case.seen.trajectory
    level = falling(trajectory.level)
    return _apart(sample(case.model, trajectory.x[0].float(), level, euler).final, trajectory.final)


def teleports(case: Case) -> float:
    """A teleported call begins where the Gaussian's flow lands, and is there shown to the network; with Euler's steps
    it ends where our own teleport ends."""
    trajectory, law = case.seen.trajectory, case.gaussian
    found = case.recorded(teleport_pipeline(case.pipe, law, SKIP)).trajectory
    landed = law.flow(trajectory.x[0].float(), trajectory.level[0], trajectory.level[SKIP])
    if case.refusal:
        return _apart(found.x[0], landed)
    worst = max(_apart(found.x[0], landed), _apart(found.denoised[0], case.model(landed, trajectory.level[SKIP])))
    if not euler_steps(case):
        return worst
    expected = teleport(law, case.model, trajectory.x[0].float(), falling(trajectory.level), SKIP, euler)
    return max(worst, _apart(found.final, expected.final))


def falling(level: NoiseLevel) -> NoiseLevel:
    """Levels without a last step to where it begins, which some pipelines make (Cosmos Predict2)."""
    return level if level.ratio[-1] < level.ratio[-2] else level[:-1]


def integrates(case: Case) -> float:
    """With `GaussianExponentialScheduler` in its place, a call ends where our own integrator ends."""
    own = case.pipe.scheduler
    case.pipe.scheduler = GaussianExponentialScheduler.from_config(own.config, gaussian=case.gaussian)
    try:
        found, levels = case.recorded(case.pipe).trajectory, scheduler_levels(case.pipe.scheduler)
    finally:
        case.pipe.scheduler = own
    levels = levels[len(levels) - 1 - len(found) :]
    solver = gaussian_exponential(case.gaussian, 1, True, "denoised")
    return _apart(sample(case.model, found.x[0].float(), levels, solver).final, found.final)


def euler_steps(case: Case) -> bool:
    return bool(FIRST_ORDER & set(names_of(case.pipe.scheduler)[:1]))


def opens(case: Case) -> float:
    """Saved, and loaded from its folder, it is the same denoiser."""
    with TemporaryDirectory() as folder:
        case.pipe.save_pretrained(folder)
        loaded = load_model(folder, **case.given, generator=torch.Generator().manual_seed(1))
    x, level = case.seen.trajectory.x[1].float(), case.seen.trajectory.level[1]
    return _apart(loaded(x, level), case.model(x, level))


ABILITIES: dict[str, Callable[[Case], float]] = {
    "record": records,
    "decode": shows,
    "load": replays,
    "folder": opens,
    "sample": samples,
    "teleport": teleports,
    "scheduler": integrates,
}
#: What rounding leaves, beside the largest number.
BOUND = 3e-4


def _array(output: Any) -> Any:
    return np.asarray(output[0])


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def measured(case: Case, ability: str) -> str:
    """A word for the table: "yes", how far apart or why not, or nothing where it makes no sense to ask."""
    if not asked(case, ability):
        return ""
    try:
        apart = ABILITIES[ability](case)
    except ValueError as error:
        return str(error).partition(";")[0].partition(":")[0].rstrip(".")
    return "yes" if apart <= BOUND else f"{apart:.0e} apart"


def asked(case: Case, ability: str) -> bool:
    """Whether an ability can be measured: our own loop takes Euler's steps, and needs a denoiser to compare with."""
    if ability == "sample":
        return euler_steps(case) and not case.refusal
    return ability != "scheduler" or not case.refusal
