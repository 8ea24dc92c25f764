"""Stage two of the text-to-image model in the box: text encoder and latent U-Net, trained together from nothing.

    python training/text_to_image.py --autoencoder runs/autoencoder/vae --out runs/emoji --minutes 75

Scenes are encoded once and kept as the mean and deviation of their latents, from which each use draws anew. The U-Net
predicts v on Stable Diffusion's schedule; captions are dropped for part of the batch, so that it can be guided. The
result is a folder that diffusers' StableDiffusionPipeline loads as it is. ``--start`` goes on from such a folder.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoencoder import HELD_OUT, to_network
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from loop import add_options, earlier, read_settings, train
from scenes import COLOUR_NAMES, FONT, NAMES, SPARSE, Painter, scenes
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from underpaint.bounds import MOST_ITEMS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.files import read_json, read_tensors, write_tensors, write_text
from underpaint.noise import DDPM

TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, merged until each word of the captions is one token; other words fall into letters."""
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,.!?'-")
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        initial_alphabet=letters,
        special_tokens=[START, END],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    raw.train_from_iterator([*captions, *letters], trainer)
    state: dict[str, Any] = json.loads(raw.to_str())["model"]
    vocabulary = state["vocab"]
    for letter in letters:  # both forms of each letter, inside a word and at its end
        for form in (letter, letter + "</w>"):
            vocabulary.setdefault(form, len(vocabulary))
    merges = [tuple(pair) for pair in state["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token=END)


def keep_tokenizer(place: Path, captions: list[str], start: Path | None = None) -> CLIPTokenizer:
    """Built once: the order of tokens that are equally frequent differs from one building to the next, and a network
    that is trained further knows the old one, which START has. Of that, only what the captions' words need is kept."""
    if not place.is_dir():
        made = CLIPTokenizer.from_pretrained(start / "tokenizer") if start else build_tokenizer(captions)
        draft = place.with_name(f".{place.name}")  # what is there is whole, whenever the training ends
        made.save_pretrained(draft)
        if start:
            forget(draft / "tokenizer.json", captions)
        draft.rename(place)
    return CLIPTokenizer.from_pretrained(place)


def forget(file: Path, captions: list[str]) -> None:
    """Words that the captions do not have fall into letters from now on: the network will not know what they mean.

    Each token keeps its number; what goes is merges that no word of the captions takes, as the tokenizer itself cuts
    them out. FILE is a tokenizer.json.
    """
    described = read_json(file)
    merges = [tuple(pair.split() if isinstance(pair, str) else pair) for pair in described["model"]["merges"]]
    rank, taken = {pair: number for number, pair in enumerate(merges)}, set()
    cut, end = Tokenizer.from_file(str(file)), described["model"]["end_of_word_suffix"] or ""
    found = (cut.pre_tokenizer.pre_tokenize_str(cut.normalizer.normalize_str(caption)) for caption in captions)
    for word in {word for words in found for word, _ in words}:
        pieces = [*word[:-1], word[-1] + end]
        while known := [pair for pair in pairwise(pieces) if pair in rank]:
            first = min(known, key=rank.__getitem__)
            taken.add(first)
            at = list(pairwise(pieces)).index(first)
            pieces[at : at + 2] = ["".join(first)]
    described["model"]["merges"] = [list(pair) for pair in merges if pair in taken]
    write_text(file, json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    end = tokenizer.convert_tokens_to_ids(END)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=128,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModel(config)


def build_unet(size: int, width: tuple[int, int] = (64, 128)) -> UNet2DConditionModel:
    """Two resolutions (12x12, 6x6); the words are read at the lower one, where attention is cheap."""
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def encode_scenes(
    autoencoder: AutoencoderKL, painter: Painter, count: int, place: Path
) -> tuple[Tensor, list[str], Tensor]:
    """Mean and deviation of the latents [N, 2, 4, h, w] in half precision, written once; captions; objects of each."""
    drawn = [(caption, len(scene.objects)) for _, caption, scene in scenes(painter, count, seed=1)]
    captions, counts = [caption for caption, _ in drawn], torch.tensor([objects for _, objects in drawn])
    if place.exists():
        return read_tensors(place)["latents"], captions, counts
    latents, batch = [], []
    for number, (picture, _, _) in enumerate(scenes(painter, count, seed=1), 1):
        batch.append(picture)
        if len(batch) == 64 or number == count:
            with torch.no_grad():
                found = autoencoder.encode(to_network(np.stack(batch))).latent_dist
            latents.append(torch.stack([found.mean, found.std], 1).half())
            batch.clear()
        if number % 6400 == 0:
            print(f"encoded {number} scenes", flush=True)
    write_tensors(place, {"latents": torch.cat(latents)}, {"count": count})
    return torch.cat(latents), captions, counts


class TextToImage(nn.Module):
    """What is trained: the words' encoder and the U-Net."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        words = self.text_encoder(tokens)[0]
        return self.unet(noisy, times, encoder_hidden_states=words).sample


def build_network(tokenizer: CLIPTokenizer, size: int, start: Path | None) -> TextToImage:
    """From nothing, or with the weights of START."""
    network = TextToImage(build_text_encoder(tokenizer), build_unet(size))
    if start:
        words = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
        network.text_encoder.load_state_dict(words.state_dict())
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        network.unet.load_state_dict(unet.state_dict())
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True)
    add_options(parser, minutes=75.0, rate=1e-3, batch=32)
    parser.add_argument("--scenes", type=int, default=50_000)
    parser.add_argument("--drop", type=float, default=0.12, help="share of captions replaced by the empty one")
    parser.add_argument("--start", type=Path, help="pipeline of an earlier run, or the packaged model, to go on from")
    parser.add_argument("--font", type=Path, default=FONT)
    args = parser.parse_args()
    check_integers(vars(args), scenes=(2, MOST_ITEMS))
    settings = read_settings(args)
    args.out.mkdir(parents=True, exist_ok=True)

    autoencoder = AutoencoderKL.from_pretrained(args.autoencoder).eval()
    painter = Painter(autoencoder.config["sample_size"], args.font)
    latents, captions, counts = encode_scenes(autoencoder, painter, args.scenes, args.out / "latents.safetensors")
    means = latents[:, 0].float()
    autoencoder.register_to_config(scaling_factor=1 / math.sqrt(float((means - means.mean(0)).square().mean())))
    scale = autoencoder.config["scaling_factor"]
    print(f"scaling factor {scale:.4f}, mean of the latents {[round(float(c), 3) for c in means.mean((0, 2, 3))]}")

    torch.manual_seed(settings.seed)
    words = captions[:20_000] + list(NAMES) + list(COLOUR_NAMES)
    tokenizer = keep_tokenizer(args.out / "tokenizer", words, args.start)
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    ids: Tensor = tokens["input_ids"]
    empty = tokenizer("", padding="max_length", max_length=TOKENS, return_tensors="pt")["input_ids"]
    network = build_network(tokenizer, latents.shape[-1], args.start)
    network = network.to(settings.device, memory_format=settings.layout)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    level = DDPM.stable_diffusion()(torch.arange(1000))
    place = torch.device(settings.device)
    alpha, sigma = level.alpha.to(place, torch.float32), level.sigma.to(place, torch.float32)
    kept, ids, empty = latents.to(place), ids.to(place), empty.to(place)

    # scenes are drawn evenly and kept; what the network sees of them has the shares of SPARSE
    share = torch.tensor(SPARSE) / torch.bincount(counts, minlength=4)[1:]
    weight = share[counts - 1].to(place)

    def loss(generator: torch.Generator) -> Tensor:
        count = settings.part
        rows = torch.multinomial(weight, count, generator=generator)
        mean, deviation = kept[rows].float().unbind(1)
        clean = scale * (mean + deviation * torch.randn(mean.shape, generator=generator, device=place))
        stratum = torch.arange(count, device=place) + torch.rand(count, generator=generator, device=place)
        t = (stratum / count * len(alpha)).long().clamp(max=len(alpha) - 1)
        a, s = alpha[t].view(-1, 1, 1, 1), sigma[t].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=generator, device=place)
        dropped = torch.rand(count, 1, generator=generator, device=place) < args.drop
        with settings.mixed_precision():
            prediction = network(a * clean + s * noise, t, torch.where(dropped, empty, ids[rows]))
        return mse_loss(prediction.float(), a * noise - s * clean)

    note = {"drop": args.drop, "scenes": args.scenes, "objects": len(NAMES), "earlier": earlier(args.start)}
    train(network, loss, args.out, settings, note)
    network.cpu()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # as StableDiffusionPipeline expects; trailing spacing does not use it
    )
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=network.text_encoder,
        tokenizer=tokenizer,
        unet=network.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(args.out / "pipeline")
    print(f"{read_json(args.out / 'training.json')['steps']} steps; held-out scenes start at seed {HELD_OUT}")


if __name__ == "__main__":
    with in_a_sentence("text_to_image.py"):
        main()
