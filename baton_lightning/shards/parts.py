"""One part of a build: a fixed slice of the recordings, judged, cut and encoded, whatever happens to the others.

A part is a tar like a shard, with every clip that passed, and notes on what became of every recording. It depends on its own
recordings alone, so parts may be made in any order, and those that were finished when a build was killed are found again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.clip import ClipSpec
from baton_lightning.shards.contract import Limits, content_digest, inspect
from baton_lightning.shards.cut import clip_starts, cut_picture, cut_sound, extent_of, suits_best
from baton_lightning.shards.format import VERSION, Shard, shard_name
from baton_lightning.shards.sources import Source
from baton_lightning.shards.writer import write_shard

if TYPE_CHECKING:
    from baton_lightning.shards.recording import Recording

PART = "part"
PART_SOURCES = 16
"""Recordings of a part: what a killed build may have to do again, for each worker."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of a set.

    Args:
        clips: Name of each geometry -> the geometry. A single one has the empty name.
        buckets: Kinds of clips that are taken, of ``av``, ``video`` and ``audio``.
        limits: What a clip must keep to.
        cut: ``all`` clips of a recording, or the ``first``.
        shard_clips: Clips in a shard, but for the last of its kind.
        sources: Digest of the list of recordings.
        codec_clips: Clips that the patch codec is fitted to; 0 fits none.
    """

    clips: dict[str, ClipSpec]
    buckets: tuple[str, ...]
    limits: Limits
    cut: str
    shard_clips: int
    sources: str
    codec_clips: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        return {"version": VERSION} | json.loads(json.dumps(asdict(self)))

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def make_part(folder: Path, number: int, sources: list[Source], base: Path, settings: Settings) -> Shard:
    """Makes a part, or finds it made.

    Args:
        folder: Where parts lie.
        number: Which one.
        sources: Its recordings.
        base: Folder that their names are relative to, as they are remembered.
        settings: What decides its content.

    Returns:
        The part; its notes hold ``clips``, in order, and ``rejected``.
    """
    tar = folder / shard_name(PART, number)
    if (made := Shard.finished(tar, settings.digest)) is not None:
        return made
    notes: dict[str, list[dict[str, Any]]] = {"clips": [], "rejected": []}

    def members() -> Iterator[tuple[str, dict[str, bytes]]]:
        for source in sources:
            for note, content in clips_of(source, name_of(source.file, base), settings):
                notes["rejected" if content is None else "clips"].append(note)
                if content is not None:
                    yield note["key"], content

    return write_shard(tar, members(), made_by=settings.digest, notes=notes)


def name_of(file: Path, base: Path) -> str:
    return str(file.relative_to(base)) if file.is_relative_to(base) else str(file)


def clips_of(source: Source, name: str, settings: Settings) -> Iterator[tuple[dict[str, Any], dict[str, bytes] | None]]:
    """What becomes of a recording: for each clip its note and its members, or why there are none."""
    from baton_lightning.media import MediaError
    from baton_lightning.shards.recording import read_recording

    def rejected(key: str, reason: str, detail: str, start: float, end: float | None) -> tuple[dict[str, Any], None]:
        seconds = {"start": round(start, 6), "end": None if end is None else round(end, 6)}
        return {"key": key, "file": name, "reason": reason, "detail": detail, **seconds}, None

    try:
        recording = read_recording(source.file, settings.limits.max_seconds)
    except MediaError as error:
        yield rejected(source.key, error.reason, error.detail.replace(str(source.file), name), source.start, source.end)
        return
    bucket = "video" if recording.waveform is None else "audio" if recording.frames is None else "av"
    if bucket not in settings.buckets:
        missing = {"video": "no_audio", "audio": "no_video", "av": "both"}[bucket]
        detail = f"is of bucket {bucket}; the set takes {', '.join(settings.buckets)}"
        yield rejected(source.key, missing, detail, source.start, source.end)
        return
    num_samples = 0 if recording.waveform is None else len(recording.waveform)
    times = None if recording.frames is None else recording.frame_times
    extent = extent_of(times, num_samples, recording.sample_rate, recording.audio_start, source.start, source.end)
    geometries = list(settings.clips)
    size = None if recording.frames is None else recording.frames.shape[1:3]
    chosen = suits_best([settings.clips[name] for name in geometries], extent, size)
    if chosen is None:
        shortest = min(clip.seconds for clip in settings.clips.values())
        yield rejected(source.key, "too_short", f"has {extent.seconds:.3f} s, a clip {shortest:g} s", source.start, source.end)
        return
    clip = settings.clips[geometries[chosen]]
    for i, start in enumerate(clip_starts(extent, clip, settings.cut)):
        key, end = f"{source.key}-{i:04d}", start + clip.seconds
        window = window_of(recording, start, end)
        violations = inspect(
            window, settings.limits, needs_video=bucket != "audio", needs_audio=bucket != "video", min_seconds=0.0
        )
        if violations:
            first = violations[0]
            yield rejected(key, first.reason, "; ".join(v.detail for v in violations), start, end)
            continue
        note = {"key": key, "file": name, "geometry": geometries[chosen], "split": source.split, "bucket": bucket}
        note |= {"start": round(start, 6), "end": round(end, 6), "digest": content_digest(window)}
        yield note, encoded(recording, start, clip, source, name, extent.seconds)
