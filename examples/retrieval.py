"""Generation, and retrieval

The exact score of a data set is the minimiser of the training loss, and its samples are
training images. Here it is sampled on the 10,000 images in the box, beside the network
that was trained on them and others like them. Under each row stand the nearest of the
10,000.
"""

import matplotlib.pyplot as plt
import torch

import underpaint as up
from underpaint.analysis.retrieval import nearest
from underpaint.figures.pictures import show

model = up.load_model("fashion-mnist")
points = up.load_data("fashion-mnist").rows(slice(0, 10_000))
level = model.schedule.grid(steps=20)
x = up.initial_noise(range(8), model.dimension, level[0])

rows = []
for name, denoise in {"network": model, "exact score": up.PointCloud(points)}.items():
    final = up.sample(denoise, x, level, up.dpmpp_2m).final
    distance, index = nearest(points, final)
    rows += [final, points[index[:, 0]]]
    apart = float((distance / 28).mean())
    print(
        f"{name:12} root mean square distance of a pixel to the nearest image: "
        f"{apart:.4f}"
    )

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
show(
    axes,
    model.images(torch.stack(rows)),
    ["network", "nearest", "exact score", "nearest"],
)
figure.savefig("retrieval.png")
