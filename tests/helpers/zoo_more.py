"""More pipelines of the zoo: those that keep their states, times or conditions in a way of their own."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny
import torch
from diffusers.pipelines.omnigen import pipeline_omnigen
from diffusers.pipelines.omnigen.processor_omnigen import OmniGenCollator
from zoo import SIZE, ZOO, Made, dynamic, embedded, flow, guided, kept, masks, spread, wan_vae


@kept
def bria() -> Made:
    """Guidance whose result is scaled back to the size of the prompt's prediction."""
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=[2, 2, 4],
    )  # fmt: skip
    vae = tiny.tiny_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
    pipe = diffusers.BriaPipeline(
        transformer=spread(transformer), scheduler=dynamic(), vae=vae, text_encoder=None, tokenizer=None
    )
    return pipe, {**guided(12), "normalize": True, **SIZE}


@kept
def ovis_image() -> Made:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    vae = tiny.tiny_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
    pipe = diffusers.OvisImagePipeline(
        transformer=spread(transformer), scheduler=dynamic(), vae=vae, text_encoder=None, tokenizer=None
    )
    return pipe, {**guided(12), "negative_prompt": None, **SIZE}


@kept
def prx() -> Made:
    """A prompt that is padded, with its mask."""
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=12, hidden_size=16, num_heads=2, depth=1, axes_dim=[4, 4]
    )
    pipe = diffusers.PRXPipeline(
        transformer=spread(transformer), scheduler=flow(shift=3.0), text_encoder=None, tokenizer=None,
        vae=tiny.tiny_vae(shift_factor=0.1),
    )  # fmt: skip
    padded = masks()
    padded["prompt_attention_mask"][:, 4:] = 0
    padded = {name: mask.bool() for name, mask in padded.items()}
    return pipe, {**guided(12), **padded, "use_resolution_binning": False, **SIZE}


class Instructions:
    """What OmniGen makes of prompts without images, for whose images its own processor needs torchvision."""

    max_image_size = 1024

    def __init__(self, tokenizer: Any, max_image_size: int = 1024) -> None:
        self.collator = OmniGenCollator(pad_token_id=0, hidden_size=16)

    def __call__(self, prompts: list[str], images: Any, height: int, width: int, **options: Any) -> dict[str, Any]:
        made = [[1, 5, 9, 13], [1, 7]]
        given = [{"input_ids": tokens, "pixel_values": None, "image_sizes": []} for tokens in made]
        size = [4 * height, 4 * width]  # which it counts as by an autoencoder of 8 pixels to a cell
        processed: dict[str, Any] = self.collator([(*given, None, size)] * len(prompts))
        return processed


@kept
def omnigen() -> Made:
    """A flow whose time is the share of data; the prompt's tokens go into the network."""
    pipeline_omnigen.OmniGenMultiModalProcessor = Instructions
    transformer = diffusers.OmniGenTransformer2DModel(
        in_channels=4, patch_size=2, hidden_size=16, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, num_layers=1, pad_token_id=0, vocab_size=64, max_position_embeddings=256,
        original_max_position_embeddings=64, pos_embed_max_size=16, time_step_dim=16,
        rope_scaling={"long_factor": [1] * 4, "short_factor": [1] * 4, "type": "su"},
    )  # fmt: skip
    pipe = diffusers.OmniGenPipeline(
        transformer=spread(transformer), scheduler=flow(invert_sigmas=True), vae=tiny.tiny_vae(),
        tokenizer=tiny.t5_tokenizer(),
    )  # fmt: skip
    return pipe, {"prompt": "a red apple", "guidance_scale": 3.0, **SIZE}


def cosmos_network(channels: int = 4, **options: Any) -> Any:
    return spread(
        diffusers.CosmosTransformer3DModel(
            in_channels=channels,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            mlp_ratio=2,
            text_embed_dim=12,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            patch_size=(1, 2, 2),
            rope_scale=(2.0, 1.0, 1.0),
            concat_padding_mask=False,
            extra_pos_embed_type=None,
            **options,
        )
    )


