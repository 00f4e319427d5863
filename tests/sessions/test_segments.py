"""A run goes on with the settings that made its checkpoint; others are refused, or recorded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from baton_lightning.__main__ import main
from baton_lightning.runs import checkpoints, manifest
from baton_lightning.sessions import compared, segments

ROOT = Path(__file__).parents[2]
MODULE = """
import os
import torch
from lightning.pytorch import Callback, LightningModule
from baton_lightning.optim import OptimizerFactory, SchedulerFactory, build_optimizer

class Toy(LightningModule):
    def __init__(self, clip, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None = None, dropout: float = 0.0,
                 parents: dict[str, str] | None = None, seed: int = 0):
        super().__init__()
        self.optimizer, self.scheduler, self.parents = optimizer, scheduler, parents or {}
        self.weight = torch.nn.Parameter(torch.zeros(3))
    def configure_model(self):
        assert not os.environ.get("NO_NETWORKS"), "networks were built"
    def configure_optimizers(self):
        return build_optimizer(self, self.optimizer, self.scheduler)
    def training_step(self, batch, batch_idx):
        return (self.weight - batch.context.mean((0, 1))).square().sum()

class PowerCut(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        with open(os.environ["RATES"], "a") as file:
            file.write(f"{trainer.optimizers[0].param_groups[0]['lr']:g}\\n")
        if str(trainer.global_step) == os.environ.get("POWER_CUT"):
            raise ValueError("power cut")
"""
SCHEDULE = {"class_path": "baton_lightning.optim.WarmupCosine", "init_args": {"warmup_steps": 0, "total_steps": "${trainer.max_steps}"}}


def setting(base: Path, root: Path) -> dict[str, Any]:
    """A small experiment, of which `root` holds the runs."""
    saver = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"][0]
    saver["init_args"] |= {"every_n_train_steps": 2}
    callbacks = [saver, {"class_path": "callbacks.ledger.Ledger"}, {"class_path": "segments_toy.PowerCut"}]
    trainer = {"max_steps": 6, "val_check_interval": 6, "limit_val_batches": 0, "accelerator": "cpu", "callbacks": callbacks}
    return {
        "base": str(ROOT / "experiments/base.yaml"),
        "clip": {"text_tokens": 2, "text_width": 3},
        "model": {
            "class_path": "segments_toy.Toy",
            "init_args": {
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
                "parents": {"planner": str(base / "parents/one")},
            },
        },
        "data": {"init_args": {"root": str(base / "set"), "batch_size": 4, "fields": ["text"]}},
        "run": {"root": str(root), "experiment": "e", "stage": "s"},
        "trainer": trainer | {"enable_progress_bar": False, "enable_model_summary": False, "logger": False},
    }


class Runs:
    """Runs of one root, which are cut off or go on."""

    def __init__(self, base: Path, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.base, self.root, self.patch = base, root, patch
        self.folder = root / "e/s"

    def fit(self, *more: str, cut: int | None = None, stage: str = "s", code: int = 0) -> None:
        self.patch.setenv("POWER_CUT", str(cut))
        self.patch.setenv("RATES", str(self.root.parent / "rates.txt"))
        (self.root.parent / "rates.txt").unlink(missing_ok=True)
        file = self.root.parent / "experiment.yaml"
        file.write_text(yaml.safe_dump(setting(self.base, self.root)))
        assert main(["fit", "-c", str(file), f"--run.stage={stage}", *more]) == (1 if cut else code)

    @property
    def rates(self) -> list[float]:
        """Learning rates at the beginning of each batch of the last session."""
        return [float(line) for line in (self.root.parent / "rates.txt").read_text().split()]

    def recorded(self, stage: str = "s") -> list[tuple[int, list[str]]]:
        made = manifest.read(self.root / "e" / stage)
        return [(segment["step"], segment["changed"]) for segment in made["segments"]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two sets of as many clips, two parents, and a run that was cut off after step 3 and has saved step 2."""
    folder = tmp_path_factory.mktemp("segments")
    spec = importlib.util.spec_from_file_location("text_sets", ROOT / "tests/datamodules/conftest.py")
    sets = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(sets)  # type: ignore[union-attr]
    from baton_lightning.clip import ClipSpec

    clip = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["clip"] | {"text_tokens": 2, "text_width": 3}
    clip = ClipSpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in clip.items()})
    sets.make_text_set(folder / "set", [5, 1, 7], clip=clip)
    sets.make_text_set(folder / "other", [5, 7, 1], clip=clip)
    for name in ("one", "two"):
        (folder / "parents" / name).mkdir(parents=True)
        (folder / "parents" / name / manifest.NAME).write_text(json.dumps({"weights_sha256": name * 8}))
    shutil.copytree(folder / "parents/one", folder / "parents/moved")
    (folder / "segments_toy.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(folder)
        (folder / "cut").mkdir()
        Runs(folder, folder / "cut/runs", patch).fit(cut=3)
        yield folder


@pytest.fixture
def cut(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The run that was cut off, for one test; its folder was moved."""
    shutil.copytree(base / "cut/runs", tmp_path / "runs", symlinks=True)
    return Runs(base, tmp_path / "runs", monkeypatch)


REFUSED = [
    {
        "--model.init_args.optimizer.init_args.lr=0.5": "optimizer.init_args.lr: 0.1 -> 0.5",
        "--model.init_args.dropout=0.5": "model.init_args.dropout: 0.0 -> 0.5",
        "--data.init_args.root={base}/other": "content of the data: {base}/set (",
        "--trainer.precision=bf16-mixed": "trainer.precision: None -> bf16-mixed",
        "--trainer.strategy=ddp": "trainer.strategy: auto -> ddp",
    },
    {
        "--data.init_args.batch_size=2": "data.init_args.batch_size: 4 -> 2",
        "--trainer.gradient_clip_val=2.0": "trainer.gradient_clip_val: 1.0 -> 2.0",
        "--trainer.max_steps=5": "trainer.max_steps: 6 -> 5",
        "--trainer.callbacks+=callbacks.ema.EMA": "trainer.callbacks.callbacks.ema.EMA",
    },
    {
        "--model.init_args.parents={{planner: {base}/parents/two}}": "parents/one (oneoneoneone) -> {base}/parents/two (twotwotwotwo)",
        "--seed_everything=7": "seed_everything: 0 -> 7",
        "--resume=changed": "with changes to what it holds",
    },
]


@pytest.mark.parametrize("changes", REFUSED, ids=("result", "trainer", "fixed"))
def test_changes_that_make_another_result_are_refused_in_one_line_before_networks_are_built(
    cut: Runs, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.setenv("NO_NETWORKS", "1")
    before = {file.name: file.read_bytes() for file in cut.folder.iterdir() if file.is_file()}
    cut.fit(*(word.format(base=base) for word in changes), code=1)
    said = [line for line in capsys.readouterr().err.splitlines() if "step-2.ckpt" in line]
    assert len(said) == 1 and not [values for values in changes.values() if values.format(base=base) not in said[0]]
    assert {"config.yaml", segments.NAME} <= before.keys()
    assert {file.name: file.read_bytes() for file in cut.folder.iterdir() if file.is_file()} == before


def test_what_only_watches_saves_or_lies_elsewhere_may_change(cut: Runs, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(base / "set", cut.root.parent / "moved")
    free = [
        "--trainer.max_steps=7", "--trainer.log_every_n_steps=3", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1",
        "--data.init_args.num_workers=1", f"--data.init_args.root={cut.root.parent}/moved", "--run.checkpoint_every=3",
        f"--model.init_args.parents={{planner: {base}/parents/moved}}", "--trainer.callbacks+=callbacks.step_progress.StepProgress",
        "--trainer.enable_progress_bar=true",
    ]  # fmt: skip
    cut.fit(*free)
    assert f"resuming {cut.folder}/ from" in capsys.readouterr().out
    (_, first), (step, changed) = cut.recorded()
    assert first == [] and step == 2 and "trainer.max_steps: 6 -> 7" in changed
    assert manifest.read(cut.folder)["parents"]["planner"]["run"] == f"{base}/parents/one"


def test_changed_goes_on_with_the_new_values_and_the_manifest_names_the_step(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model.init_args.optimizer.init_args.lr=0.5", "--model.init_args.dropout=0.5")
    cut.fit("--resume=changed", *words, cut=5)
    assert "changed since" in capsys.readouterr().out and cut.rates[0] == 0.5
    cut.fit(*words)
    lines = ["model.init_args.dropout: 0.0 -> 0.5", "model.init_args.optimizer.init_args.lr: 0.1 -> 0.5"]
    (first, none), (second, changed), (third, nothing) = cut.recorded()
    assert (first, second, third) == (0, 2, 4) and none == nothing == [] and [line for line in changed if "init_args" in line][-2:] == lines
    assert cut.rates == [0.5] * 2


def test_a_session_that_left_no_checkpoint_did_not_make_one(cut: Runs) -> None:
    cut.fit("--resume=changed", "--model.init_args.dropout=0.5", cut=3)
    cut.fit()
    assert [step for step, _ in cut.recorded()] == [0, 2] and "dropout" not in str(cut.recorded())


def test_more_steps_change_a_schedule_that_follows_them(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (cut.root.parent / "schedule.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"scheduler": SCHEDULE}}}))
    follows = ("-c", f"{cut.root.parent}/schedule.yaml")
    cut.fit(*follows, cut=3, stage="curve")
    cut.fit(*follows, "--trainer.max_steps=12", stage="curve", code=1)
    assert "scheduler.init_args.total_steps: 6 -> 12" in capsys.readouterr().err
    cut.fit(*follows, "--trainer.max_steps=12", "--resume=changed", stage="curve")
    assert len(cut.rates) == 10 and cut.rates[1] == pytest.approx(0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 12)).item()), 1e-4)


def test_a_run_that_began_from_a_given_checkpoint_goes_on_from_its_own(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"--ckpt_path={cut.folder}/checkpoints/last.ckpt"
    cut.fit(given, cut=5, stage="branch")
    capsys.readouterr()
    cut.fit(given, stage="branch")
    assert "branch/checkpoints/step-4.ckpt" in capsys.readouterr().out
    assert [step for step, _ in cut.recorded("branch")] == [0, 2, 4]
    cut.fit(given, "--resume=never", stage="branch")
    assert [step for step, _ in cut.recorded("branch")] == [0, 2] and len(cut.rates) == 4


def test_a_run_that_begins_again_does_not_go_on_from_what_was_there(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model.init_args.dropout=0.5",)
    cut.fit(*words, "--resume=never", cut=1)
    cut.fit(*words)
    assert "step-2.ckpt: it was saved before this run began" in capsys.readouterr().err
    assert [step for step, _ in cut.recorded()] == [0] and len(cut.rates) == 6


def test_another_version_is_told_and_recorded(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    known = segments.read(cut.folder)
    known[0]["versions"]["torch"] = "1.0"
    (cut.folder / segments.NAME).write_text(json.dumps(known))
    cut.fit()
    assert f"torch: 1.0 -> {torch.__version__}" in capsys.readouterr().out
    assert cut.recorded()[1][1][-1].startswith("torch: 1.0")


@pytest.mark.parametrize("content", ["[", "[]", "{}", '[{"step": 0}]', "[1]"])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / segments.NAME).write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        segments.read(tmp_path)


def test_a_run_without_a_record_says_that_nothing_was_compared(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (cut.folder / segments.NAME).unlink()
    cut.fit("--model.init_args.dropout=0.5")
    assert "nothing was compared" in capsys.readouterr().out
    assert checkpoints.newest(cut.folder / "checkpoints")[0] is not None


def test_every_callback_that_is_said_to_watch_exists() -> None:
    for name in compared.WATCHING:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(("was", "now", "other"), [(6, 7, False), (7, 6, True), (6, -1, False), (-1, 6, True)])
def test_steps_may_only_grow(was: int, now: int, other: bool) -> None:
    assert compared.makes_the_result("trainer.max_steps", was, now) == other
