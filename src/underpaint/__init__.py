"""Analytic diffusion: Gaussian denoisers, exact flows, and samplers that skip the steps which have a closed form.

Each public name is imported from its module when it is first used, so that ``import underpaint`` and the command line
start without waiting for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors: the table below, once more
    from .analysis.paths import ImagePath as ImagePath, morph as morph
    from .calibration.calibrate import calibrate as calibrate
    from .calibration.own_samples import VarianceRatio as VarianceRatio, compare_with_samples as compare_with_samples
    from .calibration.spectral import spectral_error as spectral_error, spectral_levels as spectral_levels
    from .calibration.statistics import (
        fit_from_model as fit_from_model,
        fit_from_samples as fit_from_samples,
        variances_along as variances_along,
    )
    from .data.datasets import load_data as load_data
    from .data.store import load_gaussian as load_gaussian, save_gaussian as save_gaussian
    from .models.checking.check import Check as Check, check as check
    from .models.load import load_model as load_model
    from .models.model import Model as Model
    from .models.networks.edm import EDMScaling as EDMScaling, Preconditioned as Preconditioned
    from .models.networks.other_libraries import (
        from_azula as from_azula,
        from_denoising_diffusion as from_denoising_diffusion,
        from_flow_matching as from_flow_matching,
        from_k_diffusion as from_k_diffusion,
    )
    from .models.pipelines.record import Recording as Recording, record as record
    from .models.pipelines.teleport import teleport_pipeline as teleport_pipeline
    from .models.schedulers.gaussian_exponential import GaussianExponentialScheduler as GaussianExponentialScheduler
    from .models.schedulers.spectrum import Spectrum as Spectrum, spectrum as spectrum
    from .models.wrap import wrap as wrap
    from .noise import DDPM as DDPM, EDM as EDM, Flow as Flow, NoiseLevel as NoiseLevel, Schedule as Schedule
    from .prediction import from_denoised as from_denoised, to_denoised as to_denoised
    from .recipes.accelerate import accelerate_pipeline as accelerate_pipeline
    from .sampling.auto import SkipChoice as SkipChoice, choose_skip as choose_skip
    from .sampling.exponential import (
        gaussian_ancestral as gaussian_ancestral,
        gaussian_exponential as gaussian_exponential,
    )
    from .sampling.fitted import (
        Calibration as Calibration,
        read_calibration as read_calibration,
        write_calibration as write_calibration,
    )
    from .sampling.solvers import (
        dpmpp_2m as dpmpp_2m,
        dpmpp_3m as dpmpp_3m,
        euler as euler,
        find_solver as find_solver,
        heun as heun,
    )
    from .sampling.teleport import respend as respend, steps_above as steps_above, teleport as teleport
    from .sampling.trajectory import (
        Trajectory as Trajectory,
        initial_noise as initial_noise,
        sample as sample,
        seeded_noise as seeded_noise,
    )
    from .sampling.use import in_turn as in_turn
    from .schedules import VPSDE as VPSDE, Interpolant as Interpolant, Truncated as Truncated
    from .theory import modes as modes
    from .theory.cloud import PointCloud as PointCloud
    from .theory.covariance import Covariance as Covariance
    from .theory.denoiser import Denoiser as Denoiser, guide as guide
    from .theory.gaussian import Gaussian as Gaussian, guided_gaussian as guided_gaussian
    from .theory.mixture import Mixture as Mixture
    from .theory.moments import Moments as Moments
    from .theory.regimes import (
        collapse_ratio as collapse_ratio,
        information as information,
        speciation_ratio as speciation_ratio,
    )
    from .theory.stitched import Stitched as Stitched

from . import moved
from .version import __version__ as __version__

moved.install()

#: module -> the public names that it gives
_PUBLIC = {
    "analysis.paths": ("ImagePath", "morph"),
    "calibration.calibrate": ("calibrate",),
    "calibration.spectral": ("spectral_error", "spectral_levels"),
    "calibration.own_samples": ("VarianceRatio", "compare_with_samples"),
    "calibration.statistics": ("fit_from_model", "fit_from_samples", "variances_along"),
    "data.datasets": ("load_data",),
    "data.store": ("load_gaussian", "save_gaussian"),
    "models.networks.other_libraries": (
        "from_azula",
        "from_denoising_diffusion",
        "from_flow_matching",
        "from_k_diffusion",
    ),
    "models.checking.check": ("Check", "check"),
    "models.networks.edm": ("EDMScaling", "Preconditioned"),
    "models.schedulers.gaussian_exponential": ("GaussianExponentialScheduler",),
    "models.schedulers.spectrum": ("Spectrum", "spectrum"),
    "models.load": ("load_model",),
    "models.model": ("Model",),
    "models.pipelines.teleport": ("teleport_pipeline",),
    "models.pipelines.record": ("Recording", "record"),
    "models.wrap": ("wrap",),
    "noise": ("DDPM", "EDM", "Flow", "NoiseLevel", "Schedule"),
    "prediction": ("from_denoised", "to_denoised"),
    "recipes.accelerate": ("accelerate_pipeline",),
    "sampling.auto": ("SkipChoice", "choose_skip"),
    "sampling.exponential": ("gaussian_ancestral", "gaussian_exponential"),
    "sampling.fitted": ("Calibration", "read_calibration", "write_calibration"),
    "sampling.solvers": ("dpmpp_2m", "dpmpp_3m", "euler", "find_solver", "heun"),
    "sampling.teleport": ("respend", "steps_above", "teleport"),
    "sampling.trajectory": ("Trajectory", "initial_noise", "sample", "seeded_noise"),
    "sampling.use": ("in_turn",),
    "schedules": ("Interpolant", "Truncated", "VPSDE"),
    "theory": ("modes",),
    "theory.cloud": ("PointCloud",),
    "theory.covariance": ("Covariance",),
    "theory.denoiser": ("Denoiser", "guide"),
    "theory.gaussian": ("Gaussian", "guided_gaussian"),
    "theory.mixture": ("Mixture",),
    "theory.moments": ("Moments",),
    "theory.regimes": ("collapse_ratio", "information", "speciation_ratio"),
    "theory.stitched": ("Stitched",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


if not TYPE_CHECKING:  # type checkers would take it to mean that any name exists

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # the fromlist makes this `from module import name`, which also finds a name that is itself a module
        value = getattr(__import__(f"{__name__}.{_HOME[name]}", fromlist=[name]), name)
        globals()[name] = value  # so that the next use does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
