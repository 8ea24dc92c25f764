"""Outline first, details later

The paper's figure 1 on the network in the box. Three films of each seed, noise on the
left: the state, the difference of neighbouring states (stretched to be seen), and the
image that the network expects at that moment. A blurred silhouette stands while the
state still shows nothing but noise; then outlines sharpen; texture comes last.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.figures.pictures import rescale, show

model = up.load_model("fashion-mnist")
level = model.schedule.grid(steps=24)
seeds = [3, 5]
run = up.sample(
    model, up.initial_noise(seeds, model.dimension, level[0]), level, up.euler
)

shown = list(range(0, 24, 2))
ratios = [f"{float(level.ratio[i]):.3g}" for i in shown]
figure, panels = plt.subplots(
    len(seeds), 1, figsize=(9, 2.6 * len(seeds)), layout="constrained"
)
for i, axes in enumerate(panels):
    films = [
        run.x[shown, i] / level.norm[shown, None],
        rescale(run.x.diff(dim=0)[shown, i]),
        run.denoised[shown, i],
    ]
    show(
        axes,
        model.images(torch.stack(films).float()),
        ["state", "difference", "estimate"],
        ratios if i == 0 else (),
    )
figure.suptitle("noise-to-signal ratio σ/α at each moment", fontsize=8)
figure.savefig("outline_first.png")
