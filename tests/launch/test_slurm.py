"""Scripts for SLURM: what they ask for, what each task runs, and a fit that goes back into the queue and loses nothing."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from baton_lightning import peers, settings, signals
from baton_lightning.__main__ import main
from baton_lightning.launch.grid import tasks

ROOT = Path(__file__).parents[2]
STAGE1 = "experiments/stage1.yaml"


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """sbatch, srun and scontrol that write down how they were called, first on the PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "calls"
    for name, body in {
        "sbatch": f"cat > {tmp_path}/script.sh; echo '4711;cluster'",
        "srun": "",
        "scontrol": '[ "$1" = show ] && echo node1; true',
    }.items():
        file = tools / name
        file.write_text(f'#!/bin/bash\nprintf "%s " {name} "$@" >> {log}; echo >> {log}\n{body}\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return log


def write(capsys, *words: str) -> str:
    assert main(["slurm", "write", "-c", STAGE1, *words]) == 0
    return capsys.readouterr().out


def run_task(script: str, task: int, tmp_path: Path) -> list[str]:
    """What srun is called with by one task of a script."""
    environment = os.environ | {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_JOB_ID": "70",
        "SLURM_JOB_ID": "73",
        "SLURM_JOB_NODELIST": "node1",
    }
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return shlex.split((tmp_path / "calls").read_text().splitlines()[-1])


def test_a_script_asks_for_one_task_a_gpu_a_signal_ahead_and_a_log_that_is_continued(capsys):
    script = write(capsys, "--gpus-per-node", "8", "--nodes", "2", "--time", "02:00:00", "--partition", "gpu", "--account", "me")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == "8" and asked["nodes"] == "2"
    assert asked["signal"] == "SIGUSR1@300" and "requeue" in asked and asked["open-mode"] == "append"
    assert (asked["time"], asked["partition"], asked["account"]) == ("02:00:00", "gpu", "me")
    assert "array" not in asked and "--trainer.devices=8 --trainer.num_nodes=2" in script


def test_a_job_may_go_on_with_changed_settings(capsys):
    assert "--resume=changed --trainer.max_steps=2000" in write(capsys, "--resume=changed", "--trainer.max_steps=2000")


def test_without_options_the_trainer_says_how_many_and_a_cpu_run_asks_for_no_gpu(capsys):
    asked = write(capsys, "--trainer.devices=4", "--trainer.accelerator=cpu")
    assert "--ntasks-per-node=4" in asked and "gpus-per-node" not in asked


def test_what_a_script_asks_for_is_read_by_slurm_as_it_was_meant(capsys, tmp_path):
    words = ["--run.root", f"{tmp_path}/my runs {{a,b}} [1] 100%", "--run.experiment", "first try, 50% {x}"]
    script = write(capsys, *words, "--mem", "64G", "--cpus-per-task", "6", "--qos", "long", "--lead", "900")
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    asked = dict(shlex.split(line)[0].removeprefix("--").partition("=")[::2] for line in lines)
    assert all(len(shlex.split(line)) == 1 for line in lines)
    assert asked["output"] == f"{tmp_path}/my runs {{a,b}} [1] 100%%/logs/%x-%j.out" and asked["signal"] == "SIGUSR1@900"
    assert (asked["mem"], asked["cpus-per-task"], asked["qos"]) == ("64G", "6", "long")
    assert re.fullmatch(r"[\w.=+-]+", asked["job-name"]) and asked["comment"].endswith("100%/first try, 50% {x}/stage1")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("betas=[0.9,0.98],[0.9,0.95]", [[0.9, 0.98], [0.9, 0.95]]),
        ("betas={a: 1, b: [2,3]},{a: 4}", [{"a": 1, "b": [2, 3]}, {"a": 4}]),
        ("betas='a,b',c", ["a,b", "c"]),
        ("betas=1,2", [1, 2]),
    ],
)
def test_a_comma_inside_brackets_or_quotes_belongs_to_its_value(axis, values):
    assert [settings.overrides(words)["betas"] for words in tasks([axis], None)] == values


def test_every_task_of_a_grid_is_what_the_script_says_and_has_a_folder_of_its_own(capsys, tmp_path, recorded):
    axes = ["--grid", "seed_everything=0,1", "--grid", "model.init_args.optimizer.init_args.lr=0.1,0.3"]
    script = write(capsys, *axes, "--trainer.max_steps=7", f"--run.root={tmp_path}/a b")
    assert "#SBATCH --array=0-3" in script and "%A_%a" in script
    seen = []
    for task in range(4):
        called = run_task(script, task, tmp_path)
        words = called[called.index(STAGE1) + 1 :]
        if f"--run.root={tmp_path}/a" in words:  # the recorder joins words by blanks
            words[words.index(f"--run.root={tmp_path}/a") : words.index("b") + 1] = [f"--run.root={tmp_path}/a b"]
        chosen = settings.read([STAGE1], words)
        seen.append((chosen["seed_everything"], chosen["model"]["init_args"]["optimizer"]["init_args"]["lr"], settings.folder(chosen)))
        assert chosen["trainer"]["max_steps"] == 7
    assert [row[:2] for row in seen] == [(0, 0.1), (0, 0.3), (1, 0.1), (1, 0.3)]
    assert len({row[2] for row in seen}) == 4


