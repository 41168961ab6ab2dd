"""Parameters, operations, bytes and seconds of a training, from its job alone: without torch, and without data."""
