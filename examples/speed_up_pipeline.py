"""Speed up a diffusers pipeline by two lines

The pipeline is the plain one of diffusers, and the call stays what it was. Its
scheduler is replaced by ours, which knows the Gaussian of the latents and, since
prompts and guidance lead away from that, a plan that was fitted to the network once:
here for five calls and with little effort, on other prompts than those that are
painted. `underpaint calibrate` does the same with more, and writes a file. Each row is
held against the same pipeline with many steps.
"""

import matplotlib.pyplot as plt
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
)

import underpaint as up
from underpaint import assets
from underpaint.figures.pictures import show
from underpaint.recipes.calibrate import calibrate_model
from underpaint.recipes.shared.request import Request

MODEL = "emoji-scenes"
STEPS, GUIDANCE = 5, 3.0

known = (
    "a frog on a purple background",
    "a gift on a blue background",
    "a rocket on a grey background",
)
request = Request(MODEL, known, (GUIDANCE,), seeds=range(6))
calibration = calibrate_model(
    request, calls=(STEPS,), held_out=range(100, 103), fine=40, effort=8
)

pipe = StableDiffusionPipeline.from_pretrained(assets.folder(MODEL))
pipe.set_progress_bar_config(disable=True)
config, gaussian = pipe.scheduler.config, up.load_gaussian(MODEL)
prompts = [
    "a fox on a blue background",
    "a banana on a green background",
    "a red apple on a yellow background",
]


def paint(steps: int) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    call = {
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "generator": generators,
        "output_type": "pt",
    }
    return pipe(prompts, **call).images


fine = paint(40)
rows = {"40 calls": fine}
schedulers = {
    "DDIM": DDIMScheduler.from_config(config),
    "DPM-Solver++": DPMSolverMultistepScheduler.from_config(config),
    "ours": up.GaussianExponentialScheduler.from_config(
        config, gaussian=gaussian, calibration=calibration
    ),
}
for name, scheduler in schedulers.items():
    pipe.scheduler = scheduler
    rows[f"{name}, {STEPS} calls"] = paint(STEPS)

figure, axes = plt.subplots(figsize=(6.5, 5.6), layout="constrained")
show(axes, torch.stack(list(rows.values())), list(rows))
figure.savefig("speed_up_pipeline.png")
for name, images in list(rows.items())[1:]:
    apart = float((images - fine).square().mean().sqrt())
    print(f"{name:22} root mean square distance to 40 calls: {apart:.4f}")
