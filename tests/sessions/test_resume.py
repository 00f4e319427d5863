"""A run that goes on from its own checkpoint needs no parent but for weights that the checkpoint does not hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.launch.processes import call
from baton_lightning.runs import manifest, weights
from baton_lightning.shards.format import file_digest
from tests.small import SMALL_DIT_OPTIONS

ROOT = Path(__file__).parents[2]
ADAMW = ["--model.init_args.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 0.001, fused: true}}"]


POWER_CUT = """
import os
from lightning.pytorch import Callback

class PowerCut(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if str(trainer.global_step) == os.environ.get("POWER_CUT"):
            raise ValueError("power cut")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with its cache, and trained planners."""
    folder = tmp_path_factory.mktemp("resume")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    patch.syspath_prepend(folder)
    (folder / "power_cut.py").write_text(POWER_CUT)
    assert main(["shards", "world", f"{folder}/data", "--train", "16", "--val", "2", "--test", "2", "--workers", "0"]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/data", f"--run.root={folder}/runs"]) == 0
    for stage in ("stage1", "stage2"):
        assert main(["fit", *arguments(folder, stage, 1)]) == 0
    yield folder
    patch.undo()


def arguments(base: Path, stage: str, steps: int, *more: str, root: str = "runs") -> list[str]:
    planners = {"stage2": "stage1", "stage3_joint": "stage2"}
    parents = [f"--model.init_args.parents={{planner: {base}/{root}/demo/{planners[stage]}}}"] if stage in planners else []
    return [
        "-c", f"experiments/{stage}.yaml", f"--data.init_args.root={base}/data", "--data.init_args.batch_size=4",
        f"--run.root={base}/{root}",
        "--model.init_args.scheduler.init_args.warmup_steps=1", "--model.init_args.scheduler.init_args.total_steps=8", *ADAMW,
        f"--trainer.max_steps={steps}", "--trainer.val_check_interval=2", "--trainer.enable_model_summary=false",
        "--trainer.enable_progress_bar=false", "--run.checkpoint_every=2", "--trainer.callbacks+=power_cut.PowerCut", *parents, *more,
    ]  # fmt: skip


@pytest.fixture
def own(base: Path, request: pytest.FixtureRequest) -> str:
    """A root of runs for one test, which has the trained planners."""
    root = f"runs_{request.node.name.partition('[')[0]}_{len(list(base.iterdir()))}"
    shutil.copytree(base / "runs/demo", base / root / "demo")
    return root


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Ends runs after a number of steps, or no more."""
    return lambda step: monkeypatch.setenv("POWER_CUT", str(step))


PowerCut = Callable[[int | None], None]


@pytest.mark.slow
def test_a_deleted_parent_stops_no_resume_and_is_named_at_the_end(base: Path, own: str, power_cut: PowerCut) -> None:
    shutil.rmtree(base / own / "demo/stage2")
    assert main(["fit", *arguments(base, "stage2", 4, root=own)]) == 0
    through = load_file(base / own / "demo/stage2" / manifest.WEIGHTS)
    shutil.rmtree(base / own / "demo/stage2")
    power_cut(3)
    assert main(["fit", *arguments(base, "stage2", 4, root=own)]) == 1
    power_cut(None)
    run, parent = base / own / "demo/stage2", base / own / "demo/stage1"
    digest = file_digest(parent / manifest.WEIGHTS)
    shutil.rmtree(parent)
    assert main(["fit", *arguments(base, "stage2", 4, root=own)]) == 0
    assert manifest.read(run)["parents"] == {"planner": {"run": str(parent), "weights_sha256": digest}}
    resumed = load_file(run / manifest.WEIGHTS)
    assert through.keys() == resumed.keys() and all((through[k] == resumed[k]).all() for k in through)


@pytest.mark.slow
def test_a_frozen_planner_must_be_there_and_be_the_same(
    base: Path, own: str, power_cut: PowerCut, capsys: pytest.CaptureFixture[str]
) -> None:
    power_cut(3)
    assert main(["fit", *arguments(base, "stage3_joint", 4, root=own)]) == 1
    power_cut(None)
    run, parent = base / own / "demo/stage3_joint", base / own / "demo/stage2"
    parent.rename(base / own / "aside")
    assert main(["fit", *arguments(base, "stage3_joint", 4, root=own)]) == 1
    assert f"there is no run {parent}" in capsys.readouterr().err
    shutil.copytree(base / own / "aside", parent)
    other = {key: value + 1 if value.is_floating_point() else value for key, value in load_file(parent / manifest.WEIGHTS).items()}
    save_file(other, parent / manifest.WEIGHTS)
    described = json.loads((parent / manifest.NAME).read_text()) | {"weights_sha256": weights.digest(parent)}
    (parent / manifest.NAME).write_text(json.dumps(described))
    assert main(["fit", *arguments(base, "stage3_joint", 4, root=own)]) == 1
    assert "must hold the weights with which this run started" in capsys.readouterr().err
    shutil.rmtree(parent)
    (base / own / "aside").rename(parent)
    assert main(["fit", *arguments(base, "stage3_joint", 4, root=own)]) == 0
    assert manifest.read(run)["metrics"]["val/loss"] > 0


@pytest.fixture
def sharded(base: Path, own: str) -> Callable[..., Path]:
    """Runs a stage on two ranks; gives its folder."""

    def run(strategy: str, stage: str, code: int = 0) -> Path:
        overlay = ["-c", f"experiments/strategy/{strategy}.yaml", "--trainer.precision=bf16-mixed", *SMALL_DIT_OPTIONS]
        call(["fit", *arguments(base, stage, 4, *overlay, root=own)], base / "output.txt", ranks=2, code=code)
        return base / own / "demo" / stage

    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3_cpu"])
def test_shards_leave_a_frozen_planner_out_and_go_on_with_its_own_run(
    base: Path, own: str, sharded: Callable[..., Path], power_cut: PowerCut, strategy: str
) -> None:
    through = load_file(sharded(strategy, "stage3_joint") / manifest.WEIGHTS)
    shutil.rmtree(base / own / "demo/stage3_joint")
    power_cut(3)
    run = sharded(strategy, "stage3_joint", code=1)
    import torch

    for file in (run / "checkpoints/last.ckpt/checkpoint").glob("*model_states.pt"):
        state = torch.load(file, weights_only=False)
        assert not state.get("frozen_param_fragments")
        assert not any("planner" in key and "norm" not in key for key in state["module"])
    power_cut(None)
    sharded(strategy, "stage3_joint")
    resumed = load_file(run / manifest.WEIGHTS)
    assert through.keys() == resumed.keys() and all((through[k] == resumed[k]).all() for k in through)
