"""What tells one model from another, so that nothing stored of one is taken for the other's.

Weights are hashed byte by byte. A network that a user wrapped may be any function, with constants that are no weights;
so a wrapped one is also known by what it answers on fixed states.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from ..noise import EDM
from .model import Condition, Model
from .network import digest as digest
from .pipelines.replay import Replay
from .wrap import Wrapped

#: Noise-to-signal ratios at which a network is asked, and digits that are kept of an answer: rounding with other
#: threads or on another machine seldom moves these sums by as much, and if it does, something is computed once more.
_RATIOS, _DIGITS = (20.0, 2.0, 0.2), 5
_STATES = 2


def fingerprint(model: Model) -> str:
    """A hash of a model's weights, wherever they were loaded from, and, for a wrapped network or a replayed pipeline,
    of what it answers: the same for the same denoiser, another for another.

    Calls: 3 of 2 rows, of a wrapped network or a pipeline.
    """
    parts = {"network": model.network, "embed": model.embed, "autoencoder": model.autoencoder}
    modules = {name: part.state_dict() for name, part in parts.items() if isinstance(part, nn.Module)}
    tensors = {f"{part} {name}": value for part, state in modules.items() for name, value in state.items()}
    tensors |= {"null": model.null_condition, "held": model.held}
    weights = digest({name: value for name, value in tensors.items() if isinstance(value, Tensor)})
    held = "" if model.held is None or isinstance(model.held, Tensor) else f" held {model.held!r}"
    return weights + held + (f" answers {answers(model)}" if isinstance(model.network, Wrapped | Replay) else "")


def answers(model: Model) -> str:
    """A hash of the network's estimates on fixed states: each one's size, and its projections on fixed directions, to
    five digits."""
    low, high = model.ratios
    made = torch.Generator().manual_seed(0)
    noise = torch.randn(_STATES, model.dimension, generator=made)
    directions = torch.randn(3, model.dimension, generator=made) / model.dimension**0.5
    words = []
    for ratio in (min(max(ratio, low), high) for ratio in _RATIOS):
        level = EDM()(ratio)
        estimate = model.denoise(float(ratio**2 + 1) ** 0.5 * noise, level, _condition(model)).double().cpu()
        size = estimate.square().mean().sqrt()
        shares = estimate @ directions.T.double() / size.clamp(min=1e-30)
        words += [f"{float(size):.{_DIGITS}g}", *(f"{share:.{_DIGITS}f}" for share in shares.flatten().tolist())]
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).hexdigest()


def _condition(model: Model) -> Condition | Tensor | None:
    """The condition held, the one that means "any", or where there is none, the first class or a tensor of zeros."""
    if model.held is not None:
        return model.held
    if model.null is None and model.condition is not None:
        return torch.zeros(model.condition, dtype=model.dtype)
    return 0 if model.null is None and model.classes else model.null
