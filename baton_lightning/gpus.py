"""What GPUs can do at most, from their data sheets."""

from __future__ import annotations

PEAKS = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}
"""Part of a GPU's name -> its peak in TFLOP/s, bfloat16, dense, from NVIDIA's data sheets; the first that fits counts."""


def peak_of(name: str) -> float | None:
    """The peak of a GPU in TFLOP/s by the name torch gives it; ``None`` for one that is not listed."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)
