"""The module trees are the published ones: names and shapes written down independently (docs/method/harmon.md)."""

from __future__ import annotations

import pytest
import torch

from tests.models.tables import Table, attention, conv, linear, norm, qwen2, resnet, shapes
from unimrg_api.sizes.harmon import config_of
from unimrg_trainer.models.harmon.codec import KL16
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.kl16 import Kl16
from unimrg_trainer.models.harmon.module import Harmon

SIZES = {
    # D, layers, q heads, kv heads, head dim, ff, vocabulary, d, blocks, W, head blocks, b, grid², C, classes, time
    "Tiny": (96, 3, 4, 2, 24, 192, 768, 96, 2, 96, 2, 16, 36, 48, 10, 64),
    "0.5B": (896, 24, 14, 2, 64, 4864, 151936, 768, 12, 1024, 6, 64, 256, 16, 1000, 256),
    "1.5B": (1536, 28, 12, 2, 128, 8960, 151936, 1280, 20, 1536, 12, 64, 256, 16, 1000, 256),
}


def published_table(variant: str) -> Table:
    (D, L, q, kv, head, ff, V, d, blocks, W, depth, b, places, C, classes, time) = SIZES[variant]  # noqa: N806
    t: Table = {"llm.model.embed_tokens.weight": (V, D), "llm.lm_head.weight": (V, D)}
    qwen2(t, "llm.model", L, D, q * head, kv * head, ff)
    t["mar.class_emb.weight"] = (classes, d)
    t["mar.fake_latent"] = (1, d)
    linear(t, "mar.z_proj", d, C)
    norm(t, "mar.z_proj_ln", d)
    for half in ("encoder", "decoder"):
        t[f"mar.{half}_pos_embed_learned"] = (1, b + places, d)
        norm(t, f"mar.{half}_norm", d)
        for i in range(blocks):
            block = f"mar.{half}_blocks.{i}"
            norm(t, f"{block}.norm1", d)
            norm(t, f"{block}.norm2", d)
            linear(t, f"{block}.attn.qkv", 3 * d, d)
            linear(t, f"{block}.attn.proj", d, d)
            linear(t, f"{block}.mlp.fc1", 4 * d, d)
            linear(t, f"{block}.mlp.fc2", d, 4 * d)
    linear(t, "mar.decoder_embed", d, d)
    t["mar.mask_token"] = (1, 1, d)
    t["mar.diffusion_pos_embed_learned"] = (1, places, d)
    net = "mar.diffloss.net"
    linear(t, f"{net}.time_embed.mlp.0", W, time)
    linear(t, f"{net}.time_embed.mlp.2", W, W)
    linear(t, f"{net}.cond_embed", W, d)
    linear(t, f"{net}.input_proj", W, C)
    for i in range(depth):
        norm(t, f"{net}.res_blocks.{i}.in_ln", W)
        linear(t, f"{net}.res_blocks.{i}.mlp.0", W, W)
        linear(t, f"{net}.res_blocks.{i}.mlp.2", W, W)
        linear(t, f"{net}.res_blocks.{i}.adaLN_modulation.1", 3 * W, W)
    linear(t, f"{net}.final_layer.linear", 2 * C, W)
    linear(t, f"{net}.final_layer.adaLN_modulation.1", 2 * W, W)
    linear(t, "proj_in.0", D, d)
    linear(t, "proj_in.2", D, D)
    linear(t, "proj_out.0", D, D)
    linear(t, "proj_out.2", d, D)
    return t


