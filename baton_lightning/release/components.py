"""Components of a run's weights, by valid names: folders of an export are named after them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from baton_lightning.names import quoted

if TYPE_CHECKING:
    from torch import Tensor

PARAMETER = re.compile(r"[A-Za-z_]\w*(\.\w+)+", re.ASCII)
LONGEST_KEY = 500
"""Maximum length of a tensor's name, in characters."""
RESERVED = ("adapter", "language")


def components_of(run: Path) -> dict[str, dict[str, Tensor]]:
    """Component -> weights. The component is the first part of a tensor's name in a run, and the folder's name in an export."""
    from safetensors import SafetensorError, safe_open

    from baton_lightning.runs import weights

    try:
        if (run / weights.WEIGHTS).exists():
            with safe_open(run / weights.WEIGHTS, "pt") as file:
                keys = list(file.keys())
            require_names(keys, run)
            names = sorted({key.partition(".")[0] for key in keys})
        else:
            names = sorted({path.parent.name for path in weights.files(run)})
        found = {name: weights.read(run, name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"export: the weights of {run}/ must be safetensors files ({error}); restore them") from error
    require_names([f"{name}.{key}" for name, tensors in found.items() for key in tensors], run)
    return found


def require_names(keys: list[str], run: Path) -> None:
    """Refuses weights whose names are not valid names of parameters, because folders are named after them.

    Raises:
        ValueError: If a name is invalid or its component is reserved. The message shows the first such name.
    """
    for key in keys:
        if len(key) > LONGEST_KEY or not PARAMETER.fullmatch(key):
            raise ValueError(
                f"export: the tensors of {run}/ must be named as parameters are, part.of.a.module, got {quoted(key)}; give the folder "
                f"of a run"
            )
        if key.partition(".")[0] in RESERVED:
            raise ValueError(f"export: {run}/ has a component {quoted(key.partition('.')[0])}, a reserved name")
