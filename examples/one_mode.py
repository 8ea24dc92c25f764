"""One component at a time

For Gaussian data every principal component has a life of its own, which depends on its
variance λ alone. Four closed forms tell it: how the state is scaled (ψ), what the
endpoint estimate shows (ξ), when that is painted (dξ/dt), and how far the final image
moves for a nudge (the gain). Dark lines are components of large variance, such as the
outline of an object; green ones are details.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.figures.style import MODES

schedule = up.DDPM()
time = torch.linspace(999, 0, 400, dtype=torch.float64)
level = schedule(time)
variances = torch.logspace(2, -3, 6, dtype=torch.float64)

xi = up.modes.xi(variances, level[0], level)
panels = {
    "ψ: the state, relative to its start": (
        up.modes.psi(variances, level[0], level),
        "log",
    ),
    "ξ: the estimate, as a share of its end": (xi / xi[-1], "linear"),
    "−dξ/dt: when it is painted": (
        -up.modes.xi_rate(variances, level[0], schedule, time) / xi[-1],
        "log",
    ),
    "gain: final displacement for a nudge": (up.modes.gain(variances, level), "log"),
}
figure, axes = plt.subplots(2, 2, figsize=(9, 5.6), layout="constrained")
for panel, (title, (curves, scale)) in zip(axes.flat, panels.items(), strict=True):
    for k, variance in enumerate(variances):
        panel.plot(time, curves[:, k], color=MODES[k], label=f"λ = {float(variance):g}")
    panel.set(
        title=title, yscale=scale, xlabel="time of the DDPM schedule  (sampling runs →)"
    )
    panel.invert_xaxis()
axes[1, 0].set_ylim(1e-5, 1e-1)
axes[0, 1].legend()
figure.savefig("one_mode.png")

print("variance λ   half of it stands at σ/α")
for variance, ratio in zip(variances, up.modes.emergence_ratio(variances), strict=True):
    print(f"{float(variance):10g}   {float(ratio):.3g}")
