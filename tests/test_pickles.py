"""Pickled checkpoints: their tensors to the bit, and nothing of a hostile one ever run."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from snapshots import CONFIGS, Persistent, nvidia_modules, randomised, snapshot, write_pickle

from underpaint.models.networks.edm import build_edm
from underpaint.pickles import read_network, read_state_dict


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return randomised(build_edm(CONFIGS["NCSN++"]))


@pytest.fixture(scope="module")
def good(network: torch.nn.Module) -> bytes:
    """A snapshot that is read without complaint."""
    with nvidia_modules():
        return pickle.dumps(snapshot(network, CONFIGS["NCSN++"]))


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_snapshot_gives_its_tensors_and_keywords(network, tmp_path: Path, protocol: int):
    saved = read_network(write_pickle(tmp_path / "net.pkl", snapshot(network, CONFIGS["NCSN++"]), protocol))
    assert {"class_name": saved.class_name, **saved.arguments} == CONFIGS["NCSN++"]
    expected = network.state_dict()
    assert saved.tensors.keys() == expected.keys()
    for name, tensor in saved.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name])


def test_a_network_may_also_stand_alone(network, tmp_path: Path):
    alone = write_pickle(tmp_path / "net.pkl", snapshot(network, CONFIGS["NCSN++"])["ema"])
    assert read_network(alone).tensors.keys() == network.state_dict().keys()


class Call:
    """Pickles as a call of a function, which may be a call itself."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call

    def __call__(self) -> None:
        """There only because pickle looks whether there is one."""


def exploits(command: str) -> dict[str, tuple[Any, str]]:
    """Objects or streams whose unpickling runs a shell command, and what the refusal names."""
    run = Call(os.system, command)
    python = f"__import__('os').system({command!r})"
    old, zipped, system = io.BytesIO(), io.BytesIO(), f"{os.name}.system"
    torch.save(run, old, _use_new_zipfile_serialization=False)
    torch.save({"weight": run}, zipped)
    load_bytes = torch.storage._load_from_bytes
    return {
        "os.system": (run, system),
        "eval": (Call(eval, python), "builtins.eval"),
        "exec": (Call(exec, python), "builtins.exec"),
        "getattr chain": (Call(Call(getattr, Call(__import__, "os"), "system"), command), "builtins.getattr"),
        "pickle.loads": (Call(pickle.loads, pickle.dumps(run)), "_pickle.loads"),
        "torch.load": (Call(torch.load, Call(io.BytesIO, old.getvalue())), "torch.serialization.load"),
        "opcode INST": (f"(S{command!r}\nios\nsystem\n.".encode(), "os.system"),
        "opcode OBJ": (f"(cos\nsystem\nS{command!r}\no.".encode(), "os.system"),
        "opcode REDUCE": (f"cos\nsystem\n(S{command!r}\ntR.".encode(), "os.system"),
        "in a module": ({"ema": Persistent("EDMPrecond", {"_parameters": {"weight": run}})}, system),
        "beside the network": ({"ema": None, "loss_fn": run}, system),
        "in a key": ({"ema": {(1, run): 2}}, system),
        "torch.save in a storage": (in_network(Call(load_bytes, old.getvalue())), system),
        "pickle in a storage": (in_network(Call(load_bytes, pickle.dumps(run))), system),
        "zip in a storage": (in_network(Call(load_bytes, zipped.getvalue())), "not a complete checkpoint"),
    }


def in_network(storage: Any) -> dict[str, Any]:
    """A snapshot with one weight of a given storage."""
    weight = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
    state = {"_parameters": {"weight": weight}, "_buffers": {}, "_modules": {}, "_init_kwargs": {}}
    return {"ema": Persistent("EDMPrecond", state)}


def write(path: Path, content: Any) -> Path:
    return write_pickle(path, content) if not isinstance(content, bytes) else path.write_bytes(content) and path


@pytest.mark.parametrize("kind", exploits(""))
def test_an_exploit_is_refused_by_name_and_not_run(tmp_path: Path, kind: str):
    marker = tmp_path / "marker"
    content, named = exploits(f"touch {marker}")[kind]
    with pytest.raises(ValueError, match=r"nothing of it was run") as refusal:
        read_network(write(tmp_path / "net.pkl", content))
    assert named in str(refusal.value)
    assert not marker.exists()