def test_a_list_file_gives_each_task_its_line(capsys, tmp_path, recorded):
    listed = tmp_path / "list"
    listed.write_text("# two\n--run.experiment=first\n\n--seed_everything=5 --trainer.max_steps=9 # the other\n")
    script = write(capsys, "--array", str(listed))
    assert "--run.experiment=first" in run_task(script, 0, tmp_path)
    assert {"--seed_everything=5", "--trainer.max_steps=9"} <= set(run_task(script, 1, tmp_path))


def test_the_ports_of_tasks_that_share_a_node_differ(capsys, tmp_path, recorded):
    script = write(capsys, "--grid", "seed_everything=0,1,2") + 'echo "$MASTER_PORT $MASTER_ADDR"\n'
    lines = set()
    for task in range(3):
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "999999", "SLURM_JOB_NODELIST": "node1"}
        lines.add(subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True).stdout)
    assert len(lines) == 3 and all(1024 < int(line.split()[0]) < 32768 and line.split()[1] == "node1" for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "seed_everything"], "key=value,value"),
        (["--grid", "seed_everything=0,0"], "folder of its own"),
        (["--grid", "seed_everything=0,1", "--run.stage=s", "--array", "nowhere"], "give one of them"),
        (["--array", "nowhere"], "no list nowhere"),
        (["--trainer.devices=auto"], "--gpus-per-node"),
        (["oops"], "--key=value"),
        (["--gpu-per-node", "8"], "--gpu-per-node is neither an option nor a section of an experiment"),
        (["--resume", "never"], "would apply again at every requeue"),
        (["--grid", "ckpt_path=a.ckpt,b.ckpt"], "would apply again at every requeue"),
        (["--grid", "data.init_args.fields=[a,b"], "or lists: --grid betas=[0.9,0.98],[0.9,0.95]"),
        (["--time", "00:04:00"], "--time 00:04:00 must be at least twice the --lead of 300 s"),
        (["--time", "1:30:00", "--lead", "3600"], "must be at least twice the --lead of 3600 s"),
        (["--time", "soon"], "--time must be a time limit as SLURM writes it, got 'soon'"),
        (["--run.root", 'a"b'], "--output must hold no line break"),
    ],
)
def test_what_cannot_be_an_array_is_refused_in_one_line(capsys, words, message):
    assert main(["slurm", "write", "-c", STAGE1, *words]) == 1
    assert message in capsys.readouterr().err


def test_submit_hands_over_the_script_and_makes_the_folder_of_its_logs(capsys, tmp_path, recorded):
    argv = ["submit", "-c", STAGE1, f"--run.root={tmp_path}/runs", "--gpus-per-node", "2"]
    assert main(["slurm", *argv, "--dry-run"]) == 0 and not recorded.exists()
    shown = capsys.readouterr().out.replace(" --dry-run", "")
    assert main(["slurm", *argv]) == 0
    assert (tmp_path / "script.sh").read_text() == shown and (tmp_path / "runs/logs").is_dir()
    assert "submitted 4711" in capsys.readouterr().out


def test_a_finished_run_is_not_submitted_and_of_an_array_only_what_is_due(capsys, tmp_path, recorded, monkeypatch):
    monkeypatch.setattr("baton_lightning.launch.status.verdict", lambda *_: ("finished", ""))
    for experiment in ("demo", "demo-seed_everything=1"):
        (tmp_path / experiment / "stage1").mkdir(parents=True)
        (tmp_path / experiment / "stage1/manifest.json").write_text('{"weights_sha256": "0"}')
    argv = ["slurm", "submit", "-c", STAGE1, f"--run.root={tmp_path}"]
    assert main(argv) == 0 and not recorded.exists()
    assert f"{tmp_path}/demo/stage1/ is finished; nothing to submit" in capsys.readouterr().out
    assert main([*argv, "--grid", "seed_everything=0,1,2,3"]) == 0
    assert "#SBATCH --array=0,2-3\n" in (tmp_path / "script.sh").read_text() and "=1/stage1/ is finished" in capsys.readouterr().out


def test_a_machine_without_sbatch_is_told_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "submit", "-c", STAGE1, f"--run.root={tmp_path}"]) == 1
    assert "no `sbatch`" in capsys.readouterr().err


# ---- a fit in the queue


SMALL = [
    "--trainer.max_steps=6",
    "--trainer.val_check_interval=6",
    "--trainer.accelerator=cpu",
    "--model.init_args.scheduler.init_args.warmup_steps=1",
    "--data.init_args.batch_size=4",
]


