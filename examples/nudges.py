"""A nudge, and what becomes of it

Push the state along a principal component at some moment and sample on. Lines: how far
the final image of Gaussian data moves along that component for a unit of nudge. Points:
how far that of the network in the box moves, mean of four seeds. In theory, early
nudges along components of large variance grow and those along small ones shrink, and
late ones stay what they are; the network follows in kind, but moves less, above all
along components of small variance.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.perturbation import perturb
from underpaint.figures.style import MODES

model, gaussian = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
level = model.schedule.grid(steps=20)
run = up.sample(
    model, up.initial_noise(range(4), model.dimension, level[0]), level, up.euler
)
components = [0, 3, 15, 63]
result = perturb(
    model, run, gaussian, [6, 10, 13, 16, 18], components, strength=1.0, solver=up.euler
)

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
fine = model.schedule(torch.linspace(999, 0, 300))
for i, k in enumerate(components):
    colour, variance = MODES[2 * i], gaussian.eigenvalues[k]
    axes.plot(
        fine.ratio,
        up.modes.gain(variance[None], fine)[:, 0],
        color=colour,
        label=f"u{k + 1}, λ = {variance:.2g}",
    )
    axes.plot(result.level.ratio, result.along.mean(2)[:, i], "o", color=colour)
axes.set(
    xscale="log",
    xlabel="σ/α at the nudge  (sampling runs →)",
    ylabel="displacement / nudge",
    ylim=(-0.05, None),
)
axes.invert_xaxis()
axes.legend()
figure.savefig("nudges.png")

print(
    "σ/α      "
    + "  ".join(f"u{k + 1:<15}" for k in components)
    + " (measured / theory)"
)
for i, ratio in enumerate(result.level.ratio):
    pairs = zip(result.along.mean(2)[i], result.predicted[i], strict=True)
    print(
        f"{float(ratio):<8.3g} "
        + "  ".join(f"{float(a):.2f} / {float(b):.2f}".ljust(16) for a, b in pairs)
    )
