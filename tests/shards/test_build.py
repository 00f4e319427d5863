"""Sets of recordings: what passes is cut and indexed, what does not is named, and a killed build ends as if it had not been."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.media import read_mp4
from baton_lightning.shards.build import BUILD, REJECTED, WORK
from baton_lightning.shards.format import Shard, SplitIndex, file_digest, read_root
from baton_lightning.shards.stored_clip import clip_of
from baton_lightning.world.codecs import PatchPCA
from tests.shards.defects import encode, murmur, wander

ROOT = Path(__file__).parents[2]
OPTIONS = ["--seconds", "1", "--shard-size", "10", "--workers", "0", "--repeat", "caption"]


def build(source: Path, out: Path, *more: str) -> int:
    return main(["shards", "build", str(source), str(out), *OPTIONS, *more])


def digests(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): file_digest(file) for file in sorted(root.rglob("*")) if file.is_file()}


def clips(root: Path) -> dict[str, tuple[str, dict[str, Any], bytes]]:
    """Key -> bucket, metadata and movie."""
    found = {}
    for split in read_root(root)["splits"]:
        index = SplitIndex.read(root / split)
        for number, entry in enumerate(index.shards):
            shard = Shard.open(index.tar(number))
            for key in shard.members:
                found[key] = (entry["bucket"], json.loads(shard.read(key, "json")), shard.read(key, "mp4"))
    return found


def rejected(out: Path) -> dict[str, str]:
    return {note["key"]: note["reason"] for note in map(json.loads, (out / REJECTED).read_text().splitlines())}


@pytest.fixture(scope="module")
def built(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    assert build(recordings, out, "--modalities", "av", "video", "audio") == 0
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "copy")


def test_every_recording_is_in_the_set_or_named_with_its_reason(built: Path) -> None:
    found = clips(built)
    good = {f"good-{i}-0000" for i in range(30)} | {f"long-000{i}" for i in range(3)} | {"mute-0000", "blind-0000"}
    assert set(found) == good
    reasons = {"copy-0000": "duplicate", "short": "too_short", "still-0000": "frozen_video", "garbage": "unreadable"}
    assert rejected(built) == reasons
    notes = [json.loads(line) for line in (built / REJECTED).read_text().splitlines()]
    assert all(list(note) == ["key", "file", "reason", "detail", "start", "end"] and note["detail"] for note in notes)
    assert "good-3-0000" in next(note["detail"] for note in notes if note["key"] == "copy-0000")
    assert not (built / WORK).exists()


def test_recordings_keep_the_split_they_name(built: Path) -> None:
    splits = read_root(built)["splits"]
    assert list(splits) == ["train", "val"] and splits["val"]["num_clips"] == 6
    assert {key for key in Shard.open(built / "val/clips-000000.tar").members} == {f"good-{i}-0000" for i in range(0, 30, 5)}


def test_shards_hold_one_bucket_each_and_the_index_counts_them(built: Path) -> None:
    root = read_root(built)
    clip = clip_of(root["clip"])
    assert clip == ClipSpec(seconds=1.0)
    for split, entry in root["splits"].items():
        index = SplitIndex.read(built / split)
        assert (index.digest, index.num_clips) == (entry["sha256"], sum(shard["num_clips"] for shard in index.shards))
        for number, shard in enumerate(index.shards):
            assert (file_digest(index.tar(number)), index.tar(number).stat().st_size) == (shard["sha256"], shard["num_bytes"])
            assert shard["num_clips"] <= 10
    for bucket, metadata, movie in clips(built).values():
        assert (metadata["has_video"], metadata["has_audio"]) == (bucket != "audio", bucket != "video")
        media = read_mp4(movie, has_video=metadata["has_video"], has_audio=metadata["has_audio"])
        assert len(media.frames) == clip.num_frames * metadata["has_video"]
        assert len(media.waveform) == clip.num_samples * metadata["has_audio"]
    assert {b: k for k, (b, *_) in clips(built).items() if b != "av"} == {"video": "mute-0000", "audio": "blind-0000"}


def test_a_clip_is_the_passage_of_its_recording_with_its_captions(built: Path, recordings: Path) -> None:
    found, source = clips(built), read_mp4(recordings.parent / "long.mp4")
    for i in range(3):
        _, metadata, movie = found[f"long-000{i}"]
        media = read_mp4(movie)
        assert np.abs(media.frames.astype(int) - source.frames[12 * i : 12 * i + 13]).mean() < 3
        assert np.abs(media.waveform - source.waveform[16000 * i : 16000 * (i + 1)]).mean() < 0.02
        assert (metadata["video_prompt"], metadata["audio_prompt"]) == ("a square, long.mp4", "a tone, long.mp4")
        assert metadata["source"]["start"] == pytest.approx(i, abs=0.01) and metadata["source"]["fps"] == 12
    assert (found["good-0-0000"][1]["speakers"], found["good-0-0000"][1]["speech"]) == (["Ann"], "oh")


@pytest.mark.slow
def test_processes_and_one_process_build_the_same_set(built: Path, recordings: Path, tmp_path: Path) -> None:
    assert build(recordings, tmp_path / "set", "--modalities", "av", "video", "audio", "--workers", "2") == 0
    assert digests(tmp_path / "set") == digests(built)


def test_a_build_goes_on_where_it_stopped_and_ends_the_same(recordings: Path, built: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from baton_lightning.shards import build as module

    out, more = tmp_path / "set", ("--modalities", "av", "video", "audio")
    for name, calls in (("make_part", 2), ("copy_clips", 2)):
        work = getattr(module, name)
        left = iter(range(calls))

        def stopping(*job: Any, work: Any = work, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return work(*job)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopping)
            assert build(recordings, out, *more) == 130
    parts = {file: file.stat().st_mtime_ns for file in (out / WORK).iterdir()}
    assert parts and not (out / "index.json").exists()
    (out / "train" / ".clips-000001.tar.1.part").write_bytes(b"half")
    assert build(recordings, out, *more) == 0
    assert digests(out) == digests(built)


def test_a_finished_build_is_left_alone(recordings: Path, copy: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*")}
    assert build(recordings, copy, "--modalities", "av", "video", "audio") == 0
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*")} == before


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--fps", "8"], "clips.fps: 12.0 -> 8.0"),
        (["--limit", "min_motion=9"], "limits.min_motion: 0.08 -> 9.0"),
        (["--cut", "first"], "cut:"),
    ],
)
def test_other_settings_are_refused_by_name(recordings: Path, copy: Path, capsys: Any, more: list[str], named: str) -> None:
    assert build(recordings, copy, "--modalities", "av", "video", "audio", *more) == 1
    assert named in capsys.readouterr().err


def test_a_set_that_was_not_built_from_recordings_is_not_touched(recordings: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "index.json").write_text("{}")
    assert build(recordings, tmp_path) == 1
    assert "not built from recordings" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["list.jsonl", "list.jsonl/below", "/proc/set"])
def test_an_output_that_cannot_be_written_is_one_line(recordings: Path, capsys: Any, out: str) -> None:
    assert build(recordings, recordings.parent / out) == 1
    assert "must be a folder that can be written to" in capsys.readouterr().err


def test_too_many_rejections_fail_but_lose_nothing(recordings: Path, tmp_path: Path, capsys: Any) -> None:
    assert build(recordings, tmp_path / "set", "--max-rejected", "0.05") == 1
    assert {"mute", "blind"} <= set(rejected(tmp_path / "set")) and len(clips(tmp_path / "set")) == 33
    out = capsys.readouterr().out
    assert "no_audio" in out and "33 clips accepted, 6 rejected (15.4%)" in out
    assert build(recordings, tmp_path / "set", "--max-rejected", "0.2") == 0
    assert main(["shards", "check", str(tmp_path / "set")]) == 0


def test_nothing_that_passes_is_an_error(recordings: Path, tmp_path: Path, capsys: Any) -> None:
    assert build(recordings, tmp_path / "set", "--seconds", "10") == 1
    assert "no clip passed" in capsys.readouterr().err and len(rejected(tmp_path / "set")) == 37


def test_recordings_go_to_the_geometry_that_suits_them(tmp_path: Path, recorder: Any, capsys: Any) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films/._wide.mp4").write_bytes(b"Mac")
    for name, side, seconds in (("wide", (32, 64), 1.1), ("long", (32, 64), 2.1), ("square", (48, 48), 2.1)):
        recorder(tmp_path / f"films/{name}.mp4", len(name), seconds, side=side)
        (tmp_path / f"films/{name}.txt").write_text(name)
    buckets = ["64x32x1s", "64x32x2s", "32x32x1s"]
    out = tmp_path / "set"
    assert build(tmp_path / "films", out, *[word for name in buckets for word in ("--bucket", name)]) == 0
    assert "1 hidden media files are skipped" in capsys.readouterr().out
    assert [sorted(clips(out / name)) for name in buckets] == [["wide-0000"], ["long-0000"], ["square-0000", "square-0001"]]
    assert read_root(out / "64x32x2s")["clip"] == ClipSpec(seconds=2.0, width=64).to_dict()
    assert main(["shards", "check", str(out)]) == 0 and main(["shards", "stat", str(out)]) == 0


def test_geometries_of_the_clip_section_are_built_with_one_codec_for_all(tmp_path: Path, recorder: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "films").mkdir()
    for name, side in (("wide", (32, 64)), ("square", (48, 48))):
        recorder(tmp_path / f"films/{name}.mp4", len(name), 2.1, side=side)
        (tmp_path / f"films/{name}.txt").write_text(name)
    text = f"base: {ROOT}/experiments/base.yaml\nclip:\n  geometries: [{{height: 32, width: 64, seconds: 2}}]\n"
    (tmp_path / "two.yaml").write_text(text)
    out = tmp_path / "set"
    assert build(tmp_path / "films", out, "--clip", str(tmp_path / "two.yaml"), "--fit-codec", "2") == 0
    assert [sorted(clips(out / name)) for name in ("32x32x1s", "64x32x2s")] == [["square-0000", "square-0001"], ["wide-0000"]]
    codec = PatchPCA(str(out / "codec.safetensors"))
    for width in (32, 64):
        assert codec.encode(torch.zeros(1, 25, 32, width, 3, dtype=torch.uint8)).shape == (1, 96, 7, 4, width // 8)


def test_what_lies_beyond_the_part_that_is_read_is_named(recordings: Path, tmp_path: Path) -> None:
    row = json.dumps({"file": str(recordings.parent / "long.mp4"), "text": "x"})
    (tmp_path / "list.jsonl").write_text(row)
    assert build(tmp_path / "list.jsonl", tmp_path / "set", "--max-seconds", "2.2") == 0
    assert len(clips(tmp_path / "set")) == 2 and list(rejected(tmp_path / "set").values()) == ["too_long"]


def listed(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"


def test_words_go_to_the_clips_they_are_said_in_and_untimed_texts_to_none_of_several(recordings: Path, tmp_path: Path) -> None:
    film = str(recordings.parent / "long.mp4")
    words = [
        {"text": text, "start": start, "end": start + 0.3, "speaker": "Ann"} for text, start in (("one", 0.2), ("two", 0.9), ("three", 2.1))
    ]
    timed = listed(tmp_path, {"file": film, "text": "x", "words": words})
    assert build(timed, tmp_path / "timed") == 0
    output = {key: (meta["speech"], meta["speakers"]) for key, (_, meta, _) in clips(tmp_path / "timed").items()}
    assert list(output.values()) == [("one", ["Ann"]), ("two", ["Ann"]), ("three", ["Ann"])]
    whole = listed(tmp_path, {"file": film, "text": "x", "speech": "one two three"})
    assert main(["shards", "build", str(whole), str(tmp_path / "default"), "--seconds", "1", "--workers", "0"]) == 1
    assert list(rejected(tmp_path / "default").values()) == ["untimed_text"]
    for i, (settings, count) in enumerate(
        ((["--repeat", "none"], 0), (["--repeat", "caption"], 0), (["--repeat", "all"], 3), (["--cut", "first"], 1))
    ):
        assert build(whole, tmp_path / f"{i}", *settings) == int(not count)
        if count:
            assert {meta["speech"] for _, meta, _ in clips(tmp_path / f"{i}").values()} == {"one two three"} and len(
                clips(tmp_path / f"{i}")
            ) == count
        else:
            assert list(rejected(tmp_path / f"{i}").values()) == ["untimed_text"]


def test_parts_of_a_film_are_read_where_they_lie_and_fall_into_one_split(tmp_path: Path, recorder: Any, capsys: Any) -> None:
    for name in "ab":
        recorder(tmp_path / f"{name}.mp4", ord(name), 9.2)
    rows = [{"file": f"{name}.mp4", "text": "x", "start": start, "end": start + 1} for name in "ab" for start in (0, 4, 8)]
    source = listed(tmp_path, *rows, {"file": "a.mp4", "text": "x", "start": 20, "key": "beyond"}, {"file": "c.mp4", "text": "x"})
    assert build(source, tmp_path / "set", "--max-seconds", "2", "--val", "1", "--test", "0") == 0
    splits = {split: {note["file"] for note in map(json.loads, members(tmp_path / "set", split))} for split in ("train", "val")}
    assert sorted(map(sorted, splits.values())) == [["a.mp4"], ["b.mp4"]]
    assert rejected(tmp_path / "set") == {"beyond": "too_short", "c": "missing"}
    film = read_mp4(tmp_path / "a.mp4")
    movie = read_mp4(clips(tmp_path / "set")["a-8-0000"][2])
    assert np.abs(movie.frames.astype(int) - film.frames[96:109]).mean() < 3
    assert "1 files do not exist" in capsys.readouterr().out


def members(root: Path, split: str) -> list[str]:
    """What the clips of a split say of their recordings."""
    shard = Shard.open(root / split / "clips-000000.tar")
    return [json.dumps(json.loads(shard.read(key, "json"))["source"]) for key in shard.members]


def test_a_set_without_validation_clips_says_so_and_so_does_fit(tmp_path: Path, recorder: Any, capsys: Any) -> None:
    recorder(tmp_path / "a.mp4", 0)
    assert build(listed(tmp_path, {"file": "a.mp4", "text": "x", "split": "train"}), tmp_path / "set") == 0
    assert "has no clip in val, which `fit` validates on: build with --val 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"val/ does not exist; .*Use another with `--data.init_args.val_split=train`, or build again"):
        SplitIndex.read(tmp_path / "set/val")


def test_a_film_of_a_phone_is_taken_with_one_switch(tmp_path: Path, recorder: Any) -> None:
    steps = np.random.default_rng(0).choice([1, 2], 40)
    times = np.concatenate([[0], np.cumsum(steps)]) / 30 + np.random.default_rng(1).uniform(0, 0.004, 41)
    sound = murmur(float(times[-1]), 16000)
    encode(
        tmp_path / "a.mp4",
        wander(41, 64, 64),
        30,
        sound,
        16000,
        video_clock=lambda t: float(np.interp(t * 30, [-9, *range(41), 50], [-0.3, *times, times[-1] + 0.3])),
    )
    source = listed(tmp_path, {"file": "a.mp4", "text": "x"})
    assert build(source, tmp_path / "strict", "--fps", "24", "--limit", "min_height=64") == 1
    assert rejected(tmp_path / "strict") == {"a": "variable_frame_rate"}
    assert build(source, tmp_path / "set", "--fps", "24", "--variable-rate", "--cut", "first") == 0
    assert len(clips(tmp_path / "set")) == 1


def test_one_build_works_in_a_folder_at_a_time(recordings: Path, tmp_path: Path, capsys: Any) -> None:
    from baton_lightning.shards.lock import hold_lock

    with hold_lock(tmp_path / "set", "shards build"):
        assert build(recordings, tmp_path / "set") == 1
        assert "another build is at work in" in capsys.readouterr().err
        (tmp_path / "set/train").mkdir()
        half = tmp_path / "set/train/.clips-000000.tar.host.1.part"
        half.write_bytes(b"half")
        assert main(["shards", "world", str(tmp_path / "set"), "--train", "4", "--val", "0", "--test", "0"]) == 1
        assert "shards world: another build is at work in" in capsys.readouterr().err and half.exists()
        shutil.rmtree(tmp_path / "set/train")
    assert not list((tmp_path / "set").iterdir())


def test_small_recordings_are_enlarged_with_a_word_or_refused(tmp_path: Path, recorder: Any, capsys: Any) -> None:
    recorder(tmp_path / "a.mp4", 0)
    source = listed(tmp_path, {"file": "a.mp4", "text": "x"})
    assert build(source, tmp_path / "set", "--height", "64", "--width", "64") == 0
    assert "1 clips have more pixels than their recordings" in capsys.readouterr().out
    assert build(source, tmp_path / "rate", "--sample-rate", "22050") == 0
    assert "1 clips have a higher sample rate than their recordings" in capsys.readouterr().out
    for i, limit in enumerate(("min_height=33", "min_width=33", "min_sample_rate=22050")):
        assert build(source, tmp_path / f"{i}", "--limit", limit) == 1 and rejected(tmp_path / f"{i}") == {"a": "too_small"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bucket", "64x32"], "the bucket '64x32' must be WIDTHxHEIGHTxSECONDSs"),
        (["--val", "1.5"], "a held-out split is a share below 1 or a number of recordings"),
        (["--val", "0.6", "--test", "0.5"], "must leave some to train on"),
        (["--limit", "min_moton=1"], "did you mean `min_motion`?"), (["--max-rejected", "2"], "must lie in 0 .. 1"),
        (["--shard-size", "0"], "needs shard size >= 1"), (["--max-seconds", "0.5"], "must be at least the duration of a clip"),
        (["--clip", "experiments/nothing.yaml"], "there is no file"), (["--width", "33"], "clip.width must be a multiple of 8"),
    ],
)  # fmt: skip
def test_wrong_options_say_what_is_wanted(recordings: Path, tmp_path: Path, capsys: Any, more: list[str], message: str) -> None:
    assert build(recordings, tmp_path / "set", *more) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_the_geometry_of_an_experiment_is_used(recordings: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "own.yaml").write_text(f"base: {ROOT}/experiments/base.yaml\nclip:\n  seconds: 1.0\n  height: 24\n")
    assert build(recordings, tmp_path / "set", "--clip", str(tmp_path / "own.yaml"), "--height", "16") == 0
    assert clip_of(read_root(tmp_path / "set")["clip"]) == ClipSpec(seconds=1.0, height=16)


@pytest.mark.slow
def test_a_build_of_500_clips_killed_three_times_equals_an_uninterrupted_one(tmp_path: Path, recorder: Any) -> None:
    (tmp_path / "films").mkdir()
    for i in range(500):
        recorder(tmp_path / f"films/{i:03d}.mp4", i, 1.1 if i % 50 else 0.5)
        (tmp_path / f"films/{i:03d}.txt").write_text(f"film {i}")
    shutil.copy(tmp_path / "films/001.mp4", tmp_path / "films/499.mp4")

    def run(out: Path, until: str = "", count: int = 0) -> bool:
        """Builds; killed as soon as there are so many files of a name. Whether it came to its end."""
        command = [sys.executable, "-m", "baton_lightning", "shards", "build", f"{tmp_path}/films", str(out), "--seconds", "1"]
        process = subprocess.Popen([*command, "--shard-size", "50", "--workers", "2"], cwd=ROOT, start_new_session=True)
        while process.poll() is None:
            time.sleep(0.02)
            if until and len(list(out.glob(until))) >= count:
                process.kill()
        return process.wait() == 0

    assert run(tmp_path / "whole")
    for until, count in ((f"{WORK}/part-*.tar", 5), (f"{WORK}/part-*.tar", 19), ("train/clips-*.tar", 3)):
        assert not run(tmp_path / "killed", until, count), "it ended before it was killed"
    assert not json.loads((tmp_path / "killed" / BUILD).read_text())["report"]
    assert run(tmp_path / "killed")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert len(clips(tmp_path / "whole")) == 489
