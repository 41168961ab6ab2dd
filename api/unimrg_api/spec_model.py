"""The part of a job that says which model is trained: the families with their settings, and the methods' recipes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from unimrg_api.fields import Fraction, PositiveRate, Rate, Share, Spec, Uri
from unimrg_api.unions import CustomSpec, OneOf

Method = Literal["SFT", "RecA", "UniMRG"]
ObjectiveName = Literal["Understanding", "Pixel", "Depth", "Segmentation"]

ANSWERING: ObjectiveName = "Understanding"
"""The objective that answers questions; all others generate an image."""
COPYING: ObjectiveName = "Pixel"
"""The objective that generates the image that it reads."""

RECIPES: dict[Method, dict[ObjectiveName, str]] = {
    "SFT": {"Understanding": "1"},
    # Where understanding and generation share parameters, RecA keeps the understanding loss.
    "RecA": {"Understanding": "1", "Pixel": "1"},
    "UniMRG": {"Understanding": "1", "Pixel": "1", "Depth": "1", "Segmentation": "1"},
}
"""Objectives and weights of each method, where the family has no recipe of its own."""


class FamilySpec(Spec):
    """Base of a family's settings: what the shared code reads of each."""

    licence: ClassVar[str]
    """What a user of the published weights must know, in one line."""
    recipes: ClassVar[dict[Method, dict[ObjectiveName, str]]] = {}
    """Objectives and weights of the methods that this family does otherwise than RECIPES."""
    parts: ClassVar[tuple[str, ...]]
    """What `training.parts` can name."""
    parts_of_answers: ClassVar[tuple[str, ...]] = ()
    """Those that only questions train."""
    parts_of_maps: ClassVar[tuple[str, ...]] = ()
    """Those that only maps to generate train."""
    missing_parts: ClassVar[dict[str, str]] = {}
    """Parts that some sizes do not have, and how the names of these sizes begin."""

    variant: str
    """Size."""

    def trained_parts(self, *, answers: bool, maps: bool) -> list[str]:
        """Return the parts that are trained by questions, by maps, or by both."""
        left_out = {*(() if answers else self.parts_of_answers), *(() if maps else self.parts_of_maps)}
        left_out |= {part for part, sizes in self.missing_parts.items() if self.variant.startswith(sizes)}
        return [part for part in self.parts if part not in left_out]

    def training_settings(self) -> dict[str, Any]:
        """Return what makes two jobs the same training, decimal strings by value: all but how images are generated."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"sampling"})


class HarmonSamplingSpec(Spec):
    """How images are generated. No part of what is trained."""

    steps: Annotated[int, Field(ge=1, le=1024)] = 32
    """Autoregressive steps in which an image's tokens are filled in, when it is generated from an image."""
    text_steps: Annotated[int, Field(ge=1, le=1024)] = 64
    """The same when it is generated from text alone."""
    diffusion_steps: Annotated[int, Field(ge=1, le=1000)] = 100
    """Denoising steps for each token."""
    guidance: Rate = "3.0"
    """Scale of classifier-free guidance, as a decimal string. "1" is none."""
    guidance_schedule: Literal["Constant", "Linear"] = "Constant"
    """`Linear`: from no guidance to that scale, with the share of tokens that are filled in."""


class HarmonMaskRateSpec(Spec):
    """The share of an image's tokens that are masked in training and learnt, while the others are shown: normal,
    truncated to [`minimum`, 1], drawn for each cohort. The defaults are the published ones."""

    mean: Share = "1.0"
    """Mean before truncation, as a decimal string."""
    deviation: PositiveRate = "0.25"
    """Standard deviation before truncation, as a decimal string."""
    minimum: Fraction = "0.7"
    """Least share, as a decimal string. The fewer rounds `sampling.steps` has, the nearer to 1 it may be: images that
    are generated in one round never see a token of their own."""

    def values(self) -> dict[str, float]:
        """Return the numbers."""
        return {name: float(text) for name, text in self.model_dump(by_alias=True).items()}


class HarmonSpec(FamilySpec):
    """Harmon: one language model, and a masked autoregressive encoder and decoder of continuous image tokens."""

    licence: ClassVar[str] = (
        "Harmon's published weights: NTU S-Lab License 1.0, non-commercial use only (docs/families.md)"
    )
    parts: ClassVar[tuple[str, ...]] = ("LanguageModel", "Encoder", "Projectors", "Decoder", "DiffusionHead")
    parts_of_maps: ClassVar[tuple[str, ...]] = ("Decoder", "DiffusionHead")

    variant: Literal["Tiny", "0.5B", "1.5B"]
    """Size. `Tiny` has the published architecture with small numbers and trains on a laptop."""
    dropout: Fraction = "0.1"
    """Share of activations that dropout zeroes in the masked autoregressive encoder and decoder.
    The published value is "0.1"; "0" makes losses independent of how the batch is split."""
    mask_rate: HarmonMaskRateSpec = HarmonMaskRateSpec.model_construct()
    """How much of an image is masked in training."""
    sampling: HarmonSamplingSpec = HarmonSamplingSpec.model_construct()
    """How images are generated."""

    def training_settings(self) -> dict[str, Any]:
        """Return the same, with the values of dropout and mask rate."""
        return {**super().training_settings(), "dropout": float(self.dropout), "maskRate": self.mask_rate.values()}


