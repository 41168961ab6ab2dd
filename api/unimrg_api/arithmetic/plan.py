"""What a job will need, before anything is started: parameters, operations, memory, time, bytes.

All of it follows from the job by arithmetic, except what `Plan.assumptions` names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

from unimrg_api.arithmetic.commits import Checkpoints, Section, checkpoints_of
from unimrg_api.arithmetic.devices import DEVICES, Device
from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.families.registry import arithmetic_of
from unimrg_api.arithmetic.flops import Flops, Trained, flops
from unimrg_api.arithmetic.memory import Load, Memory, memory
from unimrg_api.arithmetic.rows import Forward, Texts, nearest_process_counts
from unimrg_api.errors import UserError
from unimrg_api.job import JobSpec, UniMRGJob
from unimrg_api.spec_benchmarks import requests_of
from unimrg_api.spec_model import ANSWERING, COPYING
from unimrg_api.spec_platform import StrategyName
from unimrg_api.texts import counted

USABLE = 0.92
"""Share of a GPU's memory that tensors can have: the rest is the driver's, and lost between them."""
PHOTOGRAPH = 640 * 480
"""Pixels of an image whose size the job does not say."""
NOTABLE = 0.2
"""Share of the time from which frozen encoders are worth a warning."""
BYTES_PER_PIXEL = 0.5
"""Of a stored image, or map."""


class Group(Section):
    """Parameters under one name."""

    name: str
    parameters: int
    trained: bool


class Operations(Section):
    """What an optimiser step computes over all processes, under one composition."""

    tokens: float
    """Of the language model, without padding."""
    needed: Flops
    """The basis of MFU."""
    computed: Flops
    """With what is computed again, what masks hide, and padding: the basis of HFU."""


class Time(Section):
    """Seconds of a step at the stated MFU, and hours of the training, on one kind of device."""

    step_seconds: float
    hours: float
    hfu: float
    """Share of the peak that the device then computes, repetitions included."""
    encoders: float
    """Share of the time that frozen encoders take."""
    fits: bool
    """Whether a process of the job's strategy has room in its memory."""
    spare: float
    """Bytes of its usable memory that are left; below zero where it does not fit."""


class Reads(Section):
    """Bytes of images and maps that are read from the shards."""

    step: float
    training: float
    epoch: float | None
    """Of as many rows of each objective as there are images; None where their number is not known."""


class Plan(Section):
    """The plan of a job."""

    job: str
    refused: list[str]
    """Why training would end at its start, with the way out; such a job has no `times`."""
    model: str
    licence: str | None
    """Of the published weights that training begins with."""
    evaluation: dict[str, int | None]
    """Benchmark → answers or images that it asks for at most; None: not known."""
    trains: bool
    """Otherwise everything about steps is that of a training with these settings."""
    steps: int
    rows: int
    """Of a step, over all objectives and processes."""
    processes: int
    micro_steps: int
    """Forwards of each process in a step."""
    groups: list[Group]
    frozen_encoders: list[Group]
    parameters: int
    trained: int
    composition: str
    operations: dict[str, Operations]
    """By composition: `official` and `packed`."""
    recompute: str
    strategy: StrategyName
    memory: dict[StrategyName, Memory]
    device: str
    mfu: float
    times: dict[str, Time]
    """By device; empty for a job without GPUs, and for one that is refused."""
    checkpoints: Checkpoints
    reads: Reads
    assumptions: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Assumed:
    """What a job does not say."""

    texts: Texts = field(default_factory=Texts)
    mfu: float = 0.4
    device: str = "H20"
    images: int | None = None
    """Images of the data; None: those that the job generates, or not known."""


