"""The front door: help, errors a person can read, every experiment file, saved configurations."""

from __future__ import annotations

import linecache
import logging
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import baton_lightning
from baton_lightning import settings
from baton_lightning.__main__ import LIGHTNING, OTHERS, main, report

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
STAGES = sorted(p for p in EXPERIMENTS.rglob("*.yaml") if p.name != "base.yaml" and "base:" in p.read_text())


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler keeps the stream of the test that imported it


def printed(capsys, *argv: str) -> tuple[int, str, str]:
    try:
        code = main(list(argv))
    except SystemExit as exit:
        code = int(exit.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_names_every_verb_and_imports_nothing_heavy():
    code = """
import sys
from importlib.util import find_spec
from baton_lightning.__main__ import main
main(['--help'])
sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in [*LIGHTNING, *OTHERS])


@pytest.mark.parametrize("verb", OTHERS)
def test_light_verbs_explain_themselves_without_lightning(verb):
    code = f"""
import sys
from importlib.util import find_spec
from baton_lightning.__main__ import main
try: main([{verb!r}, '--help'])
except SystemExit: pass
sys.exit('lightning' in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_the_console_script_tells_versions_and_loads_nothing_heavy():
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["baton"].split(":")
    code = f"""
import sys
from {module} import {function}
code = {function}(['--version'])
sys.exit(code or len({{'torch', 'lightning'}} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ", ".join(f"{name} {version(name)}" for name in ("baton-lightning", "torch", "lightning"))


def test_the_package_has_its_public_names_without_loading_torch():
    code = """
import sys
import baton_lightning
assert set(baton_lightning.__all__) <= set(dir(baton_lightning))
sys.exit('torch' in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    for name in baton_lightning.__all__:
        assert getattr(baton_lightning, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        baton_lightning.lode  # noqa: B018


def test_a_misspelt_verb_is_told_the_right_one(capsys):
    code, _, err = printed(capsys, "fti")
    assert code == 2 and "`fit`" in err


@pytest.mark.parametrize(
    "path",
    [p if p.parent == EXPERIMENTS else pytest.param(p, marks=pytest.mark.slow) for p in STAGES],
    ids=lambda p: str(p.relative_to(EXPERIMENTS)),
)
def test_every_experiment_parses(path, capsys):
    verb = "predict" if "return_predictions:" in path.read_text() else "fit"
    code, out, err = printed(capsys, verb, "-c", str(path), "--print_config")
    assert code == 0, err
    assert yaml.safe_load(out)["model"]["class_path"].startswith("baton_lightning.stages")


@pytest.mark.parametrize("path", [p for p in STAGES if "dit" in settings.read([p])["model"]["init_args"]], ids=lambda p: p.stem)
def test_every_stage_with_a_plan_says_how_the_plan_is_placed(path):
    attention = settings.read([path])["model"]["init_args"]["dit"]["init_args"]["plan_attention"]
    assert attention is None or attention["timestamps"] in (True, False)


def test_a_child_that_changes_a_base_changes_what_interpolates_it(tmp_path, capsys):
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {EXPERIMENTS / 'stage2.yaml'}\nrun:\n  experiment: other\n")
    _, out, _ = printed(capsys, "fit", "-c", str(child), "--print_config")
    config = yaml.safe_load(out)
    assert config["trainer"]["default_root_dir"] == "runs/other/stage2"
    assert config["model"]["init_args"]["parents"] == {"planner": "runs/other/stage1"}
    assert config["trainer"]["callbacks"][0]["init_args"]["dirpath"] == "runs/other/stage2/checkpoints"


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--trainer.max_step=3", "trainer.max_steps"),
        ("--clip.second=3", "clip.seconds"),
        ("--model.init_args.planer=3", "planner"),
        ("--model.class_path=baton_lightning.stages.pretraining.PlanerPretraining", "PlannerPretraining"),
        ("--model.class_path=baton_lightning.stage.pretraining.PlannerPretraining", "baton_lightning.stage"),
        ("--run.root=${nowhere.at_all}", "nowhere.at_all"),
    ],
)
def test_a_misspelt_key_exits_2_in_one_line_that_names_the_right_one(capsys, argument, hint):
    code, _, err = printed(capsys, "fit", "-c", "experiments/stage1.yaml", argument)
    lines = [line for line in err.splitlines() if "error" in line]
    assert code == 2 and len(lines) == 1 and hint in lines[0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.init_args.frozen=dit", "`model.init_args.frozen`: got dit, which must be a list, e.g. [dit]"),
        (
            "--model.init_args.rates={a:-1}",
            "`model.init_args.rates`: got {a:-1}, which must be a mapping, e.g. {name: 1}, with a blank after each colon",
        ),
        (
            "--model.init_args.sampler.init_args.steps=x",
            "`model.init_args.sampler.init_args.steps`: got x, which must be a whole number, e.g. 8",
        ),
        ("--model.init_args.optimizer.init_args.lr=x", "`model.init_args.optimizer.init_args.lr`: got x, which must be a number, e.g. 0.5"),
        ("--run.checkpoint_interval=x", "`run.checkpoint_interval`: got x, which must be a time, e.g. 01:30:00"),
    ],
)
def test_a_value_of_another_type_is_one_line_that_says_what_the_key_takes(capsys, argument, message):
    code, _, err = printed(capsys, "fit", "-c", "experiments/stage3_adapt.yaml", argument)
    assert code == 2 and err.strip() == f"baton_lightning: error: {message}"


def test_a_misspelt_key_in_a_file_is_named_too(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text(f"base: {EXPERIMENTS / 'stage1.yaml'}\ntrainer:\n  max_stepz: 3\n")
    code, _, err = printed(capsys, "fit", "-c", str(tmp_path / "x.yaml"))
    assert code == 2 and "trainer.max_steps" in err


def test_a_size_that_does_not_divide_is_one_line(tmp_path, capsys):
    code, _, err = printed(capsys, "fit", "-c", "experiments/stage1.yaml", "--clip.height=33", f"--run.root={tmp_path}")
    assert code in (1, 2) and "multiple of 8" in err and "Traceback" not in err


def test_a_missing_data_set_says_how_to_make_one(tmp_path, capsys):
    code, _, err = printed(
        capsys, "fit", "-c", "experiments/stage1.yaml", f"--data.init_args.root={tmp_path}/none", f"--run.root={tmp_path}"
    )
    assert code == 1 and "shards world" in err and "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_a_gpus_strategy_is_refused_without_one_before_any_rank_starts(capsys):
    assert main(["fit", "-c", "experiments/paper/stage1.yaml"]) == 1
    output = capsys.readouterr().err
    assert "needs CUDA GPUs" in output and "zero3_cpu.yaml" in output and len(output.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_an_accelerator_that_is_not_there_is_one_line_that_names_this_torch(tmp_path, capsys):
    code, _, err = printed(capsys, "fit", "-c", "experiments/stage1.yaml", f"--run.root={tmp_path}", "--trainer.accelerator=gpu")
    output = [line for line in err.splitlines() if "error" in line]
    assert code == 1 and len(output) == 1 and f"one that torch {torch.__version__} finds here" in output[0]
    assert "give --trainer.accelerator=cpu" in output[0]


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="says what is missing")
def test_a_setting_that_needs_a_missing_package_is_one_line(tmp_path, capsys):
    words = [f"--run.root={tmp_path}", "--trainer.precision=transformer-engine"]
    code, _, err = printed(capsys, "fit", "-c", "experiments/stage1.yaml", *words)
    output = [line for line in err.splitlines() if "error" in line]
    assert code == 1 and len(output) == 1 and "needs a package that cannot be imported" in output[0] and "transformer_engine" in output[0]


def test_a_library_s_error_at_a_line_of_ours_keeps_its_traceback_and_what_we_raise_is_a_line(capsys):
    name = "/somewhere/baton_lightning/module.py"
    source = "import torch\ndef mix():\n    torch.zeros(2) @ torch.zeros(3)\ndef refuse():\n    raise RuntimeError('too many ranks')\n"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    module: dict[str, Any] = {}
    exec(compile(source, name, "exec"), module)
    for function, traced in (("mix", True), ("refuse", False)):
        with pytest.raises(RuntimeError) as raised:
            module[function]()
        assert report(raised.value) == 1
        printed = capsys.readouterr().err
        assert ("Traceback" in printed) == traced and f"baton_lightning: error: {raised.value}" in printed
