"""The module trees are the published ones: names and shapes written down independently (docs/method/showo.md)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.tables import Table, attention, conv, linear, norm, resnet, shapes
from unimrg_api.sizes.showo import config_of
from unimrg_trainer.models.showo.family import ShowOFamily
from unimrg_trainer.models.showo.magvit import Magvit
from unimrg_trainer.models.showo.module import ShowO

SIZES = {
    # vocabulary, D, layers, ff, width of the tower
    "Tiny": (1291, 96, 3, 192, 48),
    "VQ-256": (58498, 2048, 24, 8192, 0),
    "VQ-512": (58498, 2048, 24, 8192, 0),
    "CLIP-256": (58498, 2048, 24, 8192, 1024),
    "CLIP-512": (58498, 2048, 24, 8192, 1024),
}


def model_table(vocabulary: int, width: int, layers: int, ff: int, tower: int) -> Table:
    t: Table = {"showo.model.embed_tokens.weight": (vocabulary, width)}
    linear(t, "showo.lm_head", vocabulary, width)
    norm(t, "showo.model.final_layernorm", width)
    for i in range(layers):
        layer = f"showo.model.layers.{i}"
        norm(t, f"{layer}.input_layernorm", width)
        for part in ("q_proj", "k_proj", "v_proj", "dense"):
            linear(t, f"{layer}.self_attn.{part}", width, width)
        linear(t, f"{layer}.mlp.fc1", ff, width)
        linear(t, f"{layer}.mlp.fc2", width, ff)
    if tower:
        linear(t, "mm_projector.0", width, tower)
        linear(t, "mm_projector.2", width, width)
    return t


def magvit_table() -> Table:
    t: Table = {"quantize.embedding": (8192, 13), "quantize.power_vals": (13,)}
    conv(t, "encoder.conv_in", 128, 3, 3)
    levels = [(128, 128, 4), (128, 256, 3), (256, 256, 4), (256, 512, 3), (512, 512, 4)]
    for level, (inputs, outputs, blocks) in enumerate(levels):
        for block in range(blocks):
            resnet(t, f"encoder.down.{level}.block.{block}", outputs if block else inputs, outputs)
        if level < 4:
            conv(t, f"encoder.down.{level}.downsample.conv", outputs, outputs, 3)
    conv(t, "decoder.conv_in", 512, 13, 3)
    levels = [(128, 128, 4), (256, 128, 4), (256, 256, 3), (512, 256, 4), (512, 512, 3)]
    for level, (inputs, outputs, blocks) in enumerate(levels):
        for block in range(blocks):
            resnet(t, f"decoder.up.{level}.block.{block}", outputs if block else inputs, outputs)
        if level:
            conv(t, f"decoder.up.{level}.upsample.conv", outputs, outputs, 3)
    for half, last, outputs in (("encoder", 512, 13), ("decoder", 128, 3)):
        resnet(t, f"{half}.mid.block_1", 512, 512)
        attention(t, f"{half}.mid.attn_1", 512)
        resnet(t, f"{half}.mid.block_2", 512, 512)
        norm(t, f"{half}.norm_out", last)
        conv(t, f"{half}.conv_out", outputs, last, 3)
    conv(t, "encoder.quant_conv", 13, 13, 1)
    conv(t, "decoder.post_quant_conv", 13, 13, 1)
    return t


def clip_table() -> Table:
    t: Table = {"vision_model.embeddings.class_embedding": (1024,)}
    t["vision_model.embeddings.patch_embedding.weight"] = (1024, 3, 14, 14)
    t["vision_model.embeddings.position_embedding.weight"] = (577, 1024)
    norm(t, "vision_model.pre_layrnorm", 1024)
    norm(t, "vision_model.post_layernorm", 1024)
    for i in range(24):
        layer = f"vision_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(t, f"{layer}.self_attn.{part}", 1024, 1024)
        norm(t, f"{layer}.layer_norm1", 1024)
        norm(t, f"{layer}.layer_norm2", 1024)
        linear(t, f"{layer}.mlp.fc1", 4096, 1024)
        linear(t, f"{layer}.mlp.fc2", 1024, 4096)
    return t


def on_meta(variant: str) -> ShowO:
    with torch.device("meta"):
        return ShowO(config_of(variant))


@pytest.mark.parametrize("variant", SIZES)
def test_names_and_shapes_are_the_published_ones(variant: str) -> None:
    assert shapes(on_meta(variant)) == model_table(*SIZES[variant])


def test_the_number_of_parameters_is_the_published_one() -> None:
    module = on_meta("CLIP-512")
    assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(1.454, abs=0.001)
    assert module.showo.lm_head.weight is not module.showo.model.embed_tokens.weight


def test_the_image_tokenizer_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        tokenizer = Magvit()
    assert shapes(tokenizer) == magvit_table()
    assert (tokenizer.stride, tokenizer.bits) == (16, 13)


def published(showo: ShowOFamily) -> dict[str, Table]:
    """File → names that an export writes."""
    found = {}
    for layout in showo.layouts():
        with torch.device("meta"):
            module: nn.Module = layout.build()
        found[layout.published] = {layout.theirs(name): shape for name, shape in shapes(module).items()}
    return found


def test_every_published_file_has_a_layout() -> None:
    files = published(ShowOFamily({"variant": "CLIP-512"}))
    assert files == {
        "showlab/show-o-w-clip-vit-512x512": model_table(*SIZES["CLIP-512"]),
        "showlab/magvitv2": magvit_table(),
        "openai/clip-vit-large-patch14-336": clip_table(),
    }
    assert list(published(ShowOFamily({"variant": "VQ-256"}))) == ["showlab/show-o", "showlab/magvitv2"]
    assert list(published(ShowOFamily({"variant": "Tiny"}))) == ["Tiny"]


def test_of_clip_only_the_tower_is_taken() -> None:
    (clip,) = (layout for layout in ShowOFamily({"variant": "CLIP-256"}).layouts() if layout.name == "clip")
    for left in ("text_model.final_layer_norm.bias", "logit_scale", "vision_model.embeddings.position_ids"):
        assert clip.ours(left) is None
    name = "vision_model.encoder.layers.3.mlp.fc1.weight"
    taken = clip.ours(name)
    assert taken is not None and clip.theirs(taken) == name