class Guard:
    """Stands for the guard of Cosmos, which is another package: lets through what the random weights here make."""

    def to(self, device: Any) -> Guard:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def guarded(kind: str, **parts: Any) -> Any:
    return getattr(diffusers, kind)(text_encoder=None, tokenizer=None, safety_checker=Guard(), **parts)


@kept
def cosmos() -> Made:
    vae = diffusers.AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8, 8), decode_block_out_channels=(8, 8),
        attention_resolutions=(8,), resolution=16, num_layers=1, patch_size=2, spatial_compression_ratio=4,
        temporal_compression_ratio=4, latents_mean=None, latents_std=None,
    )  # fmt: skip
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras")
    pipe = guarded("CosmosTextToWorldPipeline", transformer=cosmos_network(), vae=vae, scheduler=scheduler)
    return pipe, {**guided(12), "num_frames": 5, **SIZE}


def cosmos_karras() -> Any:
    return flow(use_karras_sigmas=True)


@kept
def cosmos2_image() -> Made:
    pipe = guarded("Cosmos2TextToImagePipeline", transformer=cosmos_network(), vae=wan_vae(), scheduler=cosmos_karras())
    return pipe, {**guided(12), **SIZE}


@kept
def cosmos2_video() -> Made:
    pipe = guarded(
        "Cosmos2VideoToWorldPipeline", transformer=cosmos_network(5), vae=wan_vae(), scheduler=cosmos_karras()
    )
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return pipe, {"image": image, **guided(12), "num_frames": 5, **SIZE}


@kept
def cosmos25() -> Made:
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipe = guarded("Cosmos2_5_PredictBasePipeline", transformer=cosmos_network(5), vae=wan_vae(), scheduler=scheduler)
    return pipe, {**guided(12), "num_frames": 5, **SIZE}


@kept
def sana_sprint() -> Made:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=12,
        sample_size=8, qk_norm="rms_norm_across_heads", guidance_embeds=True,
    )  # fmt: skip
    pipe = diffusers.SanaSprintPipeline(
        scheduler=diffusers.SCMScheduler(), vae=ZOO["sana"]()[0].vae, text_encoder=None, tokenizer=None,
        transformer=spread(transformer),
    )  # fmt: skip
    given = {"prompt_embeds": embedded(6, 12), "prompt_attention_mask": masks()["prompt_attention_mask"]}
    return pipe, {**given, "intermediate_timesteps": None, "use_resolution_binning": False, "height": 32, "width": 32}


@kept
def allegro() -> Made:
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=1,
        cross_attention_dim=24, sample_width=8, sample_height=8, sample_frames=8, caption_channels=12,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4, up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = diffusers.EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear")
    pipe = diffusers.AllegroPipeline(
        transformer=spread(transformer), vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None
    )
    pipe.vae.enable_tiling()
    return pipe, {**guided(12), **masks(), "negative_prompt": None, "num_frames": 8, **SIZE}


def pixels(noise_scale: float) -> Made:
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=3, patch_size=2, context_in_dim=12, hidden_size=16, num_heads=2, depth=1, axes_dim=[4, 4]
    )
    pipe = diffusers.PRXPixelPipeline(
        transformer=spread(transformer), scheduler=flow(shift=3.0), text_encoder=None, tokenizer=None,
        noise_scale=noise_scale,
    )  # fmt: skip
    given = {name: mask.bool() for name, mask in masks().items()}
    return pipe, {**guided(12), **given, "use_resolution_binning": False, "height": 8, "width": 8}


@kept
def prx_pixel() -> Made:
    """As released: its noise is twice that of its levels."""
    return pixels(2.0)


@kept
def prx_pixel_unit() -> Made:
    """The network predicts the image, from which the pipeline takes a velocity with its state."""
    return pixels(1.0)


