"""Preparing data: once per content, all or nothing, every bad input named before anything is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.dictionary_store import DictionaryStore
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import SourceSpec
from unimrg_trainer import scenes
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.prepare import Prepared, prepare
from unimrg_trainer.storage import LocalStore

PHOTOGRAPHS = Path(__file__).parents[2] / "examples" / "photographs"


def source(train: int = 4, seed: int = 1, size: int = 32, photographs: str | None = None) -> list[SourceSpec]:
    wanted: list[Any] = [{"scenes": {"train": train, "heldOut": 2, "imageSize": size, "seed": seed}}]
    if photographs is not None:
        wanted.append({"images": {"uri": photographs}})
    return [SourceSpec.model_validate(item) for item in wanted]


def run(
    store: DictionaryStore | LocalStore,
    wanted: list[SourceSpec] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    base: Path = Path("/"),
    stale_after: float = 0.2,
) -> Prepared:
    return prepare(wanted or source(), base, store, progress, stale_after=stale_after, poll_interval=0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(PHOTOGRAPHS, tmp_path / "photographs")
    return tmp_path / "photographs"


def test_scenes_and_photographs_become_splits(dictionary_store: DictionaryStore, folder: Path) -> None:
    wanted = source(photographs="file://photographs")
    prepared = run(dictionary_store, wanted, base=folder.parent)
    assert not prepared.reused
    sizes = {
        split: (len(data.images), len(data.questions))
        for split in ("train", "heldOut", "preview")
        for data in [Dataset.open(dictionary_store, split, prepared.digest)]
    }
    assert sizes == {"train": (4, 16), "heldOut": (2, 8), "preview": (3, 0)}
    assert all(key.startswith(prepared.digest[:16] + "/") for key in dictionary_store.objects)


def test_the_marker_is_written_last(dictionary_store: DictionaryStore) -> None:
    prepared = run(dictionary_store)
    assert dictionary_store.writes[-1] == f"{prepared.digest[:16]}/PUBLISHED"
    assert not [key for key in dictionary_store.objects if "CLAIM" in key]


def test_preparing_twice_reuses_what_is_there(dictionary_store: DictionaryStore) -> None:
    first = run(dictionary_store)
    written = list(dictionary_store.writes)
    second = run(dictionary_store)
    assert second == Prepared(first.digest, first.prefix, reused=True)
    assert dictionary_store.writes == written


def test_the_same_source_gives_the_same_bytes_anywhere(folder: Path) -> None:
    contents = []
    for _ in range(2):
        store = DictionaryStore()
        prepared = run(store, source(photographs="file://photographs"), base=folder.parent)
        contents.append(
            {
                key.removeprefix(prepared.prefix): value
                for key, value in store.objects.items()
                if key.startswith(prepared.prefix)
            }
        )
    assert contents[0] == contents[1]


def test_whatever_changes_the_content_changes_the_digest(folder: Path) -> None:
    def digest(wanted: list[SourceSpec]) -> str:
        return run(DictionaryStore(), wanted, base=folder.parent).digest

    with_photographs = source(photographs="file://photographs")
    digests = [digest(source()), digest(source(train=5)), digest(source(seed=2)), digest(source(size=33))]
    digests.append(digest(with_photographs))
    (folder / "cat.jpg").rename(folder / "dog.jpg")
    digests.append(digest(with_photographs))
    shutil.copy(folder / "dog.jpg", folder / "rocket.jpg")
    digests.append(digest(with_photographs))
    assert len(set(digests)) == len(digests)
    moved = folder.rename(folder.parent / "elsewhere")
    assert digest(source(photographs=moved.as_uri())) == digests[-1]


def test_held_out_scenes_are_never_trained_on(dictionary_store: DictionaryStore) -> None:
    digest = run(dictionary_store, source(train=40)).digest
    train = Dataset.open(dictionary_store, "train", digest)
    held_out = Dataset.open(dictionary_store, "heldOut", digest)
    seen = {train.image_sample(index).image.tobytes() for index in train.images}
    assert len(seen) == 40
    assert not seen & {held_out.image_sample(index).image.tobytes() for index in held_out.images}


def test_progress_counts_every_sample(dictionary_store: DictionaryStore, folder: Path) -> None:
    told: list[tuple[int, int]] = []
    run(
        dictionary_store,
        source(photographs="file://photographs"),
        lambda done, total: told.append((done, total)),
        folder.parent,
    )
    assert told == [(done, 9) for done in range(10)]


def test_an_interrupted_preparation_leaves_nothing_and_the_next_one_works(
    dictionary_store: DictionaryStore,
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:  # the training split is written by then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dictionary_store, progress=interrupt)
    assert dictionary_store.writes
    assert dictionary_store.objects == {}
    assert not run(dictionary_store).reused


@pytest.mark.timeout(60)  # waiting for the heartbeat to go stale would take an hour
def test_a_killed_preparation_publishes_nothing_and_the_next_one_takes_over_at_once(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from tests.data.test_prepare import source
from unimrg_trainer.data.prepare import prepare
from unimrg_trainer.storage import LocalStore
def progress(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(source(), Path("/"), LocalStore(Path({str(tmp_path)!r})), progress)
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert killed.returncode == -9
    store = LocalStore(tmp_path)
    left = [key for key, _ in store.list()]
    assert any("CLAIM-0" in key for key in left) and any(key.endswith(".tar") for key in left)
    with pytest.raises(UserError, match="no finished data set"):
        Dataset.open(store, "train")
    prepared = prepare(source(), Path("/"), store, lambda done, total: None, stale_after=3600)
    assert not prepared.reused
    assert len(Dataset.open(store, "train").images) == 4
    kept = [key for key, _ in store.list()]
    assert all(key.startswith(prepared.prefix + "/") or key.endswith("/PUBLISHED") for key in kept)


def test_a_claim_whose_heart_stops_is_taken_over(dictionary_store: DictionaryStore) -> None:
    digest = run(DictionaryStore()).digest
    claim = b'{"writer": "x", "host": "another machine", "process": 1, "beat": 7}'
    dictionary_store.objects[f"{digest[:16]}/CLAIM-3"] = claim
    assert not run(dictionary_store).reused
    assert f"{digest[:16]}/CLAIM-4" in dictionary_store.writes


def test_of_two_jobs_at_once_one_writes_and_the_other_waits_for_it(dictionary_store: DictionaryStore) -> None:
    patience = 1.0
    half_done, go_on, results = threading.Event(), threading.Event(), dict[str, Prepared]()

    def pause(done: int, total: int) -> None:
        if done == 3:
            half_done.set()
            assert go_on.wait(20)

    def job(name: str, progress: Callable[[int, int], None]) -> threading.Thread:
        def work() -> None:
            results[name] = run(dictionary_store, progress=progress, stale_after=patience)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    first = job("first", pause)
    assert half_done.wait(20)
    second = job("second", lambda done, total: None)
    second.join(1.5 * patience)  # only the heartbeat of the first keeps its claim for so long
    assert second.is_alive()
    go_on.set()
    first.join(20)
    second.join(20)
    assert (results["first"].reused, results["second"].reused) == (False, True)
    assert results["first"].prefix == results["second"].prefix


def test_the_slower_of_two_writers_takes_what_the_faster_one_published(
    dictionary_store: DictionaryStore,
) -> None:
    fast = list[Prepared]()

    def overtake(done: int, total: int) -> None:
        if done == total and not fast:
            claims = [key for key in dictionary_store.objects if "CLAIM" in key]
            dictionary_store.delete(claims[0])  # as if it had been judged dead
            fast.append(run(dictionary_store))

    slow = run(dictionary_store, progress=overtake)
    assert slow == Prepared(fast[0].digest, fast[0].prefix, reused=True)
    assert {key.split("/")[1] for key in dictionary_store.objects} == {
        "PUBLISHED",
        slow.prefix.split("/")[1],
    }


def test_a_published_shard_that_lost_bytes_is_found_before_training(
    dictionary_store: DictionaryStore,
) -> None:
    run(dictionary_store)
    key = next(key for key in dictionary_store.objects if key.endswith("heldOut-000000.tar"))
    dictionary_store.objects[key] = dictionary_store.objects[key][:-1]
    with pytest.raises(UserError, match=r"heldOut-000000\.tar has \d+ instead of \d+ bytes") as caught:
        run(dictionary_store)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no photograph"),
        (lambda folder: folder.write_text("x"), "is not a folder"),
    ],
)
def test_a_missing_or_empty_folder_is_refused_with_its_field_and_a_way_out(
    dictionary_store: DictionaryStore, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "mine")
    with pytest.raises(JobError, match=message) as caught:
        run(dictionary_store, source(photographs="file://mine"), base=tmp_path)
    problem = caught.value.problems[0]
    assert problem.path == "spec.data.sources"
    assert problem.value == "'file://mine'"
    assert str(tmp_path / "mine") in problem.message
    assert problem.remedy
    assert caught.value.exit_code is ExitCode.INPUT_MISSING
    assert dictionary_store.objects == {}


def test_a_folder_of_photographs_that_cannot_be_read_is_named(
    dictionary_store: DictionaryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(JobError, match=r"the folder .* cannot be read: Permission denied"):
        run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)


def test_all_unreadable_photographs_are_named_and_nothing_is_written(
    dictionary_store: DictionaryStore, folder: Path
) -> None:
    cut = folder / "cut.jpg"
    cut.write_bytes((folder / "cat.jpg").read_bytes()[:4000])
    text = folder / "text.png"
    text.write_text("not a picture")
    with pytest.raises(JobError) as caught:
        run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)
    assert [problem.value for problem in caught.value.problems] == [repr(str(cut)), repr(str(text))]
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert [key for key in dictionary_store.objects if "CLAIM" not in key] == []
    cut.unlink()
    text.unlink()
    assert not run(dictionary_store, source(photographs="file://photographs"), base=folder.parent).reused


def test_photographs_are_kept_byte_for_byte_and_in_order(dictionary_store: DictionaryStore, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "zebra.PNG"), pixels[:, :, ::-1])
    (folder / "misnamed.jpeg").write_bytes((folder / "zebra.PNG").read_bytes())
    (folder / ".hidden.png").write_text("no picture, and not looked at")
    (folder / "notes.txt").write_text("neither")
    prepared = run(dictionary_store, source(photographs="file://photographs"), base=folder.parent)
    tar = next(value for key, value in dictionary_store.objects.items() if key.endswith("preview-000000.tar"))
    for name in ("cat.jpg", "coffee.jpg", "misnamed.jpeg", "rocket.jpg", "zebra.PNG"):
        assert (folder / name).read_bytes() in tar
    data = Dataset.open(dictionary_store, "preview", prepared.digest)
    assert len(data.images) == 5
    first = data.image_sample(0)
    expected = np.asarray(Image.open(folder / "cat.jpg"))
    assert first.image.shape == expected.shape
    assert np.abs(first.image.astype(int) - expected).max() <= 3  # two decoders of the same JPEG
    for number in (2, 4):
        np.testing.assert_array_equal(data.image_sample(number).image, pixels)


def test_the_job_refuses_sizes_at_which_scenes_cannot_be_told_apart() -> None:
    assert source(size=scenes.MINIMUM_SIZE)
    with pytest.raises(ValueError, match="greater than or equal to 32"):
        source(size=scenes.MINIMUM_SIZE - 1)


def test_a_photograph_that_changes_meanwhile_is_not_taken_in(dictionary_store: DictionaryStore, folder: Path) -> None:
    def swap(done: int, total: int) -> None:
        if done == 1:
            shutil.copy(folder / "cat.jpg", folder / "coffee.jpg")

    with pytest.raises(UserError, match=r"coffee\.jpg changed") as caught:
        run(dictionary_store, source(photographs="file://photographs"), swap, folder.parent)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert dictionary_store.objects == {}
