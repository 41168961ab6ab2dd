"""What a frozen encoder makes of a sample's picture: computed in every step, or once and then read with the sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.sample import Sample


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder of squares of one size."""

    name: str
    """Family, encoder and side in pixels, e.g. `harmon-kl16-512`."""
    size: int
    """Side of the squares, S."""
    shape: tuple[int, ...]
    """Shape of what it makes of one square."""
    dtype: type[np.generic]
    """Type of that: what is encoded in a step is rounded to it as well."""

    def of_image(self, square: str, geometry: Callable[[np.ndarray, int], np.ndarray]) -> Encoding:
        """Return the encoding of the image as `geometry(image, S)`; `square` names the geometry."""

        def draw(sample: Sample) -> np.ndarray:
            assert sample.image is not None
            return geometry(sample.image, self.size)

        return Encoding(self, f"image.{square}", draw)  # the name of a map has no dot

    def of_map(self, map: ImageMap) -> Encoding:
        """Return the encoding of a map as it is learnt."""
        return Encoding(self, map.name, lambda sample: map.target(sample, self.size))


@dataclass(frozen=True, eq=False)
class Encoding:
    """What an encoder makes of one of a sample's pictures."""

    encoder: Encoder
    picture: str
    draw: Callable[[Sample], np.ndarray]
    """The square that is encoded: uint8 [S, S, 3]."""

    @property
    def name(self) -> str:
        """Name in the shards: of equal names, weights and samples the arrays are equal."""
        return f"{self.encoder.name}.{self.picture}"

    def present(self, sample: Sample) -> bool:
        """Whether the sample has this, or the image that it is made of; asked of encodings of the image."""
        return sample.image is not None or self.name in sample.encodings

    def stored(self, sample: Sample) -> np.ndarray | None:
        """Return the array that was read with the sample, or None. Raises UserError (65) for one of another shape."""
        array = sample.encodings.get(self.name)
        if array is not None and (array.shape, array.dtype) != (self.encoder.shape, np.dtype(self.encoder.dtype)):
            raise UserError(
                f"{self.name} of sample {sample.key!r} is {array.dtype} {list(array.shape)}, and this model reads "
                f"{np.dtype(self.encoder.dtype)} {list(self.encoder.shape)}",
                remedy="prepare the data again",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        return array


@dataclass(frozen=True)
class Reading:
    """What the rows of an objective read of a sample's pictures."""

    encodings: Sequence[Encoding] = ()
    """What they read of them encoded; each may be read with the sample instead of its picture."""
    image: bool = True
    """Whether they read the image as pixels too."""
