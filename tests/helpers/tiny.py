"""Every kind of diffusers pipeline, built in a moment from its own configuration with seeded random weights.

``tiny_...(folder)`` saves the pipeline to the folder in diffusers' format and returns it. Latents are 8 x 8, images
16 x 16. The weights are spread wide enough that prompts, classes and times all change what comes out.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

WORDS = ("apple", "bear", "blue", "on", "red", "sky", "a", "b")
#: beta schedule and steps offset of Stable Diffusion, without its sample clipping
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def tiny_ddpm(
    folder: Path | None = None, *, classes: int | None = None, out_channels: int = 3, **scheduler: Any
) -> Any:
    """DDIMPipeline on pixels [3, 8, 8]; ``out_channels`` = 6 for a learned variance."""
    from diffusers import DDIMPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=out_channels,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=classes,
    )
    return _saved(DDIMPipeline(_spread(unet), _ddim(**scheduler)), folder)


def tiny_dit(folder: Path | None = None, **scheduler: Any) -> Any:
    """DiTPipeline with 1000 classes, class 1000 for any, and a learned variance."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=1000,
    )
    return _saved(DiTPipeline(_spread(transformer), tiny_vae(), _ddim(**scheduler)), folder)


def tiny_stable_diffusion(folder: Path | None = None, **scheduler: Any) -> Any:
    """StableDiffusionPipeline without a safety checker."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    return _saved(
        StableDiffusionPipeline(
            unet=_spread(_conditional_unet()),
            vae=tiny_vae(),
            text_encoder=_clip(),
            tokenizer=clip_tokenizer(),
            scheduler=_ddim(**STABLE | scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        folder,
    )


def tiny_sdxl(
    folder: Path | None = None, *, force_zeros: bool = True, vae: dict[str, Any] | None = None, **scheduler: Any
) -> Any:
    """StableDiffusionXLPipeline: two encoders, pooled text and size conditioning."""
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    unet = _conditional_unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )
    return _saved(
        StableDiffusionXLPipeline(
            unet=_spread(unet),
            vae=tiny_vae(**vae or {}),
            text_encoder=_clip(),
            text_encoder_2=_clip(projected=True),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(),
            scheduler=_ddim(**STABLE | scheduler),
            force_zeros_for_empty_prompt=force_zeros,
            add_watermarker=False,
        ),
        folder,
    )


def tiny_sd3(folder: Path | None = None, *, t5: bool = True, **scheduler: Any) -> Any:
    """StableDiffusion3Pipeline, with or without its T5 encoder; the VAE has a shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return _saved(
        StableDiffusion3Pipeline(
            transformer=_spread(transformer),
            vae=tiny_vae(shift_factor=0.3, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=_clip(projected=True),
            text_encoder_2=_clip(projected=True),
            text_encoder_3=_t5() if t5 else None,
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(),
            tokenizer_3=t5_tokenizer() if t5 else None,
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | scheduler),
        ),
        folder,
    )


def tiny_flux(folder: Path | None = None, *, distilled: bool = True, **scheduler: Any) -> Any:
    """FluxPipeline, by default distilled with guidance; its configuration states no size: ask for 16 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}
    return _saved(
        FluxPipeline(
            transformer=_spread(transformer),
            vae=tiny_vae(shift_factor=0.3, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=_clip(),
            text_encoder_2=_t5(),
            tokenizer=clip_tokenizer(),
            tokenizer_2=t5_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(**dynamic | scheduler),
        ),
        folder,
    )


def tiny_vae(**options: Any) -> Any:
    """AutoencoderKL from images [3, 16, 16] to latents [4, 8, 8]."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=16,
        **{"scaling_factor": 0.5} | options,
    ).eval()


@cache
def clip_tokenizer() -> Any:
    """A CLIPTokenizer of letters and a few whole words."""
    from transformers import CLIPTokenizer

    merges, tokens = [], [chr(c) for c in range(97, 123)]
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            merges += [merge] if merge not in merges else []
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens += [chr(c) + "</w>" for c in range(97, 123)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    with TemporaryDirectory() as home:
        Path(home, "vocab.json").write_text(json.dumps(vocabulary))
        Path(home, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        Path(home, "tokenizer_config.json").write_text(json.dumps({"model_max_length": 12}))
        return CLIPTokenizer.from_pretrained(home)


@cache
def t5_tokenizer() -> Any:
    """A T5 tokenizer of letters and a few whole words."""
    from transformers import T5TokenizerFast

    pieces = ["▁", *(chr(c) for c in range(97, 123)), *("▁" + word for word in WORDS)]
    scores = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -9.0),
        *((piece, -float(len(pieces) - i)) for i, piece in enumerate(pieces)),
    ]
    return T5TokenizerFast(vocab=scores, extra_ids=0)


def _clip(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    size = len(clip_tokenizer())
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=16,
        max_position_embeddings=12,
        vocab_size=size,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return _spread((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=32, d_kv=8, d_ff=32, num_heads=2, num_layers=1, vocab_size=len(t5_tokenizer()), dropout_rate=0.0
    )
    return T5EncoderModel(config).eval()


def _conditional_unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        **{"cross_attention_dim": 16} | options,
    )


def _ddim(**options: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{"clip_sample": False} | options)


def _spread(network: nn.Module) -> Any:
    """What starts at zero (gates and last layers of transformers), and all vectors, made random; in eval mode."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1 or not bool(parameter.any()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


def _saved(pipeline: Any, folder: Path | None) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline
