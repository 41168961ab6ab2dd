"""Files of OpenUni: published weights and where they go, and what the frozen parts are read from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from unimrg_api.sizes.openuni import DcAeConfig, OpenUniConfig
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.qwen2 import build_language_model
from unimrg_trainer.models.openuni.codec import DC_AE, build_autoencoder
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.models.openuni.sana import build_sana
from unimrg_trainer.models.openuni.vision import VisionTower
from unimrg_trainer.models.weights import Layout

TOKENIZER = Asset(
    "internvl3-tokenizer.json",
    "InternVL3's tokenizer",
    "put the tokenizer.json of OpenGVLab/InternVL3-1B-hf there under this name; all sizes have the same",
)

PUBLISHED = {
    "B-512": ("InternVL3-1B", "Sana_600M_512px_diffusers", "openuni_b_internvl3_1b_sana_0_6b_512_hf_text2image23m.pth"),
    "L-512": (
        "InternVL3-2B",
        "Sana_1600M_512px_diffusers",
        "openuni_l_internvl3_2b_sana_1_6b_512_hf_text2image23m.pth",
    ),
}
"""Variant → language model with vision tower, diffusion transformer, and OpenUni's own file."""

LANGUAGE = "language_model."
FROZEN = ("lmm.vision_model.", "lmm.mlp1.", "vae.")
"""Frozen parts that OpenUni's own files may hold."""


def vision_asset(variant: str) -> Asset:
    """Return the file of a variant's vision tower: its last layers are as wide as the language model."""
    name = PUBLISHED[variant][0]
    return Asset(
        f"{name.lower()}-vision.safetensors",
        f"the vision tower of {name}",
        f"fetch OpenGVLab/{name} and write it with `unimrg ckpt import openuni/{variant} FOLDER --file vision`",
    )


def assets(config: OpenUniConfig) -> list[Asset]:
    """Return the files that a configuration needs besides the trained weights."""
    return [
        *([vision_asset(config.variant)] if config.vision.seed is None else []),
        *([DC_AE] if isinstance(config.codec, DcAeConfig) else []),
        *([TOKENIZER] if config.tokenizer == "internvl3" else []),
    ]


def layouts(config: OpenUniConfig) -> Sequence[Layout]:
    """Return the published files of a configuration; those of the small variant are OpenUni's own alone.

    OpenUni's own files may hold a part of the trained weights; the others are InternVL3's and SANA's.
    """
    internvl3, sana, own = PUBLISHED.get(config.variant, ("", "", "none: nothing is published in this size"))
    found = [Layout("model", own, lambda: OpenUni(config), ours=lambda name: None if name.startswith(FROZEN) else name)]
    if config.variant in PUBLISHED:
        found += [
            Layout(
                "language",
                internvl3,
                lambda: _below("lmm.language_model", build_language_model(config.language)),
                ours=lambda name: f"lmm.{name}" if name.startswith(LANGUAGE) else None,
                theirs=lambda name: name.removeprefix("lmm."),
            ),
            Layout(
                "sana",
                f"{sana}/transformer",
                lambda: _below("transformer", build_sana(config.sana, config.latent_shape)),
                ours=lambda name: f"transformer.{name}",
                theirs=lambda name: name.removeprefix("transformer."),
            ),
            Layout(
                "vision",
                internvl3,
                lambda: VisionTower(config.vision, config.language.width),
                ours=lambda name: None if name.startswith(LANGUAGE) else name,
                asset=vision_asset(config.variant),
            ),
        ]
    if isinstance(config.codec, DcAeConfig):
        codec = config.codec
        found.append(Layout("dc-ae", "dc-ae-f32c32-sana-1.1-diffusers", lambda: build_autoencoder(codec), asset=DC_AE))
    return found


def _below(path: str, module: nn.Module) -> nn.Module:
    """Return a module that holds `module` at a dotted path."""
    for name in reversed(path.split(".")):
        module = nn.ModuleDict({name: module})
    return module
