"""Train the Fashion-MNIST denoiser that ships with underpaint: a small diffusers U-Net on 2x2 pixel-unshuffled images.

    python training/denoiser.py --data FOLDER --out runs/fashion --minutes 90

The network predicts v on the DDPM linear schedule. Class labels are dropped for part of the batch, so that one network
serves unconditional and guided sampling (label 10 is "no class"). The learning rate follows the share of the budget
that is used up, in steps or in minutes of training, so that an interrupted run that is started again ends as planned.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch.nn.functional import mse_loss, pixel_unshuffle

from underpaint.data.idx import read_idx
from underpaint.files import replacing, write_text
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
    args.out.mkdir(parents=True, exist_ok=True)

    images = pixel_unshuffle(read_idx(args.data / "train-images-idx3-ubyte.gz").unsqueeze(1).float() / 127.5 - 1, 2)
    labels = read_idx(args.data / "train-labels-idx1-ubyte.gz").long()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    network = build_network().to(memory_format=torch.channels_last)
    average = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=0.0, betas=(0.9, 0.99))
    level = DDPM("linear")(torch.arange(1000))
    alpha, sigma = level.alpha.float(), level.sigma.float()
    step, spent, losses, checkpoint = 0, 0.0, [], args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent, losses = state["average"], state["step"], state["spent"], state["losses"]
        generator.set_state(state["generator"])
        print(f"resumed at step {step}, {spent / 60:.1f} minutes spent")

    last_save, order, cursor = time.monotonic(), torch.randperm(len(images), generator=generator), 0
    running = []
    while spent < 60 * args.minutes:
        start = time.monotonic()
        used = spent / (60 * args.minutes)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * used))
        if cursor + args.batch > len(images):
            order, cursor = torch.randperm(len(images), generator=generator), 0
        rows = order[cursor : cursor + args.batch]
        cursor += args.batch
        loss = batch_loss(network, images[rows], labels[rows], alpha, sigma, generator, args.drop)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        # The average forgets over a tenth of the steps so far: short at first, long at the end.
        decay = min(0.9995, 1 - 10 / (step + 20))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        step += 1
        running.append(loss.item())
        spent += time.monotonic() - start
        if step % 100 == 0:
            losses.append([step, spent, sum(running) / len(running)])
            print(f"step {step} minutes {spent / 60:.1f} loss {losses[-1][2]:.4f}", flush=True)
            running.clear()
        if time.monotonic() - last_save > 240 or spent >= 60 * args.minutes:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            state |= {"step": step, "spent": spent, "losses": losses, "generator": generator.get_state()}
            with replacing(checkpoint) as temporary:
                torch.save(state, temporary)
            last_save = time.monotonic()

    network.load_state_dict(average)
    network.save_pretrained(args.out / "network")
    record = {"steps": step, "images": step * args.batch, "minutes": spent / 60, "losses": losses}
    record |= {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("out", "data")}
    write_text(args.out / "training.json", json.dumps(record))


if __name__ == "__main__":
    main()
