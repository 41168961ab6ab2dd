"""The one training loop: it knows time, steps, checkpoints and metrics, and no model family by name."""
