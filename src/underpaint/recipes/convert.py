"""NVIDIA's EDM checkpoints as safetensors, once and for all."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_tensors
from ..models.networks.edm import architecture, filled_edm, sigma_range
from ..models.user_function import HOW_TO_WRAP
from ..pickles import read_network, read_state_dict


def convert(source: str | Path, out: str | Path, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the averaged network ("ema") of an EDM snapshot as one safetensors file that `load_model` reads.

    The pickle is read without running anything in it; the file is written whole or not at all. Needs a little over
    twice the source's size in memory.

    Args:
        source: a ``network-snapshot-*.pkl``; or, with ``config``, a file of ``torch.save(network.state_dict())``.
        out: a path that ends in ``.safetensors``.
        config: for a state dict, which does not say what it belongs to: the keywords that `build_edm` takes.

    Returns:
        What was converted, in two sentences, and: architecture, preconditioning, number of parameters, image shape,
        number of classes, range of sigma, SHA-256 of the source, and both paths.

    Raises:
        ValueError: a damaged, foreign or hostile source, a network of an unknown form, or another ending of ``out``.
    """
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"The converted network is a safetensors file; got {out}, expected a name.safetensors.")
    if config is None and zipfile.is_zipfile(source):
        raise ValueError(
            f"{source} is whole, and a file of torch.save, not one of NVIDIA's snapshots: weights alone do not say "
            f"what network they belong to. {HOW_TO_WRAP}"
        )
    if config is None:
        saved = read_network(source)
        config, tensors = {"class_name": saved.class_name, **saved.arguments}, saved.tensors
    else:
        tensors = read_state_dict(source)
    config = {name: value for name, value in config.items() if value not in (math.inf, -math.inf)}  # not in JSON
    tensors.pop("u", None)  # the noise levels of iDDPMPrecond, which its scaling knows
    network = filled_edm(config, tensors, source)
    low, high = sigma_range(network.scaling)
    summary = {
        "architecture": architecture(config),
        "preconditioning": config["class_name"],
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "shape": [config["img_channels"], config["img_resolution"], config["img_resolution"]],
        "classes": network.label_dim,
        "sigma_min": low,
        "sigma_max": high,
        "sha256": _sha256(Path(source)),
    }
    metadata = {"format": "edm", "version": 1, "source": Path(source).name, **summary, "config": config}
    write_tensors(out, network.state_dict(), metadata)
    said = (
        f"{source} is a {summary['architecture']} network of {summary['parameters']:,} parameters, for states of "
        f"{' x '.join(map(str, summary['shape']))} and sigma from {low:.3g} to {high:.3g}. {out} holds the same "
        "weights."
    )
    return {"finding": said, **summary, "source": str(source), "out": str(out)}


def _sha256(path: Path) -> str:
    """Of a file, in pieces of 1 MB."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while piece := opened.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
