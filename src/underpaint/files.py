"""Reading and writing files so that a user gets a sentence and never half a file."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bounds import shown

if TYPE_CHECKING:
    from torch import Tensor

#: What locks files; Windows has nothing like it.
fcntl: Any = import_module("fcntl") if os.name == "posix" else None
#: Temporary files begin so; 8 random letters follow, and as many characters of the target's name as every system takes.
_HIDDEN, _ENDING = ".underpaint-", 50
#: How names of files end that folders of results are taken for.
_OF_FILES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".mp4", ".html", ".htm"),
    *(".md", ".txt", ".json", ".csv", ".parquet", ".npy", ".npz", ".pt", ".safetensors", ".zip", ".tar"),
)
#: What it means when nothing more can be written.
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "it is larger than a file may be here",
}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well, and goes when it does not.

    Raises:
        OSError: it cannot be written; one sentence says why.
    """
    target = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    with _named(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            yield temporary
            _settle(temporary)
            temporary.replace(target)


@contextmanager
def replacing_in(folder: str | Path, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a hidden folder inside ``folder``, whose files take their places in it when the block ends well: first
    all others, then those of the names in ``last``, one after the other.

    Raises:
        OSError: they cannot be written; one sentence says why.
    """
    target = Path(os.path.realpath(folder))

    def place(path: Path) -> tuple[int, str]:
        return last.index(path.name) if path.name in last else -1, str(path)

    with _named(folder):
        target.mkdir(parents=True, exist_ok=True)
        with _temporary(target / "files", folder=True) as draft:
            yield draft
            files = sorted((path for path in draft.rglob("*") if path.is_file()), key=place)
            for path in files:
                _settle(path)
            for path in files:
                there = target / path.relative_to(draft)
                there.parent.mkdir(parents=True, exist_ok=True)
                path.replace(there)


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """What the system says of a hidden name becomes a sentence about the path that was asked for."""
    try:
        yield
    except OSError as error:
        words = f"{path} could not be written: {_reason(error)}; what was there before is unchanged."
        raise OSError(error.errno or 0, words) from error


def _reason(error: OSError) -> str:
    said = error.strerror or str(error)
    return f"{_FULL[error.errno]} ({said})" if error.errno in _FULL else said


@contextmanager
def _temporary(target: Path, folder: bool = False) -> Iterator[Path]:
    """A file or folder beside the target under a hidden name, locked while it is in use and gone afterwards."""
    make = _new_folder if folder else _new_file
    path, handle = make(target)
    while _lock(handle) is False or not path.exists():  # who clears debris was faster than the lock
        os.close(handle)
        path, handle = make(target)
    if fcntl is None:  # where files cannot be locked, those that are open cannot be moved
        os.close(handle)
    try:
        yield path
    finally:
        _remove(path)
        if fcntl is not None:
            os.close(handle)


def _new_file(target: Path) -> tuple[Path, int]:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_HIDDEN, suffix=f"-{target.name[-_ENDING:]}")
    return Path(name), handle


def _new_folder(target: Path) -> tuple[Path, int]:
    path = Path(tempfile.mkdtemp(dir=target.parent, prefix=_HIDDEN))
    return path, os.open(path if fcntl is not None else os.devnull, os.O_RDONLY)


def _lock(handle: int) -> bool | None:
    """Whether nobody else holds the file, so that this process does now; None where files cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Make a file as readable as any other of the user's, which mkstemp does not, and be sure that it is on the disk:
    some systems only then say that it is full."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def clear_debris(folder: Path) -> None:
    """Remove the temporary files that killed runs have left in a folder; those of running ones are locked, and stay."""
    if fcntl is None or not folder.is_dir():
        return
    for path in folder.glob(f"{_HIDDEN}*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                if _lock(handle):
                    _remove(path)
            finally:
                os.close(handle)


def check_targets(*targets: str | Path, sources: Sequence[str | Path] = ()) -> None:
    """Fail before the work, not after it, where a file could not be written; what killed runs left there goes.

    Raises:
        ValueError: the file is a folder, no regular file or one of the ``sources``, its folder is a file or takes no
            files.
    """
    known = {os.path.realpath(source) for source in sources}
    for target in map(Path, targets):
        if os.path.realpath(target) in known:
            raise ValueError(f"Cannot write {target}: it is what is to be read; give another place.")
        if target.is_dir():
            raise ValueError(f"Cannot write {target}: it is a folder; give another place.")
        if target.exists() and not target.is_file():
            raise ValueError(f"Cannot write {target}: it is no regular file; give another place.")
    for folder in dict.fromkeys(Path(target).absolute().parent for target in targets):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir():
            raise ValueError(f"Cannot write to the folder {folder}: {existing} is a file; give another place.")
        _try(folder)
        clear_debris(folder)


def check_folder(folder: Path, wanted: str = "a folder") -> None:
    """Refuse the name of a file where a folder is to be made.

    Raises:
        ValueError: there is no such folder, and it ends as files of pictures, pages or numbers do.
    """
    if folder.suffix.lower() in _OF_FILES and not folder.is_dir():
        raise ValueError(f"{folder} would be a folder here, and ends as a file does; give another place: {wanted}.")


def _try(folder: Path) -> None:
    """Write a file to a folder, which need not exist, and leave all as it was."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder / "tried"):
            pass
    except OSError as error:
        raise ValueError(f"Cannot write to the folder {folder}: {_reason(error)}; give another place.") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors with JSON metadata as safetensors, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if storage in seen else plain  # the format refuses tensors that share memory
        seen.add(storage)
    with replacing(path) as temporary:
        try:
            save_file(apart, temporary, {"underpaint": json.dumps(metadata)})
        except SafetensorError as error:  # the library's own words for what the system says
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else 0
            raise OSError(number, os.strerror(number) if found else str(error)) from error


def lay(path: Path, shape: Sequence[int], dtype: Any) -> Tensor:
    """A tensor that lies in a file, where the system reads and writes what is asked for: of the file if it is there,
    else of a new one, whose room is taken at once.

    Raises:
        ValueError: the file that is there has another size.
    """
    import torch

    count = math.prod(shape)
    size = count * torch.empty(0, dtype=dtype).element_size()
    if not path.is_file():
        with path.open("wb") as opened:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process where it is written to
                os.posix_fallocate(opened.fileno(), 0, size)
    elif path.stat().st_size != size:
        raise ValueError(f"{path} is damaged: it holds {path.stat().st_size:,} bytes, expected {size:,}.")
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(tuple(shape))


def laid_in(tensor: Tensor) -> Path | None:
    """The file that a tensor lies in, the whole of it."""
    storage = tensor.untyped_storage()
    whole = tensor.is_contiguous() and tensor.numel() * tensor.element_size() == storage.nbytes()
    name = getattr(storage, "filename", None) if whole and tensor.device.type == "cpu" else None
    return None if name is None else Path(name)


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
    return parse_json(text, f'The metadata "underpaint" of {path}')


def read_tensor_names(path: str | Path) -> list[str]:
    """The names of the tensors in a safetensors file, without reading them. Raises as `read_tensor_metadata`."""
    return list(_open_tensors(path, lambda opened: opened.keys()))


def _open_tensors(path: str | Path, read: Any) -> Any:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; expected weights or statistics in safetensors form.")
    try:
        with safe_open(path, framework="pt") as opened:
            return read(opened)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file; copy or download it again.") from error


def path_of(place: Any, expected: str) -> Path:
    """A place that is given as a text or a path; ``expected`` says what it should be of.

    Raises:
        ValueError: it is neither, or a text that is empty, which would be the folder of the moment.
    """
    if not isinstance(place, str | Path) or place == "":
        raise ValueError(f"Expected the path of {expected}, got {shown(place)}.")
    return Path(place)


def read_json(path: str | Path, expected: str = "a JSON configuration") -> dict[str, Any]:
    """A JSON object from a file; ``expected`` says what it should hold.

    Raises:
        ValueError: the file is missing or is not a JSON object.
    """
    path = path_of(path, expected)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; expected {expected}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: it is no text in UTF-8.") from error
    return parse_json(text, str(path))


#: What a value of JSON is called in a message.
_JSON_KINDS = {dict: "object", list: "list", str: "text", int: "number", float: "number", bool: "true or false"}


def parse_json(text: str, what: str) -> dict[str, Any]:
    """The JSON object of a text.

    Raises:
        ValueError: it is none, or nested too deeply to be read; ``what`` says in the message what it is.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is not valid JSON in line {error.lineno}; it should be a JSON object.") from error
    except (RecursionError, ValueError) as error:  # lists in lists in lists; numbers of thousands of digits
        raise ValueError(
            f"{what} is not JSON that can be read: it is nested too deeply, or holds too long a number."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{what} holds a JSON {json_kind(content)}; it should be a JSON object.")
    return content


def json_part(content: Any, name: str, *kinds: type) -> Any:
    """A part of a JSON object, of one of some types of Python.

    Raises:
        ValueError: it is not there, or of another type.
    """
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"there is no {name!r} where it is expected")
    if type(content[name]) not in kinds:
        expected = " or ".join(dict.fromkeys(_JSON_KINDS.get(kind, "null") for kind in kinds))
        raise ValueError(f"its {name!r} is {json_kind(content[name])}, expected {expected}")
    return content[name]


def json_tensor(values: list[Any], name: str) -> Tensor:
    """A float64 tensor of a list of numbers, or of lists of as many numbers each.

    Raises:
        ValueError: they are none, or beyond what single precision holds.
    """
    import torch

    try:
        found = torch.tensor(values, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"its {name!r} are no numbers, or no table of them") from error
    if bool((found.isfinite() & (found.abs() > 1e30)).any()):  # single precision holds no more than 3e38
        raise ValueError(f"its {name!r} hold numbers beyond 1e30")
    return found


def json_kind(value: Any) -> str:
    """What a value of JSON is, in words."""
    return _JSON_KINDS.get(type(value), "null")
