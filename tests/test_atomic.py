"""Files are whole or not there, and everybody may read them whom the user's umask lets."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from baton_lightning import atomic
from baton_lightning.__main__ import main, report

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_everything_of_a_set_its_cache_and_a_run_has_the_permissions_of_the_umask(umask, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = f"--data.init_args.root={tmp_path}/data"
    assert main(["shards", "world", f"{tmp_path}/data", "--train", "8", "--val", "2", "--test", "2", "--workers", "0"]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", data, f"--run.root={tmp_path}"]) == 0
    short = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu", "--data.init_args.batch_size=2"]
    short += ["--model.init_args.scheduler.init_args.warmup_steps=0"]
    assert main(["fit", "-c", "experiments/stage1.yaml", data, f"--run.root={tmp_path}", *short]) == 0
    found = {path: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if not path.is_symlink()}
    assert {path.name for path in found} >= {"weights.safetensors", "codec.safetensors", "features.stats.safetensors", "manifest.json"}
    wrong = {str(path): oct(mode) for path, mode in found.items() if mode != (0o777 if path.is_dir() else 0o666) & ~umask}
    assert not wrong and not [path for path in found if path.name.endswith(".part")]


@pytest.mark.parametrize("several", [False, True])
def test_what_fails_while_it_is_written_leaves_the_file_of_before_and_nothing_beside_it(tmp_path, several):
    file = tmp_path / "a.json"
    atomic.write_text(file, "before")
    with pytest.raises(ZeroDivisionError), atomic.aside(file, several=several) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_full_disk_names_the_file_and_what_to_do(tmp_path, monkeypatch, capsys):
    from safetensors import SafetensorError
    from safetensors import torch as library

    def full(tensors, path, metadata=None):
        raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28): "x"')

    monkeypatch.setattr(library, "save_file", full)
    file = tmp_path / "weights.safetensors"
    with pytest.raises(OSError) as raised:
        atomic.write_tensors(file, {"a": torch.zeros(1)})
    assert raised.value.errno == errno.ENOSPC and report(raised.value) == 1
    assert str(file) in (output := capsys.readouterr().err) and "free disk space, then repeat the command" in output
    with pytest.raises(OSError, match="ledger"), atomic.naming(tmp_path / "ledger.jsonl"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write to an open file does
