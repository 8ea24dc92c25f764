"""Files that are damaged, mistyped or of the wrong kind, each made from a whole one by one change.

Nothing here is meant to harm a reader: a file is small, unpacks to little, and calls nothing.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

#: Stands in JSON where text is put that no value of Python writes.
_MARK = "\x00mark"


@dataclass(frozen=True)
class Made:
    """A file to be written: ``make(path)`` writes it; ``fits`` as in `attack_values.Value`."""

    what: str
    make: Callable[[Path], None]
    fits: bool | None = False
    ending: str | None = None


def wrong_kinds() -> Iterator[Made]:
    """What stands in the place of any file."""
    yield Made("missing", lambda path: None)
    yield Made("a folder", lambda path: path.mkdir())
    yield Made("empty", lambda path: path.write_bytes(b""))
    yield Made("text", lambda path: path.write_text("no such thing\n"))
    yield Made("zeros", lambda path: path.write_bytes(bytes(4096)))
    yield Made("ones", lambda path: path.write_bytes(b"\xff" * 4096))
    yield Made("a link to nothing", lambda path: path.symlink_to("nowhere"))
    yield Made("a link to itself", lambda path: path.symlink_to(path.name))
    yield Made("a zip of nothing", lambda path: zipfile.ZipFile(path, "w").close())


def damaged(whole: bytes, rng: Random, count: int = 6) -> Iterator[Made]:
    """The bytes of a file, cut off or changed in a few places."""
    for _ in range(count):
        end = rng.randrange(1, len(whole))
        yield Made(f"cut at {end}", lambda path, end=end: path.write_bytes(whole[:end]))
        changed = bytearray(whole)
        for _ in range(8):
            changed[rng.randrange(min(len(whole), 512))] = rng.randrange(256)
        yield Made("changed bytes", lambda path, b=bytes(changed): path.write_bytes(b), None)
    yield Made("with more after its end", lambda path: path.write_bytes(whole + b"more"), None)


def odd_values(rng: Random) -> list[Any]:
    """What may stand in JSON where something else is expected."""
    odd: list[Any] = [None, True, -1, 0, 0.5, 10**30, -(10**30), 1e308, float("nan"), float("inf"), "", "x", "x" * 1000]
    return [*odd, [], {}, [[]], [None], {"x": None}, ["1", "2"], rng.randrange(-9, 9), _MARK]


def changed_json(content: Any, rng: Random, count: int, odd: list[Any] | None = None) -> Iterator[tuple[str, str]]:
    """(what was done, text) of a JSON value with one of its parts left out or of another type or size."""
    for _ in range(count):
        changed = deepcopy(content)
        holder, key = rng.choice(list(_places(changed)))
        value = rng.choice(odd_values(rng) if odd is None else odd)
        what = f"{key} is {str(value)[:20]}"
        if rng.random() < 0.2:
            del holder[key]
            what = f"no {key}"
        else:
            holder[key] = value
        yield what, json.dumps(changed).replace(json.dumps(_MARK), "[" * 5000 + "]" * 5000)


def json_files(content: dict[str, Any], rng: Random, count: int = 40, odd: list[Any] | None = None) -> Iterator[Made]:
    """JSON files: one of which a part is wrong, and texts that are no such object."""
    for what, text in changed_json(content, rng, count, odd):
        yield Made(what, lambda path, text=text: path.write_text(text, encoding="utf-8"), None)
    texts = ["[]", "1", "null", '"x"', "{", "{}", "[" * 100_000, '{"a":' * 100_000, "NaN", '{"a": 1,}', "{'a': 1}"]
    for text in [*texts, "[" * 100_000 + "]" * 100_000, '{"plans": ' + "9" * 5000 + "}"]:
        yield Made(f"JSON {text[:12]}", lambda path, text=text: path.write_text(text))
    for coding in ("utf-16", "utf-8-sig", "latin-1"):
        raw = json.dumps(content | {"ä": "ü"}, ensure_ascii=False).encode(coding)
        yield Made(f"JSON in {coding}", lambda path, raw=raw: path.write_bytes(raw))


def safetensors_files(
    whole: Path, rng: Random, count: int = 40, odd: list[Any] | None = None, tensors: int = 4
) -> Iterator[Made]:
    """Safetensors files with headers that lie, and whole ones of which a tensor or the note is wrong."""
    raw = whole.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, numbers = json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def packed(text: bytes, stated: int | None = None) -> bytes:
        return struct.pack("<Q", len(text) if stated is None else stated) + text + numbers

    text = json.dumps(header).encode()
    for stated in (0, 1, len(text) - 1, len(text) + 1, 10**9, 2**63, 2**64 - 1):
        made = packed(text, stated)
        yield Made(f"header of {stated} bytes", lambda path, made=made: path.write_bytes(made))
    names = [name for name in header if name != "__metadata__"]
    for _ in range(count):
        name = rng.choice(names)
        lie = deepcopy(header)
        field = rng.choice(("shape", "dtype", "data_offsets"))
        lie[name][field] = rng.choice(
            ([], [0], [-1], [2**62, 4], [10**9], "F32", "I64", "BOOL", "F8", None, [0, 2**63])
        )
        made = packed(json.dumps(lie).encode())
        yield Made(f"{field} of {name} lies", lambda path, made=made: path.write_bytes(made), None)
    note = json.loads(header["__metadata__"]["underpaint"])
    for what, said in changed_json(note, rng, count, odd):
        lie = header | {"__metadata__": {"underpaint": said}}
        made = packed(json.dumps(lie).encode())
        yield Made(f"note: {what}", lambda path, made=made: path.write_bytes(made), None)
    for said in ("", "x", "[]", "null", "{", "[" * 100_000, '{"format":' * 5000):
        made = packed(json.dumps(header | {"__metadata__": {"underpaint": said}}).encode())
        yield Made(f"note {said[:9]!r}", lambda path, made=made: path.write_bytes(made))
    yield from _other_tensors(whole, rng, tensors)
    yield from damaged(raw, rng)


def _other_tensors(whole: Path, rng: Random, count: int) -> Iterator[Made]:
    """The same tensors, one of them with other numbers, of another type or shape, or left out."""
    import torch

    from underpaint.files import read_tensor_metadata, read_tensors, write_tensors

    tensors, note = read_tensors(whole), read_tensor_metadata(whole)
    fits = {name: False if tensors[name].is_floating_point() else None for name in tensors}
    for name in rng.sample(sorted(tensors), min(count, len(tensors))):
        tensor = tensors[name]
        number = torch.zeros_like(tensor) if not tensor.is_floating_point() else tensor.clone()
        for value in (float("nan"), float("inf"), -float("inf"), -1e30, 1e30):
            other = number.clone().double()
            other.view(-1)[rng.randrange(other.numel())] = value
            changed = tensors | {name: other}
            yield Made(
                f"{value} in {name}",
                lambda path, changed=changed: write_tensors(path, changed, note),
                fits[name] if abs(value) != 1e30 else None,
            )
        shapes = (tensor[:0], tensor[..., :-1] if tensor.ndim else tensor, tensor.flatten()[0], tensor.unsqueeze(0))
        for other in (*shapes, tensor.long(), tensor.bool(), tensor.to(torch.complex64)):
            changed = tensors | {name: other}
            yield Made(
                f"{name} is {other.dtype} {tuple(other.shape)}",
                lambda path, changed=changed: write_tensors(path, changed, note),
                None,
            )
        rest = {other: value for other, value in tensors.items() if other != name}
        yield Made(f"no {name}", lambda path, rest=rest: write_tensors(path, rest, note))


def npy_bytes(array: Any) -> bytes:
    """An array as the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def odd_arrays(array: np.ndarray, rng: Random) -> Iterator[tuple[str, bytes, bool | None]]:
    """(what, bytes of an .npy file, fits) of arrays that are none of the data."""
    holes = array.astype(np.float32)
    for value in (np.nan, np.inf, 1e20, 1e30, 3e38):
        changed = holes.copy()
        changed.flat[rng.randrange(changed.size)] = value
        yield f"{value} in it", npy_bytes(changed), None
        yield f"all {value}", npy_bytes(np.full_like(holes, value)), False if not np.isfinite(value) else None
    shapes = [(), (0,), (3,), (0, 4), (4, 0), (1, 4), (2, 3, 4, 5, 6), (1,) * 30]
    yield from ((f"shape {shape}", npy_bytes(np.ones(shape, np.float32)), False) for shape in shapes)
    for kind in ("complex64", "int64", "bool", "U3", "S4", "datetime64[s]", ">f4", "longdouble", "O", "u1,u1"):
        yield f"dtype {kind}", npy_bytes(np.ones(array.shape).astype(kind)), False
    yield "dtype float16", npy_bytes(array.astype(np.float16)), None
    lies = ["(10000000000, 4)", "(-1, 4)", "(2, 99999999999999999999)", "'x'", "(4.5,)", "None", "(1,) * 99", "(" * 99]
    for shape in lies:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        text += b" " * (-(len(text) + 11) % 64) + b"\n"
        yield f"header {shape[:20]}", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64), False
    whole = npy_bytes(array)
    for _ in range(6):
        yield "cut", whole[: rng.randrange(1, len(whole) - 1)], False
    yield "more after it", whole + b"more", False
    yield "version 9", whole[:6] + b"\x09" + whole[7:], False


