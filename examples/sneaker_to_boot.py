"""From a sneaker to a boot

Four paths from one sample of a network to another. A straight line between two pictures
leads through double exposures. A line between the *noises* that they began as stays
among pictures, since each point of it is sampled. The two lower paths are strings that
the network's score pulls to where it knows pictures (Moreau et al. 2026, arXiv
2602.22122). The minimum-energy path is pulled to the highest density. The likeliest
pictures have no detail: they look like cartoons. The principal curve runs through the
middle of the *noisy* pictures around it, and what is shown is sampled from around it.
"""

import matplotlib.pyplot as plt

from underpaint.figures.pictures import show
from underpaint.recipes.morph import MorphSettings, morph, prepare_ends
from underpaint.recipes.shared.request import Request

request = Request("fashion-mnist", steps=25, solver="dpmpp-2m")
settings = MorphSettings(points=9, levels=8, rounds=5, draws=4, probes=2)
ends = ("3@7", "8@9")  # seed 3 of class 7 and seed 8 of class 9
found = morph(prepare_ends(request, *ends), request, *ends, settings)

figure, axes = plt.subplots(figsize=(8, 3.9), layout="constrained")
show(axes, found.pictures, found.paths, [f"{k / 8:.2g}" for k in range(9)])
figure.savefig("sneaker_to_boot.png")

print(
    "the picture halfway: log density (nats a pixel, less that of the two ends), "
    "and what the network takes away:"
)
for name, density, residual in zip(
    found.paths, found.log_prob[:, 4], found.residual[:, 4], strict=True
):
    print(f"{name:15} {float(density):+.2f}  {float(residual):.3f}")
