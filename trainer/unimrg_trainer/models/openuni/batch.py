"""The tensors of one micro-step of OpenUni: everything that its forward reads, random inputs included.

Losses are a function of the module's weights and of this batch. Which row goes where is known on the host and stands
here as index tensors, so that nothing in the forward waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from unimrg_api.arithmetic.layers import Counts
from unimrg_trainer.models.common.counting import language_counts
from unimrg_trainer.models.common.layout import SequenceBatch
from unimrg_trainer.models.common.unique_images import Images


@dataclass(frozen=True, eq=False)
class OpenUniBatch(SequenceBatch):
    """Sizes: R rows in B sequences of L places; K tokens of an image; G targets; Q queries; S text tokens; N labels; D
    the language model's width; C, h, w of the latents; V the tower's side and H that of generated images, in pixels.

    A source is a row of [zeros | images | queries | texts], the images being `features` flattened.
    """

    tiles: Images
    """T images, V pixels wide: the different ones that questions are asked about."""
    squares: Images
    """A images, H pixels wide: the different ones that generation reads."""
    pictures: Images
    """E images: the different ones that are learnt, H pixels wide, or encoded."""
    features: Tensor | None
    """float [T + A, K, D]: h of every tile and of every square, None until `OpenUniFamily.prepare`."""
    latents: Tensor | None
    """float [E, C, h, w]: of every picture, None until `OpenUniFamily.prepare`."""

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

    image_of_row: tuple[int | None, ...]
    """Which of `features` each row reads."""
    target_rows: tuple[int, ...]
    """The row that learns each target."""

    def counts(self) -> Counts:
        """What the forward computes; on the host."""
        counted = language_counts(self.positions, self.attention, len(self.labels))
        looked_at = len(self.tiles.pixels) + len(self.squares.pixels)
        return replace(counted, targets=len(self.returns), coded=len(self.pictures.pixels), looked_at=looked_at)
