"""Check of all bytes of a data set.

The check compares digests. It decodes each clip and compares it with its geometry and the modalities of its bucket. It verifies that each
cached tensor is valid, and that the statistics of cached tensors are plausible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.clip import ClipSpec
from baton_lightning.media import read_mp4
from baton_lightning.names import quoted, wrong_with
from baton_lightning.shards.format import (
    BUCKETS,
    CACHES,
    PLANS,
    STATISTICS,
    Shard,
    SplitIndex,
    cache_record,
    cache_suffix,
    file_digest,
    read_root,
)  # fmt: skip
from baton_lightning.shards.records import MOST_CLIPS, metadata_of, read_cache
from baton_lightning.shards.stored_clip import clip_of

if TYPE_CHECKING:
    from baton_lightning.shards.moments import Moments


@dataclass(frozen=True)
class Problem:
    """A problem of a shard or a clip.

    Args:
        tar: Shard.
        key: Key of the clip; empty for a problem of the whole shard.
        reason: Description of the problem.
    """

    tar: Path
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.tar}: {self.key + ': ' if self.key else ''}{self.reason}"


def check_set(root: Path) -> Iterator[tuple[int, list[Problem]]]:
    """Checks one shard after another.

    Yields:
        Number of clips in the shard (0 for a shard of cached tensors), and its problems.

    Raises:
        ValueError: If there is no finished data set.
    """
    names = read_root(root)["splits"]
    records = {kind: root / cache_record(kind) for kind in (*CACHES, PLANS)}
    caches: dict[str, dict[str, Any]] = {kind: read_cache(file) for kind, file in records.items() if file.exists()}
    departed: dict[str, list[str]] = {}
    for name in names:
        index = SplitIndex.read(root / name)
        moments: dict[tuple[str, str], Moments] = {}
        for number, entry in enumerate(index.shards):
            yield entry["num_clips"], check_clips(index.tar(number), entry, clip_of(index.clip))
            for kind, cache in caches.items():
                stale = cache["splits"].get(name) != index.digest
                problems = [Problem(index.tar(number, kind), "", "is of other clips than the shard holds now")] if stale else []
                bucket = entry.get("bucket", BUCKETS[0])
                yield 0, problems + check_cache(index.tar(number, kind), kind, cache, index.tar(number), bucket, moments)
        if moments:
            yield 0, [Problem(root / name, "", text) for text in implausible(moments)]
            departed[name] = deviations_of(root, moments)
    if departed and all(departed.values()):  # the statistics belong to one split, usually `train`
        yield 0, [Problem(root / STATISTICS, "", text) for text in departed.get("train", next(iter(departed.values())))]


def implausible(moments: dict[tuple[str, str], Moments]) -> list[str]:
    """Implausible statistics of a split, as texts."""
    from baton_lightning.shards.moments import implausible_statistics

    return [text for (kind, name), sums in moments.items() for text in implausible_statistics(kind, name, sums)]


def deviations_of(root: Path, moments: dict[tuple[str, str], Moments]) -> list[str]:
    """Differences between the set's statistics and those of a split's features, as texts."""
    from baton_lightning.shards.moments import statistics_deviations

    return statistics_deviations(root / STATISTICS, {name: sums for (kind, name), sums in moments.items() if kind == "features"})


def check_clips(tar: Path, entry: dict[str, Any], clip: ClipSpec) -> list[Problem]:
    """Problems of a shard of clips."""
    if not tar.is_file():
        return [Problem(tar, "", "is missing")]
    if (size := tar.stat().st_size) != entry["num_bytes"]:
        problems = [Problem(tar, "", f"must have {entry['num_bytes']:,} bytes, got {size:,}")]
    else:
        problems = [] if file_digest(tar) == entry["sha256"] else [Problem(tar, "", "its content differs from the index (SHA-256)")]
    shard, bucket = Shard.open(tar), entry.get("bucket", BUCKETS[0])
    has_video, has_audio = bucket != "audio", bucket != "video"
    if bucket not in BUCKETS:
        problems.append(Problem(tar, "", f"its bucket must be {', '.join(BUCKETS)}, got {bucket}"))
    if len(shard.members) != entry["num_clips"]:
        problems.append(Problem(tar, "", f"must hold {entry['num_clips']} clips, got {len(shard.members)}"))
    for key in shard.members:
        if wrong := wrong_with(key):
            problems.append(Problem(tar, quoted(key), f"its key must be a name: {wrong}"))
            continue
        try:
            metadata = metadata_of(shard.read(key, "json"), "its json")
            if missing := {"video_prompt", "audio_prompt"} - metadata.keys():
                problems.append(Problem(tar, key, f"its json has no {', '.join(sorted(missing))}"))
            for name, has in (("has_video", has_video), ("has_audio", has_audio)):
                if metadata.get(name, True) != has:
                    problems.append(Problem(tar, key, f"its json says {name} = {metadata.get(name, True)}, its bucket is {bucket}"))
            media = read_mp4(shard.read(key, "mp4"), has_video=has_video, has_audio=has_audio, most_bytes=MOST_CLIPS * clip.media_bytes)
            got = (*media.frames.shape[:3], len(media.waveform))
            picture = (clip.num_frames, clip.height, clip.width) if has_video else (0, 0, 0)
            if got != (wanted := (*picture, clip.num_samples * has_audio)):
                problems.append(Problem(tar, key, f"must hold frames, rows, columns and samples {wanted}, got {got}"))
        except (ValueError, LookupError, TypeError, AttributeError, OSError, RuntimeError, MemoryError) as error:
            problems.append(Problem(tar, key, f"{type(error).__name__}: {error}"))
    return problems


def check_cache(
    tar: Path, kind: str, cache: dict[str, Any], clips: Path, bucket: str, moments: dict[tuple[str, str], Moments]
) -> list[Problem]:
    """Problems of a shard of cached tensors; valid tensors are added to the moments of (kind, modality).

    A clip without picture needs no video tensors, and a clip without sound needs no audio tensors. Existing tensors must be valid.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    from baton_lightning.shards.moments import Moments

    if not tar.is_file():
        return [Problem(tar, "", "is missing, although the cache is recorded as finished")]
    shard, clip = Shard.open(tar), clip_of(cache["clip"])
    problems = []
    if shard.sha256 and (tar.stat().st_size != shard.num_bytes or file_digest(tar) != shard.sha256):
        problems.append(Problem(tar, "", "its content was changed after it was written (SHA-256)"))
    if shard.made_by not in ("", cache["recipe"]):
        problems.append(Problem(tar, "", f"was not made by the networks that {cache_record(kind)} names"))
    planned: dict[str, tuple[int | None, ...]] = {
        "video": (clip.num_video_planned, clip.video_plan_width),
        "audio": (clip.num_audio_planned, clip.audio_plan_width),
    }
    shapes_of: dict[str, dict[str, tuple[int | None, ...]]] = {
        "latents": {"video": (clip.video_channels, *clip.latent_grid), "audio": (clip.num_audio_latents, clip.audio_channels)},
        "features": planned,
        PLANS: planned,
        "text": {"context": (None, clip.text_width)},
    }
    shapes = shapes_of[kind]
    for key in Shard.open(clips).members if clips.exists() else shard.members:
        if wrong_with(key):
            continue  # reported by `check_clips`
        if key in cache["damaged"]:
            if kind == CACHES[0]:
                problems.append(
                    Problem(tar, key, f"has no cached tensors, it could not be read when they were made: {cache['damaged'][key]}")
                )
            continue
        try:
            tensors = load_tensors(shard.read(key, cache_suffix(kind)))
        except (ValueError, OSError, MemoryError, SafetensorError) as error:
            problems.append(Problem(tar, key, f"{type(error).__name__}: {error}"))
            continue
        for name, shape in shapes.items():
            tensor, absent = tensors.get(name), kind != PLANS and {"video": "audio", "audio": "video"}.get(bucket) == name
            if tensor is None and absent:
                continue
            if tensor is None or len(shape) != tensor.ndim or any(s not in (None, n) for s, n in zip(shape, tensor.shape, strict=True)):
                problems.append(Problem(tar, key, f"{name} must be {shape}, got {None if tensor is None else tuple(tensor.shape)}"))
            elif not tensor.isfinite().all():
                problems.append(Problem(tar, key, f"{name} holds {int((~tensor.isfinite()).sum())} values that are not finite"))
            elif kind != "text" and not absent:
                moments.setdefault((kind, name), Moments()).add(tensor, 0 if (kind, name) == ("latents", "video") else -1)
    return problems