@pytest.mark.parametrize(("variant", "file"), [("0.5B", "harmon_0.5b.pth"), ("1.5B", "harmon_1.5b.pth")])
def test_the_layouts_of_a_size_are_its_published_files(variant: str, file: str) -> None:
    """Every tensor of the module comes from the published one of its name; what else may lie there is not used."""
    model, codec = HarmonFamily({"variant": variant}).layouts()
    assert model.published.startswith(file) and (model.container, model.asset) == (None, None)
    assert (codec.name, codec.published, codec.container, codec.asset) == ("kl16", "kl16.ckpt", "model", KL16)
    head, embedding = "llm.lm_head.weight", "llm.model.embed_tokens.weight"
    assert model.copies == ((head, embedding),)
    with torch.device("meta"):
        modules = model.build(), codec.build()
    for layout, module, table in zip((model, codec), modules, (published_table(variant), kl16_table()), strict=True):
        assert {layout.ours(name) for name in table} - {None} == dict(module.named_parameters()).keys()
        assert {layout.theirs(name) for name, _ in module.named_parameters()} == table.keys() - {head}
    assert model.ours(head) is model.ours("vae.encoder.conv_in.weight") is codec.ours("loss.logvar") is None


def test_the_tiny_size_has_no_codec_to_import() -> None:
    assert [layout.name for layout in HarmonFamily({"variant": "Tiny"}).layouts()] == ["model"]


def on_meta(variant: str) -> Harmon:
    with torch.device("meta"):
        return Harmon(config_of(variant))


@pytest.mark.parametrize("variant", SIZES)
def test_names_and_shapes_are_the_published_ones(variant: str) -> None:
    assert shapes(on_meta(variant)) == published_table(variant)


@pytest.mark.parametrize(("variant", "billions"), [("0.5B", 0.703), ("1.5B", 2.490)])
def test_the_number_of_trained_parameters_is_the_published_one(variant: str, billions: float) -> None:
    module = on_meta(variant)
    count = sum(p.numel() for name, p in module.named_parameters() if name != "mar.class_emb.weight")
    assert count / 1e9 == pytest.approx(billions, abs=0.004)


def test_the_head_is_the_embedding() -> None:
    module = on_meta("0.5B")
    assert module.llm.lm_head.weight is module.llm.model.embed_tokens.weight
    assert "llm.lm_head.weight" not in dict(module.named_parameters())


def kl16_table() -> Table:
    t: Table = {}
    conv(t, "encoder.conv_in", 128, 3, 3)
    for level, (inputs, outputs) in enumerate([(128, 128), (128, 128), (128, 256), (256, 256), (256, 512)]):
        resnet(t, f"encoder.down.{level}.block.0", inputs, outputs)
        resnet(t, f"encoder.down.{level}.block.1", outputs, outputs)
        if level == 4:
            attention(t, "encoder.down.4.attn.0", 512)
            attention(t, "encoder.down.4.attn.1", 512)
        else:
            conv(t, f"encoder.down.{level}.downsample.conv", outputs, outputs, 3)
    conv(t, "decoder.conv_in", 512, 16, 3)
    for level, (inputs, outputs) in {4: (512, 512), 3: (512, 256), 2: (256, 256), 1: (256, 128), 0: (128, 128)}.items():
        resnet(t, f"decoder.up.{level}.block.0", inputs, outputs)
        resnet(t, f"decoder.up.{level}.block.1", outputs, outputs)
        resnet(t, f"decoder.up.{level}.block.2", outputs, outputs)
        if level:
            conv(t, f"decoder.up.{level}.upsample.conv", outputs, outputs, 3)
    for half in ("encoder", "decoder"):
        resnet(t, f"{half}.mid.block_1", 512, 512)
        attention(t, f"{half}.mid.attn_1", 512)
        resnet(t, f"{half}.mid.block_2", 512, 512)
    norm(t, "encoder.norm_out", 512)
    conv(t, "encoder.conv_out", 32, 512, 3)
    norm(t, "decoder.norm_out", 128)
    conv(t, "decoder.conv_out", 3, 128, 3)
    conv(t, "quant_conv", 32, 32, 1)
    conv(t, "post_quant_conv", 16, 16, 1)
    return t


def test_the_autoencoder_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        codec = Kl16()
    assert shapes(codec) == kl16_table()
    assert (codec.stride, codec.channels) == (16, 16)
