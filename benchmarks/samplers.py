"""What the schedulers of the installed diffusers make of Gaussian data, as tables for the book: variance of their
samples over that of the data, by steps, along a narrow direction and along a wide one.

    python benchmarks/samplers.py                           # shows the tables
    python benchmarks/samplers.py --write docs/samplers.md  # puts them between the page's marks
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import diffusers
from pages import show_or_write

from underpaint.cli.base import in_a_sentence
from underpaint.models.schedulers.spectrum import Spectrum, spectrum
from underpaint.recipes.spectrum import find_scheduler

MARKS = "<!-- table of samplers -->\n", "<!-- end of the table -->\n"
STEPS = (5, 10, 20, 50)
#: Variances along which the tables look: narrow and wide.
EIGENVALUES = (0.01, 1.0)
_FLOW: Mapping[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
#: Of DDPM, on which most networks of linear betas were trained; some classes have other betas by default.
_LINEAR: Mapping[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
_KARRAS, _TRAILING = {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}
_ENDS_EARLY = "ends at its last level above 0, with all of the noise there"
_ANEW = "draws all of the noise anew in each step, and tends to half of the data's variance"


@dataclass(frozen=True)
class Sampler:
    """A row of a table: a class, what is set, and what is asked of its step."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def title(self) -> str:
        hidden = {*_FLOW, *_LINEAR}
        given = [f"{key}={value}" for key, value in {**self.settings, **self.step}.items() if key not in hidden]
        return ", ".join([f"`{self.name}`", *(f"`{text}`" for text in given)])

    def spectrum(self, steps: int) -> Spectrum:
        scheduler, _ = find_scheduler(self.name, self.settings)
        return spectrum(scheduler, steps, EIGENVALUES, **self.step)


def _rows(*names: str) -> tuple[Sampler, ...]:
    return tuple(Sampler(name) for name in names)


def _on_linear_betas(*rows: Sampler) -> tuple[Sampler, ...]:
    """The rows on one and the same table of betas, so that they can be compared."""
    return tuple(replace(row, settings={**_LINEAR, **row.settings}) for row in rows)


