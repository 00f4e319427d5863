"""One part of a build: a fixed slice of the recordings, inspected, cut and encoded independently of the other parts.

A part is a tar in the format of a shard. It holds every accepted clip, and notes on all accepted and rejected clips. A part depends only on
its own recordings. So parts may be made in any order, and a resumed build reuses the parts that were finished before it was killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from baton_lightning.clip import ClipSpec
from baton_lightning.media import MediaError, mp4_bytes
from baton_lightning.recordings.recording import Recording, read_recording
from baton_lightning.shards.captions import reason_untimed, speech_of_clip
from baton_lightning.shards.contract import Limits, Rejection, content_digest, decibel, inspect
from baton_lightning.shards.cut import clip_starts, cut_picture, cut_sound, extent_of, suits_best
from baton_lightning.shards.format import VERSION, Shard, shard_name
from baton_lightning.shards.source import Source
from baton_lightning.shards.writer import write_shard

PART = "part"
PART_SOURCES = 16
"""Number of recordings of a part. A resumed build repeats at most this many recordings for each worker."""
OF_A_CLIP = ("black_video", "frozen_video", "silent_audio", "clipping")
"""Reasons that concern a passage and not the whole file. They are checked for each clip separately."""


@dataclass(frozen=True)
class Settings:
    """Settings that determine the content of a set.

    Args:
        clips: Name of each geometry -> the geometry. A single geometry has the empty name.
        buckets: Buckets that the set holds, of ``av``, ``video`` and ``audio``.
        limits: Limits of the checks of recordings and clips.
        cut: ``all`` clips of a recording, or only the ``first`` one.
        shard_clips: Clips in a shard; the last shard of a bucket may have fewer.
        max_seconds: Largest duration that is read of a recording, or of a part of one, in s. It is held in memory as a whole.
        sources: Digest of the list of recordings.
        codec_clips: Number of clips to which the patch codec is fitted; 0 = no codec is fitted.
        repeat: Which texts without times may be repeated for each of several clips of a recording: ``none``, the ``caption``, or ``all``.
        audio_language: Language of the audio track, as the files name it; empty = their default track.
    """

    clips: dict[str, ClipSpec]
    buckets: tuple[str, ...]
    limits: Limits
    cut: str
    max_seconds: float
    shard_clips: int
    sources: str
    codec_clips: int = 0
    repeat: str = "none"
    audio_language: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, equal to what JSON returns after saving and loading."""
        return {"version": VERSION} | json.loads(json.dumps(asdict(self)))

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def make_part(folder: Path, number: int, sources: list[Source], base: Path, settings: Settings) -> Shard:
    """Makes a part, unless it exists.

    Args:
        folder: Folder of the parts.
        number: Number of the part.
        sources: Its recordings.
        base: Folder to which the recorded file names are relative.
        settings: Settings that determine its content.

    Returns:
        The part. Its notes hold the lists ``clips``, in order, and ``rejected``.
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
    """Clips of a recording. Yields the note and the members of each accepted clip, and the note and ``None`` for each rejection."""

    def rejected(key: str, reason: str, detail: str, start: float, end: float | None) -> tuple[dict[str, Any], None]:
        text = detail.replace(str(source.file), name)  # the text must not depend on where the folder is
        return {"key": key, "file": name, "reason": reason, "detail": text} | span(start, end), None

    try:
        if source.refused:
            raise Rejection("outside" if source.file.is_file() else "missing", source.refused.partition(": ")[2])
        recording = read_recording(source.file, settings.max_seconds, start=source.start, end=source.end, language=settings.audio_language)
        bucket = bucket_of(recording, settings.buckets)
        if source.start and not (len(recording.frame_times) if bucket != "audio" else recording.waveform.size):  # type: ignore[union-attr]
            raise Rejection("too_short", f"has nothing at {source.start:g} s, where the part starts")
        violations = inspect(recording, settings.limits, needs_video=bucket != "audio", needs_audio=bucket != "video")
        if broken := [violation for violation in violations if violation[0] not in OF_A_CLIP]:
            raise Rejection(broken[0][0], "; ".join(detail for _, detail in broken))
    except MediaError as error:
        yield rejected(source.key, error.reason, error.detail, source.start, source.end)
        return
    until = source.start + settings.max_seconds
    if recording.stopped and (source.end is None or source.end > until):
        yield rejected(source.key, "too_long", f"is not read beyond {until:g} s", until, source.end)
    times = recording.frame_times if bucket != "audio" else None
    num_samples = len(recording.waveform) if recording.waveform is not None and bucket != "video" else 0
    extent = extent_of(times, num_samples, recording.sample_rate, recording.audio_start, source.start, source.end)
    size = recording.size_on_screen if bucket != "audio" else None
    geometries = list(settings.clips)
    chosen = suits_best([settings.clips[geometry] for geometry in geometries], extent, size)
    if chosen is None:
        shortest = min(clip.seconds for clip in settings.clips.values())
        yield rejected(source.key, "too_short", f"has {extent.seconds:.3f} s, a clip {shortest:g} s", source.start, source.end)
        return
    clip = settings.clips[geometries[chosen]]
    starts = clip_starts(extent, clip, settings.cut)
    if why := reason_untimed(source, len(starts), settings.repeat):
        yield rejected(source.key, "untimed_text", why, source.start, source.end)
        return
    for i, start in enumerate(starts):
        key, end = f"{source.key}-{i:04d}", start + clip.seconds
        window = window_of(recording, start, end)
        violations = inspect(window, settings.limits, needs_video=bucket != "audio", needs_audio=bucket != "video")
        if broken := [violation for violation in violations if violation[0] in OF_A_CLIP]:
            yield rejected(key, broken[0][0], "; ".join(detail for _, detail in broken), start, end)
            continue
        note: dict[str, Any] = {"key": key, "file": name, "geometry": geometries[chosen], "split": source.split, "bucket": bucket}
        note["enlarged"] = bool(size and (size[0] < clip.height or size[1] < clip.width))
        note["upsampled"] = bucket != "video" and recording.sample_rate < clip.sample_rate
        yield note | span(start, end) | {"digest": content_digest(window)}, members_of(recording, bucket, start, clip, source, name)


def span(start: float, end: float | None) -> dict[str, float | None]:
    """Start and end in s, rounded as they are written."""
    return {"start": round(start, 6), "end": None if end is None else round(end, 6)}


def bucket_of(recording: Recording, wanted: tuple[str, ...]) -> str:
    """Bucket of a recording.

    A recording with picture and sound goes to ``av``. If ``av`` is not wanted, it goes to ``video`` or ``audio`` and loses the other
    modality.

    Raises:
        Rejection: If no wanted bucket fits its modalities.
    """
    has = {"video": recording.frames is not None, "audio": recording.waveform is not None}
    if all(has.values()) and "av" in wanted:
        return "av"
    for bucket in ("video", "audio"):
        if has[bucket] and bucket in wanted:
            return bucket
    missing = "video" if not has["video"] else "audio"
    raise Rejection(f"no_{missing}", f"there is no {missing} stream, and clips without one are not accepted ({', '.join(wanted)})")


def window_of(recording: Recording, start: float, end: float) -> Recording:
    """The part of a recording from ``start`` to ``end``, in s: its frames and samples."""
    frames, times, waveform = recording.frames, recording.frame_times, recording.waveform
    first, last = np.searchsorted(times, [start - 1e-6, end - 1e-6])
    first = min(first, max(last - 1, 0))
    if waveform is None:
        return replace(recording, frames=None if frames is None else frames[first:last], frame_times=times[first:last])
    low, high = (max(round((t - recording.audio_start) * recording.sample_rate), 0) for t in (start, end))
    return replace(
        recording, frames=None if frames is None else frames[first:last], frame_times=times[first:last], waveform=waveform[low:high],
        audio_start=recording.audio_start + low / recording.sample_rate,
    )  # fmt: skip


def members_of(recording: Recording, bucket: str, start: float, clip: ClipSpec, source: Source, name: str) -> dict[str, bytes]:
    """Members of a clip: the mp4 file, and a JSON file with its captions, source and measured values."""
    frames = sound = None
    known: dict[str, Any] = {"file": name, "start": round(start, 6)}
    measured: dict[str, float] = {}
    lengths = []
    if bucket != "audio":
        assert recording.frames is not None
        frames = cut_picture(recording.frames, recording.frame_times, start, clip, recording.pixel_aspect)
        rows, columns = recording.frames.shape[1:3]
        known |= {"fps": round(1 / float(np.median(np.diff(recording.frame_times))), 3), "height": rows, "width": columns}
        known |= {"pixel_aspect": round(recording.pixel_aspect, 6)} if recording.pixel_aspect != 1 else {}
        known |= {name: True for name in ("interlaced", "tone_mapped") if getattr(recording, name)}
        lengths.append(recording.video_end - float(recording.frame_times[0]))
        measured["motion"] = float(np.mean([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)]))
    if bucket != "video":
        assert recording.waveform is not None
        sound = cut_sound(recording.waveform, recording.sample_rate, recording.audio_start, start, clip)
        known |= {"sample_rate": recording.sample_rate, "channels": recording.waveform.shape[1]}
        lengths.append(recording.audio_end - recording.audio_start)
        measured["loudness"] = decibel(float(np.square(sound.astype(np.float64)).mean()))
    speech, speakers = speech_of_clip(source, start, clip.seconds)
    metadata = {
        "video_prompt": source.video_prompt,
        "audio_prompt": source.audio_prompt,
        "speakers": speakers,
        "speech": speech,
        "has_video": frames is not None,
        "has_audio": sound is not None,
        "fps": clip.fps,
        "sample_rate": clip.sample_rate,
        "seconds": clip.seconds,
        "source": known | {"seconds": round(min(lengths), 3)},
        "measured": {quantity: round(value, 3) for quantity, value in measured.items()},
    }
    movie = mp4_bytes(frames, clip.fps, sound, clip.sample_rate)
    return {"mp4": movie, "json": json.dumps(metadata).encode()}
