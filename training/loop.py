"""The training loop that the scripts share: a budget of wall time, cosine rate, averages of the weights, checkpoint and
resume, on a CPU or a GPU."""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import torch
from average import WIDTHS, State, exponent, keep_copies, kept_share, reconstruct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from underpaint.bounds import SEEDS, integer, number, positive
from underpaint.devices import find_device
from underpaint.files import check_targets, read_json, replacing, write_text

SAVE_SECONDS = 240
#: How often over a whole training the averages are copied.
COPIES = 32

#: What is kept of the record of a training.
FACTS = ("steps", "images", "minutes", "images_per_second", "batch", "rate", "bfloat16", "drop", "width", "seed")
#: The same, of some trainings.
MORE_FACTS = ("pool", "objects")

Loss = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train.

    Args:
        minutes: wall time, counted over all resumed parts.
        rate: the highest learning rate, after ``warmup`` steps; a half cosine brings it to zero.
        batch: examples a step.
        clip: bound on the norm of the gradient.
        width: of the average that the network holds in the end; see `average`.
        until: end as a time of day HH:MM (UTC) in place of ``minutes``, which are then what was spent and what is left.
        workers: threads that each take a part of the batch. Where other work shares the cores of a CPU, two of them
            lose less than two threads within each operation, which wait for each other every time.
        bfloat16: mixed precision in the calls of the network; weights and what becomes of its output stay float32.
    """

    minutes: float
    rate: float
    batch: int
    seed: int = 0
    warmup: int = 200
    clip: float = 1.0
    width: float = WIDTHS[0]
    device: str = "cpu"
    until: str | None = None
    workers: int = 1
    bfloat16: bool = False

    def __post_init__(self) -> None:
        number(self.minutes, "minutes of a training", 0, 1e6)
        number(self.rate, "highest learning rate", 0, 1e6)
        positive(self.width, "width of the average")
        integer(self.batch, "examples of a step", 1, 1_000_000)
        integer(self.workers, "number of workers", 1, self.batch)
        integer(self.seed, "seed", 0, SEEDS - 1)
        if self.until is not None and not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", self.until):
            raise ValueError(f"The end of a training is a time of day such as 17:30 (UTC), got {self.until!r}.")

    @property
    def part(self) -> int:
        """Examples in one call of the loss."""
        return self.batch // self.workers

    @property
    def layout(self) -> torch.memory_format:
        """Of pictures and of the weights of convolutions; bfloat16 on a CPU is slower with the channels last."""
        return torch.contiguous_format if self.bfloat16 and self.device == "cpu" else torch.channels_last

    def mixed_precision(self) -> torch.autocast:
        """For the network's call alone. Worker threads would share a cache of converted weights, so there is none on a
        CPU; each weight is used once a call."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.bfloat16, cache_enabled=kind != "cpu")


