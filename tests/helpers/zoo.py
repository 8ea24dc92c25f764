"""Pipelines of diffusers that people run, each built in a moment from its own configuration with seeded random weights.

``ZOO[name]()`` gives a pipeline and what it is called with. Conditions that a large language model would encode are
given as embeddings. Weights are spread wide enough that conditions, times and states all change what comes out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import tiny
import torch
from torch import Tensor

#: name -> (pipeline, arguments of its call)
Made = tuple[Any, dict[str, Any]]
ZOO: dict[str, Callable[[], Made]] = {}


def kept(make: Callable[[], Made]) -> Callable[[], Made]:
    """Put into the zoo by its name, made once; all weights follow from one seed."""

    def seeded() -> Made:
        torch.manual_seed(0)
        pipe, given = make()
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        return pipe, given

    ZOO[make.__name__] = cache(seeded)
    return ZOO[make.__name__]


def spread(network: Any) -> Any:
    return tiny._spread(network)


def embedded(length: int, width: int, seed: int = 0) -> Tensor:
    """Some embeddings of a prompt, [1, length, width]."""
    return torch.randn(1, length, width, generator=torch.Generator().manual_seed(seed))


def picture(size: int = 16) -> Tensor:
    """An image [1, 3, size, size] in [0, 1]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(3))


def flow(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def dynamic() -> Any:
    return flow(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)


def guided(width: int, length: int = 6, scale: float = 3.0) -> dict[str, Any]:
    """A prompt and a negative one as embeddings, with masks."""
    return {
        "prompt_embeds": embedded(length, width),
        "negative_prompt_embeds": embedded(length, width, 1),
        "prompt": None,
        "guidance_scale": scale,
    }


def masks(length: int = 6) -> dict[str, Tensor]:
    mask = torch.ones(1, length, dtype=torch.int64)
    return {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask.clone()}


SIZE = {"height": 16, "width": 16}
PROMPT = {"prompt": "a red apple", "negative_prompt": "blue"}


@kept
def flux2() -> Made:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, timestep_guidance_channels=16, axes_dims_rope=[2, 2, 2, 2],
    )  # fmt: skip
    pipe = diffusers.Flux2Pipeline(
        scheduler=dynamic(), vae=flux2_vae(), text_encoder=None, tokenizer=None, transformer=spread(transformer)
    )
    return pipe, {"prompt": None, "prompt_embeds": embedded(6, 12), "guidance_scale": 4.0, **SIZE}


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        sample_size=16, block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, norm_num_groups=2,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


@kept
def flux2_klein() -> Made:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, timestep_guidance_channels=16, axes_dims_rope=[2, 2, 2, 2], guidance_embeds=False,
    )  # fmt: skip
    pipe = diffusers.Flux2KleinPipeline(
        scheduler=dynamic(), vae=flux2_vae(), text_encoder=None, tokenizer=None, transformer=spread(transformer)
    )
    return pipe, {**guided(12), **SIZE}


@kept
def flux_kontext() -> Made:
    parts = tiny.tiny_flux().components
    pipe = diffusers.FluxKontextPipeline(**parts)
    given = {"image": picture(), "prompt": "a red apple", "max_area": 256, "_auto_resize": False, **SIZE}
    return pipe, given


@kept
def qwen_image() -> Made:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, guidance_embeds=False, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(
        scheduler=dynamic(), vae=vae, text_encoder=None, tokenizer=None, transformer=spread(transformer)
    )
    ones = torch.ones(1, 6, dtype=torch.int64)
    given = {
        "prompt": None,
        "prompt_embeds": embedded(6, 12),
        "prompt_embeds_mask": ones,
        "negative_prompt_embeds": embedded(6, 12, 1),
        "negative_prompt_embeds_mask": ones.clone(),
        "true_cfg_scale": 3.0,
        "height": 32,
        "width": 32,
    }
    return pipe, given


@kept
def z_image() -> Made:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=12, axes_dims=[4, 2, 2], axes_lens=[64, 16, 16],
    )  # fmt: skip
    with torch.no_grad():
        transformer.x_pad_token.fill_(1)
        transformer.cap_pad_token.fill_(1)
    pipe = diffusers.ZImagePipeline(
        scheduler=dynamic(), vae=tiny.tiny_vae(shift_factor=0.1), text_encoder=None, tokenizer=None,
        transformer=spread(transformer),
    )  # fmt: skip
    given = {
        "prompt_embeds": [embedded(6, 12)[0]],
        "negative_prompt_embeds": [embedded(6, 12, 1)[0]],
        "guidance_scale": 3.0,
        **SIZE,
    }
    return pipe, given


