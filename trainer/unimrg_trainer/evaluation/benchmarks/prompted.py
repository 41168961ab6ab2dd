"""What benchmarks of images share that are generated from prompts of a published file: which, with what noise, as PNG.

Image i of prompt p has the random numbers (i, p), whatever else is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace, Item, LazyItems
from unimrg_trainer.models.requests import GenerateRequest

T = TypeVar("T")


def parsed(place: BenchmarkPlace, name: str, origin: str, parse: Callable[[bytes], T]) -> tuple[T, str]:
    """Return what `parse` makes of the file `name` of the benchmarks' folder, and the file's MD5.

    Raises UserError that says where the file is from: missing (66), refused by `parse` with a ValueError (65).
    """
    try:
        content = place.open(name).read_bytes()
    except UserError as error:
        raise UserError(error.message, remedy=f"{error.remedy}: it is {origin}", exit_code=error.exit_code) from error
    try:
        return parse(content), hashlib.md5(content, usedforsecurity=False).hexdigest()
    except ValueError as error:
        raise UserError(
            f"{place.field}: {name} of spec.stages.evaluate.files is not the benchmark's: {error}",
            remedy=f"put the published file there: it is {origin}",
            exit_code=ExitCode.DATA_CORRUPT,
        ) from error


def chosen(prompts: int, images_per_prompt: int, limit: int | None) -> list[int]:
    """Return the numbers of the prompts that are asked: all, or as many as `limit` images allow, at least one, spread
    evenly over the file, for it is in the order of what is tested."""
    if limit is None:
        return list(range(prompts))
    count = min(prompts, max(1, limit // images_per_prompt))
    return [index * prompts // count for index in range(count)]


def image_item(number: int, image: int, prompt: str, **attributes: Any) -> Item:
    """Return the item of an image of prompt `number`; its attributes have both numbers besides those given."""
    request = GenerateRequest(prompt, seed=image, row=number)
    attributes |= {"prompt": number, "image": image}
    return Item(f"{number:05d}/{image:04d}", request, attributes=attributes)


def image_items(numbers: Sequence[int], images_per_prompt: int, item: Callable[[int, int], Item]) -> LazyItems:
    """Return the items of all images of the prompts: `item` makes one of the numbers of prompt and image."""
    return LazyItems(
        len(numbers) * images_per_prompt,
        lambda index: item(numbers[index // images_per_prompt], index % images_per_prompt),
    )


@runtime_checkable
class JudgesFolders(Protocol):
    """What a benchmark has besides if it can judge images that lie in its layout, whoever generated them."""

    device: str
    """Where its judges run."""

    def of_folder(self, folder: Path) -> Iterator[tuple[Item, Path]]:
        """Yield the images that lie there, in the order of their numbers. Raises UserError for what cannot be read."""
        ...

    def judge(self, item: Item, image: np.ndarray) -> dict[str, Any]:
        """Return what `score` needs about an image, but for its `file`."""
        ...


def digest_of_prompts(prompts: Sequence[str]) -> str:
    """Return the SHA-256 of the prompts that are asked, in their order."""
    return hashlib.sha256("\0".join(prompts).encode()).hexdigest()
