"""VLMEvalKit's tables: questions in, predictions out and in, scores in.

They are read with pandas and its defaults because VLMEvalKit does so, and what pandas makes of a cell is what a model
is asked: `None`, `NA`, `N/A`, `null`, `nan` and empty cells are missing, so an option of that text is none; and an
option `4` of a column of numbers with gaps is asked as `4.0` (docs/method/evaluation.md).
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import json
import string
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode

Row = Mapping[str, str]
"""Column → text. A missing cell has no key. `index` is always there."""
LETTERS = tuple(string.ascii_uppercase)
"""Columns that hold options."""
REUSED = 64
"""An `image` of at most so many characters is the index of the row whose image is meant."""
MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Texts that pandas takes for a missing value."""


@dataclass(frozen=True, eq=False)
class QuestionTable:
    """A table of questions, in the file's order."""

    rows: Sequence[Row]
    """Without images. `image_id` is the same for rows that show the same image."""
    images: Mapping[str, str | Path]
    """Index → the image's file in base64, or where it is."""
    without_image: int
    """Rows that were left out because they show no image."""
    vanished: Sequence[str]
    """Options whose text pandas takes for a missing value, so that nobody is shown them: `index A: None`."""
    md5: str

    def check_images(self, indices: Iterable[str]) -> None:
        """Decode the images of these rows, each once. Raises UserError (65, 66) with the first row of a broken one.

        It takes some milliseconds an image, and is for tables whose content is not known, before a model is asked.
        """
        of_image: dict[str | Path, str] = {}
        for index in indices:
            of_image.setdefault(self.images[index], index)
        errors = []
        for index in of_image.values():
            try:
                self.image(index)
            except UserError as error:
                errors.append(error)
        if errors:
            more = f"; so it is with {len(errors) - 1} further images" if len(errors) > 1 else ""
            raise UserError(f"{errors[0].message}{more}", remedy=errors[0].remedy, exit_code=errors[0].exit_code)

    def image(self, index: str) -> np.ndarray:
        """Return a row's image, uint8 [H, W, 3], RGB. Raises UserError (65) for one that cannot be read."""
        stored = self.images[index]
        try:
            file = stored if isinstance(stored, Path) else io.BytesIO(base64.b64decode(stored))
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, binascii.Error, Image.DecompressionBombError) as error:
            raise UserError(
                f"the image of row {index} cannot be read: {error}",
                remedy="fetch the table again, or replace the image that image_path names",
                exit_code=ExitCode.DATA_CORRUPT,
            ) from None


def read_questions(path: Path, md5: str, *, images_too: bool = True) -> QuestionTable:
    """Read a table of questions (TSV) with that `file_md5`. Raises UserError (65, 66) for one that cannot be asked.

    Without `images_too` a digest takes the place of each image, for whoever only looks at the questions: in the largest
    published table images are hundreds of megabytes.
    """
    rows = read_table(path, images_too=images_too)
    if not rows:
        raise broken(path, "it has no rows")
    need_columns(path, rows, "index", "question", "answer")
    shown = [row for row in rows if "image" in row or "image_path" in row]
    if not shown:
        raise broken(path, f"no row has an image or image_path; the columns are {', '.join(sorted(rows[0]))}")
    stored = {row["index"]: row["image"] for row in shown if "image" in row}
    if stored:
        shown = [row for row in shown if "image" in row]  # as VLMEvalKit: a table with images has them in `image`
    images: dict[str, str | Path] = {}
    for row in shown:
        index = row["index"]
        if "image" not in row:
            images[index] = path.parent / row["image_path"]
            continue
        value = stored.get(row["image"], "") if len(row["image"]) <= REUSED else row["image"]
        if len(value) <= REUSED:
            raise broken(
                path,
                f"the image of row {index} is {row['image']!r}, which is too short for an image, and there is no row "
                "of this index with an image of its own",
            )
        images[index] = value
    absent = [index for index, image in images.items() if isinstance(image, Path) and not image.is_file()]
    if absent:
        raise UserError(
            f"the table {path}: {len(absent)} images are missing, the first is {images[absent[0]]} of row {absent[0]}",
            remedy="put them where image_path says, from the table's folder on; one in a bucket has them in `image`",
            exit_code=ExitCode.INPUT_MISSING,
        )
    several = [index for index, image in images.items() if str(image).lstrip().startswith("[")]
    if several:
        raise broken(path, f"row {several[0]} has several images; benchmarks ask about a single one")
    ids = {id(image): _short_digest(image) for image in images.values()}
    kept = [
        {name: value for name, value in row.items() if name != "image"} | {"image_id": ids[id(images[row["index"]])]}
        for row in shown
    ]
    return QuestionTable(kept, images, len(rows) - len(shown), _vanished(path), md5)


def read_table(path: Path, *, images_too: bool = True) -> list[dict[str, str]]:
    """Return the rows of a TSV, CSV, XLSX or JSON file (a list of objects) as VLMEvalKit reads them, each cell as text.

    Names of columns other than `A` … `Z` are in lower case. Raises UserError: 66 without the file, 65 where it cannot
    be read or two rows have one index.
    """
    rows = [
        {name if name in LETTERS else name.lower(): value for name, value in row.items()}
        for row in _read_cells(path, images_too=images_too)
    ]
    twice = [index for index, count in Counter(row.get("index", "") for row in rows).items() if count > 1]
    if twice and twice[0]:
        raise broken(path, f"{len(twice)} indices stand in several rows each, the first is {twice[0]}")
    return rows


