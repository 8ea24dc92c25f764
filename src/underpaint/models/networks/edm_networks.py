"""The U-Nets of Karras22 as plain torch modules: DDPM++ and NCSN++ (`SongUNet`, Song21) and ADM (`DhariwalUNet`,
Dhariwal & Nichol 2021).

Parameters carry the names of NVIDIA's checkpoints, so that their tensors load as they are. Noise is embedded in the
precision it is given in, whatever that of the weights: a phase of some hundred radians has no digits left in half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, dropout, scaled_dot_product_attention, silu

Filter = Sequence[float]


def low_pass(taps: Filter) -> Tensor:
    """The kernel [1, 1, k, k] of unit sum whose rows and columns are ``taps``; their number is even."""
    line = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def downsample(x: Tensor, kernel: Tensor, padding: int | None = None) -> Tensor:
    """[B, C, H, W] to half its height and width: filtered, then every second pixel; zeros beyond the border."""
    weight = kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
    return conv2d(x, weight, stride=2, padding=_overlap(kernel) if padding is None else padding, groups=x.shape[1])


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """[B, C, H, W] to twice its height and width: zeros between the pixels, then four times the filter."""
    weight = 4 * kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
    return conv_transpose2d(x, weight, stride=2, padding=_overlap(kernel), groups=x.shape[1])


def _overlap(kernel: Tensor) -> int:
    return (kernel.shape[-1] - 1) // 2


class Resample(nn.Module):
    """Twice the resolution (``up``), or half of it."""

    resample_filter: Tensor

    def __init__(self, up: bool, taps: Filter) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.resample_filter) if self.up else downsample(x, self.resample_filter)


class Conv2d(nn.Conv2d):
    """A convolution that keeps the resolution, after up- or downsampling if asked."""

    resample_filter: Tensor | None

    def __init__(
        self, inside: int, outside: int, kernel: int, up: bool = False, down: bool = False, taps: Filter = (1, 1)
    ) -> None:
        super().__init__(inside, outside, kernel, padding=kernel // 2)
        self.up = up
        self.register_buffer("resample_filter", low_pass(taps) if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample_filter is not None:
            x = upsample(x, self.resample_filter) if self.up else downsample(x, self.resample_filter)
        return super().forward(x)


class ConvDown(Conv2d):
    """A 3x3 convolution, then downsampling, with the border extended once for both."""

    def __init__(self, inside: int, outside: int, taps: Filter) -> None:
        super().__init__(inside, outside, 3, down=True, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.get_buffer("resample_filter")
        return downsample(conv2d(x, self.weight, self.bias, padding=1 + _overlap(kernel)), kernel, padding=0)


class GroupNorm(nn.GroupNorm):
    """At most 32 groups, of at least 4 channels."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(min(32, channels // 4), channels, eps)


