"""Packages that not every use needs: imported where they are used, and named with the extra that brings them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def library(name: str, extra: str, who: str) -> Any:
    """Import a module of an extra; ``who`` needs it, as in "The explorer needs".

    Raises:
        ImportError: it is not installed, or something that it needs is not.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        why = "" if getattr(error, "name", None) == name.partition(".")[0] else f" ({error})"
        raise ImportError(f"{who} {package}{why}; install it with: pip install 'underpaint[{extra}]'") from None
