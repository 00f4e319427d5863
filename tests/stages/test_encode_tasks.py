"""Caching by several processes that share nothing but a folder: together they leave what one alone leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from baton_lightning.__main__ import main
from baton_lightning.shards.format import CACHE, STATISTICS, file_digest
from datamodules.array_task import ArrayTask, array_task

ROOT = Path(__file__).parents[2]
KILLER = """
import os, signal
from callbacks.cache_writer import CacheWriter

class Killer(CacheWriter):
    def on_predict_batch_end(self, trainer, *args, **kwargs):
        super().on_predict_batch_end(trainer, *args, **kwargs)
        if not self.pending:
            os.kill(os.getpid(), signal.SIGKILL)  # a shard has just been written
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 clips in 7 shards of 2."""
    root = tmp_path_factory.mktemp("tasks") / "set"
    sizes = ["--train", "8", "--val", "4", "--test", "1", "--shard-size", "2", "--workers", "0"]
    assert main(["shards", "world", str(root), *sizes]) == 0
    return root


@pytest.fixture(scope="module")
def alone(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what one process leaves."""
    root = shutil.copytree(clips, tmp_path_factory.mktemp("alone") / "set")
    codec = clips / "codec.safetensors"
    assert main(arguments(root, codec)) == 0
    return digests(root)


def arguments(root: Path, codec: Path, *more: str) -> list[str]:
    weights = f"--model.init_args.video_codec.init_args.weights={codec}"  # its path is part of what made a cache
    config = str(ROOT / "experiments/encode.yaml")
    return ["predict", "-c", config, f"--data.init_args.root={root}", f"--run.root={root.parent}/runs", weights, *more]


def digests(root: Path) -> dict[str, str]:
    files = (f for f in sorted(root.rglob("*")) if f.is_file() and not f.name.endswith(".part"))
    return {str(file.relative_to(root)): file_digest(file) for file in files}


def test_tasks_one_after_another_leave_what_one_process_leaves(
    clips: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    for name, value in {"COUNT": "3", "MIN": "4", "MAX": "6", "STEP": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for number, left in (("5", 5), ("6", 3), ("4", 0)):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", number)
        assert main(arguments(root, clips / "codec.safetensors")) == 0
        assert len(list(root.glob("*/text-*.tar"))) == 7 - left
        assert (root / CACHE).exists() == (root / STATISTICS).exists() == (not left)
        assert left == 0 or f"not cached yet: {left} shard" in capsys.readouterr().out
    assert digests(root) == alone
    written = (root / CACHE).stat().st_mtime_ns, (root / STATISTICS).stat().st_mtime_ns
    assert main(arguments(root, clips / "codec.safetensors")) == 0
    assert ((root / CACHE).stat().st_mtime_ns, (root / STATISTICS).stat().st_mtime_ns) == written


@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_and_repeated_leave_what_one_leaves(
    clips: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    (tmp_path / "killer.py").write_text(KILLER)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}

    def start(number: int, *more: str) -> subprocess.Popen[str]:
        task = (f"--data.init_args.task={number}", "--data.init_args.num_tasks=3")
        command = [sys.executable, "-m", "baton_lightning", *arguments(root, clips / "codec.safetensors", *task, *more)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    callbacks = yaml.safe_dump([{"class_path": "killer.Killer"}], default_flow_style=True).strip()
    processes = [start(0), start(1, f"--trainer.callbacks={callbacks}"), start(2)]
    output = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0], output
    assert not (root / CACHE).exists() and len(list(root.glob("*/text-*.tar"))) == 6
    again = [start(1), start(1), start(0)]  # twice at once, and one that has nothing left to do
    output = [process.communicate(timeout=240)[0] for process in again]
    assert [process.returncode for process in again] == [0, 0, 0], output
    assert digests(root) == alone and json.loads((root / CACHE).read_text())
    assert sum("14 clips" in text and "nothing was to do" not in text for text in output) == 1


@pytest.mark.slow
def test_a_job_that_is_told_amid_a_shard_writes_it_requeues_itself_and_goes_on_with_the_next(
    clips: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from callbacks.cache_writer import CacheWriter

    job = {"JOB_ID": 73, "JOB_NAME": "encode", "NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    (tmp_path / "scontrol").write_text(f"#!/bin/bash\necho $* >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    collect, told = CacheWriter.on_predict_batch_end, []

    def signalled(writer, *given, **more):
        collect(writer, *given, **more)
        if writer.pending and not told:  # the first of two clips
            told.append(os.kill(os.getpid(), signal.SIGUSR1))

    monkeypatch.setattr(CacheWriter, "on_predict_batch_end", signalled)
    before = signal.getsignal(signal.SIGUSR1)
    root = shutil.copytree(clips, tmp_path / "set")
    one_by_one = arguments(root, clips / "codec.safetensors", "--data.init_args.batch_size=1")
    with pytest.raises(SystemExit) as left:
        main(one_by_one)
    assert left.value.code == 75 and (tmp_path / "asked").read_text() == "requeue 73\n"
    assert "whole shards are written; requeued 73" in capsys.readouterr().out
    assert len(list(root.glob("*/text-*.tar"))) == 1 and not (root / CACHE).exists() and not list(tmp_path.rglob("hpc_ckpt*"))
    assert main(one_by_one) == 0 and digests(root).keys() == alone.keys()
    signal.signal(signal.SIGUSR1, before)


def test_tasks_and_their_ranks_share_everything_once() -> None:
    for count, ranks, total in ((1, 1, 5), (3, 2, 17), (5, 1, 3)):
        taken = [i for t in range(count) for rank in range(ranks) for i in ArrayTask(t, count).share(total, rank=rank, world_size=ranks)]
        assert sorted(taken) == list(range(total))


def test_settings_win_over_the_array_and_an_array_may_start_anywhere() -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert array_task(None, None, slurm) == (2, 4)
    assert array_task(0, 2, slurm) == (0, 2)
    assert array_task(None, 1, slurm) == array_task(None, None, {}) == (0, 1)


@pytest.mark.parametrize("wrong", [(1, None), (None, 2), (2, 2), (-1, 2)])
def test_a_task_that_does_not_exist_is_refused(wrong: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="0 <= task < num_tasks"):
        array_task(*wrong, {})
