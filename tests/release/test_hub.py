"""`export --push`: what the hub is asked, and when. The hub's client is replaced, because there is no hub here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.runs import manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "ovi"
    folder.mkdir()
    save_file({"dit.video.weight": torch.ones(2, 2)}, folder / manifest.WEIGHTS)
    digest = manifest.file_digest(folder / manifest.WEIGHTS)
    (folder / manifest.NAME).write_text(json.dumps({"clip": ClipSpec().to_dict(), "weights_sha256": digest, "stage": "joint"}))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the client is asked, in order, by a user whom the hub knows."""
    calls: list[tuple[str, Any]] = []

    def create(self: Any, repo: str, *, private: bool, exist_ok: bool) -> str:
        calls.append(("create", (repo, private, exist_ok)))
        return f"https://hub/{repo}"

    def upload(self: Any, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        calls.append(("upload", sorted(str(file.relative_to(folder_path)) for file in folder_path.rglob("*") if file.is_file())))

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: calls.append(("who", None)))
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    return calls


def export(run: Path, out: Path, repo: str) -> int:
    return main(["export", str(run), "--out", str(out), "--push", repo])


def test_an_export_is_uploaded_whole_to_a_private_repository(
    run: Path, tmp_path: Path, asked: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "out", "me/tiny") == 0
    written = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert asked == [("who", None), ("create", ("me/tiny", True, True)), ("upload", written)] and "README.md" in written
    assert "uploaded to https://hub/me/tiny" in capsys.readouterr().out


@pytest.mark.parametrize("repo", ["tiny", "me/ti ny", "a/b/c"])
def test_an_invalid_name_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, asked: list[tuple[str, Any]], repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "out", repo) == 1
    said = capsys.readouterr().err
    assert "--push" in said and len(said.strip().splitlines()) == 1 and not asked and not (tmp_path / "out").exists()


def test_without_a_token_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(self: Any) -> None:
        raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required, but no token found.\nMore lines.")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", unknown)
    assert export(run, tmp_path / "out", "me/tiny") == 1
    assert "hf auth login" in (said := capsys.readouterr().err) and "no token found.)" in said and not (tmp_path / "out").exists()


def test_a_refused_upload_leaves_the_export(
    run: Path, tmp_path: Path, asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Any, **_: Any) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", refused)
    assert export(run, tmp_path / "out", "me/tiny") == 1
    assert "is written, but me/tiny did not take it" in capsys.readouterr().err and (tmp_path / "out/README.md").exists()
