"""End-to-end computations: a wing or a file for each thing that a user asks for."""
