"""Sets of the benchmark world: built in any order, killed at any time, always the same; and checked to the last byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.media import read_mp4
from baton_lightning.shards.format import Shard, SplitIndex, file_digest, read_root
from baton_lightning.shards.world import build_world
from baton_lightning.shards.writer import write_shard
from baton_lightning.verbs.shards import main
from baton_lightning.world.clips import make_clip
from baton_lightning.world.parse import parse_prompts
from baton_lightning.world.vocabulary import FIRST_EVENT

CLIP = ClipSpec()
COUNTS = {"train": 9, "val": 3, "test": 2}


def build(out: Path, workers: int = 0, **options: object) -> Path:
    build_world(out, CLIP, COUNTS, seed=1, workers=workers, shard_clips=4, **options)  # type: ignore[arg-type]
    return out


def digests(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): file_digest(file) for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world") / "set")


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "copy")


def test_the_index_counts_what_the_shards_hold(built: Path) -> None:
    root = read_root(built)
    assert {name: entry["num_clips"] for name, entry in root["splits"].items()} == COUNTS
    assert root["clip"] == CLIP.to_dict() and root["codec"]["sha256"] == file_digest(built / "codec.safetensors")
    for name, entry in root["splits"].items():
        index = SplitIndex.read(built / name)
        assert (index.digest, index.num_clips, index.seconds) == (entry["sha256"], COUNTS[name], 2.0 * COUNTS[name])
        assert sum(shard["num_clips"] for shard in index.shards) == COUNTS[name]
        for number, shard in enumerate(index.shards):
            assert (index.tar(number).stat().st_size, file_digest(index.tar(number))) == (shard["num_bytes"], shard["sha256"])


def test_a_clip_on_disk_is_the_clip_of_its_scene(built: Path) -> None:
    shard = Shard.open(built / "val" / "clips-000000.tar")
    key = list(shard.members)[1]
    made, media = make_clip(1, 1, "multi", CLIP, "val"), read_mp4(shard.read(key, "mp4"))
    metadata = json.loads(shard.read(key, "json"))
    assert key == made.key and metadata["scene"] == json.loads(json.dumps(made.scene.to_dict()))
    assert (metadata["video_prompt"], metadata["audio_prompt"], metadata["tier"]) == (made.video_prompt, made.audio_prompt, "multi")
    assert metadata["speakers"] == list(dict.fromkeys(e.actor for e in made.scene.events if e.kind == "says"))
    assert np.abs(media.frames.astype(int) - made.frames).mean() < 1
    assert np.abs(media.waveform - made.waveform).mean() < 0.003


def test_a_tiers_test_set_does_not_depend_on_the_tiers_beside_it(built: Path, tmp_path: Path) -> None:
    build_world(tmp_path / "set", CLIP, {"test": 6, "ood": 3}, ("single", "multi", "talk"), seed=1, workers=0)
    shard, before = (Shard.open(root / "test" / "clips-000000.tar") for root in (tmp_path / "set", built))
    assert set(shard.members) == {f"test-{tier}-1-{i:06d}" for tier in ("single", "multi", "talk") for i in range(2)}
    for key in before.members:
        assert shard.read(key, "mp4") == before.read(key, "mp4")
    assert json.loads(shard.read("test-talk-1-000001", "json"))["scene"] == make_clip(1, 1, "talk", CLIP, "test").scene.to_dict()
    assert len(Shard.open(tmp_path / "set" / "ood" / "clips-000000.tar").members) == 3


def test_events_of_a_set_with_jitter_come_later_than_their_prompts_tell(copy: Path, tmp_path: Path) -> None:
    build_world(tmp_path / "set", CLIP, {"train": 4}, ("multi",), seed=1, workers=0, jitter=0.4)
    assert read_root(tmp_path / "set")["jitter"] == 0.4
    shard = Shard.open(tmp_path / "set/train/clips-000000.tar")
    clips = [json.loads(shard.read(member, "json")) for member in shard.members]
    late = [scene["events"][0]["start"] - FIRST_EVENT for scene in (clip["scene"] for clip in clips)]
    assert all(0 <= delay <= 0.4 for delay in late) and max(late) - min(late) > 0.05
    assert all(parse_prompts(c["video_prompt"], c["audio_prompt"], 2.0).events[0].start == FIRST_EVENT for c in clips)
    with pytest.raises(ValueError, match="references, jitter or shard size"):
        build(copy, jitter=0.4)


def test_a_set_can_take_the_codec_of_another_set(built: Path, tmp_path: Path) -> None:
    for out in ("own", "taken"):
        codec = built / "codec.safetensors" if out == "taken" else None
        build_world(tmp_path / out, CLIP, {"train": 9}, seed=3, workers=0, codec=codec)
    own, taken, theirs = (read_root(root)["codec"]["sha256"] for root in (tmp_path / "own", tmp_path / "taken", built))
    assert taken == theirs == file_digest(tmp_path / "taken/codec.safetensors") and own != theirs
    with pytest.raises(ValueError, match="has 96 channels; give --channels 96"):
        build_world(tmp_path / "few", replace(CLIP, video_channels=48), {"train": 2}, workers=0, codec=built / "codec.safetensors")
    with pytest.raises(ValueError, match="--codec must be the codec.safetensors of a set of the world, got"):
        build_world(tmp_path / "no", CLIP, {"train": 2}, workers=0, codec=built / "index.json")


def test_a_set_with_references_says_so_and_is_another_recipe(built: Path, copy: Path, tmp_path: Path) -> None:
    assert "references" not in read_root(built)
    build_world(tmp_path / "set", CLIP, {"train": 9}, ("talk",), seed=1, workers=0, references=True)
    assert read_root(tmp_path / "set")["references"] is True
    shard = Shard.open(tmp_path / "set" / "train" / "clips-000000.tar")
    texts = [json.loads(shard.read(key, "json")) for key in shard.members]
    assert any("the same words as the first speaker" in t["audio_prompt"] for t in texts)
    with pytest.raises(ValueError, match="references, jitter or shard size"):
        build(copy, references=True)


def test_processes_and_one_process_build_the_same_set(built: Path, tmp_path: Path) -> None:
    assert digests(build(tmp_path / "again", workers=2)) == digests(built)


def test_a_build_goes_on_where_it_stopped_and_ends_the_same(built: Path, copy: Path) -> None:
    kept = copy / "train" / "clips-000000.tar"
    before = kept.stat().st_mtime_ns
    (copy / "index.json").unlink()
    (copy / "val" / "index.json").unlink()
    (copy / "train" / "clips-000001.json").unlink()
    with (copy / "train" / "clips-000002.tar").open("r+b") as file:
        file.truncate(700)
    (copy / "train" / ".clips-000001.tar.1.part").write_bytes(b"half")
    assert digests(build(copy)) == digests(built)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_build_killed_three_times_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "baton_lightning", "shards", "world"]
    counts = ["--train", "120", "--val", "8", "--test", "8", "--shard-size", "8"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for seconds, out in ((3.0, killed), (4.0, killed), (5.0, killed), (None, killed), (None, whole)):
        process = subprocess.Popen([*command, str(out), *counts], cwd=Path(__file__).parents[2], start_new_session=True)
        if seconds is None:
            assert process.wait(300) == 0
        else:
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert digests(killed) == digests(whole)


def test_other_recipes_do_not_mix(copy: Path) -> None:
    with pytest.raises(ValueError, match="was made with another clip geometry, seed .this command: 2.*build into another folder"):
        build_world(copy, CLIP, COUNTS, seed=2, workers=0, shard_clips=4)


def test_a_set_can_grow(built: Path, copy: Path) -> None:
    build_world(copy, CLIP, COUNTS | {"train": 11}, seed=1, workers=0, shard_clips=4)
    before, after = (SplitIndex.read(root / "train") for root in (built, copy))
    assert after.num_clips == 11 and after.shards[:2] == before.shards[:2]


@pytest.mark.parametrize(
    "bad", [{"splits": {"train": 0}}, {"tiers": []}, {"workers": -1}, {"shard_clips": 0}, {"jitter": -0.1}, {"jitter": 2.0}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, bad: dict[str, object]) -> None:
    options: dict[str, object] = {"splits": COUNTS, "workers": 0} | bad
    with pytest.raises(ValueError, match="shards world: needs clips, tiers, shard_clips >= 1, workers >= 0 and a jitter"):
        build_world(tmp_path / "set", CLIP, **options)  # type: ignore[arg-type]


# ---- the verb
def test_the_verb_builds_counts_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / "set")
    assert main(["world", root, "--train", "3", "--val", "1", "--test", "1", "--workers", "0"]) == 0
    assert main(["stat", root]) == 0
    assert main(["check", root]) == 0
    assert "6 clips checked, 0 problems" in capsys.readouterr().out


def replace_first_clip(tar: Path, movie: bytes) -> None:
    shard = Shard.open(tar)
    contents = {key: {suffix: shard.read(key, suffix) for suffix in members} for key, members in shard.members.items()}
    next(iter(contents.values()))["mp4"] = movie
    write_shard(tar, contents.items(), made_by=shard.made_by)


DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda tar: tar.unlink(), "clips-000001.tar: is missing"),
    "bit flip": (lambda tar: tar.write_bytes(tar.read_bytes()[:-1] + b"\x01"), "its content differs from the index"),
    "cut": (lambda tar: tar.write_bytes(tar.read_bytes()[:20000]), "train-single-1-000006: DamagedMember"),
    "undecodable": (lambda tar: replace_first_clip(tar, b"?" * 50), "train-single-1-000004: MediaError: unreadable"),
}


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_check_names_the_damage_and_fails(copy: Path, capsys: pytest.CaptureFixture[str], defect: str) -> None:
    damage, message = DEFECTS[defect]
    damage(copy / "train" / "clips-000001.tar")
    assert main(["check", str(copy)]) == 1
    assert message in capsys.readouterr().out
