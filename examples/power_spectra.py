"""A score network of another science

Nobody here trained this network, and it paints no pictures. 21cmPSDenoiser (Breitman et
al. 2025, MIT licence) is given the power spectrum of the 21-cm line of hydrogen in one
small box of the universe, and samples what the mean over many such boxes could be. It
is a score network of the variance-preserving SDE; its weights come with its package.
`wrap` makes a denoiser of it: it is told the schedule, the prediction, the unit of
time, and the shape of the condition.

The package samples with a Runge-Kutta method of adaptive steps. From the same noise,
100 steps of DPM-Solver++ come to the same state, with half as many calls. The condition
leaves little open, and the check says so: samples differ by a few per cent of the
power. That is why a Gaussian of 24 samples can make most of the way in closed form:
after a jump to σ/α = 0.3, six calls come nearer to the fine solution than six calls
over the whole way do. A plan of five calls that is fitted to eight seeds comes nearer,
on seeds that it was not fitted to, than the best plain solver on the best of its grids.

Last, the paper's claims, as `underpaint report` tests them. The spectra that the
network was trained on are not in the package, so samples of its own stand for them, and
what is claimed of training data is left out. Eight seeds are few; the
[table of claims](../claims.md) is made with more.

Left: the spectrum that is given. It is made up here: a smooth one, with the chance of
as many waves as each bin has. Middle: the mean of four samples. Right: their standard
deviation, as a share of the power.
"""

from importlib.util import find_spec

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.noise import spaced_ratios
from underpaint.recipes.report.build import report
from underpaint.recipes.report.settings import Settings
from underpaint.recipes.shared.model_and_data import Sources

# Its requirements include a simulation in C, which nothing here needs; so it is
# installed without them:
# pip install astropy einops tqdm && pip install --no-deps 21cmpsdenoiser==1.0.2
PACKAGE = "21cmpsdenoiser"
SHAPE = (1, 32, 16)  # bins of wave numbers: across the line of sight, along it


