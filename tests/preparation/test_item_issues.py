"""What cannot be used is left out, counted and named, or refused as a whole: it never ends the stage unexplained."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.dictionary_store import DictionaryStore
from tests.support.own_data import conversation, grey, issues, manifests, picture, questions, run, tar_of
from tests.support.s3_stores import Place
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.dataset import Dataset


def test_a_record_with_odd_bytes_ends_nothing(dictionary_store: DictionaryStore, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = [json.dumps({"image": f"{n}.png", "conversations": conversation("Q?", "A.")}).encode() for n in range(3)]
    lines += [json.dumps({"id": "text", "conversations": conversation("Q?", "\ud800")}).encode()]
    for number in range(3):
        (tmp_path / f"images/{number}.png").write_bytes(picture(number))
    lines[1], lines[2] = lines[1].replace(b"A.", b"A\tB"), lines[2].replace(b"A.", b"caf\xe9")
    (tmp_path / "recörds 1.jsonl").write_bytes(b"\n".join(lines))
    source = {"annotations": "file://recörds 1.jsonl", "images": "file://images", "heldOut": 1}
    digest = run(dictionary_store, tmp_path, {"llava": source})
    assert {answer for _, _, answer, _ in questions(dictionary_store, digest)} == {"A.", "A\tB"}
    ((count, left_out, names),) = issues(dictionary_store, digest).values()
    assert (count, left_out, set(names)) == (2, 1, {"2.png", "text"})


def test_keys_that_nobody_can_ask_for_are_left_out(
    s3_place: Place, dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_place.storage.endpoint))
    store = s3_place.store("issues")
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    for number, name in enumerate(["a\x7fb.jpg", "fine.jpg", "good.jpg"]):
        store.client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=picture(number))
    digest = run(dictionary_store, tmp_path, {"folder": {"uri": store.uri, "heldOut": 1}})
    assert issues(dictionary_store, digest) == {
        "its key is none that every client can ask for": (1, 1, ["a\\x7fb.jpg"])
    }


ITEMS = {
    "cmyk.jpg": (picture(40, "JPEG", "CMYK"), "CMYK", False),
    "palette.png": (picture(50, mode="P"), "colours of a palette", False),
    "alpha.png": (picture(60, mode="RGBA"), "transparency is ignored", False),
    "deep.png": (picture(70, mode="I;16"), "more than 8 bits, read as 8", False),
    "turned.jpg": (None, "its EXIF tag asks for a rotation, which is ignored", False),
    "animated.png": (picture(80, "GIF"), "GIF, stored as PNG", False),
    "again.png": (picture(30), "the image is that of an earlier sample", False),
    "once more.png": (picture(30), "the image is that of an earlier sample", False),
    "cut.png": (picture(90)[:-30], "it is damaged, or cut off", True),
    "bomb.png": (None, "it has more than 89 million pixels", True),
    "text.jpg": (b"no image", "it is no image, or damaged at its beginning", True),
    "latin.png": (picture(31), "its caption is not UTF-8", True),
    "strange.png": (picture(32), "its JSON is not as documented", True),
    "gone.depth.png": (grey(2), "it is a map without an image", True),
    "nested.png": (picture(33), "its JSON is not as documented", True),
    "further.png": (picture(35), "its JSON is not as documented", True),
    "empty.png": (picture(36), "its map cannot be decoded", True),
    "huge.png": (picture(37), "its map cannot be decoded", True),
    "sized.png": (picture(39), "a map has another size than its image", False),
    "void.jpg": (b"", "it is no image, or damaged at its beginning", True),
}


def bomb() -> bytes:
    """A small PNG that says it has 10¹⁰ pixels."""
    content = bytearray(picture(1))
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_odd_files_are_counted_with_their_names_and_end_nothing(
    dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    made = {"turned.jpg": picture(45, "JPEG", exif=tags), "bomb.png": bomb()}
    folder = tmp_path / "own"
    folder.mkdir()
    for name, (content, _, _) in ITEMS.items():
        (folder / name).write_bytes(made[name] if content is None else content)
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "strange.json").write_text('{"questions": [{"question": 1}]}')
    (folder / "nested.json").write_text("[" * 100_000)
    (folder / "further.json").write_text('{"questions": [{"question": "a", "answer": "b", "further": [1]}]}')
    Image.new("L", (3, 4)).save(folder / "sized.depth.png")
    (folder / "empty.depth.png").write_bytes(b"")
    (folder / "huge.depth.png").write_bytes(bomb())
    for shade in range(30, 40, 2):
        (folder / f"fine-{shade}.png").write_bytes(picture(shade))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(picture(41))
    (folder / "fine-30.depth.png").write_bytes(grey(1))
    source = {"folder": {"uri": "file://own", "heldOut": 1}}
    digest = run(dictionary_store, tmp_path, source)
    found = issues(dictionary_store, digest)
    duplicate = found.pop("the image is that of an earlier sample")
    train = Dataset.open(dictionary_store, "train", digest)
    copies = sum((train.image_sample(number).image == (30, 0, 0)).all() for number in train.images)
    assert copies >= 2 and duplicate[:2] == (copies - 1, 0)  # one may be held out
    equal = {"again.png", "once more.png", "fine-30.png"}
    pairs = [set(name.removesuffix(")").split(" (as ")) for name in duplicate[2]]
    assert all(len(pair) == 2 and pair <= equal for pair in pairs)
    expected = dict[str, tuple[int, int, set[str]]]()
    for name, (_, reason, left_out) in ITEMS.items():
        count, _, names = expected.get(reason, (0, 0, set()))
        expected[reason] = (count + 1, int(left_out) * (count + 1), {*names, name})
    del expected["the image is that of an earlier sample"]
    assert {reason: (count, left_out, set(names)) for reason, (count, left_out, names) in found.items()} == expected
    samples = sum(manifest.samples for manifest in manifests(dictionary_store, digest).values())
    assert samples == len(ITEMS) + 6 - sum(left_out for _, _, left_out in ITEMS.values())
    with pytest.raises(UserError, match=r"\d+ of 26 items cannot be used.*maxBadFraction \(0\.2\)") as caught:
        run(DictionaryStore(), tmp_path, source, bad="0.2")
    with pytest.raises(UserError, match=r"\d+ of 26 items cannot be used.*maxBadFraction \(0\.2\)"):
        run(dictionary_store, tmp_path, source, bad="0.2")  # though it is published, by a job that allows more
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT


def test_equal_images_in_both_splits_are_named_with_their_equals(
    dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    shades = {"a.png": 10, "b.png": 10, "c.png": 10, "d.png": 99}
    for name, shade in shades.items():
        (tmp_path / "own" / name).write_bytes(picture(shade))
    digest = run(dictionary_store, tmp_path, {"folder": {"uri": "file://own", "heldOut": 2}})
    train, held_out = (shades_of(dictionary_store, split, digest) for split in ("train", "heldOut"))
    found = issues(dictionary_store, digest)
    count, left_out, names = found["the image is held out, too"]
    assert (count, left_out) == (train.count(10), 0) and held_out.count(10)
    assert len(names) == count and all(
        shades[one] == shades[other] == 10 and one != other
        for name in names
        for one, other in [name.removesuffix(")").split(" (as ")]
    )


def shades_of(store: DictionaryStore, split: str, digest: str) -> list[int]:
    data = Dataset.open(store, split, digest)
    samples = (data.image_sample(number) for number in data.images)
    return [int(sample.image[0, 0, 0]) for sample in samples if sample.image is not None]


def _flipped(tar: bytes, at: int) -> bytes:
    return tar[:at] + bytes([tar[at] ^ 1]) + tar[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tar: _flipped(tar, 2048), "byte 2048"),
        (lambda tar: tar[:2048], "byte 2048"),
        (lambda tar: tar[:2048] + bytes(512) + tar[2560:], "byte 2048"),
        (lambda tar: tar[:3000], "is no whole tar"),
    ],
    ids=["a bit of the third header", "cut before it", "zeros in its place", "cut within its file"],
)
def test_a_damaged_tar_never_loses_what_follows_in_silence(
    spoil: Callable[[bytes], bytes], message: str, dictionary_store: DictionaryStore, tmp_path: Path
) -> None:
    whole = tar_of({f"{n}.png": picture(n) for n in range(4)})  # each has a header and a block
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/0.tar").write_bytes(spoil(whole))
    with pytest.raises(JobError, match=message) as caught:
        run(dictionary_store, tmp_path, {"webDataset": {"uri": "file://tars", "heldOut": 1}})
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
