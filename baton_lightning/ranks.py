"""What the ranks of a run know together."""

from __future__ import annotations

from typing import Any

import torch


def gathered(mine: Any) -> list[Any]:
    """What every rank has, in the order of ranks. All of them have to ask."""
    if not torch.distributed.is_initialized():
        return [mine]
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone
