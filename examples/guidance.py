"""Guidance is a move of the mean

Classifier-free guidance mixes two denoisers, D_u + w (D_c − D_u). If both are Gaussians
that share a covariance, so is the result, with its mean at μ_u + w (μ_c − μ_u): on the
line from the mean of all data through that of the class, and for w > 1 beyond it.
Above: that Gaussian's sample from one starting noise. Below: the network in the box,
guided with the same weights from the same noise.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.figures.pictures import show

model, data = up.load_model("fashion-mnist"), up.load_data("fashion-mnist")
rows, labels = data.rows(slice(0, 10_000)), data.labels[:10_000]
means = torch.stack([rows[labels == c].mean(0) for c in range(10)])
within = up.Moments.of(rows - means[labels])
shared = up.Covariance.of(within.covariance)
everything = up.Gaussian(rows.mean(0), shared)

level = model.schedule.grid(steps=12)
x = up.initial_noise([1], model.dimension, level[0])
weights, classes = (1.0, 2.0, 4.0, 8.0), (1, 8)
figure, panels = plt.subplots(1, len(classes), figsize=(9, 3), layout="constrained")
for panel, label in zip(panels, classes, strict=True):
    theory, network = [], []
    for w in weights:
        guided = up.guided_gaussian(everything, up.Gaussian(means[label], shared), w)
        theory.append(guided.flow(x, level[0], level[-1])[0])
        network.append(
            up.sample(
                model.conditional(label, guidance=w), x, level, up.dpmpp_2m
            ).final[0]
        )
    images = model.images(torch.stack([torch.stack(theory), torch.stack(network)]))
    show(panel, images, ["Gaussian", "network"], [f"w = {w:g}" for w in weights])
    panel.set_title(data.classes[label], pad=16)
figure.savefig("guidance.png")
