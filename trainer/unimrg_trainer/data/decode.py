"""Bytes ↔ pixels, always RGB, never rotated: orientation tags are ignored, as the reference ignored them.

simplejpeg and OpenCV decoded fastest of what was measured (docs/method/data.md).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from isal import isal_zlib
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

MAXIMUM_PIXELS = 89_000_000
"""A larger image is taken for a bomb: PIL warns from here on."""
_ORIENTATION = 0x0112
_TOO_LARGE, _DAMAGED = "it has more than 89 million pixels", "it is damaged, or cut off"
_TOO_DEEP = "its pixels are neither whole numbers of 16 bits nor fewer"
_BITS, _PNG_BITS = 8, 24
"""Usual bits of a channel, and where a PNG says how many it has."""
_NOTED_MODES = {
    "CMYK": "CMYK",
    "P": "colours of a palette",
    "PA": "colours of a palette",
    "RGBA": "transparency is ignored",
    "LA": "transparency is ignored",
}
_AS_THEY_ARE = ("JPEG", "MPO", "PNG")
"""Formats as PIL calls what it opened: an MPO is a JPEG that others follow."""
_OF_MAPS = ("JPEG", "PNG", "WEBP")
_OF_IMAGES = (*_OF_MAPS, "GIF", "TIFF", "BMP")
"""PIL knows more, some of which start programs: an EPS is run by Ghostscript."""
_BITS_PER_SAMPLE = 258
"""A tag of TIFF."""
_PNG = b"\x89PNG\r\n\x1a\n"
_GREY_8_BITS = (8, 0, 0, 0, 0)
"""Bits, kind of colours, compression, filters and interlacing in a PNG's header."""
_BEGINNINGS = {b"\xff\xd8": "jpg", _PNG: "png"}


def decode_image(content: bytes) -> np.ndarray:
    """Decode a JPEG or PNG to uint8 [H, W, 3], RGB. Raises ValueError where it cannot."""
    if content.startswith(b"\xff\xd8"):
        try:
            return np.asarray(simplejpeg.decode_jpeg(content, colorspace="RGB"))
        except ValueError:
            return _decode_slowly(content)  # e.g. four colours (CMYK), which simplejpeg does not convert
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return _decode_by_opencv(content, flags)


