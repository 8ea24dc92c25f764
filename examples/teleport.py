"""Teleport: skip the early steps

The first steps of sampling are replaced by one step of the Gaussian's exact flow, and
the network begins where it lands. Rows: how far the jump goes. As long as it lands high
enough, the images stay what they are. Further down the Gaussian decides what the
network should have decided, first for a start that lies between two kinds of object
(the boot, the last, which becomes a bag), then for more of them.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.figures.pictures import show

model, gaussian = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
level = model.schedule.grid(steps=20)
x = up.initial_noise(range(8), model.dimension, level[0])

plain = up.sample(model, x, level, up.dpmpp_2m)
images, names = [plain.final], [f"{plain.nfe} calls"]
print(
    "landed on σ/α   calls   "
    "root mean square change of a pixel: median, and largest over seeds"
)
for ratio in (50.0, 20.0, 10.0, 5.0, 2.0):
    skip = up.steps_above(level, ratio)
    run = up.teleport(gaussian, model, x, level, skip, up.dpmpp_2m)
    images.append(run.final)
    names.append(f"{run.nfe} calls, from {float(level.ratio[skip]):.3g}")
    change = (run.final - plain.final).square().mean(1).sqrt()
    print(
        f"{float(level.ratio[skip]):13.3g}   {run.nfe:5}   "
        f"{float(change.median()):.3f}, {float(change.max()):.3f}"
    )

figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
show(axes, model.images(torch.stack(images)), names)
figure.savefig("teleport.png")
