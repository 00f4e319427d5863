"""A run folder from elsewhere names its classes; only those of the library, and of packages that are trusted by name, are imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton_lightning import settings, trust
from baton_lightning.__main__ import main

ROOT = Path(__file__).parents[2]
PAYLOAD = """
import pathlib
pathlib.Path(__file__).parents[3].joinpath("pwned").write_text("import ran")  # parsers change the working directory
from baton_lightning.stages.joint import JointTraining
from datamodules.webshards import WebShards
class Model(JointTraining): ...
class Data(WebShards): ...
def call(*a, **k): ...
"""
EXPERIMENT = settings.read([ROOT / "experiments/stage3_adapt.yaml"])
MODEL, DATA = EXPERIMENT["model"], EXPERIMENT["data"]
BASE = {"clip": EXPERIMENT["clip"], "model": MODEL, "data": DATA}


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a run folder below the working directory, with a module of its own beside its manifest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "runs"]:
        monkeypatch.delitem(sys.modules, name)

    def made(**config: Any) -> Path:
        run = tmp_path / "runs/stranger/stage3"
        run.mkdir(parents=True)
        (run / "payload.py").write_text(PAYLOAD)
        (run / "weights.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
        from baton_lightning.shards.format import file_digest

        content = {"stage": "JointTraining", "clip": {}, "parents": {}, "weights_sha256": file_digest(run / "weights.safetensors")}
        (run / "manifest.json").write_text(json.dumps(content | {"config": BASE | config}))
        (run / "config.yaml").write_text(yaml.safe_dump(BASE | config))
        return run.relative_to(tmp_path)

    return made


HERE = "runs.stranger.stage3.payload"
PLACES: dict[str, dict[str, Any]] = {
    "model": {"model": MODEL | {"class_path": f"{HERE}.Model"}},
    "data": {"data": DATA | {"class_path": f"{HERE}.Data"}},
    "deep inside": {"model": MODEL | {"init_args": MODEL["init_args"] | {"dit": [{"x": {"class_path": f"{HERE}.Model"}}]}}},
    "a module of the library's module": {"model": MODEL | {"class_path": "baton_lightning.cli.os.system"}},
    "what starts processes": {"data": DATA | {"class_path": "baton_lightning.launch.slurm.sbatch"}},
    "no text": {"model": MODEL | {"class_path": [f"{HERE}.Model"]}},
    "a name that is none": {"model": MODEL | {"class_path": "baton_lightning..stages"}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_class_of_somebody_else_is_refused_in_one_line_and_its_module_is_not_imported(
    place: str, stranger: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = stranger(**PLACES[place])
    for command in (["generate", "--run", str(run), "--plan", "none", "--out", "out"], ["evaluate", "--run", str(run)]):
        assert main(command) == 1
        said = capfd.readouterr().err
        assert len(said.strip().splitlines()) == 1 and str(run) in said and "Traceback" not in said
    assert not Path("pwned").exists() and not Path("out").exists()


@pytest.mark.parametrize("text", ["a path", "a text in YAML", "a file that is named", "a file of a file"])
def test_a_class_that_hides_from_the_walk_is_refused_by_the_parser(
    text: str, stranger: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    inner = yaml.safe_dump({"class_path": f"{HERE}.Model"})
    hidden = {
        "a path": f"{HERE}.call",
        "a text in YAML": "{class_path: " + f"{HERE}.Model" + "}",
        "a file that is named": str(Path("inner.yaml").absolute()),
        "a file of a file": str(Path("outer.yaml").absolute()),
    }[text]
    Path("inner.yaml").write_text(inner)
    Path("outer.yaml").write_text(str(Path("inner.yaml").absolute()))
    for argument in ("dit", "video_codec", "optimizer"):
        run = stranger(model=MODEL | {"init_args": MODEL["init_args"] | {argument: hidden}})
        assert main(["generate", "--run", str(run), "--plan", "none", "--out", "out"]) == 1
        said = capfd.readouterr().err
        assert len(said.strip().splitlines()) == 1 and "Traceback" not in said
        assert "so it is not imported" in said or "file" in text
        assert not Path("pwned").exists()
        shutil.rmtree(run)


def test_the_configuration_that_a_run_saved_is_walked_before_a_verb_parses_it(
    stranger: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = stranger(**PLACES["model"])
    for verb in ("validate", "test", "fit", "predict"):
        assert main([verb, "-c", str(run / "config.yaml")]) == 1
        assert f"--trust {HERE.partition('.')[0]}" in capfd.readouterr().err
    (run / "config.yaml").rename(run / "settings.yaml")
    assert main(["validate", f"--config={run / 'settings.yaml'}"]) == 1
    assert not Path("pwned").exists()


def test_a_package_that_is_trusted_by_name_is_imported(stranger: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    run = stranger(**PLACES["data"])
    assert main(["generate", "--run", str(run), "--plan", "none", "--out", "out", "--trust", "runs.stranger"]) == 1  # it has no weights
    assert Path("pwned").exists()
    assert "so it is not imported" not in capfd.readouterr().err


def test_own_experiments_may_name_any_class_and_later_commands_are_not_limited(
    stranger: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = stranger()
    with trust.limit_imports():
        pass
    Path("mine.yaml").write_text(yaml.safe_dump({"model": {"class_path": f"{HERE}.Model"}}))
    main(["fit", "-c", "mine.yaml"])
    assert Path("pwned").exists()
    assert run.exists()


def test_packages_of_the_working_directory_do_not_stand_in_for_those_of_the_library(tmp_path: Path) -> None:
    for name in ("datamodules", "callbacks", "yaml", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("open('pwned', 'w')")
    done = subprocess.run(
        [sys.executable, "-m", "baton_lightning", "shards", "stat", "nowhere"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "nowhere" in done.stderr and not (tmp_path / "pwned").exists()
    places = subprocess.run(
        [sys.executable, "-c", "from baton_lightning import trust; print(trust.import_folder('datamodules'))"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert not places.stderr
    assert places.stdout.strip() == str(tmp_path), "a workbench that is found elsewhere is noticed"


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000])
def test_a_configuration_that_is_nested_deeply_is_refused_and_does_not_end_the_process(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested at most 100 deep"):
        settings.parsed(text, "x.yaml")


def test_the_name_after_trust_is_one_of_a_package() -> None:
    assert trust.split_trust_options(["fit", "--trust", "mine", "-c", "x", "--trust=my.other"]) == (
        ["fit", "-c", "x"],
        ["mine", "my.other"],
    )
    for words in (["--trust"], ["--trust", "../x"], ["--trust", "jsonargparse"], ["--trust=*"]):
        with pytest.raises(ValueError, match="--trust must be followed by the name of a package"):
            trust.split_trust_options(words)
