"""The tensors of one micro-step of Show-o: everything that its forward reads, attention included.

Losses are a function of the module's weights and of this batch. Which token goes where is known on the host and stands
here as index tensors, so that nothing in the forward waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from unimrg_api.arithmetic.layers import Counts
from unimrg_trainer.models.common.counting import language_counts
from unimrg_trainer.models.common.layout import SequenceBatch
from unimrg_trainer.models.common.unique_images import Images


@dataclass(frozen=True, eq=False)
class ShowOBatch(SequenceBatch):
    """Sizes: U pictures of the generated size, N codes each; V sources, n places each; R rows in B sequences of L
    places; I shown sources; M predicted tokens.

    Token ids stand in a table: [mask token | codes of pictures | codes of sources | texts]; codes of sources only where
    no tower reads them.
    """

    pictures: Images
    """U images, H pixels wide, or encoded: every one whose codes are learnt, or read in a question."""
    views: Images
    """V images, S pixels wide, or encoded where codes are read: every other one that a row reads."""
    codes: Tensor | None
    """int16 [U·N (+ V·n)]: codes of all pictures, and of the sources that no tower reads; None until prepared."""
    features: Tensor | None
    """float [V, n, F]: the tower's features of the sources; None until prepared, or without a tower."""

    shown: Tensor
    """int [I]: which of `features` each shown source is; rows that share its places show it once."""
    shown_places: Tensor
    """int [I·n]: where they stand."""

    conditions: tuple[tuple[Literal["pictures", "views"], int] | None, ...]
    """The image that each row reads."""
    targets: tuple[int | None, ...]
    """The picture that each row learns to generate."""

    def counts(self) -> Counts:
        """What the forward computes; on the host."""
        counted = language_counts(self.positions, self.attention, len(self.labels))
        targets = sum(one is not None for one in self.targets)
        coded, shown = len(self.pictures.pixels), len(self.views)
        if len(self.shown) == 0:  # codes are read, or nothing
            return replace(counted, targets=targets, coded=coded + len(self.views.pixels))
        return replace(counted, images=shown, targets=targets, coded=coded, looked_at=shown)
