#!/usr/bin/env bash
# denoising-diffusion-pytorch 2.3.4: LearnedGaussianDiffusion predicts noise, whatever its `objective` says.
#
# A GaussianDiffusion takes `objective` = pred_noise, pred_x0 or pred_v (its default) and states it as an attribute, from
# which other programs read what the network predicts. LearnedGaussianDiffusion takes the same values and states them,
# but its loss compares the network's output with the noise, and its sampler reads the output as noise. Here three
# networks know the one image that there is, and each answers as its objective asks. With GaussianDiffusion each has no
# loss and paints the image. With LearnedGaussianDiffusion that holds for pred_noise; pred_x0 and pred_v have losses of
# 1.28 and .38, and pred_x0 paints another image (v is the noise in the last steps, which decide). With
# `sampling_timesteps` fewer than `timesteps` (DDIM) it raises a NameError for all three. torchvision serves only the library's
# trainer and its Inception network; empty modules stand in for it, so that the check is small.
#
# Needs: python3 with venv, a connection to PyPI. Exits 0 while the library does so, 1 once it does not.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check --no-deps denoising-diffusion-pytorch==2.3.4
"$place/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 einops==0.8.2 \
    tqdm==4.70.1 pillow==12.3.0 scipy==1.17.1 accelerate==1.15.0
"$place/env/bin/pip" install --quiet --disable-pip-version-check --no-deps ema-pytorch==0.8.3 pytorch-fid==0.3.0
"$place/env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version
from types import ModuleType

import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
    sys.modules[name] = ModuleType(name)
    setattr(sys.modules["torchvision"], name.rpartition(".")[2], sys.modules[name])

import denoising_diffusion_pytorch.denoising_diffusion_pytorch as library
from denoising_diffusion_pytorch import GaussianDiffusion, LearnedGaussianDiffusion

library.tqdm = lambda steps, **_: steps  # no progress bars
assert version("denoising-diffusion-pytorch") == "2.3.4"
STEPS, SIZE = 100, 8
IMAGE = torch.linspace(-0.9, 0.9, SIZE * SIZE).view(1, 1, SIZE, SIZE)


class Knowing(torch.nn.Module):
    """A network that knows the image, and says so in the terms of an objective."""

    channels, self_condition, random_or_learned_sinusoidal_cond = 1, False, False

    def __init__(self, objective: str, learned: bool) -> None:
        super().__init__()
        self.objective, self.learned, self.out_dim = objective, learned, 2 if learned else 1
        self.bar = None

    def forward(self, x, t, x_self_cond=None):
        bar = self.bar[t].view(-1, 1, 1, 1)
        noise = (x - bar.sqrt() * IMAGE) / (1 - bar).sqrt()
        answers = {
            "pred_noise": noise,
            "pred_x0": IMAGE.repeat(len(x), 1, 1, 1),
            "pred_v": bar.sqrt() * noise - (1 - bar).sqrt() * IMAGE,
        }
        answer = answers[self.objective]
        return torch.cat([answer, torch.zeros_like(answer)], 1) if self.learned else answer


def made(kind, objective: str, **options):
    network = Knowing(objective, kind is LearnedGaussianDiffusion)
    diffusion = kind(network, image_size=SIZE, timesteps=STEPS, objective=objective, auto_normalize=False, **options)
    network.bar = diffusion.alphas_cumprod
    return diffusion


def weighed(diffusion) -> float:
    """The loss of the network's estimate, which is without error; the variational part of a learned one is left out."""
    torch.manual_seed(0)
    if isinstance(diffusion, LearnedGaussianDiffusion):
        diffusion.vb_loss_weight = 0.0
    return float(diffusion.p_losses(IMAGE.repeat(STEPS - 1, 1, 1, 1), torch.arange(1, STEPS)))


def painted(diffusion) -> float:
    """Largest error of a sample; the last step of either keeps no noise but what a posterior variance of 1e-20 has."""
    torch.manual_seed(0)
    return float((diffusion.sample(batch_size=2) - IMAGE).abs().max())


def ddim(diffusion) -> str:
    try:
        diffusion.sample(batch_size=2)
    except NameError as error:
        return str(error)
    return "none"


losses, errors, raised = {}, {}, set()
for kind in (GaussianDiffusion, LearnedGaussianDiffusion):
    for objective in ("pred_noise", "pred_x0", "pred_v"):
        key = kind.__name__, objective
        losses[key], errors[key] = weighed(made(kind, objective)), painted(made(kind, objective))
        said = ddim(made(kind, objective, sampling_timesteps=10))
        raised |= {(kind.__name__, said)}
        print(f"{kind.__name__:25} {objective:11} loss {losses[key]:.4f}  error of samples {errors[key]:.4f}  DDIM: {said}")

wrong = {objective for kind, objective in losses if losses[kind, objective] > 0.1}
right = [key for key in losses if losses[key] < 1e-3 and errors[key] < 1e-3]
names = {text for kind, text in raised if kind == "LearnedGaussianDiffusion"}
same = wrong == {"pred_x0", "pred_v"} and len(right) == 4 and errors["LearnedGaussianDiffusion", "pred_x0"] > 0.3
same &= all("not defined" in text for text in names)
raise SystemExit(0 if same and ("GaussianDiffusion", "none") in raised else 1)
PYTHON
