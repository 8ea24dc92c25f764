#!/usr/bin/env bash
# diffusers 0.42.1: DDIMScheduler leaves its states at other noise levels than it tells the network.
#
# DDIM steps from timestep t to t - 1000 // steps. With timestep_spacing="linspace" its timesteps are 999 / (steps - 1)
# apart, with "trailing" 1000 / steps, rounded. Where the two differ, the state that comes back is at one level, and the
# next call of the network, and of the step, takes it for one of another. Here a network that knows image and noise
# exactly is sampled in 10 steps, so that every state is a mixture of the two: what `add_noise` makes of them at the
# timestep that the network is told is a different state, with less noise. Spacings that meet their timesteps are shown
# beside it.
#
# Needs: python3 with venv, a connection to PyPI. Exits 0 while diffusers does so, 1 once it does not.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.2.6
"$place/env/bin/python" - <<'PYTHON'
import diffusers
import torch

assert diffusers.__version__ == "0.42.1", diffusers.__version__
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # of Stable Diffusion
image, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])  # so that a state shows its share of either


def run(steps: int, spacing: str) -> float:
    """The largest ratio of sigma/alpha where a state is to what the network is told, before the last step."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, clip_sample=False, **BETAS)
    scheduler.set_timesteps(steps)
    state, worst = scheduler.add_noise(image, noise, scheduler.timesteps[:1]), 1.0
    for t in scheduler.timesteps:
        told = scheduler.add_noise(image, noise, t[None])
        ratio, meant = (float(x[0, 1] / x[0, 0]) for x in (state, told))
        worst = max(worst, ratio / meant)
        if (steps, spacing) == (10, "linspace"):
            print(f"  timestep {int(t):3}: the state is at sigma/alpha = {ratio:7.3f}, the network is told {meant:7.3f}")
        alpha, sigma = told[0]
        state = scheduler.step((state - alpha * image) / sigma, t, state).prev_sample
    return worst


print("10 steps, linspace:")
found = {(steps, spacing): run(steps, spacing) for spacing in ("linspace", "trailing", "leading") for steps in (10, 30)}
for (steps, spacing), worst in found.items():
    print(f"{spacing:9} {steps} steps: noise-to-signal up to {worst:.3f} times what the network is told")
as_seen = found[10, "linspace"] > 3 and found[30, "trailing"] > 1.02
fine = all(found[key] < 1.0001 for key in ((10, "trailing"), (10, "leading"), (30, "leading")))
raise SystemExit(0 if as_seen and fine else 1)
PYTHON
