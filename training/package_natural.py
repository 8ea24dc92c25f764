"""Put an EDM network of natural images into the box: half-precision weights, statistics, grid of samples, model card.

    python training/package_natural.py --run runs/cifar10 --data cifar10.npz --classifier runs/features
    python training/package_natural.py --run runs/cifar10 --data cifar10.npz --seen "Ships and horses can be named."

Everything that the card states is measured here, but for what a person sees in the grid of samples: with ``--seen``
nothing is measured again, and the card has these words. The box gets no images of the data. ``--classifier`` is what
training/classifier.py has made of the same data; Fréchet distances are in its features, and in those of each
``--features`` beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loop import facts
from package import distances, explained_at_high_noise, generate, in_half, losses, render, theory_samples
from PIL import Image, ImageDraw
from torch import Tensor

from underpaint import assets
from underpaint.bounds import MOST_ITEMS, MOST_STEPS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.data.datasets import ImageData, load_data
from underpaint.data.encoded import is_encoded
from underpaint.data.npy import read_npz
from underpaint.data.store import load_gaussian, save_gaussian
from underpaint.files import (
    check_targets,
    read_json,
    read_tensor_metadata,
    read_tensors,
    replacing,
    write_tensors,
    write_text,
)
from underpaint.metrics.features import FeatureSet, load_features, load_statistics
from underpaint.metrics.frechet import Statistics
from underpaint.metrics.spaces import find_features
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.recipes.shared.request import Conditioning
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture
from underpaint.theory.sums import Stationary, Sums

NAME, TITLE = "cifar10", "CIFAR-10 (Krizhevsky 2009)"
SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 80.0)
GUIDANCE = (1.0, 2.0)
#: Samples of each class in the grid, and how much they are enlarged.
EACH, SCALE = 8, 2
#: Frequencies along each axis whose covariance is kept whole, of all images and of each class; at all others colours
#: alone are kept together. A complete basis would be half of what a wheel may hold.
SIDE, CLASS_SIDE = 16, 8
BLOCK = 8
#: Images whose sums are taken together.
BATCH = 2000
ROWS = {
    "network": "this network, without a class",
    "guidance 1": "this network, each class in turn",
    "guidance 2": "the same at guidance 2",
    "mixture": "a mixture of Gaussians, one a class, full rank",
    "gaussian": "one Gaussian, full rank",
    "train": "the training images themselves",
}


def write_network(run: Path, home: Path, notes: dict[str, Any]) -> None:
    """The averaged network in half precision as one file in the form of `underpaint convert`, and our notes."""
    file = run / f"{run.name}.safetensors"
    halves = {name: tensor.half() for name, tensor in read_tensors(file).items()}
    write_tensors(home / f"{home.name}.safetensors", halves, read_tensor_metadata(file))
    write_text(home / "underpaint.json", json.dumps(notes, indent=2) + "\n")


def kept(rows: Tensor, shape: tuple[int, int, int], side: int) -> Gaussian:
    """What is stored of the Gaussian of rows: stationary beyond its low frequencies, its basis in half precision."""
    sums = Sums(Stationary(shape, min(side, *shape[1:])), rows.mean(0))
    for part in rows.split(BATCH):
        sums.add(part)
    return in_half(Gaussian(sums.mean.float(), sums.covariance()))


def write_statistics(data: ImageData, home: Path, sides: tuple[int, int]) -> None:
    """The Gaussian of all images, and one for each class."""
    assert data.labels is not None
    rows, classes = data.rows(), {}
    for label in data.labels.unique().tolist():
        own = rows[data.labels == label]
        classes[label] = len(own), kept(own, data.shape, sides[1])
    provenance = {"data": home.name, "split": "train", "count": len(data), "range": [-1, 1], "shape": list(data.shape)}
    names = {label: data.classes.get(label, str(label)) for label in classes}
    everything = kept(rows, data.shape, sides[0])
    save_gaussian(home / "gaussian.safetensors", everything, classes, class_names=names, **provenance)


def cases(model: Model, guidance: float) -> list[Conditioning]:
    """Every class, at one guidance."""
    return [Conditioning(label, guidance) for label in range(model.classes)]


def is_jpeg(place: str) -> bool:
    """Whether data are an archive of JPEG files, by the bytes that such a file begins with."""
    path = Path(place)
    return is_encoded(path) and bytes(read_npz(path, ["train_bytes"])["train_bytes"][:2]) == b"\xff\xd8"


def blocks(rows: Tensor, shape: tuple[int, int, int]) -> float:
    """Mean squared difference of neighbours across the edges of JPEG's blocks, over that one pixel to either side of
    them; 1 where a picture is no wider than a block."""
    step = rows.unflatten(1, shape).diff(dim=3).square().mean((0, 1, 2))
    edge = torch.tensor(range(BLOCK, shape[2] - 1, BLOCK), dtype=torch.long) - 1
    return float(2 * step[edge].sum() / (step[edge - 1] + step[edge + 1]).sum()) if len(edge) else 1.0


def sheet(images: Tensor, names: Sequence[str]) -> Image.Image:
    """Images [G, K, N, C, H, W] in [0, 1] as a row for each of K classes, with G blocks of N side by side."""
    margin, gap, size = 76, 12, images.shape[-1] * SCALE
    groups, count, each = images.shape[:3]
    canvas = Image.new("RGB", (margin + groups * each * size + (groups - 1) * gap, count * size), "white")
    pen = ImageDraw.Draw(canvas)
    for k, name in enumerate(names):
        pen.text((4, k * size + size // 2 - 6), name, fill="black", font_size=12)
        for g in range(groups):
            for n in range(each):
                pixels = (images[g, k, n] * 255).round().byte().permute(1, 2, 0).numpy()
                picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)
                canvas.paste(picture, (margin + g * (each * size + gap) + n * size, k * size))
    return canvas


def grid(model: Model, steps: int, each: int = EACH) -> Tensor:
    """Samples [G, K, N, C, H, W] of each class at each guidance, the same seeds at all of them."""
    found = []
    for guidance in GUIDANCE:
        rows = generate(model, each * model.classes, steps, batch=each * model.classes, cases=cases(model, guidance))
        found.append(model.images(rows).unflatten(0, (each, model.classes)).transpose(0, 1))
    return torch.stack(found)


def spaces(home: Path, names: Sequence[str], test: ImageData) -> dict[str, tuple[FeatureSet, Statistics]]:
    """The feature space of the box, then others, each with its reference of the test split."""
    boxed, reference = load_features(home / "classifier"), load_statistics("test", home / "classifier")
    if reference.count != len(test):
        raise ValueError(
            f"The classifier's reference is of {reference.count or 0:,} test images, and {test.name} has "
            f"{len(test):,}; make it of these by training/classifier.py."
        )
    found = {boxed.name: (boxed, reference)}
    for name in names:
        space = find_features(name, test.shape)
        found[space.name] = space, space.statistics(test.rows())
    return found


def measure(
    model: Model, train: ImageData, test: ImageData, gaussian: Gaussian, mixture: Mixture, args: argparse.Namespace
) -> dict[str, Any]:
    """Everything that the card states; the grid is drawn on the way."""
    judges = spaces(args.out, args.features, test)  # refuses what does not suit before the work
    with replacing(args.out / "classes.png") as temporary:
        names = [train.classes.get(label, str(label)) for label in range(model.classes)]
        sheet(grid(model, args.steps), names).save(temporary, format="PNG", optimize=True)
    samples = {"network": generate(model, args.samples, args.steps)}
    for guidance in GUIDANCE:
        samples[f"guidance {guidance:g}"] = generate(model, args.samples, args.steps, cases=cases(model, guidance))
    samples |= theory_samples(gaussian, mixture, train, args.samples)
    few, level = test.take(args.tested), [model.schedule(sigma) for sigma in SIGMAS]
    judged = {"network": model, "gaussian": gaussian, "boxed": load_gaussian(args.out / "gaussian.safetensors")}
    found = {title: distances(samples, *space) for title, space in judges.items()}
    features = next(iter(found))
    return {
        "loss": {
            name: dict(zip(map(str, SIGMAS), losses(denoise, level, few.rows()), strict=True))
            for name, denoise in judged.items()
        },
        "explained": explained_at_high_noise(model, train, gaussian, min(64, args.samples)),
        "frechet": found[features],
        "spaces": found,
        "features": features,
        "blocks": {name: blocks(samples[name], train.shape) for name in ("train", "network")},
        "jpeg": is_jpeg(args.data),
        "samples": args.samples,
        "steps": args.steps,
        "tested": len(few),
        "side": args.side,
        "class_side": args.class_side,
        "seen": None,
    }


def card(record: dict[str, Any], measured: dict[str, Any], model: Model, title: str, classes: Sequence[str]) -> str:
    """The model card, every number from the training record or measured above."""
    _, height, width = model.shape
    return render(
        "natural_card.md.j2",
        name=model.name,
        record=record,
        parts=[*record["earlier"], record],
        measured=measured,
        rows=ROWS.items(),
        grid={"each": EACH, "guidance": GUIDANCE},
        parameters=sum(p.numel() for p in model.network.parameters()),
        size=f"{height}x{width}",
        classes=classes,
        title=title,
        data=record["data"],
    )


def build(args: argparse.Namespace, record: dict[str, Any]) -> dict[str, Any]:
    """All files but the card; returns what was measured."""
    home = args.out
    train, test = load_data(args.data), load_data(args.data, "test")
    assert train.labels is not None
    classes = len(train.labels.unique())
    notes = {"name": home.name, "data": home.name, "null_class": classes, "range": [-1, 1]}
    write_network(args.run, home, notes | {"training": facts(record)})
    if args.classifier is not None:
        shutil.copytree(args.classifier, home / "classifier", dirs_exist_ok=True)
    rows = train.rows()
    gaussian, mixture = Gaussian.fit(rows), Mixture.fit(rows, train.labels)
    write_statistics(train, home, (args.side, args.class_side))
    return measure(load_model(home), train, test, gaussian, mixture, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a result of training/edm.py")
    parser.add_argument("--data", required=True, help="what it was trained on, with labels and a test split")
    parser.add_argument("--out", type=Path, default=Path(assets.__file__).parent / NAME, help="by default the box")
    parser.add_argument("--classifier", type=Path, help="made by training/classifier.py; by default that of --out")
    parser.add_argument("--features", action="append", default=[], help="another feature space, as for `bench`")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--tested", type=int, default=2000, help="test images that errors are taken on")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--side", type=int, default=SIDE, help="low frequencies that are kept together")
    parser.add_argument("--class-side", type=int, default=CLASS_SIDE, help="the same for each class")
    parser.add_argument("--title", default=TITLE, help="what the card calls the data")
    parser.add_argument("--seen", help="what a person recognises in classes.png; nothing is measured again")
    args = parser.parse_args()
    check_integers(vars(args), samples=(2, MOST_ITEMS), tested=(2, MOST_ITEMS), steps=(1, MOST_STEPS))
    check_integers(vars(args), side=(1, 4096), class_side=(1, 4096))
    check_targets(args.out / "README.md")

    record, place = read_json(args.run / "training.json"), args.out / "measured.json"
    measured = build(args, record) if args.seen is None else read_json(place) | {"seen": args.seen}
    write_text(place, json.dumps(measured, indent=2) + "\n")
    notes = read_tensor_metadata(args.out / "gaussian.safetensors")
    names = list(notes["class_names"].values())
    write_text(args.out / "README.md", card(record, measured, load_model(args.out), args.title, names))
    megabytes = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()) / 1e6
    print(json.dumps(measured, indent=1), f"\n{megabytes:.1f} MB in {args.out}")


if __name__ == "__main__":
    with in_a_sentence("package_natural.py"):
        main()
