"""How close few calls come to the network's own fine solution, by solver and level grid.

    python benchmarks/few_calls.py [--model fashion-mnist] [--seeds 16] [--calls 5 6 8 10 14]

Prints, for each number of calls, the root mean square distance per pixel of the best grid of each solver, and the ratio
of our best to the best peer. Every solver gets the best of the same grids: the schedule's own, Karras (rho 7) and
log-uniform. The peers are this library's DDIM, Heun and DPM-Solver++, which its tests hold equal to those of diffusers.
"""

from __future__ import annotations

import argparse

import torch

import underpaint as up
from underpaint.noise import spaced_ratios


def grids(schedule: up.Schedule, steps: int) -> dict[str, up.NoiseLevel]:
    """The level grids on offer; all end at sigma = 0."""
    own = schedule.grid(1000)
    high, low = float(own.ratio[0]), float(own.ratio[-2])
    spaced = {"karras": spaced_ratios(steps, high, low, 7.0), "log": spaced_ratios(steps, high, low)}
    clean = up.NoiseLevel.clean()
    return {"own": schedule.grid(steps)} | {k: up.NoiseLevel.join(schedule.level(r), clean) for k, r in spaced.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 6, 8, 10, 14])
    parser.add_argument("--fine", type=int, default=150, help="Heun steps of the reference")
    args = parser.parse_args()
    model, gaussian = up.load_model(args.model), up.load_gaussian(args.model)
    peers = {"ddim": up.euler, "heun": up.heun, "2M": up.dpmpp_2m, "3M": up.dpmpp_3m}
    ours = {
        f"G{order}{'c' if corrector else ''}": up.gaussian_exponential(gaussian, order, corrector)
        for order in (1, 2, 3)
        for corrector in (False, True)
    }
    noise = up.initial_noise(range(args.seeds), model.dimension, model.schedule.grid(1)[0])
    fine = grids(model.schedule, args.fine)["log"]
    exact = up.sample(model, noise, fine, up.heun, every=args.fine).final
    print("| calls | " + " | ".join([*peers, *ours]) + " | best ours / best peer |")
    print("|" + "---|" * (len(peers) + len(ours) + 2))
    for calls in args.calls:
        best: dict[str, tuple[float, str]] = {}
        for name, solver in (peers | ours).items():
            steps = (calls + 1) // 2 if name == "heun" else calls
            for grid, level in grids(model.schedule, steps).items():
                run = up.sample(model, noise, level, solver, every=steps)
                error = float((run.final - exact).square().mean().sqrt())
                best[name] = min(best.get(name, (error, grid)), (error, grid))
        ratio = min(best[name] for name in ours)[0] / min(best[name] for name in peers)[0]
        cells = [f"{error:.4f} {grid}" for error, grid in best.values()]
        print(f"| {calls} | " + " | ".join(cells) + f" | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
