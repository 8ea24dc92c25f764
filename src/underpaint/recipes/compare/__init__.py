"""How much of a network each analytic denoiser explains."""

from .comparison import Comparison as Comparison, Settings as Settings, compare as compare
