"""Shards: ordinary tars, the same bytes every time, whole or not there."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton_lightning.shards.format import DamagedMember, Shard, SplitIndex, record_of
from baton_lightning.shards.tars import scan
from baton_lightning.shards.writer import write_shard

CLIPS = [(f"clip-{i}", {"json": b'{"n": %d}' % i, "latents.safetensors": bytes(range(i, i + 7 * i))}) for i in range(5)]


def test_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    import webdataset

    write_shard(tmp_path / "clips-000000.tar", CLIPS)
    samples = list(webdataset.WebDataset(str(tmp_path / "clips-000000.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == [key for key, _ in CLIPS]
    assert [{k: v for k, v in s.items() if not k.startswith("__")} for s in samples] == [members for _, members in CLIPS]


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "clips-000000.tar")) as writer:
        for key, members in CLIPS:
            writer.write({"__key__": key, **members})
    shard = Shard.open(tmp_path / "clips-000000.tar")
    assert {key: {s: shard.read(key, s) for s in members} for key, members in shard.members.items()} == dict(CLIPS)


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_offsets_lead_to_the_content_whatever_its_size(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    tar = tmp_path_factory.mktemp("shard") / "clips-000000.tar"
    write_shard(tar, ((f"k{i}", {"bin": content}) for i, content in enumerate(contents)))
    shard = Shard.open(tar)
    assert [shard.read(f"k{i}", "bin") for i in range(len(contents))] == contents
    assert scan(tar) == {key: {s: tuple(place) for s, place in members.items()} for key, members in shard.members.items()}


def test_the_same_clips_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_shard(tmp_path / name, CLIPS) for name in ("clips-000000.tar", "clips-000001.tar"))
    assert first.sha256 == second.sha256


def test_what_is_interrupted_leaves_no_shard_and_no_rest(tmp_path: Path) -> None:
    def stopping() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield CLIPS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "clips-000000.tar", stopping())
    assert not list(tmp_path.iterdir())


def test_a_shard_counts_as_finished_only_whole_and_by_its_own_recipe(tmp_path: Path) -> None:
    tar = tmp_path / "clips-000000.tar"
    assert Shard.finished(tar, "recipe") is None
    write_shard(tar, CLIPS, made_by="recipe", notes={"source": "x"})
    assert Shard.finished(tar, "recipe").notes == {"source": "x"}
    assert Shard.finished(tar, "other") is None
    with tar.open("r+b") as file:
        file.truncate(5000)
    assert Shard.finished(tar, "recipe") is None
    write_shard(tar, CLIPS, made_by="recipe")
    record_of(tar).unlink()
    assert Shard.finished(tar, "recipe") is None


def test_a_cut_tar_yields_what_came_before_the_cut(tmp_path: Path) -> None:
    tar = tmp_path / "clips-000000.tar"
    shard = write_shard(tar, CLIPS)
    offset, size = shard.members["clip-3"]["json"]
    with tar.open("r+b") as file:
        file.truncate(offset + size - 1)
    cut = Shard.open(tar)
    assert cut.read("clip-2", "json") == b'{"n": 2}'
    with pytest.raises(DamagedMember, match="ends 1 bytes before the end of clip-3.json"):
        cut.read("clip-3", "json")
    with pytest.raises(DamagedMember, match="has no member clip-9.json"):
        cut.read("clip-9", "json")
    assert list(scan(tar))[:3] == ["clip-0", "clip-1", "clip-2"]


@pytest.mark.parametrize("keys", [["a", "a"], ["a.b"], [""]])
def test_keys_that_cannot_be_told_apart_are_refused(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(ValueError, match="a key must be"):
        write_shard(tmp_path / "clips-000000.tar", ((key, {"json": b"{}"}) for key in keys))


def test_folders_in_names_belong_to_the_key(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        (tmp_path / "payload").write_bytes(b"abc")
        archive.add(tmp_path / "payload", "v1.2/clip.latents.safetensors")
    assert list(scan(tmp_path / "x.tar")) == ["v1.2/clip"]


def test_indices_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; .* holds no data set. Build one with"):
        SplitIndex.read(tmp_path / "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="did not finish; run the same `shards` command again"):
        SplitIndex.read(tmp_path / "train")
    for content, message in (({"version": 0}, "not an index of version 1"), ({"version": 1, "num_clips": 0}, "holds no clips")):
        (tmp_path / "train" / "index.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            SplitIndex.read(tmp_path / "train")
