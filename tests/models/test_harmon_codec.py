"""Both codecs behind one interface: the DCT loses nothing, KL-16 has its strides and borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.models.harmon_rows import batch_of, family, row
from tests.models.rows import ALL, CPU, perturbed, picture, rng_for, task
from unimrg_api.sizes.harmon import Kl16Config
from unimrg_trainer.maps.geometry import pad_square, squash
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.common.dct import BlockCosine, Measured, read_measured
from unimrg_trainer.models.common.vqgan import Downsample
from unimrg_trainer.models.harmon.codec import decode_tokens, encode_tokens
from unimrg_trainer.models.harmon.kl16 import Kl16
from unimrg_trainer.sample import Sample
from unimrg_trainer.scenes.scene import generate


def test_a_coefficient_is_the_cosine_sum_of_its_block() -> None:
    codec = BlockCosine(4, Measured((0.5,) * 48, (1.0,) * 48))
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double().float()
    colour, u, v, row, column = 2, 1, 3, 1, 0
    total = 0.0
    for y in range(4):
        for x in range(4):
            wave = math.cos(math.pi / 4 * (y + 0.5) * u) * math.cos(math.pi / 4 * (x + 0.5) * v) / 2
            for c in range(3):
                tint = math.cos(math.pi / 3 * (c + 0.5) * colour) * math.sqrt(2 / 3)
                total += wave * tint * pixels[0, c, 4 * row + y, 4 * column + x].item()
    latents = codec.encode(pixels)
    assert latents[0, colour * 16 + u * 4 + v, row, column].item() == pytest.approx(total / 0.5, abs=1e-5)


def test_softened_scales_say_the_same_of_pixels() -> None:
    """Power 0: all coefficients have one scale. Limits are the same values in pixels; nothing is lost."""
    measured = Measured((4.0, 0.25), (2.0, 8.0))
    assert measured.softened(1, 1) == measured
    assert measured.softened(0, 2) == Measured((2.0, 2.0), (4.0, 1.0))
    assert measured.softened(0.5, 1) == Measured((2.0, 0.5), (4.0, 4.0))


def test_scenes_coefficients_have_softened_variance_and_keep_the_limit() -> None:
    harmon = family()
    size = harmon.config.image_size
    scenes = [generate(5, index, size) for index in range(60)]
    samples = [Sample("", s.image, {"depth": s.depth, "segmentation": s.segmentation}) for s in scenes]
    images = [find_map(name).target(one, size) for one in samples for name in ("pixel", "depth", "segmentation")]
    tokens = encode_tokens(harmon.codec, torch.from_numpy(np.stack(images))).flatten(0, 1)
    deviations = tokens.std(dim=0) / (torch.tensor(read_measured().scales).sqrt() / 1.2)
    assert deviations.min() > 0.8 and deviations.max() < 1.2
    limit = harmon.codec.limit
    assert limit is not None
    beyond = (tokens.abs() > limit).double().mean(dim=0)
    assert 0 < beyond.mean() < 2e-3 and beyond.max() < 1e-2


def test_tokens_are_in_raster_order_and_come_back() -> None:
    """More images than are encoded at once."""
    harmon = family()
    side, stride, size = harmon.config.side, harmon.config.codec_stride, harmon.config.image_size
    images = np.stack([picture(key, size, size, 3) for key in range(11)])
    tokens = encode_tokens(harmon.codec, torch.from_numpy(images))
    assert tokens.shape == (11, side**2, harmon.config.codec_channels)
    np.testing.assert_array_equal(decode_tokens(harmon.codec, tokens, side), images)
    changed = images.copy()
    changed[:, stride : 2 * stride, 2 * stride : 3 * stride] = 0  # the block in row 1, column 2
    different = (encode_tokens(harmon.codec, torch.from_numpy(changed)) != tokens).any(-1)
    assert different[0].nonzero().flatten().tolist() == [side + 2]


class CountingCodec:
    """The codec, recording how many images it encodes, on which device and in which type."""

    def __init__(self, codec: BlockCosine) -> None:
        self._codec = codec
        self.stride, self.channels, self.limit = codec.stride, codec.channels, codec.limit
        self.encoded: list[tuple[int, str, torch.dtype]] = []
        self.decode = codec.decode

    def to(self, device: torch.device) -> object:
        return self._codec.to(device)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.encoded.append((len(pixels), pixels.device.type, pixels.dtype))
        assert not torch.is_grad_enabled() or not pixels.requires_grad
        return self._codec.encode(pixels.cpu()).to(pixels.device)


def test_a_micro_step_encodes_each_image_once_in_each_geometry() -> None:
    """Two images under all objectives: padded, squashed (which is the pixel target too), and two maps of each."""
    harmon = family()
    codec = CountingCodec(BlockCosine(4, read_measured()))
    harmon.codec = codec
    rows = [row(harmon, name, number, task(name, number % 2)) for name in ALL for number in range(4)]
    batch = harmon.collate(rows, rng_for)
    assert codec.encoded == []  # the host only collects pixels
    prepared = harmon.prepare(batch, CPU, torch.float64)
    assert codec.encoded == [(1, "cpu", torch.float32)] * 8
    assert prepared.latents is not None and prepared.latents.dtype == torch.float64
    assert not prepared.latents.requires_grad
    perturbed(harmon)(prepared).sum().backward()
    assert len(codec.encoded) == 8


def test_a_preview_shows_what_the_loss_sees_of_each_row() -> None:
    """Padded for a question, squashed for a map, which is shown as it is learnt; None where a row has no image."""
    harmon = family()
    size = harmon.config.image_size
    rows = [row(harmon, name, 0, task(name, 0)) for name in ALL]
    rows += [row(harmon, name, 1, task(name, 1, image=False)) for name in ("Understanding", "Depth")]
    shown = harmon.preview(batch_of(harmon, rows))
    padded, squashed = pad_square(picture(0), size), squash(picture(0), size)
    maps = [find_map(name).target(task("Depth", 0).sample, size) for name in ("pixel", "depth", "segmentation")]
    other = find_map("depth").target(task("Depth", 1).sample, size)
    expected = [(padded, None), *((squashed, one) for one in maps), (None, None), (None, other)]
    for found, wanted in zip(shown, expected, strict=True):
        for one, two in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, two)
    assert harmon.preview(batch_of(harmon, rows[4:5])) == [(None, None)]


def test_the_codec_moves_to_the_device_that_the_batch_goes_to() -> None:
    """The meta device stands for a GPU: a codec or an image left behind would raise."""
    harmon = family()
    batch = harmon.collate([row(harmon, name, 0, task(name, 0)) for name in ALL], rng_for)
    assert batch.pictures.pixels.device == harmon.codec.basis.device == CPU
    prepared = harmon.prepare(batch, torch.device("meta"), torch.float32)
    tensors = [value for value in vars(prepared).values() if isinstance(value, torch.Tensor)]
    assert prepared.latents is not None and {tensor.device.type for tensor in tensors} == {"meta"}


def small_kl16() -> Kl16:
    torch.manual_seed(0)
    return Kl16(Kl16Config(width=8, multipliers=(1, 2, 2), latent_channels=4, norm_groups=4))


def test_the_autoencoder_has_its_stride_and_is_deterministic() -> None:
    codec = small_kl16()
    pixels = torch.rand(1, 3, 16, 24) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (1, 4, 4, 6) and codec.stride == 4
    assert torch.equal(latents, codec.encode(pixels))
    assert codec.decode(latents).shape == pixels.shape
    assert not any(parameter.requires_grad for parameter in codec.parameters()) and not codec.training


def test_the_latent_is_the_scaled_mean() -> None:
    codec = small_kl16()
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    latents = codec.encode(pixels)
    with torch.no_grad():
        codec.quant_conv.weight[4:] = 0  # the log variance
    torch.testing.assert_close(codec.encode(pixels), latents)
    moments = codec.quant_conv(codec.encoder(pixels))
    torch.testing.assert_close(latents, 0.2325 * moments[:, :4])


def test_downsampling_looks_to_the_right_and_below() -> None:
    down = Downsample(8)
    with torch.no_grad():
        down.conv.weight.zero_()
        assert down.conv.bias is not None
        down.conv.bias.zero_()
        down.conv.weight[0, 0, 0, 0] = 1  # takes the upper left of its window
    picture = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(1, 8, 1, 1)
    assert down(picture)[0, 0].tolist() == [[0, 2], [8, 10]]
