"""Devices whose peaks are known."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU. Peaks are those of dense matrices, as its maker states them."""

    name: str
    pattern: str
    """What torch's name of it contains, a regular expression."""
    bf16_flops: float
    """Per second."""
    fp32_flops: float
    """The same outside tensor cores, as frozen encoders compute."""
    memory: float
    """Bytes."""

    def least_seconds(self, operations: float, encoders: float) -> float:
        """Return the seconds that so many operations take at the peak, those of frozen encoders among them in FP32."""
        return (operations - encoders) / self.bf16_flops + encoders / self.fp32_flops


DEVICES = {
    device.name: device
    for device in (
        Device("H20", r"\bH20\b", 148e12, 44e12, 96e9),
        Device("A100", r"\bA100\b.*80GB", 312e12, 19.5e12, 80e9),
        Device("A100-40GB", r"\bA100\b.*40GB", 312e12, 19.5e12, 40e9),
        Device("H100", r"\bH100 80GB\b", 989e12, 67e12, 80e9),
        Device("H800", r"\bH800\b(?! PCIe)", 989e12, 67e12, 80e9),
        Device("H200", r"\bH200$", 989e12, 67e12, 141e9),
        Device("B200", r"\bB200\b", 2250e12, 80e12, 180e9),
        Device("L40S", r"\bL40S\b", 362e12, 91.6e12, 48e9),
    )
}
"""As NVIDIA publishes them for these products, SXM where there are several forms; half of the rate where it gives
that of sparse matrices."""


def find_device(torch_name: str) -> Device | None:
    """Return the device that torch calls so (`torch.cuda.get_device_name`), None for one whose peak is not known."""
    return next((device for device in DEVICES.values() if re.search(device.pattern, torch_name)), None)
