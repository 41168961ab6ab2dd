"""OpenUni's parts against implementations that are not ours: transformers and diffusers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import DPMSolverMultistepScheduler, SanaTransformer2DModel
from transformers import SiglipVisionConfig
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from unimrg_api.sizes.openuni import ConnectorConfig, DcAeConfig, SanaConfig, VisionConfig
from unimrg_trainer.models.openuni.codec import DcAe
from unimrg_trainer.models.openuni.connector import Connector
from unimrg_trainer.models.openuni.flow import flow_sigmas, sample
from unimrg_trainer.models.openuni.sana import build_sana, velocity
from unimrg_trainer.models.openuni.vision import VisionTower, draw_weights


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module.eval()


def test_our_float64_sana_is_the_one_of_diffusers() -> None:
    config = SanaConfig(layers=2, heads=3, head_width=8, cross_heads=2, cross_head_width=12, caption_width=20)
    ours = shaken(build_sana(config, (6, 4, 4)))
    theirs = SanaTransformer2DModel(
        in_channels=6,
        out_channels=6,
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=20,
        sample_size=4,
    )
    theirs.load_state_dict(ours.state_dict())
    x, conditions, times = torch.randn(3, 6, 4, 4), torch.randn(3, 5, 20), torch.tensor([3.0, 500.0, 1000.0])
    with torch.no_grad():
        expected = theirs.eval()(x, encoder_hidden_states=conditions, timestep=times, return_dict=False)[0]
        single = velocity(ours, x, times, conditions)
        double = velocity(ours.double(), x.double(), times, conditions.double())
    torch.testing.assert_close(single, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-5)
    assert double.dtype == torch.float64


def test_linear_attention_stays_in_float32_under_autocast() -> None:
    config = SanaConfig(layers=1, heads=2, head_width=8, cross_heads=2, cross_head_width=8, caption_width=8)
    sana = shaken(build_sana(config, (4, 4, 4)))
    attention = sana.get_submodule("transformer_blocks.0.attn1")
    seen: list[torch.Tensor] = []
    attention.get_submodule("to_out.0").register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 500, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attention(x)
        parts = (attention.get_submodule(f"to_{name}") for name in "qkv")
        query, key, value = (part(x).float().reshape(1, 500, 2, 8) for part in parts)
    weights = torch.einsum("bnhk,bmhk->bhnm", query.relu(), key.relu())
    expected = torch.einsum("bhnm,bmhv->bnhv", weights / (weights.sum(-1, keepdim=True) + 1e-15), value).flatten(2)
    torch.testing.assert_close(seen[0].float(), expected, rtol=1e-5, atol=1e-5)


def test_the_connector_is_siglips_encoder() -> None:
    ours = shaken(Connector(24, ConnectorConfig(layers=2, heads=3, feed_forward=40)).double())
    theirs = SiglipEncoder(
        SiglipVisionConfig(
            hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, layer_norm_eps=1e-6
        )
    )
    theirs.config._attn_implementation = "sdpa"
    theirs.double().load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x).last_hidden_state, rtol=1e-10, atol=1e-10)


def test_the_vision_transformer_is_internvls() -> None:
    """Against the one in transformers, whose weights have other names and separate queries, keys and values."""
    config = VisionConfig(size=12, patch=3, width=16, layers=2, heads=2, feed_forward=24)
    tower = shaken(VisionTower(config, 10).double())
    theirs = InternVLVisionModel(
        InternVLVisionConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=[12, 12],
            patch_size=[3, 3],
            attention_bias=True,
            use_mean_pooling=True,
            norm_type="layer_norm",
            layer_norm_eps=1e-6,
        )
    ).double()
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tower.get_submodule("vision_model").state_dict().items():
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.{part}_proj")] = piece
            continue
        renamed[name] = tensor
    pairs = {
        "embeddings.class_embedding": "embeddings.cls_token",
        "embeddings.position_embedding": "embeddings.position_embeddings",
        "patch_embedding.": "patch_embeddings.projection.",
        "encoder.layers.": "encoder.layer.",
        "attn.proj.": "attention.projection_layer.",
        "norm1.": "layernorm_before.",
        "norm2.": "layernorm_after.",
        "ls1": "lambda_1",
        "ls2": "lambda_2",
    }
    for old, new in pairs.items():
        renamed = {name.replace(old, new): tensor for name, tensor in renamed.items()}
    theirs.load_state_dict(renamed)
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.eval()(pixels).last_hidden_state
        torch.testing.assert_close(tower.get_submodule("vision_model")(pixels), expected, rtol=1e-9, atol=1e-9)


def test_four_neighbours_become_one_token_row_by_row() -> None:
    config = VisionConfig(size=8, patch=2, width=3, layers=0, heads=1, feed_forward=4, seed=1)
    tower = VisionTower(config, 5).double()
    draw_weights(tower, 1)
    seen: list[torch.Tensor] = []
    tower.mlp1[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    pixels = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    tower(pixels)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    patches = tower.vision_model(((pixels + 1) / 2 - mean) / deviation)[0, 1:].reshape(4, 4, 3)
    expected = [
        torch.cat([patches[2 * i + di, 2 * j + dj] for di in (0, 1) for dj in (0, 1)]) for i in (0, 1) for j in (0, 1)
    ]
    torch.testing.assert_close(seen[0][0], torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_a_drawn_tower_depends_on_its_seed_alone() -> None:
    config = VisionConfig(size=8, patch=2, width=4, layers=1, heads=1, feed_forward=4)
    towers = []
    for global_seed, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(global_seed)
        towers.append(VisionTower(config, 6))
        draw_weights(towers[-1], seed)
    same, different = (
        all(torch.equal(a, b) for a, b in zip(towers[i].parameters(), towers[i + 1].parameters(), strict=True))
        for i in (0, 1)
    )
    assert same and not different


def test_the_autoencoder_scales_its_latents() -> None:
    config = DcAeConfig(
        widths=(8, 16), encoder_layers=(1, 1), decoder_layers=(1, 1), attention_levels=1, head_width=4, channels=4
    )
    codec = DcAe(config)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (2, 4, 4, 4) and config.stride == 2
    torch.testing.assert_close(latents, codec.model.get_submodule("encoder")(pixels) * 0.41407)
    torch.testing.assert_close(codec.decode(latents), codec.model.get_submodule("decoder")(latents / 0.41407))


def test_the_solver_is_the_published_scheduler() -> None:
    """Against diffusers' scheduler in the published configuration, with few steps and with many."""
    matrix = torch.randn(6, 6, dtype=torch.float64) / 3
    noise = torch.randn(2, 6, dtype=torch.float64)
    for steps in (1, 2, 5, 20):
        scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        scheduler.set_timesteps(steps)
        times: list[int] = []

        def predict(x: torch.Tensor, t: int, times: list[int] = times) -> torch.Tensor:
            times.append(t)
            return torch.tanh(x @ matrix) * (0.5 + t / 1000)

        found = sample(predict, noise, flow_sigmas(steps, 3.0, 1000), 1000, lambda done, total: None)
        assert times == scheduler.timesteps.tolist()
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x @ matrix) * (0.5 + int(t) / 1000), t, x, return_dict=False)[0]
        torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_the_solver_is_exact_where_the_flow_is_straight() -> None:
    """A velocity that always points from noise to one image leads to that image in any number of steps."""
    noise, image = torch.randn(2, 1, 3, 3, 3, dtype=torch.float64)
    for steps in (1, 4):
        sigmas = flow_sigmas(steps, 3.0, 1000)
        left = iter(sigmas)

        def predict(x: torch.Tensor, _t: int, left: Iterator[float] = left) -> torch.Tensor:
            velocity: torch.Tensor = (x - image) / next(left)
            return velocity

        made = sample(predict, noise, sigmas, 1000, lambda done, total: None)
        torch.testing.assert_close(made, image, rtol=1e-9, atol=1e-9)
