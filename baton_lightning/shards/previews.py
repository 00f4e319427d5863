"""Previews of cached latents: mp4 files decoded by the codecs of the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from baton_lightning import hints
from baton_lightning.names import require_name, wrong_with
from baton_lightning.shards.format import BUCKETS, CACHE, Shard, SplitIndex, cache_suffix, read_root
from baton_lightning.shards.records import read_cache
from baton_lightning.shards.stored_clip import clip_of

Decoders = Mapping[str, Any]
"""Codecs by the name of their modality, ``video`` and ``audio``."""


def write_previews(root: Path, count: int, folder: Path, decoders_of: Callable[[dict[str, Any]], Decoders]) -> list[Path]:
    """Decodes cached latents of a few clips of every split, evenly spaced over its shards.

    Args:
        root: Folder of the set.
        count: Number of clips of each split and bucket.
        folder: Output folder of the mp4 files.
        decoders_of: Returns the codecs of a cache, given its record.

    Returns:
        The files; a clip without picture or sound is written without it.

    Raises:
        ValueError: If there is no cache.
    """
    import torch
    from safetensors.torch import load as load_tensors

    from baton_lightning.media import write_mp4

    if count < 1:
        raise ValueError(f"shards check: --previews must count at least one clip, got {count}")
    splits = {name: SplitIndex.read(root / name) for name in read_root(root)["splits"]}
    if not (root / CACHE).exists():
        raise ValueError(f"shards check: {root}/ has no cache to show; make it with {hints.predict(hints.ENCODE, root)}")
    cache = read_cache(root / CACHE)
    clip = clip_of(cache["clip"])
    decoders = decoders_of(cache)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for split, index in splits.items():
        for number, key, bucket in evenly(index, count, set(cache["damaged"])):
            shard = Shard.open(index.tar(number, "latents"))
            latents = {name: t.float()[None] for name, t in load_tensors(shard.read(key, cache_suffix("latents"))).items()}
            with torch.no_grad():
                frames = None if bucket == "audio" else decoders["video"].decode(latents["video"])[0].cpu().numpy()
                sound = None if bucket == "video" else decoders["audio"].decode(latents["audio"], clip.num_samples)[0].cpu().numpy()
            files.append(folder / f"{split}-{require_name(key, 'a key')}.mp4")
            write_mp4(files[-1], frames, clip.fps, sound, clip.sample_rate, pix_fmt="yuv420p")
    return files


def evenly(index: SplitIndex, count: int, damaged: set[str]) -> list[tuple[int, str, str]]:
    """Shard number, key and bucket of clips that are evenly spaced over a split, ``count`` of each bucket."""
    chosen = []
    for bucket in BUCKETS:
        numbers = [n for n, entry in enumerate(index.shards) if entry.get("bucket", BUCKETS[0]) == bucket]
        shards = {n: Shard.open(index.tar(n)) for n in numbers}
        places = [(n, key, bucket) for n, shard in shards.items() for key in shard.members if key not in damaged and not wrong_with(key)]
        chosen += [places[len(places) * i // count] for i in range(min(count, len(places)))] if len(places) > count else places
    return chosen
