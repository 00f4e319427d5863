"""The bench of a run's start: a row for every rank of every case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baton_lightning.__main__ import main


@pytest.mark.slow
def test_every_rank_of_a_case_is_measured(tmp_path: Path) -> None:
    small = ["--width", "128", "--depth", "1", "--cases", "parent", "--work", str(tmp_path), "--json", str(tmp_path / "said.json")]
    assert main(["bench", "startup", *small]) == 0
    found = json.loads((tmp_path / "said.json").read_text())["found"]
    assert [(row["case"], row["rank"]) for row in found] == [("parent", 0), ("parent", 1)]
    assert all(0 < row["before_gb"] <= row["peak_gb"] and row["seconds"] > 0 for row in found)
    assert [path.name for path in tmp_path.iterdir()] == ["said.json"]


def test_a_width_that_does_not_split_into_heads_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "startup", "--width", "100"]) == 1
    assert "--width must be a positive multiple of 128, got 100" in capsys.readouterr().err
