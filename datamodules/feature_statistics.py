"""Statistics of features, read from a file of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_statistics(file: Path, widths: Mapping[str, int], make: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation [C] of features, by modality; 0 and 1 for a modality that no clip has.

    Args:
        file: The file.
        widths: Channels C of each modality.
        make: Command that creates the file, for messages.

    Raises:
        ValueError: If the file is damaged, or its values have another number of channels or are not finite.
    """
    try:
        values = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"data: {file} must hold the statistics of features, and is damaged ({error}); repeat {make}") from error
    return {
        name: (
            statistic(values.get(f"{name}_mean", torch.zeros(width)), width, file),
            statistic(values.get(f"{name}_std", torch.ones(width)), width, file),
        )
        for name, width in widths.items()
    }


def statistic(values: Tensor, width: int, file: Path) -> Tensor:
    """A statistic with one value per channel [C], after a check.

    Raises:
        ValueError: If it has another shape or type, or values that are not finite.
    """
    if tuple(values.shape) != (width,) or not values.is_floating_point() or not torch.isfinite(values).all():
        raise ValueError(f"data: {file} must hold {width} finite numbers a statistic, got {list(values.shape)}; make it again")
    return values
