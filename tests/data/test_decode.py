"""Decoding: RGB whatever the file's colours, never rotated, and damage is an error."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from unimrg_trainer.data import decode
from unimrg_trainer.data.decode import decode_image, decode_map, encode_png, image_extension, take_in

RED_LEFT = np.zeros((16, 32, 3), dtype=np.uint8)
RED_LEFT[:, :16] = (250, 10, 20)


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RED_LEFT).convert(mode, palette=Image.Palette.ADAPTIVE).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK")]
)
def test_colours_come_as_red_green_blue(kind: str, mode: str) -> None:
    pixels = decode_image(encoded(kind, mode))
    assert pixels.shape == (16, 32, 3) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[8, 4], (250, 10, 20), atol=8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_files_come_with_three_equal_channels(kind: str) -> None:
    pixels = decode_image(encoded(kind, "L"))
    assert pixels.shape == (16, 32, 3)
    assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_orientation_tags_do_not_rotate(kind: str) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6  # "turn by 90 degrees"
    assert decode_image(encoded(kind, exif=tags)).shape == (16, 32, 3)


def test_pngs_come_back_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(pixels)), pixels)
    np.testing.assert_array_equal(decode_map(encode_png(pixels[:, :, 0])), pixels[:, :, 0])


def test_the_extension_follows_the_content() -> None:
    assert image_extension(encoded("JPEG")) == "jpg"
    assert image_extension(encoded("PNG")) == "png"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", encoded("PNG")[:-20], encoded("JPEG")[:400], encoded("PNG")[:30]],
    ids=["empty", "text", "png without end", "half a jpeg", "png header"],
)
def test_what_is_damaged_or_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        take_in(content)


@pytest.mark.parametrize("content", [b"", b"text", encoded("BMP"), encoded("PNG")[:40]])
def test_what_is_no_map_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode_map(content)


def test_an_image_and_a_map_of_too_many_pixels_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAXIMUM_PIXELS", 32 * 16 - 1)
    for read in (take_in, decode_map):
        with pytest.raises(ValueError, match="more than 89 million"):
            read(encoded("PNG"))


def test_other_formats_become_png_and_oddities_are_told() -> None:
    for kind, mode, issues in [
        ("BMP", "RGB", ["BMP, stored as PNG"]),
        ("JPEG", "RGB", []),
        ("JPEG", "CMYK", ["CMYK"]),
        ("MPO", "RGB", []),
        ("TIFF", "RGB", ["TIFF, stored as PNG"]),
        ("WEBP", "RGB", ["WEBP, stored as PNG"]),
        ("PNG", "RGB", []),
        ("PNG", "L", []),
        ("PNG", "P", ["colours of a palette"]),
    ]:
        taken = take_in(encoded(kind, mode))
        assert taken.issues == issues and (taken.content == encoded(kind, mode)) is (kind in ("JPEG", "MPO", "PNG"))
        np.testing.assert_array_equal(taken.pixels, decode_image(taken.content))


def test_a_grey_png_of_ours_is_read_by_others_and_damage_in_it_is_found() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (37, 53), np.uint8)
    content = encode_png(pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.mode, image.format) == ("L", "PNG")
        np.testing.assert_array_equal(np.asarray(image), pixels)
    np.testing.assert_array_equal(decode_map(content), pixels)
    for damaged in (content[:-30], content[:60] + b"\0\0\0\0" + content[64:], content[:16] + b"\x7f" + content[17:]):
        with pytest.raises(ValueError, match=r"can be decoded|it is damaged"):
            decode_map(damaged)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("colours", [1, 3])
def test_sixteen_bits_are_scaled_to_eight_and_told(kind: str, colours: int) -> None:
    deep = np.linspace(0, 65535, 40, dtype=np.uint16).reshape(5, 8)
    pixels = deep if colours == 1 else np.repeat(deep[:, :, None], colours, axis=2)
    _, content = cv2.imencode(f".{kind.lower()}", pixels)
    taken = take_in(content.tobytes())
    assert "more than 8 bits, read as 8" in taken.issues and taken.pixels.dtype == np.uint8
    np.testing.assert_allclose(taken.pixels, np.repeat(deep[:, :, None] / 257, 3, axis=2), atol=1)
    np.testing.assert_array_equal(taken.pixels, decode_image(taken.content))


def test_what_is_no_photograph_is_never_opened() -> None:
    tiff = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(tiff, "TIFF")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    for content, reason in ((postscript, "no image"), (tiff.getvalue(), "neither whole numbers")):
        with pytest.raises(ValueError, match=reason):
            take_in(content)
