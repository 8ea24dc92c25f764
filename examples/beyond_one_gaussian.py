"""Beyond one Gaussian

Points on three arcs in the plane, and the probability flow from the same starting noise
under three closed forms of them: their Gaussian, which ends anywhere in an ellipse; a
mixture of six Gaussians, two for each arc, which decides for a component and ends near
it; and the exact score of the points, which ends on points. They begin alike.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up

generator = torch.Generator().manual_seed(0)
part = torch.randint(0, 6, (900,), generator=generator)
angle = (
    part + torch.rand(900, generator=generator, dtype=torch.float64)
) * torch.pi / 3 * 0.75 + (part // 2) * 0.55
radius = 1.0 + 0.06 * torch.randn(900, generator=generator, dtype=torch.float64)
points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

denoisers = {
    "one Gaussian": up.Gaussian.fit(points, dtype=torch.float64),
    "six Gaussians": up.Mixture.fit(points, part, dtype=torch.float64),
    "the points": up.PointCloud(points),
}
level = up.EDM(sigma_min=0.005, sigma_max=3.0).grid(60)
x = up.initial_noise(range(24), 2, level[0], dtype=torch.float64)
figure, panels = plt.subplots(
    1, 3, figsize=(9.5, 3.3), layout="constrained", sharex=True, sharey=True
)
for panel, (name, denoise) in zip(panels, denoisers.items(), strict=True):
    run = up.sample(denoise, x, level)
    panel.plot(*points.T, ".", color="#d8cfc0", markersize=2)
    panel.plot(*run.x.permute(2, 0, 1), color="#22223b", linewidth=0.6)
    panel.plot(*run.final.T, "o", color="#c1542c", markersize=3)
    panel.set(title=name, aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    distance = (run.final.unsqueeze(1) - points).norm(dim=2).amin(1)
    print(
        f"{name:14} mean distance of the ends to the nearest point: "
        f"{float(distance.mean()):.4f}"
    )
figure.savefig("beyond_one_gaussian.png")
