"""Denoisers that know all the data, and yet make new images

The exact score of 1,000 images ends on one of them. Three steps from there towards what
networks do: blur it, so that it ends between images; let every pixel see only a patch
around itself, larger where there is more noise; or let every pixel see what the data's
Gaussian says that it depends on. All from the same noise as the network above them.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.retrieval import nearest
from underpaint.figures.pictures import show
from underpaint.theory.local import LocalCloud, Smoothed

model, gaussian = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
points = up.load_data("fashion-mnist").rows(slice(0, 1000))
exact = up.PointCloud(points)


def patch(level: up.NoiseLevel) -> int:
    """Edge of the patches: 3 pixels without noise, all of the image from σ/α = 8 on."""
    return min(2 * round(3.25 * float(level.ratio)) + 3, 55)


denoisers = {
    "network": model,
    "exact score": exact,
    "smoothed": Smoothed(exact, width=3.0),
    "patches": LocalCloud.patches(points, model.shape, patch, equivariant=False),
    "Wiener windows": LocalCloud.wiener(points, gaussian),
}
level = model.schedule.grid(steps=12)
x = up.initial_noise(range(1, 7), model.dimension, level[0])
rows = []
for name, denoise in denoisers.items():
    rows.append(up.sample(denoise, x, level, up.euler).final)
    distance = nearest(points, rows[-1])[0] / 28
    print(
        f"{name:15} root mean square distance of a pixel to the nearest of the 1,000: "
        f"{float(distance.mean()):.3f}"
    )

figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
show(axes, model.images(torch.stack(rows)), list(denoisers))
figure.savefig("local_scores.png")
