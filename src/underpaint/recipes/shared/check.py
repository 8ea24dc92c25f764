"""Is a model a denoiser of its stated schedule? `underpaint check`, and the first lines of other commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...models.checking.check import Check, check
from ...models.model import Model
from ...progress import Progress, silent
from .model_and_data import encode
from .request import Conditioning, Request, cases, load_on


def check_model(
    request: Request,
    data: str | Path | None = None,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda words: None,
) -> Check:
    """The check of what is asked for, on data if they are given; ``tell`` is told what these are and what was done to
    them.

    Raises:
        ValueError: as `load_model` and `check`; data that cannot be read or do not fit the model.
    """
    model = load_on(request.model, request.device, request.dtype)
    (case, *_) = cases(request, model)
    if data is None:
        return check_case(model, case, progress)
    from ...data.datasets import load_data

    images = load_data(data, shape=model.image_shape)
    tell(f"Data: {images.source}.")
    return check(model, encode(model, images, progress), case.condition)


def check_case(model: Model, case: Conditioning, progress: Progress = silent) -> Check:
    """The check of a model in one case; guidance, which changes what is painted, is left out of it."""
    advance = progress("is it a denoiser?", 1)
    found = check(model, condition=case.condition)
    advance()
    return found
