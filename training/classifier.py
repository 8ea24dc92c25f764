"""Train a small classifier whose features ship with underpaint as a space for Frechet distances.

    python training/classifier.py --out runs/classifier --assets src/underpaint/assets/fashion-mnist/classifier
    python training/classifier.py --out runs/features --assets src/underpaint/assets/cifar10/classifier \\
        --data cifar10.npz --name cifar-cnn-64 --title CIFAR-10 --mirror --epochs 6

Training images are shifted by up to two pixels. Those of Fashion-MNIST are not mirrored: nearly all shoes of this data
set point the same way, and features taught to overlook a mirror image would not count it as an error of a generator.
Labels are not smoothed, which would draw each class together to a point. The test split is used once, at the end.

Writes the weights, their config, the feature statistics of both splits, and the model card. The order and shifts of an
epoch depend only on the seed and its number, so that an interrupted run that is started again ends as planned.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import OneCycleLR

from underpaint.bounds import MOST_ITEMS, SEEDS, check_integers, integer, number
from underpaint.cli.base import in_a_sentence
from underpaint.data.datasets import ImageData, load_data
from underpaint.files import check_targets, replacing, write_text
from underpaint.metrics.features import FeatureSet, SmallClassifier, save_classifier
from underpaint.metrics.frechet import Statistics
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture
from underpaint.theory.moments import Moments

CARD = """---
license: apache-2.0
---
# {name}: features for Frechet distances on {title}

