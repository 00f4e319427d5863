"""Nothing is written through what lies in a run folder: its files are its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baton_lightning.generation import folder
from baton_lightning.plain_files import require_own_files
from baton_lightning.runs import weights

NAMES = ("ledger.jsonl", "config.yaml", "manifest.json", "checkpoints", "samples", "version_0", "events.out.tfevents.1", "run.lock")


@pytest.mark.parametrize("name", [*NAMES, "a/b/c.json"])
@pytest.mark.parametrize("target", ["{out}/precious", "../../precious", "{run}/weights.safetensors", "nowhere"])
def test_a_folder_with_a_link_in_it_is_not_written_into(name: str, target: str, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    (run / name).parent.mkdir(parents=True)
    out.mkdir()
    (run / name).symlink_to(target.format(out=out, run=run))
    with pytest.raises(ValueError, match=r"must hold only its own files.*is a link to"):
        require_own_files(run)


def test_links_among_checkpoints_and_a_run_folder_that_is_a_link_are_the_user_s(tmp_path: Path) -> None:
    run = tmp_path / "disk"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/step-1.ckpt").touch()
    (run / "checkpoints/last.ckpt").symlink_to("step-1.ckpt")
    (tmp_path / "run").symlink_to(run)
    require_own_files(tmp_path / "run")
    require_own_files(tmp_path / "nowhere")
    (run / "checkpoints/last.ckpt").unlink()
    (run / "checkpoints/last.ckpt").symlink_to("../../precious")
    with pytest.raises(ValueError, match="is a link to"):
        require_own_files(tmp_path / "run")


def test_a_pipe_in_a_run_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="is neither; delete it"):
        require_own_files(tmp_path)


def test_weights_that_are_a_pipe_or_damaged_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not a regular file"), weights.opened(tmp_path / "weights.safetensors"):
        pass
    (tmp_path / "weights.safetensors").unlink()
    (tmp_path / "weights.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="is damaged"):
        weights.stored(tmp_path, "dit")


def test_training_and_validation_refuse_a_run_folder_with_links(tmp_path: Path) -> None:
    from baton_lightning.cli import run

    root, precious = Path(__file__).parents[2], tmp_path / "precious"
    precious.write_text("kept")
    folder = tmp_path / "runs/demo/stage1"
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").symlink_to(precious)
    words = ["-c", str(root / "experiments/stage1.yaml"), f"--run.root={tmp_path / 'runs'}", f"--data.init_args.root={tmp_path}"]
    for verb in ("fit", "validate"):
        with pytest.raises(ValueError, match=f"{folder / 'ledger.jsonl'} is a link to {precious}"):
            run(verb, words)
    assert precious.read_text() == "kept"


def test_clips_are_not_written_through_links_of_an_earlier_folder(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/k.json").symlink_to(tmp_path / "precious")
    for force in (False, True):
        with pytest.raises(ValueError, match="is a link to"):
            folder.require_free(tmp_path / "clips", force=force)
