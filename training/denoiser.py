"""Train the Fashion-MNIST denoiser that ships with underpaint: a small diffusers U-Net on 2x2 pixel-unshuffled images.

    python training/denoiser.py --data FOLDER --out runs/fashion --minutes 120 --start OLD/unet

The network predicts v on the DDPM linear schedule. Class labels are dropped for part of the batch, so that one network
serves unconditional and guided sampling (label 10 is "no class"). A complete run that is asked for another --width
writes the average of that width.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DModel
from loop import Loss, Settings, add_options, earlier, read_settings, train
from objective import Levels, Targets, relative_error, training_levels
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from underpaint.cli.base import in_a_sentence
from underpaint.data.datasets import ImageData, load_data
from underpaint.noise import DDPM

NO_CLASS = 10
SIZE = 28


def build_network(width: tuple[int, int] = (64, 96), depth: int = 2) -> UNet2DModel:
    """Two resolutions (14x14, 7x7), attention in the middle; in and out are 2x2 pixel blocks as channels."""
    return UNet2DModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        layers_per_block=depth,
        block_out_channels=width,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=32,
        num_class_embeds=NO_CLASS + 1,
    )


def grow(old: UNet2DModel, new: UNet2DModel) -> None:
    """Give a network of two layers a block the weights of one of one layer: blocks that are new begin as the identity.

    Attention of the old network outside the middle is left behind.
    """
    target, source = new.state_dict(), old.state_dict()
    renamed = {}
    for name, value in source.items():
        if "attentions" in name and not name.startswith("mid_block"):
            continue
        # up blocks: the second of two residual blocks takes the last skip, now that of the third
        renamed[name.replace("resnets.1.", "resnets.2.") if name.startswith("up_blocks") else name] = value
    for name, value in target.items():
        if name in renamed:
            target[name] = renamed[name]
        elif name.endswith(("conv2.weight", "conv2.bias", "conv_shortcut.bias")):
            target[name] = torch.zeros_like(value)
        elif name.endswith("conv_shortcut.weight"):
            target[name] = torch.zeros_like(value)
            target[name][:, : len(value), 0, 0] = torch.eye(len(value))
    new.load_state_dict(target)


def denoising_loss(network: UNet2DModel, data: ImageData, levels: Levels, settings: Settings, drop: float) -> Loss:
    """The loss of a part of the batch, images at levels of their own, with a share ``drop`` of the labels replaced."""
    assert data.labels is not None
    rows, labels = data.rows().to(settings.device), data.labels.to(settings.device)
    targets, scale = Targets(rows, labels, NO_CLASS), levels.scale.to(settings.device)
    place, count = rows.device, settings.part

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(rows), (count,), generator=generator, device=place)
        t = levels.draw(count, generator)
        level, clean = levels.level[t.cpu()], rows[chosen]
        alpha, sigma = level.columns(clean)
        noisy = alpha * clean + sigma * torch.randn(clean.shape, generator=generator, device=place)
        dropped = torch.rand(count, generator=generator, device=place) < drop
        label = torch.where(dropped, NO_CLASS, labels[chosen])
        blocks = pixel_unshuffle(noisy.view(-1, 1, SIZE, SIZE), 2).contiguous(memory_format=settings.layout)
        with settings.mixed_precision():
            velocity = network(blocks, t, class_labels=label).sample
        denoised = alpha * noisy - sigma * pixel_shuffle(velocity.float(), 2).flatten(1)
        return relative_error(denoised, targets(clean, noisy, level, label), scale[t])

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, minutes=120.0, rate=1.8e-3, batch=128)
    parser.add_argument("--data", default="fashion-mnist", help="as `underpaint stats` takes it")
    parser.add_argument("--start", type=Path, help="folder of a UNet2DModel to go on from, of this form or shallower")
    parser.add_argument("--drop", type=float, default=0.5, help="share of labels replaced by 'no class'")
    args = parser.parse_args()
    settings = read_settings(args)

    data = load_data(args.data)
    spectrum = torch.linalg.eigvalsh(torch.cov(data.rows().T).double()).clamp(min=0)
    levels = training_levels(DDPM("linear")(torch.arange(1000)), spectrum)
    network = build_network()
    if args.start:
        grow(UNet2DModel.from_pretrained(args.start, torch_dtype=torch.float32), network)
    network = network.to(settings.device, memory_format=settings.layout)
    print(f"{len(data):,} images, {sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    loss = denoising_loss(network, data, levels, settings, args.drop)
    note = {"drop": args.drop, "earlier": earlier(args.start), "data": data.source}
    train(network, loss, args.out, settings, note)
    network.cpu().save_pretrained(args.out / "network")


if __name__ == "__main__":
    with in_a_sentence("denoiser.py"):
        main()
