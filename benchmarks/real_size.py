"""What this library adds to pipelines of real size: memory, time to record them, and whether the shorter ways run.

    python benchmarks/real_size.py [--kind sd15 sdxl] [--size 256] [--steps 2]

Stable Diffusion 1.5 (859.5 M parameters in its U-Net) and SDXL (2,567 M) are made from their configs with random
weights in bfloat16 and saved; nothing is downloaded. Each is then loaded in a process of its own. Printed are the peak
of the memory that the process holds over the size of the weights, without pages of files that the system may drop at
any time; the processor's time of `record` over that of the bare call, the median of three pairs; and the numbers of
calls after a jump, with our scheduler, and with a plan of two calls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import underpaint as up
from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence

SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
LARGE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
BIG_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}


def make(kind: str, folder: Path) -> int:
    """Write a pipeline of real size with random weights in bfloat16; the number of bytes of its weights."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    tokenizer = tokens()
    sizes = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
    sizes["pad_token_id"] = 49407
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(**(SDXL if kind == "sdxl" else SD15)),
        "vae": diffusers.AutoencoderKL(**VAE, scaling_factor=0.13025 if kind == "sdxl" else 0.18215),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes, **LARGE)),
        "tokenizer": tokenizer,
        "scheduler": diffusers.DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False
        ),
    }
    torch.set_default_dtype(torch.float32)
    if kind == "sdxl":
        second = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, **BIG_G)).to(torch.bfloat16)
        pipe = diffusers.StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=tokenizer)
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = diffusers.StableDiffusionPipeline(**parts)
    pipe.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def tokens() -> Any:
    """A CLIP tokenizer of single letters with the numbers that CLIP gives to begin and end."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    with tempfile.TemporaryDirectory() as home:
        Path(home, "vocab.json").write_text(json.dumps(vocabulary))
        Path(home, "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(home, model_max_length=77)


class Memory(threading.Thread):
    """The most that a process holds by itself, in bytes, looked at a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, held())


def held() -> int:
    """Bytes that this process holds by itself, without pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def load(folder: Path) -> dict[str, float]:
    """What loading a folder holds at its peak, and in the end, beyond what was held before."""
    import diffusers  # noqa: F401  (is held before)
    import transformers  # noqa: F401

    before, memory = held(), Memory()
    memory.start()
    model = up.load_model(folder, dtype=torch.bfloat16)
    memory.over.set()
    memory.join()
    return {"peak": memory.most - before, "end": held() - before, "dimension": model.dimension}


def run(folder: Path, size: int, steps: int) -> dict[str, Any]:
    """Recording over the bare call, and the calls of the network of the shorter ways."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    pipe.unet.register_forward_hook(count)

    def call(with_what: Any, number: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        given = {"num_inference_steps": number, "height": size, "width": size, "output_type": "latent"}
        return with_what("a bear", generator=generator, **given)

    call(pipe, 1)  # to warm up
    torch.set_num_threads(1)  # so that the processor's time is that of the work
    ratios = []
    for _ in range(3):
        start = time.process_time()
        bare = call(pipe, steps).images
        middle = time.process_time()
        recording = call(lambda *a, **k: up.record(pipe, *a, **k), steps)
        ratios.append((time.process_time() - middle) / (middle - start))
    same = torch.equal(bare, recording.output.images)
    gaussian = up.Gaussian.isotropic(torch.zeros(4 * (size // 8) ** 2), 1.0)
    calls, found = 0, {"record": sorted(ratios)[1], "identical": same}
    call(up.teleport_pipeline(pipe, gaussian, skip=2), steps + 2)
    found["calls after a jump over 2 steps"], calls = calls, 0
    config = pipe.scheduler.config
    pipe.scheduler = up.GaussianExponentialScheduler.from_config(config, gaussian=gaussian)
    finite = bool(call(pipe, steps).images.isfinite().all())
    found["calls with our scheduler"], calls = calls, 0
    pipe.scheduler = up.GaussianExponentialScheduler.from_config(config, gaussian=gaussian, calibration=plan())
    finite &= bool(call(pipe, 2).images.isfinite().all())
    return found | {"calls of a plan": calls, "finite": finite}


def plan() -> up.Calibration:
    """Two calls whose coefficients are those of a linear multistep method."""
    from underpaint.sampling.fitted import LOOK_BACK, TERMS, Plan

    level = up.NoiseLevel.join(up.DDPM.stable_diffusion()(torch.tensor([999.0, 700.0, 300.0])), up.NoiseLevel.clean())
    return up.Calibration((Plan(level, torch.zeros(2, LOOK_BACK, TERMS, dtype=torch.float64)),), {})


def apart(*arguments: str) -> dict[str, Any]:
    """One part in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=["sd15", "sdxl"], default=["sd15"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    check_integers(vars(args), size=(64, 4096), steps=(1, 900))
    if args.size % 8:
        raise ValueError(f"The --size must be a multiple of 8, got {args.size}.")
    if args.part == "make":
        print(json.dumps({"bytes": make(args.kind[0], args.folder)}))
    elif args.part == "load":
        print(json.dumps(load(args.folder)))
    elif args.part == "run":
        print(json.dumps(run(args.folder, args.size, args.steps)))
    else:
        for kind in args.kind:
            with tempfile.TemporaryDirectory() as home:
                shared = ("--kind", kind, "--folder", home, "--size", str(args.size), "--steps", str(args.steps))
                size = apart("--part", "make", *shared)["bytes"]
                loaded = apart("--part", "load", *shared)
                shares = {f"{name}, over the weights": loaded[name] / size for name in ("peak", "end")}
                print(json.dumps({"kind": kind, "gigabytes": size / 1e9, **shares, **apart("--part", "run", *shared)}))


if __name__ == "__main__":
    with in_a_sentence("real_size.py"):
        main()
