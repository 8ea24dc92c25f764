"""One denoiser, every schedule

Families of diffusion models differ in how they run through the pairs (α, σ). A denoiser
that is asked about a noise *level*, not about a time, works with all of them: the
network in the box was trained on the DDPM family and is sampled here along the levels
of three families that have the same noise-to-signal ratios. The images are the same to
rounding.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.figures.pictures import show
from underpaint.noise import spaced_ratios

model = up.load_model("fashion-mnist")
families = {"DDPM": up.DDPM(), "EDM": up.EDM(), "flow matching": up.Flow()}
ratios = spaced_ratios(16, high=100.0, low=0.02)

finals = {}
for name, family in families.items():
    level = up.NoiseLevel.join(family.level(ratios), up.NoiseLevel.clean())
    x = up.initial_noise([2, 5, 7], model.dimension, level[0])
    finals[name] = up.sample(model, x, level, up.dpmpp_2m).final

figure, (plane, samples) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
for name, family in families.items():
    level = family.level(spaced_ratios(200, high=100.0, low=0.02))
    plane.plot(level.alpha, level.sigma, label=name)
plane.set(
    xlabel="α",
    ylabel="σ",
    ylim=(-0.03, 1.4),
    title="the levels that each family runs through",
)
plane.legend()
show(samples, model.images(torch.stack(list(finals.values()))), list(finals))
samples.set_title("one network, sampled along each")
figure.savefig("schedules.png")

for name in ("EDM", "flow matching"):
    apart = float((finals[name] - finals["DDPM"]).abs().max())
    print(f"largest difference of a pixel, DDPM against {name}: {apart:.1e}")
