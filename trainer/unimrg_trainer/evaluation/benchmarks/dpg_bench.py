"""DPG-Bench: images from 1065 long prompts, and a model's answers to questions about what they should show.

A score has the name of the model that answered, for another one's answers are another metric: `dpg_blip`. A job that
names no judge gets the images alone (docs/method/evaluation.md).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.evaluation import dpg
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
from unimrg_trainer.evaluation.judges.base import Answerer, open_judge
from unimrg_trainer.evaluation.result import in_metric

FILE = "dpg_bench/dpg_bench.csv"
ORIGIN = "dpg_bench/dpg_bench.csv of ELLA's repository, TencentQQGYLab/ELLA on GitHub"


class DpgBench:
    """Settings as in `spec.stages.evaluate.benchmarks`: images per prompt, limit, the judge's weights, and whether the
    reference's defects are wanted."""

    name = "dpgBench"
    max_new_tokens = 1

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._images = int(settings["imagesPerPrompt"])
        self._limit: int | None = settings.get("limit")
        self._reference = bool(settings.get("referenceCompat", False))
        self._settings, self._place = settings, place
        self.device = "cpu"

    def check_files(self) -> None:
        """Raise UserError for a table that is missing or not DPG-Bench's, and for a judge that is none."""
        _ = self._read
        open_judge("judge", self._settings, self._place, self.device)

    def items(self, subject: Subject) -> Items:
        """One item for each image of each prompt, prompt by prompt."""
        self.device = subject.device
        names = list(self._graphs)
        return image_items(self._asked, self._images, lambda number, image: self._item(number, image, names[number]))

    def of_folder(self, folder: Path) -> Iterator[tuple[Item, Path]]:
        """Yield the images ITEM_NUMBER.png of a folder; other files are passed over."""
        numbers = {name: number for number, name in enumerate(self._graphs)}
        found = [
            (numbers[name], int(image), path)
            for path in folder.glob("*.png")
            for name, _, image in [path.stem.rpartition("_")]
            if name in numbers and image.isdecimal()
        ]
        for number, image, path in sorted(found):
            yield self._item(number, image, path.stem.rpartition("_")[0]), path

    def reduce(self, item: Item, image: np.ndarray, subject: Subject, files: FileSink) -> dict[str, Any]:
        """Write the image as ITEM_NUMBER.png, and return the answers about it."""
        path = f"{item.attributes['name']}_{item.attributes['image']}.png"
        files.write(path, encode_png(image))
        return {"file": path} | self.judge(item, image)

    def judge(self, item: Item, image: np.ndarray) -> dict[str, Any]:
        """Return the answers about an image by number of the question, where there is a judge."""
        if self._judge is None:
            return {}
        questions = self._graphs[item.attributes["name"]].questions
        answers = self._judge.answers(image, [question.text for question in questions.values()])
        return {"answers": {str(number): answer for number, answer in zip(questions, answers, strict=True)}}

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Percentages: the score, `SCORE/CATEGORY` of both levels, `unparsed_rate`, answers that are no yes or no."""
        made = [(str(item.attributes["name"]), result) for item, result in results]
        if self._judge is None:
            rows = [["all", str(len(made)), "not scored"]]
            warning = f"{len(made)} images were written and not scored: dpgBench.judge names no weights"
            return self._result({"images": float(len(made))}, ("images",), rows, warnings=(warning,))
        answers: dict[str, list[dict[int, bool]]] = defaultdict(list)
        words: list[str] = []
        for name, result in made:
            replies = {int(number): answer.strip().lower() for number, answer in result["answers"].items()}
            answers[name].append({number: answer == "yes" for number, answer in replies.items()})
            words += replies.values()
        score_them = partial(dpg.score_as_the_reference, seed=seed) if self._reference else dpg.score
        scores = score_them(self._graphs, answers)
        metric = f"dpg_{self._judge.name}" + ("_reference" if self._reference else "")
        categories = {f"{metric}/{in_metric(name)}": value for name, value in scores.categories.items()}
        unparsed = 100 * sum(word not in ("yes", "no") for word in words) / max(1, len(words))
        metrics = {"images": float(len(made)), metric: scores.overall, "unparsed_rate": unparsed, **categories}
        rows = [["all", str(len(made)), f"{scores.overall:.1f}"]]
        rows += [[name, "", f"{value:.1f}"] for name, value in scores.categories.items()]
        firsts = {name: result["file"] for name, result in reversed(made)}
        return self._result(
            metrics,
            (metric,),
            rows,
            items=tuple(
                ItemScore(name, name, "", {metric: share}, self._graphs[name].prompt[:500], "", firsts[name])
                for name, share in scores.prompts.items()
            ),
            warnings=tuple(self._warnings(made, scores)),
            files={"answers.jsonl": "".join(json.dumps({"item": n, **r}) + "\n" for n, r in made).encode()},
        )

    def _result(
        self, metrics: dict[str, float], headline: tuple[str, ...], rows: list[list[str]], **further: Any
    ) -> BenchmarkResult:
        table = Table("DPG-Bench, %", ["category", "images", "score"], rows)
        return BenchmarkResult(metrics, headline, table, provenance=self._provenance(), **further)

    @cached_property
    def _read(self) -> tuple[dict[str, dpg.Graph], str]:
        return parsed(self._place, FILE, ORIGIN, partial(_read_complete, reference=self._reference))

    @property
    def _graphs(self) -> dict[str, dpg.Graph]:
        return self._read[0]

    @cached_property
    def _asked(self) -> list[int]:
        return chosen(len(self._graphs), self._images, self._limit)

    @cached_property
    def _judge(self) -> Answerer | None:
        found: Answerer | None = open_judge("judge", self._settings, self._place, self.device)
        return found

    def _item(self, number: int, image: int, name: str) -> Item:
        return image_item(number, image, self._graphs[name].prompt, name=name)

    def _provenance(self) -> dict[str, str]:
        prompts = [graph.prompt for graph in self._graphs.values()]
        return {
            "rule_set": "dpg-reference" if self._reference else "dpg-corrected-1",
            "data_md5": self._read[1],
            "prompt_sha256": digest_of_prompts([prompts[number] for number in self._asked]),
            "images_per_prompt": str(self._images),
            **(self._judge.identity() if self._judge is not None else {}),
        }

    def _warnings(self, made: Sequence[tuple[str, Result]], scores: dpg.Scores) -> Iterable[str]:
        assert self._judge is not None
        yield f"answered by {self._judge.name}: published scores of DPG-Bench are those of mPLUG-large's answers"
        missing = len(self._asked) * self._images - len(made)
        if missing:
            yield f"{missing} images are missing"
        if scores.dropped:
            yield f"{len(scores.dropped)} prompts were dropped, as by the reference, e.g. {scores.dropped[0]}"
        unknown = sum(self._graphs[name].unknown_parents() for name in scores.prompts)
        if unknown:
            yield f"{unknown} dependencies name questions that do not exist, and count for nothing"


def _read_complete(content: bytes, *, reference: bool) -> dict[str, dpg.Graph]:
    """Return the graphs of a table. Raises ValueError unless it has all prompts of the benchmark."""
    graphs = dpg.read_graphs(content)
    if len(graphs) != dpg.PROMPTS:
        raise ValueError(f"it has {len(graphs)} prompts, not {dpg.PROMPTS}")
    return dpg.read_graphs(content, reference=True) if reference else graphs
