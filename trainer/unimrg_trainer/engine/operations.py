"""Counts the floating-point operations of a rank's steps, and what share of its device's peak they use."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from unimrg_api.arithmetic.devices import Device, find_device
from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.families.registry import arithmetic_of
from unimrg_api.arithmetic.flops import Flops, Trained, flops
from unimrg_api.arithmetic.layers import ANSWERS, IMAGES
from unimrg_api.arithmetic.plan import frozen_parts
from unimrg_api.job import JobSpec
from unimrg_api.spec_model import ANSWERING
from unimrg_api.spec_training import Recompute
from unimrg_trainer.engine.step_plan import Step

logger = logging.getLogger(__name__)


class StepOperations:
    """Operations of the steps of one rank, from what their batches compute (docs/method/arithmetic.md#operations)."""

    def __init__(self, family: FamilyArithmetic, trained: Trained, recompute: Recompute, device: Device) -> None:
        self._family, self._trained, self._recompute, self._device = family, trained, recompute, device
        self._steps: dict[int, tuple[Flops, Flops]] = {}
        """Of each step by the number of steps finished with it: needed and computed ones."""

    def counted(self, step: Step) -> Step:
        """Count a step that is planned; return it. Runs on the host, ahead of the device."""
        needed, computed = Flops(), Flops()
        for micro_step in step.micro_steps:
            counts = micro_step.batch.counts()
            needed += flops(self._family, counts, self._trained, "Nothing")
            computed += flops(self._family, counts.computed(), self._trained, self._recompute)
        self._steps[step.number + 1] = needed, computed
        return step

    def shares(self, finished: Iterable[int], step_seconds: float) -> dict[str, float]:
        """Return MFU and HFU, as metrics, over steps (by the number of steps finished with each) of so many seconds
        each on average; they are forgotten."""
        steps = [self._steps.pop(number) for number in finished if number in self._steps]
        if not steps:
            return {}
        peak, seconds = self._device.least_seconds, step_seconds * len(steps)
        return {
            "perf/mfu": sum(peak(one.useful, one.frozen) for one, _ in steps) / seconds,
            "perf/hfu": sum(peak(one.total, one.frozen) for _, one in steps) / seconds,
        }


def open_operations(spec: JobSpec, device: torch.device) -> StepOperations | None:
    """Return what counts a job's steps; None on a CPU, and, with a warning, where no peak or no costs are known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known, settings = find_device(name), spec.model.built_in
    if settings is None or known is None or spec.training.precision != "BF16":
        logger.warning(
            "MFU is not reported: it is for built-in families in BF16 on devices that `unimrg plan` knows, and this is "
            "%s in %s on %s",
            spec.model.family()[0], spec.training.precision, name,
        )  # fmt: skip
        return None
    with_loss = {objective for objective, weight in spec.resolved_objectives().items() if weight}
    wanted = (ANSWERS if ANSWERING in with_loss else frozenset()) | (IMAGES if with_loss - {ANSWERING} else frozenset())
    trained = Trained(wanted, frozen_parts(spec))
    return StepOperations(arithmetic_of(settings), trained, spec.resolved_recompute(), known)
