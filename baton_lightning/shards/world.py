"""A data set of the benchmark world: real mp4s with their prompts and scenes, in shards, made by parallel processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from baton_lightning.clip import ClipSpec
from baton_lightning.media import mp4_bytes
from baton_lightning.runs.manifest import sha256, write_atomically
from baton_lightning.shards.format import INDEX, ShardError, offsets_path, write_tar
from baton_lightning.world.clips import make_clip

CODEC = "codec.safetensors"
CODEC_CLIPS = 192


def build_world(
    root: Path, clip: ClipSpec, *, splits: Mapping[str, int], tiers: Sequence[str], seed: int = 0, workers: int = 2, shard_size: int = 100
) -> dict[str, Any]:
    """Makes a data set, or finishes one that was interrupted: shards that exist are kept.

    Args:
        root: Folder of the data set.
        clip: Geometry.
        splits: Split -> number of clips. Tiers take turns.
        tiers: Tiers of the world.
        seed: Seed of the scenes.
        workers: Processes.
        shard_size: Clips a shard.

    Returns:
        The index, also written to ``index.json``, last.

    Raises:
        ShardError: If the folder holds a data set of other settings.
    """
    settings = {"clip": clip.to_dict(), "seed": seed, "tiers": list(tiers), "sizes": dict(splits), "shard_size": shard_size}
    plan = root / "build.json"
    if plan.exists() and (was := json.loads(plan.read_text())) != json.loads(json.dumps(settings)):
        differs = sorted(k for k in settings if was.get(k) != json.loads(json.dumps(settings[k])))
        raise ShardError(f"{root}/ was begun with other settings ({', '.join(differs)} differ); use the same ones or another folder")
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(plan, json.dumps(settings, indent=1))
    jobs = [
        (root / split / f"clips-{number:06d}.tar", split, start, min(start + shard_size, count), clip, tuple(tiers), seed)
        for split, count in splits.items()
        for number, start in enumerate(range(0, count, shard_size))
    ]
    todo = [job for job in jobs if not (job[0].exists() and offsets_path(job[0]).exists())]
    with ProcessPoolExecutor(workers) as pool, tqdm(total=sum(j[3] - j[2] for j in jobs), desc="clips", unit="clip") as bar:
        bar.update(sum(j[3] - j[2] for j in jobs if j not in todo))
        for made in pool.map(_write_shard, todo):
            bar.update(made)
    if not (root / CODEC).exists():
        fit_codec(root / CODEC, clip, tiers, seed)
    shards = {
        split: [{"name": j[0].name, "count": j[3] - j[2], "bytes": j[0].stat().st_size, "sha256": sha256(j[0])} for j in jobs if j[1] == split]
        for split in splits
    }
    index = {**settings, "splits": shards, "codec_sha256": sha256(root / CODEC)}
    write_atomically(root / INDEX, json.dumps(index, indent=1))
    return index


def _write_shard(job: tuple[Path, str, int, int, ClipSpec, tuple[str, ...], int]) -> int:
    """Makes one shard; returns its number of clips."""
    path, split, start, stop, clip, tiers, seed = job
    write_tar(path, _samples(split, start, stop, clip, tiers, seed))
    return stop - start


def _samples(split: str, start: int, stop: int, clip: ClipSpec, tiers: tuple[str, ...], seed: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    for number in range(start, stop):
        made = make_clip(seed, number // len(tiers), tiers[number % len(tiers)], clip, split)
        video = mp4_bytes(made.frames, clip.fps, made.waveform, clip.sample_rate)
        meta = {
            "video_prompt": made.video_prompt,
            "audio_prompt": made.audio_prompt,
            "tier": tiers[number % len(tiers)],
            "scene": made.scene.to_dict(),
            "fps": clip.fps,
            "sample_rate": clip.sample_rate,
            "seconds": clip.seconds,
        }
        yield made.key, {"mp4": video, "json": json.dumps(meta).encode()}


def fit_codec(path: Path, clip: ClipSpec, tiers: Sequence[str], seed: int) -> None:
    """Fits the patch codec to training clips and saves it."""
    from baton_lightning.world.codecs import PatchPCA

    frames = (make_clip(seed, i // len(tiers), tiers[i % len(tiers)], clip, "train").frames for i in range(CODEC_CLIPS))
    codec = PatchPCA.fit(tqdm(frames, total=CODEC_CLIPS, desc="codec", unit="clip"), channels=clip.video_channels)
    codec.save(path.with_name(path.name + ".part"))
    path.with_name(path.name + ".part").replace(path)
