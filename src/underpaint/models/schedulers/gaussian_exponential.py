"""The Gaussian exponential integrator as a scheduler of diffusers.

Only the step is ours. Which levels are visited, what the network is told of them and how its input is scaled is left to
a scheduler of diffusers, the *layout*, made from the same config: that of DPM-Solver++ for networks trained on betas
(also for flows whose config has betas; of UniPC where it has settings that only UniPC has), else the Euler scheduler of
flow matching or of EDM, or Stable Audio's own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...bounds import MOST_STEPS, a, integer, shown
from ...devices import find_device
from ...noise import NoiseLevel
from ...sampling.exponential import Ending, gaussian_ancestral, gaussian_exponential
from ...sampling.fitted import Calibration, Plan, read_calibration, write_calibration
from ...sampling.solvers import Solver, Step
from ...sampling.use import Use
from ...theory.gaussian import Gaussian
from ..pipelines.teleport import rows_of
from .configs import read_scheduler, scheduler_config, time_unit
from .families import family_of
from .layout import IN_SIGMA, is_flow, make_layout, refuse, without_end
from .levels import scheduler_denoised, scheduler_levels, step_index

#: The files beside ``scheduler_config.json`` that hold the Gaussian and, if there is one, the calibration.
GAUSSIAN_FILE, CALIBRATION_FILE = "gaussian.safetensors", "calibration.json"
#: From so many calls on, the order is 2 unless told, else 1. A compromise: with fewer calls order 1 is nearer with
#: guidance, whose long steps do not bear extrapolation, and order 2 without; see ``tuning`` in results of `bench`.
_MANY = 10


class GaussianExponentialScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """`gaussian_exponential` for pipelines; one call of the network a step, deterministic unless ``eta`` is above 0.

    ``pipe.scheduler = GaussianExponentialScheduler.from_config(pipe.scheduler.config, gaussian=gaussian)``

    The Gaussian describes the states at sigma = 0 as the pipeline carries them, flattened: pixels in [-1, 1], scaled
    latents, packed tokens. What the pipeline does to a state between steps (inpainting, callbacks) is kept: the
    integrator starts afresh from there. Clipping and thresholding are left out. All else, such as ``timesteps``,
    ``sigmas``, ``add_noise``, is the layout's.

    With a calibration, ``num_inference_steps`` is one of its numbers of calls; its levels are laid, and its
    coefficients take the place of ``order`` and ``corrector``. The pipeline has to call ``scale_model_input`` first, as
    Stable Diffusion does: there the state jumps along the Gaussian's flow to where the first call is made. It warns
    where shape or half precision of the states are not those that the calibration was fitted for; guidance, prompts and
    weights a scheduler does not see. `accelerate_pipeline` makes a pipeline that follows plans whatever it calls, and
    plans from the data.

    With ``eta`` its steps are those of `gaussian_ancestral`, with noise from the pipeline's own ``generator``. The
    ``eta`` that a pipeline hands on, such as Stable Diffusion's, is the same, where it is not 0.

    Args:
        layout: the scheduler that lays the levels.
        gaussian: statistics of the data, of class or prompt if they are known.
        order, corrector, ending, eta, above: of `gaussian_exponential`. Unless told, the order is 1 for fewer than ten
            calls, else 2, it ends as the schedulers of diffusers do, it adds no noise, and the covariance counts
            everywhere; with noise, order and ``above`` are those of `gaussian_ancestral`.
        calibration: what `underpaint calibrate` found for this network with this Gaussian.

    Examples:
        >>> import torch
        >>> from diffusers import DDPMScheduler
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(192), variance=0.25)
        >>> config = DDPMScheduler().config  # of a pipeline: pipe.scheduler.config
        >>> scheduler = up.GaussianExponentialScheduler.from_config(config, gaussian=gaussian)
        >>> scheduler.set_timesteps(6)
        >>> len(scheduler.timesteps)
        6
    """

    order = 1
    #: Where the calibration has no plan of so many calls: makes one with it, or None; see `accelerate_pipeline`.
    planner: Callable[[int, Calibration | None], Calibration | None] | None = None
    #: The plan that is being followed, and whether the network has seen where it begins.
    plan: Plan | None = None
    _landed = False
    #: Where the last step led (the index of its level, and the state), the solver at work, and what it is fed with.
    _ahead: tuple[int, Tensor] | None
    _solution: Iterator[Step] | None
    _output: Tensor | None
    #: Strength of the noise that the solver at work adds, and what draws it.
    _strength = 0.0
    _generator: Any = None

    def __init__(
        self,
        layout: Any,
        gaussian: Gaussian,
        order: int | None = None,
        corrector: bool = True,
        calibration: Calibration | None = None,
        ending: Ending = "denoised",
        eta: float = 0.0,
        above: float | None = None,
    ) -> None:
        # so that what is wrong shows here
        gaussian_exponential(gaussian, 1 if order is None else order, corrector, ending, eta, above=above or 0.0)
        if calibration is not None:
            if not isinstance(calibration, Calibration):
                raise ValueError(f"Expected a Calibration or the path of one, got {shown(calibration)}.")
            calibration.check(gaussian)
            if calibration.ranged:
                raise ValueError(
                    f"The plans are for {calibration.range}, and a scheduler does not see guidance; give those of your "
                    "weight: read_calibration(file).at(guidance)."
                )
            _refuse_noise(eta)
        self.layout, self.gaussian, self.calibration = layout, gaussian, calibration
        self._forget()
        ours: dict[str, Any] = {"integrator_order": order, "corrector": corrector, "ending": ending}
        ours |= {"integrator_eta": eta, "integrator_above": above}
        if is_flow(layout):
            ours["prediction_type"] = "flow_prediction"  # which the class says there
        ours["layout"] = type(layout).__name__
        self.register_to_config(**{**layout.config, **ours})  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(  # type: ignore[override]
        cls,
        config: Mapping[str, Any] | SchedulerMixin,
        return_unused_kwargs: bool = False,
        *,
        gaussian: Gaussian | str | Path | None = None,
        order: int | None = None,
        corrector: bool | None = None,
        calibration: Calibration | str | Path | None = None,
        ending: Ending | None = None,
        eta: float | None = None,
        above: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """The scheduler for a pipeline whose own has that config.

        Args:
            config: of any scheduler of diffusers for betas, EDM or flow matching, or of this one; or the scheduler.
            gaussian: a `Gaussian`, or a file of one.
            order, corrector, ending, eta, above: by default what the config says, or the class does.
            calibration: a `Calibration`, or a file of one.
            kwargs: changes to the config, such as ``use_exponential_sigmas=True`` for levels even in log(sigma/alpha),
                which serve at few calls.

        Raises:
            ValueError: no Gaussian was given, the config is of a family without known levels, or a change is of
                something that its layout does not know.
        """
        if gaussian is None:
            raise ValueError(
                "GaussianExponentialScheduler needs gaussian=..., a Gaussian or a file of one; fit it to latents or "
                "pixels as the pipeline carries them, or to the model with fit_from_model."
            )
        if not isinstance(gaussian, Gaussian):
            from ...data.store import load_gaussian

            gaussian = load_gaussian(gaussian)
        if not isinstance(config, Mapping):
            config = scheduler_config(config)
        scheduler = cls(
            make_layout(config, kwargs),
            gaussian,
            config.get("integrator_order") if order is None else order,
            config.get("corrector", True) if corrector is None else corrector,
            read_calibration(calibration) if isinstance(calibration, str | Path) else calibration,
            config.get("ending", "denoised") if ending is None else ending,
            config.get("integrator_eta", 0.0) if eta is None else eta,
            config.get("integrator_above") if above is None else above,
        )
        return (scheduler, {}) if return_unused_kwargs else scheduler

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        *,
        gaussian: Gaussian | str | Path | None = None,
        calibration: Calibration | str | Path | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load what `save_pretrained` wrote; what is given takes the place of the files beside the config."""
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        files = {"gaussian": (gaussian, GAUSSIAN_FILE), "calibration": (calibration, CALIBRATION_FILE)}
        for name, (given, file) in files.items():
            kwargs[name] = folder / file if given is None and (folder / file).is_file() else given
        return super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``scheduler_config.json`` and, beside it, the Gaussian and the calibration."""
        from ...data.store import save_gaussian

        save_gaussian(Path(save_directory, GAUSSIAN_FILE), self.gaussian)
        if self.calibration is not None:
            write_calibration(Path(save_directory, CALIBRATION_FILE), self.calibration)
        self.save_config(save_directory, push_to_hub, **kwargs)

    def __repr__(self) -> str:
        return f"GaussianExponentialScheduler({self.gaussian!r}, levels of {type(self.layout).__name__})"

    def __getattr__(self, name: str) -> Any:
        """What is not said here is the layout's."""
        if name == "layout":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.layout, name)

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins afresh."""
        return {**self.__dict__, "_ahead": None, "_solution": None, "_output": None, "_generator": None}

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000))

    @property
    def init_noise_sigma(self) -> Any:
        """What unit noise is multiplied with to get the first state."""
        return getattr(self.layout, "init_noise_sigma", 1.0)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Lay the levels.

        Args:
            num_inference_steps: calls of the network.
            device: where the timesteps are put.
            sigmas: the levels themselves: sigma/alpha, or of flows sigma, before their time shift. A last one of 0, as
                in diffusers' `AysSchedules`, may be left out.
            timesteps: what the network is told of them.
            mu: the time shift of a flow whose shift depends on the resolution; pipelines tell it to others, too.
            others: what pipelines hand on for other schedulers; None or without effect, or it is refused.

        Raises:
            ValueError: the layout cannot be given this, there is no such device, or the calibration has no plan of so
                many calls.
        """
        self.plan, self._landed = None, False
        refuse(others)
        mu = self._own_shift(mu)
        if num_inference_steps is not None:
            num_inference_steps = integer(num_inference_steps, "number of steps", 1, MOST_STEPS)
        device = find_device(device)
        sigmas = None if sigmas is None else without_end(sigmas)
        if sigmas is None and timesteps is None and num_inference_steps is not None:
            plan = self._plan_of(num_inference_steps)
            if plan is not None:
                self._follow(plan, device, {} if mu is None else {"mu": mu})
                return
        layout, given = self.layout, {"timesteps": timesteps, "mu": mu}
        if sigmas is not None:
            num_inference_steps = len(sigmas)
        if is_flow(layout):  # other layouts take none, or only places on their own curve
            given["sigmas"], sigmas = sigmas, None
        given = {name: value for name, value in given.items() if value is not None}
        unknown = given and given.keys() - inspect.signature(layout.set_timesteps).parameters
        if unknown:
            raise ValueError(f"Levels laid by {a(type(layout).__name__)} take no {', '.join(sorted(unknown))}.")
        layout.set_timesteps(num_inference_steps, device=device, **given)
        if sigmas is not None:
            self._tell(self._shifted(torch.as_tensor(sigmas, dtype=torch.float32)), device)
        elif any(self.config.get(name) for name in (*IN_SIGMA, "use_flow_sigmas")) and not is_flow(layout):
            self._tell(layout.sigmas[:-1], device)
        self._forget()

    def _own_shift(self, mu: float | None) -> float | None:
        """The time shift that a pipeline tells, where the levels depend on it: diffusers' schedulers of a fixed shift
        leave it aside, or some pipelines look for their class, and do not tell it."""
        dynamic = bool(self.layout.config.get("use_dynamic_shifting"))
        if mu is None and dynamic:
            raise ValueError(
                "The time shift of this scheduler depends on the resolution, and is not told (mu): some pipelines tell "
                "it to one class of diffusers alone. Set use_dynamic_shifting=False and the shift of the resolution."
            )
        takes = "mu" in inspect.signature(self.layout.set_timesteps).parameters
        return mu if dynamic or not takes else None

    def _plan_of(self, calls: int) -> Plan | None:
        """The plan of so many calls, which is made where there is none and somebody makes it; None without plans."""
        known = self.calibration
        if self.planner is not None and self._lacks(calls):
            known = self.planner(calls, known)
            self.calibration = known or self.calibration
        return None if known is None else known.plan(calls)

    def _lacks(self, calls: int) -> bool:
        """Whether there is no plan of so many calls."""
        return self.calibration is None or calls not in [plan.calls for plan in self.calibration.plans]

    def _follow(self, plan: Plan, device: str | torch.device | None, given: Mapping[str, Any]) -> None:
        """Lay a plan's levels. Those of a flow are its sigma itself, and are not shifted again."""
        self.plan, level = plan, plan.level[int(plan.jumps) : -1]
        self.layout.set_timesteps(plan.calls, device=device, **given)
        share = (level.sigma / (level.alpha + level.sigma)).float().to(device)
        if is_flow(self.layout):
            self.layout.sigmas = torch.cat([share, share.new_zeros(1)])
            self.layout.timesteps = share * len(self)
        else:
            self._tell(share if self.config.get("use_flow_sigmas") else level.ratio.float(), device)
            self.layout.sigmas[-1] = 0  # where a plan ends; layouts may end at the lowest level that was trained
        self._forget()

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network is to see of states: scaled as the layout says, and at the first call of a plan, where its
        jump lands."""
        if sample.ndim == 0 and not family_of(self.layout).scaled:
            raise ValueError(
                "This pipeline scales its states and its network's answers by sigma, as for states x0 + sigma eps, "
                f"which {a(type(self.layout).__name__)} does not have; keep the pipeline's own scheduler."
            )
        if self._jumps(timestep):
            sample, self._landed = self._jumped(sample), True
        scale = getattr(self.layout, "scale_model_input", None)
        return sample if scale is None else scale(sample, timestep)

    def _jumps(self, timestep: float | Tensor | None) -> bool:
        """Whether the step at this time, or the next if none is told, is the first of a plan with a jump."""
        if self.plan is None or not self.plan.jumps:
            return False
        return self._ahead is None if timestep is None else step_index(self, timestep) == 0

    def _underpaint_begin(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """Where the step begins that is given this sample; see `record.BEGIN`."""
        return self._jump_of(sample) if self._jumps(timestep) else sample

    def _jumped(self, sample: Tensor) -> Tensor:
        """States as they are drawn, carried by the Gaussian's flow to the first level of the plan."""
        assert self.plan is not None
        self.gaussian = self.gaussian.to(sample.device)
        here, there = self.plan.level[0], scheduler_levels(self.layout)[0]
        drawn = rows_of(sample, self.gaussian) * (float(here.sigma) / float(self.init_noise_sigma))
        return self.gaussian.flow(drawn, here, there).to(sample.dtype).view_as(sample)

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Where a run that is asked for this timestep first begins: where it stands first, if it stands twice."""
        times = self.timesteps if schedule_timesteps is None else schedule_timesteps
        found = (times == torch.as_tensor(timestep).to(times)).nonzero()
        if len(found) == 0:
            raise ValueError(f"There is no timestep {float(timestep):g} among the {len(times)} of this scheduler.")
        return int(found[0])

    def _shifted(self, sigmas: Tensor) -> Tensor:
        """Sigmas that are given, behind the time shift of a flow whose config has betas."""
        if not self.config.get("use_flow_sigmas"):
            return sigmas
        shift = self.layout.config.get("flow_shift", 1.0)
        return shift * sigmas / (1 + (shift - 1) * sigmas)

    def _tell(self, sigmas: Tensor, device: str | torch.device | None) -> None:
        """Give the layout these sigmas before its last, and their very times, which it would round."""
        layout = self.layout
        layout.sigmas = torch.cat([sigmas, layout.sigmas[-1:]])
        if hasattr(layout, "precondition_noise"):
            layout.timesteps = layout.precondition_noise(sigmas).to(device=device)
        else:
            schedule, _ = read_scheduler(self.config)
            level = NoiseLevel(*layout._sigma_to_alpha_sigma_t(sigmas))
            layout.timesteps = (time_unit(self.config) * schedule.time(level)).to(device=device, dtype=torch.float32)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Any = None,
        return_dict: bool = True,
        prev_timestep: float | Tensor | None = None,
        **others: Any,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """The state at the next level, ``prev_sample``, and x0-hat, ``pred_original_sample``.

        Args:
            model_output: what the network predicts, with guidance; channels beyond those of the state are cut.
            timestep: one of ``timesteps``.
            sample: the state, of any shape [B, ...].
            eta: strength of the noise that this run adds; at 0, that of the config.
            generator: draws that noise; a list of one for each state, as in diffusers.
            use_clipped_model_output: taken because pipelines hand it on; nothing is clipped.
            return_dict: or a tuple.
            prev_timestep: the next of ``timesteps``, which some pipelines name.
            others: what pipelines hand on for other schedulers; None or without effect, or it is refused.

        Raises:
            ValueError: the timesteps are not set, noise is asked of a calibrated run, or the states are not of the
                Gaussian's dimension.
        """
        if getattr(self.layout, "num_inference_steps", None) is None:
            raise ValueError("Call set_timesteps before the first step.")
        refuse(others)
        index = step_index(self, timestep)
        if prev_timestep is not None:
            following = self.timesteps[index + 1 : index + 2].tolist()
            if following != [float(prev_timestep)]:
                raise ValueError(
                    f"The next timestep here is {following or 'none'}, got prev_timestep = {prev_timestep}."
                )
        if index >= len(self.timesteps):
            raise ValueError(f"All {index} steps are made; call set_timesteps before the next run.")
        state = rows_of(self._underpaint_begin(sample, timestep), self.gaussian)
        strength, self._generator = eta or self.config["integrator_eta"], generator
        if strength != self._strength or not self._continues(index, sample):
            self._strength = strength
            self._start(index, state)
            if self.plan and index == 0 and self.calibration is not None:
                self.calibration.warn(_use_seen(model_output, sample), self.plan.calls)
        self._output = model_output[:, : sample.shape[1]].flatten(1).to(state)
        assert self._solution is not None
        rows, denoised = next(self._solution)
        moved = rows.to(sample.dtype).view_as(sample)
        self._ahead = index + 1, moved.clone()  # what a pipeline writes into the state that it got is seen, too
        self.layout._step_index = index + 1
        if index + 1 == len(self.timesteps):
            self._forget()
        denoised = denoised.to(sample.dtype).view_as(sample)
        return DDIMSchedulerOutput(moved, denoised) if return_dict else (moved, denoised)

    def _jump_of(self, sample: Tensor) -> Tensor:
        """Where the network saw the first state; ValueError if it did not see it there."""
        if not self._landed:
            raise ValueError(
                "A calibrated scheduler moves the first state in scale_model_input, which this pipeline did not call; "
                "make the pipeline by accelerate_pipeline, which moves it where the network sees it."
            )
        return self._jumped(sample)

    def _start(self, index: int, state: Tensor) -> None:
        """Begin to solve at a level. The solver asks for one denoised image a step, when the output for it is at hand;
        it asks at its own state, which is not rounded to the pipeline's precision."""
        self.gaussian = self.gaussian.to(state.device)
        solver = self._solver(index)

        def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
            assert self._output is not None
            return scheduler_denoised(self.layout, self._output, x, level)

        self._solution = solver(denoise, state, scheduler_levels(self.layout)[index:])

    def _solver(self, index: int) -> Solver:
        """That of the plan from its beginning; its coefficients do not serve from the middle."""
        if self.plan:
            _refuse_noise(self._strength)
        if self.plan and index == 0:
            return self.plan.after_jump(self.gaussian)
        order, above = self.config["integrator_order"], self.config["integrator_above"]
        how = self.config["corrector"], self.config["ending"]
        if self._strength:
            return gaussian_ancestral(
                self.gaussian, self._strength, self._draw, 2 if order is None else order, *how, above=above
            )
        if order is None:
            order = usual_order(len(self.timesteps))
        return gaussian_exponential(self.gaussian, order, *how, above=above or 0.0)

    def _draw(self, rows: Tensor) -> Tensor:
        """Unit noise from the generator of the step that is being made, or one for each row."""
        return randn_tensor(rows.shape, self._generator, rows.device, rows.dtype)

    def _continues(self, index: int, sample: Tensor) -> bool:
        """Whether a state is the one that the last step returned, but for rounding."""
        if self._ahead is None or self._ahead[0] != index or self._ahead[1].shape != sample.shape:
            return False
        expected = self._ahead[1]
        if torch.equal(sample, expected):
            return True
        rounding = 4 * torch.finfo(sample.dtype).eps * torch.linalg.vector_norm(expected, math.inf)
        return bool(torch.linalg.vector_norm(sample - expected, math.inf) <= rounding)

    def _forget(self) -> None:
        """Let go of the run's tensors."""
        self._ahead = self._solution = self._output = self._generator = None


def usual_order(calls: int) -> int:
    """The order for so many calls, unless one is told."""
    return 1 if calls < _MANY else 2


def _use_seen(output: Tensor, sample: Tensor) -> Use:
    """What a step sees of the use that is made of a plan. Pipelines may carry what a network in half precision puts out
    on in float32, so that only half precision is certain."""
    half = output.dtype not in (torch.float32, torch.float64)
    return Use(dtype=str(output.dtype).removeprefix("torch.") if half else None, shape=tuple(sample.shape[1:]))


def _refuse_noise(eta: float) -> None:
    if eta:
        raise ValueError(
            "The levels and coefficients of a plan are fitted to the flow, which has no noise on the way; got eta = "
            f"{eta:g}. Leave out eta or the plans: give no calibration, or plans='none'."
        )
