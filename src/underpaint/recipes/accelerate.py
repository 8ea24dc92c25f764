"""A pipeline with our scheduler, and plans for few calls that are made of the statistics of its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ..bounds import shown
from ..calibration.calibrate import HELD_OUT, calibrate
from ..calibration.spectral import spectral_levels
from ..data.store import gaussian_provenance, load_gaussian, load_mixture
from ..models.pipelines.hooks import scheduler_of
from ..models.pipelines.planned import follow_plans
from ..models.schedulers.configs import OURS, read_scheduler, read_settings, scheduler_config
from ..noise import EDM, Schedule
from ..sampling.fitted import Calibration, Plan, read_calibration
from ..sampling.solvers import euler
from ..theory.gaussian import Gaussian, check_gaussian
from ..theory.mixture import Mixture
from .shared.request import is_ours

#: What is made of the statistics: a plan from a mixture of the data, levels from their spectrum, or nothing.
Made = Literal["auto", "data", "levels", "none"]
#: Calls for which plans from a mixture were nearer than its scheduler without; with more, a mixture knows too little of
#: a network: at 20 calls on fashion-mnist they were at 1.6 times the distance.
_FEWEST, _MOST = 2, 10
#: Of the fit to a mixture: steps of its fine solution, effort, seeds, and numbers that it may hold.
_FINE, _EFFORT, _SEEDS, _NUMBERS = 100, 150, (8, 32), 5e8


def accelerate_pipeline(
    pipe: Any,
    statistics: Gaussian | str | Path,
    plans: Made | Calibration | str | Path = "auto",
    *,
    mixture: Mixture | None = None,
    tell: Callable[[str], None] = print,
) -> Any:
    """A pipeline that is called as ``pipe`` is, whose scheduler knows the statistics of its data and has a plan for the
    calls that are asked for.

    With a mixture of Gaussians of the data, a plan for 2 to 10 calls is fitted to that in the place of the network, in
    seconds and without a call of it, as `underpaint calibrate --from data` does; it is kept with the scheduler. It is
    for networks that are given a state and a time alone. Where a network is given a prompt, a class or an image too, a
    call starts from an image, there is no mixture, or with more calls, the levels are those of `spectral_levels` for
    the Gaussian of all data.

    The networks are shared with ``pipe``, which is left as it is. ``scheduler.plan`` is the plan of the last call: None
    where the pipeline gives its own levels, as Flux's does, which is said after the call. A pipeline need not call
    `scale_model_input` for any plan. The first call with a number of calls that has no plan yet begins twice: first it
    shows its state, so that statistics of another size are refused before a plan is made. So texts and images are
    encoded twice in that call; later calls with as many steps begin once.

    Args:
        statistics: a `Gaussian` of the states as the pipeline carries them, a file of one, or the name of a model in
            the box. Classes in a file are the mixture.
        plans: "auto", as above; "data", for plans from the mixture whatever the network is given, such as the class or
            the prompt that stands for none; "levels", for those of the spectrum alone; "none", for the scheduler as it
            is without; or a calibration that was fitted to the network, or a file of one.
        mixture: in place of that in the file, such as `Mixture.fit` of clusters.
        tell: told in a sentence of each plan that is made, with the seconds that it took, and once where none is
            followed.

    Raises:
        ValueError: the scheduler of the pipeline is of no known family, or the statistics cannot be read, are not of
            one dimension, or hold no mixture where plans are to be of one; a mixture is given where none are; or, when
            it is called, they are not of the dimension of its states.

    Examples:
        >>> import torch
        >>> from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
        >>> import underpaint as up
        >>> unet = UNet2DModel(
        ...     sample_size=8,
        ...     in_channels=1,
        ...     out_channels=1,
        ...     block_out_channels=(8,),
        ...     norm_num_groups=4,
        ...     layers_per_block=1,
        ...     down_block_types=("DownBlock2D",),
        ...     up_block_types=("UpBlock2D",),
        ... )
        >>> pipe = DDPMPipeline(unet, DDIMScheduler())
        >>> pipe.set_progress_bar_config(disable=True)
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(64), variance=0.25)
        >>> quick = up.accelerate_pipeline(pipe, gaussian, tell=lambda words: None)
        >>> quick(num_inference_steps=5, output_type="np").images.shape
        (1, 8, 8, 1)
    """
    from ..models.schedulers.gaussian_exponential import GaussianExponentialScheduler

    gaussian = statistics if isinstance(statistics, Gaussian) else load_gaussian(statistics)
    config = {name: value for name, value in scheduler_config(scheduler_of(pipe)).items() if name not in OURS}
    made = plans if isinstance(plans, str) and plans in get_args(Made) else None
    fitted = read_calibration(plans) if made is None and isinstance(plans, str | Path) else plans
    if made is None and not isinstance(fitted, Calibration):
        raise ValueError(f"plans are {', '.join(get_args(Made))}, a Calibration or a file of one, got {shown(plans)}.")
    if mixture is not None and made not in ("auto", "data"):
        how = "a calibration" if made is None else shown(made)
        raise ValueError(
            f"A mixture is for plans that are made of it, 'auto' or 'data'; plans are {how}: leave it out."
        )
    known = None if made else fitted
    scheduler = GaussianExponentialScheduler.from_config(config, gaussian=gaussian, calibration=known)
    source = None if isinstance(statistics, Gaussian) else statistics
    makes = _Makes(check_gaussian(gaussian).to("cpu"), _schedule(config), source, mixture, tell)
    if made == "data" and not makes.knows_more:
        raise ValueError(f"There are no classes in the statistics {shown(statistics)}; give a mixture, too.")
    if made != "auto" or not makes.knows_more:
        scheduler.planner = {"auto": makes.levels, "data": makes.plan, "levels": makes.levels}.get(made or "none")
        return follow_plans(pipe, scheduler, tell)

    def asked(alone: bool) -> None:
        if not alone:
            tell("The network is given more than a state and a time, which plans from all the data are not for.")
        scheduler.planner = makes.plan if alone else makes.levels

    return follow_plans(pipe, scheduler, tell, asked)


def _schedule(config: Mapping[str, Any]) -> Schedule:
    """Of the networks behind a scheduler with that config."""
    _, trained, settings = read_settings(config)
    if trained != "edm":
        return read_scheduler(config)[0]
    return EDM(float(settings["sigma_min"]), float(settings["sigma_max"]), float(settings.get("rho") or 7.0))


@dataclass(frozen=True, eq=False)
class _Makes:
    """What is made of statistics for a number of calls, beside what there is: a planner of the scheduler for plans, and
    one for levels."""

    gaussian: Gaussian
    schedule: Schedule
    source: str | Path | None
    given: Mixture | None
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        if self.given is not None and self.given.dimension != self.gaussian.dimension:
            raise ValueError(
                f"The mixture is of {self.given.dimension} numbers and the Gaussian of {self.gaussian.dimension}; give "
                "both of the same data."
            )

    @property
    def knows_more(self) -> bool:
        """Whether there is a mixture."""
        if self.given is not None or self.source is None or not is_ours(str(self.source)):
            return self.given is not None
        return bool(gaussian_provenance(self.source).get("classes"))

    @cached_property
    def _mixture(self) -> Mixture:
        assert self.source is not None or self.given is not None
        return self.given or load_mixture(self.source or "")

    def plan(self, calls: int, known: Calibration | None) -> Calibration | None:
        """With one from the mixture; with levels, if that are too few calls or too many."""
        if not _FEWEST <= calls <= _MOST:
            return self.levels(calls, known)
        begun, mixture = time.perf_counter(), self._mixture
        of = f"a mixture of {len(mixture.components)} Gaussians of the data"
        self.tell(f"A plan for {calls} calls is made from {of}, once.")
        how = range(self._seeds), HELD_OUT, _FINE, _EFFORT
        found = calibrate(mixture, self.gaussian, self.schedule, (calls,), *how)
        self.tell(f"It took {time.perf_counter() - begun:.1f} s, and no call of the network.")
        about = {"for": {"guidance": [1.0], "conditions": ["no condition"]}, "from": {"origin": "data", "data": of}}
        return _joined(known, replace(found, about=found.about | about))

    def levels(self, calls: int, known: Calibration | None) -> Calibration | None:
        """With a plan whose levels are from the spectrum; None for a single call, which has but one.

        They are those of the first order: at the levels where it foresees itself to be nearest, a solver of high order
        was further off on networks. Any order gains by these.
        """
        from ..models.schedulers.gaussian_exponential import usual_order

        if calls < _FEWEST:
            return None
        begun = time.perf_counter()
        level = spectral_levels(self.gaussian, self.schedule, calls, euler)
        self.tell(f"Levels for {calls} calls are from the spectrum of the data ({time.perf_counter() - begun:.1f} s).")
        plan = Plan(level, solver=f"exponential-{usual_order(calls)}c")
        about = {"from": {"origin": "spectrum"}} if known is None else {}  # it speaks of the fitted plans, if any
        return _joined(known, Calibration((plan,), about))

    @property
    def _seeds(self) -> int:
        """As many as the fit gains by, or fewer where states are large."""
        coordinates = self.gaussian.covariance.analyse(self.gaussian.mean.unsqueeze(0)).shape[1]
        least, most = _SEEDS
        return min(most, max(least, int(_NUMBERS / (2 * _FINE * coordinates))))


def _joined(known: Calibration | None, more: Calibration) -> Calibration:
    """Plans beside those that there are."""
    return more if known is None else replace(more, plans=(*known.plans, *more.plans), about=known.about | more.about)
