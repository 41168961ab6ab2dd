"""OpenUni's module trees are the published ones: names and shapes written down independently."""

from __future__ import annotations

import pytest
import torch

from tests.models.tables import Table, conv, linear, norm, qwen2, shapes
from unimrg_api.sizes.openuni import VARIANTS, DcAeConfig
from unimrg_trainer.models.openuni.codec import build_autoencoder
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.models.openuni.vision import VisionTower
from unimrg_trainer.models.openuni.weights import FROZEN, layouts

SIZES = {
    # D, layers, kv width, ff, vocabulary, queries, connector layers, its ff, SANA width, layers, cross width,
    # caption width, latent channels
    "Tiny": (96, 3, 48, 192, 770, 64, 1, 192, 96, 3, 96, 96, 48),
    "B-512": (896, 24, 128, 4864, 151674, 256, 6, 3072, 1152, 28, 1152, 2304, 32),
    "L-512": (1536, 28, 256, 8960, 151674, 256, 6, 8960, 2240, 20, 2240, 2304, 32),
}


def published_table(variant: str) -> Table:
    D, layers, kv, ff, vocabulary, queries, depth, inner, S, blocks, cross, caption, C = SIZES[variant]  # noqa: N806
    language = "lmm.language_model"
    t: Table = {f"{language}.model.embed_tokens.weight": (vocabulary, D), f"{language}.lm_head.weight": (vocabulary, D)}
    qwen2(t, f"{language}.model", layers, D, D, kv, ff)
    t["meta_queries"] = (queries, D)
    for i in range(depth):
        layer = f"connector.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(t, f"{layer}.self_attn.{part}", D, D)
        norm(t, f"{layer}.layer_norm1", D)
        norm(t, f"{layer}.layer_norm2", D)
        linear(t, f"{layer}.mlp.fc1", inner, D)
        linear(t, f"{layer}.mlp.fc2", D, inner)
    linear(t, "projector", caption, D)
    t["transformer.patch_embed.proj.weight"], t["transformer.patch_embed.proj.bias"] = (S, C, 1, 1), (S,)
    linear(t, "transformer.time_embed.emb.timestep_embedder.linear_1", S, 256)
    linear(t, "transformer.time_embed.emb.timestep_embedder.linear_2", S, S)
    linear(t, "transformer.time_embed.linear", 6 * S, S)
    linear(t, "transformer.caption_projection.linear_1", S, caption)
    linear(t, "transformer.caption_projection.linear_2", S, S)
    t["transformer.caption_norm.weight"] = (S,)
    t["transformer.scale_shift_table"] = (2, S)
    linear(t, "transformer.proj_out", C, S)
    hidden = 5 * S // 2
    for i in range(blocks):
        block = f"transformer.transformer_blocks.{i}"
        t[f"{block}.scale_shift_table"] = (6, S)
        for part in ("to_q", "to_k", "to_v"):
            linear(t, f"{block}.attn1.{part}", S, S, bias=False)
            linear(t, f"{block}.attn2.{part}", cross, S)
        linear(t, f"{block}.attn1.to_out.0", S, S)
        linear(t, f"{block}.attn2.to_out.0", S, cross)
        t[f"{block}.ff.conv_inverted.weight"], t[f"{block}.ff.conv_inverted.bias"] = (
            (2 * hidden, S, 1, 1),
            (2 * hidden,),
        )
        t[f"{block}.ff.conv_depth.weight"], t[f"{block}.ff.conv_depth.bias"] = (2 * hidden, 1, 3, 3), (2 * hidden,)
        t[f"{block}.ff.conv_point.weight"] = (S, hidden, 1, 1)
    return t


@pytest.fixture(scope="module")
def on_meta() -> dict[str, OpenUni]:
    with torch.device("meta"):
        return {variant: OpenUni(VARIANTS[variant]()) for variant in SIZES}


@pytest.mark.parametrize("variant", SIZES)
def test_openunis_names_and_shapes_are_the_published_ones(variant: str, on_meta: dict[str, OpenUni]) -> None:
    assert shapes(on_meta[variant]) == published_table(variant)


