"""Train a small EDM network (DDPM++ form, unconditional) on images of your own, such as CIFAR-10 decoded to an .npz.

    python training/edm.py --data cifar10.npz --out runs/cifar10 --minutes 60

Noise and weighting are those of Karras et al. 2022, Table 1: ln(sigma) is normal, and the loss has equal weight at all
sigmas for a network that knows nothing yet. The result, here ``runs/cifar10/cifar10.safetensors``, is what `underpaint
convert` makes of NVIDIA's own checkpoints, and is loaded in the same way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from loop import train

from underpaint.data.datasets import load_data
from underpaint.files import replacing
from underpaint.models.edm import build_edm
from underpaint.recipes.convert import convert

P_MEAN, P_STD, SIGMA_DATA = -1.2, 1.2, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as `underpaint stats` takes it: a folder, a .npy or an .npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, counted over all resumed parts")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--channels", type=int, default=32, help="of the finest level; the two below have twice as many"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data = load_data(args.data)
    channels, size, width = data.shape
    if size != width:
        raise SystemExit(f"The network takes square pictures, got {size}x{width}.")
    config = {
        "class_name": "EDMPrecond",
        "model_type": "SongUNet",
        "img_resolution": size,
        "img_channels": channels,
        "model_channels": args.channels,
        "channel_mult": [1, 2, 2],
        "num_blocks": 1,
        "attn_resolutions": [size // 4],
        "dropout": 0.0,
        "sigma_data": SIGMA_DATA,
    }
    torch.manual_seed(args.seed)
    network = build_edm(config)
    print(f"{len(data):,} pictures, {sum(p.numel() for p in network.parameters()):,} parameters", flush=True)

    def loss(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(data), (args.batch,), generator=generator)
        mirrored = torch.rand(args.batch, 1, 1, 1, generator=generator) < 0.5
        clean = data.rows(rows).unflatten(1, data.shape)
        clean = torch.where(mirrored, clean.flip(-1), clean)
        sigma = (P_MEAN + P_STD * torch.randn(args.batch, generator=generator)).exp()
        weight = 1 / sigma**2 + 1 / SIGMA_DATA**2
        noisy = clean + sigma.view(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator)
        squares = (network(noisy, sigma) - clean).square()
        return (weight * squares.flatten(1).mean(1)).mean()

    train(network, loss, args.out, args.minutes, args.rate, args.seed, note={"batch": args.batch, "data": data.source})
    state = args.out / "state.pt"
    with replacing(state) as temporary:
        torch.save(network.state_dict(), temporary)
    print(convert(state, args.out / f"{args.out.name}.safetensors", config))


if __name__ == "__main__":
    main()
