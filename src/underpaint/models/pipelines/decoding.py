"""A pipeline's own path from latents to output: its call is made again with silent networks, and a scheduler that gives
back the states that are to be shown. So whatever a pipeline does after its last step is done, whatever it is called."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .hooks import disguised, interposed
from .text_encoding import encoding_alone

#: What pipelines call the number of results for one prompt, by how it begins and ends.
_PER_PROMPT = ("num_", "_per_prompt")


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a pipeline that can be made again.

    Attributes:
        pipe: the pipeline.
        given: its arguments, by name.
        draws: the state of torch's own random numbers when it was made.
        answers: by module, what each answered up to the first step: it is given again where only the shape matters.
        whole: whether its first step was the first of its scheduler.
        doubled: whether its states are carried twice, for both halves of guidance (DiT does).
    """

    pipe: Any
    given: Mapping[str, Any]
    draws: Tensor = field(default_factory=torch.get_rng_state)
    answers: Mapping[int, Sequence[Any]] = field(default_factory=dict)
    whole: bool = True
    doubled: bool = False

    @staticmethod
    def of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call pipe(*args, **kwargs), before it is made."""
        names = list(inspect.signature(type(pipe).__call__).parameters)[1:]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if "generator" in given:
            given["generator"] = _twins(given["generator"])
        return Call(pipe, given)

    @property
    def known(self) -> list[str]:
        """The names of all arguments that the pipeline takes."""
        return list(inspect.signature(type(self.pipe).__call__).parameters)[1:]

    @property
    def rows_option(self) -> str | None:
        """The argument by which it makes several results at once, alike but for their noise."""
        ending = [name for name in self.known if name.startswith(_PER_PROMPT[0]) and name.endswith(_PER_PROMPT[1])]
        return next((name for name in (*ending, "batch_size", "class_labels") if name in self.known), None)

    def with_rows(self, rows: int) -> Call:
        """The same call for so many results."""
        option = self.rows_option
        if option is None or (option == "class_labels" and option not in self.given):
            return self
        value = list(self.given[option]) * rows if option == "class_labels" else rows
        return replace(self, given={**self.given, option: value})

    def again(self, rows: int | None = None) -> dict[str, Any]:
        """The arguments, with generators that draw what they drew; for so many results, each of which draws the same,
        so that a condition is drawn alike for all of them."""
        given = dict(self.given)
        own = given.get("generator")
        if rows is None or "generator" not in self.known:
            return given if own is None else {**given, "generator": _twins(own)}
        first = own[0] if isinstance(own, Sequence) else own or torch.Generator().manual_seed(0)
        twins = [_twins(first) for _ in range(rows)]
        return {**given, "generator": twins if rows > 1 else twins[0]}

    @contextmanager
    def redrawn(self) -> Iterator[None]:
        """Inside, torch's own random numbers begin where they did; outside, they go on as they were."""
        with torch.random.fork_rng():
            torch.set_rng_state(self.draws)
            yield


def _twins(generators: Any) -> Any:
    """A generator, or a list of them, that draws what another would draw next, and leaves it alone."""
    if not isinstance(generators, torch.Generator):
        return [_twins(one) for one in generators] if isinstance(generators, Sequence) else generators
    twin = torch.Generator(generators.device)
    twin.set_state(generators.get_state())
    return twin


def decoded(call: Call, rows: Tensor, shape: tuple[int, ...], batch: int) -> Tensor:
    """Rows [..., D] of states of that shape as what the pipeline makes of them, ``batch`` at once, which is what its
    call makes: see `output_tensor`."""
    states = rows.detach().reshape(-1, *shape)
    made = []
    for part in states.split(batch):
        full = torch.cat([part, part[-1:].expand(batch - len(part), *shape)])
        made.append(output_tensor(shown(call, torch.cat([full, full]) if call.doubled else full), batch)[: len(part)])
    output = torch.cat(made)
    return output.reshape(*rows.shape[:-1], *output.shape[1:])


