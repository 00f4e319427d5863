"""The command that a finished verb names: with its own folders, true when it is followed, and printed once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from baton_lightning import __main__, hints, next_steps
from baton_lightning.__main__ import main
from baton_lightning.generation.pretrained import folder_of
from baton_lightning.names import counted

ROOT = Path(__file__).parents[1]
STAGES = {"stage1": "PlannerPretraining", "stage2": "TowerAlignment", "stage3_adapt": "JointTraining", "stage3_joint": "JointTraining"}


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", next_steps.STARTED_BY_CHAIN):
        monkeypatch.delenv(name, raising=False)


def finished(root: Path, *stages: str) -> None:
    for stage in stages:
        (root / "e" / stage).mkdir(parents=True, exist_ok=True)
        (root / "e" / stage / "manifest.json").write_text(json.dumps({"stage": STAGES[stage]}))


def named(*argv: str, run: Path) -> list[str]:
    with hints.given_command(argv), next_steps.collected() as commands:
        next_steps.name_after_run(run)
    return shlex.split(commands[0])[3:]


@pytest.mark.parametrize(
    ("there", "stage", "follows"),
    [
        (("stage1",), "stage1", "stage2"),
        (("stage1", "stage2"), "stage2", "stage3_adapt"),  # which the joint stage needs, too
        (("stage1", "stage2", "stage3_adapt"), "stage2", "stage3_joint"),
        (("stage3_adapt",), "stage3_adapt", "stage2"),
        (("stage1", "stage2", "stage3_adapt"), "stage3_adapt", "stage3_joint"),
    ],
)
def test_a_stage_names_the_training_that_can_start_now(tmp_path: Path, there: tuple[str, ...], stage: str, follows: str) -> None:
    finished(tmp_path, *there)
    own = [f"--run.root={tmp_path}", "--run.experiment=e", "--data.init_args.root=data/mine"]
    words = named("fit", "-c", f"experiments/{stage}.yaml", *own, run=tmp_path / "e" / stage)
    assert words[:3] == ["fit", "-c", f"experiments/{follows}.yaml"] and set(own) <= set(words)


def test_the_last_stage_names_generation(tmp_path: Path) -> None:
    finished(tmp_path, *STAGES)
    own = [f"--run.root={tmp_path}", "--run.experiment=e"]
    words = named("fit", "-c", "experiments/stage3_joint.yaml", *own, run=tmp_path / "e/stage3_joint")
    assert words == ["generate", "--run", str(tmp_path / "e/stage3_joint"), "--out", "clips/stage3_joint"]


@pytest.mark.parametrize("file", sorted(ROOT.glob("experiments/ladder/*.yaml")), ids=lambda file: file.stem)
def test_every_stage_of_a_rung_names_one_of_the_same_rung(tmp_path: Path, file: Path) -> None:
    folder = file.with_suffix("") if file.with_suffix("").is_dir() else ROOT / "experiments"
    finished(tmp_path, "stage1")
    own = [f"--run.root={tmp_path}", "--run.experiment=e"]
    words = named("fit", "-c", str(folder / "stage1.yaml"), *own, run=tmp_path / "e/stage1")
    assert words[:3] == ["fit", "-c", str(folder / "stage2.yaml")]


def test_a_training_on_cached_plans_names_their_cache_first(tmp_path: Path) -> None:
    finished(tmp_path, "stage1", "stage2")
    (tmp_path / "data").mkdir()
    own = [f"--run.root={tmp_path}", "--run.experiment=e", f"--data.init_args.root={tmp_path}/data"]
    file = ROOT / "experiments/ladder/small/stage2.yaml"
    assert named("fit", "-c", str(file), *own, run=tmp_path / "e/stage2")[:3] == ["predict", "-c", str(file.with_name("plans.yaml"))]
    (tmp_path / "data/plans.json").touch()
    assert named("fit", "-c", str(file), *own, run=tmp_path / "e/stage2")[:3] == ["fit", "-c", str(file.with_name("stage3.yaml"))]


def test_it_is_printed_once_after_success_and_only_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    codes = iter([0, 1, 0, 0])

    def verb(name: str, rest: list[str]) -> int:
        next_steps.name("report", "my clips")
        next_steps.name("report", "my clips")
        return next(codes)

    monkeypatch.setattr(__main__, "call", verb)
    line = "next: python -m baton_lightning report 'my clips'\n"
    assert main(["generate"]) == 0 and capsys.readouterr().out == line
    assert main(["generate"]) == 1 and capsys.readouterr().out == ""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["generate"]) == 0 and capsys.readouterr().out == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv(next_steps.STARTED_BY_CHAIN, "1")
    assert main(["generate"]) == 0 and capsys.readouterr().out == ""


def test_weights_that_come_with_the_library_are_named_by_their_name() -> None:
    with next_steps.collected() as commands:
        next_steps.name("generate", "--run", folder_of("nano"), "--out", "clips/nano")
    assert commands == ["python -m baton_lightning generate --run nano --out clips/nano"]


def test_a_page_stands_in_place_of_the_command_that_would_write_it() -> None:
    with next_steps.collected() as commands:
        next_steps.name("report", "clips")
        next_steps.name_page(Path("my clips/index.html"))
    assert commands == ["open 'my clips/index.html' in a browser"]


def test_one_clip_is_in_the_singular() -> None:
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]


def last_line(capsys: pytest.CaptureFixture[str]) -> list[str]:
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("next: python -m baton_lightning ")
    return shlex.split(line)[4:]


@pytest.mark.slow
def test_the_named_commands_lead_from_data_to_a_page_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, few = tmp_path / "my data", ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.init_args.batch_size=2"]
    few += ["--model.init_args.scheduler.init_args.warmup_steps=1", f"--run.root={tmp_path}/runs"]
    assert main(["shards", "world", str(data), "--train", "8", "--val", "2", "--test", "1", "--workers", "0"]) == 0
    words = last_line(capsys)
    assert words[:3] == ["predict", "-c", "experiments/encode.yaml"]
    assert main([*words, f"--run.root={tmp_path}/runs"]) == 0
    assert main(["shards", "check", str(data)]) == 0
    for stage in ("stage1", "stage2", "stage3_adapt", "stage3_joint"):
        words = last_line(capsys)
        assert words[:3] == ["fit", "-c", f"experiments/{stage}.yaml"] and f"--data.init_args.root={data}" in words
        assert main([*words, *few]) == 0, capsys.readouterr().err
    words = last_line(capsys)
    assert words[:3] == ["generate", "--run", f"{tmp_path}/runs/demo/stage3_joint"]
    clips = str(tmp_path / "clips")
    assert main([*words[:-1], clips, "--num", "1"]) == 0
    assert last_line(capsys) == ["report", clips]
    assert main(["report", clips]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: open {clips}/index.html in a browser"
