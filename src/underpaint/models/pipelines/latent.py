"""Latent models of diffusers: the autoencoder and prompts that they share, DiT, Stable Diffusion and SDXL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..model import Model
from ..networks.diffusers import Adapter, Size, batch_of, pair
from ..schedulers.configs import left_off, read_scheduler, scheduler_config, time_unit
from .text_encoding import alone, tokenizers_of


class LatentAutoencoder(torch.nn.Module):
    """The VAE of a pipeline behind the scale and shift of its latents: z = states * scale + shift is what it decodes.

    scale is 1/scaling_factor, or std/scaling_factor where the VAE states moments of its latents; shift is its
    shift_factor or that mean. In float16 a VAE that asks for it is run in float32. Scale and shift stay on the CPU and
    go where the latents are, since a VAE's weights may be offloaded.

    Args:
        vae: AutoencoderKL, or another with its interface.
        shape: (C, H, W) of a latent.
    """

    def __init__(self, vae: Any, shape: tuple[int, int, int]) -> None:
        super().__init__()
        config, factor = vae.config, downscaling(vae)
        self.vae = vae
        self.shape = (int(config.out_channels), shape[1] * factor, shape[2] * factor)
        std, mean = config.get("latents_std"), config.get("latents_mean")
        scale = torch.tensor(1.0 if std is None else std, dtype=torch.float64) / config.scaling_factor
        shift = torch.tensor((config.get("shift_factor") or 0.0) if mean is None else mean, dtype=torch.float64)
        self.scale, self.shift = scale.reshape(-1, 1, 1), shift.reshape(-1, 1, 1)

    def decode(self, states: Tensor) -> Tensor:
        """Images [B, c, h, w] of states [B, C, H, W]."""
        ready = self._ready(states)
        latents = ready * self.scale.to(ready) + self.shift.to(ready)
        images: Tensor = self.vae.decode(latents.to(self.vae.dtype)).sample
        return images

    def encode(self, images: Tensor) -> Tensor:
        """States of images: the mean of the encoder's distribution."""
        encoded = self.vae.encode(self._ready(images))
        latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents - self.shift.to(latents)) / self.scale.to(latents)

    def _ready(self, tensor: Tensor) -> Tensor:
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.float()
        return tensor.to(self.vae.dtype)


def downscaling(vae: Any) -> int:
    """Pixels to an edge of a latent's cell."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


class Prompts(torch.nn.Module):
    """A pipeline's own reading of a prompt, by one thread at a time: keyword arguments for its network, for one row.

    Args:
        encode: prompt -> keyword arguments, tensors [1, ...] or mappings of such.
        encoders: what has to move with the model to another device.
    """

    def __init__(self, encode: Callable[[str], Mapping[str, Any]], *encoders: torch.nn.Module | None) -> None:
        super().__init__()
        self.encoders = torch.nn.ModuleList(encoder for encoder in encoders if encoder is not None)
        self.encode = alone(encode)
        #: what cuts prompts into tokens; told by the pipeline
        self.tokenizers: tuple[Any, ...] = ()

    def forward(self, prompt: str) -> Mapping[str, Any]:
        return self.encode(prompt)


def latent_model(
    pipe: Any, network: Any, size: Size | None, adapter: torch.nn.Module | None = None, patch: int = 1, **parts: Any
) -> Model:
    """What all latent models have in common.

    Args:
        pipe: the pipeline, for its VAE and scheduler.
        network: its U-Net or transformer.
        size: edge of the images in pixels, or (height, width); by default what the network was made for.
        adapter: the network behind the call that `Model` makes; `Adapter` unless given.
        patch: latent cells to an edge of one of the network's tokens.
        parts: the rest of the `Model`.

    Raises:
        ValueError: the size is no multiple of the cells, or the network takes more than a latent.
    """
    factor, channels = downscaling(pipe.vae), int(pipe.vae.config.latent_channels)
    taken = network.config.in_channels // parts.get("blocks", 1) ** 2
    if taken != channels:
        raise ValueError(
            f"This network takes {taken} channels where its latents have {channels}: it is shown an image or a mask, "
            "too. Load the pipeline that gives it these, with what its call takes: load_model(pipe, prompt=..., "
            "image=...)."
        )
    cells = pair(network.config.get("sample_size") or pipe.default_sample_size)
    height, width = pair(size) if size else (factor * cells[0], factor * cells[1])
    if height % (factor * patch) or width % (factor * patch):
        raise ValueError(f"Images of this model have edges that are multiples of {factor * patch}, got {size}.")
    shape = (channels, height // factor, width // factor)
    if isinstance(parts.get("embed"), Prompts):
        parts["embed"].tokenizers = tokenizers_of(pipe)
    scheduler = scheduler_config(pipe.scheduler)
    schedule, prediction = read_scheduler(scheduler, tokens=shape[1] * shape[2] // patch**2)
    return Model(
        network=adapter or Adapter(network, time_unit(scheduler)),
        schedule=schedule,
        prediction=prediction,
        shape=shape,
        autoencoder=LatentAutoencoder(pipe.vae, shape),
        batch=batch_of(height * width),
        device=pipe._execution_device,
        dtype=network.dtype,
        notes=left_off(scheduler),
        **parts,
    )


def dit(pipe: Any, size: Size | None = None) -> Model:
    """DiTPipeline: classes, with one more label for "any"."""
    classes = int(pipe.transformer.config.num_embeds_ada_norm)
    patch = pipe.transformer.config.patch_size
    return latent_model(pipe, pipe.transformer, size, patch=patch, classes=classes, null_class=classes)


def stable_diffusion(pipe: Any, size: Size | None = None) -> Model:
    """StableDiffusionPipeline: one text encoder."""
    _check_not_distilled(pipe.unet)

    def encode(prompt: str) -> Mapping[str, Any]:
        states, _ = pipe.encode_prompt(prompt, pipe._execution_device, 1, False)
        return {"encoder_hidden_states": states}

    return latent_model(pipe, pipe.unet, size, embed=Prompts(encode, pipe.text_encoder))


def stable_diffusion_xl(pipe: Any, size: Size | None = None) -> Model:
    """StableDiffusionXLPipeline: two text encoders, the pooled text of the second, and the image's size, uncropped.

    The empty prompt is what the pipeline takes for no negative prompt: zeros, if its config says so.
    """
    _check_not_distilled(pipe.unet)

    def encode(prompt: str) -> Mapping[str, Any]:
        states, no_states, pooled, no_pooled = pipe.encode_prompt(prompt, device=pipe._execution_device)
        states, pooled = (states, pooled) if prompt else (no_states, no_pooled)
        _, height, width = model.image_shape
        sizes = states.new_tensor([[height, width, 0, 0, height, width]])
        return {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    model = latent_model(pipe, pipe.unet, size, embed=Prompts(encode, pipe.text_encoder, pipe.text_encoder_2))
    return model


def _check_not_distilled(unet: Any) -> None:
    if unet.config.get("time_cond_proj_dim"):
        raise ValueError("This network is a distilled consistency model, which has no denoiser E[x0 | x].")
