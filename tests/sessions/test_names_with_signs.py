"""Folders may have signs in their names that YAML, the shell, search patterns or interpolations would read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from baton_lightning.__main__ import main
from baton_lightning.runs import manifest
from tests.sessions.interrupted_runs import Runs


def test_a_run_trains_and_resumes_in_folders_with_braces_brackets_blanks_and_percent_signs(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base / "set", data := Path("[2024] films {a,b} 100%/set"))
    runs = Runs(base, tmp_path / "runs [x] {y} 50%", monkeypatch)
    words = (f"--data.init_args.root={data}", "--run.experiment={e}, [f]")
    runs.fit(*words, cut=3)
    runs.fit(*words)
    folder = runs.root / "{e}, [f]" / "s"
    assert f"resuming {folder}/ from {folder}/checkpoints/step-2.ckpt" in capsys.readouterr().out and len(runs.rates) == 4
    made = manifest.require(folder)
    assert made["config"]["data"]["init_args"]["root"] == str(data) and (folder / "checkpoints/last.ckpt").exists()
    assert main(["shards", "stat", str(data)]) == 0
