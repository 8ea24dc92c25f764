"""Almost a rotation

In a variance-preserving family the state is nearly α times the final image plus σ times
the starting noise: a rotation in the plane of the two. On a component of variance λ of
Gaussian data the difference is known in closed form (left): each leaves the rotation
once, when it is decided, by up to √2 − 1 of its state at σ/α = √λ, and is on it before
and after. Right: states of the network in the box, in coordinates of their own final
image and starting noise.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.geometry import (
    plane_residual,
    rotation_coordinates,
    rotation_error,
)
from underpaint.figures.style import MODES

figure, (closed, measured) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
angle = torch.linspace(torch.pi / 2, 0, 200, dtype=torch.float64)
level = up.NoiseLevel(angle.cos(), angle.sin())
variances = torch.logspace(3, -3, 7, dtype=torch.float64)
size = (level.sigma[:, None] ** 2 + variances * level.alpha[:, None] ** 2).sqrt()
left_out = size - level.alpha[:, None] * variances.sqrt() - level.sigma[:, None]
for k, variance in enumerate(variances):
    closed.plot(
        torch.rad2deg(angle),
        (left_out / size)[:, k],
        color=MODES[k],
        label=f"λ = {float(variance):g}",
    )
closed.set(
    title="what the rotation leaves out, over the state",
    xlabel="angle, arctan(σ/α) in degrees",
)
closed.invert_xaxis()
closed.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)

model = up.load_model("fashion-mnist")
level = model.schedule.grid(24)
run = up.sample(
    model, up.initial_noise(range(8), model.dimension, level[0]), level, up.euler
)
measured.plot(*rotation_coordinates(run.x).unbind(2), color="#22223b", linewidth=0.8)
measured.plot(level.alpha, level.sigma, "--", color="#c1542c", label="$(α_t, σ_t)$")
measured.set(
    title="states of a network",
    xlabel="share of the final image",
    ylabel="share of the starting noise",
)
measured.set_aspect("equal", adjustable="datalim")
measured.legend()
figure.savefig("rotation.png")

print(
    "largest share of |x_t|² off the plane:        "
    f"{float(plane_residual(run.x).mean(1).max()):.3f}"
)
print(
    "largest share of |x_t|² off the rotation:     "
    f"{float(rotation_error(run.x, level).mean(1).max()):.3f}"
)
