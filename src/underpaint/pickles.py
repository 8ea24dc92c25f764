"""Pickled checkpoints as plain data: NVIDIA's network snapshots and torch's state dicts, with nothing in them run.

A pickle is a program. This reader follows its instructions but makes none of the calls that it asks for: each is
written down as a `Record`, and only those of a short list may be asked for at all. What the records mean is decided
here, after the file has been read. torch.load is not used: with ``weights_only`` it could be made to run code before
torch 2.6 (CVE-2025-32434) and to corrupt memory before 2.10 (CVE-2026-24747).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .damage import Unfit

_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_MODULE, _PARAMETER, _TENSOR, _BYTES = (
    "torch_utils.persistence._reconstruct_persistent_obj",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
)
_CONTAINERS = {f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential")}
_NUMPY = {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
_RECORDS = {*_STORAGES, *_CONTAINERS, *_NUMPY, "numpy.dtype", "numpy.ndarray", _MODULE, _PARAMETER, _TENSOR, _BYTES}
_DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict"}

#: A snapshot of the largest published network has 56,000 instructions and 3,400 tuples. Hashing a million tuples, each
#: in the next, would overflow the stack of the interpreter, which no exception can catch.
_MOST_INSTRUCTIONS, _MOST_TUPLES = 1_000_000, 10_000
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Record:
    """A call that a file asks for, written down instead of made: ``kind(*arguments)``, its result then given
    ``state``."""

    kind = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Record:
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


#: One type for each, since a pickle can make objects only of types.
_KINDS = {kind: type("Record", (Record,), {"kind": kind}) for kind in _RECORDS}


class _Items(dict[Any, Any]):
    """A file's OrderedDict or EasyDict; attributes set on it are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class SavedNetwork:
    """A pickled network: the name of its class, the keywords it was made with, and its parameters and buffers."""

    class_name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


class _Refused(Exception):
    """A file asked for what this reader knows nothing of."""


class _Unpickler(pickle.Unpickler):
    """Turns every call into a Record; ``references`` to storages outside the stream are kept as they stand."""

    def __init__(self, file: IO[bytes], references: bool) -> None:
        super().__init__(file)
        self.references = references

    def find_class(self, module: str, name: str) -> Any:
        kind = f"{module}.{name}"
        if kind in _DICTS:
            return _Items
        if kind not in _KINDS:
            raise _Refused(kind)
        return _KINDS[kind]

    def persistent_load(self, reference: Any) -> Any:
        if not self.references:
            raise _Refused("an object outside the file")
        return reference


def read_network(path: str | Path, key: str = "ema") -> SavedNetwork:
    """The network that a snapshot of NVIDIA's EDM code keeps under ``key``, on the CPU. Needs a little over
    twice the file's size in memory.

    Raises:
        ValueError: no such file or key, a truncated or foreign file, or one that asks for anything that is not part of
        such a snapshot; then nothing of it was run.
    """
    with _sentences(path), Path(path).open("rb") as file:
        content = _load(file)
        if isinstance(content, dict):
            if key not in content:
                raise Unfit(f"it holds {', '.join(map(str, content)) or 'nothing'}, not {key!r}")
            content = content[key]
        if not isinstance(content, Record) or content.kind != _MODULE:
            raise Unfit("it holds no network of torch_utils.persistence")
        state, name = _module_state(content), content.arguments[0]["class_name"]
        arguments = _plain(state.get("_init_kwargs"))
        if state.get("_init_args") or not isinstance(arguments, dict) or not isinstance(name, str):
            raise Unfit("it does not name the arguments that its network was made with")
        return SavedNetwork(name, arguments, dict(_tensors(content, cache(_embedded_storage), set())))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a file of ``torch.save(module.state_dict(), path)``, on the CPU: a zip file, or as torch
    wrote it before 1.6.

    Raises:
        ValueError: no such file, another format, anything but tensors by name, or a call for something else; then
        nothing of it was run.
    """
    with _sentences(path), Path(path).open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if not zipped:
            return _old_state(file)
        with zipfile.ZipFile(file) as archive:
            return _zipped_state(archive)


def _zipped_state(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise Unfit("torch does not compress its files, this one is")
    (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = index.removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise Unfit("its numbers are big-endian")

    def stored(reference: tuple[Any, ...]) -> Tensor:
        _, kind, name, _, count = reference
        return _numbers(archive.read(f"{root}data/{name}"), kind, count)

    return _state(_load(io.BytesIO(archive.read(index)), references=True), cache(stored))


def _old_state(file: IO[bytes]) -> dict[str, Tensor]:
    """Five small pickles (magic number, version, machine, the tensors with storages by reference, names of storages),
    and for each storage a count of 8 bytes and its numbers."""
    content, names = _old_pickles(file)
    stored = {}
    for _, kind, name, _, count, view in (_rebuilt(record).arguments[0] for record in _named(content).values()):
        if view is not None:
            raise Unfit("a storage is a view of another")
        stored[name] = kind, count
    rest = io.BytesIO(file.read())  # so that no more is made room for than there is
    storages = {}
    for name in names:
        kind, count = stored[name]
        if int.from_bytes(rest.read(8), "little") != count:
            raise Unfit("a storage whose parts disagree")
        storages[name] = _numbers(rest.read(count * _STORAGES[kind.kind].itemsize), kind, count)
    return _state(content, lambda reference: storages[reference[2]])


def _state(content: Any, storage: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    return {name: _tensor(record, storage) for name, record in _named(content).items()}


def _named(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise Unfit("it holds no tensors by name; save the network's state_dict() alone")
    return content


def _old_pickles(file: IO[bytes]) -> tuple[Any, Any]:
    """The last two of the five pickles with which torch's old format begins."""
    magic, version, machine, content, names = (_load(file, references=True) for _ in range(5))
    if (magic, version, machine["little_endian"]) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL, True):
        raise Unfit("it is in an unknown format")
    return content, names


