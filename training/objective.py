"""What denoisers of images are trained on: which noise levels, what errors are measured by, what is aimed at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from underpaint.noise import NoiseLevel
from underpaint.theory.cloud import PointCloud

#: sigma/alpha in the middle of the lognormal part, for data of standard deviation .6, and its spread in the logarithm.
CENTRE, SPREAD = 0.45, 1.2
#: The share of levels that are drawn evenly in log sigma/alpha, and above which.
HIGH_SHARE, HIGH = 0.15, 2.0


@dataclass(frozen=True, eq=False)
class Levels:
    """N levels in order, the probability of each, and the scale [N] of square errors of the denoised image there."""

    level: NoiseLevel
    probability: Tensor
    scale: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices [count] on the generator's device, in order: one of each of ``count`` parts of equal probability."""
        device = generator.device
        part = torch.arange(count, device=device) + torch.rand(count, generator=generator, device=device)
        chosen = torch.searchsorted(self.probability.cumsum(0).to(part), part / count)
        return chosen.clamp(max=len(self.level) - 1)


def gain(spectrum: Tensor, ratio: Tensor) -> Tensor:
    """How fast the denoised image comes forth: -1/2 d/d log s of the variance of E[x0 | x] per dimension, [N].

    For Gaussian data with eigenvalues l it is sum_k l_k^2 s^2 / (l_k + s^2)^2 / D, with s = sigma/alpha. At low noise
    that is of the order of the error of the best denoiser, at high noise of all that there is to know about the image,
    where errors of eps or v see almost nothing but the noise. Source: derivative of WV23's Gaussian denoiser.
    """
    square = ratio.double().square()[:, None]
    return (spectrum.double().square() * square / (spectrum + square).square()).mean(1)


def training_levels(level: NoiseLevel, spectrum: Tensor) -> Levels:
    """Levels in order of rising noise: most drawn lognormal in sigma/alpha (Karras22), a share evenly at high noise.

    Square errors are to be divided by `gain`, so that no level starves.
    """
    log = level.log_ratio
    width = torch.gradient(log)[0]
    normal = (-0.5 * ((log - torch.tensor(CENTRE).log()) / SPREAD) ** 2).exp() * width
    even = width * (level.ratio > HIGH)
    probability = (1 - HIGH_SHARE) * normal / normal.sum() + HIGH_SHARE * even / even.sum()
    return Levels(level, probability, gain(spectrum, level.ratio))


class Targets:
    """What the denoised image should be: E[x0 | x] over the training images where it can differ from the image itself.

    Its regression has the same solution as that on the image and none of the image's variance, which at high noise is
    nearly all of the loss. Source: Xu, Tong & Jaakkola 2023, "Stable Target Field" (arXiv 2302.00670), with the
    complete data for a reference batch.

    Args:
        rows: the training images [N, D], as a `PointCloud` takes them.
        labels: theirs, [N].
        null: the label that stands for any class.
        least: sigma/alpha up to which the image itself is the target.
    """

    def __init__(self, rows: Tensor, labels: Tensor, null: int, least: float = HIGH) -> None:
        self.least = least
        self.clouds = {label: PointCloud.of_class(rows, labels, label) for label in labels.unique().tolist()}
        self.clouds[null] = PointCloud(rows)

    @torch.no_grad()
    def __call__(self, clean: Tensor, noisy: Tensor, level: NoiseLevel, labels: Tensor) -> Tensor:
        """Targets [B, D] for images [B, D], their states at one level each, and the labels [B] the network is told."""
        target, high = clean.clone(), (level.ratio > self.least).to(labels.device)
        for label in labels[high].unique().tolist():
            chosen = (high & (labels == label)).nonzero().squeeze(1)
            target[chosen] = self.clouds[label].denoise(noisy[chosen], level[chosen.cpu()])
        return target


def relative_error(denoised: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Mean over the batch of square errors of rows [B, D] per dimension, each over its own scale [B]."""
    return ((denoised.float() - target).square().mean(1) / scale.to(denoised.device, torch.float32)).mean()
