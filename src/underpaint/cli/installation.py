"""Commands about the installation and what came with it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .base import LOOK, app, out, words
from .options import DeviceOption, DtypeOption, JsonOption, QuietOption


@app.command(rich_help_panel=LOOK)
def models(as_json: JsonOption = False) -> None:
    """List the models that come with underpaint, with what their cards say."""
    from ..recipes.inventory import inventory

    found = inventory()
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for entry in found:
        out.print(entry["name"], style="bold")
        for key, value in entry.items():
            if key == "prompts":
                out.print(f"  {'such as':<18}{'; '.join(value[:3]) or 'any'}", highlight=False, soft_wrap=True)
            elif key != "name":
                out.print(f"  {key:<18}{words(value)}", highlight=False, soft_wrap=True)
    out.print("To sample from one: underpaint sample --model NAME", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=LOOK)
def doctor(as_json: JsonOption = False) -> None:
    """Print versions, devices, extras, data and caches, and what is missing.

    Example: underpaint doctor --json
    """
    from ..recipes.doctor import examine

    found = examine()
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    found["extras"] = {
        name: "complete" if not lacks else f"pip install 'underpaint[{name}]' brings {', '.join(lacks)}"
        for name, lacks in found["extras"].items()
    }
    said = found.pop("finding")
    for key, value in found.items():
        out.print(key, style="bold")
        for line in [f"{k}: {words(v)}" for k, v in value.items()] if isinstance(value, dict) else [words(value)]:
            out.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    out.print(said, highlight=False, soft_wrap=True, markup=False)


@app.command(rich_help_panel=LOOK)
def explore(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model to offer first; may be given several times. Those of `underpaint models` are offered, too.",
        ),
    ] = None,
    gaussian: Annotated[
        list[str] | None, typer.Option("--gaussian", help="Statistics for the first --model, the second, and so on.")
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            "--calibration", help="Files of `underpaint calibrate` for the first --model, the second, and so on."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Default: the first free one from 7860.", min=1, max=65535)
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Offer the page to others, too, through a public tunnel of gradio.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quiet: QuietOption = False,
) -> None:
    """Open the explorer, a page on this machine to play with models and the theory. Ctrl-C ends it.

    Example: underpaint explore --model fashion-mnist --port 7860
    """
    from ..extras import library

    library("gradio", "web", "The explorer needs")
    from ..web.server import serve

    def say(address: str) -> None:
        if not quiet:
            out.print(f"The explorer is at {address}", highlight=False, soft_wrap=True)

    serve(tuple(models or ()), tuple(gaussian or ()), port, share, say, device, dtype, tuple(calibration or ()))
