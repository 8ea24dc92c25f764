"""The command line. Commands parse, call a recipe, and show; heavy imports happen inside them."""

from . import analysis, sampling, benchmark, spectrum, data, installation  # noqa: F401, I001  (each adds its commands, in the order in which help lists them)
from .base import app, main, parse_seeds

__all__ = ["app", "main", "parse_seeds"]
