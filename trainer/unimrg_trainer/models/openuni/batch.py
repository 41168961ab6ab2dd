"""The tensors of one micro-step of OpenUni: everything that its forward reads, random inputs included.

Losses are a function of the module's weights and of this batch. Which row goes where is known on the host and stands
here as index tensors, so that nothing in the forward waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unimrg_trainer.models.common.batches import TensorBatch


@dataclass(frozen=True, eq=False)
class OpenUniBatch(TensorBatch):
    """Sizes: R rows of L places; I image segments of K tokens; G targets; Q queries; S text tokens; N labels; D the
    language model's width; C, h, w of the latents; V the tower's side and H that of generated images, in pixels.

    Places of a row are flat indices row·L + offset.
    """

    tiles: Tensor
    """uint8 [T, V, V, 3]: the different images that questions are asked about."""
    squares: Tensor
    """uint8 [U, H, H, 3]: the different images that generation reads or makes."""
    read: Tensor
    """int [A]: the squares that the vision tower reads."""
    learnt: Tensor
    """int [E]: the squares that the codec encodes."""
    features: Tensor | None
    """float [T + A, K, D]: h of every tile and of every square that is read, None until `OpenUniFamily.prepare`."""
    latents: Tensor | None
    """float [E, C, h, w]: of every square that is learnt, None until `OpenUniFamily.prepare`."""

    texts: Tensor
    """int [S]: token ids of all text segments."""
    sources: Tensor
    """int [R, L]: what stands at each place: a row of [texts | images | queries | zeros], images [I, K] flattened."""
    positions: Tensor
    """int [R, L]: position ids."""
    visibility: Tensor | None
    """bool [R, 1, L, L], True where the query sees the key; None where every row is plain causal."""

    images: Tensor
    """int [I]: which of `features` each image segment shows."""
    targets: Tensor
    """int [G]: which of `latents` each target is (x)."""
    returns: Tensor
    """int [G, Q]: the place of each query of a target."""
    timesteps: Tensor
    """float [G]: t as the transformer takes it, 1 … 1000."""
    sigmas: Tensor
    """float [G]: σ, the share of noise."""
    noise: Tensor
    """float [G, C, h, w]: ε."""

    predictors: Tensor
    """int [N]: the place whose output predicts each labelled token, row by row."""
    labels: Tensor
    """int [N]."""

    labels_per_row: tuple[int, ...]
    """Labelled tokens of each row."""
    image_rows: tuple[int, ...]
    """The row of each image segment."""
    target_rows: tuple[int, ...]
    """The row that learns each target."""
