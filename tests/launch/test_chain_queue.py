"""A chain and its jobs: what SLURM knows of is never submitted again, and what it says of jobs that ended is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.launch import jobs

ROOT = Path(__file__).parents[2]
CHAIN = "experiments/chain.yaml"
STAGES = ["encode", "stage1", "stage2", "stage3_adapt", "stage3_joint"]
TOOLS = {
    "sbatch": "n=$(ls scripts | wc -l); cat > scripts/$((100 + n)); echo $((100 + n))",
    "squeue": """if [[ "$*" == *--name* ]]; then cat named 2>/dev/null; exit 0; fi
[[ "$*" == *--me* ]] && exit 3
[ -s queue ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
cat queue""",
    "sacct": "cat accounting 2>/dev/null || { echo disabled >&2; exit 1; }",
    "scontrol": "cat controller 2>/dev/null || exit 1",
}


class Cluster:
    """Tools of SLURM that say what files say, and the words of a chain."""

    def __init__(self, root: Path) -> None:
        self.root, self.scripts = root, root / "scripts"
        self.scripts.mkdir()
        (root / "tools").mkdir()
        for name, body in TOOLS.items():
            tool = root / "tools" / name
            tool.write_text(f"#!/bin/bash\ncd {root}\n{body}\n")
            tool.chmod(0o755)
        self.words = [f"--run.root={root}/runs", "--run.experiment=e", f"--data.init_args.root={root}/data"]

    def says(self, file: str, text: str) -> None:
        (self.root / file).write_text(text)

    def submit(self, *more: str, chain: str = CHAIN) -> int:
        return main(["chain", "submit", chain, *self.words, *more])

    @property
    def submitted(self) -> list[str]:
        return sorted(path.name for path in self.scripts.iterdir())

    def directive(self, job: int, name: str) -> str | None:
        lines = (self.scripts / str(job)).read_text().splitlines()
        return next((line.partition("=")[2] for line in lines if line.startswith(f"#SBATCH --{name}=")), None)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = Cluster(tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("PATH", f"{tmp_path}/tools:/usr/bin:/bin")
    return made


@pytest.mark.parametrize(
    "state", ["SUSPENDED", "REQUEUE_HOLD", "PENDING (JobHeldUser)", "STAGE_OUT", "SPECIAL_EXIT", "A_STATE_OF_NEXT_YEAR"]
)
def test_a_job_in_any_state_that_squeue_knows_is_not_submitted_again(cluster, capsys, state):
    assert cluster.submit() == 0 and len(cluster.submitted) == 5
    cluster.says("queue", "".join(f"{100 + i} {state}\n" for i in range(5)))
    capsys.readouterr()
    assert cluster.submit() == 0 and len(cluster.submitted) == 5
    assert capsys.readouterr().out.count("already: job 10") == 5
    assert main(["chain", "status", CHAIN, *cluster.words]) == 0
    assert state in capsys.readouterr().out


def test_jobs_are_known_by_run_folder_also_of_a_stage_that_was_renamed_or_that_nobody_wrote_down(cluster, tmp_path, capsys):
    assert cluster.submit() == 0
    cluster.says("queue", "".join(f"{100 + i} PENDING Priority\n" for i in range(5)))
    renamed = tmp_path / "chain.yaml"
    text = (ROOT / CHAIN).read_text().replace("stage1:", "first:").replace("[stage1]", "[first]")
    renamed.write_text(text.replace("config: ", f"config: {ROOT}/experiments/"))
    assert cluster.submit(chain=str(renamed)) == 0 and len(cluster.submitted) == 5
    (tmp_path / "runs/e/chain.json").unlink()
    cluster.says("named", "".join(f"{200 + i} RUNNING None|{tmp_path}/runs/e/{name}\n" for i, name in enumerate(STAGES)))
    capsys.readouterr()
    assert cluster.submit() == 0 and len(cluster.submitted) == 5
    assert capsys.readouterr().out.count("already: job 20") == 5


def test_a_job_that_waits_with_other_settings_says_so(cluster, capsys):
    assert cluster.submit("--trainer.max_steps=500") == 0
    cluster.says("queue", "".join(f"{100 + i} PENDING Priority\n" for i in range(5)))
    capsys.readouterr()
    assert cluster.submit("--trainer.max_steps=700", "--trainer.devices=2") == 0
    assert "with other settings (trainer.max_steps: 500 -> 700): `scancel` it" in (output := capsys.readouterr().out)
    assert "devices" not in output.partition("next: ")[0] and len(cluster.submitted) == 5


def test_what_ended_is_told_with_the_last_line_of_its_log(cluster, tmp_path, capsys):
    assert cluster.submit() == 0
    logs = tmp_path / "runs/logs"
    (logs / "e-stage1-101.out").write_text("step 3\rstep 4\nbaton_lightning: error: no warmth\n\n")
    cluster.says("accounting", "FAILED|1:0\n")
    capsys.readouterr()
    assert main(["chain", "status", CHAIN, *cluster.words]) == 0
    output = capsys.readouterr().out
    assert "101 FAILED" in output and f"stage1: job 101 FAILED ({logs}/e-stage1-101.out): 1:0, baton_lightning: error: no warmth" in output
    (tmp_path / "accounting").unlink()
    cluster.says("controller", "JobId=101 JobState=OUT_OF_MEMORY Reason=OutOfMemory Dependency=(null) ExitCode=0:125 RunTime=0\n")
    assert main(["chain", "status", CHAIN, *cluster.words]) == 0
    assert "stage1: job 101 OUT_OF_MEMORY" in (output := capsys.readouterr().out) and "OutOfMemory, 0:125" in output
    (tmp_path / "controller").unlink()
    (logs / "e-stage1-101.out").write_text("slurmstepd: error: *** JOB 101 ON n1 CANCELLED AT 2026-11-26T01:00:00 DUE TO TIME LIMIT ***\n")
    cluster.says("queue", "102 PENDING DependencyNeverSatisfied\n")
    assert main(["chain", "status", CHAIN, *cluster.words]) == 0
    assert "stage1: job 101 TIMEOUT" in (output := capsys.readouterr().out) and "102 PENDING (DependencyNeverSatisfied)" in output


def finish(folder: Path, words: list[str], parents: dict[str, Path] | None = None) -> None:
    """What a finished run leaves."""
    from baton_lightning import settings

    asked = settings.read([ROOT / f"experiments/{folder.name}.yaml"], words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(b"trained")
    made = {"weights_sha256": folder.name * 8, "config": asked}
    made["parents"] = {role: {"run": str(run), "weights_sha256": run.name * 8} for role, run in (parents or {}).items()}
    (folder / "manifest.json").write_text(json.dumps(made))


def test_of_an_array_only_the_task_that_failed_is_sent_again_and_each_task_has_its_table(cluster, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cache.json").write_text("{}")
    axes = ["--grid", "seed_everything=0,1,2"]
    assert cluster.submit(*axes) == 0 and cluster.submitted == ["100", "101", "102", "103"]
    for seed in (0, 2):
        own = [f"--run.experiment=e-seed_everything={seed}", f"--seed_everything={seed}"]
        finish(tmp_path / f"runs/e-seed_everything={seed}/stage1", [*cluster.words, *own])
    busy = ["101_0 RUNNING", "101_2 PENDING Resources", *(f"102_{i} RUNNING" for i in range(3)), "103_0 PENDING", "103_2 PENDING"]
    cluster.says("queue", "\n".join(busy))
    capsys.readouterr()
    assert cluster.submit(*axes) == 0
    assert cluster.submitted == [str(100 + i) for i in range(7)]
    assert [cluster.directive(job, "array") for job in (104, 105, 106)] == ["1", "1", "1"]
    assert [cluster.directive(job, "dependency") for job in (104, 105, 106)] == [None, "aftercorr:104", "aftercorr:105:102"]
    output = capsys.readouterr().out
    assert "stage1 of task 0 is finished" in output and "stage2 of task 2 is queued already: job 101_2 PENDING (Resources)" in output
    cluster.says("queue", "104_1 RUNNING\n")
    assert main(["chain", "status", CHAIN, *cluster.words, *axes]) == 0
    output = capsys.readouterr().out
    assert all(f"runs/e-seed_everything={seed}" in output for seed in range(3))
    assert output.count("finished") == 5 and "104_1 RUNNING" in output


def test_nothing_is_finished_without_weights_without_its_tars_or_for_another_geometry(cluster, tmp_path, capsys):
    from baton_lightning import settings
    from baton_lightning.shards.format import VERSION, SplitIndex
    from baton_lightning.shards.stored_clip import clip_of

    clip = clip_of(settings.read([ROOT / "experiments/encode.yaml"])["clip"]).to_dict()
    split = tmp_path / "data/train"
    split.mkdir(parents=True)
    index = SplitIndex(split, 1, 2.0, clip, [{"name": "clips-000000.tar", "num_clips": 1, "num_bytes": 1, "sha256": "a"}])
    index.write()
    record = {"version": VERSION, "clip": clip, "splits": {"train": index.digest}}
    (tmp_path / "data/cache.json").write_text(json.dumps(record))
    tars = [split / f"{kind}-000000.tar" for kind in ("latents", "features", "text")]
    for tar in tars:
        tar.touch()
    finish(tmp_path / "runs/e/stage1", cluster.words)

    def row(stage: str, *more: str) -> str:
        capsys.readouterr()
        assert main(["chain", "status", CHAIN, *cluster.words, *more]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"│ {stage} "))

    assert "│ finished " in row("encode") and "│ finished " in row("stage1")
    assert "is of another geometry (clip section != cache): keyframe_fps: 4" in row("encode", "--clip.keyframe_fps", "4")
    tars[1].unlink()
    assert "ready: " in (output := row("encode")) and f"{tars[1]} is missing" in output
    (tmp_path / "runs/e/stage1/weights.safetensors").unlink()
    assert "damaged: " in (output := row("stage1")) and "weights.safetensors is missing" in output
    assert cluster.submit() == 1 and "delete that folder to train the stage again" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "runs/e/stage1")
    assert cluster.submit() == 0 and len(cluster.submitted) == 5


def test_a_log_is_read_to_its_last_words(cluster, tmp_path):
    log = tmp_path / "a.out"
    log.write_bytes(b"one\ntwo 1/9\rtwo 9/9\n  \nsrun: error: vm: task 0: Killed\n")
    assert jobs.last_line(jobs.tail(log)) == "two 9/9"
    log.write_bytes(b"slurmstepd: error: *** STEP 1.0 ON vm CANCELLED AT 2026 DUE TO TIME LIMIT ***\nour own last words\n")
    assert jobs.ended("1", log) == jobs.Job("1", "TIMEOUT", "our own last words")
    log.write_bytes(b"")
    assert jobs.last_line(jobs.tail(log)) == ""


def test_a_cache_of_several_geometries_is_finished_with_the_last_of_them(tmp_path):
    from baton_lightning.launch.stage import Stage
    from baton_lightning.launch.verdict import cache_lacks

    clip = {"geometries": [{"height": 32, "width": 48, "seconds": 2.0}]}
    stage = Stage("encode", ROOT / "experiments/encode.yaml", "predict", (), {"clip": clip, "data": {"init_args": {"root": str(tmp_path)}}})
    assert stage.record == tmp_path / "48x32x2s/cache.json"
    for name, width in (("48x32x2s", 48), ("32x32x2s", 48)):
        assert cache_lacks(stage) == f"{tmp_path}/32x32x2s/cache.json is missing"
        (tmp_path / name).mkdir()
        (tmp_path / name / "cache.json").write_text(json.dumps({"clip": ClipSpec(width=width).to_dict(), "splits": {}}))
    assert "32x32x2s/cache.json is of another geometry (clip section != cache): width: 32 != 48" in cache_lacks(stage)
