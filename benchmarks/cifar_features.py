"""Features of CIFAR-10 for Fréchet distances: the 64 that a ResNet-56 pools, few enough for some thousand samples.

    CIFAR_RESNET=resnet56.safetensors underpaint bench --features benchmarks.cifar_features:resnet56 ...

The network is that of He et al. 2015 for CIFAR-10 with shortcuts free of parameters; the weights are those of
github.com/akamaster/pytorch_resnet_cifar10 (BSD 2-clause) as a safetensors file, which the variable names.
"""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, pad, relu

from underpaint.files import read_tensors

#: What its training data were normalised by.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BLOCKS = 9


def resnet56(images: Tensor) -> Tensor:
    """Features [B, 64] of images [B, 3, 32, 32] in [-1, 1]."""
    mean, deviation = (images.new_tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
    x = relu(_normalised(conv2d(((images + 1) / 2 - mean) / deviation, _weights()["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(_BLOCKS):
            x = _block(x, f"layer{stage}.{block}", stride=2 if stage > 1 and not block else 1)
    return x.mean((2, 3))


def _block(x: Tensor, name: str, stride: int) -> Tensor:
    weights = _weights()
    y = relu(_normalised(conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
    y = _normalised(conv2d(y, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
    if stride > 1:  # every other pixel, and as many channels of zeros on either side as the new ones need
        more = (y.shape[1] - x.shape[1]) // 2
        x = pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more, more))
    return relu(x + y)


def _normalised(x: Tensor, name: str) -> Tensor:
    weights = _weights()
    statistics = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return batch_norm(x, *statistics)


@cache
def _weights() -> dict[str, Tensor]:
    if "CIFAR_RESNET" not in os.environ:
        raise ValueError("Set CIFAR_RESNET to the safetensors file of the ResNet-56.")
    return {name: value.to(torch.float32) for name, value in read_tensors(os.environ["CIFAR_RESNET"]).items()}
