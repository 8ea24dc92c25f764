"""What statistics are taken of: data as they are, a model's latents of them, or a model's own samples."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...bounds import MOST_ITEMS, integer, shown
from ...data.contents import contents_mark
from ...data.sources import open_source
from ...data.stream import Chunk, Source, check_range, digest
from ...metrics.features import FeatureSet
from ...metrics.spaces import find_features, width
from ...models.fingerprint import fingerprint
from ...models.model import Model
from ..shared.own_samples import SOLVER, STEPS, own_states, told
from ..shared.request import Conditioning, find_denoiser, load_on, own_device


def parse_size(text: str | None) -> tuple[int, int] | None:
    """'64' -> (64, 64), '64x48' -> (64, 48).

    Raises:
        ValueError: it is not of that form.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if not found:
        raise ValueError(f"A size is 64 or, for height and width, 64x48, up to 99999; got {shown(text)}.")
    return int(found[1]), int(found[2] or found[1])


def open_data(
    place: str | Path,
    size: tuple[int, int] | None = None,
    mode: str | None = None,
    split: str = "train",
    encoder: str | None = None,
    samples: int | None = None,
    features: str | None = None,
    device: str | None = None,
    column: str | None = None,
    case: Conditioning | None = None,
    labels: bool = True,
    dtype: str | None = None,
) -> Source:
    """A source as `open_source` opens it; or, with ``encoder``, what this model makes of pictures brought to its size;
    or, with ``samples``, so many samples of the model ``place`` in a ``case``; or, with ``features``, those of the
    pictures in this space (of `find_features`). Networks run on ``device``, and
    the model in ``dtype``."""
    there = own_device(device)
    if dtype is not None and samples is None and encoder is None:
        raise ValueError(f"A dtype ({shown(dtype)}) is of a model; give --samples or --latents, too.")
    if device is not None and samples is None and encoder is None and features is None:
        raise ValueError(
            f"A device ({shown(device)}) is of a network; give --samples, --latents or --features, too, or none."
        )
    if samples is None and case not in (None, Conditioning()):
        raise ValueError(f"A class, prompt or guidance ({case}) is for samples of a model; give --samples, too.")
    if features is not None and encoder is not None:
        raise ValueError("Features are of pictures and not of latents; give --features or --latents.")
    if samples is not None:
        _check_samples(size, mode, split, column, encoder, labels)
        model = load_on(place, device, dtype)
        space = None if features is None else find_features(features, model.image_shape, there)
        source = own_samples(model, samples, case=case)
        return source if space is None else seen(source, space, model)
    if features is not None:
        source = _files(place, size, mode, split, column, labels)
        return seen(source, find_features(features, source.shape, there))
    if encoder is not None and (size is not None or mode is not None):
        raise ValueError(f"Pictures are brought to the size and mode of {encoder}; leave out --size and --mode.")
    if encoder is None:
        return _files(place, size, mode, split, column, labels)
    model = load_on(encoder, device, dtype)
    channels, height, width = model.image_shape
    fitting = {1: "L", 3: "RGB"}.get(channels)
    return latents(_files(place, (height, width), fitting, split, column, labels), model)


def _check_samples(
    size: tuple[int, int] | None,
    mode: str | None,
    split: str,
    column: str | None,
    encoder: str | None,
    labels: bool = True,
) -> None:
    """Refuse options that are of pictures and tables where samples of a model are asked for."""
    odd = {"--size": size, "--mode": mode, "--column": column, "--latents": encoder}
    named = [name for name, value in odd.items() if value is not None]
    named += ["--split"] * (split != "train") + ["--no-labels"] * (not labels)
    if named:
        raise ValueError(f"Samples of a model are its own states; leave out {', '.join(named)}, or --samples.")


def _files(
    place: str | Path, size: tuple[int, int] | None, mode: str | None, split: str, column: str | None, labels: bool
) -> Source:
    """A source whose identity changes with the contents of its files, too, so that work goes on with the same alone."""
    source = open_source(place, size, mode, split, column, labels)
    return replace(source, identity=digest(source.identity, contents_mark(place)))


def latents(source: Source, model: Model) -> Source:
    """The rows that a model works on: the latents of images, or a pixel model's images, in the range of its data."""
    if model.autoencoder is None and (model.data_range, len(model.shape)) == ((-1, 1), 3):
        return source
    what = "states" if model.autoencoder is None else "latents"

    def encode(images: Tensor) -> Tensor:
        check_range(float(images.min()), float(images.max()), source.name, model.name)
        return model.rows(images)

    encoded = source.encoded(encode, model.shape, f"{what} of {model.name}")
    return replace(encoded, identity=digest(encoded.identity, fingerprint(model)))


def seen(source: Source, space: FeatureSet, model: Model | None = None) -> Source:
    """The features of pictures in a space of `find_features`; the source holds these, or rows of the model."""

    def encode(values: Tensor) -> Tensor:
        if model is None:
            check_range(float(values.min()), float(values.max()), source.name)
        images = values if model is None else 2 * model.images(values.flatten(1)) - 1
        return space.extract(images.flatten(1))

    return replace(source.encoded(encode, (width(space),), f"features {space.name}", step=256), space=space.name)


def own_samples(
    model: Model,
    count: int,
    steps: int = STEPS,
    solver: str = SOLVER,
    batch: int = 64,
    case: Conditioning | None = None,
) -> Source:
    """A model's own samples for seeds 0 to count - 1, as a source; each chunk is sampled when it is read."""
    integer(count, "number of samples", 2, MOST_ITEMS)
    case = case or Conditioning()
    find_denoiser(model, case)

    def read(start: int, stop: int) -> Chunk:
        return Chunk(own_states(model, case, range(start, stop), steps, solver, batch))

    how = told(model, case, range(count), steps, solver)
    return Source(
        model.name,
        model.shape,
        count,
        read,
        f"{how}; {fingerprint(model)}",
        how,
        step=256,
        pixels=model.autoencoder is None,
    )
