"""What is reported before torch is loaded: certain mistakes and finished runs, in the parser's words; nothing if it is not certain."""

from __future__ import annotations

import ast
import inspect
import json
import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from baton_lightning import keys, preflight, settings, settings_layers, signatures
from baton_lightning.__main__ import LIGHTNING, main
from baton_lightning.annotations import fits
from baton_lightning.cli import BatonCLI
from baton_lightning.config import expand

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(p for p in (ROOT / "experiments").rglob("*.yaml") if "base:" in p.read_text() and p.name != "base.yaml")
CHILD = """
import sys
from baton_lightning.__main__ import main
try: code = main(sys.argv[1:])
except SystemExit as end: code = end.code
print('torch' if {'torch', 'lightning'} & sys.modules.keys() else 'light', code)
"""
STAGE2 = ["fit", "-c", "experiments/stage2.yaml"]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def child(*argv: str) -> tuple[str, str, float]:
    """What a command prints, ended by whether it loaded torch and its exit code; what it complains of; its user time in s."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CHILD, *argv], capture_output=True, text=True, cwd=ROOT, env=environment)
    return done.stdout.strip(), done.stderr.strip(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["generate", "--run", "{tmp}/none", "--out", "{tmp}/clips"], 1, "there is no run {tmp}/none/; "),
        (["evaluate", "--run", "{tmp}"], 1, "the run {tmp}/ is not finished (no manifest.json); "),
        (["fti"], 2, "there is no verb 'fti'; did you mean `fit`?"),
        ([*STAGE2, "--trainer.max_stepz", "3"], 2, "the configuration has no key `trainer.max_stepz`; did you mean `trainer.max_steps`?"),
        ([*STAGE2, "--model.planner.llm.widt=3"], 2, "the configuration has no key `widt`; did you mean `width`?"),
        ([*STAGE2, "--foo"], 2, "the configuration has no key `foo`; `--help` lists the keys"),
        (["fit", "-c", "{tmp}/misspelt.yaml"], 2, "the configuration has no key `clip.second`; did you mean `clip.seconds`?"),
        (["fit", "-c", "{tmp}/none.yaml"], 1, "configuration: there is no file {tmp}/none.yaml; check the path"),
        (
            ["predict", "-c", "{tmp}/baseless.yaml"],
            1,
            "configuration: there is no file {tmp}/none.yaml, which baseless.yaml names as its base; check the path",
        ),
        (
            [*STAGE2, "--model.class_path=baton_lightning.stages.alignment.TowersAlignment"],
            2,
            "class_path must name a class that can be imported, got `baton_lightning.stages.alignment.TowersAlignment`; did you mean "
            "`baton_lightning.stages.alignment.TowerAlignment`?",
        ),
        (
            [*STAGE2, "--trainer.strategy.class_path=baton_lightning.runs.deepspeed_cpu.CPUDeepSpeedStrategy"],
            2,
            "class_path must name a class that can be imported, got `baton_lightning.runs.deepspeed_cpu.CPUDeepSpeedStrategy`; it is "
            "`baton_lightning.construction.deepspeed_cpu.CPUDeepSpeedStrategy` now",
        ),
        (
            [*STAGE2, "--trainer.callbacks+=callbacks.ledger.Ledgr"],
            2,
            "class_path must name a class that can be imported, got `callbacks.ledger.Ledgr`; did you mean `callbacks.ledger.Ledger`?",
        ),
        (
            [*STAGE2, "--run.root={tmp}/runs"],
            1,
            "there is no run {tmp}/runs/demo/stage1/; ",
        ),
        (
            ["fit", "-c", "experiments/stage1.yaml", "--run.root={tmp}/runs", "--data.root={tmp}/data"],
            1,
            "data: the data set {tmp}/data/ does not exist; make it with `python -m baton_lightning shards world {tmp}/data` or "
            "`shards build`",
        ),
    ],
    ids=[
        "generate",
        "evaluate",
        "verb",
        "key",
        "argument",
        "no value",
        "key in a file",
        "file",
        "base",
        "class",
        "renamed",
        "class in a list",
        "parent",
        "data",
    ],
)
def test_a_certain_mistake_is_named_before_torch_is_loaded_and_leaves_no_folder(tmp_path, argv, code, message):
    (tmp_path / "misspelt.yaml").write_text(f"base: {ROOT}/experiments/stage1.yaml\nclip:\n  second: 3\n")
    (tmp_path / "baseless.yaml").write_text("base: none.yaml\nrun: {stage: x}\n")
    out, err, seconds = child(*(word.format(tmp=tmp_path) for word in argv))
    assert out == f"light {code}" and err.startswith(f"baton_lightning: error: {message.format(tmp=tmp_path)}") and "\n" not in err
    assert seconds < 2
    assert {path.name for path in tmp_path.iterdir()} == {"misspelt.yaml", "baseless.yaml"}


def test_a_finished_run_says_so_before_torch_is_loaded(tmp_path):
    words = ["-c", "experiments/stage1.yaml", f"--run.root={tmp_path}", "--trainer.max_steps", "2"]
    run = tmp_path / "demo" / "stage1"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"weights_sha256": "", "asked": settings_layers.settings_digest(expand(words))}))
    out, err, seconds = child("fit", *words)
    lines = out.splitlines()
    assert lines[0] == preflight.finished(run) and lines[1].startswith("next: ") and lines[2:] == ["light 0"] and not err
    assert seconds < 2


@pytest.mark.parametrize("change", ["--trainer.max_steps=3", "--clip.height=64", "--model.init_args.rates={a: 1}"])
def test_a_finished_run_of_other_settings_is_left_to_the_parser(tmp_path, change):
    words = ["-c", "experiments/stage1.yaml", f"--run.root={tmp_path}"]
    run = tmp_path / "demo" / "stage1"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"weights_sha256": "", "asked": settings_layers.settings_digest(expand(words))}))
    assert preflight.early_exit_code("fit", words) == 0
    assert preflight.early_exit_code("fit", [*words, change]) is None
    assert preflight.early_exit_code("fit", [*words, "--resume=never", "--data.root=x", change.replace("=", "=${x}")]) is None


@pytest.mark.parametrize(
    "word",
    [
        "--trainer.max_steps=x",
        "--trainer.max_time",
        "--trainer.max_steps=-2",
        "--trainer.devices=0",
        "--clip.height=33",
        "--data.init_args.buckets=[]",
        "--trainer.precision=mixed",
        "--resume=nope",
        "--optimizer.lr=3",
        "--trainer.callbacks.0.init_args.dirpat=3",
        "--trainer.logger.init_args.save_dirr=3",
        "--model.class_path=torch.nn.Linear",
        "--model.init_args.planner=3",
        "--run.root=${nowhere.at_all}",
        "--print_config",
        "extra",
    ],
)
def test_what_the_source_does_not_tell_is_left_to_the_parser(tmp_path, word):
    """Although parents and data are missing too, which would be reported otherwise."""
    assert preflight.early_exit_code("fit", ["-c", "experiments/stage2.yaml", f"--run.experiment={tmp_path.name}", word]) is None


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT / "experiments")))
def test_no_experiment_is_complained_of(path):
    verb = "predict" if "return_predictions" in path.read_text() else "fit"
    layers = settings_layers.read(expand(["-c", str(path)]))
    assert list(keys.Walk(keys.known(verb), settings_layers.merged(layers)).complaints(layers)) == []


def test_the_keys_are_those_of_the_parser(monkeypatch):
    parsers = {}

    def keep(cli, parser, args):
        parsers[args[0]] = [action.dest for action in cli._parser(args[0])._actions]
        raise InterruptedError

    monkeypatch.setattr(BatonCLI, "parse_arguments", keep)
    for verb in LIGHTNING:
        with pytest.raises(InterruptedError):
            BatonCLI([verb])
    for verb, dests in parsers.items():
        taken = {dest for dest in dests if dest not in ("help", "print_config") and not dest.endswith(".help")}
        assert set(keys.Walk(keys.known(verb), {}).names) == taken, verb


def test_arguments_read_from_the_source_are_those_of_the_class():
    names = {name for path in EXPERIMENTS for name in settings_layers.class_paths(settings.parsed(path.read_bytes(), ""))}
    found = {name: signatures.arguments(name) for name in names if "." in name}
    readable = {name: taken for name, taken in found.items() if taken is not None}
    for name, taken in readable.items():
        module, _, attribute = name.rpartition(".")
        assert list(taken) == list(inspect.signature(getattr(import_module(module), attribute)).parameters), name
    own = [name for name in found if name.startswith(("baton_lightning", "datamodules", "callbacks"))]
    assert len(readable) > 0.9 * len(found) and len([name for name in own if name in readable]) > 0.9 * len(own), (
        found.keys() - readable.keys()
    )


def test_a_value_fits_an_annotation_only_where_the_text_tells():
    def verdict(value, text):
        return fits(value, ast.parse(text, mode="eval").body)

    assert verdict(3, "float") and verdict(None, "int | None") and verdict("a", "Literal['a', 'b']") and verdict([4, 8], "tuple[int, int]")
    assert verdict(True, "int") is False and verdict("x", "Optional[int]") is False and verdict([1], "tuple[int, int]") is False
    assert verdict("x", "Sampler") is None and verdict("x", "Union[int, Sampler]") is None and verdict({}, "int") is False


def test_a_start_that_fails_before_its_first_batch_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.json").write_text('{"splits": {}}')
    (tmp_path / "runs" / "other").mkdir(parents=True)
    words = [f"--run.root={tmp_path}/runs", f"--data.init_args.root={tmp_path}/data"]
    assert main(["fit", "-c", "experiments/stage1.yaml", *words]) == 1
    assert "no finished cache" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]
