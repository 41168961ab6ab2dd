"""MFU of reported steps: the operations of their batches, over the time and the peak of a known device."""

from __future__ import annotations

import pytest
import torch

from tests.support.one_step import FAMILIES, planner_of, tiny_family
from unimrg_api.arithmetic.devices import DEVICES
from unimrg_api.arithmetic.families.registry import arithmetic_of
from unimrg_api.arithmetic.flops import Flops, Trained, flops
from unimrg_api.arithmetic.layers import BOTH
from unimrg_api.job import JobSpec
from unimrg_trainer.engine.operations import StepOperations, open_operations

H20 = DEVICES["H20"]
SPEC = {"data": {"shards": ["s3://bucket/data"]}, "checkpoint": {"uri": "s3://bucket/run"}}


def job(**model: object) -> JobSpec:
    return JobSpec.model_validate({**SPEC, "model": model})


def seconds(count: Flops) -> float:
    """What an H20 takes at its peak: frozen encoders in FP32, all else in BF16."""
    return (count.forward + count.backward) / 148e12 + count.frozen / 44e12


@pytest.mark.parametrize("name", FAMILIES)
def test_mfu_is_the_mean_of_the_steps_since_the_last_report(name: str) -> None:
    family = arithmetic_of(job(**{name: {"variant": "Tiny"}}).model.built_in)  # type: ignore[arg-type]
    planner = planner_of(tiny_family(name), 2)
    counter = StepOperations(family, Trained(BOTH), "Blocks", H20)
    steps = [counter.counted(planner.plan_step(number, 0, 1)) for number in range(3)]
    needed = [
        sum(seconds(flops(family, one.batch.counts(), Trained(BOTH), "Nothing")) for one in step.micro_steps)
        for step in steps
    ]
    shares = counter.shares([1, 2], step_seconds=0.5)
    assert shares["perf/mfu"] == pytest.approx(sum(needed[:2]) / 2 / 0.5)
    assert shares["perf/hfu"] > 1.1 * shares["perf/mfu"], "blocks are computed again"
    assert counter.shares([1, 2], step_seconds=0.5) == {}
    assert counter.shares([3], step_seconds=1.0)["perf/mfu"] == pytest.approx(needed[2])


@pytest.mark.parametrize("device, model", [("NVIDIA GeForce RTX 4090", "harmon"), ("NVIDIA H20", "custom")])
def test_no_share_of_an_unknown_peak_and_one_warning(
    device: str, model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: device)
    spec = job(**({"harmon": {"variant": "1.5B"}} if model == "harmon" else {"custom": {"name": "toy"}}))
    assert open_operations(spec, torch.device("cuda")) is None
    assert [record.message for record in caplog.records if "MFU is not reported" in record.message] != []
    assert open_operations(spec, torch.device("cpu")) is None and len(caplog.records) == 1


def test_a_known_gpu_is_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H20")
    assert open_operations(job(harmon={"variant": "1.5B"}), torch.device("cuda")) is not None
