"""Train a small EDM network (DDPM++ form) on images of your own, class-conditional where they carry labels.

    python training/edm.py --data cifar10.npz --out runs/cifar10 --minutes 240

``--data`` is what `underpaint stats` takes. Labels are dropped for part of the batch, so that one network serves
unconditional and guided sampling; half of all images are mirrored. The preconditioning is that of Karras et al. 2022;
levels and weights are those of `objective`. The result, here ``runs/cifar10/cifar10.safetensors``, is what `underpaint
convert` makes of NVIDIA's own checkpoints, and is loaded in the same way.

``--start`` goes on from such a result. ``--pool 2`` trains on pictures of half the size, four times as many a second: a
network learns from them what things look like, and a run that starts from its result adds the details.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from loop import Loss, Settings, add_options, earlier, read_settings, train
from objective import Levels, Targets, relative_error, training_levels
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from underpaint.bounds import integer
from underpaint.cli.base import in_a_sentence
from underpaint.data.datasets import ImageData, load_data
from underpaint.files import read_tensor_metadata, read_tensors, replacing
from underpaint.models.networks.edm import build_edm
from underpaint.noise import EDM, spaced_ratios
from underpaint.recipes.convert import convert
from underpaint.theory.cloud import as_rows
from underpaint.theory.gaussian import Gaussian

SIGMA_DATA = 0.5
#: sigma above which the target is exact: below it, the mean over CIFAR-10 is the image itself.
EXACT_FROM = 4.0


def network_config(data: ImageData, args: argparse.Namespace) -> dict[str, Any]:
    """The keywords that `build_edm` takes."""
    channels, size, width = data.shape
    if size != width:
        raise ValueError(f"The network takes square pictures, got {size}x{width}.")
    classes = 0 if data.labels is None or args.unconditional else int(data.labels.max()) + 1
    return {
        "class_name": "EDMPrecond",
        "model_type": "SongUNet",
        "img_resolution": size,
        "img_channels": channels,
        "label_dim": classes,
        "label_dropout": args.drop if classes else 0.0,
        "model_channels": args.channels,
        "channel_mult": args.mult,
        "num_blocks": args.blocks,
        "attn_resolutions": [size // 4],
        "dropout": 0.0,
        "sigma_data": SIGMA_DATA,
    }


def pooled(images: Tensor, factor: int) -> Tensor:
    """Images [N, C, H, W] with the mean of ``factor`` by ``factor`` pixels in one; bytes stay bytes."""
    if factor == 1:
        return images
    means = avg_pool2d(images.float(), factor)
    return means if images.is_floating_point() else means.round().to(images.dtype)


def with_mirrors(images: Tensor) -> Tensor:
    """Images [N, C, H, W] and, after them, their mirror images, as rows [2N, D]."""
    return torch.cat([images, images.flip(-1)]).flatten(1)


def fill(network: nn.Module, config: dict[str, Any], start: Path) -> None:
    """Give the network the weights of START, a result of this script."""
    if read_tensor_metadata(start)["config"] != config:
        raise ValueError(f"{start} is a network of another form than the one asked for: {config}.")
    network.load_state_dict({name: tensor.float() for name, tensor in read_tensors(start).items()})


def denoising_loss(
    network: nn.Module, rows: Tensor, labels: Tensor, null: int, shape: tuple[int, int, int], levels: Levels,
    settings: Settings, drop: float,
) -> Loss:  # fmt: skip
    """The loss of a part of the batch, rows [N, D] at levels of their own; ``null`` is the label of any class."""
    targets, place, count = Targets(rows, labels, null, EXACT_FROM), rows.device, settings.part

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(rows), (count,), generator=generator, device=place)
        index = levels.draw(count, generator)
        level, sigma = levels.level[index.cpu()], levels.level.sigma.to(place, torch.float32)[index]
        clean = as_rows(rows[chosen])
        noisy = clean + sigma[:, None] * torch.randn(clean.shape, generator=generator, device=place)
        dropped = torch.rand(count, generator=generator, device=place) < drop
        label = torch.where(dropped, null, labels[chosen])
        with settings.mixed_precision():
            denoised = network(noisy.unflatten(1, shape), sigma, label).flatten(1)
        return relative_error(denoised, targets(clean, noisy, level, label), levels.scale.to(place)[index])

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, minutes=240.0, rate=1.5e-3, batch=128)
    parser.add_argument("--data", required=True, help="see above")
    parser.add_argument("--unconditional", action="store_true", help="leave labels aside")
    parser.add_argument("--drop", type=float, default=0.3, help="share of labels replaced by 'any class'")
    parser.add_argument("--start", type=Path, help="result of an earlier run to go on from, a .safetensors")
    parser.add_argument("--pool", type=int, default=1, help="side of the squares of pixels that are made into one")
    parser.add_argument("--channels", type=int, default=32, help="of the finest level, a multiple of 32")
    parser.add_argument("--mult", type=int, nargs="+", default=[1, 2, 3], help="channels of each level, as multiples")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks a level")
    args = parser.parse_args()
    settings = read_settings(args)

    for name in ("pool", "channels", "blocks"):
        integer(getattr(args, name), f"--{name}", 1, 4096)
    for factor in args.mult:
        integer(factor, "--mult", 1, 64)
    data = load_data(args.data)
    config = network_config(data, args)
    network = build_edm(config).eval()  # labels are dropped below, from a generator that a resumed run goes on with
    if args.start:
        fill(network, config, args.start)
    network = network.to(settings.device, memory_format=settings.layout)
    print(f"{len(data):,} pictures, {sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    sigma = spaced_ratios(1000, 80.0, 0.002).flip(0)
    images = pooled(data.images, args.pool)
    # as floats, four times the memory of bytes: the exact targets read all of them at every step
    rows, null = as_rows(with_mirrors(images)).to(settings.device), config["label_dim"]
    levels = training_levels(
        EDM()(sigma), Gaussian.fit(ImageData(images, data.name, data.source).batches()).eigenvalues
    )
    labels = torch.zeros(len(data), dtype=torch.long) if data.labels is None or not null else data.labels
    labels = labels.repeat(2).to(settings.device)
    drop = args.drop if null else 0.0
    shape = (images.shape[1], images.shape[2], images.shape[3])
    loss = denoising_loss(network, rows, labels, null, shape, levels, settings, drop)
    note = {"drop": drop, "pool": args.pool, "earlier": earlier(args.start), "data": data.source, "config": config}
    train(network, loss, args.out, settings, note)
    state = args.out / "state.pt"
    with replacing(state) as temporary:
        torch.save(network.cpu().state_dict(), temporary)
    print(convert(state, args.out / f"{args.out.name}.safetensors", config))


if __name__ == "__main__":
    with in_a_sentence("edm.py"):
        main()
