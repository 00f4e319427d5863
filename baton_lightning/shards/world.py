"""Building of data sets of the benchmark world.

A shard depends only on the recipe and its number. So workers may build shards in any order, a killed build resumes, and its result is
byte-identical to that of an uninterrupted build. The index of the set is written last and marks the set as complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import BUCKETS, CLIPS, VERSION, Shard, SplitIndex, file_digest, shard_name, write_json
from baton_lightning.shards.lock import hold_lock
from baton_lightning.shards.workers import run_jobs
from baton_lightning.shards.writer import write_shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = {"train": 2000, "val": 100, "test": 100}
BENCHMARK = ("test", "ood")
"""Splits whose scenes are counted within their tier. So clip i of a tier does not depend on which other tiers the set has."""
TIERS = ("single", "multi")
CODEC = "codec.safetensors"
CODEC_CLIPS = 256
"""Number of training clips to which the patch codec is fitted."""
QUANTISER = 12
"""Quantisation parameter of H.264; it gives 46 dB at 32 pixels."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of a split, which determines its content.

    Args:
        clip: Geometry.
        split: ``train``, ``val``, ``test`` or ``ood``; different splits have different scenes.
        tiers: Tiers; clip i has tier i modulo their number.
        seed: Seed of the scenes.
        shard_clips: Clips in a shard; the last shard may have fewer.
        references: Whether scenes and prompts have references to earlier events.
        jitter: Largest random delay before each event, in s, of which prompts do not tell.
    """

    clip: ClipSpec
    split: str
    tiers: tuple[str, ...]
    seed: int
    shard_clips: int
    references: bool = False
    jitter: float = 0.0

    @property
    def digest(self) -> str:
        content = [VERSION, self.clip.to_dict(), self.split, self.tiers, self.seed, self.shard_clips, QUANTISER]
        content += ["counted by tier"] * (self.split in BENCHMARK) + ["references"] * self.references
        content += [{"jitter": self.jitter}] if self.jitter else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def build_world(
    out: str | Path,
    clip: ClipSpec,
    splits: Mapping[str, int] | None = None,
    tiers: Sequence[str] = TIERS,
    seed: int = 0,
    workers: int = 2,
    shard_clips: int = 100,
    references: bool = False,
    jitter: float = 0.0,
    codec: Path | None = None,
) -> Path:
    """Builds every split, fits the patch codec to training clips, and writes the set's index.

    Args:
        out: Folder of the set. Existing shards of the same recipe are kept.
        clip: Geometry.
        splits: Number of clips of each split, over all tiers.
        tiers: Tiers; they alternate from clip to clip.
        seed: Seed of the scenes.
        workers: Number of worker processes, each with one thread; 0 = this process.
        shard_clips: Clips in a shard.
        references: Whether most prompts with several events have references to earlier events.
        jitter: Largest random delay before each event, in s, of which prompts do not tell.
        codec: Patch codec of another set, which is copied; ``None`` = one is fitted to training clips.

    Returns:
        The set's ``index.json``.

    Raises:
        ValueError: If the folder holds clips of another recipe, or a number is out of range.
    """
    from tqdm import tqdm

    out, splits = Path(out), {name: count for name, count in (splits or SPLITS).items() if count}
    if not splits or min(splits.values()) < 0 or shard_clips < 1 or workers < 0 or not tiers or not 0 <= jitter < clip.seconds:
        raise ValueError(f"shards world: needs clips, tiers, shard_clips >= 1, workers >= 0 and a jitter from 0 s to less than a clip, got "
                         f"splits={splits}, tiers={tiers}, shard_clips={shard_clips}, workers={workers}, jitter={jitter}")  # fmt: skip
    with hold_lock(out, "shards world"):
        index: dict[str, Any] = {"version": VERSION, "kind": "world", "seed": seed, "tiers": list(tiers)}
        index |= {"shard_clips": shard_clips, "clip": clip.to_dict()}
        index |= ({"references": True} if references else {}) | ({"jitter": jitter} if jitter else {})
        jobs: list[tuple[Path, Recipe, int, int]] = []
        for split, count in splits.items():
            recipe = Recipe(clip, split, tuple(tiers), seed, shard_clips, references, jitter)
            (out / split).mkdir(parents=True, exist_ok=True)
            refuse_other_recipe(out / split, recipe)
            jobs += [(out / split, recipe, first, min(first + shard_clips, count)) for first in range(0, count, shard_clips)]
        built: dict[tuple[str, str], Shard] = {}
        with tqdm(total=sum(splits.values()), desc=f"clips {out}", unit="clip", mininterval=1) as bar:
            for shard in run_jobs(build_shard, jobs, workers):
                built[shard.tar.parent.name, shard.tar.name] = shard
                bar.update(len(shard.members))
        entries = {}
        for split, count in splits.items():
            shards = [shard for (folder, _), shard in sorted(built.items()) if folder == split]
            listed = [{"name": s.tar.name, "num_clips": len(s.members), "num_bytes": s.num_bytes, "sha256": s.sha256} for s in shards]
            content = SplitIndex(out / split, count, count * clip.seconds, clip.to_dict(), listed)
            content.write()
            entries[split] = {"num_clips": count, "seconds": content.seconds, "sha256": content.digest}
        made = fit_codec(out, clip, "train" if "train" in splits else next(iter(splits))) if codec is None else copy_codec(codec, out, clip)
        index |= {"splits": entries, "codec": made}
        write_json(out / "index.json", index)
        return out / "index.json"


def refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    """Removes incomplete files of a killed build, and refuses shards of another recipe."""
    for aside in folder.glob(".*.part"):
        aside.unlink()
    for tar in sorted(folder.glob(f"{CLIPS}-*.tar")):
        made_by = Shard.open(tar).made_by
        if made_by and made_by != recipe.digest:
            raise ValueError(
                f"shards world: {tar} was made with another clip geometry, seed (this command: {recipe.seed}), tiers "
                f"({', '.join(recipe.tiers)}), references, jitter or shard size; build into another folder, or delete {folder.parent}/"
            )


def build_shard(folder: Path, recipe: Recipe, first: int, last: int) -> Shard:
    """Builds the shard of clips ``first`` to ``last`` - 1, unless it exists."""
    tar = folder / shard_name(CLIPS, first // recipe.shard_clips)
    shard = Shard.finished(tar, recipe.digest)
    if shard is not None and len(shard.members) == last - first:
        return shard
    return write_shard(tar, (clip_members(recipe, i) for i in range(first, last)), made_by=recipe.digest)


def clip_members(recipe: Recipe, index: int) -> tuple[str, dict[str, bytes]]:
    """Key and members of one clip."""
    from baton_lightning.media import mp4_bytes
    from baton_lightning.world.clips import make_clip

    clip, tier = recipe.clip, recipe.tiers[index % len(recipe.tiers)]
    number = index // len(recipe.tiers) if recipe.split in BENCHMARK else index
    made = make_clip(recipe.seed, number, tier, clip, recipe.split, references=recipe.references, jitter=recipe.jitter)
    speakers = dict.fromkeys(event.actor for event in made.scene.events if event.kind == "says")
    metadata: dict[str, Any] = {
        "video_prompt": made.video_prompt,
        "audio_prompt": made.audio_prompt,
        "speakers": list(speakers),
        "fps": clip.fps,
        "sample_rate": clip.sample_rate,
        "seconds": clip.seconds,
        "tier": tier,
        "scene": made.scene.to_dict(),
    }
    movie = mp4_bytes(made.frames, clip.fps, made.waveform, clip.sample_rate, qp=QUANTISER)
    return made.key, {"mp4": movie, "json": json.dumps(metadata).encode()}


def fit_codec(out: Path, clip: ClipSpec, split: str, num_clips: int = CODEC_CLIPS) -> dict[str, str] | None:
    """Fits the patch codec to the first clips of a split and returns its file and digest; ``None`` if the geometry has other strides."""
    from baton_lightning.world.codecs import PatchPCA

    if clip.video_stride != (PatchPCA.frames_per_patch, PatchPCA.pixels_per_patch):
        return None
    codec = PatchPCA.fit(first_frames(SplitIndex.read(out / split), num_clips), channels=clip.video_channels)
    codec.save(out / CODEC)
    return {"file": CODEC, "sha256": file_digest(out / CODEC)}


def copy_codec(file: Path, out: Path, clip: ClipSpec) -> dict[str, str]:
    """Copies a patch codec into a set and returns its file and digest.

    Raises:
        ValueError: If it cannot be read, or has another number of channels.
    """
    from safetensors import SafetensorError

    from baton_lightning.world.codecs import PatchPCA

    try:
        codec = PatchPCA(str(file))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"shards world: --codec must be the codec.safetensors of a set of the world, got {file}: {error}") from error
    if (channels := codec.basis.shape[1]) != clip.video_channels:
        raise ValueError(f"shards world: --codec {file} has {channels} channels; give --channels {channels}")
    codec.save(out / CODEC)
    return {"file": CODEC, "sha256": file_digest(out / CODEC)}


def first_frames(index: SplitIndex, count: int) -> Iterable[NDArray[np.uint8]]:
    """Pictures of the first ``count`` clips."""
    from baton_lightning.media import read_mp4

    for number, entry in enumerate(index.shards):
        shard, bucket = Shard.open(index.tar(number)), entry.get("bucket", BUCKETS[0])
        for key in shard.members if bucket != "audio" else ():
            if not count:
                return
            yield read_mp4(shard.read(key, "mp4"), has_audio=bucket != "video").frames
            count -= 1