@kept
def sana() -> Made:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=12,
        sample_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1], downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.4,
    )  # fmt: skip
    pipe = diffusers.SanaPipeline(
        scheduler=flow(shift=3.0), vae=vae, text_encoder=None, tokenizer=None, transformer=spread(transformer)
    )
    given = {**guided(12), **masks(), "negative_prompt": None, "use_resolution_binning": False}
    return pipe, {**given, "height": 32, "width": 32}


def pixart() -> Any:
    return spread(
        diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=12,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            use_additional_conditions=False,
        )
    )


@kept
def pixart_alpha() -> Made:
    pipe = diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=tiny.tiny_vae(), transformer=pixart(), scheduler=tiny._ddim()
    )
    return pipe, {**guided(12), **masks(), "negative_prompt": None, "use_resolution_binning": False, **SIZE}


@kept
def pixart_sigma() -> Made:
    pipe = diffusers.PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=tiny.tiny_vae(), transformer=pixart(), scheduler=tiny._ddim()
    )
    return pipe, {**guided(12), **masks(), "negative_prompt": None, "use_resolution_binning": False, **SIZE}


@kept
def lumina2() -> Made:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=2, multiple_of=8, axes_dim_rope=[4, 2, 2], axes_lens=[64, 16, 16],
        cap_feat_dim=12,
    )  # fmt: skip
    pipe = diffusers.Lumina2Pipeline(
        transformer=spread(transformer), scheduler=dynamic(), vae=tiny.tiny_vae(shift_factor=0.1), text_encoder=None,
        tokenizer=None,
    )  # fmt: skip
    return pipe, {**guided(12), **masks(), "height": 64, "width": 64}


@kept
def chroma() -> Made:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=[2, 2, 4], approximator_hidden_dim=16, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    pipe = diffusers.ChromaPipeline(
        scheduler=flow(), vae=tiny.tiny_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None, tokenizer=None, transformer=spread(transformer),
    )  # fmt: skip
    real = {name: mask.float() for name, mask in masks().items()}
    return pipe, {**guided(12), **real, **SIZE}


@kept
def aura_flow() -> Made:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=12, out_channels=4,
        pos_embed_max_size=64,
    )  # fmt: skip
    pipe = diffusers.AuraFlowPipeline(
        scheduler=flow(), vae=tiny.tiny_vae(), text_encoder=None, tokenizer=None, transformer=spread(transformer)
    )
    return pipe, {**guided(12), **masks(), **SIZE}


@kept
def hunyuan_dit() -> Made:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        cross_attention_dim=16, cross_attention_dim_t5=16, pooled_projection_dim=16, hidden_size=16,
        activation_fn="gelu-approximate", text_len=6, text_len_t5=6,
    )  # fmt: skip
    pipe = diffusers.HunyuanDiTPipeline(
        vae=tiny.tiny_vae(), text_encoder=None, tokenizer=None, transformer=spread(transformer),
        scheduler=tiny._ddim(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    given = {**guided(16), **masks()}
    second = {f"{name}_2": value for name, value in given.items() if isinstance(value, Tensor)}
    return pipe, {**given, **second, "use_resolution_binning": False, **SIZE}


@kept
def cogview4() -> Made:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, out_channels=4,
        text_embed_dim=12, time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    scheduler = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=16, use_dynamic_shifting=True, time_shift_type="linear"
    )
    pipe = diffusers.CogView4Pipeline(
        tokenizer=None, text_encoder=None, vae=tiny.tiny_vae(), transformer=spread(transformer), scheduler=scheduler
    )
    return pipe, {**guided(12, 16), **SIZE}


def movq(width: int = 8, **options: Any) -> Any:
    return diffusers.VQModel(
        latent_channels=4, layers_per_block=1, norm_num_groups=4, num_vq_embeddings=12, vq_embed_dim=4,
        block_out_channels=(width, width), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), **options,
    )  # fmt: skip


@kept
def kandinsky22() -> Made:
    unet = diffusers.UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(32, 32), layers_per_block=1,
        encoder_hid_dim=12, encoder_hid_dim_type="image_proj", cross_attention_dim=32, attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    pipe = diffusers.KandinskyV22Pipeline(unet=spread(unet), scheduler=tiny._ddim(), movq=movq(32, norm_type="spatial"))
    embeds = {"image_embeds": embedded(1, 12)[0], "negative_image_embeds": embedded(1, 12, 1)[0]}
    return pipe, {**embeds, "guidance_scale": 3.0, "height": 64, "width": 64}


@kept
def kandinsky3() -> Made:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=8, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(16, 32), cross_attention_dim=8, encoder_hid_dim=12,
    )  # fmt: skip
    pipe = diffusers.Kandinsky3Pipeline(
        tokenizer=None, text_encoder=None, unet=spread(unet), scheduler=tiny._ddim(), movq=movq()
    )
    mask = torch.ones(1, 6, dtype=torch.int64)
    given = {**guided(12), "attention_mask": mask, "negative_attention_mask": mask.clone()}
    return pipe, {**given, "height": 64, "width": 64}


def wan_network(channels: int = 4, **options: Any) -> Any:
    return spread(
        diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=4,
            text_dim=12,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=16,
            **options,
        )
    )


def wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
    )  # fmt: skip


@kept
def wan21() -> Made:
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), scheduler=flow(shift=3.0), transformer=wan_network()
    )
    return pipe, {**guided(12), "num_frames": 5, **SIZE}


@kept
def wan22() -> Made:
    """Two networks, one of high noise and one of low, behind a scheduler of many steps."""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), scheduler=scheduler, transformer=wan_network(),
        transformer_2=wan_network(), boundary_ratio=0.8,
    )  # fmt: skip
    return pipe, {**guided(12), "num_frames": 5, **SIZE}


@kept
def wan_image_to_video() -> Made:
    pipe = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), scheduler=flow(shift=3.0), image_processor=None,
        image_encoder=None, transformer=wan_network(12, image_dim=None),
    )  # fmt: skip
    return pipe, {"image": picture(), **guided(12), "num_frames": 5, **SIZE}


@kept
def hunyuan_video() -> Made:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True,
        text_embed_dim=12, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        norm_num_groups=4, mid_block_add_attention=True,
    )  # fmt: skip
    pipe = diffusers.HunyuanVideoPipeline(
        text_encoder=None, tokenizer=None, transformer=spread(transformer), vae=vae, scheduler=flow(shift=7.0),
        text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    given = {
        "prompt": None,
        "prompt_embeds": embedded(6, 12),
        "pooled_prompt_embeds": embedded(1, 8)[0],
        "prompt_attention_mask": torch.ones(1, 6, dtype=torch.int64),
        "num_frames": 5,
    }
    return pipe, {**given, "guidance_scale": 4.0, **SIZE}


def ltx_parts() -> dict[str, Any]:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, num_layers=1, caption_channels=12,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1,
        patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    return {
        "scheduler": flow(),
        "vae": vae,
        "text_encoder": None,
        "tokenizer": None,
        "transformer": spread(transformer),
    }


LTX = {"num_frames": 9, "height": 32, "width": 32}


@kept
def ltx() -> Made:
    return diffusers.LTXPipeline(**ltx_parts()), {**guided(12), **masks(), **LTX}


@kept
def ltx_image_to_video() -> Made:
    given = {"image": picture(32), **guided(12), **masks(), **LTX}
    return diffusers.LTXImageToVideoPipeline(**ltx_parts()), given


@kept
def ltx_condition() -> Made:
    return diffusers.LTXConditionPipeline(**ltx_parts()), {**guided(12), **masks(), **LTX}


@kept
def cogvideox() -> Made:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=4,
        text_embed_dim=12, num_layers=1, sample_width=2, sample_height=2, sample_frames=5, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=6,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, timestep_spacing="trailing",
        snr_shift_scale=3.0, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
    )  # fmt: skip
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=spread(transformer), scheduler=scheduler
    )
    return pipe, {**guided(12), "num_frames": 5, "max_sequence_length": 6, **SIZE}


@kept
def mochi() -> Made:
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, text_embed_dim=16, time_embed_dim=4, activation_fn="swiglu", max_sequence_length=6,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=12, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )  # fmt: skip
    pipe = diffusers.MochiPipeline(
        scheduler=flow(invert_sigmas=True), vae=vae, text_encoder=None, tokenizer=None, transformer=spread(transformer)
    )
    return pipe, {**guided(16), **masks(), "num_frames": 7, **SIZE}