def start(base: Path, name: str) -> int:
    """One start of a job; the exit code."""
    try:
        return main(["fit", "-c", STAGE1, f"--run.root={base}", f"--run.experiment={name}", f"--data.init_args.root={base}/data", *SMALL])
    except SystemExit as left:
        return int(left.code or 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A data set with its cache."""
    folder = tmp_path_factory.mktemp("slurm")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    assert main(["shards", "world", f"{folder}/data", "--train", "16", "--val", "4", "--test", "2", "--workers", "0"]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/data", f"--run.root={folder}"]) == 0
    patch.undo()
    return folder


@pytest.fixture
def in_a_job(monkeypatch):
    """The variables that srun gives to the one process of task 3 of array 70."""
    job = {"JOB_ID": 73, "ARRAY_JOB_ID": 70, "ARRAY_TASK_ID": 3, "JOB_NAME": "demo", "NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1}
    for name, value in (job | {"PROCID": 0, "LOCALID": 0, "NODEID": 0, "NODELIST": "localhost"}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
def test_a_fit_that_is_signalled_within_a_step_requeues_itself_and_ends_as_if_it_had_not_been(
    base, in_a_job, monkeypatch, recorded, capsys
):
    from baton_lightning.stages.pretraining import PlannerPretraining

    assert start(base, "straight") == 0

    saved = []

    def signalled(module):
        if module.trainer.global_step == 2 and not saved:  # in the middle of step 3
            os.kill(os.getpid(), signal.SIGUSR1)
            saved.append((base / "queued/stage1/checkpoints/last.ckpt").exists())

    monkeypatch.setattr(PlannerPretraining, "on_after_backward", signalled)
    assert start(base, "queued") == 75
    assert saved == [False], "the handler itself must not save"
    assert [line.split() for line in recorded.read_text().splitlines()] == [["scontrol", "requeue", "70_3"]]
    run = base / "queued/stage1"
    assert (run / "checkpoints/last.ckpt").exists() and not (run / "manifest.json").exists() and not list(run.glob("hpc_ckpt*"))
    assert "step 3 is saved" in capsys.readouterr().out

    assert start(base, "queued") == 0
    assert f"resuming {run}/ from" in capsys.readouterr().out
    for name in ("weights.safetensors", "ledger.jsonl"):
        assert (run / name).read_bytes() == (base / "straight/stage1" / name).read_bytes(), name


@pytest.mark.slow
def test_a_checkpoint_that_another_job_left_is_not_taken(base, in_a_job, recorded, capsys):
    run = base / "foreign/stage1"
    run.mkdir(parents=True)
    (run / "hpc_ckpt_1.ckpt").write_bytes(b"of another job")
    assert start(base, "foreign") == 1
    assert "hpc_ckpt_1.ckpt, which another job left" in capsys.readouterr().err


def test_a_signal_before_anything_is_ready_is_noted_from_the_first_line_on(in_a_job, capsys):
    assert main(["--help"]) == 0
    os.kill(os.getpid(), signal.SIGUSR1)  # would end a process that has no handler
    assert signals.REQUEUE.wait(5)
    assert main(["--help"]) == 0 and not signals.REQUEUE.is_set()


@pytest.mark.parametrize(
    ("environment", "devices", "refused"),
    [
        ({"NTASKS": "2"}, 2, True),
        ({"NTASKS": "2", "STEP_ID": "4294967290", "STEP_NUM_TASKS": "1"}, 2, True),  # the shell of `salloc`
        ({"NTASKS": "2", "STEP_ID": "0", "STEP_NUM_TASKS": "2"}, 2, False),
        ({"NTASKS": "2", "PROCID": "1"}, 2, False),
        ({"NTASKS": "2"}, 1, False),
        ({"NTASKS": "1"}, 2, False),
        ({"NTASKS": "2", "JOB_NAME": "interactive"}, 2, False),
    ],
)
def test_one_of_several_tasks_that_srun_did_not_start_is_refused_with_the_command_to_use(
    in_a_job, monkeypatch, environment, devices, refused
):
    for name, value in environment.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("sys.argv", ["x", "fit", "-c", "a b.yaml"])
    if not refused:
        return peers.require_srun(devices, 1)
    with pytest.raises(ValueError, match=r"job 73 has 2 tasks.*use `srun python -m baton_lightning fit -c 'a b.yaml'`"):
        peers.require_srun(devices, 1)


def test_fit_asks_for_srun_before_it_waits_for_other_tasks(in_a_job, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert main(["fit", "-c", STAGE1, f"--run.root={tmp_path}", "--trainer.devices=2", "--trainer.accelerator=cpu"]) == 1
    assert "this process was not started by `srun`" in capsys.readouterr().err


def test_outside_slurm_the_signal_is_left_alone(monkeypatch):
    from callbacks.requeue import Requeue

    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before, callback = signal.getsignal(signal.SIGUSR1), Requeue()
    callback.setup(None, None, "fit")
    callback.on_train_batch_end(type("Trainer", (), {"global_step": 1, "max_steps": 5})(), None, None, None, 0)
    assert signal.getsignal(signal.SIGUSR1) == before
