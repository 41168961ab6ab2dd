"""Rows read encoded, as the prepare stage stored them, compute what rows read as pixels do: for every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.rows import CPU, gradients, perturbed, picture
from tests.models.showo_rows import CODES
from tests.models.showo_rows import family as showo_family
from tests.support.encoded_data import EncodedData
from tests.support.one_step import OBJECTIVES, planner_of, tiny_family
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.sizes.harmon import Kl16Config
from unimrg_api.sizes.openuni import DcAeConfig
from unimrg_api.sizes.showo import MagvitConfig
from unimrg_trainer.data.shards import CorruptDataError
from unimrg_trainer.engine.encoding import FamilyEncoder
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.step_plan import MicroStep, StepPlanner
from unimrg_trainer.models.common.encodings import Encoder
from unimrg_trainer.models.common.unique_images import UniqueImages
from unimrg_trainer.models.harmon.kl16 import Kl16
from unimrg_trainer.models.openuni.codec import DcAe
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.showo.magvit import Magvit
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.preparation.prepare import digest_of
from unimrg_trainer.sample import Sample

FAMILIES: dict[str, Callable[[], Any]] = {
    "harmon": lambda: tiny_family("harmon"),
    "openuni": lambda: tiny_family("openuni"),
    "showo": lambda: tiny_family("showo"),
    "showo-codes": lambda: showo_family(CODES),
}
ENCODED = {
    "harmon": {"dct-32.depth", "dct-32.image.padded", "dct-32.pixel", "dct-32.segmentation"},
    "openuni": {"dct-32.depth", "dct-32.pixel", "dct-32.segmentation"},
    "showo": {"blocks-32.depth", "blocks-32.pixel", "blocks-32.segmentation"},
    "showo-codes": {
        "blocks-16.image.reduced-8",
        "blocks-32.depth",
        "blocks-32.image.middle",
        "blocks-32.pixel",
        "blocks-32.segmentation",
    },
}
PIXELS_TOO = {"openuni", "showo"}
"""Those with a vision tower."""
CODEC = {"harmon": "codec", "openuni": "codec", "showo": "image_tokenizer", "showo-codes": "image_tokenizer"}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def planner(family: Any, data: EncodedData, *, encoded: bool, composition: Composition) -> StepPlanner:
    """Steps whose questions are about the same images where these are squares."""
    reader = RowReader(data.open(), 3, data.square, family.reading if encoded else None)
    return replace(planner_of(family, micro_batch_rows=4), reader=reader, composition=composition)


def micro_step(family: Any, data: EncodedData, *, encoded: bool, composition: Composition) -> MicroStep:
    step = planner(family, data, encoded=encoded, composition=composition).plan_step(0, 0, 1)
    return step.micro_steps[0]


@pytest.mark.parametrize("square", [False, True], ids=["as they are", "squares"])
@pytest.mark.parametrize("composition", [Composition.OFFICIAL, Composition.GROUPED])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients_are_the_same_to_the_bit(
    name: str, dtype: torch.dtype, composition: Composition, square: bool
) -> None:
    family = FAMILIES[name]()
    data, module = EncodedData.of(family, square=square), perturbed(family, dtype)
    found = []
    for encoded in (False, True):
        step = micro_step(family, data, encoded=encoded, composition=composition)
        sums = module(family.prepare(step.batch, CPU, dtype))
        found.append((sums, gradients(module, (sums * step.row_weights).sum()), step.batch.sources))
    (online, its_gradients, its_places), (stored, other_gradients, other_places) = found
    assert torch.equal(online, stored)
    assert its_gradients.keys() == other_gradients.keys()
    assert all(torch.equal(gradient, other_gradients[key]) for key, gradient in its_gradients.items())
    assert torch.equal(its_places, other_places)  # so packed rows share as much


def test_what_is_stored_has_these_names(name: str) -> None:
    index = EncodedData.of(FAMILIES[name]()).index()
    family = name.split("-")[0]
    expected = {f"{family}-{encoding}.npy" for encoding in ENCODED[name]}
    assert {member for member in index.samples[0].members if member.endswith(".npy")} == expected


def test_no_picture_is_read_and_no_codec_runs_where_all_is_stored(name: str) -> None:
    """Files of the pictures are destroyed, but for the images that a tower reads; the codec is nothing at all."""
    family = FAMILIES[name]()
    maps = ("depth.png", "segmentation.png")
    data = EncodedData.of(family).without(*maps, *(() if name in PIXELS_TOO else ("png",)))
    with pytest.raises(CorruptDataError):
        micro_step(family, data, encoded=False, composition=Composition.GROUPED)
    setattr(family, CODEC[name], None)
    step = micro_step(family, data, encoded=True, composition=Composition.GROUPED)
    sums = perturbed(family)(family.prepare(step.batch, CPU, torch.float64))
    assert sums.isfinite().all() and len(sums) == 4 * len(OBJECTIVES)


def test_a_batch_may_hold_stored_pictures_and_others(name: str) -> None:
    family = FAMILIES[name]()
    data, module = EncodedData.of(family), perturbed(family)
    one, other = (planner(family, data, encoded=encoded, composition=Composition.GROUPED) for encoded in (False, True))
    rows = [step.plan_step(0, 0, 1).micro_steps[0].rows for step in (one, other)]
    mixed = [pair[number % 2] for number, pair in enumerate(zip(*rows, strict=True))]

    def rng(key: str, row: int, purpose: str) -> np.random.Generator:
        return one._rng(0, key, row, purpose)

    sums = [module(family.prepare(family.collate(each, rng), CPU, torch.float64)) for each in (rows[0], mixed)]
    torch.testing.assert_close(sums[1], sums[0], rtol=1e-9, atol=0)


def test_a_picture_that_came_encoded_is_not_encoded_again() -> None:
    encoder = Encoder("toy-4", 4, (2,), np.int16)
    encoding, images = encoder.of_image("whole", lambda image, size: image), UniqueImages(encoder)
    array, other = np.array([7, 8], np.int16), np.array([1, 2], np.int16)
    stored = {key: Sample(key, None, encodings={encoding.name: array}) for key in "ab"}
    whole = picture("c", 4, 4, 3)
    samples = [stored["a"], Sample("c", whole), stored["b"], Sample("d", None, encodings={encoding.name: other})]
    assert [images.read(sample, encoding) for sample in samples] == [0, 1, 0, 2]
    asked = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        asked.append(pixels.numpy())
        return torch.tensor([[5, 6]])

    assert images.collected().encoded(encode).tolist() == [[7, 8], [5, 6], [1, 2]]
    np.testing.assert_array_equal(asked, [whole[None]])


@pytest.mark.parametrize("name", ["harmon", "openuni", "showo"])
def test_what_a_trained_codec_makes_of_an_image_does_not_depend_on_the_others(name: str) -> None:
    """With networks of the published kinds, drawn at random; several images at once differ in their last bits."""
    torch.manual_seed(1)
    family: Any = tiny_family(name)
    if name == "harmon":
        family.codec = Kl16(Kl16Config(width=32))
    elif name == "openuni":
        family.codec = DcAe(DcAeConfig(widths=(32, 32, 64, 64, 64, 64)))
    else:
        family.image_tokenizer = Magvit(MagvitConfig(width=32))
    images = torch.from_numpy(np.stack([picture(key, 64, 64, 3) for key in range(5)]))
    assert torch.equal(family.encode(images), torch.cat([family.encode(images[n : n + 1]) for n in range(5)]))


@pytest.mark.parametrize("array", [np.zeros((64, 47), np.float16), np.zeros((64, 48), np.float32)])
def test_an_array_of_another_shape_or_type_is_refused_by_name(array: np.ndarray) -> None:
    family: Any = tiny_family("harmon")
    (encoding,) = family.reading(None).encodings
    with pytest.raises(UserError, match=r"harmon-dct-32\.image\.padded of sample 'train-7' is float") as raised:
        encoding.stored(Sample("train-7", encodings={encoding.name: array}))
    assert raised.value.exit_code is ExitCode.DATA_CORRUPT


def test_a_sample_without_the_encoding_is_refused_by_name() -> None:
    family: Any = tiny_family("harmon")
    data = EncodedData.write(FamilyEncoder(family, [objective("Understanding")]))
    reader = RowReader(data.open(), None, reading=family.reading)
    assert reader(objective("Understanding"), 0).encodings.keys() == {"harmon-dct-32.image.padded"}
    with pytest.raises(CorruptDataError, match=r"train-00000000 in train-000000.tar has no harmon-dct-32\.") as raised:
        reader(objective("Depth"), 0)
    assert raised.value.exit_code is ExitCode.DATA_CORRUPT


@pytest.mark.parametrize(
    ("name", "variant", "size"),
    [("harmon", "1.5B", 32768), ("openuni", "L-512", 16384), ("showo", "CLIP-512", 2048), ("showo", "VQ-256", 512)],
)
def test_published_sizes_store_so_many_bytes_for_a_picture(name: str, variant: str, size: int) -> None:
    encodings = find_family(name, {"variant": variant}).reading(objective("Depth").map).encodings
    encoder = encodings[-1].encoder
    assert np.zeros(encoder.shape, encoder.dtype).nbytes == size


def test_the_digest_of_the_data_covers_names_geometry_and_weights(tmp_path: Path) -> None:
    family: Any = find_family("harmon", {"variant": "0.5B"})
    digests = {digest_of({})}
    for folder, content in (("one", b"weights"), ("other", b"other weights")):
        family.assets = tmp_path / folder
        family.assets.mkdir()
        (family.assets / "kl16.safetensors").write_bytes(content)
        for square in (False, True):
            for names in (("Pixel",), ("Pixel", "Depth")):
                encoder = FamilyEncoder(family, [objective(each) for each in names], square=square)
                digests.add(digest_of({}, encoder))
    assert len(digests) == 9
    moved = tmp_path / "moved"
    family.assets.rename(moved)
    family.assets = moved
    assert digest_of({}, encoder) in digests  # where the file lies changes nothing


def test_the_digest_of_the_data_covers_packages_that_draw_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of another version may draw its map differently: nothing that it drew before is read again."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "toys")
    encoder = FamilyEncoder(tiny_family("harmon"), [objective("Depth"), objective("brightness")])
    assert encoder.identity()["packages"] == ["unimrg-toys 1.0"]
    assert FamilyEncoder(tiny_family("harmon"), [objective("Depth")]).identity()["packages"] == []


def test_a_sample_that_lacks_a_map_is_refused_when_it_is_encoded() -> None:
    encoder = FamilyEncoder(tiny_family("harmon"), [objective("Depth")])
    with pytest.raises(UserError, match="sample 'x' has no map 'depth'"):
        encoder.encode([Sample("x", picture("x"))])


def test_a_model_with_nothing_to_encode_is_refused() -> None:
    with pytest.raises(JobError, match=r"spec\.data\.imageEncoding.*nothing that openuni reads for Understanding"):
        FamilyEncoder(tiny_family("openuni"), [objective("Understanding")])


def test_equal_pictures_are_encoded_once_when_data_is_prepared() -> None:
    """Of a square image the padded and the stretched one are equal, and so are those of a copy."""
    family: Any = tiny_family("harmon")
    counted: list[int] = []
    encode = family.encode

    def count(images: torch.Tensor) -> torch.Tensor:
        counted.append(len(images))
        result: torch.Tensor = encode(images)
        return result

    family.encode = count
    sample = Sample("x", picture("x", 32, 32, 3))
    first, second = FamilyEncoder(family, [objective(each) for each in ("Understanding", "Pixel")]).encode([sample] * 2)
    assert counted == [1] and len(first) == 2
    assert all((array == second["harmon-dct-32.pixel.npy"]).all() for array in first.values())
