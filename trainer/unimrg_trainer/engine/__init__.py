"""Training and evaluation on one rank, for any model family."""
