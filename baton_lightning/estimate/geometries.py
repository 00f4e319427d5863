"""Steps of an experiment with several geometries: their clips, and which of them has the most tokens."""

from __future__ import annotations

import json
from typing import Any

from baton_lightning.clip import ClipSpec


def clips_of_step(data: Any, clip: ClipSpec) -> dict[str, int]:
    """Name of each geometry -> clips of a batch, over all ranks together.

    Args:
        data: Settings of the datamodule: ``batch_size``, or ``tokens`` and ``multiple_of``.
        clip: Geometries of the experiment.
    """
    if (tokens := getattr(data, "tokens", None)) is None:
        return dict.fromkeys(clip.each, data.batch_size)
    return {name: each.num_clips_in(tokens, data.multiple_of or 1) for name, each in clip.each.items()}


def largest(clips: dict[str, int], clip: ClipSpec) -> str:
    """Name of the geometry whose batches have the most tokens.

    Args:
        clips: Name of each geometry -> clips of a batch.
        clip: Geometries of the experiment.
    """
    return max(clips, key=lambda name: clips[name] * clip.at(name).num_tokens)


def overrides(clip: ClipSpec) -> list[str]:
    """Command-line settings that make these the geometries of an experiment, in this order."""
    values = {name: clip.to_dict().get(name, []) for name in ("height", "width", "seconds", "audio_latents", "geometries")}
    return [f"--clip.{name}={json.dumps(value)}" for name, value in values.items()]
