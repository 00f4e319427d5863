"""A digest that is remembered is that of the file as it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from torch import distributed

from baton_lightning.runs import digests, weights
from baton_lightning.shards.format import file_digest


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was last changed a minute ago, by its own clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests.time, "time", lambda start=time.time: start() + 60)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * 100)
    return path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that are read from here on."""
    read: list[Path] = []
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path) or file_digest(path))
    return read


def test_a_file_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch)
    assert {digests.digest_of(file, 1) for _ in range(3)} == {file_digest(file)} and len(read) == 1
    assert not list(digests.cache().glob("*.part*")) and len(list(digests.cache().iterdir())) == 1


def test_a_changed_file_is_noticed_even_if_size_and_time_are_put_back(file: Path) -> None:
    before, output = digests.digest_of(file, 1), file.stat()
    with file.open("r+b") as stream:
        stream.write(b"b")
    os.utime(file, ns=(output.st_atime_ns, output.st_mtime_ns))
    assert file.stat().st_size == output.st_size and file.stat().st_mtime_ns == output.st_mtime_ns
    assert digests.digest_of(file, 1) == file_digest(file) != before


def test_a_file_that_was_just_written_a_small_one_and_a_damaged_entry_are_digested(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch)
    digests.digest_of(file)
    assert not digests.cache().exists(), "it is small"
    digests.digest_of(file, 1)
    entry = next(digests.cache().iterdir())
    entry.write_text("{")
    assert digests.digest_of(file, 1) == file_digest(file) and len(read) == 3
    entry.unlink()
    monkeypatch.setattr(digests.time, "time", lambda: file.stat().st_mtime)
    digests.digest_of(file, 1)
    assert not entry.exists(), "a change within its times' resolution would not show"


def test_a_home_that_cannot_be_written_costs_time_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert digests.digest_of(file, 1) == digests.digest_of(file, 1) == file_digest(file)


def test_of_several_ranks_the_first_alone_reads_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[str]] = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        distributed, "broadcast_object_list", lambda values, src: values.__setitem__(0, sent[0][0]) if sent else sent.append(list(values))
    )
    digested = []
    for rank in (0, 1):
        read = counted(monkeypatch)
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        assert weights.shared_digest(file.parent) == file_digest(file)
        digested.append(len(read))
    assert digested == [1, 0]