def plan_of(job: UniMRGJob, assumed: Assumed) -> Plan:
    """Return the plan of a job. Raises UserError for a family of an installed package, whose costs are not known."""
    spec, training = job.spec, job.spec.training
    settings = spec.model.built_in
    if settings is None:
        raise UserError(
            f"spec.model.custom: the costs of {spec.model.family()[0]} are not known, for it is not a built-in family",
            remedy="plan a job of a built-in family; `unimrg validate` checks this one",
        )
    family = arithmetic_of(settings)
    device = DEVICES.get(assumed.device)
    if device is None:
        message = f"the peak and the memory of {assumed.device} are not known"
        raise UserError(message, remedy=f"name one of {', '.join(DEVICES)}")
    step = _Step(spec, family, assumed.texts)
    operations = {name: step.operations(packed=name == "packed") for name in ("official", "packed")}
    chosen = operations["official" if training.composition == "Official" else "packed"]
    strategy = spec.resolved_strategy()
    needs = {one: memory(family, step.load(), one) for one in get_args(StrategyName)}
    steps = training.resolved_stop_step()
    groups = _groups(family, step.trained)
    trained = sum(group.parameters for group in groups if group.trained)
    refused = _refused(step) if spec.trains else []
    times = {}
    if spec.trainer.gpus_per_node and not refused:
        for one in DEVICES.values():
            times[one.name] = _time(chosen, one, assumed.mfu, step.processes, steps, needs[strategy].total)
    published = spec.model.published
    return Plan(
        job=job.metadata.name,
        refused=refused,
        model=f"{spec.model.family()[0]} {settings.variant}",
        licence=published.licence if published is not None and spec.model.init else None,
        evaluation=_evaluation(spec),
        trains=spec.trains,
        steps=steps,
        rows=training.batch.rows_per_objective * step.objectives,
        processes=step.processes,
        micro_steps=step.micro_steps,
        groups=groups,
        frozen_encoders=[
            Group(name=encoder.name, parameters=encoder.parameters, trained=False)
            for encoder in family.encoders
            if encoder.parameters
        ],
        parameters=family.parameters,
        trained=trained,
        composition=training.composition,
        operations=operations,
        recompute=spec.resolved_recompute(),
        strategy=strategy,
        memory=needs,
        device=assumed.device,
        mfu=assumed.mfu,
        times=times,
        checkpoints=checkpoints_of(spec, family.parameters, trained),
        reads=step.reads(assumed.images, steps),
        assumptions=_assumptions(spec, assumed),
        warnings=[
            *_start(spec),
            *_warnings(step, chosen, {name: one.total for name, one in needs.items()}, device, times),
        ],
    )


def frozen_parts(spec: JobSpec) -> frozenset[str]:
    """Return the names of parts that the job freezes."""
    return frozenset(part.name for part in spec.training.parts if float(part.learning_rate_scale) == 0)


