"""One door to every model: a name in the box or a folder on disk."""

from __future__ import annotations

from pathlib import Path

from .. import assets
from .diffusers import load_pixel_model
from .model import Model


def load_model(source: str | Path = "fashion-mnist") -> Model:
    """Load a model by its name in the box, or from a folder in diffusers' format.

    Raises:
        ValueError: no such name or folder, or a folder that holds no complete model.
    """
    boxed = assets.folder(str(source))
    if boxed is None and not Path(source).is_dir():
        raise ValueError(
            f"There is no model {str(source)!r}: give a folder in diffusers' format, or a name in the box "
            f"({', '.join(assets.names())})."
        )
    return load_pixel_model(boxed or Path(source))
