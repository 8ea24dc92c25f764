"""What ships in the box: for each name a folder with a trained model, statistics of its data, and a card."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The models in the box."""
    return sorted(folder.name for folder in _HERE.iterdir() if (folder / "underpaint.json").is_file())


def folder(name: str) -> Path | None:
    """The folder of a model in the box, or None if there is none of that name."""
    return _HERE / name if name in names() else None
