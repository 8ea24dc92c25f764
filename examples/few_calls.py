"""Few calls

How close do few calls of the network come to its own fine solution, the same flow in
100 steps? Each solver runs from the same six seeds, at the best of three level grids,
since the grid matters at least as much as the solver. The Gaussian exponential
integrator is shown with order 3 and corrector: at 17 calls it is nearest, at 5 and 9 it
is not. (Heun, at 5, is beyond the frame.) Six seeds make no ranking: `underpaint bench`
compares every solver, order and grid, on other seeds than those on which it chooses.
"""

import matplotlib.pyplot as plt

import underpaint as up
from underpaint.noise import spaced_ratios

model, gaussian = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
RHO = {"time": None, "Karras": 7.0, "log": float("inf")}
high, low, _ = model.schedule.grid(steps=2).ratio.tolist()


def grid(steps: int, kind: str) -> up.NoiseLevel:
    """Levels over the network's range, and then the image.

    Even in time, as Karras22 spaces them, or even in log σ/α.
    """
    rho = RHO[kind]
    if rho is None:
        return model.schedule.grid(steps)
    return up.NoiseLevel.join(
        model.schedule.level(spaced_ratios(steps, high, low, rho)),
        up.NoiseLevel.clean(),
    )


x = up.initial_noise(range(6), model.dimension, grid(2, "log")[0])
fine = up.sample(model, x, grid(100, "log"), up.dpmpp_2m, every=100).final
solvers = {
    "DDIM": up.euler,
    "Heun": up.heun,
    "DPM-Solver++ 2M": up.dpmpp_2m,
    "Gaussian exponential, corrected": up.gaussian_exponential(
        gaussian, order=3, corrector=True, ending="denoised"
    ),
}
calls = (5, 9, 17)
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
print("calls".ljust(34) + "".join(f"{n:<16}" for n in calls))
for name, solver in solvers.items():
    best = []
    for n in calls:
        steps = (n + 1) // 2 if name == "Heun" else n
        runs = {
            kind: up.sample(model, x, grid(steps, kind), solver, every=steps)
            for kind in RHO
        }
        assert all(run.nfe == n for run in runs.values())
        best.append(
            min(
                (float((run.final - fine).square().mean().sqrt()), kind)
                for kind, run in runs.items()
            )
        )
    axes.loglog(calls, [error for error, _ in best], "o-", markersize=4, label=name)
    print(name.ljust(34) + "".join(f"{error:.3f} {kind:<10}" for error, kind in best))
axes.set(
    xlabel="calls of the network",
    ylabel="root mean square distance of a pixel",
    ylim=(None, 1),
)
axes.set_xticks(calls, [str(n) for n in calls])
axes.minorticks_off()
axes.legend()
figure.savefig("few_calls.png")
