"""Damage at run time: stepped over, the same way everywhere, named and counted, and fatal beyond a limit."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from baton_lightning.clip import ClipSpec
from baton_lightning.media import mp4_bytes
from baton_lightning.shards.format import Shard, record_of
from baton_lightning.shards.writer import write_shard
from datamodules.shard_dataset import ShardDataset
from datamodules.webshards import WebShards

CLIP = ClipSpec(text_tokens=2, text_width=3)
SetMaker = Callable[..., Path]
BAD = "train-0003"


def rewrite(tar: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Writes a tar again with members changed or left out, under its old name and recipe."""
    shard = Shard.open(tar)
    clips = []
    for key, members in shard.members.items():
        contents = {suffix: change(f"{key}.{suffix}", shard.read(key, suffix)) for suffix in members}
        clips.append((key, {suffix: content for suffix, content in contents.items() if content is not None}))
    write_shard(tar, clips, made_by=shard.made_by)


def truncate_tar(tar: Path) -> None:
    offset, _ = Shard.open(tar).members[BAD]["text.safetensors"]
    with tar.open("r+b") as file:
        file.truncate(offset + 10)


def only_bad(content: bytes | None) -> Callable[[Path], None]:
    return lambda tar: rewrite(tar, lambda name, old: content if name.startswith(BAD) else old)


DEFECTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated tar": (truncate_tar, r"text-000001.tar ends \d+ bytes before the end of train-0003.text"),
    "missing member": (only_bad(None), "text-000001.tar has no member train-0003"),
    "not safetensors": (only_bad(b"\x00" * 40), "SafetensorError"),
    "not finite": (only_bad(save({"context": torch.tensor([[0.0, float("nan"), 1.0]])})), "context holds 1 values that are not finite"),
    "wrong shape": (only_bad(save({"context": torch.zeros(1, 5)})), r"context must be \[1, 3\], got \[1, 5\]"),
    "wrong name": (only_bad(save({"rows": torch.zeros(1, 3)})), "KeyError: 'context'"),
}


@pytest.fixture(params=list(DEFECTS))
def damaged(request: pytest.FixtureRequest, make_set: SetMaker, tmp_path: Path) -> tuple[Path, str]:
    """A set whose clip 3 is broken; in the truncated tar it is the last one."""
    root = make_set(tmp_path / "set", [2, 2, 3])
    damage, reason = DEFECTS[request.param]
    damage(root / "train" / "text-000001.tar")
    return root, reason


def loaded(root: Path, workers: int = 0, **options: Any) -> WebShards:
    data = WebShards(CLIP, str(root), fields=("text",), **{"batch_size": 7, "seed": 1, "num_workers": workers} | options)
    data.setup("fit")
    return data


@pytest.mark.filterwarnings("ignore:skipped the clip")
def test_the_next_clip_stands_in_and_the_reason_is_kept(damaged: tuple[Path, str]) -> None:
    root, reason = damaged
    data = loaded(root)
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch.keys) == [f"train-{i:04d}" for i in (0, 1, 2, 4, 4, 5, 6)]
    assert [int(row) for row in batch.context[:, 0, 0]] == [int(key[-4:]) for key in batch.keys]
    assert batch.index.tolist() == list(range(7))
    (damage,) = data.train_dataset.damaged.values()
    assert damage.key == BAD and damage.shard.endswith("000001.tar") and re.search(reason, damage.reason)


@pytest.mark.filterwarnings("ignore:skipped the clip")
def test_reading_processes_and_ranks_replace_alike_and_the_count_comes_home(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [4, 4])
    rewrite(root / "train" / "text-000000.tar", lambda name, old: b"" if name.startswith(BAD) else old)
    alone, apart = loaded(root, batch_size=4), loaded(root, batch_size=4, workers=2)
    seen = [[batch.keys for batch in data.train_dataloader()] for data in (alone, apart)]
    assert seen[0] == seen[1]
    assert list(alone.train_dataset.damaged.values()) == list(apart.train_dataset.damaged.values()) != []


def test_each_damaged_clip_is_told_of_once(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [4, 4])
    rewrite(root / "train" / "text-000000.tar", lambda name, old: b"" if name.startswith(BAD) else old)
    data = loaded(root)
    with pytest.warns(UserWarning, match=r"skipped the clip train-0003 of clips-000000.tar \(1 of at most 10\)") as warned:
        for _ in range(3):
            data.train_dataset.batch(range(8))
    assert len(warned) == 1


