"""The parts of a folder in diffusers' format: networks, tokenizers, schedulers and rules of guidance.

Nothing here runs code that comes with a checkpoint: weights are read from safetensors alone, and the classes that a
folder names are looked up in diffusers and transformers alone.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ...bounds import shown
from ...files import read_json, read_tensor_metadata

#: What a part may be, by library.
_KINDS = {
    "diffusers": ("ModelMixin", "SchedulerMixin", "BaseGuidance"),
    "transformers": (
        *("PreTrainedModel", "PreTrainedTokenizerBase", "ProcessorMixin"),
        *("ImageProcessingMixin", "FeatureExtractionMixin"),
    ),
}
#: Our scheduler, as a pipeline that was saved with it names its module and class.
_OURS = ("underpaint.models.schedulers.gaussian_exponential", "GaussianExponentialScheduler")
#: What diffusers calls the file of a network's weights, without its ending.
NETWORK = "diffusion_pytorch_model"
#: Parts of a pipeline that take no part in the probability flow.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(folder: Path, dtype: torch.dtype, whole: bool = False, variant: str | None = None) -> Any:
    """A pipeline of diffusers put together from its folder, without safety checker, and unless it is to be ``whole``,
    without image encoder. Weights are those of a ``variant``, such as "fp16"; see `find_variant`.

    Raises:
        ValueError: a part is missing, truncated, or not a class of diffusers or transformers; or this diffusers has no
            such pipeline, or not all that it is made with.
    """
    import diffusers

    index = read_json(folder / "model_index.json")
    if any(isinstance(part, list) and part[:1] == ["transformers"] for part in index.values()):
        check_text()  # without it, diffusers has a stand-in for the pipeline, which asks for nothing
    with no_notices():
        kind = getattr(diffusers, index["_class_name"], None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise ValueError(
            f"{folder} holds {index['_class_name']}, which the diffusers installed here ({diffusers.__version__}) does "
            "not have as a pipeline."
        )
    known = inspect.signature(kind.__init__).parameters
    parts: dict[str, Any] = dict.fromkeys(set(_UNUSED[:1] if whole else _UNUSED) & set(known))
    if "requires_safety_checker" in known:
        parts["requires_safety_checker"] = False
    for name in set(index) & set(known) - set(parts):
        value = index[name]
        if isinstance(value, list) and len(value) == 2:  # [library, class]; [null, null] for a part left out
            library, part = value
            value = load_part(folder / name, library, part, dtype, variant) if library else None
        parts[name] = value
    absent = [n for n, given in known.items() if given.default is given.empty and n != "self" and n not in parts]
    if absent:
        raise ValueError(f"{folder / 'model_index.json'} names no {', '.join(absent)}, which {kind.__name__} needs.")
    try:
        return kind(**parts)
    except (ImportError, NameError) as error:  # what diffusers imports where it is installed has no name elsewhere
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"This pipeline needs a library that is not installed: {kind.__name__} says: {said}."
        ) from error


def _of_something_else(record: logging.LogRecord) -> bool:
    return "torchvision" not in record.getMessage()


@contextmanager
def no_notices() -> Iterator[None]:
    """Without what transformers says of torchvision where it imports image processors, also for pipelines of diffusers
    that name some: they work without it. All else that it says goes on, and levels and handlers stay as they are."""
    speaker = logging.getLogger("transformers.utils.import_utils")
    speaker.addFilter(_of_something_else)
    try:
        yield
    finally:
        speaker.removeFilter(_of_something_else)


def load_part(folder: Path, library: str, kind: str, dtype: torch.dtype, variant: str | None = None) -> Any:
    """One part of a pipeline: a network with its weights (of a ``variant``), a tokenizer, a scheduler or a rule
    of guidance.

    Raises:
        ValueError: the class is not one of diffusers or transformers, or its files are missing, pickled, truncated or
        do not fit it.
    """
    with no_notices():
        cls = _find_class(folder, library, kind)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; expected the files of {kind}.")
    network = issubclass(cls, torch.nn.Module)
    if library == "diffusers":
        _check_numbers(cls, folder)
    chosen = find_variant(folder, "model" if library == "transformers" else NETWORK, variant) if network else None
    try:
        with _no_bars(library):
            return _load_network(cls, folder, library, dtype, chosen) if network else cls.from_pretrained(folder)
    except ImportError as error:
        raise ValueError(f"{folder} needs a library that is not installed: {error}") from error
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = next((line for line in lines if "mismatch" in line), lines[0]).partition(". ")[0]  # advice is left off
        if isinstance(error, KeyError | TypeError):  # of Python's own, from within the library
            said = "a part of it is missing, or of another type than it should be"
        raise ValueError(f"{folder} does not fit the {kind} that its config describes: {said}") from error


def _check_numbers(cls: Any, folder: Path) -> None:
    """Refuse a config with a text or an object in the place of a number, which some networks find only when called."""
    known = inspect.signature(cls.__init__).parameters
    for path in folder.glob("*config.json"):
        for name, value in read_json(path).items():
            usual = known[name].default if name in known else None
            if isinstance(usual, int | float) and isinstance(value, str | dict):
                raise ValueError(f"{path} states {shown(value)} for {name}; expected a number such as {usual}.")


def _load_network(cls: Any, folder: Path, library: str, dtype: torch.dtype, variant: str | None) -> Any:
    options = {"variant": variant, **_options(library, dtype)}
    network, info = cls.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
    )
    if info["missing_keys"]:  # left at random values, with a warning, if we let it pass
        raise RuntimeError(f"it has no values for {', '.join(sorted(info['missing_keys'])[:3])}")
    network = network.eval().requires_grad_(False)
    flat = all(weight.ndim < 5 for weight in network.parameters())  # those of videos have no such format
    return network.to(memory_format=torch.channels_last) if flat else network


def _options(library: str, dtype: torch.dtype) -> dict[str, Any]:
    """How each library is told a dtype, and that the weights should stand in memory once, not twice."""
    if library != "transformers":
        return {"torch_dtype": dtype, "low_cpu_mem_usage": find_spec("accelerate") is not None}
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def _find_class(folder: Path, library: str, kind: str) -> Any:
    """The class that a folder names, if it is one of diffusers or transformers, and of the kinds that may be a part; or
    our scheduler, as a saved pipeline names it."""
    if (library, kind) == _OURS:
        return getattr(import_module(library), kind)
    if library == "transformers":
        check_text()
    module = import_module(library) if library in _KINDS else _pipeline_module(library)
    if module is None:
        raise ValueError(
            f"{folder.parent} takes its {folder.name} ({kind}) from {library!r}; only classes of diffusers and "
            "transformers are used, and code that comes with a checkpoint is never run."
        )
    cls = getattr(module, kind, None)
    if not isinstance(cls, type) or not issubclass(cls, _bases(library)):
        module = import_module("diffusers") if library not in _KINDS else module
        library = module.__name__
        raise ValueError(
            f"{folder.parent} wants {kind} of {library} for its {folder.name}; the {library} installed here "
            f"({module.__version__}) has no such network, tokenizer, scheduler or guidance."
        )
    return cls


def _pipeline_module(library: str) -> Any:
    """The module of diffusers' own that a folder takes a part of its pipeline from; None if there is none."""
    name = f"diffusers.pipelines.{library}"
    return import_module(name) if library.isidentifier() and find_spec(name) else None


