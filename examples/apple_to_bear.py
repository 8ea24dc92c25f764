"""An apple becomes a teddy bear

The paper's figure 5 on the text-to-image model in the box: the images around one
sample. Across, the starting noise moves along the first principal component of the path
that the endpoint estimate took; down, the denoiser of one prompt is blended into that
of another, from an apple to a teddy bear. Every picture is a sample of its own. The
model is small, and its bears are soft: brown, with ears and a yellow bow. Below: moves
along single directions, a random one last; `underpaint map` draws the same, with more
numbers.
"""

import matplotlib.pyplot as plt

from underpaint.figures.pictures import show
from underpaint.recipes.map import MapSettings, map_around
from underpaint.recipes.shared.request import Request, prepare

MODEL = "emoji-scenes"

apple, bear = "a red apple on a blue background", "a teddy bear on a blue background"
request = Request(
    MODEL, (apple,), guidance=(1.5,), seeds=(14,), steps=16, solver="dpmpp-2m"
)
chart = MapSettings(along=("x0:1", "x0:2", "random"), span=0.4, points=5, toward=bear)
result = map_around(prepare(request), request, chart)

moves = [f"{float(offset):+.1f}" for offset in result.offset]
figure, (grid, strips) = plt.subplots(
    2, 1, figsize=(6, 9.4), layout="constrained", height_ratios=(5, 3)
)
show(grid, result.grid, ["apple", "", "half and half", "", "teddy bear"], moves)
show(strips, result.strips, result.directions, moves)
figure.savefig("apple_to_bear.png")

print("share of a small move of the finished sample that the denoiser keeps:")
for name, kept in zip(result.directions, result.measured.kept, strict=True):
    print(f"{name:7} {float(kept[0]):.2f}")
