"""From NVIDIA's pickle to a `Model`: the same weights, the same numbers, and a sentence where something is wrong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from snapshots import CONFIGS, randomised, snapshot, write_pickle

from underpaint.files import read_tensor_metadata, read_tensors, write_tensors
from underpaint.models.load import load_model
from underpaint.models.networks.edm import build_edm, load_edm
from underpaint.noise import EDM
from underpaint.recipes.convert import convert


def converted(folder: Path, form: str) -> tuple[torch.nn.Module, Path, dict]:
    network = randomised(build_edm(CONFIGS[form]))
    source = write_pickle(folder / "network-snapshot.pkl", snapshot(network, CONFIGS[form]))
    out = folder / "net.safetensors"
    return network, out, convert(source, out)


@pytest.mark.parametrize("form", CONFIGS)
def test_a_converted_snapshot_is_the_network(tmp_path: Path, form: str):
    network, out, summary = converted(tmp_path, form)
    model, expected = load_edm(out), network.state_dict()
    assert model.network.state_dict().keys() == expected.keys()
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, expected[name])
    sigma, label = torch.tensor([0.5, 20.0]), 3 if model.classes else None
    x = sigma[:, None] * torch.randn(2, model.dimension, generator=torch.Generator().manual_seed(0))
    labels = None if label is None else torch.tensor([label, label])
    direct = network(x.unflatten(1, model.shape), sigma, labels).flatten(1)
    torch.testing.assert_close(model.denoise(x, EDM()(sigma), label), direct, rtol=1e-4, atol=1e-4)
    source = Path(summary["source"])
    assert summary["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert summary["parameters"] == sum(weight.numel() for weight in network.parameters())
    assert summary["shape"] == list(model.shape)
    assert f"network of {summary['parameters']:,} parameters, for states of " in summary["finding"]
    assert model.notes["source"] == source.name


@pytest.mark.parametrize(
    ("form", "architecture", "low", "high", "classes", "null_class"),
    [
        ("DDPM++", "DDPM++", 0.002, 80.0, 0, None),
        ("DDPM++ conditional", "DDPM++", 0.002, 80.0, 5, 5),
        ("NCSN++", "NCSN++", 0.002, 80.0, 0, None),
        ("ADM", "ADM", 0.002, 80.0, 5, None),
        ("VE", "DDPM++", 0.02, 80.0, 0, None),
    ],
)
def test_what_a_converted_network_says_of_itself(tmp_path, form, architecture, low, high, classes, null_class):
    _, out, summary = converted(tmp_path, form)
    model = load_model(out)
    assert summary["architecture"] == model.notes["architecture"] == architecture
    assert (model.schedule, summary["sigma_min"], summary["sigma_max"]) == (EDM(low, high), low, high)
    assert (model.classes, model.null_class, model.prediction) == (classes, null_class, "x0")
    assert load_model(tmp_path).name == "net"


def test_classes(tmp_path: Path):
    x, level = torch.randn(2, 3 * 12 * 12), EDM()(1.0)
    model = load_edm(converted(tmp_path, "ADM")[1])
    assert (model.conditional(1)(x, level) - model.conditional(3)(x, level)).abs().max() > 1e-3
    for denoise in (model, lambda x, level: model.network(x.unflatten(1, model.shape), level.sigma.expand(2))):
        with pytest.raises(ValueError, match=r"no(ne| label) for 'any class'"):
            denoise(x, level)
    with pytest.raises(ValueError, match="cannot be guided"):
        model.conditional(1, guidance=2.0)


def test_a_state_dict_with_its_config(tmp_path: Path):
    config, network = CONFIGS["VP"], randomised(build_edm(CONFIGS["VP"]))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    summary = convert(tmp_path / "net.pt", tmp_path / "net.safetensors", config)
    assert summary["preconditioning"] == "VPPrecond"
    expected = network.state_dict()
    written = read_tensors(tmp_path / "net.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match=r"net\.pt does not fit the network that it describes"):
        convert(tmp_path / "net.pt", tmp_path / "other.safetensors", config | {"model_channels": 20})
    assert not (tmp_path / "other.safetensors").exists()


def test_nothing_is_written_for_a_hostile_or_unknown_snapshot(tmp_path: Path):
    marker, source, out = tmp_path / "marker", tmp_path / "net.pkl", tmp_path / "net.safetensors"

    class Exploit:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    content = snapshot(build_edm(CONFIGS["DDPM++"]), CONFIGS["DDPM++"])
    write_pickle(source, content | {"loss_fn": Exploit()})
    with pytest.raises(ValueError, match=rf"net\.pkl asks for {os.name}\.system, .* nothing of it was run"):
        convert(source, out)
    content["ema"].meta["class_name"] = "MyPrecond"
    write_pickle(source, content)
    with pytest.raises(ValueError, match="of class MyPrecond; handled are"):
        convert(source, out)
    with pytest.raises(ValueError, match=r"expected a name\.safetensors"):
        convert(source, tmp_path / "net.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pkl"]


def test_what_cannot_be_loaded_gets_a_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"underpaint convert .*net\.pkl --out net\.safetensors"):
        load_edm(tmp_path / "net.pkl")
    with pytest.raises(ValueError, match="There is no file"):
        load_edm(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="holds 0 safetensors files"):
        load_edm(tmp_path)
    write_tensors(tmp_path / "net.safetensors", {"mean": torch.zeros(3)}, {"format": 1, "kind": "gaussian"})
    with pytest.raises(ValueError, match="not an EDM network written by `underpaint convert`"):
        load_edm(tmp_path)
    _, out, _ = converted(tmp_path, "VE")
    tensors, metadata = read_tensors(out), read_tensor_metadata(out)
    del tensors["model.map_layer0.bias"]
    write_tensors(out, tensors, metadata)
    with pytest.raises(ValueError, match=r"does not fit the network .*map_layer0\.bias"):
        load_edm(out)