REAL = ["os.system", "eval", "exec", "getattr chain", "pickle.loads", "opcode INST", "opcode OBJ", "opcode REDUCE"]


@pytest.mark.parametrize("kind", [*REAL, "beside the network", "in a key"])
def test_the_exploits_are_real(tmp_path: Path, kind: str):
    marker = tmp_path / "marker"
    pickle.loads(write(tmp_path / "net.pkl", exploits(f"touch {marker}")[kind][0]).read_bytes())
    assert marker.exists()


def test_the_exploit_in_a_storage_is_real(tmp_path: Path):
    marker, file = tmp_path / "marker", io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), file, _use_new_zipfile_serialization=False)
    torch.storage._load_from_bytes(file.getvalue())
    assert marker.exists()


def test_source_in_a_snapshot_is_text(network, tmp_path: Path):
    content = snapshot(network, CONFIGS["NCSN++"])
    content["ema"].meta["module_src"] = f"import os; os.system('touch {tmp_path / 'marker'}')"
    assert read_network(write_pickle(tmp_path / "net.pkl", content)).class_name == "EDMPrecond"
    assert not (tmp_path / "marker").exists()


def test_registered_extensions_are_asked_for_by_name(tmp_path: Path):
    """Opcode EXT1 stands for a function that the reading program has registered."""
    copyreg.add_extension("os", "system", 241)
    try:
        file = write(tmp_path / "net.pkl", b"\x80\x02\x82\xf1X\x04\x00\x00\x00true\x85R.")
        with pytest.raises(ValueError, match=r"asks for os\.system, .* nothing of it was run"):
            read_network(file)
    finally:
        copyreg.remove_extension("os", "system", 241)


def test_objects_outside_the_file_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="asks for an object outside the file"):
        read_network(write(tmp_path / "net.pkl", b"\x80\x04\x8c\x04evilQ."))


@pytest.mark.parametrize("name", ["collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2"])
@pytest.mark.parametrize(
    "state", [b"}X\x04\x00\x00\x00kindX\x01\x00\x00\x00xs", b"N}X\x04\x00\x00\x00kindX\x01\x00\x00\x00xs\x86"]
)
def test_no_file_changes_what_the_next_one_meets(good: bytes, tmp_path: Path, name: str, state: bytes):
    """Opcode BUILD can set attributes: of our own classes, if they let it."""
    with pytest.raises(ValueError, match="nothing of it was run"):
        read_network(write(tmp_path / "net.pkl", b"\x80\x02c" + name.encode() + b"\n" + state + b"b."))
    assert read_network(write(tmp_path / "good.pkl", good)).class_name == "EDMPrecond"


