"""What a rank tries before training: that its device computes, and that the ranks' sums arrive, and how fast.

Seconds at the start save hours on a node whose GPU or link is broken.
"""

from __future__ import annotations

import logging
import os
import time

import torch
import torch.distributed as dist

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode

logger = logging.getLogger(__name__)

MATRIX_SIZE = 1024
RING_ELEMENTS = 1 << 20
"""Float32 numbers that are summed over the ranks: 4 MiB."""
RING_ROUNDS = 3


def check_device(device: torch.device) -> None:
    """Multiply two matrices of ones on `device`. Raises UserError (exit code 81) if a product is wrong."""
    ones = torch.ones(MATRIX_SIZE, MATRIX_SIZE, device=device)
    product = ones @ ones
    wrong = int((product != MATRIX_SIZE).sum())
    if wrong:
        raise UserError(
            f"{device} on {os.uname().nodename} computed {wrong} of {product.numel()} elements of a product wrongly, "
            f"e.g. {float(product[product != MATRIX_SIZE][0])} instead of {MATRIX_SIZE}",
            remedy="take the node out of service and have the device tested",
            exit_code=ExitCode.PREFLIGHT,
        )


def check_ring(device: torch.device) -> float:
    """Sum 4 MiB over all ranks a few times; return the bandwidth in GB/s, 0.0 for a single rank. A collective call.

    The bandwidth is what each rank sends in a ring all-reduce. Raises UserError (exit code 81) if a sum is wrong.
    """
    world_size = dist.get_world_size()
    if world_size == 1:
        return 0.0
    expected = world_size * (world_size + 1) / 2
    best = float("inf")
    for _ in range(RING_ROUNDS):  # the first one sets connections up
        values = torch.full((RING_ELEMENTS,), dist.get_rank() + 1.0, device=device)
        _synchronize(device)
        began = time.monotonic()
        dist.all_reduce(values)
        _synchronize(device)
        best = min(best, time.monotonic() - began)
        if not bool((values == expected).all()):
            raise UserError(
                f"a sum over {world_size} ranks arrived wrongly on {os.uname().nodename}: "
                f"{float(values[values != expected][0])} instead of {expected}",
                remedy="test memory and network of the nodes (nccl-tests), or set NCCL_P2P_DISABLE=1 to find the link",
                exit_code=ExitCode.PREFLIGHT,
            )
    sent = 2 * (world_size - 1) / world_size * RING_ELEMENTS * 4
    bandwidth = sent / best / 1e9
    if dist.get_rank() == 0:
        logger.info("preflight: %d ranks sum 4 MiB at %.2f GB/s per rank", world_size, bandwidth)
    return bandwidth


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
