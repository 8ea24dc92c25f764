"""What a sampler makes of Gaussian data, exactly: with a linear denoiser it is linear, too, in the noise that it begins
with, in the mean of the data and in all that it draws on the way.

One run with many rows finds every factor: in each row one of these is 1 and the others are 0. What torch draws from a
normal distribution is replaced meanwhile, whoever asks for it. Two draws from one state of a generator are one draw. A
last row has all of them at once, large and of mixed signs, and shows whether the sampler is linear at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Unit noise to begin with [P, K] and the mean of the data [P, 1] -> what the sampler ends with [P, K].
Run = Callable[[Tensor, Tensor], Tensor]
#: Size of the row that shows whether all is linear, and by what share it may be off.
_LARGE, _ROUNDING = 1e3, 0.01
#: Numbers in all rows of one run, at most.
_MOST = 1 << 27


@dataclass(frozen=True, eq=False)
class Response:
    """Factors of a sampler's result along K coordinates.

    Attributes:
        initial: of the unit noise that it begins with, [K].
        mean: of the mean of the data, [K]; 1 keeps it.
        drawn: of each of J draws of unit noise on the way, in their order, [J, K].
    """

    initial: Tensor
    mean: Tensor
    drawn: Tensor

    @property
    def variance(self) -> Tensor:
        """Of the samples, initial^2 + sum_j drawn_j^2, [K]."""
        return self.initial.square() + self.drawn.square().sum(0)

    def __repr__(self) -> str:
        return f"Response({len(self.initial)} coordinates, {len(self.drawn)} draws)"


def respond(run: Run, count: int, name: str = "sampler") -> Response:
    """The response of a sampler along ``count`` coordinates, which it treats alike but for their denoisers.

    It is run twice: on three rows to count its draws J, and on J + 3. Work and memory: O(J count) a step. It is called
    by its ``name`` where it is refused.

    Raises:
        ValueError: it is not linear, as with clipping; gives NaN or infinite values; draws noise of another shape than
            that of its states; or draws so often that memory would not hold the response.
    """
    first = _Draws(torch.zeros(1, 3, 1, dtype=torch.float64))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), NormalDraws(first):
        run(torch.zeros(3, count, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64))
    inputs = _inputs(len(first.places))
    if len(inputs) * count > _MOST:
        raise ValueError(
            f"{len(inputs) - 2:,} draws along {count:,} coordinates are too many for their exact response; ask for "
            "fewer steps or eigenvalues."
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad(), NormalDraws(_Draws(inputs[2:].unsqueeze(-1))):
        final = run(inputs[0].unsqueeze(1).expand(-1, count).clone(), inputs[1].unsqueeze(1)).double()
    rows, together = final[:-1], final[-1]
    if not bool(torch.isfinite(final).all()):
        raise ValueError(
            f"This {name} gives NaN or infinite values with these settings; try another number of steps, another order "
            "or type of its solver, or less noise."
        )
    parts = inputs[:, -1:] * rows
    if bool(((together - parts.sum(0)).abs() > _ROUNDING * parts.square().sum(0).sqrt() + 1e-12).any()):
        raise ValueError(
            f"This {name} is not linear in its states, so its response has no closed form; leave off what clips or "
            "thresholds them."
        )
    return Response(rows[0], rows[1], rows[2:])


def _inputs(draws: int) -> Tensor:
    """What each of J + 3 rows is given of each input, [J + 2, J + 3]: one each, and the last a mixture of all."""
    signs = torch.rand(draws + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    mixture = _LARGE * (signs.sign() + signs)
    return torch.cat([torch.eye(draws + 2, dtype=torch.float64), mixture.unsqueeze(1)], 1)


class NormalDraws(TorchFunctionMode):
    """While it is on, each tensor that torch draws from a normal distribution goes through ``instead(drawn, state)``,
    with the state that its generator had before; the generators go on as they would."""

    def __init__(self, instead: Callable[[Tensor, bytes], Tensor]) -> None:
        super().__init__()
        self.instead = instead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.randn, torch.randn_like, torch.Tensor.normal_):
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            source = kwargs.get("generator")
            state = torch.get_rng_state() if source is None else source.get_state()
            drawn = func(*args, **kwargs)
            return drawn.copy_(self.instead(drawn, state.cpu().numpy().tobytes()))


class _Draws:
    """Gives the given numbers [J, P, 1] for draws, in the order of their first; for those beyond the first J, the
    last."""

    def __init__(self, given: Tensor) -> None:
        self.given = given
        #: by the generator's state before it
        self.places: dict[bytes, int] = {}

    def __call__(self, drawn: Tensor, state: bytes) -> Tensor:
        if drawn.ndim < 1 or len(drawn) != self.given.shape[1]:
            raise ValueError(
                f"This sampler draws noise of shape {tuple(drawn.shape)}, which is not that of its states."
            )
        place = self.places.setdefault(state, len(self.places))
        value = self.given[min(place, len(self.given) - 1)].to(drawn)
        return value.view(-1, *[1] * (drawn.ndim - 1)).expand_as(drawn)