def decode_map(content: bytes) -> np.ndarray:
    """Decode a PNG of one channel to uint8 [H, W], of three to [H, W, 3] (RGB); 16 bits stay uint16.

    Raises ValueError where it cannot, and for more than MAXIMUM_PIXELS.
    """
    plain = _decode_unfiltered(content)
    if plain is not None:
        return plain
    try:
        with Image.open(io.BytesIO(content), formats=_OF_MAPS) as image:
            too_large = image.width * image.height > MAXIMUM_PIXELS
    except Exception as error:  # as in `take_in`
        raise ValueError(_DAMAGED) from error
    if too_large:
        raise ValueError(_TOO_LARGE)
    pixels = _decode_by_opencv(content, cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, 2::-1])


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] (RGB) or [H, W] without loss."""
    if pixels.ndim == 2:
        return _encode_unfiltered(pixels)
    encoded, content = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))
    assert encoded, pixels.shape
    return bytes(content)


def image_extension(content: bytes) -> str:
    """Return the extension of an image file within a shard, by how it begins. Raises ValueError for another kind."""
    for beginning, extension in _BEGINNINGS.items():
        if content.startswith(beginning):
            return extension
    raise ValueError("its content is neither JPEG nor PNG")


class TakenIn(NamedTuple):
    """An image as it is stored."""

    content: bytes
    """A JPEG or PNG file."""
    pixels: np.ndarray
    """What `decode_image` makes of it."""
    issues: list[str]
    """What a person may want to know about it."""


def take_in(content: bytes) -> TakenIn:
    """Return an image file as it is stored, decoded once.

    A JPEG or PNG that `decode_image` reads stays as it is, GIF, TIFF, BMP and WebP become PNG.
    Raises ValueError with one of a few reasons for what cannot be used.
    """
    issues: list[str] = []
    try:
        with Image.open(io.BytesIO(content), formats=_OF_IMAGES) as image:
            if image.width * image.height > MAXIMUM_PIXELS:
                raise ValueError(_TOO_LARGE)
            looked_for = image.format != "PNG" or "exif" in image.info  # else the whole PNG is decoded to find none
            if looked_for and image.getexif().get(_ORIENTATION, 1) != 1:
                issues.append("its EXIF tag asks for a rotation, which is ignored")
            bits = _bits_of(image, content)
            if bits > _BITS:
                issues.append("more than 8 bits, read as 8")
            if image.format not in _AS_THEY_ARE:
                issues.append(f"{image.format}, stored as PNG")
                pixels = _to_8_bits(np.asarray(image), bits) if bits > _BITS else np.asarray(image.convert("RGB"))
                return TakenIn(encode_png(pixels), pixels, issues)
            if image.mode in _NOTED_MODES:
                issues.append(_NOTED_MODES[image.mode])
            if image.format == "PNG":
                image.verify()  # OpenCV decodes what there is of one that is cut off
    except Image.DecompressionBombError as error:
        raise ValueError(_TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ValueError("it is no image, or damaged at its beginning") from error
    except ValueError:
        raise
    except Exception as error:  # PIL's plugins raise many kinds: OSError, SyntaxError, struct.error, …
        raise ValueError(_DAMAGED) from error
    try:
        return TakenIn(content, decode_image(content), issues)  # what reads it later must be able to
    except ValueError as error:
        raise ValueError(_DAMAGED) from error


def _bits_of(image: Image.Image, content: bytes) -> int:
    """Return how many bits a channel has in an image's file."""
    if image.format == "PNG":
        return content[_PNG_BITS]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    return _BITS


def _to_8_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return pixels of `bits` bits as PIL reads them, uint16 [H, W] or, at 8 bits already, [H, W, 3], as colours of 8.

    Raises ValueError for others.
    """
    if pixels.dtype == np.uint16:
        grey: np.ndarray = (pixels.astype(np.uint32) * 255 // (2**bits - 1)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(_TOO_DEEP)
    return np.ascontiguousarray(pixels[:, :, :3])


def _encode_unfiltered(pixels: np.ndarray) -> bytes:
    """Encode uint8 [H, W] as a PNG whose rows are not predicted from one another: decoding is inflating, and takes half
    the time of OpenCV's decoder; for contours also fewer bytes."""
    height, width = pixels.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # a row begins with the number of its filter, 0: none
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, *_GREY_8_BITS)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _decode_unfiltered(content: bytes) -> np.ndarray | None:
    """Decode what `_encode_unfiltered` makes; None for any other PNG, and for one that is damaged."""
    if content[:16] != _PNG + b"\0\0\0\rIHDR" or content[24:29] != bytes(_GREY_8_BITS) or content[37:41] != b"IDAT":
        return None
    width, height = struct.unpack(">II", content[16:24])
    end = 41 + int.from_bytes(content[33:37])
    size = height * (1 + width)
    if content[end + 8 : end + 12] != b"IEND" or not 0 < size <= MAXIMUM_PIXELS:
        return None
    inflater = isal_zlib.decompressobj()
    try:
        rows = np.frombuffer(inflater.decompress(content[41:end], size), np.uint8)
    except isal_zlib.error:  # type: ignore[misc]  # its stub has an instance there
        return None
    if rows.size != size or not inflater.eof:
        return None
    rows = rows.reshape(height, 1 + width)
    return None if rows[:, 0].any() else np.ascontiguousarray(rows[:, 1:])


def _decode_slowly(content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # as in `take_in`
        raise ValueError(str(error)) from error


def _decode_by_opencv(content: bytes, flags: int) -> np.ndarray:
    try:
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:  # it is empty, or says that it is larger than OpenCV allows
        raise ValueError(_DAMAGED) from error
    if pixels is None:
        raise ValueError("not an image that can be decoded")
    return pixels
