"""A device or a link that computes wrongly is found before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.processes import run_ranks
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.engine.preflight import check_device, check_ring

CPU = torch.device("cpu")


def test_a_wrong_product_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(CPU)
    real = torch.Tensor.__matmul__

    def faulty(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = real(left, right)
        product[3, 5] += 0.5
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", faulty)
    with pytest.raises(UserError, match=r"1 of 1048576 elements .* 1024\.5 instead of 1024") as caught:
        check_device(CPU)
    assert int(caught.value.exit_code) == 81


def sound_then_broken(agreement: Agreement) -> Any:
    bandwidth = check_ring(CPU)
    real = dist.all_reduce

    def broken(values: torch.Tensor) -> None:
        real(values)
        values[7] = 8.0

    dist.all_reduce = broken  # type: ignore[assignment]
    try:
        check_ring(CPU)
    except UserError as error:
        return bandwidth, int(error.exit_code), error.message
    return bandwidth, 0, ""


def test_a_sum_that_arrives_wrongly_is_named_with_its_value(tmp_path: Path) -> None:
    for bandwidth, code, message in run_ranks(2, tmp_path / "meeting", sound_then_broken):
        assert bandwidth > 0
        assert code == 81 and "8.0 instead of 3.0" in message
