"""A clip of the world: scene, prompts, picture and sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baton_lightning.clip import ClipSpec
from baton_lightning.world.prompts import prompts
from baton_lightning.world.render import render
from baton_lightning.world.scene import Scene, sample_scene
from baton_lightning.world.sound import synthesise


@dataclass(frozen=True)
class WorldClip:
    """A clip with its scene.

    Args:
        key: Name of the sample, unique for (split, tier, seed, index), without a dot, as shards require.
        scene: Objects and events.
        video_prompt: Description of the picture.
        audio_prompt: Description of the sound.
        frames: uint8 [T, Y, X, 3].
        waveform: float32 [S] in [-1, 1].
    """

    key: str
    scene: Scene
    video_prompt: str
    audio_prompt: str
    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]


def make_clip(
    seed: int, index: int, tier: str, clip: ClipSpec, split: str = "train", *, jitter: float = 0.0, references: bool = False
) -> WorldClip:
    """Samples a scene and makes its prompts, picture and sound. See :func:`~baton_lightning.world.scene.sample_scene` for the arguments."""
    scene = sample_scene(seed, index, tier, clip, split, jitter=jitter, references=references)
    video_prompt, audio_prompt = prompts(scene, references=references)
    key = f"{split}-{tier}-{seed}-{index:06d}"
    return WorldClip(key, scene, video_prompt, audio_prompt, render(scene, clip), synthesise(scene, clip))
