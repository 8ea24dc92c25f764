"""Snapshots in the structure that NVIDIA's EDM code pickles, written by stand-ins for its modules."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("the file was run")


class EasyDict(dict[str, Any]):
    """A dict whose items are attributes as well."""


class Persistent:
    """An object of a class that NVIDIA's code pickles together with its source."""

    def __init__(self, class_name: str, state: dict[str, Any], source: str = "raise SystemExit('source was run')"):
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


@contextmanager
def nvidia_modules() -> Iterator[None]:
    """Modules by the names under which NVIDIA's pickles look for their functions."""
    modules = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
    for thing, home in ((_reconstruct_persistent_obj, "torch_utils.persistence"), (EasyDict, "dnnlib.util")):
        thing.__module__ = home
        setattr(modules[home], thing.__name__, thing)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def persistent(module: nn.Module, class_name: str | None = None, **attributes: Any) -> Any:
    """A module as NVIDIA's code would pickle it; a torch container stays one, an absent shortcut is None."""
    children = {
        name: None if isinstance(child, nn.Identity) else persistent(child)
        for name, child in module._modules.items()
        if child is not None
    }
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container._modules.update(children)
        return container
    state = {**nn.Module().__dict__, "_parameters": module._parameters, "_buffers": module._buffers}
    state |= {"_modules": children, "skip_scale": np.sqrt(0.5), "num_heads": 1, **attributes}
    return Persistent(class_name or type(module).__name__, state)


def snapshot(network: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """What NVIDIA's training loop writes: the averaged network beside its loss, augmentation and data."""
    keywords = {name: value for name, value in config.items() if name != "class_name"}
    return {
        "ema": persistent(network, config["class_name"], _init_args=(), _init_kwargs=keywords),
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": np.float64(0.5)}),
        "augment_pipe": Persistent("AugmentPipe", {"p": 0.12, "brightness_std": 0.2}),
        "dataset_kwargs": EasyDict(path="cifar10-32x32.zip", use_labels=False),
    }


def write_pickle(path: Path, content: Any, protocol: int = 4) -> Path:
    with nvidia_modules():
        path.write_bytes(pickle.dumps(content, protocol))
    return path


#: Keywords of small networks of every published form; 24 and 12 pixels are no powers of two.
SMALL = {"img_channels": 3, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
SONG = {**SMALL, "img_resolution": 24, "attn_resolutions": [12], "model_type": "SongUNet"}
CONFIGS: dict[str, dict[str, Any]] = {
    "DDPM++": {"class_name": "EDMPrecond", **SONG, "augment_dim": 9, "sigma_min": 0, "sigma_max": float("inf")},
    "DDPM++ conditional": {"class_name": "EDMPrecond", **SONG, "label_dim": 5, "label_dropout": 0.1, "use_fp16": True},
    "NCSN++": {
        "class_name": "EDMPrecond", **SONG, "channel_mult": [1, 2, 2], "embedding_type": "fourier",
        "encoder_type": "residual", "decoder_type": "standard", "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    },
    "ADM": {
        "class_name": "EDMPrecond", **SMALL, "img_resolution": 12, "model_channels": 32, "channel_mult": [1, 2],
        "attn_resolutions": [6], "label_dim": 5, "model_type": "DhariwalUNet",
    },
    "VP": {"class_name": "VPPrecond", **SONG},
    "VE": {"class_name": "VEPrecond", **SONG},
    "iDDPM": {
        "class_name": "iDDPMPrecond", **SMALL, "img_resolution": 12, "attn_resolutions": [],
        "model_type": "DhariwalUNet",
    },
}  # fmt: skip


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random numbers of a seed in place of its initial ones, of which many are zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
        numbers = torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * scale
        weight.data = numbers + (1 if "norm" in name and name.endswith("weight") else 0)
    for name, buffer in network.named_buffers():
        if name.endswith("freqs"):
            buffer.copy_(16 * torch.randn(buffer.shape, generator=generator))
    return network.eval().requires_grad_(False)