class Block(nn.Module):
    """A residual block that is told the noise level, with self-attention if it has heads.

    Args:
        embedding: channels of the noise embedding.
        skip_scale: factor of both sums; sqrt(1/2) keeps their variance.
        project: whether a shortcut that changes only the resolution is a 1x1 convolution as well.
        adaptive: whether the embedding scales and shifts after the second normalisation, or is added before it.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        *,
        embedding: int,
        up: bool = False,
        down: bool = False,
        heads: int = 0,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        taps: Filter = (1, 1),
        project: bool = False,
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.skip_scale, self.adaptive = heads, dropout, skip_scale, adaptive
        self.norm0 = GroupNorm(inside, eps)
        self.conv0 = Conv2d(inside, outside, 3, up, down, taps)
        self.affine = nn.Linear(embedding, outside * (2 if adaptive else 1))
        self.norm1 = GroupNorm(outside, eps)
        self.conv1 = Conv2d(outside, outside, 3)
        self.skip: nn.Module = nn.Identity()
        if inside != outside or (project and (up or down)):
            self.skip = Conv2d(inside, outside, 1, up, down, taps)
        elif up or down:
            self.skip = Resample(up, taps)
        if heads:
            self.norm2 = GroupNorm(outside, eps)
            self.qkv = Conv2d(outside, 3 * outside, 1)
            self.proj = Conv2d(outside, outside, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv0(silu(self.norm0(x)))
        told = self.affine(embedding)[:, :, None, None]
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            y = torch.addcmul(shift, self.norm1(y), scale + 1)
        else:
            y = self.norm1(y + told)
        y = self.conv1(dropout(silu(y), self.dropout, self.training))
        x = (self.skip(x) + y) * self.skip_scale
        return (x + self.proj(self._attend(self.norm2(x)))) * self.skip_scale if self.heads else x

    def _attend(self, x: Tensor) -> Tensor:
        """Softmax attention between all pixels; the weights keep q, k and v of one channel side by side."""
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3)).transpose(2, 4).unbind(3)
        return scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)


class PositionalEmbedding(nn.Module):
    """[cos, sin] of times [B] at frequencies from 1 to 1e-4, even in log (``endpoint``: 1e-4 is one of them)."""

    def __init__(self, channels: int, endpoint: bool = False) -> None:
        super().__init__()
        self.count, self.endpoint = channels // 2, endpoint

    def forward(self, times: Tensor) -> Tensor:
        steps = torch.arange(self.count, dtype=times.dtype, device=times.device) / (self.count - self.endpoint)
        phases = torch.outer(times, 1e-4**steps)
        return torch.cat([phases.cos(), phases.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """[cos, sin] of times [B] at random frequencies, drawn once (Tancik et al. 2020)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, times: Tensor) -> Tensor:
        phases = torch.outer(times, 2 * math.pi * self.freqs.to(times.dtype))
        return torch.cat([phases.cos(), phases.sin()], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierEmbedding:
        """Follow the module to its device, but not to half precision."""
        freqs = self.freqs
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.freqs = freqs.to(self.freqs.device)
        return self


def _levels(resolution: int, model_channels: int, channel_mult: Sequence[int]) -> list[tuple[int, int]]:
    """(resolution, channels) of each level, from fine to coarse."""
    halvings = len(channel_mult) - 1
    if halvings < 0 or resolution < 1 or resolution % 2**halvings:
        raise ValueError(
            f"A U-Net with channel_mult {list(channel_mult)} needs an img_resolution divisible by {2**halvings}, got "
            f"{resolution}."
        )
    return [(resolution >> level, model_channels * factor) for level, factor in enumerate(channel_mult)]


def _encoder(
    levels: list[tuple[int, int]],
    inside: int,
    first: int,
    num_blocks: int,
    attn_resolutions: Collection[int],
    block: Callable[..., Block],
    pyramid: Filter | None = None,
) -> tuple[nn.ModuleDict, list[int]]:
    """The layers from fine to coarse, and the channels of what they give to the decoder. With a ``pyramid`` filter each
    level is also shown the one before it, the first of them the image (NCSN++)."""
    finest, _ = levels[0]
    layers = nn.ModuleDict({f"{finest}x{finest}_conv": Conv2d(inside, first, 3)})
    width, shown, skips = first, inside, [first]
    for size, wanted in levels:
        if size != finest:
            layers[f"{size}x{size}_down"] = block(width, width, down=True)
            skips.append(width)
            if pyramid is not None:
                layers[f"{size}x{size}_aux_residual"] = ConvDown(shown, width, pyramid)
                shown = width
        for index in range(num_blocks):
            layers[f"{size}x{size}_block{index}"] = block(width, wanted, attends=size in attn_resolutions)
            width = wanted
            skips.append(width)
    return layers, skips


def _decoder(
    levels: list[tuple[int, int]],
    skips: list[int],
    num_blocks: int,
    attends: Callable[[int, int], bool],
    block: Callable[..., Block],
) -> nn.ModuleDict:
    """The layers from coarse to fine; each called block takes back one output of the encoder. ``attends`` is asked for
    a resolution and a block's index."""
    coarsest, width = levels[-1]
    layers = nn.ModuleDict()
    for size, wanted in reversed(levels):
        if size == coarsest:
            layers[f"{size}x{size}_in0"] = block(width, width, attends=True)
            layers[f"{size}x{size}_in1"] = block(width, width)
        else:
            layers[f"{size}x{size}_up"] = block(width, width, up=True)
        for index in range(num_blocks + 1):
            layers[f"{size}x{size}_block{index}"] = block(width + skips.pop(), wanted, attends=attends(size, index))
            width = wanted
    return layers


def _through(encoder: nn.ModuleDict, decoder: nn.ModuleDict, x: Tensor, embedding: Tensor) -> Tensor:
    """Features of the finest level [B, channels, H, W] of images [B, C, H, W]."""
    skips: list[Tensor] = []
    shown = x
    for layer in encoder.values():
        if isinstance(layer, ConvDown):
            x = shown = skips[-1] = (x + layer(shown)) * math.sqrt(0.5)
        else:
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
    for name, layer in decoder.items():
        if isinstance(layer, Block):  # a network's last layers may stand in the same dict
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, embedding)
    return x


def _dropped(labels: Tensor, rate: float, training: bool) -> Tensor:
    """One-hot labels [B, label_dim], in training set to zero ("any class") for a part ``rate`` of the rows."""
    if not (training and rate):
        return labels
    return labels * (torch.rand(len(labels), 1, device=labels.device) >= rate)


_FORMS = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "residual"),
    "decoder_type": ("standard",),
}


def _check_forms(**given: str) -> None:
    for name, form in given.items():
        if form not in _FORMS[name]:
            raise ValueError(f"SongUNet is not built here with {name} {form!r}; known are {', '.join(_FORMS[name])}.")


