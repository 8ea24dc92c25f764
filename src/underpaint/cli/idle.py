"""Options that are read only with others, or not beside others: given where nothing reads them, they are refused.

Each rule stands here once. What a command computes is refused by the recipes, too, where it is called from Python.
"""

from __future__ import annotations

from textwrap import shorten
from typing import Any

#: command -> options that are read only with one of those beside them. "--paths noise|principal" stands for an option
#: that names one of these, or that is left to its default where that is all of them.
WITH: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {
    "sample": {("--gaussian",): ("--teleport", "--calibration")},
    "calibrate": {("--data", "--components", "--rank"): ("--from data|both",)},
    "bench": {
        ("--own", "--steps", "--solver", "--features", "--reference"): ("--samples",),
        ("--calibration",): ("--solvers calibrated",),
        ("--learned",): ("--solvers learned",),
        ("--gaussian",): ("--solvers exponential|teleported|calibrated", "--samples"),
    },
    "compare": {("--released", "--shared", "--tune-shared"): ("--local",)},
    "morph": {("--walkers",): ("--paths principal",), ("--rounds",): ("--paths principal|minimum-energy",)},
    "stats": {
        ("--class", "--prompt", "--guidance", "--negative"): ("--samples", "--jacobian"),
        ("--dtype",): ("--samples", "--jacobian", "--latents"),
        ("--device",): ("--samples", "--jacobian", "--latents", "--features"),
    },
}
_OF_FILES = ("--size", "--mode", "--split", "--column", "--labels", "--strict", "--latents")
#: command -> an option, and those that are not read beside it.
BESIDE: dict[str, dict[str, tuple[str, ...]]] = {
    "sample": {"--calibration": ("--solver", "--teleport")},
    "calibrate": {"--budget": ("--seeds", "--held-out", "--fine", "--effort")},
    "report": {"--samples": ("--data", "--split", "--column", "--labels", "--regimes")},
    "stats": {
        "--jacobian": (
            *_OF_FILES,
            *("--features", "--kind", "--memory", "--shrinkage", "--precise", "--checkpoint", "--groups"),
        ),
        "--samples": _OF_FILES,
        "--features": ("--latents", "--kind", "--rank", "--precise"),
        "--latents": ("--size", "--mode"),
    },
}


def check_read(command: str, context: Any) -> None:
    """Refuse options of a parsed command that nothing would read.

    Raises:
        ValueError: there is one.
    """
    known = {name: option for option in context.command.params for name in (*option.opts, *option.secondary_opts)}

    def given(name: str) -> bool:
        source = context.get_parameter_source(known[name].name)
        return source is not None and source.name == "COMMANDLINE"  # typer may have an enumeration of its own

    def said(name: str) -> str:
        return _said(known[name], context.params[known[name].name])

    for options, needed in WITH.get(command, {}).items():
        for name in filter(given, options):
            if not any(_on(context.params[known[need.split()[0]].name], need) for need in needed):
                raise ValueError(
                    f"`underpaint {command}` reads {said(name)} only with {_listed(needed)}; give that, too, or leave "
                    f"out {name}."
                )
    for name, others in BESIDE.get(command, {}).items():
        idle = [said(other) for other in others if given(other)]
        if idle and _on(context.params[known[name].name], name):
            raise ValueError(
                f"`underpaint {command}` does not read {', '.join(idle)} beside {said(name)}; give one or the other."
            )


def _on(value: Any, need: str) -> bool:
    """Whether an option is there to be read with: it has a value other than 0, or one of those that are named."""
    _, _, names = need.partition(" ")
    if names:
        return value is None or not {*names.split("|")}.isdisjoint(part.strip() for part in value.split(","))
    return value is not None and value is not False and not (isinstance(value, int) and value == 0)


def _said(option: Any, value: Any) -> str:
    """An option as it was given, with its value if that is one and short."""
    if isinstance(value, bool):
        return str(([*option.opts] if value else [*option.secondary_opts])[0])
    name = next(name for name in option.opts if name.startswith("--"))
    return str(name) if isinstance(value, list | tuple) else f"{name} {shorten(str(value), 60)}"


def _listed(needed: tuple[str, ...]) -> str:
    """--samples, or --from data or both."""
    return " or ".join(need.replace("|", " or ") for need in needed)
