"""What a pipeline gains by `accelerate_pipeline`, before anything is fitted to its network.

    python benchmarks/defaults.py                                   # shows the table
    python benchmarks/defaults.py --write docs/guides/speed_up.md   # puts it between the page's marks

On the clothes model, whose pipeline is called as its user calls it. Root mean square distances per number to the end of
a fine solution of the network from the same noise, and medians over seeds. The mixture is of the classes of the data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import diffusers
import torch
from pages import check_page, put
from torch import Tensor

import underpaint as up
from underpaint import assets
from underpaint.bounds import MOST_ITEMS, MOST_STEPS, check_integers, integer
from underpaint.cli.base import in_a_sentence

MODEL, MARKS = "fashion-mnist", ("<!-- table of defaults -->\n", "<!-- end of the defaults -->\n")
#: Rows of the data in the mixture, the rank of its Gaussians, and steps of the fine solution.
ROWS, RANK, FINE = 10_000, 64, 160


def pipelines() -> dict[str, Any]:
    """The pipeline with each kind of plans, and with the scheduler that most use, at diffusers' defaults."""
    model, data = up.load_model(MODEL), up.load_data(MODEL).take(ROWS)
    scheduler = diffusers.DDIMScheduler.from_pretrained(assets.folder(MODEL), subfolder="scheduler")
    pipe = diffusers.DDPMPipeline(Network(model), scheduler)
    pipe.set_progress_bar_config(disable=True)
    mixture = up.Mixture.fit(model.rows(data.rows().unflatten(1, data.shape)), data.labels, RANK)
    found: dict[str, Any] = {
        name: up.accelerate_pipeline(
            pipe, up.load_gaussian(MODEL), plans, mixture=mixture if plans in ("auto", "data") else None
        )
        for name, plans in (
            ("plan from the data, else levels", "auto"),
            ("levels of the spectrum", "levels"),
            ("without", "none"),
        )
    }
    usual = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = usual
    return {**found, "DPM-Solver++ 2M": pipe}


class Network(torch.nn.Module):
    """A model in the place of a pipeline's own network, asked for no class: it predicts v for images of whole size."""

    def __init__(self, model: up.Model) -> None:
        super().__init__()
        self.model, (channels, size, _) = model, model.shape
        self.config = diffusers.configuration_utils.FrozenDict(sample_size=size, in_channels=channels)
        self.device, self.dtype = model.device, model.dtype

    def forward(self, x: Tensor, t: Tensor) -> Any:
        rows, level = x.flatten(1), self.model.schedule(t.double())
        v = up.from_denoised(self.model(rows, level), rows, level, "v").to(x).view_as(x)
        return diffusers.models.unets.unet_2d.UNet2DOutput(sample=v)


def exact(seeds: int) -> Tensor:
    """The ends of a fine solution from the noise that the pipelines draw, [B, D]."""
    model, gaussian = up.load_model(MODEL), up.load_gaussian(MODEL)
    level = model.schedule.grid(1000)
    times = torch.linspace(float(level.log_ratio[0]), float(level.log_ratio[-2]), FINE, dtype=torch.float64)
    fine = up.NoiseLevel.join(model.schedule.level(times.exp()), up.NoiseLevel.clean())
    x = torch.randn(seeds, *model.shape, generator=drawn()).flatten(1)
    return up.sample(model, x, fine, up.gaussian_exponential(gaussian, 3, True), every=FINE).final


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(4000)


def errors(pipe: Any, calls: int, wanted: Tensor) -> Tensor:
    """Of each seed, [B]."""
    given = {"batch_size": len(wanted), "generator": drawn(), "num_inference_steps": calls, "output_type": "np"}
    found = up.record(pipe, **given).trajectory
    assert found.nfe == calls
    return (found.final - wanted).square().mean(1).sqrt()


def table(calls: list[int], seeds: int) -> str:
    wanted = exact(seeds)
    lines = [f"| calls | {' | '.join(map(str, calls))} |", "|---|" + "---|" * len(calls)]
    for name, pipe in pipelines().items():
        left = [errors(pipe, count, wanted) for count in calls]
        shown = (f"{float(one.square().mean().sqrt()):.3f}, {float(one.median()):.3f}" for one in left)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=[3, 5, 8, 10, 14, 20])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    args = parser.parse_args()
    torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))
    check_integers(vars(args), calls=(1, MOST_STEPS), seeds=(1, MOST_ITEMS))
    check_page(args.write, MARKS)
    found = table(args.calls, args.seeds)
    print(found)
    if args.write is not None:
        put(found, args.write, MARKS)


if __name__ == "__main__":
    with in_a_sentence("defaults.py"):
        main()
