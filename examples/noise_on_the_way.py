"""Noise on the way, and what samplers do to a spectrum

Left: the same start carried to data along one component, by the flow and with noise on
the way. Each path is of exact steps; at every level all three have the same
distribution, that of noisy data, within the grey band of two standard deviations.
Right: what samplers of diffusers make of Gaussian data in ten steps, exactly and
without a network: the variance of their samples over that of the data, for wide
directions (right) and details (left). Below 1 a sample is too smooth, above it too
rough, and no network is to blame.
"""

from itertools import pairwise

import diffusers
import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.figures.style import COLOURS, QUIET

figure, (paths, spectra) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")

data = up.Gaussian.isotropic(torch.zeros(1, dtype=torch.float64), 1.0)
level = up.EDM(sigma_min=0.05, sigma_max=20.0).grid(120)[:-1]
start = torch.tensor([[1.2]], dtype=torch.float64) * float(level[0].norm)
paths.axhspan(-2, 2, color=QUIET, alpha=0.2, linewidth=0)
for eta, colour in zip(
    (0.0, 0.5, 1.0),
    (COLOURS["network"], COLOURS["mixture"], COLOURS["Gaussian"]),
    strict=True,
):
    for seed in range(2 if eta else 1):
        generator, states = torch.Generator().manual_seed(seed), [start]
        for here, there in pairwise(level):
            states.append(data.transition(states[-1], here, there, eta, generator))
        label = f"η = {eta:g}" if seed == 0 else None
        paths.plot(
            level.ratio,
            torch.cat(states).squeeze(1) / level.norm,
            color=colour,
            linewidth=1,
            label=label,
        )
paths.set(
    xscale="log",
    title="exact steps of the same start",
    xlabel="σ/α   (sampling runs this way →)",
    ylim=(-3, 3),
)
paths.invert_xaxis()
paths.legend()

samplers = {
    "DDIM": diffusers.DDIMScheduler(clip_sample=False),
    "DPM-Solver++ 2M": diffusers.DPMSolverMultistepScheduler(),
    "DPM-Solver++ 2M, Karras": diffusers.DPMSolverMultistepScheduler(
        use_karras_sigmas=True
    ),
    "DDPM": diffusers.DDPMScheduler(clip_sample=False),
    "Heun": diffusers.HeunDiscreteScheduler(),
    "flow, all noise anew": diffusers.FlowMatchEulerDiscreteScheduler(
        stochastic_sampling=True
    ),
}
values = torch.logspace(-4, 2, 37, dtype=torch.float64)
spectra.axhline(1, color=QUIET, linewidth=1)
print(
    "variance over that of the data after 10 steps, "
    "along directions of variance 0.01 and 1"
)
for name, scheduler in samplers.items():
    found = up.spectrum(scheduler, 10, values)
    spectra.loglog(values, found.share, label=name)
    print(f"{name:28} {float(found.share[12]):6.2f} {float(found.share[24]):6.2f}")
spectra.set(
    title="variance of samples over that of data",
    xlabel="variance λ of the data",
    ylim=(1e-2, 20),
)
spectra.legend(fontsize=6.5)
figure.savefig("noise_on_the_way.png")