def add_options(parser: argparse.ArgumentParser, minutes: float, rate: float, batch: int) -> None:
    """The options that `Settings` stand for; `read_settings` reads them."""
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and result")
    parser.add_argument("--minutes", type=float, default=minutes, help="wall time, counted over all resumed parts")
    parser.add_argument("--until", help="end as a time of day HH:MM (UTC), in place of --minutes")
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--width", type=float, default=WIDTHS[0], help="of the weight average that is written")
    parser.add_argument("--device", default=None, help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--threads", type=int, default=None, help="of a CPU")
    parser.add_argument("--workers", type=int, default=1, help="parts of a batch that are worked on side by side")
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision on a CPU, too; a GPU always has it")
    parser.add_argument("--seed", type=int, default=0)


def read_settings(args: argparse.Namespace) -> Settings:
    """Settings from the options of `add_options`; says which device was picked, and seeds what builds the network."""
    check_targets(args.out / "training.json")
    device = args.device if args.device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    find_device(device)
    if args.threads is not None:
        torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    given = {name: getattr(args, name) for name in ("minutes", "rate", "batch", "seed", "width", "until", "workers")}
    settings = Settings(**given, device=device, bfloat16=args.bfloat16 or device.startswith("cuda"))
    if "drop" in args:
        number(args.drop, "share of conditions that are left out (--drop)", 0, 1)
    print(f"on {device} ({name})", flush=True)
    torch.manual_seed(settings.seed)
    return settings


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the record of a training, with those of the parts before it, the oldest first."""
    return {name: record[name] for name in (*FACTS, *MORE_FACTS, "earlier") if name in record}


def earlier(start: Path | None, part: str | None = None) -> list[dict[str, Any]]:
    """Records of the trainings that made the weights at START, the oldest first: what the run that wrote them or the
    packaged model says there or one folder above; ``part`` names one of several that a packaged model has."""
    places = () if start is None else (start.resolve(), start.resolve().parent)
    for notes in (place / name for place in places for name in ("training.json", "underpaint.json")):
        if notes.exists():
            record = read_json(notes)
            record = record.get("training", record)
            record = facts(record.get(part, record))
            return [*record.pop("earlier", []), record]
    return []


def rate_at(settings: Settings, step: int, used: float) -> float:
    """Learning rate of a step, of which the first is 0, when a share ``used`` of the time is over."""
    return settings.rate * min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * min(used, 1.0)))


def minutes_until(clock_time: str, now: datetime | None = None) -> float:
    """Minutes from now to the next time of day HH:MM (UTC)."""
    now = now or datetime.now(timezone.utc)
    hour, minute = map(int, clock_time.split(":"))
    end = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return ((end if end > now else end + timedelta(days=1)) - now).total_seconds() / 60


def train(
    network: nn.Module,
    loss: Loss,
    out: Path,
    settings: Settings,
    note: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Minimise ``loss(generator)``, which draws ``settings.part`` examples from that generator and from nowhere else.

    The learning rate follows the share of the time that is used up, so that an interrupted run that is started again
    ends as planned. At the end the network holds its average of ``settings.width``, and ``out/training.json`` says what
    was done. A run that is complete is not trained further, so that another width can be asked for.
    """
    out.mkdir(parents=True, exist_ok=True)
    network.to(settings.device)
    run = Run(network, settings, out)
    run.resume()
    total = run.spent + 60 * minutes_until(settings.until) if settings.until else 60 * settings.minutes
    last = last_save = clock()
    while run.spent < total:
        run.advance(loss, run.spent / total)
        now = clock()
        run.spent, last = run.spent + now - last, now
        if run.step % 100 == 0:
            run.log()
        if run.spent * COPIES >= total * (run.copies + 1):
            run.copy()
        if now - last_save > SAVE_SECONDS:
            run.save()
            last_save = now
    if not run.step:
        raise ValueError(f"Nothing was trained in {settings.minutes:g} minutes, and {out} holds no checkpoint.")
    run.finish()
    network.load_state_dict(reconstruct(run.averages_folder, settings.width))
    record = asdict(settings) | run.summary() | (note or {})
    write_text(out / "training.json", json.dumps(record))
    return record


@dataclass(eq=False)
class Run:
    """Network, optimiser, averages and counts of one training, as its checkpoint holds them.

    ``losses`` has rows of step, seconds spent, and the mean loss since the row before; ``saved`` is the step of the
    checkpoint.
    """

    network: nn.Module
    settings: Settings
    out: Path
    step: int = 0
    saved: int = 0
    copies: int = 0
    spent: float = 0.0
    losses: list[list[float]] = field(default_factory=list)
    running: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.settings.workers > 1 and any(isinstance(part, _BatchNorm) for part in self.network.modules()):
            raise ValueError(
                "This network normalises over the batch, which cannot be in parts; train it with one worker."
            )
        parameters = self.network.parameters()
        fused = self.settings.device == "cuda"
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.rate, weight_decay=0.0, betas=(0.9, 0.99), fused=fused
        )
        seeds = range(self.settings.seed, self.settings.seed + 1000 * self.settings.workers, 1000)
        self.generators = [torch.Generator(self.settings.device).manual_seed(seed) for seed in seeds]
        self.pool = ThreadPoolExecutor(self.settings.workers)
        self.averages: dict[float, State] = {width: copy.deepcopy(self.network.state_dict()) for width in WIDTHS}

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    @property
    def averages_folder(self) -> Path:
        return self.out / "averages"

    def advance(self, loss: Loss, used: float) -> None:
        """One step of the optimiser and of the averages."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.settings, self.step, used)
        parameters = [weight for weight in self.network.parameters() if weight.requires_grad]

        def part(generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
            value = loss(generator)
            return value.detach(), torch.autograd.grad(value, parameters, materialize_grads=True)

        values, gradients = zip(*self.pool.map(part, self.generators), strict=True)
        for parameter, *parts in zip(parameters, *gradients, strict=True):
            parameter.grad = parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        self.step += 1
        self.running.append(torch.stack(values).mean())
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        new = {name: tensor for name, tensor in self.network.state_dict().items() if tensor.is_floating_point()}
        for width, average in self.averages.items():
            old = [average[name] for name in new]
            torch._foreach_lerp_(old, list(new.values()), 1 - kept_share(self.step, exponent(width)))

    def log(self) -> None:
        """One line on the last steps."""
        step, spent, _ = self.losses[-1] if self.losses else (0, 0.0, 0.0)
        pace = (self.step - step) * self.settings.batch / max(self.spent - spent, 1e-9)
        self.losses.append([self.step, self.spent, float(torch.stack(self.running).mean())])
        self.running.clear()
        print(
            f"step {self.step} minutes {self.spent / 60:.1f} images {self.step * self.settings.batch} at {pace:.0f}/s "
            f"loss {self.losses[-1][2]:.5f}",
            flush=True,
        )

    def summary(self) -> dict[str, Any]:
        """What was done so far."""
        images = self.step * self.settings.batch
        pace = images / self.spent if self.spent else 0.0
        counts = {"steps": self.step, "images": images, "minutes": self.spent / 60, "images_per_second": round(pace, 1)}
        return {**counts, "torch": str(torch.__version__), "losses": self.losses}

    def copy(self) -> None:
        keep_copies(self.averages_folder, self.step, self.averages)
        self.copies += 1

    def finish(self) -> None:
        """Copy the last averages and save, unless nothing was trained since that was done."""
        if self.saved != self.step:
            keep_copies(self.averages_folder, self.step, self.averages)
            self.save()

    def save(self) -> None:
        state: dict[str, Any] = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"averages": self.averages, "running": self.running}
        state |= {"step": self.step, "copies": self.copies, "spent": self.spent, "losses": self.losses}
        state["generators"] = [generator.get_state() for generator in self.generators]
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)
        self.saved = self.step

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for generator, kept in zip(self.generators, state["generators"], strict=True):
            generator.set_state(kept)
        for width, average in state["averages"].items():
            self.averages[width] = {name: tensor.to(self.settings.device) for name, tensor in average.items()}
        self.running = [value.to(self.settings.device) for value in state["running"]]
        for name in ("step", "copies", "spent", "losses"):
            setattr(self, name, state[name])
        self.saved = self.step
        for path in self.averages_folder.glob("*.safetensors"):
            if int(path.stem.split("-")[0]) > self.step:
                path.unlink()  # of steps that are taken again
        print(f"resumed at step {self.step}, {self.spent / 60:.1f} minutes spent", flush=True)