@kept
def latent_upscale() -> Made:
    """Scales of EDM, which the pipeline applies to its state and to what the network answers."""
    parts = dict(tiny.tiny_stable_diffusion().components)
    network = diffusers.UNet2DConditionModel(
        act_fn="gelu", attention_head_dim=8, norm_num_groups=None, block_out_channels=(32, 32, 64, 64), in_channels=8,
        out_channels=5, cross_attention_dim=16, time_cond_proj_dim=128 + 16, conv_in_kernel=1, conv_out_kernel=1,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3), mid_block_type=None,
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"), resnet_time_scale_shift="scale_shift",
        only_cross_attention=False, time_embedding_type="fourier", timestep_post_act="gelu",
    )  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="sample")
    pipe = diffusers.StableDiffusionLatentUpscalePipeline(
        vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"], unet=spread(network),
        scheduler=scheduler,
    )  # fmt: skip
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return pipe, {"prompt": "a red apple", "negative_prompt": "blue", "image": image, "guidance_scale": 3.0}


@kept
def cogview3() -> Made:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, out_channels=4,
        text_embed_dim=12, time_embed_dim=8, condition_dim=4, pos_embed_max_size=8, sample_size=8,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, timestep_spacing="trailing",
        snr_shift_scale=4.0, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
    )  # fmt: skip
    pipe = diffusers.CogView3PlusPipeline(
        tokenizer=None, text_encoder=None, vae=tiny.tiny_vae(), transformer=spread(transformer), scheduler=scheduler
    )
    return pipe, {**guided(12), **SIZE}


@kept
def sana_video() -> Made:
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=12,
        sample_size=8, patch_size=(1, 2, 2), rope_max_seq_len=32,
    )  # fmt: skip
    pipe = diffusers.SanaVideoPipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), transformer=spread(transformer), scheduler=flow(shift=8.0)
    )
    return pipe, {
        **guided(12),
        **masks(),
        "negative_prompt": None,
        "frames": 5,
        "use_resolution_binning": False,
        "height": 32,
        "width": 32,
    }


@kept
def skyreels() -> Made:
    transformer = diffusers.SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12,
        freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
    )
    pipe = diffusers.SkyReelsV2Pipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), transformer=spread(transformer), scheduler=scheduler
    )
    return pipe, {**guided(12), "num_frames": 5, **SIZE}


@kept
def latte() -> Made:
    transformer = diffusers.LatteTransformer3DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=12,
        in_channels=4, cross_attention_dim=16, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        video_length=2,
    )  # fmt: skip
    pipe = diffusers.LattePipeline(
        tokenizer=None, text_encoder=None, vae=tiny.tiny_vae(), transformer=spread(transformer), scheduler=tiny._ddim()
    )
    return pipe, {
        **guided(12),
        "negative_prompt": None,
        "video_length": 2,
        "clean_caption": False,
        "mask_feature": False,
        **SIZE,
    }


@kept
def hunyuan_image() -> Made:
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), text_embed_dim=12, text_embed_2_dim=8, rope_axes_dim=(4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=16, scaling_factor=0.75,
    )  # fmt: skip
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.HunyuanImagePipeline(
        transformer=spread(transformer), vae=vae, scheduler=flow(shift=5.0),
        guider=diffusers.AdaptiveProjectedMixGuidance(), ocr_guider=diffusers.AdaptiveProjectedMixGuidance(), **absent,
    )  # fmt: skip
    given = {}
    for seed, sign in enumerate(("", "negative_")):
        given |= {
            f"{sign}prompt_embeds": embedded(6, 12, seed),
            f"{sign}prompt_embeds_mask": torch.ones(1, 6),
            f"{sign}prompt_embeds_2": embedded(4, 8, seed),
            f"{sign}prompt_embeds_mask_2": torch.ones(1, 4),
        }
    return pipe, {**given, **SIZE}
