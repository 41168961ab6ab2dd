"""Judges with tiny random models against independent ways to the same numbers, and how they are found and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_judges import save_blip, save_clip, save_mask2former
from tests.support.tiny_producers import bilinear, picture
from unimrg_api.errors import UserError
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace
from unimrg_trainer.evaluation.geneval import CLASSES, COLOURS
from unimrg_trainer.evaluation.judges.base import Found, open_judge
from unimrg_trainer.evaluation.judges.clip import cut_out
from unimrg_trainer.evaluation.judges.mask2former import instances, model_input, shown_shape
from unimrg_trainer.files import file_sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("judges")
    save_mask2former(base / "mask2former")
    save_clip(base / "clip")
    save_blip(base / "blip")
    return base


def opened(setting: str, name: str, base: Path) -> Any:
    place = BenchmarkPlace("spec.stages.evaluate.benchmarks[0].toy", base, cache=base / "cache")
    return open_judge(setting, {setting: f"file://{name}"}, place, "cpu")


def test_masks_become_objects_as_in_mmdetection() -> None:
    random = np.random.default_rng(1)
    classes, queries, padded, shown, original = 7, 20, (32, 64), (24, 40), (12, 20)
    class_logits = random.normal(size=(queries, classes + 1)).astype(np.float32)
    mask_logits = random.normal(size=(queries, 8, 16)).astype(np.float32) + 0.5
    mask_logits[3] = -9  # an empty mask

    expected = []
    powers = np.exp(class_logits - class_logits.max(axis=1, keepdims=True))
    shares = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
    for flat in np.argsort(-shares.ravel(), kind="stable")[:100]:
        query, label = divmod(int(flat), classes)
        logits = bilinear(bilinear(mask_logits[query], *padded)[: shown[0], : shown[1]], *original)
        inside = [(row, column) for row in range(12) for column in range(20) if logits[row, column] > 0]
        if not inside:
            expected.append((label, (0, 0, 0, 0), 0.0))
            continue
        rows, columns = zip(*inside, strict=True)
        certainty = sum(1 / (1 + np.exp(-logits[pixel])) for pixel in inside) / len(inside)
        corners = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        expected.append((label, corners, shares[query, label] * certainty))
    assert len(expected) == 100 < queries * classes

    found = instances(torch.tensor(class_logits), torch.tensor(mask_logits), padded, shown, original)
    in_order = sorted(found, key=lambda one: (one[0], one[1].box))
    for (label, one), wanted in zip(in_order, sorted(expected, key=lambda e: (e[0], (*e[1], e[2]))), strict=True):
        assert (label, one.box[:4]) == wanted[:2] and one.box[4] == pytest.approx(wanted[2], abs=1e-5)
        assert one.mask is not None and one.mask.shape == original


@pytest.mark.parametrize(
    ("image", "shown", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((100, 400), (333, 1333), (352, 1344)),
        ((90, 60), (1200, 800), (1216, 800)),
    ],
)
def test_the_detector_sees_an_image_at_its_training_size(
    image: tuple[int, int], shown: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert shown_shape(*image) == shown
    pixels = model_input(np.full((*image, 3), 255, np.uint8), shown)
    assert pixels.shape[-2:] == padded
    white = [(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    assert pixels[0, :, : shown[0], : shown[1]].amin(dim=(1, 2)).tolist() == pytest.approx(white)
    assert not pixels[0, :, shown[0] :].any() and not pixels[0, :, :, shown[1] :].any()


def test_the_detector_sees_an_image_scaled_bilinearly() -> None:
    image = picture(12, 15)
    expected = np.stack([bilinear(image[..., channel], 20, 25) for channel in range(3)])
    mean, deviation = (
        np.array(values)[:, None, None] for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    found = model_input(image, (20, 25))[0, :, :20, :25].numpy() * deviation + mean
    assert np.abs(found - expected).max() < 1.01  # it is rounded to whole numbers


def test_the_detector_names_what_it_finds(folder: Path) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    image = picture(40, 60)
    detector = opened("detector", "mask2former", folder)
    found = detector.detect(image)
    assert set(found) <= set(CLASSES) and sum(map(len, found.values())) == 100
    assert all(one.mask.shape == (40, 60) for objects in found.values() for one in objects)
    assert any(one.mask.any() and not one.mask.all() for objects in found.values() for one in objects)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "mask2former")
    with torch.inference_mode():
        output = model(pixel_values=model_input(image, (800, 1200)))
    shares = output.class_queries_logits[0].softmax(dim=-1)[:, :-1]
    best = int(shares.max(dim=0).values.argmax())
    assert max((one.box[4] for one in found[CLASSES[best]]), default=0) <= float(shares.max())
    assert detector.identity() == {
        "detector": "hf-meta",
        "detector_sha256": file_sha256(folder / "mask2former" / "model.safetensors"),
        "detector_parity": "L1 shown; L2, L3 not shown",
    }


def test_converted_weights_say_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "mask2former", tmp_path / "converted")
    path = tmp_path / "converted" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"converted_from": "mmdet 2.25"}))
    assert opened("detector", "converted", tmp_path).identity()["detector"] == "hf-converted"


def test_a_colour_is_the_nearest_description_of_what_the_mask_shows(folder: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = [picture(40, 60, seed) for seed in range(6)]
    mask = np.zeros((40, 60), bool)
    mask[5:35, 10:30] = True
    mask[5:10, 10:15] = False
    one = Found((10, 5, 30, 35, 0.9), mask)
    model = CLIPModel.from_pretrained(folder / "clip").eval()
    tokenizer = Tokenizer.from_file(str(folder / "clip" / "tokenizer.json"))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    def unit(values: np.ndarray) -> np.ndarray:
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    def text(words: str) -> np.ndarray:
        with torch.inference_mode():
            return model.get_text_features(torch.tensor([tokenizer.encode(words).ids])).pooler_output.numpy()[0]

    def described(colour: str) -> np.ndarray:
        texts = [f"a photo of a {colour} cup", f"a photo of a {colour}-colored cup", f"a photo of a {colour} object"]
        return unit(unit(np.stack([text(words) for words in texts])).mean(axis=0))

    directions = np.stack([described(colour) for colour in COLOURS])
    expected = []
    for image in images:
        grey = image.copy()
        grey[~mask] = 0x99
        np.testing.assert_array_equal(cut_out(image, one), grey[5:35, 10:30])
        pixels = processor(grey[5:35, 10:30], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            seen = unit(model.get_image_features(pixels).pooler_output.numpy()[0])
        expected.append(COLOURS[int((directions @ seen).argmax())])
    judge = opened("colours", "clip", folder)
    assert [judge.colours(image, [one], "cup") for image in images] == [[colour] for colour in expected]
    assert len(set(expected)) > 1 and judge.colours(images[0], [], "cup") == []
    assert judge.identity()["colours"] == "clip"


def test_answers_are_those_of_one_question_at_a_time(folder: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import BlipForQuestionAnswering
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    image = picture(50, 40)
    questions = ["is it a cat?", "is it a dog?", "what?", "is the cup on the table?", "where?"]
    model = BlipForQuestionAnswering.from_pretrained(folder / "blip").eval()
    tokenizer = Tokenizer.from_file(str(folder / "blip" / "tokenizer.json"))
    pixels = BlipImageProcessorPil(size={"height": 32, "width": 32})(image, return_tensors="pt")["pixel_values"]
    expected = []
    for question in questions:
        tokens = torch.tensor([tokenizer.encode(question).ids])
        written = model.generate(
            tokens, pixels, torch.ones_like(tokens), max_new_tokens=10, num_beams=1, do_sample=False
        )
        expected.append(tokenizer.decode(written[0].tolist(), skip_special_tokens=False))
    answers = opened("judge", "blip", folder).answers(image, questions)
    for answer, written in zip(answers, expected, strict=True):
        letters = [token for token in written.split() if token not in ("[S]", "[E]", "[P]")]
        assert answer.split() == letters
    assert len(set(answers)) > 1


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"toy.detector: there is no config.json") as caught:
        opened("detector", "nothing", tmp_path)
    assert caught.value.exit_code == 66 and "docs/method/evaluation.md" in str(caught.value.remedy)


def test_a_model_that_plays_another_role_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="'blip', none that finds objects"):
        opened("detector", "blip", folder)
    with pytest.raises(UserError, match="none that tells colours"):
        opened("colours", "mask2former", folder)


def test_a_model_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text('{"model_type": "detr"}')
    with pytest.raises(UserError, match="there is no 'detr' among mask2former, clip, blip"):
        opened("detector", "toy", tmp_path)


def test_a_detector_of_other_classes_is_refused(tmp_path: Path) -> None:
    save_mask2former(tmp_path / "few", labels=3)
    with pytest.raises(UserError, match="knows 3 classes, not COCO's 80"):
        opened("detector", "few", tmp_path).detect(picture(20, 20))


def test_a_package_may_bring_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "toys"))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text('{"model_type": "toy-vqa"}')
    judge = opened("judge", "toy", tmp_path)
    assert judge.answers(picture(4, 4), ["is it?", "what is it?"]) == ["yes", "no"]
