"""A family unlike Harmon: image tokens see each other, two image sizes, nothing is masked, flow matching.

An image of 16 × 16 pixels is read as 16 patches, one of 12 × 12 is generated as 9 patches from noise along straight
lines, and text is single characters. One small transformer computes it all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.errors import UserError
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.base import OnRound, RngFor, Row
from unimrg_trainer.models.common.encodings import Reading
from unimrg_trainer.models.requests import DEFAULT_STYLE, AnswerRequest, GenerateRequest
from unimrg_trainer.objectives.base import Objective, Task
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.segments import Attention, Segment, row_length, row_tokens, segment_slices
from unimrg_trainer.rng import generator

SOURCE, TARGET, SIDE, PATCH, END, VOCABULARY, PLACES = 16, 12, 4, 48, 0, 96, 512
TEXT, IMAGE, NOISY = 0, 1, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Part(Segment):
    kind: int
    ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()  # for each character the next one where it is to be predicted, else −100
    patches: np.ndarray | None = None  # float32 [length, PATCH]: of an image, or of the image to generate


@dataclass(frozen=True, eq=False)
class ToyRow(Row):
    parts: tuple[Part, ...]


Batch = dict[str, Tensor]
"""R rows of L places: kinds, ids, labels, positions [R, L], sees [R, 1, L, L]; `inputs` [R, L, PATCH + 1] are patches
with their time, `velocity` [R, L, PATCH] is what the noisy ones learn."""


class ToyModule(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(PLACES, width)
        self.read, self.noisy = nn.Linear(PATCH + 1, width), nn.Linear(PATCH + 1, width)
        layer = partial(nn.TransformerEncoderLayer, width, 1, 2 * width, 0.0, functional.silu, batch_first=True)
        self.layers = nn.ModuleList([layer(norm_first=True), layer(norm_first=True)])
        self.scores, self.velocity = nn.Linear(width, VOCABULARY), nn.Linear(width, PATCH)

    def states(self, batch: Batch) -> Tensor:
        kinds, x = batch["kinds"][..., None], batch["inputs"]
        x = torch.where(kinds == IMAGE, self.read(x), self.noisy(x))
        x = torch.where(kinds == TEXT, self.characters(batch["ids"]), x) + self.places(batch["positions"])
        for layer in self.layers:
            x = layer(x, ~batch["sees"][:, 0])
        return x

    def forward(self, batch: Batch) -> Tensor:
        x = self.states(batch)
        words = functional.cross_entropy(self.scores(x).mT, batch["labels"], reduction="none")
        flow = (self.velocity(x) - batch["velocity"]).square().mean(-1) * (batch["kinds"] == NOISY)
        return (words + flow).sum(1)


class ToyFamily:
    name, variant, assets, prompt_style = "toy", "small", Path(), DEFAULT_STYLE

    def __init__(self, settings: Mapping[str, Any]) -> None:
        for name in settings.keys() - {"width", "sampling"}:
            raise UserError(f"spec.model.custom.settings: {name} is no setting", remedy="use width and sampling")
        self.width = int(settings.get("width", 32))
        self.steps = int(settings.get("sampling", {}).get("steps", 4))

    def needed_files(self) -> Sequence[Any]:
        return []

    def reading(self, map: Any) -> Reading:
        return Reading()  # nothing is encoded: patches are the pixels themselves

    def build(self) -> nn.Module:
        return ToyModule(self.width)

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"Everything": ("",)}

    def frozen(self, objectives: Collection[Objective]) -> frozenset[str]:
        return frozenset()

    def decays(self, name: str, parameter: Tensor) -> bool:
        return parameter.ndim > 1

    def plan(self, objective: str, tasks: Sequence[tuple[int, Task]], rng: RngFor) -> list[Row]:
        return [self._row(objective, number, task) for number, task in tasks]

    def _row(self, objective: str, number: int, task: Task) -> ToyRow:
        *parts, asked = _prompt(task.sample.image, task.prompt)
        if task.map is not None:
            target = _patches(NOISY, task.map.target(task.sample, TARGET))
            return ToyRow(objective, number, target.length, (*parts, asked, target))
        answer = [*_characters(task.answer or ""), END]
        ids, labels = (*asked.ids, *answer[:-1]), (*[-100] * (len(asked.ids) - 1), *answer)
        text = Part(kind=TEXT, length=len(ids), ids=ids, labels=labels)
        return ToyRow(objective, number, len(answer), (*parts, text))

    def collate(self, rows: Sequence[Row], rng: RngFor, composition: Composition) -> Batch:
        draws = [rng(row.objective, row.global_row, "flow") for row in rows]
        return _batch([(row, float(draw.random()), draw) for row, draw in zip(rows, draws, strict=True)])

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
        return {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in batch.items()}

    def preview(self, batch: Batch) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        return [(None, None)] * len(batch["kinds"])

    def layouts(self) -> Sequence[Any]:
        return []

    def answer(
        self,
        module: nn.Module,
        requests: Sequence[AnswerRequest],
        *,
        max_new_tokens: int,
        on_token: Callable[[], None] = lambda: None,
    ) -> list[str]:
        return [self._answer(module, request, max_new_tokens) for request in requests]

    def _answer(self, module: Any, request: AnswerRequest, most: int) -> str:
        *parts, asked = _prompt(request.image, request.prompt)
        ids = list(asked.ids)
        while len(ids) < len(asked.ids) + most:
            text = Part(kind=TEXT, length=len(ids), ids=tuple(ids))
            chosen = int(module.scores(self._states(module, [*parts, text])[:, -1]).argmax())
            if chosen == END:
                break
            ids.append(chosen)
        return "".join(chr(i + 31) for i in ids[len(asked.ids) :])

    def generate(
        self, module: nn.Module, requests: Sequence[GenerateRequest], *, on_round: OnRound = lambda done, total: None
    ) -> list[np.ndarray]:
        on_round(0, 1)
        return [self._generate(module, request) for request in requests]

    def _generate(self, module: Any, request: GenerateRequest) -> np.ndarray:
        x = generator("toy", request.seed, request.row).standard_normal((9, PATCH), dtype=np.float32)
        parts = _prompt(request.image, request.prompt)
        for step in range(self.steps):
            noisy = Part(kind=NOISY, length=9, attention=Attention.FULL, patches=x)
            states = self._states(module, [*parts, noisy], time=step / self.steps)
            x = x + module.velocity(states[0, -9:]).detach().float().cpu().numpy() / self.steps
        pixels = x.reshape(3, 3, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(TARGET, TARGET, 3)
        return np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)

    @torch.no_grad()
    def _states(self, module: Any, parts: list[Part], time: float = 1.0) -> Tensor:
        weight, batch = next(module.parameters()), _batch([(ToyRow("", 0, 0, tuple(parts)), time, None)])
        return module.states(self.prepare(batch, weight.device, weight.dtype))


def _characters(text: str) -> list[int]:
    return [ord(c) - 31 if " " <= c <= "~" else 1 for c in text]


def _prompt(image: np.ndarray | None, text: str) -> list[Part]:
    parts = [] if image is None else [_patches(IMAGE, squash(image, SOURCE))]
    ids = (*_characters(text), END)
    return [*parts, Part(kind=TEXT, length=len(ids), ids=ids)]


def _patches(kind: int, image: np.ndarray) -> Part:
    n = len(image) // SIDE
    patches = image.reshape(n, SIDE, n, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(n * n, PATCH).astype(np.float32)
    return Part(kind=kind, length=n * n, attention=Attention.FULL, patches=patches / 127.5 - 1)


def _batch(rows: Sequence[tuple[Any, float, np.random.Generator | None]]) -> Batch:
    """Rows with their time, and the generator of the noise they are mixed with (None: patches are as they are)."""
    shape = len(rows), max(row_length(row.parts) for row, _, _ in rows)
    batch = {name: torch.zeros(shape, dtype=torch.int64) for name in ("kinds", "ids", "positions")}
    batch["labels"] = torch.full(shape, -100)
    batch["inputs"], batch["velocity"] = torch.zeros(*shape, PATCH + 1), torch.zeros(*shape, PATCH)
    batch["sees"] = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1, 1)
    for r, (row, time, rng) in enumerate(rows):
        n, sees = row_length(row.parts), row_tokens(row.parts).visibility
        batch["positions"][r, :n] = torch.arange(n)
        batch["sees"][r, 0, :n, :n] = torch.from_numpy(np.tri(n, dtype=bool) if sees is None else sees)
        for part, here in zip(row.parts, segment_slices(row.parts), strict=True):
            batch["kinds"][r, here] = part.kind
            if part.patches is None:
                batch["ids"][r, here] = torch.tensor(part.ids)
                batch["labels"][r, here] = torch.tensor(part.labels or [-100] * part.length)
                continue
            x = torch.from_numpy(part.patches)
            if part.kind == NOISY and rng is not None:
                noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
                batch["velocity"][r, here], x = x - noise, time * x + (1 - time) * noise
            batch["inputs"][r, here] = torch.cat([x, torch.full((part.length, 1), time)], dim=-1)
    return batch
