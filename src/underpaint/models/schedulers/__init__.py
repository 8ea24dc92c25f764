"""Schedulers of diffusers: their levels, ours in their place, and theirs as solvers."""

from .levels import scheduler_levels as scheduler_levels
