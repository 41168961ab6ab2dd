"""Made-up prompts in the form and numbers of GenEval's: 553 with six tags, none of them GenEval's own wording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unimrg_trainer.evaluation.geneval import CLASSES, COLOURS, TAGS


def records() -> list[dict[str, Any]]:
    made = {
        "single_object": lambda n: [{"class": CLASSES[n], "count": 1}],
        "two_object": lambda n: [{"class": CLASSES[(n + k * (1 + n // 80)) % 80], "count": 1} for k in (0, 1)],
        "counting": lambda n: [{"class": CLASSES[n], "count": 2 + n % 3}],
        "colors": lambda n: [{"class": CLASSES[n % 80], "count": 1, "color": COLOURS[n // 10]}],
        "position": lambda n: [
            {"class": CLASSES[n % 80], "count": 1},
            {"class": CLASSES[(n + 2) % 80], "count": 1, "position": [("left of", "above")[n // 80], 0]},
        ],
        "color_attr": lambda n: [
            {"class": CLASSES[(n + k) % 80], "count": 1, "color": COLOURS[n // 80 + k]} for k in (0, 1)
        ],
    }
    found: list[dict[str, Any]] = []
    for tag, count in TAGS.items():
        for number in range(count):
            include = made[tag](number)
            words = " and ".join(f"{clause['count']} {clause.get('color', '')} {clause['class']}" for clause in include)
            record = {"tag": tag, "include": include, "prompt": f"a photo of {words}, {tag} {number}"}
            if tag == "counting":
                record["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
            found.append(record)
    return found


def save_records(folder: Path) -> None:
    """Write the prompts where the benchmark looks for them below `folder`."""
    path = folder / "geneval" / "evaluation_metadata.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records()))