A convolutional classifier of {size} images in [-1, 1] with {parameters:,} parameters. Its {features}
penultimate features (the last block's mean over space) are the space in which underpaint compares generated images
with real ones.

| file | what it holds |
| --- | --- |
| `model.safetensors` | the weights, float32 |
| `config.json` | name, architecture, and how it was trained |
| `features.safetensors` | count, mean and scatter (float64) of the features of both splits, as references |

**Data.** {data}, shifted by up to two pixels{mirrored}. The {tested:,} test images were used once, at the end.

**Recipe.** `training/classifier.py`: AdamW, learning rate {rate} in one cycle, weight decay {decay}, batch {batch},
{epochs} epochs, cross-entropy without label smoothing, seed {seed}; {minutes:.0f} minutes with {threads} thread(s) of
a busy CPU.

**Accuracy** on the test split: **{accuracy:.2%}**.

**Yardsticks**: Frechet distance from the test split, of samples clamped to [-1, 1].

| samples | count | distance | floor |
| --- | --- | --- | --- |
{yardsticks}

The *floor* is what a perfect sampler would get on average at these counts, to first order and for Gaussian features.
Features of real images lie in clusters, so that they stay somewhat below it.

**For** comparing generators of {title} with one another, at equal sample counts. **Not for** comparison with
published FID values, which are taken in the space of an Inception network, nor for images of any other kind.

**Licence.** Code and weights Apache-2.0; those of the data are their owners'.
"""
#: Why images are not mirrored, where they are not.
NOT_MIRRORED = ". Not mirrored: the features should notice an image that points the other way than those of the data"


def load_split(place: str, split: str) -> tuple[ImageData, Tensor, Tensor]:
    """A complete split, its images [N, C, H, W] in [-1, 1] and labels [N]."""
    data = load_data(place, split)
    if data.labels is None:
        raise ValueError(f"{data.source} have no labels; a classifier needs them.")
    return data, data.rows().unflatten(1, data.shape), data.labels


def shift(images: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Move each image by its own whole number of pixels, up to ``reach`` each way; black (-1) comes in."""
    size = images.shape[-1]
    windows = pad(images, (reach,) * 4, value=-1.0).unfold(2, size, 1).unfold(3, size, 1)
    down, right = torch.randint(2 * reach + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right].contiguous(memory_format=torch.channels_last)


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image or, as often, its mirror image."""
    turned = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(turned[:, None, None, None], images.flip(3), images)


def train_epoch(
    network, optimizer, schedule, images, labels, batch: int, generator: torch.Generator, mirror: bool = False
) -> tuple[float, float]:
    """One pass in random order, without the last incomplete batch. Returns the mean loss and accuracy along the way."""
    network.train()
    losses, hits = [], []
    for rows in torch.randperm(len(images), generator=generator)[: len(images) // batch * batch].split(batch):
        chosen = mirrored(images[rows], generator) if mirror else images[rows]
        logits = network(shift(chosen, generator))
        loss = cross_entropy(logits, labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        hits.append((logits.argmax(1) == labels[rows]).float().mean())
    return float(torch.stack(losses).mean()), float(torch.stack(hits).mean())


@torch.no_grad()
def accuracy(network: SmallClassifier, images: Tensor, labels: Tensor) -> float:
    network.eval()
    guesses = torch.cat([network(part).argmax(1) for part in images.split(500)])
    return float((guesses == labels).double().mean())


def spaced(count: int, most: int) -> Tensor:
    """Evenly spaced places, ``most`` of them at most."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def yardsticks(space: FeatureSet, images: Tensor, labels: Tensor, test: Moments, seed: int) -> list[dict[str, Any]]:
    """Scores against the test split: of train images [N, C, H, W], and of samples of what fits their pixels.

    Some images are evenly spaced, as the first ones may all be of one class.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, mirrored = images.flatten(1), images.flip(3).flatten(1)
    gaussian, mixture = Gaussian.fit(rows), Mixture.fit(rows, labels, rank=200)
    samples = {
        "train images": rows,
        "some train images": rows[spaced(len(rows), 10_000)],
        "some train images, fewer": rows[spaced(len(rows), 300)],
        "some train images, mirrored": mirrored[spaced(len(rows), 10_000)],
        "a Gaussian of the train pixels, full rank": gaussian.sample(10_000, generator),
        "a mixture of 10 class Gaussians, rank 200": mixture.sample(10_000, generator),
    }
    scores = {name: space.score(x, Statistics.of(test, space.name)) for name, x in samples.items()}
    return [{"samples": name, "count": s.count, "distance": s.value, "floor": s.floor} for name, s in scores.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="what load_data takes, with labels and a test split")
    parser.add_argument("--name", default="fashion-cnn-64", help="of the feature space")
    parser.add_argument("--title", default="Fashion-MNIST", help="what the card calls the data")
    parser.add_argument("--mirror", action="store_true", help="mirror half of the training images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--assets", type=Path, required=True, help="folder to write the trained classifier to")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2, help="1 is as fast where another training shares two cores")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    check_integers(vars(args), epochs=(1, MOST_ITEMS), batch=(1, MOST_ITEMS), seed=(0, SEEDS - 1))
    number(args.rate, "highest learning rate", 0, 1e6)
    number(args.decay, "--decay", 0, 1e6)
    check_targets(args.out / "checkpoint.pt", args.assets / "README.md")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))

    data, images, labels = load_split(args.data, "train")
    torch.manual_seed(args.seed)
    network = SmallClassifier(classes=int(labels.max()) + 1, channels=data.shape[0]).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=args.decay)
    steps = args.epochs * (len(images) // args.batch)
    schedule = OneCycleLR(optimizer, args.rate, total_steps=steps, pct_start=0.2, cycle_momentum=False)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    done, minutes, checkpoint = 0, 0.0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        done, minutes = state["epoch"], state["minutes"]
        print(f"resumed after epoch {done}, {minutes:.1f} minutes spent", flush=True)

    for epoch in range(done + 1, args.epochs + 1):
        start = time.monotonic()
        generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
        loss, hit = train_epoch(network, optimizer, schedule, images, labels, args.batch, generator, args.mirror)
        minutes += (time.monotonic() - start) / 60
        state = {name: part.state_dict() for name, part in parts.items()}
        with replacing(checkpoint) as temporary:
            torch.save(state | {"epoch": epoch, "minutes": minutes}, temporary)
        print(f"epoch {epoch} minutes {minutes:.1f} loss {loss:.4f} train accuracy {hit:.4f}", flush=True)

    _, test_images, test_labels = load_split(args.data, "test")
    facts = {name: getattr(args, name) for name in ("epochs", "batch", "rate", "decay", "threads", "seed", "mirror")}
    facts |= {"data": data.source, "minutes": round(minutes, 1)}
    facts["accuracy"] = accuracy(network, test_images, test_labels)
    print(f"test accuracy {facts['accuracy']:.4f}", flush=True)
    space = FeatureSet(args.name, network.features, data.shape)
    splits = {name: Moments.of(space.extract(x.flatten(1))) for name, x in (("train", images), ("test", test_images))}
    scores = yardsticks(space, images, labels, splits["test"], args.seed)
    save_classifier(args.assets, network, args.name, splits, data.shape, training=facts, yardsticks=scores)
    rows = ["| {samples} | {count:,} | {distance:.3g} | {floor:.2g} |".format(**score) for score in scores]
    channels, height, width = data.shape
    sizes = {"parameters": sum(p.numel() for p in network.parameters()), "features": splits["test"].dimension}
    sizes |= {"size": f"{height}x{width} {'grey' if channels == 1 else 'RGB'}", "tested": len(test_images)}
    words = {
        "name": args.name,
        "title": args.title,
        "mirrored": ", half of them mirrored" if args.mirror else NOT_MIRRORED,
    }
    write_text(args.assets / "README.md", CARD.format(yardsticks="\n".join(rows), **words, **sizes, **facts))
    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    with in_a_sentence("classifier.py"):
        main()