class SongUNet(nn.Module):
    """DDPM++ by default; NCSN++ with fourier embedding, residual encoder, ``resample_filter`` [1, 3, 3, 1] and
    ``channel_mult_noise`` 2. For CIFAR-10 Karras22 takes ``channel_mult`` [2, 2, 2] and nine augmentation labels.

    Source: Song21; Karras22, appendix F. Both kinds of dropout act in training only.

    Raises:
        ValueError: a form that no published checkpoint has, or an impossible resolution.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int = 3,
        out_channels: int = 3,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Collection[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "residual"] = "standard",
        decoder_type: Literal["standard"] = "standard",
        resample_filter: Filter = (1, 1),
    ) -> None:
        super().__init__()
        _check_forms(embedding_type=embedding_type, encoder_type=encoder_type, decoder_type=decoder_type)
        noise, embedding = model_channels * channel_mult_noise, model_channels * channel_mult_emb

        def block(inside: int, outside: int, attends: bool = False, up: bool = False, down: bool = False) -> Block:
            return Block(
                inside, outside, embedding=embedding, up=up, down=down, heads=int(attends), dropout=dropout,
                skip_scale=math.sqrt(0.5), eps=1e-6, taps=resample_filter, project=True, adaptive=False,
            )  # fmt: skip

        def attends(size: int, index: int) -> bool:
            return size in attn_resolutions and index == num_blocks

        self.label_dim, self.label_dropout = label_dim, label_dropout
        fourier = embedding_type == "fourier"
        self.map_noise = FourierEmbedding(noise) if fourier else PositionalEmbedding(noise, endpoint=True)
        self.map_label = nn.Linear(label_dim, noise) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, noise, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        levels = _levels(img_resolution, model_channels, channel_mult)
        pyramid = resample_filter if encoder_type == "residual" else None
        self.enc, skips = _encoder(levels, in_channels, model_channels, num_blocks, attn_resolutions, block, pyramid)
        self.dec = _decoder(levels, skips, num_blocks, attends, block)
        self.last = f"{img_resolution}x{img_resolution}_aux"
        self.dec[f"{self.last}_norm"] = GroupNorm(levels[0][1], 1e-6)
        self.dec[f"{self.last}_conv"] = Conv2d(levels[0][1], out_channels, 3)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier-uniform, but nearly zero where a branch or the network ends: blocks start as the identity."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                ends = name.endswith(("conv1", "proj", "aux_conv"))
                gain = 1e-5 if ends else math.sqrt(0.2) if name.endswith("qkv") else 1.0
                nn.init.xavier_uniform_(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Output [B, out_channels, H, W] for x [B, in_channels, H, W], noise [B], one-hot labels [B, label_dim] (None:
        zeros) and augmentation labels [B, augment_dim] (None: not augmented)."""
        cosine, sine = self.map_noise(noise).to(x.dtype).chunk(2, dim=1)
        embedding = torch.cat([sine, cosine], dim=1)  # the order of Song21
        if self.map_label is not None:
            labels = x.new_zeros(len(x), self.label_dim) if labels is None else labels.to(x.dtype)
            labels = _dropped(labels, self.label_dropout, self.training)
            embedding = embedding + self.map_label(labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels.to(x.dtype))
        embedding = silu(self.map_layer1(silu(self.map_layer0(embedding))))
        x = _through(self.enc, self.dec, x, embedding)
        return self.dec[f"{self.last}_conv"](silu(self.dec[f"{self.last}_norm"](x)))


class DhariwalUNet(nn.Module):
    """ADM. The defaults are the network of Karras22 for ImageNet at 64 pixels, which has ``label_dim`` 1000.

    Source: Dhariwal & Nichol 2021; Karras22, appendix F. Both kinds of dropout act in training only.

    Raises:
        ValueError: an impossible resolution.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int = 3,
        out_channels: int = 3,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Collection[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        embedding = model_channels * channel_mult_emb

        def block(inside: int, outside: int, attends: bool = False, up: bool = False, down: bool = False) -> Block:
            heads = outside // 64 if attends else 0
            return Block(inside, outside, embedding=embedding, up=up, down=down, heads=heads, dropout=dropout)

        def attends(size: int, index: int) -> bool:
            return size in attn_resolutions

        self.label_dim, self.label_dropout = label_dim, label_dropout
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.map_label = nn.Linear(label_dim, embedding, bias=False) if label_dim else None
        levels = _levels(img_resolution, model_channels, channel_mult)
        self.enc, skips = _encoder(levels, in_channels, levels[0][1], num_blocks, attn_resolutions, block)
        self.dec = _decoder(levels, skips, num_blocks, attends, block)
        self.out_norm = GroupNorm(levels[0][1], 1e-5)
        self.out_conv = Conv2d(levels[0][1], out_channels, 3)
        self._initialise()

    def _initialise(self) -> None:
        """torch's own uniform numbers, zero where a branch or the network ends; unit variance for the labels."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(("conv1", "proj", "out_conv", "map_augment")):
                nn.init.zeros_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def forward(
        self, x: Tensor, noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """As of `SongUNet`."""
        embedding = self.map_noise(noise).to(x.dtype)
        if self.map_augment is not None and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels.to(x.dtype))
        embedding = self.map_layer1(silu(self.map_layer0(embedding)))
        if self.map_label is not None and labels is not None:
            embedding = embedding + self.map_label(_dropped(labels.to(x.dtype), self.label_dropout, self.training))
        x = _through(self.enc, self.dec, x, silu(embedding))
        return self.out_conv(silu(self.out_norm(x)))
