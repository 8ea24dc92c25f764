"""What is here and what is missing: versions, devices, extras, data and caches."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import assets

CORE = ("torch", "diffusers", "safetensors", "numpy", "matplotlib", "scikit-learn", "huggingface_hub")


def examine() -> dict[str, Any]:
    """Versions, devices, extras with what each lacks, the models in the box, data sets, and the hub's cache."""
    import torch

    extras = {name: missing(name) for name in sorted(metadata("underpaint").get_all("Provides-Extra") or [])}
    return {
        "finding": finding(extras),
        "underpaint": version("underpaint"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in CORE},
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "extras": extras,
        "models": assets.names(),
        "data": _data(),
        "hub": _hub(),
    }


def finding(extras: Mapping[str, Sequence[str]]) -> str:
    """What is missing, by what each extra lacks, and what to do."""
    lacking = [name for name, lacks in extras.items() if lacks]
    if not lacking:
        return "Nothing is missing: all extras are complete."
    named = ",".join(lacking)
    return f"These extras are not complete: {', '.join(lacking)}. If you need them: pip install 'underpaint[{named}]'"


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    wanted = [line for line in requires("underpaint") or [] if _extra_of(line) == extra]
    names = [line.split(";")[0].split("[")[0].strip().split(">")[0].split("=")[0].strip() for line in wanted]
    return [name for name in names if name != "underpaint" and _version(name) is None]


def _extra_of(requirement: str) -> str | None:
    """'web' for "gradio>=6; extra == 'web'"."""
    _, _, condition = requirement.partition("extra ==")
    return condition.strip(" '\")") or None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return "found" if find_spec(name.replace("-", "_")) else None


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _data() -> dict[str, str]:
    """Where each data set that the box knows by name would be read from, or what to do where it is not here."""
    return {name: _found(name) for name in assets.names()}


def _found(name: str) -> str:
    from ..data.datasets import load_data

    try:
        return load_data(name).source
    except ValueError as error:
        return str(error)


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    models = sorted(path.name for path in place.glob("models--*")) if place.is_dir() else []
    return {
        "cache": str(place),
        "models": [name.removeprefix("models--").replace("--", "/") for name in models],
        "offline": bool(constants.HF_HUB_OFFLINE),
        "writable": os.access(next(path for path in (place, *place.parents) if path.exists()), os.W_OK),
    }