def noisy_spectrum() -> torch.Tensor:
    """A smooth power spectrum, times 1 plus the chance of few waves: [1, 32, 16]."""
    from psdenoiser import denoiser_csts as constants, transform

    across, along = (
        torch.tensor(getattr(constants, name).value) for name in ("kperp", "kpar")
    )
    k = torch.hypot(across[:, None], along[None, :])
    chance = torch.randn(
        k.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    power = (
        20
        * (k / 0.2) ** 0.6
        * (1 + chance / torch.tensor(constants.modes).clamp(min=4).sqrt()).clamp(
            min=0.2
        )
    )
    return (
        transform(power, constants.noisy_scale.item(), constants.noisy_bias.item())
        .float()
        .unsqueeze(0)
    )


def model() -> up.Model:
    """The network with its condition; in commands `--model power_spectra:model`."""
    from psdenoiser import Denoiser

    network = Denoiser(device=torch.device("cpu")).model
    wrapped = up.wrap(
        lambda x, time, noisy: network(x, time, x_cdn=noisy),
        shape=SHAPE,
        schedule=up.VPSDE(beta_min=0.1, beta_max=20.0),
        prediction="eps",
        time=999.0,  # it is told 999 t
        condition=SHAPE,
        name="21cmPSDenoiser",
    )
    return wrapped.holding(noisy_spectrum())


def own_sampler(known: up.Model, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Where the package's own sampler ends from noise [B, D], and its calls."""
    from psdenoiser import VPSDE, GetODESampler

    (network,) = known.network.parts
    sampler = GetODESampler(
        VPSDE(beta_min=0.1, beta_max=20.0), (len(x), *SHAPE), device="cpu"
    )
    end, calls = sampler.ode_sampler(
        network, z=x.view(-1, *SHAPE), x_cdn=known.held, return_nfe=True
    )
    return end.flatten(1), calls


def levels(known: up.Model, steps: int, high: float | None = None) -> up.NoiseLevel:
    """Even in log σ/α, from a ratio or the first level to t = 0.001; then the data."""
    first, low = (
        float(known.schedule.grid(1)[0].ratio),
        float(known.schedule(torch.tensor(0.001)).ratio),
    )
    high = first if high is None else high
    return up.NoiseLevel.join(
        known.schedule.level(spaced_ratios(steps, high, low)), up.NoiseLevel.clean()
    )


def main() -> None:
    known = model()
    print(up.check(known).short)

    level = levels(known, 101)
    x = up.initial_noise(range(4), known.dimension, level[0])
    fine = up.sample(known, x, level, up.dpmpp_2m)
    theirs, calls = own_sampler(known, x[:1])
    apart = float((fine.x[100, :1] - theirs).abs().max())
    print(
        f"largest distance of 100 calls to the {calls} calls of its own sampler: "
        f"{apart:.1e}"
    )
    assert apart < 1e-3
    spread = float(fine.final.std(0).square().mean().sqrt())
    print(f"standard deviation of its samples, whose range is [-1, 1]: {spread:.1e}")

    gaussian = up.fit_from_samples(
        known, known.dimension, levels(known, 10), 24, solver=up.dpmpp_2m, seed=100
    )
    six, jumped = (
        levels(known, 6),
        up.NoiseLevel.join(level[0], levels(known, 6, high=0.3)),
    )
    runs = {
        "DDIM": up.sample(known, x, six, up.euler),
        "DPM-Solver++ 2M": up.sample(known, x, six, up.dpmpp_2m),
        "the same after a jump": up.teleport(
            gaussian, known, x, jumped, 1, up.dpmpp_2m
        ),
    }
    errors = {
        name: float((run.final - fine.final).square().mean().sqrt())
        for name, run in runs.items()
    }
    for name, error in errors.items():
        print(f"{name}, {runs[name].nfe} calls: {error:.1e} from the fine solution")
    assert all(run.nfe == 6 for run in runs.values())
    assert 2 * errors["the same after a jump"] < min(
        errors["DDIM"], errors["DPM-Solver++ 2M"]
    )
    few_calls(known, gaussian)
    claims(known)
    draw(known, fine.final)


def few_calls(known: up.Model, gaussian: up.Gaussian) -> None:
    """A plan, and what it is worth on seeds held out."""
    seeds, held_out = range(8), range(1000, 1006)
    fitted = up.calibrate(
        known, gaussian, known.schedule, (5,), seeds, held_out, fine=32, effort=30
    )
    (plan,) = fitted.plans
    ours, theirs = plan.errors["held_out"], plan.errors["plain"]
    print(f"a plan of 5 calls: {ours:.1e} from the fine solution, on seeds held out")
    print(f"the best plain solver of 5 calls, on its best grid: {theirs:.1e}")
    assert plan.solver == "fitted"
    assert ours < theirs / 2


def claims(known: up.Model) -> None:
    """The paper's claims: each with its verdict, the number, and the bound."""
    sources = Sources(known, samples=32)
    for claim in report(Settings(sources, seeds=tuple(range(8)), steps=12)).claims:
        print(f"{claim.verdict}: {claim.statement} ({claim.value:.3g}; {claim.bound})")


def draw(known: up.Model, rows: torch.Tensor) -> None:
    from psdenoiser import denoiser_csts as constants, reverse_transform

    spectra = reverse_transform(
        rows.view(-1, *SHAPE[1:]),
        constants.mean_scale.item(),
        constants.mean_bias.item(),
    )
    given = reverse_transform(
        known.held[0], constants.noisy_scale.item(), constants.noisy_bias.item()
    )
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    low, high = float(given.log10().min()), float(given.log10().max())
    panels = {
        "given": (given.log10(), low, high, "log₁₀ of the power in mK²"),
        "mean of samples": (
            spectra.mean(0).log10(),
            low,
            high,
            "log₁₀ of the power in mK²",
        ),
        "standard deviation of samples": (
            spectra.std(0) / spectra.mean(0),
            0,
            None,
            "share of the power",
        ),
    }
    for panel, (title, (values, lowest, highest, unit)) in zip(
        axes, panels.items(), strict=True
    ):
        shown = panel.imshow(
            values.T, origin="lower", aspect="auto", vmin=lowest, vmax=highest
        )
        panel.set(
            title=title,
            xlabel="waves across the line of sight, bin",
            ylabel="along it, bin",
        )
        panel.grid(False)
        figure.colorbar(shown, ax=panel, label=unit)
    figure.savefig("power_spectra.png")


if __name__ == "__main__":
    if find_spec("psdenoiser") is None:
        print(f"This example needs {PACKAGE}, which is not installed here.")
    else:
        main()
