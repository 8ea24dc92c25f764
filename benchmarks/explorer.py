"""How long a visitor of the explorer waits: the first picture, and each tab as it stands at first.

    python benchmarks/explorer.py
    python benchmarks/explorer.py --model emoji-scenes --threads 2

In the server alone; the browser draws what it is sent in a few tenths of a second more. Other work on the machine takes
part in the wall's time and not in the processor's, so that both are printed, beside the load. A picture is there before
its files for download, whose figure is drawn after it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from underpaint.bounds import integer
from underpaint.cli.base import in_a_sentence
from underpaint.progress import silent
from underpaint.web.layout import build
from underpaint.web.server_state import ServerState
from underpaint.web.tabs import TABS, ask


@dataclass(frozen=True)
class Wait:
    """Seconds on the wall and of the processor."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:6.2f} s on the wall, {self.cpu:6.2f} s of the processor"


def waited(work: Callable[[], Any]) -> tuple[Any, Wait]:
    """What work gives, and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, Wait(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="fashion-mnist", help="a model of the box")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(integer(options.threads, "number of threads", 1, 1024))
    print(f"{options.model}, {options.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    state = ServerState((options.model,))
    (_, page), took = waited(lambda: build(state))
    print(f"{'the page':14} {took}")
    answer, took = waited(lambda: page.opening("Paint"))
    print(f"{'first picture':14} {took}")
    values = page.defaults(options.model)
    for tab in TABS:
        answer, took = waited(lambda tab=tab: ask(tab, state, values, silent))
        _, files = waited(answer.files)
        print(f"{tab:14} {took}; its files {files}")


if __name__ == "__main__":
    with in_a_sentence("explorer.py"):
        main()
