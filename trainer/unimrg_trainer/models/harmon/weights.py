"""The published files of Harmon's weights, and the names of their tensors (docs/method/harmon.md#parameter-names)."""

from __future__ import annotations

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.models.harmon.codec import KL16
from unimrg_trainer.models.harmon.kl16 import Kl16
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.weights import Layout

PUBLISHED = {
    "0.5B": "harmon_0.5b.pth, or the folder Harmon-0_5B",
    "1.5B": "harmon_1.5b.pth or harmon_1.5b-o.pth, or the folder Harmon-1_5B",
}
HEAD, EMBEDDING = "llm.lm_head.weight", "llm.model.embed_tokens.weight"


def layouts(config: HarmonConfig) -> list[Layout]:
    """Return the layout of the model, and of KL-16 where that is its codec."""
    model = Layout(
        name="model",
        published=PUBLISHED.get(config.variant, f"harmon_{config.variant.lower()}.pth"),
        build=lambda: Harmon(config),
        ours=_name_in_model,
        copies=((HEAD, EMBEDDING),),
    )
    codec = Layout(name="kl16", published="kl16.ckpt", build=Kl16, ours=_name_in_codec, container="model", asset=KL16)
    return [model, codec] if config.codec == "kl16" else [model]


def _name_in_model(name: str) -> str | None:
    """Folders may hold the codec too, which is a file of its own; the head is the embedding."""
    return None if name.startswith("vae.") or name == HEAD else name


def _name_in_codec(name: str) -> str | None:
    """What only the codec's own training needed is left out."""
    return None if name.startswith("loss.") else name
