"""Three regimes along the noise

Above: pairs of samples that share their state down to a level, and then go on
independently. How many end in one class? Middle: how many training images share the
exact posterior of a noised new image, for 100 images to all of them. Below: what the
exact score and the Gaussian of the data explain of the network, on its own states.
While nothing is decided the Gaussian says all, and a jump in closed form costs nothing.
Where the perplexity falls to 1, the exact score is one training image, and the network
no longer follows it.
"""

from underpaint.figures.regimes import along
from underpaint.recipes.regimes import Settings, regimes, tables

settings = Settings(seeds=tuple(range(16)), steps=24, levels=6, images=32, fine=16)
result = regimes(settings)
print(tables(result))
along(result).savefig("regimes.png")
