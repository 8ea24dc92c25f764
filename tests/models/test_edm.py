"""EDM networks: NVIDIA's weights give NVIDIA's numbers, and the preconditioned network is the denoiser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import GaussianFourierProjection, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D, downsample_2d, upsample_2d
from scipy.signal import convolve2d
from snapshots import CONFIGS, randomised
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from underpaint.models.model import Model
from underpaint.models.networks.edm import (
    EDMScaling,
    IDDPMScaling,
    Preconditioned,
    Scaling,
    VEScaling,
    VPScaling,
    build_edm,
)
from underpaint.models.networks.edm_networks import (
    Block,
    ConvDown,
    DhariwalUNet,
    FourierEmbedding,
    PositionalEmbedding,
    SongUNet,
    downsample,
    low_pass,
    upsample,
)
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.prediction import from_denoised
from underpaint.theory.gaussian import Gaussian


class Predicts(torch.nn.Module):
    """The Gaussian in the parametrisation of a published family: what its networks were trained to put out."""

    def __init__(self, gaussian: Gaussian, family: str) -> None:
        super().__init__()
        self.gaussian, self.family = gaussian, family

    def forward(
        self, states: Tensor, noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        x = states.flatten(1)
        match self.family:
            case "VP":  # Song21: beta from 0.1 to 20, time 0 to 999
                t = noise / 999
                level = NoiseLevel(
                    (-(19.9 * t**2 / 4 + 0.1 * t / 2)).exp(), (-torch.expm1(-19.9 * t**2 / 2 - 0.1 * t)).sqrt()
                )
                output = from_denoised(self.gaussian(x, level), x, level, "eps")
            case "iDDPM":  # eps beside a learned variance, at a step of the cosine schedule
                level = DDPM("cosine")(noise)
                output = from_denoised(self.gaussian(x, level), x, level, "eps").repeat(1, 2)
            case "VE":  # told log(sigma / 2); puts out sigma times the score
                level = EDM()(2 * noise.exp())
                output = level.sigma[:, None] * from_denoised(self.gaussian(x, level), x, level, "score")
            case _:  # "EDM": told log(sigma) / 4, sees states of unit variance; Karras22 eq. 8 and appendix B.6
                sigma = (4 * noise).exp()
                x = x * (sigma**2 + 0.25).sqrt()[:, None]
                rest = self.gaussian(x, EDM()(sigma)) - (0.25 / (sigma**2 + 0.25))[:, None] * x
                output = rest * ((sigma**2 + 0.25).sqrt() / (0.5 * sigma))[:, None]
        return output.unflatten(1, (-1, 4, 4))


SCALED: dict[str, Scaling] = {"EDM": EDMScaling(), "VP": VPScaling(), "VE": VEScaling(), "iDDPM": IDDPMScaling()}


@pytest.mark.parametrize("family", SCALED)
def test_preconditioning_turns_a_published_parametrisation_into_the_denoiser(family: str, normal):
    gaussian = Gaussian.fit(normal(60, 16) * torch.linspace(0.2, 2, 16), dtype=torch.float64)
    network = Preconditioned(Predicts(gaussian, family), SCALED[family])
    model = Model(network, EDM(0.002, 80.0), "x0", (1, 4, 4), dtype=torch.float64)
    for sigma in (0.03, 0.2, 1.0, 7.0, 79.0):
        for level in (EDM()(sigma), DDPM().level(sigma)):
            x = gaussian.sample(5, torch.Generator().manual_seed(1), level)
            torch.testing.assert_close(model(x, level), gaussian(x, level), rtol=1e-4, atol=2e-4)


def test_edm_scaling_keeps_unit_variance_and_skips_what_it_can():
    """Karras22 appendix B.6: for data of standard deviation sigma_data, inputs and targets have variance 1, and for
    white Gaussian data nothing is left to predict."""
    for deviation in (0.5, 1.3):
        sigma = torch.tensor([0.002, 0.1, 1.0, 20.0, 80.0], dtype=torch.float64)
        c_skip, c_out, c_in, _ = EDMScaling(sigma_data=deviation)(sigma)
        torch.testing.assert_close(c_in**2 * (deviation**2 + sigma**2), torch.ones_like(sigma))
        target = (
            (1 - c_skip) ** 2 * deviation**2 + c_skip**2 * sigma**2
        ) / c_out**2  # variance of (x0 - c_skip x)/c_out
        torch.testing.assert_close(target, torch.ones_like(sigma))
        white, x = Gaussian.isotropic(torch.zeros(3, dtype=torch.float64), deviation**2), torch.ones(5, 3).double()
        torch.testing.assert_close(white(x, EDM()(sigma)), c_skip[:, None] * x)


@pytest.mark.parametrize(
    ("scaling", "low", "high"),
    [(VPScaling(), 0.001, 152.17), (VEScaling(), 0.02, 100), (IDDPMScaling(), 0.0064, 20291)],
)
def test_range_of_sigma(scaling: Scaling, low: float, high: float):
    assert scaling.sigma_min == pytest.approx(low, rel=0.02)
    assert scaling.sigma_max == pytest.approx(high, rel=1e-3)


#: Pixel [1, 3, 5] of three denoised images, computed once with the classes of NVIDIA's Modulus 0.8.0 and these weights.
NVIDIA = {
    "DDPM++": [0.776873, 0.082979, 0.528745],
    "DDPM++ conditional": [0.802182, -0.10822, 0.004901],
    "NCSN++": [0.797241, -0.310651, -0.221115],
    "ADM": [-0.134253, -0.156136, 0.09183],
    "VP": [0.781022, 1.09508, 44.927238],
    "VE": [0.815148, 0.872951, 60.826038],
    "iDDPM": [-0.165457, -1.564129, -10.719716],
}


def example(form: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Three noisy images, their sigmas, and labels if the network takes them."""
    size, classes = CONFIGS[form]["img_resolution"], CONFIGS[form].get("label_dim", 0)
    sigma = torch.tensor([0.025131072849035263, 0.520376980304718, 32.072757720947266])  # steps of iDDPM
    sigma = sigma if form == "iDDPM" else torch.tensor([0.05, 1.0, 30.0])
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    return x * (sigma**2 + 0.25).sqrt()[:, None, None, None], sigma, torch.tensor([0, 2, 4]) if classes else None


