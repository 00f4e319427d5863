"""Looks at every byte of a data set: digests, whether each clip decodes to its geometry, whether each cached tensor is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning.clip import ClipSpec
from baton_lightning.media import read_mp4
from baton_lightning.shards.format import CACHE, CACHES, Shard, SplitIndex, cache_suffix, clip_of, file_digest, read_root


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where.

    Args:
        tar: Shard.
        key: Clip; empty if the whole shard is meant.
        reason: What was found.
    """

    tar: Path
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.tar}: {self.key + ': ' if self.key else ''}{self.reason}"


def check_set(root: Path) -> Iterator[tuple[int, list[Problem]]]:
    """Checks shard after shard.

    Yields:
        Clips in the shard (0 for one of cached tensors), and its problems.

    Raises:
        ValueError: If there is no finished data set.
    """
    names = read_root(root)["splits"]
    cache: dict[str, Any] = json.loads((root / CACHE).read_text()) if (root / CACHE).exists() else {}
    for name in names:
        index = SplitIndex.read(root / name)
        stale = bool(cache) and cache["splits"].get(name) != index.digest
        for number, entry in enumerate(index.shards):
            yield entry["num_clips"], check_clips(index.tar(number), entry, clip_of(index.clip))
            for kind in CACHES if cache else ():
                problems = [Problem(index.tar(number, kind), "", "is of other clips than the shard holds now")] if stale else []
                yield 0, problems + check_cache(index.tar(number, kind), kind, cache, index.tar(number))


def check_clips(tar: Path, entry: dict[str, Any], clip: ClipSpec) -> list[Problem]:
    """Problems of a shard of clips."""
    if not tar.exists():
        return [Problem(tar, "", "is missing")]
    problems = [] if file_digest(tar) == entry["sha256"] else [Problem(tar, "", "its content is not what the index says (SHA-256)")]
    shard = Shard.open(tar)
    if len(shard.members) != entry["num_clips"]:
        problems.append(Problem(tar, "", f"must hold {entry['num_clips']} clips, got {len(shard.members)}"))
    for key in shard.members:
        try:
            json.loads(shard.read(key, "json"))["video_prompt"]
            media = read_mp4(shard.read(key, "mp4"))
            got, wanted = (*media.frames.shape[:3], len(media.waveform)), (clip.num_frames, clip.height, clip.width, clip.num_samples)
            if got != wanted:
                problems.append(Problem(tar, key, f"must hold frames, rows, columns and samples {wanted}, got {got}"))
        except (ValueError, KeyError, TypeError, OSError) as error:
            problems.append(Problem(tar, key, f"{type(error).__name__}: {error}"))
    return problems


def check_cache(tar: Path, kind: str, cache: dict[str, Any], clips: Path) -> list[Problem]:
    """Problems of a shard of cached tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    if not tar.exists():
        return [Problem(tar, "", "is missing, although the cache is said to be finished")]
    shard, clip = Shard.open(tar), clip_of(cache["clip"])
    problems = []
    if shard.sha256 and file_digest(tar) != shard.sha256:
        problems.append(Problem(tar, "", "its content is not what was written (SHA-256)"))
    if shard.made_by not in ("", cache["recipe"]):
        problems.append(Problem(tar, "", f"was made by other networks than {CACHE} names"))
    shapes = {
        "latents": {"video": (clip.video_channels, *clip.latent_grid), "audio": (clip.num_audio_latents, clip.audio_channels)},
        "features": {"video": (clip.num_video_planned, clip.video_plan_width), "audio": (clip.num_audio_planned, clip.audio_plan_width)},
        "text": {"context": (None, clip.text_width)},
    }[kind]
    for key in Shard.open(clips).members if clips.exists() else shard.members:
        if key in cache["damaged"]:
            continue
        try:
            tensors = load_tensors(shard.read(key, cache_suffix(kind)))
        except (ValueError, OSError, SafetensorError) as error:
            problems.append(Problem(tar, key, f"{type(error).__name__}: {error}"))
            continue
        for name, shape in shapes.items():
            tensor = tensors.get(name)
            if tensor is None or len(shape) != tensor.ndim or any(s not in (None, n) for s, n in zip(shape, tensor.shape, strict=True)):
                problems.append(Problem(tar, key, f"{name} must be {shape}, got {None if tensor is None else tuple(tensor.shape)}"))
            elif not tensor.isfinite().all():
                problems.append(Problem(tar, key, f"{name} holds {int((~tensor.isfinite()).sum())} values that are not finite"))
    return problems
