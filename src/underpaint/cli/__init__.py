"""The command line. Commands parse, call a recipe, and show; heavy imports happen inside them."""

from . import analysis, sampling, benchmark, spectrum, data, installation  # noqa: F401, I001  (each adds its commands, in the order in which help lists them)
from .base import Command, app, in_paragraphs, main, parse_seeds

for command in app.registered_commands:
    command.cls = Command
    if command.callback is not None:
        command.help = in_paragraphs(command.callback.__doc__ or "")

__all__ = ["app", "main", "parse_seeds"]
