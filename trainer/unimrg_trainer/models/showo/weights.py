"""The published files of Show-o: the model, its image tokenizer, CLIP's tower (docs/method/showo.md)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from unimrg_api.sizes.showo import MagvitConfig, ShowOConfig
from unimrg_trainer.models.showo.codes import MAGVIT
from unimrg_trainer.models.showo.magvit import Magvit
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.vision import CLIP, build_tower
from unimrg_trainer.models.weights import Layout

PUBLISHED = {
    "VQ-256": "showlab/show-o",
    "VQ-512": "showlab/show-o-512x512",
    "CLIP-256": "showlab/show-o-w-clip-vit",
    "CLIP-512": "showlab/show-o-w-clip-vit-512x512",
}
"""Variant → its repository of published weights."""

TOWER_PREFIX = "vision_model."
TOWER_POSITIONS = TOWER_PREFIX + "embeddings.position_ids"
"""A constant that older files hold."""


def layouts(config: ShowOConfig) -> Sequence[Layout]:
    """The files of one variant."""
    found = [Layout("model", PUBLISHED.get(config.variant, config.variant), partial(ShowO, config))]
    if isinstance(config.codes, MagvitConfig):
        found.append(Layout("magvitv2", "showlab/magvitv2", partial(Magvit, config.codes), asset=MAGVIT))
    if config.clip and config.clip.pretrained:
        tower = partial(build_tower, config.clip)
        repository = "openai/clip-vit-large-patch14-336"
        found.append(Layout("clip", repository, tower, ours=_tower_name, theirs=TOWER_PREFIX.__add__, asset=CLIP))
    return found


def _tower_name(published: str) -> str | None:
    """Of CLIP only the tensors of the vision tower are used."""
    if not published.startswith(TOWER_PREFIX) or published == TOWER_POSITIONS:
        return None
    return published.removeprefix(TOWER_PREFIX)
