"""The tensors of one micro-step of Harmon: everything that its forward reads, random inputs included.

Losses are a function of the module's weights and of this batch (dropout apart). Which row goes where is known on the
host and stands here as index tensors, so that nothing in the forward waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from unimrg_api.arithmetic.layers import Counts
from unimrg_trainer.models.common.counting import language_counts
from unimrg_trainer.models.common.layout import SequenceBatch
from unimrg_trainer.models.common.unique_images import Images


@dataclass(frozen=True, eq=False)
class HarmonBatch(SequenceBatch):
    """Sizes: U different images; R rows in B sequences of L places; I images that are read; G targets; S tokens and b
    buffers of an image; V visible tokens of the target with fewest masked ones; M masked tokens of all targets
    together, each used P times; C channels.

    A source is a row of [zeros | images | targets | texts], the images as [I, b + S] and the targets as [G, b + V]
    flattened. Places of a target's grid are target·S + token.
    """

    pictures: Images
    """Every image that a row reads or learns, once in each geometry; H pixels wide, or encoded."""
    latents: Tensor | None
    """float [U, S, C]: their codec tokens, None until `HarmonFamily.prepare` has computed them."""

    images: Tensor
    """int [I]: which of `latents` each image is."""
    targets: Tensor
    """int [G]: which of `latents` each target is (x_0)."""
    visible: Tensor
    """int [G, V]: the tokens of a target that are not masked, in raster order; padded with 0."""
    visible_real: Tensor | None
    """bool [G, V]: False where `visible` is padded; None where nothing is."""
    returns: Tensor
    """int [G, b + V]: the place at which the language model holds each buffer and visible token of a target."""
    grid: Tensor
    """int [G, b + S]: which of the G·(b + V) encoded tokens stands at each place of the decoder's grid."""
    grid_masked: Tensor
    """bool [G, b + S]: where the mask token stands instead."""
    masked: Tensor
    """int [M]: places in the grid of the masked tokens, target by target, in raster order."""
    timesteps: Tensor
    """int [M, P]."""
    noise: Tensor
    """float [M, P, C]: ε."""
    coefficients: Tensor
    """float [5, M, P]: see `diffusion.row_coefficients`."""
    first_steps: Tensor
    """int: flat indices in [M·P] of the uses with time step 0."""

    terms_per_target: tuple[int, ...]
    """Masked tokens times uses of each target."""
    image_of_row: tuple[int | None, ...]
    """Which of `latents` each row reads."""
    target_rows: tuple[int, ...]
    """The row that learns each target."""

    def counts(self) -> Counts:
        """What the forward computes; on the host."""
        targets, returned = self.returns.shape
        return replace(
            language_counts(self.positions, self.attention, len(self.labels)),
            images=len(self.images),
            targets=targets,
            shown=self.visible.numel(),
            shown_pairs=targets * returned**2,
            masked=len(self.masked),
            coded=len(self.pictures.pixels),
        )