@kept
def stable_audio() -> Made:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    transformer = diffusers.StableAudioDiTModel(
        sample_size=8, in_channels=3, num_layers=2, attention_head_dim=4, num_attention_heads=4,
        num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip
    text, tokenizer = tiny._t5(), copy.deepcopy(tiny.t5_tokenizer())
    tokenizer.model_max_length = 12
    pipe = diffusers.StableAudioPipeline(
        vae=vae, text_encoder=text, projection_model=spread(StableAudioProjectionModel(32, 4, 0, 32)),
        tokenizer=tokenizer, transformer=spread(transformer),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500.0, sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"
        ),
    )  # fmt: skip
    return pipe, {"prompt": "a bear", "negative_prompt": "sky", "guidance_scale": 3.0}


@kept
def deepfloyd() -> Made:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=[32, 32],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], in_channels=3, out_channels=6,
        cross_attention_dim=32, encoder_hid_dim=12, attention_head_dim=4, addition_embed_type="text",
        addition_embed_type_num_heads=2, cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=False, variance_type="learned_range"
    )
    pipe = diffusers.IFPipeline(
        tokenizer=None, text_encoder=None, unet=spread(unet), scheduler=scheduler, safety_checker=None,
        feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipe, {**guided(12), "height": 8, "width": 8}


def stable_parts() -> dict[str, Any]:
    parts = dict(tiny.tiny_stable_diffusion().components)
    parts["requires_safety_checker"] = False
    return parts


@kept
def controlnet() -> Made:
    network = diffusers.ControlNetModel(
        block_out_channels=(8, 8), layers_per_block=1, in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16, attention_head_dim=2,
        conditioning_embedding_out_channels=(8, 8), norm_num_groups=4,
    )  # fmt: skip
    parts = stable_parts()
    pipe = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=spread(network))
    return pipe, {**PROMPT, "image": picture(), "guidance_scale": 3.0, **SIZE}


@kept
def image_to_image() -> Made:
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**stable_parts())
    return pipe, {**PROMPT, "image": picture(), "strength": 0.75, "guidance_scale": 3.0}


@kept
def inpainting() -> Made:
    parts = stable_parts()
    config = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    parts["unet"] = spread(diffusers.UNet2DConditionModel(**{**config, "in_channels": 9}))
    pipe = diffusers.StableDiffusionInpaintPipeline(**parts)
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, :8] = 1
    return pipe, {**PROMPT, "image": picture(), "mask_image": mask, "guidance_scale": 3.0, **SIZE}


@kept
def inpainting_without_mask() -> Made:
    """A network that sees no mask: what is outside is put back after each step."""
    pipe = diffusers.StableDiffusionInpaintPipeline(**stable_parts())
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, :8] = 1
    return pipe, {**PROMPT, "image": picture(), "mask_image": mask, "guidance_scale": 3.0, **SIZE}


@kept
def stable_video() -> Made:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=8, out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=16,
        num_attention_heads=4, projection_class_embeddings_input_dim=24, addition_time_embed_dim=8,
    )  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        sigma_max=700.0, sigma_min=0.002, steps_offset=1, timestep_spacing="leading", timestep_type="continuous",
        use_karras_sigmas=True,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 32], down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4, layers_per_block=1
    )
    config = CLIPVisionConfig(
        hidden_size=16, projection_dim=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        intermediate_size=16, patch_size=8,
    )  # fmt: skip
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=vae, image_encoder=CLIPVisionModelWithProjection(config), unet=spread(unet), scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(crop_size=16, size=16),
    )  # fmt: skip
    return pipe, {"image": picture(), "num_frames": 2, "max_guidance_scale": 2.5, **SIZE}


@kept
def audioldm2() -> Made:
    from diffusers import AudioLDM2UNet2DConditionModel
    from transformers import GPT2Config, GPT2Model, SpeechT5HifiGan, SpeechT5HifiGanConfig

    unet = AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=([None, 12, 16],) * 2, attention_head_dim=2,
    )  # fmt: skip
    vae = tiny.tiny_vae(in_channels=1, out_channels=1)
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=8,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    pipe = diffusers.AudioLDM2Pipeline(
        vae=vae, text_encoder=None, text_encoder_2=tiny._t5(), projection_model=None, tokenizer=None, tokenizer_2=None,
        language_model=GPT2Model(GPT2Config(n_embd=12, n_head=2, n_layer=1, vocab_size=16, n_positions=16)),
        feature_extractor=None, unet=spread(unet), scheduler=tiny._ddim(**tiny.STABLE),
        vocoder=vocoder.eval(),
    )  # fmt: skip
    mask = torch.ones(1, 6, dtype=torch.int64)
    given = {
        "prompt_embeds": embedded(6, 16),
        "negative_prompt_embeds": embedded(6, 16, 1),
        "generated_prompt_embeds": embedded(4, 12),
        "negative_generated_prompt_embeds": embedded(4, 12, 1),
        "attention_mask": mask,
        "negative_attention_mask": mask.clone(),
        "audio_length_in_s": 0.01,
        "guidance_scale": 3.0,
    }
    return pipe, given


