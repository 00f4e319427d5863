"""A data set from elsewhere writes nowhere outside and never ends a run without a name: what is wrong with it is told of file and clip."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.names import LONGEST, require_name, wrong_with
from baton_lightning.plain_files import parse_json, read_json
from baton_lightning.shards.check import check_set
from baton_lightning.shards.format import Shard, SplitIndex, read_root, record_of
from datamodules.shard_dataset import ShardDataset
from datamodules.webshards import WebShards

CLIP = ClipSpec(text_tokens=2, text_width=3)
SetMaker = Callable[..., Path]
KEYS = ["../../x", "/tmp/x", "a/b", "..", "", "a\nb", "a\x1b[31mb", "x" * (LONGEST + 1), "a\\b", "\udc80", "a\x00b"]


@pytest.fixture(scope="session")
def make_set() -> SetMaker:
    """Sets of texts, as the tests of the datamodule make them."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("text_sets", Path(__file__).parents[1] / "datamodules/conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_text_set


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file in place."""
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def rename(tar: Path, number: int, key: str, *, record: bool) -> None:
    """Gives a clip of a shard another key, in its record, or in a tar that has none."""
    if record:
        shard = Shard.open(tar)
        keys = list(shard.members)

        def other(values: dict[str, Any]) -> None:
            for table in ("members", "checksums"):
                values[table] = {key if k == keys[number] else k: v for k, v in values[table].items()}

        edit(record_of(tar), other)
        return
    record_of(tar).unlink()
    with tarfile.open(tar) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    keys = list(dict.fromkeys(member.name.partition(".")[0] for member, _ in members))
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            own, _, suffix = member.name.partition(".")
            member.name = f"{key if own == keys[number] else own}.{suffix}"
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("key", KEYS)
def test_a_name_stays_in_its_folder(key: str) -> None:
    with pytest.raises(ValueError, match="must be a name without folders") as told:
        require_name(key, "a key")
    assert str(told.value).isprintable() and len(str(told.value)) < 300


def test_names_of_all_languages_are_names() -> None:
    assert not [name for name in ("clip-0001", "Ünïcode_ж", "日本", "a b", "x" * LONGEST) if wrong_with(name)]


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_a_clip_whose_key_is_no_name_is_damage_that_is_named_and_stepped_over(
    key: str, record: bool, make_set: SetMaker, tmp_path: Path
) -> None:
    root = make_set(tmp_path / "d", [3], ["train"], CLIP)
    rename(root / "train/clips-000000.tar", 1, key, record=record)
    if key not in Shard.open(root / "train/clips-000000.tar").members:
        pytest.skip("tar itself has no such name")
    with pytest.warns(UserWarning, match="must be a name"):
        data = ShardDataset(root / "train", CLIP, ["text"])
    batch, damage = data.__getitems__([(0, i, i) for i in range(3)])
    assert batch.keys == ["train-0000", "train-0002", "train-0002"] and not damage
    found = [str(problem) for _, problems in check_set(root) for problem in problems]
    assert any("its key must be a name" in text for text in found) and all(text.isprintable() for text in found)


BAD_JSON = {
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "no UTF-8": b'{"video_prompt": "\xff", "audio_prompt": ""}',
    "NaN": b'{"video_prompt": "a", "audio_prompt": "", "loudness": NaN}',
    "a list": b"[]",
    "a number for a text": b'{"video_prompt": 1, "audio_prompt": ""}',
    "too large": b'{"video_prompt": "' + b"x" * 5_000_000 + b'", "audio_prompt": ""}',
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_the_json_of_a_clip_that_cannot_be_read_costs_that_clip(kind: str, make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [3], ["train"], CLIP)
    tar = root / "train/clips-000000.tar"
    record_of(tar).unlink()
    with tarfile.open(tar) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as archive:
        for member, content in members:
            content = BAD_JSON[kind] if member.name == "train-0001.json" else content
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.warns(UserWarning, match="train-0001"):
        data = ShardDataset(root / "train", CLIP, ["text"])
        assert data.batch([0, 1, 2]).keys == ["train-0000", "train-0002", "train-0002"]
        assert len(data.metadata()) == 3
    found = [problem for _, problems in check_set(root) for problem in problems if problem.key == "train-0001"]
    assert found


def test_a_member_that_is_there_twice_is_damage(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [2], ["train"], CLIP)
    tar = root / "train/clips-000000.tar"
    record_of(tar).unlink()
    with tarfile.open(tar, "a") as archive:
        entry = tarfile.TarInfo("train-0000.json")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"{}"))
    with pytest.warns(UserWarning, match="has two members train-0000.json"):
        ShardDataset(root / "train", CLIP, ["text"])


@pytest.mark.parametrize("place", [[-5, 10], [0, 2**36], [0, -1], ["0", "9"], [0], [0, 1, 2], [True, 1], [2**70, 5]])
def test_a_member_without_a_place_is_damage_before_memory_is_spent_on_it(place: list[Any], make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [2], ["train"], CLIP)
    tar = root / "train/clips-000000.tar"
    os.truncate(tar, 2**37)  # sparse: its length is no witness

    def other(values: dict[str, Any]) -> None:
        values["members"]["train-0000"]["json"] = place

    edit(record_of(tar), other)
    with pytest.warns(UserWarning, match="train-0000"):
        data = ShardDataset(root / "train", CLIP, ["text"])
    assert data.batch([0]).keys == ["train-0001"]
    problems = [problem for _, problems in check_set(root) for problem in problems]
    assert any("must have" in problem.reason and "bytes" in problem.reason for problem in problems), "a wrong size is not hashed"


def test_a_header_of_a_tar_that_is_longer_than_a_name_is_not_read(tmp_path: Path) -> None:
    tar = tmp_path / "clips-000000.tar"
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**33
    tar.write_bytes(entry.tobuf(tarfile.GNU_FORMAT))
    os.truncate(tar, 2**34)
    assert Shard.open(tar).members == {}


INDICES: dict[str, tuple[str, Any]] = {
    "text for a number": ("num_clips", "3"),
    "NaN": ("seconds", float("nan")),
    "an unknown entry": ("colour", 1),
    "a list for a mapping": ("clip", []),
    "shards that are none": ("shards", [1]),
    "a shard elsewhere": ("shards", [{"name": "../../clips-000000.tar", "num_clips": 2, "num_bytes": 1, "sha256": ""}]),
    "a shard without clips in its name": ("shards", [{"name": "x.tar", "num_clips": 2, "num_bytes": 1, "sha256": ""}]),
    "another kind": ("clip", {"seconds": "two", "colour": 1}),
}


@pytest.mark.parametrize("kind", INDICES)
def test_an_index_of_another_kind_is_refused_by_file_and_entry(kind: str, make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [2], ["train"], CLIP)
    name, value = INDICES[kind]
    edit(root / "train/index.json", lambda values: values.update({name: value}))
    with pytest.raises(ValueError, match=r"index\.json|geometry"):
        ShardDataset(root / "train", CLIP, ["text"])
    with pytest.raises(ValueError, match=r"index\.json|geometry"):
        list(check_set(root))


@pytest.mark.parametrize("split", ["../../elsewhere", "/tmp", "a/b", ""])
def test_a_split_elsewhere_is_refused(split: str, make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [2], ["train"], CLIP)
    edit(root / "index.json", lambda values: values["splits"].update({split: {"sha256": ""}}))
    with pytest.raises(ValueError, match="a split must be a name without folders"):
        read_root(root)


def test_caches_are_not_written_into_a_split_that_is_a_link(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [2], ["train"], CLIP)
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="will be written and must not be a link, got a link to"):
        WebShards(CLIP, str(root), fields=["text"]).setup("predict")


def test_files_that_are_too_large_or_no_files_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "index.json").open("w") as file:
        file.truncate(4 * 2**30)
    os.mkfifo(tmp_path / "cache.json")
    with pytest.raises(ValueError, match="at most"):
        read_json(tmp_path / "index.json")
    with pytest.raises(ValueError, match="regular file"):
        read_json(tmp_path / "cache.json")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000, "x.json")
    with pytest.raises(ValueError, match="Infinity is not a JSON number"):
        parse_json('{"a": -Infinity}'.replace("-", ""), "x.json")


@pytest.mark.parametrize("change", [{"recipe": 3}, {"splits": []}, {"clip": "x"}, {"damaged": None}])
def test_the_record_of_a_cache_of_another_kind_is_refused(change: dict[str, Any], make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "d", [2], ["train", "val"], CLIP)
    edit(root / "cache.json", lambda values: values.update(change))
    with pytest.raises(ValueError, match=r"cache\.json has a `\w+` of the wrong kind"):
        WebShards(CLIP, str(root), fields=["text"], batch_size=2).setup("fit")


def test_a_set_without_damage_is_read_as_before(make_set: SetMaker, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = make_set(tmp_path / "d", [2], ["train"], CLIP)
    assert ShardDataset(root / "train", CLIP, ["text"]).batch([0, 1]).keys == ["train-0000", "train-0001"]
    assert SplitIndex.read(root / "train").num_clips == 2 and not recwarn.list
