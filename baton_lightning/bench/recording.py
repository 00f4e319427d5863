"""Reader of a folder of recorded forward passes of Ovi.

The folder holds ``config.json``, ``weights.safetensors``, ``<case>.safetensors`` for each case and optionally ``grads.safetensors``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from baton_lightning.models.fused_branches import FusedBranches

NAMES = ("vid", "audio")


def read_config(fixture: Path) -> dict[str, Any]:
    """``config.json`` of a fixture folder: the settings of both branches, and the cases with their flags.

    Raises:
        ValueError: If the file is missing or invalid, lacks a section, or has an invalid flag.
    """
    path = fixture / "config.json"
    if not path.is_file():
        raise ValueError(f"a fixture folder must hold config.json, {fixture} {'does not' if fixture.is_dir() else 'is not a folder'}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if missing := [k for k in ("video", "audio", "cases") if not isinstance(config, dict) or not isinstance(config.get(k), dict)]:
        raise ValueError(f"{path} must have the sections video, audio and cases; missing: {', '.join(missing)}")
    if not config["cases"]:
        raise ValueError(f"{path} names no cases, so there is nothing to compare")
    for case, flags in config["cases"].items():
        require_flags(case, flags)
    return config


def require_flags(case: str, flags: Any) -> None:
    """Refuses invalid flags of a case.

    Raises:
        ValueError: If a flag is invalid; the message names the case and the flag.
    """
    if not isinstance(flags, dict):
        raise ValueError(f"case {case}: its flags must be an object, {{}} for none, got {flags!r}")
    if flags.get("drop") not in (None, *NAMES):
        raise ValueError(f"case {case}: drop must be one of {', '.join(NAMES)}, got {flags['drop']!r}")
    if not isinstance(flags.get("slg_layer") or 0, int):
        raise ValueError(f"case {case}: slg_layer must be the number of a block, got {flags['slg_layer']!r}")
    if not isinstance(flags.get("first_frame_is_clean") or False, bool):
        raise ValueError(f"case {case}: first_frame_is_clean must be true or false, got {flags['first_frame_is_clean']!r}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: If it is missing or unreadable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"the fixture must hold {path.name}, which {path.parent} does not")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def read_case(fixture: Path, case: str) -> dict[str, Tensor]:
    """Recorded tensors of a forward pass.

    Raises:
        ValueError: If the file, the times or the outputs are missing.
    """
    recorded = read_tensors(fixture / f"{case}.safetensors")
    times = recorded.get("in.t")
    if times is None or times.ndim != 1 or not len(times):
        raise ValueError(f"case {case} must record in.t, one time a clip; got {'none' if times is None else list(times.shape)}")
    if not any(key.startswith("out.") for key in recorded):
        raise ValueError(f"case {case} records no outputs (out.vid.0, out.audio.0), so there is nothing to compare")
    return recorded


def load_model(fixture: Path, config: dict[str, Any]) -> FusedBranches:
    """The transformer of ``config.json`` with the weights of the folder, which are loaded strictly.

    Raises:
        ValueError: If the weights do not fit the configuration.
    """
    from baton_lightning.models.ovi import ovi_model
    from baton_lightning.runs.weights import mismatch

    weights = read_tensors(fixture / "weights.safetensors")
    model = ovi_model(config)
    if mismatches := mismatch(model.state_dict(), weights):
        raise ValueError(f"weights.safetensors does not fit config.json: {mismatches}")
    model.load_state_dict(weights)
    return model.eval()
