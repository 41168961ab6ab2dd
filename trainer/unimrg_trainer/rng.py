"""Keyed randomness: every draw is a function of where it is used, never of who draws it (docs/method/randomness.md).

A key is (seed, optimiser step, global row, objective, purpose). Rank, worker and micro-batch never enter, so the
same row gets the same mask, noise and time steps at any world size, and resume needs no generator state.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key_digest(*parts: int | str) -> int:
    """Return a 128-bit integer that depends on every part and on their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def generator(*parts: int | str) -> np.random.Generator:
    """Return a counter-based generator (Philox) for the key `parts`, e.g. (seed, step, row, objective, purpose)."""
    return np.random.Generator(np.random.Philox(key=key_digest(*parts)))
