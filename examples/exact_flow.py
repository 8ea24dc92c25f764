"""Exact flow, and solvers that approach it

For Gaussian data the probability flow is known in closed form. So the error of any
solver can be measured against the truth: first-order Euler (DDIM), second-order Heun
and DPM-Solver++, and the Gaussian exponential integrator, for which this flow is the
linear part that it takes exactly: one step suffices.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Ellipse

import underpaint as up
from underpaint.noise import spaced_ratios

turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
data = up.Gaussian(
    torch.tensor([0.7, -0.4], dtype=torch.float64),
    up.Covariance(torch.tensor([1.2, 0.02]), turn),
)
schedule = up.DDPM()
start = schedule.grid(1)[0]
x = up.initial_noise(range(14), 2, start, dtype=torch.float64)

figure, (plane, errors) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
fine = schedule.grid(200)
paths = torch.stack([data.flow(x, start, there) for there in fine])
plane.plot(*paths.permute(2, 0, 1), color="#9a9a9a", linewidth=0.9)
plane.plot(*paths[0].T, "o", color="#22223b", markersize=4, label="noise")
plane.plot(*paths[-1].T, "o", color="#c1542c", markersize=4, label="data")
for size in (1, 2):
    axes = 2 * size * data.eigenvalues.sqrt()
    plane.add_patch(
        Ellipse(
            data.mean.tolist(),
            *axes.tolist(),
            angle=36.87,
            fill=False,
            color="#c1542c",
            alpha=0.5,
        )
    )
plane.set(title="exact paths", aspect="equal")
plane.legend()

solvers = {
    "Euler (DDIM)": up.euler,
    "Heun": up.heun,
    "DPM-Solver++ 2M": up.dpmpp_2m,
    "Gaussian exponential": up.gaussian_exponential(data),
}
steps = (1, 2, 4, 8, 16, 32, 64, 128)
last = schedule.level(0.02)
exact = data.flow(x, start, last)
for name, solver in solvers.items():
    grids = [
        schedule.level(spaced_ratios(n + 1, float(start.ratio), 0.02)) for n in steps
    ]
    runs = [up.sample(data, x, level, solver) for level in grids]
    error = [float((run.final - exact).square().mean().sqrt()) for run in runs]
    errors.loglog([run.nfe for run in runs], error, "o-", markersize=4, label=name)
    halved = torch.tensor(error[-2] / error[-1]).log2()
    order = "exact" if error[0] < 1e-12 else f"measured order {float(halved):.2f}"
    print(
        f"{name:22} error after one step {error[0]:.1e}, "
        f"after {steps[-1]} steps {error[-1]:.1e}; {order}"
    )
errors.set(title="root mean square error at σ/α = 0.02", xlabel="calls of the denoiser")
errors.legend()
figure.savefig("exact_flow.png")