def array_files(array: np.ndarray, rng: Random) -> Iterator[Made]:
    """Damaged and unfit .npy files, and .npz files of such."""
    for what, raw, fits in odd_arrays(array, rng):
        yield Made(what, lambda path, raw=raw: path.write_bytes(raw), fits, ".npy")
        yield Made(f"{what}, zipped", lambda path, raw=raw: write_zip(path, {"images.npy": raw}), fits, ".npz")
    yield from zip_files({"images.npy": npy_bytes(array)}, rng)


def moment_files(dimension: int, rng: Random) -> Iterator[Made]:
    """.npz files of mu and sigma that are no mean and covariance."""
    mean, sigma = np.zeros(dimension), np.eye(dimension)
    others = {
        "sigma not symmetric": (mean, sigma + np.triu(np.ones_like(sigma), 1)),
        "sigma negative": (mean, -sigma),
        "sigma of one negative variance": (mean, np.diag([-1.0, *np.ones(dimension - 1)])),
        "sigma a row": (mean, sigma[0]),
        "sigma of another size": (mean, np.eye(dimension + 1)),
        "sigma no square": (mean, sigma[:, :-1]),
        "mu of another size": (mean[:-1], sigma),
        "mu a number": (np.array(0.0), sigma),
        "mu empty": (mean[:0], sigma[:0, :0]),
        "mu text": (mean.astype("U3"), sigma),
        "mu objects": (mean.astype(object), sigma),
        "mu complex": (mean + 1j, sigma),
        "NaN in mu": (np.where(np.arange(dimension) == 1, np.nan, mean), sigma),
        "infinity in mu": (np.where(np.arange(dimension) == 1, np.inf, mean), sigma),
        "NaN in sigma": (mean, np.where(np.eye(dimension) == 1, np.nan, sigma)),
        "infinity in sigma": (mean, np.where(np.eye(dimension) == 1, np.inf, sigma)),
        "huge mu": (np.full(dimension, 1e200), sigma),
        "huge sigma": (mean, 1e300 * sigma),
    }
    for what, (mu, covariance) in others.items():
        members = {"mu.npy": npy_bytes(mu), "sigma.npy": npy_bytes(covariance)}
        fits = None if what == "huge sigma" else False  # its flow is finite
        yield Made(what, lambda path, members=members: write_zip(path, members), fits, ".npz")
    whole = {"mu.npy": npy_bytes(mean), "sigma.npy": npy_bytes(sigma)}
    for name in whole:
        for what, raw, _ in odd_arrays(sigma, rng):
            members = whole | {name: raw}
            yield Made(f"{name}: {what}", lambda path, members=members: write_zip(path, members), None, ".npz")
        rest = {other: raw for other, raw in whole.items() if other != name}
        yield Made(f"no {name}", lambda path, rest=rest: write_zip(path, rest), False, ".npz")
    yield from zip_files(whole, rng)


def zip_files(members: dict[str, bytes], rng: Random) -> Iterator[Made]:
    """Archives that are damaged, or whose list of members lies about their length."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    whole = file.getvalue()
    for made in damaged(whole, rng, 4):
        yield Made(f"zip {made.what}", made.make, made.fits, ".npz")
    start = whole.rindex(b"PK\x01\x02")
    for length in (0, 1, 10**9, 2**32 - 2):
        lie = whole[: start + 24] + struct.pack("<I", length) + whole[start + 28 :]
        yield Made(f"member of {length} bytes", lambda path, lie=lie: path.write_bytes(lie), False, ".npz")


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    """A zip archive of members by name, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of all parts of a JSON value, those of long lists but for the first few left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key
        yield from _places(part)