class ShowOSamplingSpec(Spec):
    """How images are generated. No part of what is trained."""

    steps: Annotated[int, Field(ge=1, le=1024)] = 50
    """Rounds in which an image's codes are filled in."""
    guidance: Rate = "5"
    """Scale of classifier-free guidance, as a decimal string: scores are (1 + guidance) · with − guidance · without
    the prompt. "0" is none."""
    temperature: Rate = "1"
    """Noise in the order in which codes are kept, as a decimal string."""


class ShowOSpec(FamilySpec):
    """Show-o: one language model that predicts text and the masked codes of images."""

    licence: ClassVar[str] = (
        "Show-o's published weights: Apache-2.0, from Phi-1.5 (MIT); CLIP's tower is MIT (docs/families.md)"
    )
    parts: ClassVar[tuple[str, ...]] = ("LanguageModel", "Projector")
    missing_parts: ClassVar[dict[str, str]] = {"Projector": "VQ"}

    variant: Literal["Tiny", "VQ-256", "VQ-512", "CLIP-256", "CLIP-512"]
    """Size of generated images, and what images are understood through: their codes (`VQ`) or CLIP's vision tower.
    `Tiny` has the published architecture with CLIP and small numbers, and trains on a laptop."""
    sampling: ShowOSamplingSpec = ShowOSamplingSpec.model_construct()
    """How images are generated."""


class OpenUniSamplingSpec(Spec):
    """How images are generated. No part of what is trained."""

    steps: Annotated[int, Field(ge=1, le=999)] = 20
    """Steps of the solver."""
    guidance: Rate = "4.5"
    """Scale of classifier-free guidance, as a decimal string. "1" is none."""


class OpenUniSpec(FamilySpec):
    """OpenUni: InternVL3's language model, whose states at learned queries condition the diffusion transformer SANA."""

    licence: ClassVar[str] = (
        "OpenUni's published weights: NTU S-Lab License 1.0, non-commercial use only (docs/families.md)"
    )
    parts: ClassVar[tuple[str, ...]] = ("LanguageModel", "Queries", "Connector", "DiffusionTransformer")
    parts_of_answers: ClassVar[tuple[str, ...]] = ("LanguageModel",)
    parts_of_maps: ClassVar[tuple[str, ...]] = ("Queries", "Connector", "DiffusionTransformer")

    recipes: ClassVar[dict[Method, dict[ObjectiveName, str]]] = {"RecA": {"Pixel": "1"}}
    """Its understanding shares no parameter with generation that RecA trains: the language model stays as it is."""

    variant: Literal["Tiny", "B-512", "L-512"]
    """Size; `L-512` is OpenUni-3.6B. `Tiny` has the published architecture with small numbers, and a vision tower
    without training."""
    sampling: OpenUniSamplingSpec = OpenUniSamplingSpec.model_construct()
    """How images are generated."""


class ModelSpec(OneOf):
    """The model that is trained: first weights, and exactly one family with its settings."""

    members = ("harmon", "openuni", "showo", "custom")

    init: Uri | None = None
    """First weights: a .safetensors file, or a folder of them. Absent: drawn from `training.seed`."""
    assets: Uri | None = None
    """Folder of the files that published sizes need besides their weights: tokenizers, frozen encoders, as `unimrg ckpt
    import` writes them. Absent: the family's folder in the cache."""
    harmon: HarmonSpec | None = None
    """The family Harmon."""
    openuni: OpenUniSpec | None = None
    """The family OpenUni."""
    showo: ShowOSpec | None = None
    """The family Show-o."""
    custom: CustomSpec | None = None
    """A family of an installed package, from the entry-point group `unimrg.families`. Its setting `sampling`, if it
    has one, says how it generates and is no part of what is trained."""

    def family(self) -> tuple[str, dict[str, Any]]:
        """Return the name of the family and its settings as JSON."""
        return self.selected()

    @property
    def built_in(self) -> FamilySpec | None:
        """The settings of a built-in family; None for one of an installed package."""
        return next((spec for name in self.members if isinstance(spec := getattr(self, name), FamilySpec)), None)

    @property
    def parts(self) -> tuple[str, ...] | None:
        """What `training.parts` can name; None where only an installed package knows."""
        return None if self.built_in is None else self.built_in.parts

    def recipe(self, method: Method) -> dict[ObjectiveName, str]:
        """Return the objectives and weights of a method for the chosen family."""
        own = self.built_in.recipes if self.built_in is not None else {}
        return own.get(method, RECIPES[method])

    def training_settings(self) -> dict[str, Any]:
        """Return what of the family's settings makes two jobs the same training, decimal strings by value."""
        name, settings = self.family()
        kept = {key: value for key, value in settings.items() if key != "sampling"}
        return {"family": name, "settings": kept if self.built_in is None else self.built_in.training_settings()}

    @property
    def published(self) -> FamilySpec | None:
        """The settings of a built-in family at a size that is published, and so needs files; None for any other."""
        return None if self.built_in is None or self.built_in.variant == "Tiny" else self.built_in
