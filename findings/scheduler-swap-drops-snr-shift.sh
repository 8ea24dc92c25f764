#!/usr/bin/env bash
# diffusers 0.42.1: a "compatible" scheduler made from the config of CogVideoX's passes over snr_shift_scale.
#
# CogVideoX-2b, CogView3+ and their relatives are trained on betas whose signal-to-noise ratio is divided by 3 at every
# timestep (snr_shift_scale). CogVideoXDDIMScheduler lists DPMSolverMultistepScheduler and 13 more in `compatibles`, and
# the documented way to swap is `DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`. The new scheduler keeps
# the key in its config and does not use it: at the same timestep its sigma/alpha is 1/sqrt(3) of what the network was
# trained on, for every timestep, without a warning.
#
# Needs: python3 with venv, a connection to PyPI. Exits 0 while diffusers does so, 1 once it does not.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.2.6 scipy==1.15.3
cd "$place"
"$place/env/bin/python" - <<'PYTHON'
import io, logging

import diffusers
from diffusers.utils import logging as ours

assert diffusers.__version__ == "0.42.1", diffusers.__version__
diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction").save_pretrained("scheduler")  # as on the hub: every key
own = diffusers.CogVideoXDDIMScheduler.from_pretrained("scheduler")

said = io.StringIO()
ours.set_verbosity_warning()
logging.getLogger("diffusers").addHandler(logging.StreamHandler(said))
wrong = 0
for swapped in sorted(own.compatibles, key=lambda cls: cls.__name__):
    try:
        other = swapped.from_config(own.config)
    except ImportError:
        continue  # of a package that is not installed
    if not hasattr(other, "alphas_cumprod"):
        continue  # EDM's, which has no betas
    ratios = [((1 - s.alphas_cumprod) / s.alphas_cumprod).sqrt() for s in (own, other)]
    shift = ratios[0] / ratios[1]
    if abs(float(shift.min()) - 3**0.5) < 1e-2 and abs(float(shift.max()) - 3**0.5) < 1e-2:
        wrong += 1
    print(f"{swapped.__name__:34} sigma/alpha of the network's training over its own: {float(shift[500]):.4f}", end="")
    print(f"   (config still says snr_shift_scale = {other.config.snr_shift_scale})")
print(f"{wrong} compatible schedulers are off by sqrt(3); warnings: {'none' if 'snr_shift' not in said.getvalue() else 'some'}")
raise SystemExit(0 if wrong >= 8 and "snr_shift" not in said.getvalue() else 1)
PYTHON