BOMBS = {
    "memo": b"\x80\x04Nr\xff\xff\xff\x07.",
    "tuples": b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns.",
    "length": b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00abc.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_small_files_cannot_claim_the_memory_or_the_stack(tmp_path: Path, kind: str):
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        read_network(write(tmp_path / "net.pkl", BOMBS[kind]))


def tensor_file(path: Path, **changes: Any) -> Path:
    """A snapshot with one weight of three numbers, whose tensor claims something else."""
    raw = torch.arange(3.0)._typed_storage().__reduce__()[1][0]
    claim = {"offset": 0, "size": (3,), "stride": (1,)} | changes
    content = in_network(Call(torch.storage._load_from_bytes, raw))
    weight = content["ema"].meta["state"]["_parameters"]["weight"]
    weight.call = torch._utils._rebuild_tensor_v2, (weight.call[1][0], *claim.values(), False, {})
    return write_pickle(path, content)


def test_a_tensor_is_not_larger_than_its_numbers(tmp_path: Path):
    assert read_network(tensor_file(tmp_path / "whole")).tensors["weight"].tolist() == [0, 1, 2]
    assert read_network(tensor_file(tmp_path / "part", offset=1, size=(2,))).tensors["weight"].tolist() == [1, 2]
    for changes in (
        {"offset": 1},
        {"size": (4,)},
        {"stride": (2,)},
        {"size": (2**40,), "stride": (0,)},
        {"offset": -1},
    ):
        with pytest.raises(ValueError, match="reaches beyond its numbers"):
            read_network(tensor_file(tmp_path / "forged", **changes))


def test_a_network_of_references_to_itself_comes_to_an_end(tmp_path: Path):
    content = in_network(None)
    state = content["ema"].meta["state"]
    leaf: Any = Persistent("Leaf", {"_parameters": {}, "_buffers": {}, "_modules": {}})
    for _ in range(60):
        leaf = Persistent("Twice", {"_parameters": {}, "_buffers": {}, "_modules": {"left": leaf, "right": leaf}})
    state |= {"_parameters": {}, "_modules": {"top": leaf}}
    with pytest.raises(ValueError, match="stands in it twice"):
        read_network(write_pickle(tmp_path / "net.pkl", content))


def test_a_truncated_snapshot_gets_a_sentence(good: bytes, tmp_path: Path):
    for part in (0, 1, 10, *range(50, len(good), len(good) // 20)):
        with pytest.raises(ValueError, match=r"net\.pkl is not a complete checkpoint .* Copy or download it again"):
            read_network(write(tmp_path / "net.pkl", good[:part]) or tmp_path / "net.pkl")


def test_damaged_snapshots_only_ever_get_a_sentence(tmp_path: Path):
    draw, file = random.Random(0), tmp_path / "net.pkl"
    good = tensor_file(file).read_bytes()
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(draw.choice([1, 3, 30])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            read_network(write(file, bytes(damaged)))
        except ValueError as refusal:
            assert "nothing of it was run" in str(refusal)  # noqa: PT017


def test_other_files_get_a_sentence(network, tmp_path: Path):
    file = tmp_path / "net.pkl"
    for content, sentence in (
        ({"net": 1, "step": 2}, "it holds net, step, not 'ema'"),
        ({"ema": [1, 2]}, "it holds no network of torch_utils.persistence"),
        ({"ema": Persistent("EDMPrecond", {"_init_args": (32,), "_init_kwargs": {}})}, "does not name the arguments"),
        ({"ema": Persistent("EDMPrecond", {"_init_kwargs": {"a": b"raw"}})}, "neither number nor text"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_network(write(file, content))
    with pytest.raises(ValueError, match="There is no file"):
        read_network(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_as_torch_reads_it(tmp_path: Path, zipped: bool):
    """Also as torch wrote it before 1.6: weights that are fetched are often as old."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    base = torch.randn(5, 6).half()
    tensors = module.state_dict()  # carries a _metadata attribute
    tensors |= {
        "view": base[1:4, ::2].T,
        "shared": base,
        "brain": torch.randn(7).bfloat16(),
        "empty": torch.empty(0, 2),
    }
    tensors["flags"] = torch.tensor([True, False])
    torch.save(tensors, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    read, expected = read_state_dict(tmp_path / "net.pt"), torch.load(tmp_path / "net.pt", weights_only=True)
    assert list(read) == list(expected)
    for name, tensor in read.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_a_hostile_or_foreign_state_dict_gets_a_sentence(tmp_path: Path):
    marker, file = tmp_path / "marker", tmp_path / "net.pt"
    run = Call(os.system, f"touch {marker}")
    for content, sentence in (
        ({"weight": run}, rf"asks for {os.name}\.system, .* nothing of it was run"),
        (torch.nn.Linear(2, 2), r"asks for torch\.nn\.modules\.linear\.Linear"),
        ({"epoch": 3}, "no tensor where one is expected"),
        ([torch.ones(2)], "holds no tensors by name"),
    ):
        torch.save(content, file)
        with pytest.raises(ValueError, match=sentence):
            read_state_dict(file)
    torch.save({"weight": run}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=rf"asks for {os.name}\.system, .* nothing of it was run"):
        read_state_dict(file)
    assert not marker.exists()


def test_a_damaged_state_dict_of_the_old_format_gets_a_sentence(tmp_path: Path):
    file = tmp_path / "net.pt"
    torch.save({"a": torch.ones(5), "b": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    count = whole.rindex((3).to_bytes(8, "little"))
    huge = whole[:count] + b"\xff" * 8 + whole[count + 8 :]
    for raw in (*(whole[:end] for end in range(0, len(whole) - 1, 13)), huge):
        file.write_bytes(raw)
        with pytest.raises(ValueError, match=r"is not a complete checkpoint of this kind \(.*; nothing of it was run"):
            read_state_dict(file)


def test_a_compressed_state_dict_is_refused(tmp_path: Path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "net.pt")
    with (
        zipfile.ZipFile(tmp_path / "net.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match="torch does not compress its files"):
        read_state_dict(tmp_path / "packed.pt")
