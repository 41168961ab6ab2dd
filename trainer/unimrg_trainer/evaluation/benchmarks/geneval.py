"""GenEval: images from 553 short prompts, and whether a detector finds in them what the prompts name.

Images are written as GenEval's own scripts expect them, and so are the decisions, so that both can be read by these. A
job that names no detector gets the images alone, one without a judge of colours no score of prompts that name a colour
(docs/method/evaluation.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.evaluation import geneval
from unimrg_trainer.evaluation.benchmarks.base import (
    BenchmarkPlace,
    BenchmarkResult,
    FileSink,
    Item,
    Items,
    ItemScore,
    Result,
    Subject,
    Table,
)
from unimrg_trainer.evaluation.benchmarks.prompted import chosen, digest_of_prompts, image_item, image_items, parsed
from unimrg_trainer.evaluation.judges.base import ColourJudge, Detector, Found, open_judge

FILE = "geneval/evaluation_metadata.jsonl"
ORIGIN = "prompts/evaluation_metadata.jsonl of GenEval's repository, djghosh13/geneval on GitHub"
RULE_SET = "geneval-1"


class GenEval:
    """Settings as in `spec.stages.evaluate.benchmarks`: images per prompt, limit, and the judges' weights."""

    name = "genEval"
    max_new_tokens = 1

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._images = int(settings["imagesPerPrompt"])
        self._limit: int | None = settings.get("limit")
        self._settings, self._place = settings, place
        self.device = "cpu"

    def check_files(self) -> None:
        """Raise UserError for prompts that are missing or not GenEval's, and for judges that are none."""
        _ = self._read
        for setting in ("detector", "colours"):
            open_judge(setting, self._settings, self._place, self.device)

    def items(self, subject: Subject) -> Items:
        """One item for each image of each prompt, prompt by prompt."""
        self.device = subject.device
        return image_items(self._asked, self._images, lambda number, image: _item(number, image, self._read[0][number]))

    def of_folder(self, folder: Path) -> Iterator[tuple[Item, Path]]:
        """Yield the images of a folder in GenEval's layout; folders and files that are no numbers are passed over."""
        for place in sorted((one for one in folder.iterdir() if one.name.isdecimal()), key=lambda one: int(one.name)):
            path = place / "metadata.jsonl"
            try:
                record = geneval.read_record(path.read_bytes())
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} is no record of GenEval: {error}",
                    remedy="put the prompt's line of evaluation_metadata.jsonl there, or take the folder away",
                    exit_code=ExitCode.DATA_CORRUPT,
                ) from error
            images = [one for one in place.glob("samples/*.png") if one.stem.isdecimal()]
            for image in sorted(images, key=lambda one: int(one.stem)):
                yield _item(int(place.name), int(image.stem), record), image

    def reduce(self, item: Item, image: np.ndarray, subject: Subject, files: FileSink) -> dict[str, Any]:
        """Write the image where GenEval looks for it, and return the decision about it with all that led to it."""
        number, path = item.attributes["prompt"], f"{item.key.replace('/', '/samples/')}.png"
        files.write(path, encode_png(image))
        if item.attributes["image"] == 0:
            files.write(f"{number:05d}/metadata.jsonl", json.dumps(item.attributes["record"]).encode())
        return {"file": path} | self.judge(item, image)

    def judge(self, item: Item, image: np.ndarray) -> dict[str, Any]:
        """Return the size of an image and, where there is a detector, the decision about it."""
        made: dict[str, Any] = {"size": "×".join(map(str, image.shape[1::-1]))}
        if self._detector is None:
            return made
        found = {name: list(objects) for name, objects in self._detector.detect(image).items()}
        return made | judged(item.attributes["record"], image, found, self._colours)

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Percentages: `overall`, one of each tag, `correct_images`, `correct_prompts`; see `geneval.scores`."""
        made = [(item, item.attributes["record"], result) for item, result in results]
        decided = [(item, record, result) for item, record, result in made if result.get("correct") is not None]
        scores = geneval.scores(geneval.Judged(_prompt(item), one["tag"], r["correct"]) for item, one, r in decided)
        counts = {tag: sum(record["tag"] == tag for _, record, _ in made) for tag in geneval.TAGS}
        metrics = {"images": float(len(made)), **scores}
        rows = [
            [tag, str(counts.get(tag, len(made))), f"{scores[tag]:.1f}" if tag in scores else "not scored"]
            for tag in ("overall", *(tag for tag, count in counts.items() if count))
        ]
        headline = ("overall",) if "overall" in scores else ("images", *scores)[:4]
        return BenchmarkResult(
            metrics,
            headline,
            Table("GenEval, % of images", ["tag", "images", "correct"], rows),
            items=tuple(_items(decided, complete="overall" in scores)),
            means_of_categories=("overall",) if "overall" in scores else (),
            provenance=self._provenance(made),
            warnings=tuple(self._warnings(made, decided, counts)),
            files={"results.jsonl": _as_geneval_writes(decided)} if decided else {},
        )

    @cached_property
    def _read(self) -> tuple[list[dict[str, Any]], str]:
        return parsed(self._place, FILE, ORIGIN, geneval.read_records)

    @cached_property
    def _asked(self) -> list[int]:
        return chosen(len(self._read[0]), self._images, self._limit)

    @cached_property
    def _detector(self) -> Detector | None:
        found: Detector | None = open_judge("detector", self._settings, self._place, self.device)
        return found

    @cached_property
    def _colours(self) -> ColourJudge | None:
        found: ColourJudge | None = open_judge("colours", self._settings, self._place, self.device)
        return found

    def _provenance(self, made: Sequence[tuple[Item, Mapping[str, Any], Result]]) -> dict[str, str]:
        prompts = {item.attributes["prompt"]: record["prompt"] for item, record, _ in made}
        images = Counter(item.attributes["prompt"] for item, _, _ in made)
        found = {
            "rule_set": RULE_SET,
            "prompt_sha256": digest_of_prompts([prompts[number] for number in sorted(prompts)]),
            "images_per_prompt": _different(images.values()),
            "image_size": _different(result["size"] for _, _, result in made),
        }
        if self._place.files is not None:
            found["data_md5"] = self._read[1]
        for judge in (self._detector, self._colours):
            found |= judge.identity() if judge is not None else {}
        return found

    def _warnings(self, made: Sequence[Any], decided: Sequence[Any], counts: Mapping[str, int]) -> Iterable[str]:
        left_out = len(made) - len(decided)
        if self._detector is None:
            yield f"{left_out} images were written and not scored: genEval.detector names no weights"
            return
        if left_out:
            yield f"{left_out} images of prompts about colours were not scored: genEval.colours names no weights"
        prompts, all_prompts = len({_prompt(item) for item, _, _ in made}), sum(geneval.TAGS.values())
        if self._limit is None and prompts != all_prompts:
            yield f"there are images of {prompts} prompts, not of {all_prompts}"
        if absent := [tag for tag, count in counts.items() if not count]:
            yield f"so few prompts were asked that none has the tag {', '.join(absent)}"
        empty = sum(not result["objects"] for _, _, result in decided)
        if 2 * empty > len(decided):
            yield (
                f"the detector found nothing in {empty} of {len(decided)} images: try it on photographs of COCO's "
                "things before you believe these scores"
            )


def judged(
    record: Mapping[str, Any], image: np.ndarray, found: Mapping[str, Sequence[Found]], judge: ColourJudge | None
) -> dict[str, Any]:
    """Return the decision about an image by what a detector found in it: `correct` (None where the record demands a
    colour and there is no judge), `reason`, `objects` (class → boxes that count) and `colours` as far as asked for."""
    counting = {
        name: [objects[index] for index in geneval.kept([one.box[4] for one in objects], record["tag"])]
        for name, objects in found.items()
    }
    boxes = {name: [one.box for one in counting[name]] for name in geneval.CLASSES if counting.get(name)}
    colours: dict[str, list[str]] = {}

    def colours_of(name: str, count: int) -> list[str]:
        assert judge is not None
        colours[name] = judge.colours(image, counting[name][:count], name)
        return colours[name]

    result: dict[str, Any] = {"correct": None, "reason": "", "objects": boxes, "colours": colours}
    if judge is not None or not geneval.needs_colours(record):
        decision = geneval.decide(record, boxes, colours_of)
        result |= {"correct": decision.correct, "reason": decision.reason}
    return result


def _item(number: int, image: int, record: Mapping[str, Any]) -> Item:
    return image_item(number, image, record["prompt"], record=record)


def _different(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _prompt(item: Item) -> str:
    return item.key.split("/")[0]


def _items(decided: Iterable[tuple[Item, Mapping[str, Any], Result]], *, complete: bool) -> Iterable[ItemScore]:
    """Yield what each image contributed. A prompt's share of `correct_prompts` is on the first of its images."""
    images = list(decided)
    right = {_prompt(item) for item, _, result in images if result["correct"]}
    seen: set[str] = set()
    for item, record, result in images:
        prompt, correct = _prompt(item), float(result["correct"])
        scores = {record["tag"]: correct}
        if complete:
            scores |= {"overall": correct, "correct_images": correct}
            scores |= {} if prompt in seen else {"correct_prompts": float(prompt in right)}
        seen.add(prompt)
        reason = result["reason"] or "correct"
        yield ItemScore(
            item.key, prompt, record["tag"], scores, record["prompt"], "", result["file"], extracted=reason[:500]
        )


def _as_geneval_writes(decided: Iterable[tuple[Item, Mapping[str, Any], Result]]) -> bytes:
    """Return the lines of GenEval's results.jsonl, of which its summary_scores.py makes its tables."""
    lines = [
        {
            "filename": result["file"],
            "tag": record["tag"],
            "prompt": record["prompt"],
            "correct": result["correct"],
            "reason": result["reason"],
            "metadata": json.dumps(record),
            "details": json.dumps(result["objects"]),
        }
        for _, record, result in decided
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
