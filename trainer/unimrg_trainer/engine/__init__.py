"""The one training loop: time, steps, checkpoints and metrics, for any model family."""
