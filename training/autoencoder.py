"""Stage one of the text-to-image model in the box: the autoencoder of emoji scenes (diffusers' AutoencoderKL).

    python training/autoencoder.py --out runs/autoencoder --minutes 35

Four times smaller along each edge, four channels; few channels at full resolution, where a convolution costs most.
Scenes are drawn anew all the time. The loss is squared plus absolute error and a small pull of the latents to N(0, I).
``--start`` goes on from an earlier one, so that its latents stay near to those that a latent network knows.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from loop import add_options, earlier, read_settings, train
from scenes import FONT, NAMES, Painter, pictures
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence

#: Weight of the KL term per latent element, against the mean error per pixel.
PULL = 5e-4
HELD_OUT = 9_999_999


def build_autoencoder(size: int, width: tuple[int, ...] = (16, 32, 64)) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=width,
        down_block_types=("DownEncoderBlock2D",) * len(width),
        up_block_types=("UpDecoderBlock2D",) * len(width),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def to_network(batch) -> Tensor:
    """uint8 [B, H, W, 3] as float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1


def signal_to_noise(autoencoder: AutoencoderKL, painter: Painter, count: int = 512) -> float:
    """Peak signal-to-noise ratio in dB of held-out scenes, from the mean of the latent."""
    images = to_network(pictures(painter, count, HELD_OUT))
    errors = []
    with torch.no_grad():
        for x in images.split(64):
            decoded = autoencoder.decode(autoencoder.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            errors.append((decoded - x).square().mean())
    error = torch.stack(errors).mean().item()
    return 10 * math.log10(4 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, minutes=35.0, rate=2e-3, batch=32)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--start", type=Path, help="vae folder of an autoencoder to go on from")
    parser.add_argument("--font", type=Path, default=FONT)
    args = parser.parse_args()
    check_integers(vars(args), size=(8, 4096))
    settings = read_settings(args)

    painter = Painter(args.size, args.font)
    autoencoder = build_autoencoder(args.size)
    if args.start:
        autoencoder.load_state_dict(AutoencoderKL.from_pretrained(args.start, torch_dtype=torch.float32).state_dict())
    autoencoder = autoencoder.to(settings.device, memory_format=settings.layout)

    def loss(generator: torch.Generator) -> Tensor:
        place = generator.device
        seed = int(torch.randint(HELD_OUT, (), generator=generator, device=place))
        images = to_network(pictures(painter, settings.part, seed)).to(place, memory_format=settings.layout)
        with settings.mixed_precision():
            latent = autoencoder.encode(images).latent_dist
        mean, variance = latent.mean.float(), latent.var.float()
        noise = torch.randn(mean.shape, generator=generator, device=place)
        with settings.mixed_precision():
            decoded = autoencoder.decode(mean + variance.sqrt() * noise).sample
        pull = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        return mse_loss(decoded.float(), images) + 0.2 * l1_loss(decoded.float(), images) + PULL * pull

    note = {"size": args.size, "pull": PULL, "objects": len(NAMES), "earlier": earlier(args.start, "autoencoder")}
    train(autoencoder, loss, args.out, settings, note)
    autoencoder.cpu()
    print(f"held-out scenes: {signal_to_noise(autoencoder, painter):.2f} dB", flush=True)
    autoencoder.save_pretrained(args.out / "vae")


if __name__ == "__main__":
    with in_a_sentence("autoencoder.py"):
        main()
