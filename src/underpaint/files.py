"""Reading and writing files so that a user gets a sentence and never half a file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well, and goes when it does
    not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result should be as readable as any other file of the user's
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors with JSON metadata as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if storage in seen else plain  # the format refuses tensors that share memory
        seen.add(storage)
    with replacing(path) as temporary:
        save_file(apart, temporary, {"underpaint": json.dumps(metadata)})


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ValueError: the file is missing, truncated, or something else.
    """
    return _open_tensors(path, lambda opened: {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118


def read_tensor_metadata(path: str | Path) -> dict[str, Any]:
    """What `write_tensors` noted beside the tensors; empty for a file of another program.

    Raises:
        ValueError: there is no such file, it is not complete, or its note is no JSON object.
    """
    text = (_open_tensors(path, lambda opened: opened.metadata()) or {}).get("underpaint", "{}")
    try:
        note = json.loads(text)
    except json.JSONDecodeError:
        note = None
    if not isinstance(note, dict):
        raise ValueError(f'The metadata "underpaint" of {path} should be a JSON object; write the file anew.')
    return note


def _open_tensors(path: str | Path, read: Any) -> Any:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; expected weights or statistics in safetensors form.")
    try:
        with safe_open(path, framework="pt") as opened:
            return read(opened)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); copy or download it again.") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: the file is missing or is not a JSON object.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}; expected a JSON configuration.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content