def _bases(library: str) -> tuple[type, ...]:
    """What classes of a library may be derived from; a pipeline's own are networks."""
    if library in _KINDS:
        return tuple(getattr(import_module(library), base) for base in _KINDS[library])
    return (import_module("diffusers").ModelMixin,)


def check_text() -> None:
    """Raise ValueError unless transformers, which reads prompts, is installed."""
    if find_spec("transformers") is None:
        raise ValueError('Models that take prompts need transformers: pip install "underpaint[text]".')


def find_variant(folder: Path, stem: str, variant: str | None = None) -> str | None:
    """Which weights of a folder to read, in safetensors form and whole: those of a variant ("fp16"), None for the plain
    ones. Unless one is asked for, the plain ones, or the only variant that there is.

    Raises:
        ValueError: there are none, only pickles, no such variant, or several and none is asked for; or a file is cut
            off.
    """
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob(f"{stem}*.safetensors")):
        known = re.fullmatch(rf"{stem}(?:\.([^.]+?))?(?:-\d{{5}}-of-\d{{5}})?\.safetensors", path.name)
        if known:
            found.setdefault(known[1], []).append(path)
    pickles = [path.name for ending in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{ending}")]
    if pickles and not found:
        raise ValueError(
            f"{folder} holds its weights only as a pickle ({pickles[0]}), which can run code when it is opened and is "
            "never read here; take a revision with safetensors, or save it again with safe_serialization=True where "
            "you trust it."
        )
    if not found:
        raise ValueError(
            f"There is no file {folder / stem}.safetensors; expected weights in safetensors form (of a variant on the "
            'hub such as fp16, give its name: variant="fp16").'
        )
    named = sorted(name for name in found if name)
    if variant is None and None not in found and len(named) > 1:
        raise ValueError(f"{folder} holds the variants {', '.join(named)}; choose one with variant=...")
    chosen = variant or (None if None in found else named[0])
    if chosen not in found:
        raise ValueError(f"{folder} holds no variant {variant!r}, but {', '.join(named) or 'the plain weights alone'}.")
    for path in found[chosen]:
        read_tensor_metadata(path)  # opens the file, which checks its length
    return chosen


@contextmanager
def _no_bars(library: str) -> Iterator[None]:
    """Without the bar that transformers shows for each file: recipes show their own progress."""
    if library != "transformers":
        yield
        return
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]
