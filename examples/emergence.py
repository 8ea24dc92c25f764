"""When each component appears

The principal components of the data are painted in the order of their variance λ.
Theory: half of a component's variance stands in the endpoint estimate when σ/α passes
√λ. Measured here on the network in the box, over 32 seeds. The order is as predicted;
the moment comes earlier, since these images are not Gaussian, and settling what an
object is settles many components at once.
"""

import matplotlib.pyplot as plt

import underpaint as up
from underpaint.analysis.emergence import feature_shares, half_ratio, rank_correlation
from underpaint.figures.pictures import show
from underpaint.figures.style import MODES

model, gaussian = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
level = model.schedule.grid(steps=24)
run = up.sample(
    model, up.initial_noise(range(32), model.dimension, level[0]), level, up.euler
)

count, chosen = 40, [0, 1, 4, 9, 19, 39]
noisy, variances = level[:-1], gaussian.eigenvalues[:count]
shares = feature_shares(run.denoised, gaussian, count)
half, predicted = half_ratio(shares, noisy), up.modes.emergence_ratio(variances)

figure = plt.figure(figsize=(9, 5.2), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(1, 2.6))
directions = gaussian.basis[:, chosen].T
names = [f"u{k + 1}, λ = {float(variances[k]):.2g}" for k in chosen]
show(
    above.subplots(),
    model.images(directions / directions.abs().amax(1, keepdim=True))[None],
    (),
    names,
)
curves, halves = below.subplots(1, 2)
for i, k in enumerate(chosen):
    curves.plot(noisy.ratio, shares[:, k], color=MODES[i], label=f"u{k + 1}")
    curves.plot(
        noisy.ratio,
        up.modes.emergence(variances, noisy)[:, k] ** 2,
        "--",
        color=MODES[i],
        linewidth=1,
    )
curves.set(
    xscale="log",
    xlabel="σ/α  (sampling runs →)",
    title="share of its variance that stands (dashed: theory)",
)
curves.invert_xaxis()
curves.legend()
halves.loglog(predicted, half, "o", markersize=4, color="#22223b")
halves.loglog(predicted, predicted, color="#c1542c", label="theory")
halves.set(title="half of it stands at", xlabel="√λ", ylabel="measured σ/α")
halves.legend()
figure.savefig("emergence.png")

order = rank_correlation(half, predicted)
print(f"rank correlation of measured and predicted order: {order:.2f}")
middle = float((half / predicted).nanmedian())
print(f"median of measured over predicted σ/α: {middle:.2f}")