class _Step:
    """One optimiser step of a job."""

    def __init__(self, spec: JobSpec, family: FamilyArithmetic, texts: Texts) -> None:
        self.spec, self.family, self.texts = spec, family, texts
        batch = spec.training.batch
        wanted = [name for name, weight in spec.resolved_objectives().items() if weight]
        self.objectives = len(wanted)
        self.processes = spec.trainer.processes
        per_process = max(1, batch.rows_per_objective // self.processes)
        self.micro_rows = min(batch.micro_batch_rows, per_process)
        self.micro_steps = -(-per_process // self.micro_rows)
        self.scale = batch.rows_per_objective / self.micro_rows
        """Forwards of a step over all processes."""
        self.stacked = spec.trainer.gpus_per_node == 0 or spec.training.composition == "PackedGrouped"
        self.answers, maps = ANSWERING in wanted, [name for name in wanted if name != ANSWERING]
        self.maps, self.copies = len(maps), COPYING in maps
        self.forward = self._forward(self.micro_rows)
        self.trained = Trained(self.forward.wanted, frozen_parts(spec))

    def _forward(self, rows: int) -> Forward:
        shared, prepared = self.spec.training.batch.image_sharing == "All", self.spec.data.image_encoding == "Prepared"
        return Forward(rows, self.answers, self.maps, self.copies, self.texts, shared, prepared)

    def load(self) -> Load:
        """What the memory of a process depends on."""
        training = self.spec.training
        packed = training.composition != "Official"
        counts = self.family.counts(self.forward, packed=packed, stacked=self.stacked).computed()
        recompute = self.spec.resolved_recompute()
        return Load(counts, self.trained, training.precision, recompute, self.processes, self.micro_steps)

    def operations(self, *, packed: bool) -> Operations:
        """Those of the step over all processes."""
        family = self.family
        counts = family.counts(self.forward, packed=packed, stacked=self.stacked)
        recompute = self.spec.resolved_recompute()
        return Operations(
            tokens=counts.tokens * self.scale,
            needed=flops(family, counts, self.trained, "Nothing").times(self.scale),
            computed=flops(family, counts.computed(), self.trained, recompute).times(self.scale),
        )

    def way_around_encoders(self) -> str:
        """What to do about the time of frozen encoders."""
        counts = self.family.counts(self.forward, packed=True)
        if not any(one.stored and one.cost.weights and one.images(counts) for one in self.family.encoders):
            return "a vision tower runs in every step"
        beforehand = (
            "data.imageEncoding: Prepared runs the image codec once, when data is prepared, and not in every step"
        )
        return (
            beforehand if self.spec.data.sources else f"{beforehand}; it needs data that a job prepares (data.sources)"
        )

    def reads(self, images: int | None, steps: int) -> Reads:
        """Bytes from the shards."""
        one, data = self._forward(1), self.spec.data
        generated = data.generated()
        each = BYTES_PER_PIXEL * (PHOTOGRAPH if generated is None else generated[1] ** 2)
        shared = one.same_images and self.maps > 0
        read = (self.answers and not shared) + (self.maps > 0)
        if data.image_encoding == "Prepared":
            counts = self.family.counts(replace(one, prepared=False), packed=True)
            row: float = sum(encoder.stored * encoder.images(counts) for encoder in self.family.encoders)
            row += each * read * any(not encoder.stored for encoder in self.family.encoders)
        else:
            row = each * (read + self.maps - self.copies)
        rows = self.spec.training.batch.rows_per_objective
        known = images if images is not None or generated is None else generated[0]
        return Reads(step=row * rows, training=row * rows * steps, epoch=None if known is None else row * known)


def _groups(family: FamilyArithmetic, trained: Trained) -> list[Group]:
    """Parts by name and whether they are trained; what no objective reaches stands apart from what the job freezes."""
    counted: dict[tuple[str, bool], int] = {}
    for part in family.parts:
        reached = not part.serves.isdisjoint(trained.wanted)
        key = part.name if reached else f"{part.name} (no objective reaches it)", part in trained
        counted[key] = counted.get(key, 0) + part.parameters
    return [
        Group(name=name, parameters=count, trained=is_trained) for (name, is_trained), count in counted.items() if count
    ]


def _time(operations: Operations, device: Device, mfu: float, processes: int, steps: int, needed: float) -> Time:
    useful, encoders = operations.needed.useful, operations.needed.frozen
    least = device.least_seconds(useful, encoders)
    seconds = least / (processes * mfu)
    return Time(
        step_seconds=seconds,
        hours=seconds * steps / 3600,
        hfu=mfu * device.least_seconds(operations.computed.total, encoders) / least,
        encoders=device.least_seconds(encoders, encoders) / least,
        fits=needed <= USABLE * device.memory,
        spare=USABLE * device.memory - needed,
    )


def _assumptions(spec: JobSpec, assumed: Assumed) -> list[str]:
    texts = assumed.texts
    found = [
        f"texts: {texts.question} tokens of a question, {texts.answer} of its answer, {texts.prompt} of a request for "
        "an image, all equally long (--question-tokens, --answer-tokens, --prompt-tokens)"
    ]
    if spec.trainer.gpus_per_node:
        found.append(
            f"time: {assumed.mfu:.0%} of the peak is used by operations that the step needs (--mfu), those of frozen "
            "encoders of the peak in FP32, in which they compute; loading data, checkpoints, start-up, earlyStop's "
            "measurements, gradientNormsEvery and the stage evaluate are not in it"
        )
    found.append(f"memory: the tensors at a step's peak; {1 - USABLE:.0%} of a GPU is left to the driver and to gaps")
    if spec.data.image_encoding == "Online":
        found.append(f"data: {BYTES_PER_PIXEL} bytes a pixel of images and maps")
    found.append("rows: every sample has its image, and all images of a forward differ")
    return found


def _refused(step: _Step) -> list[str]:
    """Why training would end at its start, with the way out."""
    batch, found = step.spec.training.batch, []
    cohorts = batch.rows_per_objective // batch.cohort_rows
    if cohorts % step.processes:
        found.append(
            f"{counted(cohorts, 'cohort')} of an objective cannot be dealt evenly to {step.processes} processes; make "
            f"spec.training.batch.rowsPerObjective a multiple of {step.processes * batch.cohort_rows}, or use "
            f"{nearest_process_counts(cohorts, step.processes)} processes (spec.trainer)"
        )
    return found


def _evaluation(spec: JobSpec) -> dict[str, int | None]:
    if spec.stages.evaluate.mode == "Never":
        return {}
    maps = sum(weight > 0 for name, weight in spec.resolved_objectives().items() if name != ANSWERING)
    return {entry.key: requests_of(entry, maps) for _, entry in spec.stages.evaluate.all_benchmarks()}


def _start(spec: JobSpec) -> list[str]:
    if spec.model.published is None or spec.model.init is not None:
        return []
    return [
        "the model begins with random weights at a published size; give spec.model.init to begin with published ones"
    ]


def _warnings(
    step: _Step, chosen: Operations, needs: dict[StrategyName, float], device: Device, times: dict[str, Time]
) -> list[str]:
    """What to beware of, with the way out; `needs` is the memory of a process by strategy."""
    spec = step.spec
    strategy, recompute = spec.resolved_strategy(), spec.resolved_recompute()
    if not spec.trainer.gpus_per_node:
        return ["the job trains on CPUs, whose peak is not known: no time is given"]
    if not times:
        return []
    found = []
    if spec.training.precision != "BF16":
        found.append(f"times are those of BF16, and the job computes in {spec.training.precision}, which is slower")
    share = times[device.name].encoders
    if share > NOTABLE:
        found.append(
            f"frozen encoders take {share:.0%} of the time on {device.name}, for they compute in FP32; "
            f"{step.way_around_encoders()}"
        )
    hfu = max(time.hfu for time in times.values())
    if hfu > 1:
        found.append(
            f"no device can do this: with what is computed again it would be {hfu:.0%} of the peak (HFU); give a lower "
            "--mfu"
        )
    room = USABLE * device.memory
    held = memory(step.family, replace(step.load(), recompute="Nothing"), strategy).total
    if needs[strategy] > room:
        ways = [
            *(["a smaller training.batch.microBatchRows"] if step.micro_rows > 1 else []),
            *(["training.recompute: Blocks"] if recompute != "Blocks" else []),
            *(f"trainer.strategy: {name}" for name, needed in needs.items() if needed <= room),
        ]
        found.append(
            f"does not fit: a process needs {needs[strategy] / 1e9:.0f} GB, and {room / 1e9:.0f} GB of {device.name} "
            f"can be used; try {', '.join(ways) or 'another device'}"
        )
    elif recompute != "Nothing" and held <= room:
        computed = chosen.computed
        saved = computed.repeated / device.bf16_flops / device.least_seconds(computed.total, computed.frozen)
        found.append(
            f"training.recompute: Nothing fits too, with {held / 1e9:.0f} GB, and takes {saved:.0%} less time at an "
            "equal HFU"
        )
    return found
