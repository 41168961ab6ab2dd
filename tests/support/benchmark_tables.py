"""Made-up tables of questions for benchmarks, and replies such as models give, both from a seed."""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

LETTERS = "ABCDEF"
TEXTS = [
    "red",
    "a cat",
    "left",
    "12",
    "2",
    "The car is blue.",
    "Yes",
    "No",
    "a",
    "b",
    "an",
    "naïve",
    "眼镜",
    "ÎLE",
    "ſ",
    "İ",
]
FRAGMENTS = [
    *LETTERS, *(letter.lower() for letter in LETTERS), "Z", "(B)", "**D**", "[C]", "A.", "B:", "#C#", "{A}", "C,",
    "answer", "is", "the answer is", "The correct answer is", "ANSWER IS", "yes", "no", "Yes.", "No,", "not", "no-one",
    "1,2", ".", "..", "?", "!", "-", "_", "yes/no", "\n", "\t", "  ", "nan", "None", "cannot", "maybe", "…", "é", "是",
    "I can't process this file.", "Cannot determine the answer", "I'm sorry, but without the image provided",
    "Sorry, I can't help with images of people yet.", "Failed to obtain answer via API", "\u3000", "\x1f",
]  # fmt: skip


def reply(random: random.Random, options: Mapping[str, str]) -> str:
    """Return what a model might reply, sensible or not."""
    if options and random.random() < 0.4:
        letter, text = random.choice(list(options.items()))
        return random.choice(["{0}", "{0}.", "({0})", "{0}. {1}", "{1}", "The answer is {0}", "It is {1}."]).format(
            letter, text
        )
    parts = random.choices([*FRAGMENTS, *options.values(), *TEXTS], k=random.choice([0, 1, 1, 2, 3, 5, 8, 40]))
    return random.choice([" ", "", " "]).join(parts)


def options(random: random.Random) -> dict[str, str]:
    """Return two to six options, some of them with letters left out between."""
    letters = sorted(random.sample(LETTERS, random.randint(2, 6)))
    return {letter: random.choice(TEXTS) for letter in letters}


def image(seed: int) -> str:
    """Return a small picture of one colour, a PNG in base64; no two seeds below 2²⁴ give the same."""
    picture = Image.new("RGB", (8, 8), (seed >> 16 & 255, seed >> 8 & 255, seed & 255))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def noise(seed: int, side: int = 64) -> str:
    """Return a square picture of noise, which takes about 4 bytes of base64 for each pixel."""
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a TSV as VLMEvalKit's are."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def mmbench_rows(random: random.Random, questions: int, *, complete: bool = True) -> list[dict[str, str]]:
    """Return questions with every rotation of their options; unless complete, some rotations are missing."""
    rows = []
    for question in range(questions):
        texts = random.sample(TEXTS[:7], random.randint(2, 4))
        right = random.randrange(len(texts))
        ability = random.choice(["coarse_perception", "logic_reasoning", "finegrained_perception (instance-level)"])
        category = f"{ability[:5]}_{random.randint(0, 2)}"
        for k in range(len(texts)):
            if k and not complete and random.random() < 0.3:
                continue
            rotated = texts[k:] + texts[:k]
            shown = dict(zip(LETTERS, rotated, strict=False))
            answer = LETTERS[(right - k) % len(texts)]
            rows.append(
                {"index": str(question + k * 1_000_000), "question": f"What is {question}?", **shown, "answer": answer}
                | {"category": category, "l2-category": ability, "split": "dev"}
            )
    return rows


def mmvp_rows(random: random.Random, pairs: int) -> list[dict[str, str]]:
    """Return pairs of rows with one question; indices count from 1."""
    return [
        {"index": str(2 * pair + side + 1), "question": f"Which of {pair}?", "A": "open", "B": "closed"}
        | {"answer": random.choice("AB")}
        for pair in range(pairs)
        for side in (0, 1)
    ]


def hallusion_rows(random: random.Random, sets: int) -> list[dict[str, str]]:
    """Return sets of figures and questions, in nine categories of two kinds, some combinations left out."""
    rows = []
    for number in range(sets):
        kind = random.choice(["VD", "VS"])
        category = f"{kind}_{random.choice(['illusion', 'chart', 'map', 'ocr'])}"
        for figure in range(random.randint(1, 3)):
            for question in range(random.randint(1, 3)):
                if random.random() < 0.9:
                    index = f"{kind}_{category.split('_')[1]}_{len(rows)}_{number}_{figure}_{question}"
                    rows.append(
                        {"index": index, "question": f"Is it {question}?", "answer": random.choice(["Yes", "No"])}
                        | {"category": kind, "l2-category": category}
                    )
    return rows


def choice_rows(random: random.Random, count: int) -> list[dict[str, str]]:
    """Return questions with two to six options, no category."""
    rows = []
    for number in range(count):
        shown = options(random)
        rows.append(
            {"index": str(number), "question": f"What is {number}?", "answer": random.choice([*shown]), **shown}
        )
    return rows


def yes_no_rows(random: random.Random, count: int) -> list[dict[str, str]]:
    """Return questions of yes or no."""
    return [
        {"index": str(number), "question": f"Is {number} left of the cat?", "answer": random.choice(["Yes", "No"])}
        for number in range(count)
    ]
