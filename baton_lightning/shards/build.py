"""Builds a data set from recordings.

    1. parts     16 recordings each: read, cut into clips, inspected and encoded; kept in OUT/.build/ until the build is finished
    2. decision  in the order of the list: a clip with the content of an earlier clip is a duplicate; written to OUT/rejected.jsonl
    3. shards    the accepted clips of a split and bucket, in order, a fixed number per shard; copied from the parts

A part depends only on its recordings, the decision only on the parts, and shards only on the decision. So workers may process them in any
order, a killed build resumes, and its result is byte-identical to that of an uninterrupted build. OUT/build.json holds the settings
from the start of the build, and the report after its end.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.shards.format import BUCKETS, CLIPS, VERSION, Shard, SplitIndex, shard_name, write_json
from baton_lightning.shards.lock import hold_lock
from baton_lightning.shards.parts import PART, PART_SOURCES, Settings, make_part
from baton_lightning.shards.records import BUILD, read_build
from baton_lightning.shards.source import Source
from baton_lightning.shards.stored_clip import clip_of
from baton_lightning.shards.workers import run_jobs
from baton_lightning.shards.writer import write_shard

REJECTED, WORK = "rejected.jsonl", ".build"

Note = dict[str, Any]
"""Record of an accepted or rejected clip."""


def build_set(sources: list[Source], base: Path, out: Path, settings: Settings, workers: int = 2) -> dict[str, Any]:
    """Builds a set, or resumes a build.

    Args:
        sources: Recordings, in order.
        base: Folder to which their names are relative.
        out: Folder of the set; with several geometries, one set in each folder ``out/<name>``.
        settings: Settings that determine the content.
        workers: Number of worker processes, each with one thread; 0 = this process.

    Returns:
        The report: number of ``clips`` of each geometry, split and bucket, and number of ``rejected`` clips for each reason.

    Raises:
        ValueError: If the folder holds a set with other settings, a setting is out of range, or all clips were rejected.
    """
    require_in_range(settings, workers)
    with hold_lock(out, "shards build"):
        return _build_set(sources, base, out, settings, workers)


def _build_set(sources: list[Source], base: Path, out: Path, settings: Settings, workers: int) -> dict[str, Any]:
    from tqdm import tqdm

    if (report := begin(out, settings)) is not None:
        return report
    work = out / WORK
    slices = [sources[i : i + PART_SOURCES] for i in range(0, len(sources), PART_SOURCES)]
    with tqdm(total=len(sources), desc=f"recordings {out}", unit="file", mininterval=1) as bar:
        for made in run_jobs(make_part, [(work, n, part, base, settings) for n, part in enumerate(slices)], workers):
            bar.update(len(slices[int(made.tar.stem.rpartition("-")[2])]))
    accepted, rejected = decide(work / shard_name(PART, number) for number in range(len(slices)))
    atomic.write_text(out / REJECTED, "".join(json.dumps(note) + "\n" for note in rejected))
    reasons = Counter(note["reason"] for note in rejected)
    if not accepted:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        main = reasons.most_common(1)[0][0]
        first = next(note for note in rejected if note["reason"] == main)
        raise ValueError(
            f"shards build: no clip passed ({counts}); {out / REJECTED} names every one, e.g. {first['file']}: {first['detail']}; "
            f"change the settings or the recordings, and delete {out}/ or build into another folder"
        )
    coarser = {name: sum(note[name] for note in accepted) for name in ("enlarged", "upsampled")}
    report = {"clips": {}, "rejected": dict(sorted(reasons.items()))} | coarser
    with tqdm(total=len(accepted), desc=f"shards {out}", unit="clip", mininterval=1) as bar:
        for geometry in settings.clips:
            mine = [note for note in accepted if note["geometry"] == geometry]
            if mine:
                report["clips"][geometry] = write_set(out / geometry, work, geometry, mine, settings, workers, bar)
    if settings.codec_clips and len(report["clips"]) > 1:
        fit_common_codec(out, report["clips"], settings.codec_clips)
    write_json(out / BUILD, {"settings": settings.to_dict(), "report": report})
    shutil.rmtree(work)
    return report


def require_in_range(settings: Settings, workers: int) -> None:
    """Refuses settings that are out of range."""
    if not settings.max_seconds >= min(clip.seconds for clip in settings.clips.values()):
        raise ValueError(f"shards build: --max-seconds must be at least the duration of a clip, got {settings.max_seconds:g}")
    if settings.shard_clips < 1 or workers < 0 or settings.codec_clips < 0:
        raise ValueError(f"shards build: needs shard size >= 1, workers >= 0 and codec clips >= 0, got {settings.shard_clips}, {workers}, "
                         f"{settings.codec_clips}")  # fmt: skip
    if not settings.buckets or set(settings.buckets) - set(BUCKETS):
        raise ValueError(f"shards build: buckets must be among {', '.join(BUCKETS)}, got {', '.join(settings.buckets) or 'none'}")


def begin(out: Path, settings: Settings) -> dict[str, Any] | None:
    """Starts a build in a folder, or resumes one with the same settings.

    Returns:
        The report of the build, if it is finished already; otherwise ``None``.

    Raises:
        ValueError: If the folder holds another data set or a build with other settings.
    """
    record = out / BUILD
    if not record.exists():
        if (out / "index.json").exists() or next(out.glob(f"*/{CLIPS}-*.tar"), None):
            raise ValueError(f"shards build: {out}/ holds a data set that was not built from recordings; build into another folder")
        try:
            (out / WORK).mkdir(parents=True, exist_ok=True)
            write_json(record, {"settings": settings.to_dict(), "report": None})
        except OSError as error:
            raise ValueError(f"shards build: {out}/ must be a folder that can be written to, and is not ({error.strerror})") from error
        return None
    content = read_build(out)
    was, now = flat(content["settings"]), flat(settings.to_dict())
    if differs := [
        f"{name}: {was.get(name)} -> {now.get(name)}" for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)
    ]:
        more = f" and {len(differs) - 4} more" if len(differs) > 4 else ""
        raise ValueError(f"shards build: {out}/ was built with other settings ({'; '.join(differs[:4])}{more}); build into another folder, "
                         f"or delete {out}/")  # fmt: skip
    if content["report"] is not None:
        shutil.rmtree(out / WORK, ignore_errors=True)
        return content["report"]
    (out / WORK).mkdir(exist_ok=True)
    for aside in out.rglob(".*.part"):
        aside.unlink(missing_ok=True)
    return None


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings flattened to dotted names."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {name: v for key, child in values.items() for name, v in flat(child, ".".join(filter(None, (prefix, key)))).items()}


def decide(parts: Iterable[Path]) -> tuple[list[Note], list[Note]]:
    """Accepted and rejected clips of all parts, in order. Of several clips with the same content, the first one is accepted."""
    accepted: list[Note] = []
    rejected: list[Note] = []
    first: dict[str, str] = {}
    for tar in parts:
        notes = Shard.open(tar).notes
        rejected += notes["rejected"]
        for note in notes["clips"]:
            known = first.setdefault(note["digest"], note["key"])
            if known == note["key"]:
                accepted.append(note | {"part": tar.name})
            else:
                same = {"reason": "duplicate", "detail": f"has the content of {known}"}
                rejected.append({name: note[name] for name in ("key", "file")} | same | {name: note[name] for name in ("start", "end")})
    return accepted, rejected


def write_set(
    root: Path, work: Path, geometry: str, notes: list[Note], settings: Settings, workers: int, bar: Any
) -> dict[str, dict[str, int]]:
    """Writes the shards and indices of one geometry.

    Returns:
        Number of clips of each split and bucket.
    """
    from baton_lightning.shards.world import fit_codec

    clip, made_by = settings.clips[geometry], settings.digest
    counts: dict[str, dict[str, int]] = {}
    jobs, kinds = [], {}
    for split in sorted({note["split"] for note in notes}, key=split_order):
        (root / split).mkdir(parents=True, exist_ok=True)
        number = 0
        for bucket in BUCKETS:
            mine = [note for note in notes if (note["split"], note["bucket"]) == (split, bucket)]
            if mine:
                counts.setdefault(split, {})[bucket] = len(mine)
            for begin in range(0, len(mine), settings.shard_clips):
                chosen = mine[begin : begin + settings.shard_clips]
                picks = [(work / part, [note["key"] for note in run]) for part, run in groupby(chosen, lambda note: note["part"])]
                tar = root / split / shard_name(CLIPS, number)
                jobs.append((tar, picks, made_by))
                kinds[tar] = bucket
                number += 1
    made: dict[Path, Shard] = {}
    for shard in run_jobs(copy_clips, jobs, workers):
        made[shard.tar] = shard
        bar.update(len(shard.members))
    entries = {}
    for split in counts:
        shards = [made[tar] for tar, *_ in jobs if tar.parent.name == split]
        sizes = [{"name": s.tar.name, "num_clips": len(s.members), "num_bytes": s.num_bytes, "sha256": s.sha256} for s in shards]
        listed = [entry | {"bucket": kinds[shard.tar]} for entry, shard in zip(sizes, shards, strict=True)]
        total = sum(counts[split].values())
        index = SplitIndex(root / split, total, total * clip.seconds, clip.to_dict(), listed)
        index.write()
        entries[split] = {"num_clips": total, "seconds": index.seconds, "sha256": index.digest}
    codec = fit_codec(root, clip, next(iter(entries)), settings.codec_clips) if settings.codec_clips else None
    described = {"version": VERSION, "kind": "recordings", "build": made_by, "shard_clips": settings.shard_clips, "clip": clip.to_dict()}
    write_json(root / "index.json", described | {"splits": entries, "codec": codec})
    return counts


def fit_common_codec(out: Path, sets: Mapping[str, Mapping[str, Any]], num_clips: int) -> None:
    """Fits the patch codec to clips of all geometries, for runs that train on all; nothing is written if the geometry has other strides.

    Args:
        out: Folder of the sets, and of the codec.
        sets: Geometry -> its splits.
        num_clips: Clips to which it is fitted, an equal number of each geometry.
    """
    from baton_lightning.shards.world import CODEC, first_frames
    from baton_lightning.world.codecs import PatchPCA

    indices = [SplitIndex.read(out / geometry / next(iter(splits))) for geometry, splits in sets.items()]
    clip = clip_of(indices[0].clip)
    if clip.video_stride == (PatchPCA.frames_per_patch, PatchPCA.pixels_per_patch):
        frames = chain.from_iterable(first_frames(index, max(1, num_clips // len(indices))) for index in indices)
        PatchPCA.fit(frames, channels=clip.video_channels).save(out / CODEC)


def split_order(split: str) -> tuple[int, str]:
    """Sort key of splits: ``train``, ``val``, ``test``, then all others by name."""
    usual = ("train", "val", "test")
    return (usual.index(split) if split in usual else len(usual), split)


def copy_clips(tar: Path, picks: list[tuple[Path, list[str]]], made_by: str) -> Shard:
    """Writes a shard of clips that are copied from parts, unless the shard exists."""
    shard = Shard.finished(tar, made_by)
    if shard is not None and len(shard.members) == sum(len(keys) for _, keys in picks):
        return shard

    def members() -> Iterable[tuple[str, dict[str, bytes]]]:
        for file, keys in picks:
            part = Shard.open(file)
            yield from ((key, {suffix: part.read(key, suffix) for suffix in part.members[key]}) for key in keys)

    return write_shard(tar, members(), made_by=made_by)