@contextmanager
def _sentences(path: str | Path) -> Iterator[None]:
    """One sentence for whatever a missing, damaged, foreign or hostile file can lead to."""
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}; expected a checkpoint.")
    try:
        yield
    except _Refused as refused:
        raise ValueError(
            f"{path} asks for {refused}, which is no part of such a checkpoint; nothing of it was run. Get the file "
            f"from a source that you trust, or have its owner save the network's state_dict() with torch.save."
        ) from None
    except Exception as error:  # a damaged or forged stream can break the machine of pickle in any way
        why = str(error) if isinstance(error, Unfit) else "it is damaged, or of another kind"
        raise ValueError(
            f"{path} is not a complete checkpoint of this kind ({why}); nothing of it was run. Copy or download it "
            "again."
        ) from error


def _load(file: IO[bytes], references: bool = False) -> Any:
    """The next pickle of a file, as containers, numbers, texts and Records."""
    start = file.tell()
    try:
        _survey(file)
        file.seek(start)
        return _Unpickler(file, references).load()
    except (_Refused, MemoryError):
        raise
    except Exception as error:  # of the machine of pickle, in words of its own
        raise Unfit("its instructions are not those of a checkpoint") from error


def _survey(file: IO[bytes]) -> None:
    """Go through the instructions before any is followed: a small file must not claim the memory or the stack."""
    tuples = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file), start=1):
        tuples += instruction.name.startswith("TUPLE")
        beyond = instruction.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > count
        if count > _MOST_INSTRUCTIONS or tuples > _MOST_TUPLES or beyond:
            raise Unfit("its instructions are not those of a checkpoint")


def _module_state(module: Any) -> dict[str, Any]:
    """The attributes of a saved module, whether of torch_utils.persistence or one of torch's containers."""
    if not isinstance(module, Record) or module.kind not in {_MODULE, *_CONTAINERS}:
        raise Unfit("a part of its network is not a module")
    state = module.arguments[0]["state"] if module.kind == _MODULE else module.state
    if not isinstance(state, dict):
        raise Unfit("a module without content")
    return state


def _tensors(
    module: Record, storage: Callable[[Any], Tensor], seen: set[Record], prefix: str = ""
) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by the names of torch's state_dict; each module is visited once, so that a file of
    references to itself comes to an end."""
    if module in seen:
        raise Unfit(f"the module {prefix!r} stands in it twice")
    seen.add(module)
    state = _module_state(module)
    for name, record in [*state["_parameters"].items(), *state["_buffers"].items()]:
        if record is not None:
            yield f"{prefix}{name}", _tensor(record, storage)
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _tensors(child, storage, seen, f"{prefix}{name}.")


def _tensor(record: Any, storage: Callable[[Any], Tensor]) -> Tensor:
    """A tensor as a view of its storage, never larger than it."""
    record = _rebuilt(record)
    flat, (offset, size, stride) = storage(record.arguments[0]), record.arguments[1:4]
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or math.prod(size) > len(flat) or reach >= max(len(flat), 1):
        raise Unfit("a tensor reaches beyond its numbers")
    return flat.as_strided(size, stride, offset)


def _rebuilt(record: Any) -> Record:
    """The call that makes a tensor, that of a parameter unwrapped."""
    if isinstance(record, Record) and record.kind == _PARAMETER:
        record = record.arguments[0]
    if not isinstance(record, Record) or record.kind != _TENSOR:
        raise Unfit("there is no tensor where one is expected")
    return record


def _embedded_storage(record: Record) -> Tensor:
    """The numbers of a storage that was pickled on its own, in torch's old format."""
    if record.kind != _BYTES:
        raise Unfit("a tensor's numbers are not in the file")
    file = io.BytesIO(record.arguments[0])
    reference, _ = _old_pickles(file)
    _, kind, _, _, count, view = reference
    if view is not None or int.from_bytes(file.read(8), "little") != count:
        raise Unfit("a storage whose parts disagree")
    return _numbers(file.read(), kind, count)


def _numbers(raw: bytes, kind: type[Record], count: int) -> Tensor:
    """A flat tensor [count] of a storage's bytes."""
    dtype = _STORAGES[kind.kind]
    if len(raw) != count * dtype.itemsize:
        raise Unfit(f"a storage of {len(raw)} bytes for {count} numbers")
    # a copy, since the bytes of a file are read-only and a tensor's are not
    return torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _plain(value: Any) -> Any:
    """A value of JSON's types; tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Unfit("an argument of its network is neither number nor text")
