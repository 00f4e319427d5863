"""Baton: plan-guided joint video-audio diffusion, as a PyTorch Lightning framework.

The names below are imported when they are first used, so that a command that needs no torch loads none.
An installed wheel holds a copy of the workbench (`datamodules`, `callbacks`, `experiments`), which is searched after all other folders.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton_lightning.generation.clip import GeneratedClip
    from baton_lightning.generation.generator import Generator
    from baton_lightning.generation.load_pretrained import pretrained
    from baton_lightning.generation.pipeline import Pipeline, load
    from baton_lightning.plan.clip_plan import ClipPlan

__all__ = ["ClipPlan", "GeneratedClip", "Generator", "Pipeline", "load", "pretrained"]

WORKBENCH = Path(__file__).with_name("workbench")
"""Copy of the workbench in an installed wheel; a checkout has none here."""

if WORKBENCH.is_dir() and str(WORKBENCH) not in sys.path:
    sys.path.append(str(WORKBENCH))

_HOMES = {
    "ClipPlan": "baton_lightning.plan.clip_plan",
    "GeneratedClip": "baton_lightning.generation.clip",
    "Generator": "baton_lightning.generation.generator",
    "Pipeline": "baton_lightning.generation.pipeline",
    "load": "baton_lightning.generation.pipeline",
    "pretrained": "baton_lightning.generation.load_pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
