"""Frozen encoders: codes and features of images, one run per image and geometry, files that must be there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from tests.models.rows import ALL, CPU, perturbed, picture, rng_for, sample
from tests.models.showo_rows import CODES, TINY, batch_of, family, rows_of
from unimrg_api.errors import UserError
from unimrg_api.sizes.showo import BlocksConfig, MagvitConfig
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.showo import codes as codes_file
from unimrg_trainer.models.showo import family as family_file
from unimrg_trainer.models.showo.blocks import BlockColours
from unimrg_trainer.models.showo.codes import MAGVIT, decode_images, encode_images
from unimrg_trainer.models.showo.encodings import source_geometry
from unimrg_trainer.models.showo.magvit import Magvit
from unimrg_trainer.models.showo.vision import DEVIATION, MEAN, centre_crop, features, open_tower

SMALL = MagvitConfig(
    width=8,
    encoder_multipliers=(1, 2),
    encoder_blocks=(2, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 2),
    bits=5,
    norm_groups=4,
)


def test_a_magvit_code_is_the_signs_of_its_channels_highest_bit_first() -> None:
    torch.manual_seed(0)
    magvit = Magvit(SMALL)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    latents = magvit.encoder(pixels)
    codes = magvit.encode(pixels)
    assert codes.shape == (2, 16)
    for image in range(2):
        for place in range(16):
            bits = "".join("1" if z > 0 else "0" for z in latents[image, :, place // 4, place % 4])
            assert codes[image, place].item() == int(bits, 2)
    assert len(codes.unique()) > 2


def test_a_magvit_code_is_decoded_from_plus_and_minus_one() -> None:
    torch.manual_seed(0)
    magvit = Magvit(SMALL)
    codes = torch.arange(16)[None] * 2 + 1
    signs = torch.tensor([[1.0 if bit == "1" else -1.0 for bit in f"{code:05b}"] for code in codes[0].tolist()])
    expected = magvit.decoder(signs.T.reshape(1, 5, 4, 4))
    torch.testing.assert_close(magvit.decode(codes.short(), 4), expected)
    assert expected.shape == (1, 3, 8, 8)


def test_magvit_attends_in_the_middle_only_and_is_never_trained() -> None:
    with torch.device("meta"):
        magvit = Magvit()
    attending = [name for name, part in magvit.named_modules() if type(part).__name__ == "AttentionBlock"]
    assert attending == ["encoder.mid.attn_1", "decoder.mid.attn_1"]
    assert not any(p.requires_grad for p in magvit.parameters()) and not magvit.training


def test_a_blocks_code_is_its_rounded_mean_colour_and_comes_back() -> None:
    blocks = BlockColours(BlocksConfig(stride=4, channel_bits=3))
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image[0, :4, 4:] = (255, 0, 146)  # 146 of 255 are four of seven levels
    image[0, 4:, :4] = 255
    image[0, 4:6, 4:, 0] = 255  # half of the block is red
    codes = encode_images(blocks, torch.from_numpy(image))
    assert codes.dtype == torch.int16
    assert codes.tolist() == [[0, 0b111_000_100, 0b111_111_111, 0b100_000_000]]
    found = decode_images(blocks, codes)[0]
    assert found[0, 0].tolist() == [0, 0, 0] and found[7, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(found[3, 4], (255, 0, 146), atol=1)
    assert torch.equal(encode_images(blocks, torch.from_numpy(found)[None]), codes)


def test_many_images_are_encoded_in_their_order() -> None:
    tokenizer = family().image_tokenizer
    images = torch.from_numpy(np.stack([picture(key, 32, 32, 3) for key in range(11)]))
    together = encode_images(tokenizer, images)
    assert torch.equal(together, torch.cat([encode_images(tokenizer, image[None]) for image in images]))
    assert len(decode_images(tokenizer, together)) == 11


def test_features_are_the_last_but_one_layer_without_class() -> None:
    """Against the tower spelled out: normalised pixels, patches behind a class, one norm, all layers but the last."""
    assert TINY.clip is not None
    tower = family().tower
    image = torch.from_numpy(picture("x", 32, 32, 3))
    pixels = ((image.float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1)
    patches = functional.conv2d(pixels[None], tower.embeddings.patch_embedding.weight, stride=4).flatten(2)[0].T
    x = torch.cat([tower.embeddings.class_embedding[None], patches]) + tower.embeddings.position_embedding.weight
    x = tower.pre_layrnorm(x)
    for layer in tower.encoder.layers[:-1]:
        normed, part = layer.layer_norm1(x), layer.self_attn
        query, key, value = (p(normed).view(65, 3, 16).transpose(0, 1) for p in (part.q_proj, part.k_proj, part.v_proj))
        mixed = (query @ key.mT / 4).softmax(-1) @ value
        x = x + part.out_proj(mixed.transpose(0, 1).flatten(1))
        inner = layer.mlp.fc1(layer.layer_norm2(x))
        x = x + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
    torch.testing.assert_close(features(tower, image[None])[0], x[1:], rtol=1e-4, atol=1e-5)


def test_the_random_tower_is_always_the_same_and_draws_from_its_own_seed() -> None:
    assert TINY.clip is not None
    torch.manual_seed(5)
    one = open_tower(TINY.clip, Path())
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    other = open_tower(TINY.clip, Path())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not any(p.requires_grad for p in one.parameters()) and not one.training


def test_the_middle_of_an_image_is_cut_out() -> None:
    image = picture("x", 20, 50, 3)
    found = centre_crop(image, 10)
    scaled = np.asarray(Image.fromarray(image).resize((25, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(found, scaled[:, 7:17])
    assert np.array_equal(
        centre_crop(image.transpose(1, 0, 2), 10),
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image.transpose(1, 0, 2))).resize((10, 25), Image.Resampling.BICUBIC)
        )[7:17],
    )
    assert np.array_equal(centre_crop(image[:, :20], 20), image[:, :20])


def test_a_source_loses_its_detail_where_codes_could_be_copied() -> None:
    image = picture("x")
    small = Image.fromarray(squash(image, 8))
    expected = np.asarray(small.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(source_geometry(CODES)(image, 16), expected)
    assert np.array_equal(source_geometry(TINY)(image, 32), squash(image, 32))


def test_encoders_run_once_for_each_image_and_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"codes": 0, "features": 0}

    def count_codes(tokenizer: BlockColours, images: torch.Tensor) -> torch.Tensor:
        counted["codes"] += len(images)
        return codes_file.encode_images(tokenizer, images)

    def count_features(tower: nn.Module, images: torch.Tensor) -> torch.Tensor:
        counted["features"] += len(images)
        return features(tower, images)

    monkeypatch.setattr(family_file, "encode_images", count_codes)
    monkeypatch.setattr(family_file, "features", count_features)
    showo = family()
    batch = showo.prepare(showo.collate(rows_of(showo, ALL, [0, 1]), rng_for), CPU, torch.float32)
    # two samples: three targets of each; the middle for a question, the stretched image for three generations
    assert counted == {"codes": 6, "features": 4}
    assert batch.codes is not None and batch.codes.dtype == torch.int16


def test_a_preview_shows_what_the_loss_sees() -> None:
    for config in (TINY, CODES):
        showo = family(config)
        batch = batch_of(showo, rows_of(showo, ["Understanding", "Depth"], [3]), torch.float32)
        (question, none), (source, target) = showo.preview(batch)
        assert none is None and question is not None and source is not None and target is not None
        assert question.shape == target.shape == (32, 32, 3)
        if config.clip:
            assert np.array_equal(source, squash(picture(3), 32))
        means = find_map("depth").target(sample(3), 32).reshape(8, 4, 8, 4, 3).mean((1, 3))
        assert np.abs(target[::4, ::4] - means).max() <= 255 / 14 + 1  # half a level of colour


def test_weights_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    tensors = {name: t.contiguous() for name, t in Magvit(SMALL).state_dict().items()}
    save_file(tensors, tmp_path / MAGVIT.file)
    opened = codes_file.open_image_tokenizer(SMALL, tmp_path)
    assert isinstance(opened, Magvit)
    assert all(torch.equal(tensors[name], t) for name, t in opened.state_dict().items())
    del tensors["quantize.power_vals"]
    save_file(tensors, tmp_path / MAGVIT.file)
    with pytest.raises(UserError, match=r"is not the MAGVIT-v2 image tokenizer.*quantize\.power_vals"):
        codes_file.open_image_tokenizer(SMALL, tmp_path)


def test_a_published_tokenizer_fits_the_whole_model() -> None:
    """Not Tiny's stand-in: the small MAGVIT behind the same rows."""
    config = replace(CODES, codes=SMALL, image_size=16, source_size=8, source_detail=None)
    showo = family(config)
    showo.image_tokenizer = Magvit(SMALL)
    rows = rows_of(showo, ALL, [0])
    assert perturbed(showo)(batch_of(showo, rows)).isfinite().all()
