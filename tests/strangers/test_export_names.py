"""`export` of a run from elsewhere writes below `--out`, and nothing that was there goes unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from baton_lightning.__main__ import main
from baton_lightning.shards.format import file_digest


def run_of(folder: Path, *names: str, **more: Any) -> Path:
    """A finished run whose tensors have these names."""
    folder.mkdir()
    save_file({name: torch.zeros(2) for name in names}, folder / "weights.safetensors")
    described = {"stage": "JointTraining", "clip": {}, "parents": {}, "weights_sha256": file_digest(folder / "weights.safetensors")}
    (folder / "manifest.json").write_text(json.dumps(described | {"config": {}} | more))
    return folder


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


NAMES = [
    "../x.weight",
    "/tmp/x.weight",
    "a/b.weight",
    "..weight",
    "a b.weight",
    "dit.a\nb",
    "language.x",
    "adapter.x",
    "weight",
    "x" * 999 + ".y",
]


@pytest.mark.parametrize("name", NAMES)
def test_weights_whose_names_are_no_parameters_are_not_exported(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", "dit.weight", name)
    before = tree(tmp_path)
    for form in ("baton", "ovi"):
        assert main(["export", str(run), "--out", str(tmp_path / "out"), "--format", form]) == 1
        said = capfd.readouterr().err.strip()
        assert said.startswith("baton_lightning: error: export: ") and len(said.splitlines()) == 1
    assert tree(tmp_path) == before


def test_only_what_export_wrote_is_replaced_and_only_when_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, out = run_of(tmp_path / "run", "dit.weight"), tmp_path / "out"
    words = ["export", str(run), "--out", str(out)]
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part/mine").touch()
    assert main(words) == 0 and (tmp_path / "out.part/mine").exists()
    assert main(words) == 1 and "--force" in capfd.readouterr().err
    assert main([*words, "--force"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").touch()
    assert main(["export", str(run), "--out", str(tmp_path / "mine"), "--force"]) == 1
    assert "not written by export" in capfd.readouterr().err and (tmp_path / "mine/notes").exists()


def test_files_that_a_run_only_links_to_are_not_published(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", "dit.weight")
    (tmp_path / "secret").write_text("secret")
    (run / "language").mkdir()
    (run / "language/tokenizer.json").symlink_to(tmp_path / "secret")
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 1
    assert "is a link to" in capfd.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [{"stage": 3}, {"metrics": {"val/loss": "x"}}, {"parents": {"dit": "x"}}, {"clip": []}, {"config": [1]}])
def test_a_manifest_of_another_kind_is_told_in_one_line(more: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", "dit.weight", **more)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 1
    assert f"its {next(iter(more))} has an invalid value" in capfd.readouterr().err
