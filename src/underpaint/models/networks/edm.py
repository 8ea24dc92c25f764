"""Networks of Karras22 as denoisers: the preconditionings of its Table 1 around the U-Nets of `edm_networks`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...bounds import shown
from ...files import read_tensor_metadata, read_tensors
from ...noise import DDPM, EDM
from ...schedules import VPSDE
from ..model import Model
from .edm_networks import DhariwalUNet, SongUNet

#: c_skip, c_out, c_in and c_noise at given sigmas.
Coefficients = tuple[Tensor | float, Tensor | float, Tensor | float, Tensor]


class Scaling(Protocol):
    """The coefficients of one column of Karras22 Table 1, and the sigmas that its networks were trained on."""

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients of the shape of sigma."""


@dataclass(frozen=True)
class EDMScaling:
    """Unit variance of input and target at every sigma, for data of standard deviation ``sigma_data``. Source: Karras22
    Table 1, "Ours".

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> c_skip, c_out, c_in, c_noise = up.EDMScaling(sigma_data=0.5)(torch.tensor(0.5))
        >>> c_skip.round(decimals=4), c_out.round(decimals=4)
        (tensor(0.5000), tensor(0.3536))
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Coefficients:
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        return (self.sigma_data / norm) ** 2, sigma * self.sigma_data / norm, 1 / norm, sigma.log() / 4


@dataclass(frozen=True)
class VPScaling:
    """A network that predicts eps from variance-preserving states, told ``M`` - 1 times the continuous time t, where
    1 + sigma^2 = exp(beta_d t^2 / 2 + beta_min t). Source: Karras22 Table 1, "VP"."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    M: int = 1000
    epsilon_t: float = 1e-5

    @property
    def _sde(self) -> VPSDE:
        return VPSDE(self.beta_min, self.beta_min + self.beta_d, self.epsilon_t)

    @property
    def sigma_min(self) -> float:
        return float(self._sde(self.epsilon_t).ratio)

    @property
    def sigma_max(self) -> float:
        return float(self._sde(1.0).ratio)

    def __call__(self, sigma: Tensor) -> Coefficients:
        t = self._sde.time(EDM()(sigma)).to(sigma)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * t


