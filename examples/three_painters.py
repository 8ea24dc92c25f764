"""The network beside three closed forms

The same starting noise, painted by the network in the box and by three denoisers that
are closed forms of its data: one Gaussian, one Gaussian a class, and the exact score of
the images. Read the columns: at first all four say the same. The curves say how much of
the network's denoised image each explains on the network's own states, about the data's
mean.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.agreement import along, explained_variance
from underpaint.figures.pictures import show
from underpaint.figures.style import COLOURS

model, gaussian = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
data = up.load_data("fashion-mnist")
rows, labels = data.rows(slice(0, 10_000)), data.labels[:10_000]
closed = {
    "Gaussian": gaussian,
    "mixture": up.Mixture.fit(rows, labels, rank=200),
    "exact": up.PointCloud(rows),
}

level = model.schedule.grid(steps=20)
x = up.initial_noise(range(16), model.dimension, level[0])
run = up.sample(model, x, level, up.euler)

shown = [*range(0, 20, 2), 19]
films = {"network": run} | {
    name: up.sample(denoise, x[:1], level, up.euler) for name, denoise in closed.items()
}
strips = torch.stack([film.denoised[shown, 0] for film in films.values()])
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6.4), layout="constrained")
show(
    above,
    model.images(strips),
    list(films),
    [f"{float(level.ratio[i]):.3g}" for i in shown],
    COLOURS,
)
for name, denoise in closed.items():
    explained = explained_variance(run.denoised, along(run, denoise), gaussian.mean)
    below.plot(level.ratio[:-1], explained, color=COLOURS[name], label=name)
    print(
        f"{name:9} explains "
        + ", ".join(
            f"{float(explained[i]):.2f} at {float(level.ratio[i]):.3g}"
            for i in shown[1::3]
        )
    )
below.set(
    xscale="log",
    ylim=(0, 1.02),
    xlabel="σ/α  (sampling runs →)",
    title="explained variance about the mean",
)
below.invert_xaxis()
below.legend()
figure.savefig("three_painters.png")
