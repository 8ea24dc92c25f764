"""Networks of known forms as models."""