def shown(call: Call, states: Tensor) -> Any:
    """What the pipeline returns for final states [B, ...], as many as its call makes."""
    spent: dict[int, int] = {}

    def silent(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = call.answers.get(id(module))
        if not known:
            return module(*args, **kwargs)
        spent[id(module)] = spent.get(id(module), -1) + 1
        return known[min(spent[id(module)], len(known) - 1)]

    def step(scheduler: Any, given: Mapping[str, Any]) -> Tensor:
        return states.to(given["sample"])

    def lay(scheduler: Any) -> None:
        if call.whole:
            scheduler.timesteps = scheduler.timesteps[-1:]

    puppet = acted(call.pipe, step, lay)
    if hasattr(puppet, "score_waveforms"):  # AudioLDM's, which would put the best of several first
        puppet.score_waveforms = lambda **given: given["audio"]
    given = call.again()
    if "output_type" in call.known:
        given["output_type"] = "np"
    with call.redrawn(), torch.no_grad(), encoding_alone(puppet), interposed(puppet, silent):
        return puppet(**given)


def acted(pipe: Any, step: Any, lay: Any, scale: Any = None) -> Any:
    """A copy of a pipeline that shares its parts but for the scheduler, whose class is replaced: ``step(scheduler,
    arguments)`` makes its steps, ``lay(scheduler)`` is called when it has laid its timesteps, and if given,
    ``scale(scheduler, sample, timestep)`` scales states for the network. Then copies of the scheduler may not step."""
    puppet = copy.copy(pipe)
    puppet.__class__ = getattr(type(pipe), "_plain", type(pipe))  # of a teleported one, that which is whole
    scheduler = vars(puppet)["scheduler"] = copy.deepcopy(pipe.scheduler)
    scheduler.__class__ = _acting(type(scheduler), scheduler, step, lay, scale)
    if hasattr(puppet, "set_progress_bar_config"):
        puppet.set_progress_bar_config(disable=True)
    return puppet


def _acting(own: Any, only: Any, make: Any, lay: Any, scale: Any) -> type:
    plain = getattr(own, "_plain", own)
    signature = inspect.signature(plain.step)

    @functools.wraps(plain.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        plain.set_timesteps(self, *args, **kwargs)
        if self is only:
            lay(self)

    @functools.wraps(plain.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not only and scale is not None:
            raise ValueError("This pipeline steps a second state with a copy of its scheduler, besides the first.")
        if self is not only:
            return plain.step(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        return stepped(make(self, given), given.get("return_dict", True))

    names: dict[str, Any] = {"step": step, "set_timesteps": set_timesteps}
    if hasattr(plain, "add_noise"):
        names["add_noise"] = _noising(plain.add_noise)
    if scale is not None and hasattr(plain, "scale_model_input"):
        names["scale_model_input"] = lambda self, sample, timestep=None: scale(self, sample, timestep)
    return disguised(plain, names)


def _noising(plain: Any) -> Any:
    """A scheduler's add_noise for timesteps that are real numbers, also where it looks them up in a table."""

    @functools.wraps(plain)
    def add_noise(self: Any, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Any:
        if timesteps.is_floating_point() and not hasattr(self, "sigmas"):
            timesteps = timesteps.round().long()
        return plain(self, original_samples, noise, timesteps)

    return add_noise


def stepped(state: Tensor, return_dict: bool) -> Any:
    """A state as a scheduler's step gives it back, for those who take an estimate from it, too."""
    from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput

    return DDIMSchedulerOutput(state, state) if return_dict else (state, state)


def output_tensor(output: Any, rows: int) -> Tensor:
    """What a pipeline returned as a tensor [B, ...] on the CPU: images [B, c, h, w] and videos [B, F, c, h, w] in
    [0, 1], sounds as they are.

    Raises:
        ValueError: it holds no array of so many rows.
    """
    import numpy as np

    values = output if isinstance(output, tuple) else list(output.values())
    first = values[0]
    array = first if isinstance(first, Tensor) else np.stack([np.asarray(part) for part in first])
    picture = not isinstance(first, Tensor) and array.ndim >= 4 and array.shape[-1] <= 4
    tensor = torch.as_tensor(array).detach().cpu()
    if len(tensor) != rows:
        raise ValueError(f"The pipeline made an output of shape {tuple(tensor.shape)} of {rows} states.")
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
    return tensor.movedim(-1, -3) if picture else tensor
