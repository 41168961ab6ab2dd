"""Tells faults of machines, memory, disks and networks from errors of programs, by what torch raises for them."""

from __future__ import annotations

import errno

from unimrg_api.exit_codes import ExitCode

_RENDEZVOUS_TEXTS = (
    "client socket has timed out",
    "client socket has failed",
    "server socket has failed",
    "waiting for clients",
)
_COMMUNICATION_ERRORS = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"})
_COMMUNICATION_TEXTS = ("gloo/transport", "Connection closed by peer", "NCCL error", "NCCL communicator was aborted")
_GPU_FAULT_TEXTS = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "NVLink error",
    "fallen off the bus",
    "hardware stack error",
    "device has become unavailable",
)


def fault_of(error: BaseException) -> tuple[ExitCode, str] | None:
    """Return exit code and reason (one CamelCase word) of a fault; None for an error of the program."""
    name, text = type(error).__name__, str(error)
    is_distributed_error = name in _COMMUNICATION_ERRORS
    if name == "OutOfMemoryError":  # of the GPU: more host memory would not help
        return ExitCode.PROGRAM, "GpuOutOfMemory"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return ExitCode.KILLED, "OutOfMemory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExitCode.UNAVAILABLE, "DiskFull"
    if any(part in text for part in _GPU_FAULT_TEXTS):
        return ExitCode.GPU_FAULT, "GpuFault"
    if is_distributed_error and any(part in text for part in _RENDEZVOUS_TEXTS):
        return ExitCode.UNAVAILABLE, "RendezvousFailed"
    if is_distributed_error or any(part in text for part in _COMMUNICATION_TEXTS):
        return ExitCode.COMMUNICATION, "CommunicationFailed"
    return None