@pytest.mark.parametrize(("variant", "billions"), [("B-512", 1.276), ("L-512", 3.605)])
def test_openunis_trained_parameters_are_as_many_as_published(
    variant: str, billions: float, on_meta: dict[str, OpenUni]
) -> None:
    count = sum(parameter.numel() for parameter in on_meta[variant].parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize(("variant", "width"), [("B-512", 896), ("L-512", 1536)])
def test_the_vision_tower_has_internvls_names_and_shapes(variant: str, width: int) -> None:
    config = VARIANTS[variant]()
    with torch.device("meta"):
        tower = VisionTower(config.vision, config.language.width)
    t: Table = {
        "vision_model.embeddings.class_embedding": (1, 1, 1024),
        "vision_model.embeddings.position_embedding": (1, 1025, 1024),
        "vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "vision_model.embeddings.patch_embedding.bias": (1024,),
    }
    for i in range(24):
        layer = f"vision_model.encoder.layers.{i}"
        t[f"{layer}.ls1"] = t[f"{layer}.ls2"] = (1024,)
        norm(t, f"{layer}.norm1", 1024)
        norm(t, f"{layer}.norm2", 1024)
        linear(t, f"{layer}.attn.qkv", 3072, 1024)
        linear(t, f"{layer}.attn.proj", 1024, 1024)
        linear(t, f"{layer}.mlp.fc1", 4096, 1024)
        linear(t, f"{layer}.mlp.fc2", 1024, 4096)
    norm(t, "mlp1.0", 4096)
    linear(t, "mlp1.1", width, 4096)
    linear(t, "mlp1.3", width, width)
    assert shapes(tower) == t


def autoencoder_block(table: Table, name: str, width: int, attention: bool) -> None:
    if not attention:
        conv(table, f"{name}.conv1", width, width, 3)
        conv(table, f"{name}.conv2", width, width, 3, bias=False)
        norm(table, f"{name}.norm", width)
        return
    for part in ("to_q", "to_k", "to_v"):
        linear(table, f"{name}.attn.{part}", width, width, bias=False)
    scale = f"{name}.attn.to_qkv_multiscale.0"
    conv(table, f"{scale}.proj_in", 3 * width, 3 * width, 5, groups=3 * width, bias=False)
    conv(table, f"{scale}.proj_out", 3 * width, 3 * width, 1, groups=3 * width // 32, bias=False)
    linear(table, f"{name}.attn.to_out", width, 2 * width, bias=False)
    norm(table, f"{name}.attn.norm_out", width)
    conv(table, f"{name}.conv_out.conv_inverted", 8 * width, width, 1)
    conv(table, f"{name}.conv_out.conv_depth", 8 * width, 8 * width, 3, groups=8 * width)
    conv(table, f"{name}.conv_out.conv_point", width, 4 * width, 1, bias=False)
    norm(table, f"{name}.conv_out.norm", width)


def test_the_autoencoder_has_the_published_names_and_shapes() -> None:
    widths = (128, 256, 512, 512, 1024, 1024)
    t: Table = {}
    conv(t, "encoder.conv_in", 128, 3, 3)
    conv(t, "encoder.conv_out", 32, 1024, 3)
    conv(t, "decoder.conv_in", 1024, 32, 3)
    norm(t, "decoder.norm_out", 128)
    conv(t, "decoder.conv_out", 3, 128, 3)
    for level, (width, count) in enumerate(zip(widths, (2, 2, 2, 3, 3, 3), strict=True)):
        for i in range(count):
            autoencoder_block(t, f"encoder.down_blocks.{level}.{i}", width, level > 2)
        if level < 5:
            conv(t, f"encoder.down_blocks.{level}.{count}.conv", widths[level + 1], width, 3)
            conv(t, f"decoder.up_blocks.{level}.0.conv", width, widths[level + 1], 3)
        for i in range(3):
            autoencoder_block(t, f"decoder.up_blocks.{level}.{i + (level < 5)}", width, level > 2)
    with torch.device("meta"):
        assert shapes(build_autoencoder(DcAeConfig())) == t


@pytest.mark.parametrize("variant", SIZES)
def test_openunis_layouts_go_both_ways_and_cover_the_model(variant: str) -> None:
    config = VARIANTS[variant]()
    covered: set[str] = set()
    with torch.device("meta"):
        found = {layout.name: layout for layout in layouts(config)}
        for layout in found.values():
            ours = list(layout.build().state_dict())
            assert [layout.ours(layout.theirs(name)) for name in ours] == ours
            if layout.asset is None and layout.name != "model":
                covered |= set(ours)
    table = published_table(variant)
    assert found["model"].ours("projector.weight") == "projector.weight"
    assert all(found["model"].ours(f"{frozen}x") is None for frozen in FROZEN)
    if variant == "Tiny":
        assert set(found) == {"model"}
    else:
        assert set(found) == {"model", "language", "sana", "vision", "dc-ae"}
        own = {name for name in table if name.startswith(("meta_queries", "connector.", "projector."))}
        assert covered == set(table) - own
        assert found["language"].ours("mlp1.0.weight") is None
        assert found["vision"].ours("language_model.lm_head.weight") is None
