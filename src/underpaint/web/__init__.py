"""The explorer: a local web page on which the theory and the tools are played with (`underpaint explore`)."""