@kept
def lumina() -> Made:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_attention_heads=2,
        num_kv_heads=2, multiple_of=8, learn_sigma=True, qk_norm=True, cross_attention_dim=12, scaling_factor=1.0,
    )  # fmt: skip
    pipe = diffusers.LuminaPipeline(
        transformer=spread(transformer), scheduler=flow(), vae=tiny.tiny_vae(), text_encoder=None, tokenizer=None
    )
    return pipe, {**guided(12), **masks(), "height": 64, "width": 64}


@kept
def hidream() -> Made:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_channels=[12, 16], text_emb_dim=16, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(4, 2, 2), max_resolution=(16, 16), llama_layers=(0, 1),
    )  # fmt: skip
    absent = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3", "_4")}
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=flow(), vae=tiny.tiny_vae(shift_factor=0.1), transformer=spread(transformer), **absent
    )
    given = {
        "prompt_embeds_t5": embedded(6, 12),
        "negative_prompt_embeds_t5": embedded(6, 12, 1),
        "prompt_embeds_llama3": torch.stack([embedded(6, 16), embedded(6, 16, 2)]),
        "negative_prompt_embeds_llama3": torch.stack([embedded(6, 16, 1), embedded(6, 16, 3)]),
        "pooled_prompt_embeds": embedded(1, 16)[0],
        "negative_pooled_prompt_embeds": embedded(1, 16, 1)[0],
        "guidance_scale": 3.0,
    }
    return pipe, {**given, "height": 128, "width": 128}  # which it brings to the area of 128 x 128 latents


#: Two text encoders with their tokenizers, whose embeddings are given.
NO_TEXT = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


def both_ways(parts: Callable[[int], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The arguments for a prompt and a negative one, from those of a seed."""
    signs = {"": 0, "negative_": 1}
    return {f"{sign}prompt_{name}": part for sign, seed in signs.items() for name, part in parts(seed).items()}


@kept
def nucleus_moe() -> Made:
    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=(4, 2, 2), dense_moe_strategy="leave_first_block_dense", num_experts=2,
        moe_intermediate_dim=8, capacity_factors=2.0,
    )  # fmt: skip
    for name, weights in transformer.named_parameters():
        if ".experts." in name and name.endswith("_proj"):  # which it leaves as the memory is
            torch.nn.init.normal_(weights, std=0.3)
    pipe = diffusers.NucleusMoEImagePipeline(
        transformer=spread(transformer), scheduler=dynamic(), vae=ZOO["qwen_image"]()[0].vae, text_encoder=None,
        processor=None,
    )  # fmt: skip
    ones = {f"{sign}prompt_embeds_mask": torch.ones(1, 6, dtype=torch.int64) for sign in ("", "negative_")}
    return pipe, {**guided(12), **ones, "height": 32, "width": 32}


@kept
def kandinsky5() -> Made:
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=12, in_text_dim2=8, time_dim=8, model_dim=16, ff_dim=16,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(2, 2, 4), visual_cond=True,
    )  # fmt: skip
    pipe = diffusers.Kandinsky5T2VPipeline(
        transformer=spread(transformer), vae=ZOO["hunyuan_video"]()[0].vae, scheduler=flow(shift=5.0), **NO_TEXT
    )
    given = both_ways(
        lambda seed: {
            "embeds_qwen": embedded(6, 12, seed),
            "embeds_clip": embedded(1, 8, seed)[0],
            "cu_seqlens": torch.tensor([0, 6], dtype=torch.int32),
        }
    )
    return pipe, {**given, "num_frames": 5, "guidance_scale": 3.0, **SIZE}


@kept
def hunyuan_video15() -> Made:
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_refiner_layers=1, text_embed_dim=12, text_embed_2_dim=8, image_embed_dim=8, rope_axes_dim=(2, 4, 4),
        target_size=32, task_type="t2v",
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
    )
    pipe = diffusers.HunyuanVideo15Pipeline(
        transformer=spread(transformer), vae=vae, scheduler=flow(shift=5.0),
        guider=diffusers.ClassifierFreeGuidance(3.0), **NO_TEXT,
    )  # fmt: skip
    given = both_ways(
        lambda seed: {
            "embeds": embedded(6, 12, seed),
            "embeds_mask": torch.ones(1, 6),
            "embeds_2": embedded(4, 8, seed),
            "embeds_mask_2": torch.ones(1, 4),
        }
    )
    return pipe, {**given, "num_frames": 5, "height": 32, "width": 32}


@kept
def ltx2() -> Made:
    """A video and its sound: two states, the second stepped by a copy of the scheduler."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16}
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, audio_in_channels=4, audio_out_channels=4, num_layers=1, caption_channels=12,
        vae_scale_factors=(2, 4, 4), rope_double_precision=False, **heads,
        **{f"audio_{name}": value for name, value in heads.items()},
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,), layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",), upsample_type=("spatiotemporal",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=1,
    )  # fmt: skip
    audio = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=8, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    sizes = {"num_attention_heads": 2, "attention_head_dim": 6, "num_layers": 1, "num_learnable_registers": None}
    connectors = LTX2TextConnectors(
        caption_channels=12, text_proj_in_factor=1, rope_double_precision=False,
        **{f"{part}_connector_{name}": value for part in ("video", "audio") for name, value in sizes.items()},
    )  # fmt: skip
    pipe = diffusers.LTX2Pipeline(
        scheduler=flow(), vae=vae, audio_vae=audio, text_encoder=None, tokenizer=None, connectors=spread(connectors),
        transformer=spread(transformer), vocoder=vocoder,
    )  # fmt: skip
    off = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    given = {**off, **{f"audio_{name}": value for name, value in off.items()}, "spatio_temporal_guidance_blocks": None}
    given |= {"audio_guidance_scale": 3.0, "num_frames": 5, "height": 32, "width": 32}
    return pipe, {**guided(12), **masks(), **given}


