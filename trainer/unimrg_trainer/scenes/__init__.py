"""Generated scenes with exact depth, segmentation, captions and spatial questions (no files, no models)."""

from unimrg_trainer.scenes.language import KINDS, QUESTIONS_PER_SCENE, Question
from unimrg_trainer.scenes.scene import MINIMUM_SIZE, SCHEMA, Scene, generate
from unimrg_trainer.scenes.world import COLOURS, SHAPES

__all__ = [
    "COLOURS",
    "KINDS",
    "MINIMUM_SIZE",
    "QUESTIONS_PER_SCENE",
    "SCHEMA",
    "SHAPES",
    "Question",
    "Scene",
    "generate",
]