def need_columns(path: Path, rows: Sequence[Row], *names: str) -> None:
    """Raise UserError (65) if a row lacks one of these columns."""
    for number, row in enumerate(rows):
        lacks = [name for name in names if name not in row]
        if lacks:
            where = f"row {row.get('index', number)}"
            raise broken(path, f"{where} has no {lacks[0]}; the columns are {', '.join(sorted(rows[0]))}")


def write_predictions(rows: Iterable[Row], predictions: Iterable[str]) -> bytes:
    """Return a prediction table as VLMEvalKit writes it with PRED_FORMAT=tsv: all columns, and `prediction`."""
    answered = [{**row, "prediction": text} for row, text in zip(rows, predictions, strict=True)]
    columns = list(dict.fromkeys(name for row in answered for name in row if name != "prediction"))
    file = io.StringIO()
    writer = csv.DictWriter(
        file, [*columns, "prediction"], delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n", restval=""
    )
    writer.writeheader()
    writer.writerows(answered)
    return file.getvalue().encode("utf-8", "backslashreplace")


def read_scores(path: Path) -> dict[str, float]:
    """Read one of VLMEvalKit's result tables (`*_acc.csv`, `*_score.csv`) as `split/column` → value, as it stands.

    The split is left out where there is one row, or where it is `Overall`.
    """
    rows = _read_cells(path)
    scores = {}
    for row in rows:
        split = row.get("split", "")
        prefix = "" if len(rows) == 1 or split == "Overall" else f"{split}/"
        for column, value in row.items():
            try:
                scores[prefix + column] = float(value)
            except ValueError:
                continue  # the split itself, or a name
    return scores


def as_read_back(prediction: str) -> str:
    """Return what VLMEvalKit's scorers see of a prediction: those that pandas takes for missing become `nan`."""
    return "nan" if prediction in MISSING else prediction


def file_md5(path: Path) -> str:
    """Return a file's MD5 as VLMEvalKit pins it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def broken(path: Path, what: str) -> UserError:
    """Return the error for a table that is not as it should be."""
    return UserError(
        f"the table {path}: {what}",
        remedy="see docs/how-to/evaluation.md for what a table holds; `unimrg eval doctor` shows what one does",
        exit_code=ExitCode.DATA_CORRUPT,
    )


def _read_cells(path: Path, *, images_too: bool = True) -> list[dict[str, str]]:
    """Return the cells of each row that are not missing, by the names of their columns."""
    import pandas

    try:
        if path.suffix == ".json":
            records = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise broken(path, "it is no list of objects, one for each row")
        elif path.suffix == ".xlsx":
            records = pandas.read_excel(path, engine="openpyxl").to_dict("records")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pandas.errors.DtypeWarning)  # of pieces that differ in type: so it is
                table = path if images_too else _without_images(path)
                records = pandas.read_csv(table, sep="," if path.suffix == ".csv" else "\t").to_dict("records")
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}", remedy="correct the path", exit_code=ExitCode.INPUT_MISSING
        ) from None
    except ImportError:
        raise UserError(
            f"to read {path} takes the package openpyxl, which is not installed",
            remedy="pip install openpyxl, or have VLMEvalKit write TSV (PRED_FORMAT=tsv)",
        ) from None
    except UnicodeDecodeError as error:
        raise broken(path, f"it is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from None
    except UserError:
        raise
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise broken(path, f"it cannot be read: {error}") from None
    return [
        {name: str(value) for name, value in record.items() if isinstance(name, str) and not _is_missing(value)}
        for record in records
    ]


def _lines(path: Path) -> Iterator[list[str]]:
    """Yield the lines of a TSV, one at a time: pandas holds several copies of a whole file."""
    csv.field_size_limit(1 << 30)
    with path.open(newline="", encoding="utf-8-sig") as table:
        yield from csv.reader(table, delimiter="\t")


def _without_images(path: Path) -> io.StringIO:
    """Return a TSV with a digest in the place of each image."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    images: list[int] = []
    for number, row in enumerate(_lines(path)):
        images = images if number else [place for place, name in enumerate(row) if name.lower() == "image"]
        for place in images:
            text = row[place] if place < len(row) else ""
            if len(text) > REUSED and not text.lstrip().startswith("["):
                row[place] = hashlib.sha256(text.encode()).hexdigest() + "=" * REUSED
        writer.writerow(row)
    file.seek(0)
    return file


def _vanished(path: Path) -> list[str]:
    lines = _lines(path)
    names = next(lines)
    index = next(place for place, name in enumerate(names) if name.lower() == "index")
    options = [place for place, name in enumerate(names) if name in LETTERS]
    return [
        f"{row[index]} {names[place]}: {row[place]}"
        for row in lines
        for place in options
        if place < len(row) and row[place] and row[place] in MISSING
    ]


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN is the only value that differs from itself


def _short_digest(image: str | Path) -> str:
    return hashlib.sha256(str(image).encode()).hexdigest()[:16]
