"""Pipelines of diffusers: loaded, recorded, replayed, decoded, teleported."""


def __getattr__(name: str) -> object:
    """What this was in 0.1, when it was a module: imported when it is asked for, since loading models comes by here."""
    if name != "teleport_pipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .teleport import teleport_pipeline

    return teleport_pipeline