_BLENDS = "replaces part of its state between two steps"
_SECOND = "steps a second state with a copy of its scheduler"
_TWICE = "more than once between two calls of its networks"
_GUARD = "needs a library that is not installed: .* `cosmos_guardrail` is not installed"
_SIZE = "This pipeline starts from states of mean square"
_SHARE = "sets invert_sigmas = True, which is not handled"
_SAMPLES = "consistency models, which give samples and not the mean"
#: What is refused, and in which words.
REFUSED = {
    ("image_to_image", "teleport"): "Teleport starts from noise; this pipeline starts from an image",
    **{("inpainting_without_mask", ability): _BLENDS for ability in ("load", "folder")},
    **{("ltx2", ability): _SECOND for ability in ("load", "folder", "teleport")},
    ("ltx_condition", "scheduler"): "takes no per_token_timesteps",
    ("stable_video", "scheduler"): "timestep_type = 'continuous', which is not handled",
    **{(name, "scheduler"): _SHARE for name in ("mochi", "omnigen")},
    ("bria", "scheduler"): "some pipelines tell it to one class of diffusers alone",
    **{("prx_pixel", ability): _SIZE for ability in ("load", "folder")},
    ("prx_pixel", "teleport"): "Teleport starts from noise of mean square 1; this pipeline starts from states of",
    ("latent_upscale", "scheduler"): "scales its states and its network's answers by sigma",
    **{("cosmos", ability): _TWICE for ability in ("record", "decode", "load", "teleport")},
    **{(name, "folder"): _GUARD for name in ("cosmos", "cosmos2_image", "cosmos2_video", "cosmos25")},
    **{(name, "scheduler"): "Levels must fall from first to last" for name in ("cosmos2_image", "cosmos2_video")},
    **{("hunyuan_image", ability): "answers the same state and time in another way" for ability in ("load", "folder")},
    **{("sana_sprint", ability): _SAMPLES for ability in ("record", "decode", "load", "folder", "teleport")},
}
_WHOLE = "Its own scheduler cuts the times that its network is told to whole numbers."
#: What is exact but for something that cannot be, and why.
INEXACT = {
    ("wan22", "scheduler"): _WHOLE,
    ("skyreels", "scheduler"): _WHOLE,
    ("cogview3", "scheduler"): "It begins at infinite sigma/alpha, where the integrator's levels begin at 4096.",
}
#: Two of one class, told apart in the table.
TOLD_APART = {
    "wan21": "Wan 2.1",
    "wan22": "Wan 2.2, two networks",
    "prx_pixel": "as released",
    "prx_pixel_unit": "with noise_scale = 1",
    "inpainting": "a network that is shown the mask",
    "inpainting_without_mask": "a network that is not",
}