@pytest.mark.parametrize("form", CONFIGS)
def test_denoised_images_are_those_of_nvidia(form: str):
    network = randomised(build_edm(CONFIGS[form]))
    torch.testing.assert_close(network(*example(form))[:, 1, 3, 5], torch.tensor(NVIDIA[form]), rtol=1e-5, atol=1e-5)


CIFAR = {"img_resolution": 32, "channel_mult": [2, 2, 2], "augment_dim": 9}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}


@pytest.mark.parametrize(
    ("make", "options", "millions"),
    [
        (SongUNet, CIFAR, 55.7),
        (SongUNet, CIFAR | NCSN, 56.4),
        (SongUNet, {"img_resolution": 64, "augment_dim": 9}, 61.8),
        (DhariwalUNet, {"img_resolution": 64, "label_dim": 1000}, 295.9),
    ],
    ids=["CIFAR-10 DDPM++", "CIFAR-10 NCSN++", "FFHQ DDPM++", "ImageNet ADM"],
)
def test_published_networks_have_their_published_size(make: type, options: dict[str, Any], millions: float):
    with torch.device("meta"):
        network = make(**options)
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_resampling(normal):
    x = normal(2, 3, 10, 6)
    torch.testing.assert_close(downsample(x, low_pass((1, 1))), avg_pool2d(x, 2))
    torch.testing.assert_close(upsample(x, low_pass((1, 1))), interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(downsample(x, low_pass((1, 3, 3, 1))), downsample_2d(x, (1, 3, 3, 1)))
    torch.testing.assert_close(upsample(x, low_pass((1, 3, 3, 1))), upsample_2d(x, (1, 3, 3, 1)))


def test_convolution_and_filter_are_one_convolution(normal):
    """A 3x3 convolution at full resolution, then the 4x4 filter, is their 6x6 product with zeros beyond the border."""
    x, down = normal(2, 3, 8, 12), ConvDown(3, 5, (1, 3, 3, 1)).double()
    kernel = low_pass((1, 3, 3, 1))[0, 0].numpy()
    product = np.array([[convolve2d(plane, kernel) for plane in planes] for planes in down.weight.detach().numpy()])
    expected = conv2d(x, torch.from_numpy(product), down.bias, stride=2, padding=2)
    torch.testing.assert_close(down(x), expected)


def test_embeddings():
    times = torch.tensor([0.0, 0.7, 33.0, 999.0])
    for endpoint in (False, True):
        expected = get_timestep_embedding(times, 16, flip_sin_to_cos=True, downscale_freq_shift=float(endpoint))
        torch.testing.assert_close(PositionalEmbedding(16, endpoint)(times), expected, rtol=1e-4, atol=1e-4)
    ours, theirs = FourierEmbedding(16), GaussianFourierProjection(8, log=False, flip_sin_to_cos=True)
    theirs.weight.data = ours.freqs
    times = torch.tensor([-1.6, 0.0, 0.3, 1.1])  # log(sigma) / 4
    torch.testing.assert_close(ours(times), theirs(times), rtol=1e-3, atol=1e-3)


def test_fourier_frequencies_keep_their_digits_in_half_precision():
    embedding, times = FourierEmbedding(64), torch.tensor([1.1])
    expected = embedding(times)
    assert torch.equal(embedding.half()(times), expected)


def give(theirs: torch.nn.Module, block: Block, attention: Attention | None = None) -> None:
    """The weights of our block to diffusers' residual block and attention."""
    names = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
    if isinstance(block.skip, torch.nn.Conv2d):
        names["skip"] = "conv_shortcut"
    for ours, name in names.items():
        state = {key: value for key, value in block.get_submodule(ours).state_dict().items() if "filter" not in key}
        theirs.get_submodule(name).load_state_dict(state)
    if attention is not None:
        weight, bias = block.qkv.weight.flatten(1), block.qkv.bias
        for index, part in enumerate((attention.to_q, attention.to_k, attention.to_v)):
            part.load_state_dict({"weight": weight[index::3], "bias": bias[index::3]})
        attention.to_out[0].load_state_dict({"weight": block.proj.weight.flatten(1), "bias": block.proj.bias})
        attention.group_norm.load_state_dict(block.norm2.state_dict())


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("way", ["", "up", "down"])
def test_a_residual_block_is_that_of_diffusers(normal, way: str, taps: tuple[int, ...], adaptive: bool):
    up, down, scale = way == "up", way == "down", math.sqrt(0.5)
    block = Block(8, 12, embedding=6, up=up, down=down, taps=taps, adaptive=adaptive, skip_scale=scale, project=True)
    theirs = ResnetBlock2D(
        in_channels=8, out_channels=12, temb_channels=6, groups=2, groups_out=3, eps=1e-5, up=up, down=down,
        skip_time_act=True, time_embedding_norm="scale_shift" if adaptive else "default", output_scale_factor=1 / scale,
        kernel="fir" if way and len(taps) == 4 else None,
    ).double()  # fmt: skip
    give(theirs, randomised(block).double())
    x, embedding = normal(2, 8, 6, 4), normal(2, 6, seed=1)
    torch.testing.assert_close(block(x, embedding), theirs(x, embedding))


@pytest.mark.parametrize("heads", [1, 3])
def test_self_attention_is_that_of_diffusers(normal, heads: int):
    block = randomised(Block(12, 12, embedding=6, heads=heads)).double()
    theirs = Attention(12, heads=heads, dim_head=12 // heads, bias=True, residual_connection=True, norm_num_groups=3)
    resnet = ResnetBlock2D(in_channels=12, temb_channels=6, groups=3, eps=1e-5, skip_time_act=True,
                           time_embedding_norm="scale_shift").double()  # fmt: skip
    give(resnet, block, theirs.double())
    x, embedding = normal(2, 12, 4, 5), normal(2, 6, seed=1)
    torch.testing.assert_close(block(x, embedding), theirs(resnet(x, embedding)))


def test_a_whole_adm_network_is_that_of_diffusers(normal):
    """diffusers has ADM from parts of its own (openai/diffusers-cd_imagenet64_l2 is one)."""
    options = {"model_channels": 128, "channel_mult": [1, 1], "channel_mult_emb": 4, "num_blocks": 1}
    ours = randomised(DhariwalUNet(8, label_dim=5, attn_resolutions=[4], **options)).double()
    theirs = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(128, 128), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"), downsample_type="resnet",
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), upsample_type="resnet", attention_head_dim=64,
        resnet_time_scale_shift="scale_shift", attn_norm_num_groups=32, num_class_embeds=5, norm_eps=1e-5,
        freq_shift=0, flip_sin_to_cos=True,
    ).double()  # fmt: skip
    (down, low), (up, high), middle = theirs.down_blocks, theirs.up_blocks, theirs.mid_block
    give(down.resnets[0], ours.enc["8x8_block0"])
    give(down.downsamplers[0], ours.enc["4x4_down"])
    give(low.resnets[0], ours.enc["4x4_block0"], low.attentions[0])
    give(middle.resnets[0], ours.dec["4x4_in0"], middle.attentions[0])
    give(middle.resnets[1], ours.dec["4x4_in1"])
    give(up.upsamplers[0], ours.dec["8x8_up"])
    for index in range(2):
        give(up.resnets[index], ours.dec[f"4x4_block{index}"], up.attentions[index])
        give(high.resnets[index], ours.dec[f"8x8_block{index}"])
    for mine, other in (
        (ours.enc["8x8_conv"], theirs.conv_in),
        (ours.map_layer0, theirs.time_embedding.linear_1),
        (ours.map_layer1, theirs.time_embedding.linear_2),
        (ours.out_norm, theirs.conv_norm_out),
        (ours.out_conv, theirs.conv_out),
    ):
        other.load_state_dict(mine.state_dict())
    theirs.class_embedding.weight.data = ours.map_label.weight.T
    x, times, labels = normal(2, 3, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([4, 1])
    expected = theirs(x, times, class_labels=labels).sample
    torch.testing.assert_close(ours(x, times, torch.eye(5)[labels]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["DDPM++", "NCSN++", "ADM"])
def test_half_precision(form: str, dtype: torch.dtype):
    network = randomised(build_edm(CONFIGS[form]))
    expected = network(*example(form))
    denoised = network.to(dtype)(*example(form))
    assert denoised.dtype == torch.float32  # only the network inside is rounded
    error = (denoised - expected).square().mean((1, 2, 3)).sqrt()
    assert (error < 4 * torch.finfo(dtype).eps * expected.square().mean((1, 2, 3)).sqrt()).all()


@pytest.mark.parametrize("form", ["DDPM++ conditional", "NCSN++", "ADM"])
def test_a_new_network_starts_as_the_best_linear_denoiser_and_learns(form: str):
    """The last layer of Karras22's networks begins at (nearly) zero: D = c_skip x, and gradients reach all of it."""
    torch.manual_seed(0)
    network = build_edm(CONFIGS[form]).train()
    x, sigma, labels = example(form)
    c_skip = 0.25 / (0.25 + sigma**2)
    denoised = network(x, sigma, labels)
    torch.testing.assert_close(denoised, c_skip[:, None, None, None] * x, rtol=0, atol=2e-3)
    for weight in network.parameters():
        weight.data = weight + 0.02 * torch.randn_like(weight)
    network(x, sigma, labels).square().mean().backward()
    assert all(weight.grad is not None and bool((weight.grad != 0).any()) for weight in network.parameters())


@pytest.mark.parametrize("form", ["DDPM++ conditional", "ADM"])
def test_dropped_labels_are_any_class(form: str):
    config = CONFIGS[form] | {"label_dropout": 1.0, "dropout": 0.0}
    network, (x, sigma, labels) = randomised(build_edm(config)), example(form)
    told, anyone = network(x, sigma, labels), network(x, sigma)
    assert (told - anyone).abs().amax((1, 2, 3)).min() > 1e-3
    torch.testing.assert_close(network(x, sigma, torch.full((3,), 5)), anyone)
    torch.testing.assert_close(network.train()(x, sigma, labels), anyone)


def test_augmentation_labels_of_zero_are_none():
    network, (x, sigma, _) = randomised(build_edm(CONFIGS["DDPM++"])), example("DDPM++")
    torch.testing.assert_close(network(x, sigma, augment_labels=torch.zeros(3, 9)), network(x, sigma))
    assert (network(x, sigma, augment_labels=torch.ones(3, 9)) - network(x, sigma)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_name": "SFBPrecond"}, "of class SFBPrecond; handled are EDMPrecond, VPPrecond"),
        ({"model_type": "DualUNet"}, "model_type is DualUNet; handled are SongUNet, DhariwalUNet"),
        ({"img_resolution": 27}, "needs an img_resolution divisible by 2, got 27"),
        ({"num_blocks": 10**9}, "1 to 64 blocks"),
        ({"encoder_type": "skip"}, "not built here with encoder_type 'skip'; known are standard, residual"),
        ({"max_fourier_modes": 3}, "No SongUNet can be built from .*max_fourier_modes"),
        ({"channel_mult": "wide"}, "No SongUNet can be built from"),
    ],
)
def test_unknown_networks_get_a_sentence(changes: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        build_edm(CONFIGS["DDPM++"] | changes)
