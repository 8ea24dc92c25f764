"""Train the Fashion-MNIST denoiser that ships with underpaint: a small diffusers U-Net on 2x2 pixel-unshuffled images.

    python training/denoiser.py --data FOLDER --out runs/fashion --minutes 90

The network predicts v on the DDPM linear schedule. Class labels are dropped for part of the batch, so that one network
serves unconditional and guided sampling (label 10 is "no class").
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DModel
from loop import train
from torch.nn.functional import mse_loss, pixel_unshuffle

from underpaint.data.idx import read_idx
from underpaint.noise import DDPM

NO_CLASS = 10


def build_network(width: tuple[int, int] = (64, 96)) -> UNet2DModel:
    """Two resolutions (14x14, 7x7), one block each, attention at 7x7; in and out are 2x2 pixel blocks as channels."""
    return UNet2DModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=width,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=32,
        num_class_embeds=NO_CLASS + 1,
    )


def batch_loss(network, images, labels, alpha, sigma, generator, drop: float) -> torch.Tensor:
    """Mean squared error of v = alpha eps - sigma x0, times stratified over the batch, labels dropped with rate
    `drop`."""
    count = len(images)
    stratum = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = (stratum * len(alpha)).long().clamp(max=len(alpha) - 1)
    a, s = alpha[t].view(-1, 1, 1, 1), sigma[t].view(-1, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator)
    kept = torch.rand(count, generator=generator) >= drop
    noisy = (a * images + s * noise).contiguous(memory_format=torch.channels_last)
    prediction = network(noisy, t, class_labels=torch.where(kept, labels, NO_CLASS)).sample
    return mse_loss(prediction, a * noise - s * images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90.0, help="training time, counted over all resumed parts")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--drop", type=float, default=0.4, help="share of labels replaced by 'no class'")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    images = pixel_unshuffle(read_idx(args.data / "train-images-idx3-ubyte.gz").unsqueeze(1).float() / 127.5 - 1, 2)
    labels = read_idx(args.data / "train-labels-idx1-ubyte.gz").long()
    torch.manual_seed(args.seed)
    network = build_network().to(memory_format=torch.channels_last)
    level = DDPM("linear")(torch.arange(1000))
    alpha, sigma = level.alpha.float(), level.sigma.float()
    order = torch.empty(0, dtype=torch.long)

    def loss(generator: torch.Generator) -> torch.Tensor:
        nonlocal order
        if len(order) < args.batch:
            order = torch.randperm(len(images), generator=generator)
        rows, order = order[: args.batch], order[args.batch :]
        return batch_loss(network, images[rows], labels[rows], alpha, sigma, generator, args.drop)

    note = {"batch": args.batch, "drop": args.drop}
    train(network, loss, args.out, args.minutes, args.rate, args.seed, note=note)
    network.save_pretrained(args.out / "network")


if __name__ == "__main__":
    main()
