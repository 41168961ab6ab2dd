"""Bytes ↔ pixels, always RGB, never rotated: orientation tags are ignored, as the reference ignored them.

simplejpeg and OpenCV decoded fastest of what was measured (docs/method/data.md).
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

_BEGINNINGS = {b"\xff\xd8": "jpg", b"\x89PNG\r\n\x1a\n": "png"}


def decode_image(content: bytes) -> np.ndarray:
    """Decode a JPEG or PNG to uint8 [H, W, 3], RGB. Raises ValueError where it cannot."""
    if content.startswith(b"\xff\xd8"):
        try:
            return np.asarray(simplejpeg.decode_jpeg(content, colorspace="RGB"))
        except ValueError:
            return _decode_slowly(content)  # e.g. four colours (CMYK), which simplejpeg does not convert
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return _present(cv2.imdecode(np.frombuffer(content, np.uint8), flags))


def decode_map(content: bytes) -> np.ndarray:
    """Decode a PNG of one channel to uint8 [H, W], of three to [H, W, 3] (RGB). Raises ValueError where it cannot."""
    pixels = _present(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, 2::-1])


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] (RGB) or [H, W] without loss."""
    ordered = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, ::-1])
    encoded, content = cv2.imencode(".png", ordered)
    assert encoded, pixels.shape
    return bytes(content)


def image_extension(content: bytes) -> str:
    """Return the extension of an image file within a shard, by how it begins. Raises ValueError for another kind."""
    for beginning, extension in _BEGINNINGS.items():
        if content.startswith(beginning):
            return extension
    raise ValueError("its content is neither JPEG nor PNG")


def check_image(content: bytes) -> None:
    """Decode an image file completely. Raises ValueError with a reason if it is damaged, or neither JPEG nor PNG."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception as error:  # PIL's plugins raise many kinds: OSError, SyntaxError, DecompressionBombError, …
        raise ValueError(_reason(error)) from error
    image_extension(content)
    decode_image(content)  # what reads it later must be able to


def _decode_slowly(content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return PIL's reason without the name of the object that it read from."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image, or damaged at its beginning"
    return str(error) or type(error).__name__


def _present(pixels: np.ndarray | None) -> np.ndarray:
    if pixels is None:
        raise ValueError("not an image that can be decoded")
    return pixels