@dataclass(frozen=True)
class VEScaling:
    """A network that predicts -eps from variance-exploding states. Source: Karras22 Table 1, "VE"."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def __call__(self, sigma: Tensor) -> Coefficients:
        return 1.0, sigma, 1.0, (sigma / 2).log()


@dataclass(frozen=True)
class IDDPMScaling:
    """A network that predicts eps from states of the cosine schedule in ``M`` steps, between them as `DDPM` does.
    Source: Karras22 Table 1, "iDDPM + DDIM"; C_1 and C_2 are the constants of that schedule."""

    C_1: float = 0.001
    C_2: float = 0.008
    M: int = 1000

    def __post_init__(self) -> None:
        if (self.C_1, self.C_2) != (0.001, 0.008):
            raise ValueError(f"The cosine schedule is known with C_1 0.001 and C_2 0.008, got {self.C_1}, {self.C_2}.")

    @property
    def sigma_min(self) -> float:
        return float(DDPM("cosine", self.M)(0.0).ratio)

    @property
    def sigma_max(self) -> float:
        return float(DDPM("cosine", self.M)(self.M - 1.0).ratio)

    def __call__(self, sigma: Tensor) -> Coefficients:
        step = DDPM("cosine", self.M).time(EDM()(sigma)).to(sigma)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), step


#: NVIDIA's class -> coefficients, usual network
SCALINGS: dict[str, tuple[type[Any], str]] = {
    "EDMPrecond": (EDMScaling, "DhariwalUNet"),
    "VPPrecond": (VPScaling, "SongUNet"),
    "VEPrecond": (VEScaling, "SongUNet"),
    "iDDPMPrecond": (IDDPMScaling, "DhariwalUNet"),
}
NETWORKS: dict[str, type[torch.nn.Module]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Preconditioned(torch.nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise): a network whose time is sigma and whose output is E[x0 | x].

    F runs in the precision of its weights, the rest in float32 at least. Source: Karras22 eq. 7; the networks of Karras
    et al. 2024 (EDM2) have the coefficients of `EDMScaling`, too. `wrap` takes it with an `EDM` schedule and prediction
    "x0".

    Args:
        model: F, called with states [B, ...] and c_noise [B]; with one-hot labels [B, label_dim], if it takes labels;
            and with ``augment_labels``, if they are given.
        label_dim: number of classes, 0 if it takes no labels.
        label_dropout: whether it was trained to take a label of zeros as "any class"; that is label ``label_dim`` here.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> class Network(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.gain = torch.nn.Parameter(torch.zeros(1))
        ...     def forward(self, x, c_noise):
        ...         return self.gain * x
        ...
        >>> denoiser = up.Preconditioned(Network(), up.EDMScaling(sigma_data=0.5))
        >>> model = up.wrap(denoiser, (3, 8, 8), up.EDM(), "x0")
        >>> model(torch.ones(1, model.dimension), up.EDM()(0.5)).unique()
        tensor([0.5000])
    """

    def __init__(
        self,
        model: torch.nn.Module,
        scaling: Scaling | None = None,
        label_dim: int = 0,
        label_dropout: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.scaling = model, EDMScaling() if scaling is None else scaling
        self.label_dim, self.label_dropout = label_dim, label_dropout

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Denoised states for x [B, ...], sigma [B] and class labels [B].

        Raises:
            ValueError: no labels for a network that knows no "any class".
        """
        precise = torch.promote_types(x.dtype, torch.float32)
        inner = next((weight.dtype for weight in self.model.parameters()), precise)
        sigma = sigma.to(precise).reshape(-1, *[1] * (x.ndim - 1))
        c_skip, c_out, c_in, c_noise = self.scaling(sigma)
        one_hot = [self._one_hot(labels, x)] if self.label_dim else []
        given = {} if augment_labels is None else {"augment_labels": augment_labels}
        output = self.model((c_in * x).to(inner), c_noise.flatten(), *one_hot, **given)
        # a learned variance follows the mean; the probability flow does not need it
        return c_skip * x + c_out * output[:, : x.shape[1]].to(precise)

    def _one_hot(self, labels: Tensor | None, x: Tensor) -> Tensor:
        if labels is None:
            if not self.label_dropout:
                raise ValueError(
                    f"This network knows {self.label_dim} class labels and none for 'any class'; give it labels."
                )
            labels = torch.full((len(x),), self.label_dim, device=x.device)
        return one_hot(labels, self.label_dim + 1)[:, :-1].to(x.dtype)


def build_edm(config: Mapping[str, Any]) -> Preconditioned:
    """An untrained network from the keywords that NVIDIA's code makes it with: ``class_name`` (a key of `SCALINGS`),
    ``img_resolution``, ``img_channels``, ``label_dim``, ``model_type`` and those of the scaling and the U-Net.

    Raises:
        ValueError: an unknown class, or a keyword or value that its parts do not take.
    """
    rest = dict(config)
    name = str(rest.pop("class_name", None))
    if name not in SCALINGS:
        raise ValueError(f"The network is of class {name}; handled are {', '.join(SCALINGS)}.")
    make, usual = SCALINGS[name]
    kind = str(rest.pop("model_type", usual))
    if kind not in NETWORKS:
        raise ValueError(f"The network's model_type is {kind}; handled are {', '.join(NETWORKS)}.")
    rest.pop("use_fp16", None)  # how it was trained; the precision used here is that of the weights
    try:
        if not 0 < rest.get("num_blocks", 1) <= 64:
            raise ValueError(f"A network of 1 to 64 blocks a level can be built, got num_blocks {rest['num_blocks']}.")
        scaling = make(**{field.name: rest.pop(field.name) for field in fields(make) if field.name in rest})
        channels, labels = rest.pop("img_channels"), rest.get("label_dim", 0)
        out = 2 * channels if make is IDDPMScaling else channels
        model = NETWORKS[kind](in_channels=channels, out_channels=out, **rest)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"No {kind} can be built from {shown(dict(config), 300)}: a part is missing, unknown, or of another type."
        ) from error
    return Preconditioned(model, scaling, labels, bool(rest.get("label_dropout", 0)))


def filled_edm(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str | Path) -> Preconditioned:
    """The network of a config with given weights in float32, ready for evaluation.

    Raises:
        ValueError: no such network, or weights of other names or shapes; ``source`` names their file.
    """
    with torch.device("meta"):  # neither memory nor time for weights that are replaced at once
        network = build_edm(config)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit the network that it describes: {str(error).splitlines()[-1].strip()[:200]}"
        ) from error
    return network.eval().requires_grad_(False)


def architecture(config: Mapping[str, Any]) -> str:
    """What the literature calls the U-Net of a config."""
    if config.get("model_type", SCALINGS[config["class_name"]][1]) == "DhariwalUNet":
        return "ADM"
    return "NCSN++" if config.get("encoder_type") == "residual" else "DDPM++"


def sigma_range(scaling: Scaling) -> tuple[float, float]:
    """The sigmas that a network is used on: those it was trained on, within the 0.002 to 80 on which Karras22 samples
    with all of them."""
    return max(scaling.sigma_min, EDM().sigma_min), min(scaling.sigma_max, EDM().sigma_max)


def load_edm(path: str | Path) -> Model:
    """Load a network that `underpaint convert` has written: a safetensors file, or a folder that holds just one.

    The schedule is EDM's, its time sigma. A class-conditional network has a null class only if it was trained with
    ``label_dropout``; without one it is used through ``model.conditional(label)``.

    Raises:
        ValueError: no such file, or one that is not complete or not a converted EDM network.
    """
    file = _weights(Path(path))
    metadata = read_tensor_metadata(file)
    if metadata.get("format") != "edm":
        raise ValueError(f"{file} is not an EDM network written by `underpaint convert`.")
    config = metadata["config"]
    network = filled_edm(config, read_tensors(file), file)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on a CPU
    size, channels = config["img_resolution"], config["img_channels"]
    width = network.model.get_parameter(f"enc.{size}x{size}_conv.weight").shape[0]
    return Model(
        network=network,
        schedule=EDM(*sigma_range(network.scaling)),
        prediction="x0",
        shape=(channels, size, size),
        name=Path(path).stem,
        classes=network.label_dim,
        null_class=network.label_dim if network.label_dim and network.label_dropout else None,
        batch=max(1, min(256, 2**25 // (width * size**2))),  # 128 MB for the features of the finest level
        notes=metadata,
    )


def _weights(path: Path) -> Path:
    if path.suffix in {".pkl", ".pt", ".pth"}:
        raise ValueError(
            f"{path} is a pickle, which is never opened as such; turn it into safetensors once, with `underpaint "
            f"convert {path} --out {path.with_suffix('.safetensors').name}`."
        )
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(f"{path} holds {len(files)} safetensors files; name the one to load.")
    return files[0]
