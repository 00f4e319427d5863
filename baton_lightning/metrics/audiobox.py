"""PQ, CU, PC, CE: the four scores of AudioBox Aesthetics for a sound, 1 to 10, computed by the package ``audiobox_aesthetics``."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from baton_lightning.metrics.backend import Measured, import_optional

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

RATE = 16000


class AudioBox:
    """Production quality, content usefulness, production complexity, content enjoyment.

    Args:
        checkpoint: Local checkpoint; ``None`` = the package downloads its default.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        self.checkpoint = checkpoint

    @property
    def protocol(self) -> str:
        return f"audiobox_aesthetics, {self.checkpoint or 'its default checkpoint'}"

    @cached_property
    def network(self) -> Any:
        """The package's predictor."""
        package = import_optional(
            "audiobox_aesthetics.infer", "pip install audiobox_aesthetics, with the torchaudio that was built for this torch"
        )
        return package.initialize_predictor(self.checkpoint) if self.checkpoint else package.initialize_predictor()

    def measure(self, clip: Clip) -> Measured:
        """``{"PQ": ..., "CU": ..., "PC": ..., "CE": ...}``."""
        (scores,) = self.network.forward([{"path": clip.sound(RATE)[None], "sample_rate": RATE}])
        scores = json.loads(scores) if isinstance(scores, str) else scores  # a JSON text in some releases
        return {name: float(scores[name]) for name in ("PQ", "CU", "PC", "CE")}
