"""Painting a prompt

The paper's figure 1 on the small text-to-image model in the box, with guidance: the
state, the difference of neighbouring states and the endpoint estimate, each decoded
from latents to pixels. The background stands first, then where things are, then what
they are, then their details.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.geometry import components_needed
from underpaint.figures.pictures import show

MODEL = "emoji-scenes"

model = up.load_model(MODEL)
prompts = [
    "a red apple and a teddy bear on a blue background",
    "a fox on a green background",
]
level = model.schedule.grid(steps=30)
shown = list(range(0, 30, 3))
ratios = [f"{float(level.ratio[i]):.3g}" for i in shown]

figure, panels = plt.subplots(
    len(prompts), 1, figsize=(9, 3.1 * len(prompts)), layout="constrained"
)
for seed, (prompt, axes) in enumerate(zip(prompts, panels, strict=True)):
    denoise = model.conditional(prompt, guidance=3.0)
    run = up.sample(
        denoise, up.initial_noise([seed], model.dimension, level[0]), level, up.euler
    )
    x, difference = (
        run.x[shown, 0] / level.norm[shown, None].float(),
        run.x.diff(dim=0)[shown, 0],
    )
    difference = difference / difference.std(
        dim=1, keepdim=True
    )  # each to be seen, at the scale of a latent
    films = torch.stack([x, difference, run.denoised[shown, 0]])
    show(axes, model.images(films), ["state", "difference", "estimate"], ratios)
    axes.set_title(prompt, pad=16)
    needed = int(components_needed(run.x)[0])
    print(f"{prompt}: {needed} components hold 99.9 % of the path's variance")
figure.savefig("painting_a_prompt.png")