@pytest.mark.filterwarnings("ignore:skipped the clip")
@pytest.mark.parametrize("workers", [0, 1])
def test_beyond_the_limit_the_run_stops_and_says_what_it_met(make_set: SetMaker, tmp_path: Path, workers: int) -> None:
    root = make_set(tmp_path / "set", [8])
    rewrite(root / "train" / "text-000000.tar", lambda name, old: b"" if int(name[6:10]) in (1, 4, 6) else old)
    assert len(list(loaded(root, batch_size=4, max_damaged=3, workers=workers).train_dataloader())) == 2
    with pytest.raises(ValueError, match="at most 2 clips of .* may be damaged, got 3, the first are train-000. of .*: SafetensorError"):
        list(loaded(root, batch_size=4, max_damaged=2, workers=workers).train_dataloader())


def test_what_the_index_tells_is_known_before_training_on_every_rank_alike(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [6])
    tar = root / "train" / "text-000000.tar"
    with tar.open("r+b") as file:
        file.truncate(Shard.open(tar).members["train-0002"]["text.safetensors"][0])
    with pytest.raises(ValueError, match="at most 1 clips of .* may be damaged, got 4"), pytest.warns(UserWarning, match="skipped"):
        loaded(root, max_damaged=1)


# ---- clips themselves
def movie(clip: ClipSpec = CLIP, frames: int | None = None, samples: int | None = None) -> bytes:
    pictures = np.full((frames or clip.num_frames, clip.height, clip.width, 3), 90, np.uint8)
    return mp4_bytes(pictures, clip.fps, np.zeros(samples or clip.num_samples, np.float32), clip.sample_rate)


@pytest.mark.filterwarnings("ignore:skipped the clip")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: movie()[:3000], "MediaError: (unreadable|corrupt|truncated)"),
        (lambda: b"", "MediaError: unreadable"),
        (lambda: movie(frames=21), "the picture has 21 frames .* the clip 25"),
        (lambda: movie(samples=20000), "the sound has 20000 samples .* the clip 32000"),
        (lambda: movie(ClipSpec(height=48)), "of 48 x 32"),
        (lambda: movie(ClipSpec(fps=24)), "at 24 fps"),
        (lambda: movie(ClipSpec(height=96, width=96)), "MediaError: too_large"),
        (lambda: movie(samples=200_000), "MediaError: too_large"),
    ],
)
def test_a_clip_that_is_not_the_geometry_s_is_damaged(
    make_set: SetMaker, tmp_path: Path, content: Callable[[], bytes], reason: str
) -> None:
    root = make_set(tmp_path / "set", [3], splits=["train"])
    movies = {"train-0000.mp4": movie(), "train-0001.mp4": content(), "train-0002.mp4": movie()}
    rewrite(root / "train" / "clips-000000.tar", lambda name, old: movies.get(name, old))
    kept = ShardDataset(root / "train", CLIP, ["media"])
    batch = kept.batch(range(3))
    assert batch.keys == ["train-0000", "train-0002", "train-0002"] and batch.has_video is None
    assert batch.frames.shape == (3, 25, 32, 32, 3) and batch.waveform.shape == (3, 32000)
    assert re.search(reason, kept.damaged["train-0001"].reason)
    blank = ShardDataset(root / "train", CLIP, ["media"], replace=False).batch(range(3))
    assert blank.keys == ["train-0000", "train-0001", "train-0002"] and blank.has_video.tolist() == [True, False, True]


@pytest.mark.filterwarnings("ignore:skipped the clip")
def test_a_hundred_mutations_never_crash_and_every_loss_is_counted(make_set: SetMaker, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    root = make_set(tmp_path / "set", [6], splits=["train"])
    tar, lost = root / "train" / "text-000000.tar", 0
    original, record = tar.read_bytes(), record_of(tar).read_text()
    for _ in range(100):
        content = bytearray(original)
        if random.random() < 0.5:
            for place in random.integers(0, len(content), 40):
                content[place] ^= 1 << int(random.integers(8))
        else:
            content = content[: int(random.integers(1, len(content)))]
        tar.write_bytes(content)
        record_of(tar).unlink(missing_ok=True) if random.random() < 0.3 else record_of(tar).write_text(record)
        try:
            dataset = ShardDataset(root / "train", CLIP, ["text"], max_damaged=5)
            keys = dataset.batch(range(6)).keys
        except ValueError as error:
            assert re.search("may be damaged, got 6|must hold 6 clips", str(error))
            continue
        lost += len(dataset.damaged)
        assert len(set(keys)) == 6 - len(dataset.damaged) and not set(keys) & set(dataset.damaged)
    assert lost > 50


def test_tars_stay_readable_by_plain_tar_and_prompts_by_plain_json(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [2], splits=["train"])
    with tarfile.open(fileobj=BytesIO((root / "train" / "clips-000000.tar").read_bytes())) as archive:
        assert archive.getnames() == [f"train-000{i}.{suffix}" for i in (0, 1) for suffix in ("json", "mp4")]
        assert json.load(archive.extractfile("train-0001.json"))["video_prompt"] == "train-0001"
