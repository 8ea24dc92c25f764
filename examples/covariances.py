"""Five kinds of covariance

One formula for all of them: Σ = U diag(λ) Uᵀ + ρ (I − UUᵀ). Full, of low rank with a
residual variance, diagonal in a cosine transform ("stationary"), and isotropic. Left:
what the Gaussian with each of them makes of the same noise. Right: how much of the full
one's denoised image each explains, level by level. Clothes stand upright in the middle
of their pictures, so that a stationary covariance, which knows of no place, is a poor
likeness of theirs. Details look alike everywhere, even in them: where the covariance of
the low frequencies is kept whole and the others are taken for stationary, it is nearly
as good as the full one, with a fifteenth of its numbers.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.agreement import along, explained_variance
from underpaint.figures.pictures import show
from underpaint.theory.sums import Stationary, Sums

model, full = up.load_model("fashion-mnist"), up.load_gaussian("fashion-mnist")
rows = up.load_data("fashion-mnist").rows(slice(0, 10_000))


def fit(sketch: Stationary) -> up.Gaussian:
    """The Gaussian with what the sketch keeps of the covariance."""
    sums = Sums(sketch, full.mean)
    sums.add(rows)
    return up.Gaussian(full.mean, sums.covariance())


total = float(full.eigenvalues.sum())
kinds = {
    "full": full,
    "rank 64": full.truncate(64),
    "rank 8": full.truncate(8),
    "stationary": fit(Stationary(model.shape)),
    "low frequencies whole": fit(Stationary.usual(model.shape)),
    "isotropic": up.Gaussian.isotropic(full.mean, total / full.dimension),
}
level = model.schedule.grid(steps=30)
x = up.initial_noise(range(8), model.dimension, level[0])
run = up.sample(full, x, level, up.gaussian_exponential(full))

figure, (pictures, curves) = plt.subplots(
    1, 2, figsize=(9.5, 3.8), layout="constrained", width_ratios=(1.1, 1)
)
ends = torch.stack(
    [gaussian.flow(x, level[0], level[-1])[:6] for gaussian in kinds.values()]
)
show(pictures, model.images(ends), list(kinds))
for name, gaussian in list(kinds.items())[1:]:
    explained = explained_variance(run.denoised, along(run, gaussian), full.mean)
    curves.plot(level.ratio[:-1], explained, label=name)
    print(
        f"{name:21} explains {float(explained.mean()):.3f} of the full one's image, "
        "mean over levels"
    )
curves.set(
    xscale="log",
    xlabel="σ/α  (sampling runs →)",
    title="explained variance",
    ylim=(-0.1, 1.03),
)
curves.invert_xaxis()
curves.legend()
figure.savefig("covariances.png")