#: Title of a table -> its rows.
TABLES: dict[str, tuple[Sampler, ...]] = {
    "Networks of linear betas, no noise on the way": (
        *_on_linear_betas(
            Sampler("DDIM"),
            Sampler("DDIM", _TRAILING),
            Sampler("DDIM", {"timestep_spacing": "linspace"}, why="steps by a stride that misses its own timesteps"),
            *_rows("DDIMParallel", "PNDM", "EulerDiscrete", "LMSDiscrete"),
            Sampler("EulerDiscrete", _KARRAS),
            Sampler("HeunDiscrete"),
            Sampler("HeunDiscrete", _KARRAS),
            *_rows("KDPM2Discrete", "DEISMultistep"),
            Sampler("DEISMultistep", {"solver_order": 3}),
            Sampler("DPMSolverSinglestep"),
            Sampler("DPMSolverMultistep"),
            Sampler("DPMSolverMultistep", _TRAILING),
            Sampler("DPMSolverMultistep", _KARRAS),
            Sampler("DPMSolverMultistep", {"solver_order": 3}),
            Sampler(
                "DPMSolverMultistep",
                {"solver_order": 3, "final_sigmas_type": "sigma_min"},
                why="extrapolates by third order over its last step, which is long in log(sigma), from 15 steps on",
            ),
            Sampler("UniPCMultistep"),
            Sampler("UniPCMultistep", {"solver_order": 3}),
            Sampler("UniPCMultistep", {"solver_type": "bh1"}, why="divides 0 by 0 in its step into sigma = 0"),
        ),
        Sampler("IPNDM", why="has levels of its own, which cannot be set"),
    ),
    "Networks of linear betas, noise on the way": (
        *_on_linear_betas(
            *_rows("DDPM", "DDPMParallel"),
            Sampler("DDPM", {"variance_type": "fixed_large"}, why="adds the variance of a step of the forward process"),
            Sampler("DDIM", {}, {"eta": 1.0}),
            Sampler("EulerAncestralDiscrete"),
            Sampler("KDPM2AncestralDiscrete"),
            Sampler("EulerDiscrete", {}, {"s_churn": 1.0}),
            Sampler("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
            Sampler("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", **_KARRAS}),
            *_rows("DPMSolverSDE", "SASolver", "TCD"),
            Sampler("LCM", why=_ANEW),
        ),
        Sampler("UnCLIP", why="has cosine betas, which cannot be set"),
    ),
    "Latent videos (scaled-linear betas, zero terminal signal)": _rows("CogVideoXDDIM", "CogVideoXDPM"),
    "Flows": (
        Sampler("FlowMatchEulerDiscrete"),
        Sampler("FlowMatchEulerDiscrete", {"shift": 3.0}),
        Sampler("FlowMatchHeunDiscrete"),
        Sampler("DPMSolverMultistep", _FLOW),
        Sampler("DPMSolverSinglestep", _FLOW),
        Sampler("UniPCMultistep", _FLOW),
        Sampler("DEISMultistep", _FLOW, why=_ENDS_EARLY),
        Sampler("MiniMaxH3"),
        Sampler("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, why=_ANEW),
        Sampler("FlowMatchLCM", why=_ANEW),
        Sampler("LTXEulerAncestralRF"),
        Sampler("SASolver", _FLOW, why=_ENDS_EARLY),
    ),
    "EDM": _rows("EDMEuler", "EDMDPMSolverMultistep", "CosineDPMSolverMultistep"),
}


def cells(sampler: Sampler, steps: tuple[int, ...] = STEPS) -> list[str]:
    """Of each number of steps: variance over the data's, narrow and wide, and the mean where it is off by 5 %."""
    try:
        return [cell(sampler.spectrum(count)) for count in steps]
    except ImportError:
        return ["needs torchsde", *[""] * (len(steps) - 1)]
    except ValueError as error:
        return [str(error).rstrip(".").partition(";")[0], *[""] * (len(steps) - 1)]


def cell(found: Spectrum) -> str:
    """`0.14, 0.69`, and what becomes of a mean of 1 if that is not 1."""
    mean = float(found.mean[0])
    off = f" (mean {mean:.2f})" if abs(mean - 1) > 0.05 else ""
    return ", ".join(f"{share:.2g}" for share in found.share.tolist()) + off


def missing() -> dict[str, str]:
    """Schedulers of the installed diffusers that no table has, and why."""
    named = {sampler.name for rows in TABLES.values() for sampler in rows}
    found = {}
    for full in sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name[:4] != "Flax"):
        if full.removesuffix("Scheduler") not in named and full not in ("SchedulerMixin", "KarrasDiffusionSchedulers"):
            found[full] = why_not(full)
    return found


def why_not(name: str) -> str:
    try:
        spectrum(find_scheduler(name, {})[0], STEPS[0], EIGENVALUES)
    except ImportError:
        return "needs a package that is not installed"
    except ValueError as error:
        return str(error).rstrip(".").partition(";")[0].replace("_", "\\_")  # for Markdown
    return ""


def tables() -> Iterator[str]:
    """As markdown: a table for each kind, notes on misfits below it, and what is left out."""
    torchsde = find_spec("torchsde")
    beside = f" and torchsde {version('torchsde')}" if torchsde else ""
    yield f"Made with diffusers {diffusers.__version__}{beside}."
    for title, rows in TABLES.items():
        notes = list(dict.fromkeys(sampler.why for sampler in rows if sampler.why))
        yield f"\n### {title}\n"
        yield f"| sampler | {' | '.join(f'{steps} steps' for steps in STEPS)} |\n|---|{'---|' * len(STEPS)}"
        for sampler in rows:
            mark = f" [{notes.index(sampler.why) + 1}]" if sampler.why else ""
            yield f"| {sampler.title}{mark} | {' | '.join(cells(sampler))} |"
        yield from ["", *(f"- [{i}] {why}." for i, why in enumerate(notes, 1))] if notes else []
    yield "\n### Without a spectrum\n"
    yield from (f"- `{name}`: {why}." for name, why in missing().items())


def found() -> str:
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    return "\n".join(line.rstrip() for line in tables()) + "\n"


if __name__ == "__main__":
    with in_a_sentence("samplers.py"):
        show_or_write(__doc__, MARKS, found)
