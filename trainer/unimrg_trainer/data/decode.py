"""Bytes ↔ pixels: the fastest decoders that were measured (streaming.md §4), always RGB, never rotated.

Orientation tags are ignored, as the reference ignored them.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

IMAGE_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
"""PIL's format name → extension within a shard. (MPO is a JPEG with further pictures behind it.)"""


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
    """Decode a photograph completely, and return its extension within a shard.

    Raises ValueError with a reason if it is damaged, or neither JPEG nor PNG.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind = image.format or "unknown"
    except Exception as error:  # PIL's plugins raise many kinds: OSError, SyntaxError, DecompressionBombError, …
        raise ValueError(_reason(error)) from error
    if kind not in IMAGE_EXTENSIONS:
        raise ValueError(f"its content is {kind}, not JPEG or PNG")
    decode_image(content)  # what reads it later must be able to
    return IMAGE_EXTENSIONS[kind]


def _decode_slowly(content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What PIL says, in words that mean something to whoever looks at the file."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image, or damaged at its beginning"  # PIL names the object it read from
    return str(error) or type(error).__name__


def _present(pixels: np.ndarray | None) -> np.ndarray:
    if pixels is None:
        raise ValueError("not an image that can be decoded")
    return pixels
