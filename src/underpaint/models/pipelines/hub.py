"""Checkpoints on the Hugging Face hub, through its own client: its cache, its revisions, its offline mode."""

from __future__ import annotations

import re
from pathlib import Path

_WEIGHTS = ("diffusion_pytorch_model", "model")
_UNWANTED = ("safety_checker/*", "image_encoder/*", "feature_extractor/*")


def is_hub_id(source: str) -> bool:
    """Whether a text has the form of an id, "owner/name"."""
    return re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*", source) is not None


def _wanted(variant: str | None) -> list[str]:
    """Patterns of configs, tokenizers, and weights in safetensors form, plain ones or of a variant; no single-file
    checkpoints."""
    named = [stem if variant is None else f"{stem}.{variant}" for stem in _WEIGHTS]
    inside = [f"*/{stem}{shard}.safetensors" for stem in named for shard in ("", "-0????-of-0????")]
    return ["*.json", "*.txt", "*.model", f"{named[0]}.safetensors", *inside]


def fetch(source: str, revision: str | None = None, whole: bool = False, variant: str | None = None) -> Path:
    """The folder of a checkpoint on the hub, downloaded unless it is in the cache.

    Only configs, tokenizers and safetensors are fetched: no pickles, no code. With HF_HUB_OFFLINE=1, or where there is
    no network, the cache is used.

    Args:
        source: "owner/name".
        revision: branch, tag or commit.
        variant: of the weights, such as "fp16"; the plain ones unless one is named.
        whole: with its image encoder and what goes with it, which pipelines that take an image need.

    Raises:
        ValueError: there is no such checkpoint or revision, it wants a login, or it could not be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=_wanted(variant),
                ignore_patterns=list(_UNWANTED[:1] if whole else _UNWANTED),
            )
        )
    except GatedRepoError as error:
        raise ValueError(
            f"{source} asks for its licence to be accepted: do so at https://huggingface.co/{source}, then log in with "
            "`hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{source} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no folder {source!r} here and no {source} on the hub that you may read; check the spelling, or "
            "log in with `hf auth login` if it is private."
        ) from error
    except Exception as error:  # of the client's own and of the HTTP library's, which change between its versions
        raise ValueError(
            f"{source} is neither a folder here nor whole in the hub's cache, and the hub could not be reached "
            f"({type(error).__name__}); where there is a network, fetch it with `hf download {source}`, or copy its "
            "folder here and give the path."
        ) from error
