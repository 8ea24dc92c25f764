"""Pipelines of a few lines around analytic networks, which do what those of diffusers do before and after a network."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from underpaint.noise import NoiseLevel
from underpaint.prediction import from_denoised
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

SHAPE = (4, 4, 2)
DIMENSION = 32


def gaussian(seed: int, dimension: int = DIMENSION) -> Gaussian:
    """Some Gaussian, of rank 6 with a residual variance."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dimension, 6, generator=draw)).Q
    values = torch.tensor([20.0, 8.0, 4.0, 2.0, 1.0, 0.4])
    return Gaussian(torch.randn(dimension, generator=draw), Covariance(values, basis, 0.1))


class Network(nn.Module):
    """The flow velocity of data that is Gaussian: of one law with the prompt 1, of another with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.laws = [gaussian(0), gaussian(1)]

    def velocity(self, states: Tensor, share: Tensor, prompts: Tensor) -> Tensor:
        """Of states [B, ...] of DIMENSION numbers, with the share of noise [B] and prompts [B]."""
        rows, out = states.flatten(1), []
        for row, sigma, prompt in zip(rows.split(1), share.double(), prompts, strict=True):
            level = NoiseLevel(1 - sigma, sigma)
            out.append(from_denoised(self.laws[int(prompt)].denoise(row, level), row, level, "flow"))
        return torch.cat(out).view_as(states)

    def forward(self, states: Tensor, share: Tensor, prompts: Tensor) -> tuple[Tensor]:
        return (self.velocity(states, share, prompts),)


class Loop:
    """A flow of STEPS steps from noise, unguided; what subclasses change is how the network is asked and answered."""

    guidance = 1.0

    def __init__(self, network: nn.Module | None = None, **options: Any) -> None:
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
        self.network: Any = Network() if network is None else network

    def __call__(self, steps: int = 6, batch_size: int = 2, generator: Any = None) -> Tensor:
        self.scheduler.set_timesteps(steps)
        draws = generator if isinstance(generator, list) else [generator]
        each = batch_size // len(draws)
        x = self.begin(torch.cat([torch.randn(each, *SHAPE, generator=one) for one in draws]))
        for t in self.scheduler.timesteps:
            x = self.move(x, t)
        return x

    def begin(self, noise: Tensor) -> Tensor:
        return noise

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        moved: Tensor = self.scheduler.step(self.predict(x, t), t, x, return_dict=False)[0]
        return moved

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Both halves of guidance at once, the unconditional first."""
        if self.guidance == 1:
            return self.ask(x, t, 1)
        both = self.ask(torch.cat([x, x]), t, 0, 1)
        uncond, cond = both.chunk(2)
        return self.combine(uncond, cond)

    def combine(self, uncond: Tensor, cond: Tensor) -> Tensor:
        return uncond + self.guidance * (cond - uncond)

    def ask(self, x: Tensor, t: Tensor, *prompts: int) -> Tensor:
        of_rows = torch.tensor(prompts).repeat_interleave(len(x) // len(prompts))
        answer: Tensor = self.network(x, (t / 1000).expand(len(x)), of_rows)[0]
        return answer


class Guided(Loop):
    guidance = 3.0


class Negating(Guided):
    """As Lumina, Z-Image and HiDream: the network runs from noise to data, and its answer is turned round."""

    def ask(self, x: Tensor, t: Tensor, *prompts: int) -> Tensor:
        return -super().ask(x, t, *prompts)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        return super().predict(x, t)


class Backwards(nn.Module):
    """A network whose answer is negated."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Network()

    def forward(self, states: Tensor, share: Tensor, prompts: Tensor) -> tuple[Tensor]:
        return (-self.own.velocity(states, share, prompts),)


class PerToken(Guided):
    """As LTX-Video with conditions: a call of step that goes by the negative; the states are tokens of two numbers."""

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        tokens, given = x.flatten(1).unflatten(1, (-1, 2)), -self.predict(x, t).flatten(1).unflatten(1, (-1, 2))
        times = t.expand(*tokens.shape[:2])
        moved: Tensor = self.scheduler.step(given, t, tokens, per_token_timesteps=times, return_dict=False)[0]
        return moved.reshape(x.shape)


class TokensApart(PerToken):
    """... with a token that is data already."""

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        tokens, given = x.flatten(1).unflatten(1, (-1, 2)), -self.predict(x, t).flatten(1).unflatten(1, (-1, 2))
        times = t.expand(*tokens.shape[:2]).clone()
        times[:, 0] = 0
        moved: Tensor = self.scheduler.step(given, t, tokens, per_token_timesteps=times, return_dict=False)[0]
        return moved.reshape(x.shape)


class OfLists(nn.Module):
    """As Z-Image: a list of states and a time t, answered in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Network()

    def forward(self, x: list[Tensor], t: Tensor, prompts: Tensor) -> tuple[list[Tensor]]:
        velocity = self.own.velocity(torch.stack(x), 1 - t, prompts)
        return (list((-velocity).unbind()),)


class Lists(Guided):
    def __init__(self) -> None:
        super().__init__(OfLists())

    def ask(self, x: Tensor, t: Tensor, *prompts: int) -> Tensor:
        of_rows = torch.tensor(prompts).repeat_interleave(len(x) // len(prompts))
        return -torch.stack(self.network(list(x.unbind()), (1 - t / 1000).expand(len(x)), of_rows)[0])


class Rescaled(Guided):
    """As Qwen-Image: each token of the guided prediction gets the length that its conditional half has. Tokens of 8."""

    def combine(self, uncond: Tensor, cond: Tensor) -> Tensor:
        tokens = [part.reshape(len(part), -1, 8) for part in (super().combine(uncond, cond), cond)]
        return (tokens[0] * tokens[1].norm(dim=-1, keepdim=True) / tokens[0].norm(dim=-1, keepdim=True)).view_as(cond)

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        packed = [part.reshape(len(x), -1, 8) for part in (self.predict(x, t), x)]
        moved: Tensor = self.scheduler.step(packed[0], t, packed[1], return_dict=False)[0]
        return moved.reshape(x.shape)


class ThreeFold(Guided):
    """Three predictions in one: no pair of halves."""

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        uncond, cond, third = self.ask(torch.cat([x, x, 0.5 * x]), t, 0, 1, 1).chunk(3)
        return uncond + 2 * (cond - uncond) + 0.3 * (cond - third)


class Partly(Guided):
    """As LTX's image-to-video: the first row of each state is an image that stays; the rest is stepped."""

    def __init__(self) -> None:
        super().__init__()
        self.image = torch.randn(1, 4, 1, 2, generator=torch.Generator().manual_seed(5))

    def begin(self, noise: Tensor) -> Tensor:
        return torch.cat([self.image.expand(len(noise), -1, -1, -1), noise[:, :, 1:]], 2)

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        moved = self.scheduler.step(self.predict(x, t)[:, :, 1:], t, x[:, :, 1:], return_dict=False)[0]
        return torch.cat([x[:, :, :1], moved], 2)


class PreScaled(Loop):
    """As Cosmos: the pipeline scales the state itself before the network, which undoes it."""

    class Undoing(Network):
        def forward(self, states: Tensor, share: Tensor, prompts: Tensor) -> tuple[Tensor]:
            return (self.velocity(2 * states, share, prompts),)

    def __init__(self) -> None:
        super().__init__(self.Undoing())

    def ask(self, x: Tensor, t: Tensor, *prompts: int) -> Tensor:
        return super().ask(x / 2, t, *prompts)


class FromImage(Loop):
    """As image-to-image at a strength of 1: the scheduler's first level of an image."""

    def begin(self, noise: Tensor) -> Tensor:
        mixed: Tensor = self.scheduler.scale_noise(torch.ones_like(noise), self.scheduler.timesteps[:1], noise)
        return mixed


class ByHand(Loop):
    """... mixed without the scheduler's help."""

    def begin(self, noise: Tensor) -> Tensor:
        return 0.3 * noise + 3


class WithSound(Loop):
    """As LTX-2: a second state, stepped by a copy of the scheduler."""

    def __call__(self, steps: int = 6, batch_size: int = 2, generator: Any = None) -> Tensor:
        self.sound = torch.ones(1, 3)
        return super().__call__(steps, batch_size, generator)

    def begin(self, noise: Tensor) -> Tensor:
        self.other = copy.deepcopy(self.scheduler)
        return noise

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        self.sound = self.other.step(self.sound / 3, t, self.sound, return_dict=False)[0]
        return super().move(x, t)


class Function(Loop):
    """A network that is no module."""

    def __init__(self) -> None:
        super().__init__()
        own = self.network
        self.network = lambda *args: own(*args)


class Blending(Loop):
    """As inpainting with a network that sees no mask: a part is put back after each step."""

    def move(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x[:, :, :1], super().move(x, t)[:, :, 1:]], 2)


class Counting(Loop):
    """Guidance that begins with the second step."""

    def begin(self, noise: Tensor) -> Tensor:
        self.count = 0
        return noise

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        self.count += 1
        return super().predict(x, t) * (0 if self.count == 1 else 1)


class OwnTimes(Loop):
    """A loop that goes by a copy of the timesteps."""

    def __call__(self, steps: int = 6, batch_size: int = 1, generator: Any = None) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = torch.randn(batch_size, *SHAPE, generator=generator)
        for t in self.scheduler.timesteps.clone():
            x = self.move(x, t)
        return x
