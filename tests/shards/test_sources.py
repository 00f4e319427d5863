"""Lists of recordings: three ways to say the same, and a wrong row is named by its line."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from baton_lightning.shards.captions import speech_of_clip
from baton_lightning.shards.lists import num_hidden
from baton_lightning.shards.source import Source, Word
from baton_lightning.shards.sources import digest_of, read_sources
from baton_lightning.shards.splits import split_of

SHARES = {"val": 0.1, "test": 0.1}
ROWS: list[dict[str, Any]] = [
    {
        "file": "a.mp4",
        "video_prompt": "a dog, running",
        "audio_prompt": "barking",
        "speakers": ["Ann", "Bob"],
        "speech": "hi",
        "split": "val",
    },
    {"file": "deep/b.c.wav", "text": "rain"},
    {"file": "a.mp4", "text": "again", "start": 1.5, "end": 4},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "deep/b.c.wav"):
        (tmp_path / name).write_bytes(b"media")
    return tmp_path


def jsonl(folder: Path, rows: list[Any]) -> Path:
    (folder / "list.jsonl").write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return folder / "list.jsonl"


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with (folder / "list.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows([row | ({"speakers": "; ".join(row["speakers"])} if "speakers" in row else {}) for row in rows])
    return folder / "list.csv"


def test_csv_and_jsonl_list_the_same_recordings(folder: Path) -> None:
    first, second, third = read_sources(jsonl(folder, ROWS), SHARES)
    assert first == Source("a", folder / "a.mp4", "a dog, running", "barking", ("Ann", "Bob"), "hi", "val")
    assert (second.key, second.video_prompt, second.audio_prompt) == ("deep_b_c", "rain", "rain")
    assert (third.key, third.start, third.end) == ("a-1_5", 1.5, 4.0)
    assert read_sources(table(folder, ROWS), SHARES) == [first, second, third]


def test_a_folder_lists_its_media_with_the_captions_beside_them(folder: Path) -> None:
    (folder / "deep/b.c.txt").write_text("rain\n")
    (folder / "a.json").write_text(json.dumps({k: v for k, v in ROWS[0].items() if k != "file"}))
    assert read_sources(folder, SHARES) == read_sources(jsonl(folder, ROWS[:2]), SHARES)


WRONG: list[tuple[list[Any], str]] = [
    ([{"file": "b.mp4", "text": "x"}], r"line 1: the file .*b.mp4 does not exist; paths are relative to"),
    ([ROWS[0], {"file": "a.mp4"}], "line 2: has no caption; fill `text`, or"),
    ([ROWS[0], "", {"file": "a.mp4", "txt": "x"}], "line 3: there is no column 'txt'; did you mean `text`?"),
    ([ROWS[0], ROWS[1], ROWS[0]], r"line 3: the key 'a' was given at .*line 1 already; give each its own in the column `key`"),
    ([{"file": "a.mp4", "text": "x", "audio_prompt": "y"}], "line 1: has both `text` and a prompt"),
    ([{"file": "a.mp4", "text": "x", "start": 3, "end": 2}], "line 1: end must lie after start, got start=3, end=2"),
    ([{"file": "a.mp4", "text": "x", "start": "soon"}], "line 1: start must be seconds >= 0, got 'soon'"),
    ([{"file": "a.mp4", "text": 3}], "line 1: text must be a text, got 3"),
    ([{"file": "a.mp4", "text": "x", "key": "a.b"}], "line 1: key must consist of letters, digits, - and _, got 'a.b'"),
    ([{"file": "a.mp4", "text": "x", "speakers": "Ann"}], "line 1: speakers must be a list of names"),
    ([{"text": "x"}], "line 1: has no `file`"),
    (["{"], "line 1: is not JSON"),
    (["[1]"], "line 1: must be an object of named fields, got list"),
    ([], "lists no recordings"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG)
def test_a_wrong_row_is_named_by_its_line(folder: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_sources(jsonl(folder, rows), SHARES)


def test_lines_of_a_csv_are_counted_in_the_file_and_not_in_rows(folder: Path) -> None:
    (folder / "list.csv").write_text('file,text\na.mp4,"two\nlines"\nnone.mp4,x\n')
    there, absent = read_sources(folder / "list.csv", SHARES)
    assert not there.refused and "line 4: the file" in absent.refused
    for content, message in (("file,txt\n", "line 1: there is no column 'txt'"), ("file,text\na.mp4,b,c\n", "line 2: must have 2 fields")):
        (folder / "list.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_sources(folder / "list.csv", SHARES)


def test_a_folder_without_captions_or_with_two_media_of_a_stem_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a.mp4: has no caption; write it to a.txt or a.json"):
        read_sources(folder, SHARES)
    for name in ("a", "deep/b.c"):
        (folder / f"{name}.txt").write_text("x")
    (folder / "a.wav").write_bytes(b"media")
    with pytest.raises(ValueError, match=r"a.wav: shares its stem, and so its caption, with a.mp4"):
        read_sources(folder, SHARES)


@pytest.mark.parametrize("name", ["nothing", "a.mp4"])
def test_what_is_no_source_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a folder, a .csv or a .jsonl file"):
        read_sources(folder / name, SHARES)


def test_splits_by_hash_have_their_shares_and_do_not_move() -> None:
    counts = Counter(split_of(f"clip-{i}", SHARES) for i in range(4000))
    assert all(abs(counts[split] / 4000 - share) < 0.02 for split, share in {"train": 0.8, **SHARES}.items())


def test_all_rows_of_a_recording_fall_into_one_split(folder: Path) -> None:
    for i in range(12):
        (folder / f"film{i}.mp4").write_bytes(b"media")
    rows = [
        {"file": name, "text": f"{start}", "start": start}
        for i in range(12)
        for name in (f"film{i}.mp4", f"./film{i}.mp4")
        for start in range(5)
    ]
    rows = [row | {"key": f"row-{i}"} for i, row in enumerate(rows)]
    for held_out, counts in (({"val": 0.4, "test": 0.2}, None), ({"val": 2, "test": 1}, {"train": 9, "val": 2, "test": 1})):
        splits: dict[str, set[str]] = {}
        for source in read_sources(jsonl(folder, rows), held_out):
            splits.setdefault(source.file.name, set()).add(source.split)
        assert all(len(found) == 1 for found in splits.values())
        found = Counter(min(split) for split in splits.values())
        assert len(found) == 3 if counts is None else found == counts
    rows[7]["split"] = "held"
    assert {source.split for source in read_sources(jsonl(folder, rows), SHARES) if source.file.name == "film0.mp4"} == {"held"}
    with pytest.raises(ValueError, match="leaves none to train on"):
        read_sources(jsonl(folder, rows[10:]), {"val": 11})


def test_words_are_read_with_their_times_or_refused(folder: Path) -> None:
    words = [{"text": "there", "start": 1, "end": 1.5}, {"text": " oh ", "start": 0.2, "end": 0.6, "speaker": "Ann"}]
    (source,) = read_sources(jsonl(folder, [{"file": "a.mp4", "text": "x", "words": words}]), SHARES)
    assert source.words == (Word("oh", 0.2, 0.6, "Ann"), Word("there", 1.0, 1.5))
    assert [speech_of_clip(source, start, 1.0) for start in (0, 1, 2)] == [("oh", ["Ann"]), ("there", []), ("", [])]
    (folder / "list.csv").write_text('file,text,words\na.mp4,x,"' + json.dumps(words).replace('"', '""') + '"\n')
    assert read_sources(folder / "list.csv", SHARES)[0].words == source.words
    for wrong in ("oh", [{"text": "oh"}], [{"text": "oh", "start": 2, "end": 1}], [{"text": 3, "start": 1, "end": 2}]):
        with pytest.raises(ValueError, match="line 1: words must be a list of"):
            read_sources(jsonl(folder, [{"file": "a.mp4", "text": "x", "words": wrong}]), SHARES)
    with pytest.raises(ValueError, match="has both `speech` and `words`"):
        read_sources(jsonl(folder, [{"file": "a.mp4", "text": "x", "speech": "oh", "words": words}]), SHARES)


def test_hidden_files_are_passed_over_and_counted(folder: Path) -> None:
    (folder / "films/.Trashes").mkdir(parents=True)
    for name in ("a.mp4", "._a.mp4", ".Trashes/b.mp4", "._a.txt"):
        (folder / "films" / name).write_bytes(b"media")
    (folder / "films/a.txt").write_text("x")
    assert [source.key for source in read_sources(folder / "films", SHARES)] == ["a"] and num_hidden(folder / "films") == 2


def test_the_digest_knows_captions_order_and_sizes_but_not_where_the_folder_lies(folder: Path) -> None:
    known = digest_of(read_sources(jsonl(folder, ROWS), SHARES), folder)
    moved = folder.parent / "elsewhere"
    folder.rename(moved)
    sources = read_sources(moved / "list.jsonl", SHARES)
    assert digest_of(sources, moved) == known != digest_of(sources[::-1], moved)
    (moved / "a.mp4").write_bytes(b"other media")
    assert digest_of(sources, moved) != known


def test_names_in_any_script_get_keys_of_their_own(folder: Path) -> None:
    (folder / "films").mkdir()
    for name in ("日本 1", "中国 1", "été", "a b"):
        (folder / f"films/{name}.mp4").write_bytes(b"media")
        (folder / f"films/{name}.txt").write_text("x", encoding="utf-8-sig")
    found = {source.file.stem: source.key for source in read_sources(folder / "films", SHARES)}
    assert len(set(found.values())) == 4 and all(key.isascii() for key in found.values()) and found["a b"] == "a_b"
    assert read_sources(folder / "films", SHARES)[0].video_prompt == "x"


def test_what_a_folder_or_a_header_would_lose_is_named(folder: Path) -> None:
    (folder / "list.csv").write_text("file,text,text\na.mp4,x,y\n")
    with pytest.raises(ValueError, match="line 1: the column text occurs twice"):
        read_sources(folder / "list.csv", SHARES)
    (folder / "films").mkdir()
    (folder / "films/a.mp4").symlink_to(folder / "nothing.mp4")
    (folder / "films/b.mp4").symlink_to(folder / "a.mp4")
    (folder / "films/c.mp4").write_bytes(b"media")
    with pytest.raises(ValueError, match=r"a.mp4: has no caption; write it to a.txt .*; nor have 2 more, e.g. b.mp4, c.mp4"):
        read_sources(folder / "films", SHARES)
    for name in "abc":
        (folder / f"films/{name}.txt").write_text("x")
    broken, outside, inside = read_sources(folder / "films", SHARES)
    (folder / "secret").write_text("not for training")
    (folder / "films/c.txt").unlink()
    (folder / "films/c.txt").symlink_to(folder / "secret")
    with pytest.raises(ValueError, match=r"c.mp4: has no caption"):
        read_sources(folder / "films", SHARES)
    assert "a.mp4 does not exist" in broken.refused and "is a link out of" in outside.refused and not inside.refused


def test_texts_that_are_not_utf8_are_named(folder: Path) -> None:
    (folder / "list.jsonl").write_bytes(b'{"file": "a.mp4", "text": "caf\xe9"}')
    (folder / "a.txt").write_bytes(b"\xff\xe9")
    (folder / "deep/b.c.txt").write_text("x")
    for source, named in ((folder / "list.jsonl", "list.jsonl"), (folder, "a.txt")):
        with pytest.raises(ValueError, match=f"{named}: is not text in UTF-8 .*save it as UTF-8"):
            read_sources(source, SHARES)
