"""Backends: other people's networks that measure one clip. What is measured is kept, one JSON a clip, and measured once."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from baton_lightning import atomic
from baton_lightning.metrics.clips import Clip, LeftOut

if TYPE_CHECKING:
    import torch

Measured = dict[str, Any]
"""What a backend says about one clip: plain JSON values."""


class Backend(Protocol):
    """What measures a clip. Weights are read when the first clip is measured, so that kept values need none."""

    @property
    def protocol(self) -> str:
        """Networks, checkpoints and settings in one line; values that are kept count only under the same protocol."""

    def measure(self, clip: Clip) -> Measured:
        """Values of one clip, plain JSON.

        Raises:
            LeftOut: If this clip cannot be measured, whatever is installed.
            ValueError: If a package or weights are missing; says which and how to get them.
        """


class Recorded:
    """Values that somebody else measured: ``k.<kind>.json`` beside ``k.mp4``, holding what a backend would say.

    Args:
        kind: ``transcript`` (``{"segments": [{"speaker": ..., "text": ...}], "named": false}``), ``answers``
            (``{"answers": ["yes", ...]}``), or any other name.
        source: Who measured, for the record.
    """

    def __init__(self, kind: str, source: str = "") -> None:
        self.kind, self.source = kind, source

    @property
    def protocol(self) -> str:
        return f"recorded {self.kind}s" + (f" of {self.source}" if self.source else "")

    def measure(self, clip: Clip) -> Measured:
        file = clip.file.with_suffix(f".{self.kind}.json")
        if not file.exists():
            raise LeftOut(f"no {self.kind}: k.{self.kind}.json is not beside k.mp4")
        return json.loads(file.read_text())


def required(module: str, install: str) -> ModuleType:
    """A package that is nobody's dependency here.

    Args:
        module: What is imported.
        install: How to get it.

    Raises:
        ValueError: If it is not installed, or does not import.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a binary of another torch
        raise ValueError(f"needs the package {module.partition('.')[0]}, which does not import ({error}): {install}") from error


def best_device() -> torch.device:
    """The GPU, if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def kept(backend: Backend, clip: Clip, folder: Path) -> Measured:
    """What the backend says about the clip, from ``<folder>/<backend>/<key>.json`` if clip and protocol are the same.

    Args:
        backend: Measures if nothing is kept.
        clip: Which clip.
        folder: Where values are kept.
    """
    if isinstance(backend, Recorded):
        return backend.measure(clip)
    file = folder / type(backend).__name__ / f"{clip.key}.json"
    stamp = {"protocol": backend.protocol, "clip": clip.digest}
    if file.exists():
        record = json.loads(file.read_text())
        if {name: record.get(name) for name in stamp} == stamp:
            return record["measured"]
    measured = backend.measure(clip)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, json.dumps({**stamp, "measured": measured}, indent=1, ensure_ascii=False))
    return measured
