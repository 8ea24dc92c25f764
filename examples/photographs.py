"""Photographs, too, are painted outline first

The network `cifar10` paints animals and vehicles, and runs on EDM's noise levels. Left:
the image that it expects of a horse and a ship at each moment, and below each what two
Gaussians say of the same states, that of all photographs and that of the class.
Right: how much of the network's image each explains about the mean of all data, over 8
seeds of each class. At high noise the class is all that matters: its Gaussian explains
more than that of everything. About σ/α = 2 shapes appear that no Gaussian has, and even
there one explains most of the network.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.agreement import along, explained_variance
from underpaint.figures.pictures import show

MODEL = "cifar10"
model, everything = up.load_model(MODEL), up.load_gaussian(MODEL)
level = model.schedule.grid(steps=24)
x = up.initial_noise(range(8), model.dimension, level[0])
shown = list(range(0, 24, 3))
ratios = [f"{float(level.ratio[i]):.2g}" for i in shown]

figure = plt.figure(figsize=(9.5, 4.2), layout="constrained")
left, curves = figure.subfigures(1, 2, width_ratios=(1.35, 1))
panels, axes = left.subplots(2, 1), curves.subplots()
classes = {7: "horse", 8: "ship"}
for panel, (label, name) in zip(panels, classes.items(), strict=True):
    run = up.sample(model.conditional(label), x, level, up.dpmpp_2m)
    painters = {"all": everything, f"{name}s": up.load_gaussian(MODEL, label)}
    seen = {who: along(run, gaussian) for who, gaussian in painters.items()}
    films = [images[shown, 2] for images in (run.denoised, *seen.values())]
    show(
        panel,
        model.images(torch.stack(films).float()),
        ["network", *(f"Gaussian, {who}" for who in painters)],
        ratios if label == 7 else (),
    )
    for who, images in seen.items():
        explained = explained_variance(run.denoised, images, everything.mean)
        style = "--" if who == "all" else "-"
        axes.plot(level.ratio[:-1], explained, style, label=f"{name}: Gaussian, {who}")
        high = float(explained[level.ratio[:-1] >= 10].mean())
        print(f"{name:5} Gaussian of {who:6} explains {high:.2f} at σ/α of 10 and more")
axes.set(
    xscale="log", xlabel="σ/α  (sampling runs →)", title="explained", ylim=(-0.1, 1.03)
)
axes.invert_xaxis()
axes.legend()
figure.savefig("photographs.png")
