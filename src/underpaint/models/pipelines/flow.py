"""Flow-matching transformers of diffusers: Stable Diffusion 3 and Flux."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..model import Model
from ..networks.diffusers import Size, running
from .latent import Prompts, latent_model


def stable_diffusion_3(pipe: Any, size: Size | None = None) -> Model:
    """StableDiffusion3Pipeline: two CLIP encoders and T5, which may be absent."""

    def encode(prompt: str) -> Mapping[str, Any]:
        states, _, pooled, _ = pipe.encode_prompt(
            prompt, None, None, device=pipe._execution_device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    network = pipe.transformer
    embed = Prompts(encode, pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3)
    return latent_model(pipe, network, size, patch=network.config.patch_size, embed=embed)


def flux(pipe: Any, size: Size | None = None) -> Model:
    """FluxPipeline: CLIP's pooled text and T5; cells in blocks of 2 x 2; guidance inside the network where it was
    distilled.

    Raises:
        ValueError: ``size`` is no multiple of a block.
    """

    def encode(prompt: str) -> Mapping[str, Any]:
        states, pooled, _ = pipe.encode_prompt(prompt, device=pipe._execution_device)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    network = pipe.transformer
    return latent_model(
        pipe,
        network,
        size,
        FluxAdapter(network),
        patch=2,
        blocks=2,
        embed=Prompts(encode, pipe.text_encoder, pipe.text_encoder_2),
        distilled=bool(network.config.guidance_embeds),
    )


class FluxAdapter(torch.nn.Module):
    """FluxTransformer2DModel behind the call that `Model` makes: blocks become tokens [B, T, C] with their places.

    Args:
        network: takes times t in [0, 1] and, where it was distilled, the guidance weight.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, states: Tensor, times: Tensor, prompt: Mapping[str, Tensor], guidance: float = 1.0) -> Tensor:
        rows, channels, height, width = states.shape
        with running(states):
            output: Tensor = self.network(
                states.flatten(2).transpose(1, 2),
                timestep=times,
                guidance=times.new_full((rows,), guidance) if self.network.config.guidance_embeds else None,
                img_ids=_places(height, width).to(states),
                txt_ids=states.new_zeros(prompt["encoder_hidden_states"].shape[1], 3),
                **prompt,
            ).sample
        return output.transpose(1, 2).reshape(rows, channels, height, width)


def _places(height: int, width: int) -> Tensor:
    """(0, row, column) of each token, [height * width, 3]."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(float(height)), torch.arange(float(width)))
