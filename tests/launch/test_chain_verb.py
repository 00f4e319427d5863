"""The chain: what is due is run in order, what is finished is kept, what was built on something else is refused by name."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from baton_lightning import settings
from baton_lightning.__main__ import main
from baton_lightning.launch.status import progress, read_chain

ROOT = Path(__file__).parents[2]
CHAIN = "experiments/chain.yaml"
STAGES = ["encode", "stage1", "stage2", "stage3_adapt", "stage3_joint"]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "300")


class Door:
    """A front door that finishes stages without training them, as long as it is not told to fail."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.words = [f"--run.root={tmp_path}/runs", "--run.experiment=e", f"--data.init_args.root={tmp_path}/data"]
        self.file = tmp_path / "door"
        self.file.write_text(
            f"""#!{sys.executable}
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from baton_lightning import settings
verb, config, words = sys.argv[3], sys.argv[5], sys.argv[6:]
asked = settings.read([config], words)
name = asked["run"]["stage"]
base = Path({str(tmp_path)!r})
with (base / "calls").open("a") as calls: calls.write(name + "\\n")
if (base / ("fail-" + name)).exists(): sys.exit(7)
if verb == "predict":
    (base / "data").mkdir(exist_ok=True)
    (base / "data/cache.json").write_text("{{}}")
    sys.exit(0)
folder = settings.folder(asked)
folder.mkdir(parents=True, exist_ok=True)
digest = lambda run: json.loads((Path(run) / "manifest.json").read_text())["weights_sha256"]
parents = {{k: {{"run": v, "weights_sha256": digest(v)}} for k, v in asked["model"]["init_args"].get("parents", {{}}).items()}}
made = {{"weights_sha256": (name + "0" * 64)[:64], "parents": parents, "config": asked}}
(folder / "weights.safetensors").write_bytes(b"trained")
(folder / "manifest.json").write_text(json.dumps(made))
"""
        )
        self.file.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().split() if (self.root / "calls").exists() else []

    def manifest(self, stage: str) -> Path:
        return self.root / "runs/e" / stage / "manifest.json"

    def change(self, stage: str, **values) -> None:
        self.manifest(stage).write_text(json.dumps(json.loads(self.manifest(stage).read_text()) | values))


@pytest.fixture
def door(tmp_path, monkeypatch):
    made = Door(tmp_path)
    monkeypatch.setattr("baton_lightning.launch.chain.sys.executable", str(made.file))
    return made


def states(door: Door, capsys) -> dict[str, str]:
    capsys.readouterr()
    assert main(["chain", "status", CHAIN, *door.words]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    return dict(rows)


def test_a_chain_runs_in_order_and_stops_with_the_exit_code_of_the_first_that_fails(door, capsys):
    (door.root / "fail-stage2").touch()
    assert main(["chain", "run", CHAIN, *door.words]) == 7
    assert door.calls == ["encode", "stage1", "stage2"]
    assert states(door, capsys) == {
        "encode": "finished",
        "stage1": "finished",
        "stage2": "ready",
        "stage3_adapt": "ready",
        "stage3_joint": "waiting",
    }
    (door.root / "fail-stage2").unlink()
    assert main(["chain", "run", CHAIN, *door.words]) == 0
    assert door.calls[3:] == ["stage2", "stage3_adapt", "stage3_joint"]
    assert main(["chain", "run", CHAIN, *door.words]) == 0 and len(door.calls) == 6


def test_a_changed_parent_makes_everything_after_it_stale_and_is_named(door, capsys):
    assert main(["chain", "run", CHAIN, *door.words]) == 0
    door.change("stage1", weights_sha256="f" * 64)
    found = states(door, capsys)
    assert found["stage2"].startswith("stale: parent changed: planner from") and "is ffffffffffff" in found["stage2"]
    assert found["stage3_joint"].startswith("stale") and found["stage3_adapt"] == "finished"
    assert main(["chain", "run", CHAIN, *door.words]) == 1
    assert "was stage2" not in (output := capsys.readouterr().err) and "was stage1000000, is ffffffffffff" in output


def test_other_settings_are_named_and_where_a_run_was_made_is_none(door, capsys):
    assert main(["chain", "run", CHAIN, *door.words]) == 0
    assert main(["chain", "run", CHAIN, *door.words, "--trainer.devices=8"]) == 0
    assert main(["chain", "run", CHAIN, *door.words, "--trainer.gradient_clip_val=0.5"]) == 1
    assert "trainer.gradient_clip_val: 1.0 -> 0.5" in capsys.readouterr().err


def test_a_stopped_run_says_how_far_it_came_and_from_what_it_goes_on(door, capsys):
    (door.root / "fail-stage1").touch()
    assert main(["chain", "run", CHAIN, *door.words]) == 7
    run = door.root / "runs/e/stage1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/step-100.ckpt").touch()
    assert states(door, capsys)["stage1"] == "interrupted at step 100"
    (run / "ledger.jsonl").write_text(json.dumps({"step": 120, "loss": (0.25).hex()}) + '\n{"step": 121, "lo')
    assert states(door, capsys)["stage1"] == "interrupted at step 120"
    (run / "checkpoints/step-90.ckpt").touch()  # later, but a clock may have been set back
    assert progress(run) == (120, 0.25, "step-100.ckpt")


