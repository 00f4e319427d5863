"""`base:` chains."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton_lightning.config import chain, expand


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_the_deepest_base_comes_first(tmp_path):
    write(tmp_path, a="x: 1\n", b="base: a.yaml\ny: 2\n", c="# words\nbase: b.yaml # more words\nz: 3\n")
    assert [p.stem for p in chain(tmp_path / "c.yaml")] == ["a", "b", "c"]


def test_a_base_is_relative_to_the_file_that_names_it(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, a="x: 1\n")
    write(tmp_path / "deep", b="base: ../a.yaml\n")
    assert chain(tmp_path / "deep" / "b.yaml")[0] == tmp_path / "a.yaml"


def test_a_circle_is_named(tmp_path):
    write(tmp_path, a="base: b.yaml\n", b="base: a.yaml\n")
    with pytest.raises(ValueError, match=r"cycle: a.yaml -> b.yaml -> a.yaml"):
        chain(tmp_path / "a.yaml")


def test_a_missing_base_names_who_wanted_it(tmp_path):
    write(tmp_path, a="base: nowhere.yaml\n")
    with pytest.raises(ValueError, match=r"nowhere.yaml, which a.yaml names as its base"):
        chain(tmp_path / "a.yaml")


def test_an_empty_file_is_refused(tmp_path):
    write(tmp_path, a="# only words\n\n")
    with pytest.raises(ValueError, match="empty"):
        chain(tmp_path / "a.yaml")


def test_other_arguments_keep_their_place(tmp_path):
    write(tmp_path, a="x: 1\n", b="base: a.yaml\n")
    got = expand(["--run.root", "r", "-c", str(tmp_path / "b.yaml"), "--trainer.max_steps=3"])
    assert got == ["--run.root", "r", "--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--trainer.max_steps=3"]
