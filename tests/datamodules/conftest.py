"""Data sets small enough to make in a test: texts only, in real tars."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import CACHE, VERSION, SplitIndex, write_json
from baton_lightning.shards.writer import write_shard

SetMaker = Callable[..., Path]


def make_text_set(
    root: Path,
    sizes: Sequence[int],
    splits: Sequence[str] = ("train", "val"),
    clip: ClipSpec | None = None,
    buckets: Sequence[str] | None = None,
) -> Path:
    """A set whose clips have prompts and a one-row context; ``sizes`` are clips in each shard, ``buckets`` their kinds."""
    clip = clip or ClipSpec(text_tokens=2, text_width=3)
    index = {"version": VERSION, "splits": {}}
    for split in splits:
        (root / split).mkdir(parents=True)
        entries, count = [], 0
        for number, size in enumerate(sizes):
            keys = [f"{split}-{count + i:04d}" for i in range(size)]
            texts = {k: json.dumps({"video_prompt": k, "audio_prompt": ""}).encode() for k in keys}
            shard = write_shard(root / split / f"clips-{number:06d}.tar", ((k, {"json": texts[k], "mp4": b""}) for k in keys))
            rows = ((k, {"text.safetensors": save({"context": torch.full((1, 3), float(count + i))})}) for i, k in enumerate(keys))
            write_shard(root / split / f"text-{number:06d}.tar", rows, made_by="networks")
            entry = {"name": shard.tar.name, "num_clips": size, "num_bytes": shard.num_bytes, "sha256": shard.sha256}
            entries.append(entry if buckets is None else entry | {"bucket": buckets[number]})
            count += size
        content = SplitIndex(root / split, count, 2.0 * count, clip.to_dict(), entries)
        content.write()
        index["splits"][split] = {"num_clips": count, "sha256": content.digest}
    write_json(root / "index.json", index)
    digests = {split: entry["sha256"] for split, entry in index["splits"].items()}
    write_json(root / CACHE, {"version": VERSION, "recipe": "networks", "clip": clip.to_dict(), "splits": digests, "damaged": {}})
    return root


@pytest.fixture(scope="session")
def make_set() -> SetMaker:
    return make_text_set