def test_a_stage_that_somebody_works_on_is_not_started_twice(door, capsys):
    sleeper = subprocess.Popen(["baton_lightning", "60"], executable="/bin/sleep")
    try:
        folder = door.root / "runs/e"
        folder.mkdir(parents=True)
        (folder / "chain.json").write_text(json.dumps({"stages": {"encode": {"pid": sleeper.pid, "host": socket.gethostname()}}}))
        assert states(door, capsys)["encode"] == "running"
        assert main(["chain", "run", CHAIN, *door.words]) == 1 and "running already" in capsys.readouterr().err
        assert main(["chain", "submit", CHAIN, *door.words, "--dry-run"]) == 1 and "cannot depend on a process" in capsys.readouterr().err
    finally:
        sleeper.kill()
        sleeper.wait()
    assert states(door, capsys)["encode"] == "ready"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """An sbatch that counts its jobs, and a squeue that shows what a file says."""
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (tools / "sbatch").write_text(f"#!/bin/bash\nn=$(ls {scripts} | wc -l); cat > {scripts}/$((100 + n)); echo $((100 + n))\n")
    (tools / "squeue").write_text(f"#!/bin/bash\ncat {tmp_path}/queue 2>/dev/null || true\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return scripts


def directive(script: Path, name: str) -> str | None:
    found = re.search(rf"^#SBATCH --{name}=(.*)$", script.read_text(), re.MULTILINE)
    return found[1] if found else None


def test_submitted_jobs_wait_for_their_parents_and_are_remembered(door, queue, capsys):
    assert main(["chain", "submit", CHAIN, *door.words, "--gpus-per-node", "4"]) == 0
    waits = [directive(queue / str(100 + i), "dependency") for i in range(5)]
    assert waits == [None, "afterok:100", "afterok:101", "afterok:100", "afterok:102:103"]
    kept = json.loads((door.root / "runs/e/chain.json").read_text())["stages"]
    assert {name: entry["job"] for name, entry in kept.items()} == dict(zip(STAGES, map(str, range(100, 105)), strict=True))
    (door.root / "queue").write_text("100 RUNNING\n101 PENDING\n102 PENDING\n103 PENDING\n104 PENDING\n")
    assert states(door, capsys) == {"encode": "running"} | dict.fromkeys(STAGES[1:], "queued")
    assert main(["chain", "submit", CHAIN, *door.words]) == 0 and len(list(queue.iterdir())) == 5


def test_the_tasks_of_an_array_wait_for_their_own_parent_only(door, queue):
    assert main(["chain", "submit", CHAIN, *door.words, "--grid", "seed_everything=0,1,2"]) == 0
    waits = [directive(queue / str(100 + i), "dependency") for i in range(5)]
    assert waits == [None, "afterok:100", "aftercorr:101", "afterok:100", "aftercorr:102:103"]
    assert [directive(queue / str(100 + i), "array") for i in range(5)] == [None, "0-2", "0-2", "0-2", "0-2"]


def test_a_submitted_array_names_the_status_of_its_own_tasks(door, queue, capsys, monkeypatch):
    monkeypatch.delenv("BATON_STARTED_BY_CHAIN", raising=False)
    assert main(["chain", "submit", CHAIN, *door.words, "--grid", "seed_everything=0,1", "--gpus-per-node", "4"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])[4:]
    assert words == ["chain", "status", CHAIN, *door.words, "--grid=seed_everything=0,1"]
    assert main(words) == 0 and len(re.findall("stage3_joint ", capsys.readouterr().out)) == 2


def test_a_dry_run_submits_nothing(door, queue, capsys):
    assert main(["chain", "submit", CHAIN, *door.words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert not list(queue.iterdir()) and "--dependency=afterok:<encode>" in printed and "next:" not in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {config: stage1.yaml, after: [b]}", "a comes after b, but there is no stage of that name; the stages are a"),
        ("part: {config: stage1.yaml}\nb: {config: stage1.yaml, after: [prt]}", "did you mean part?"),
        ("a: {config: stage1.yaml, after: [a]}", "a comes after a, and a after a (a -> a)"),
        ("a: {config: stage1.yaml, after: [b]}\nb: {config: stage1.yaml, after: [a]}", "b after a (a -> b -> a), so none could start"),
        (
            "a: {config: stage1.yaml, after: [b]}\nb: {config: stage1.yaml}",
            "a comes after b, which is below it in the file; move b above a",
        ),
        ("b: {config: child.yaml}\na: {config: stage1.yaml}", "`after: [a]` to b, and move a above b"),
        ("a: {config: stage1.yaml}\nb: {config: child.yaml}", "b starts from the run of a (parents.x: runs/demo/a)"),
        ("a: {config: stage1.yaml, verb: fly}", "fit or predict, got 'fly'"),
        ("a: {config: stage1.yaml, needs: [b]}", "got `needs`"),
        ("a: {config: nowhere.yaml}", "nowhere.yaml"),
        ("a: stage1.yaml", "must name stages"),
        ("{}", "must name stages"),
        ("a: {config: 3}", "must name stages"),
        ("a: [1,", "must be YAML"),
        ("a: {config: stage1.yaml}\nb: {config: stage1.yaml, after: a}", "a list of stages, got 'a'; e.g. after: [a]"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused_in_one_line(tmp_path, capsys, text, message):
    (tmp_path / "stage1.yaml").write_text("run: {stage: a}\n")
    (tmp_path / "child.yaml").write_text("run: {stage: b}\nmodel: {init_args: {parents: {x: runs/demo/a}}}\n")
    (tmp_path / "chain.yaml").write_text(text)
    assert main(["chain", "run", str(tmp_path / "chain.yaml")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("chain.json", "{", "is damaged"),
        ("chain.json", "{}", "is damaged"),
        ("chain.json", '{"stages": {"stage1": {"pid": 1}}}', "neither job nor pid and host"),
        ("stage1/manifest.json", "{}", "names no weights_sha256"),
        ("stage1/manifest.json", "[]", "is damaged"),
        ("stage1/ledger.jsonl", "{}\n", "not a step of a run"),
        ("stage1/ledger.jsonl", "\0\0\n", "not a step of a run"),
    ],
)
def test_a_damaged_file_of_a_chain_is_named(door, capsys, file, text, message):
    path = door.root / "runs/e" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert main(["chain", "status", CHAIN, *door.words]) == 1
    assert message in (err := capsys.readouterr().err) and str(path) in err and "Traceback" not in err


def test_a_queue_that_does_not_answer_is_not_taken_for_an_empty_one(door, queue, tmp_path, capsys):
    assert main(["chain", "submit", CHAIN, *door.words]) == 0
    (tmp_path / "tools/squeue").write_text("#!/bin/bash\necho no controller >&2; exit 1\n")
    assert main(["chain", "submit", CHAIN, *door.words]) == 1
    assert "no controller" in capsys.readouterr().err


@pytest.mark.slow
def test_light_settings_are_those_of_the_parser(capsys):
    import yaml

    words = ["--run.experiment=x", "--trainer.max_steps=7"]
    for name, stage in read_chain(Path(CHAIN), words).items():
        if stage.verb == "fit":
            with pytest.raises(SystemExit):
                main(["fit", "-c", str(stage.config), *words, "--print_config"])
            assert settings.differences(stage.settings, yaml.safe_load(capsys.readouterr().out)) == [], name


@pytest.mark.slow
def test_a_real_chain_is_finished_by_its_own_manifests(tmp_path, capsys):
    chain = tmp_path / "chain.yaml"
    small = "model: {init_args: {scheduler: {init_args: {warmup_steps: 1}}}}\ntrainer: {max_steps: 2, val_check_interval: 2}\n"
    for name in STAGES[:3]:
        own = small if name != "encode" else ""
        (tmp_path / f"{name}.yaml").write_text(f"base: {ROOT}/experiments/{name}.yaml\n{own}")
    chain.write_text("\n".join(line for line in Path(CHAIN).read_text().splitlines() if line.startswith(("encode", "stage1", "stage2"))))
    assert main(["shards", "world", f"{tmp_path}/data", "--train", "16", "--val", "4", "--test", "2", "--workers", "0"]) == 0
    words = [f"--run.root={tmp_path}/runs", f"--data.init_args.root={tmp_path}/data", "--data.init_args.batch_size=4"]
    words += ["--trainer.accelerator=cpu"]
    assert main(["chain", "run", str(chain), *words]) == 0
    capsys.readouterr()
    assert main(["chain", "status", str(chain), *words]) == 0
    assert capsys.readouterr().out.count("│ finished") == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    assert len(before) == 2 and main(["chain", "run", str(chain), *words]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
