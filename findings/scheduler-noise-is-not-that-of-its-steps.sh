#!/usr/bin/env bash
# diffusers 0.42.1: two schedulers add noise at other levels than their own steps carry, so that a start from an image
# (img2img, inpainting) is not where the scheduler takes it to be.
#
# - SASolverScheduler with use_flow_sigmas: its steps are those of a flow, (1 - sigma) image + sigma noise; its
#   `add_noise` looks the timestep up in the table of betas, as if it were variance preserving.
# - FlowMatchEulerDiscreteScheduler with invert_sigmas (Mochi): its steps run from pure noise at sigma = 0 to the image at
#   sigma = 1; its `scale_noise` still gives sigma to the noise, and so an image that is nearly clean where the run begins.
#
# Both are shown by the scheduler's own steps on a known image and noise: what `add_noise` makes at the second timestep is
# held against what the first step makes of the first state. A scheduler that agrees with itself is shown beside them.
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
image, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])  # so that a state shows its share of either
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def look(name: str, scheduler, sign: float) -> float:
    """The distance between the state after half of the steps and the noised image of that timestep."""
    scheduler.set_timesteps(10)
    inverted = bool(scheduler.config.get("invert_sigmas"))
    first = float(scheduler.sigmas[0])
    share = 1 - first if inverted else first  # of noise in the first state
    state = (1 - share) * image + share * noise
    for t in scheduler.timesteps[:5]:
        state = scheduler.step(sign * (noise - image), t, state).prev_sample  # exact, for one image
    add = getattr(scheduler, "scale_noise", None)
    time = scheduler.timesteps[5:6]
    if hasattr(scheduler, "set_begin_index"):
        scheduler._step_index = None
        scheduler.set_begin_index(5)
    made = add(image, time, noise) if add else scheduler.add_noise(image, noise, time)
    far = float((made - state).norm())
    print(f"{name}: after 5 of 10 steps the state is {state[0, 0]:.3f} image + {state[0, 1]:.3f} noise,", end=" ")
    print(f"and noise is added to an image as {made[0, 0]:.3f} image + {made[0, 1]:.3f} noise")
    return far


agrees = look("UniPCMultistepScheduler, flow      ", diffusers.UniPCMultistepScheduler(flow_shift=3.0, **FLOW), 1.0)
betas = look("SASolverScheduler, flow            ", diffusers.SASolverScheduler(flow_shift=3.0, **FLOW), 1.0)
mixed = look("FlowMatchEuler with invert_sigmas  ", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, invert_sigmas=True), -1.0)
raise SystemExit(0 if agrees < 0.01 and betas > 0.1 and mixed > 0.1 else 1)
PYTHON
