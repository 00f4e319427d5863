"""Sharded runs on two processes with DeepSpeed's real engine: what they train, save and hand on is what whole runs do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from baton_lightning.__main__ import main
from baton_lightning.cli import BatonCLI
from baton_lightning.config import expand
from baton_lightning.construction.deepspeed_cpu import CPUDeepSpeedStrategy
from baton_lightning.construction.sharding import require_resumable
from baton_lightning.launch.processes import call
from baton_lightning.muon import MuonAdamW
from baton_lightning.optim import build_optimizer
from baton_lightning.runs import checkpoints
from tests.small import SMALL_DIT_OPTIONS

ROOT = Path(__file__).parents[2]
# With AdamW's own eps, 1e-8, a gradient that is nothing but rounding still moves its weight by the learning rate's size: a handful of
# weights then differ by 1e-5 whenever sums are taken in another order. 1e-4 keeps the comparison to what is learned.
ADAMW = ["--model.init_args.optimizer", "torch.optim.AdamW", "--model.init_args.optimizer.init_args.eps", "1e-4"]


def arguments(base: Path, experiment: str, stage: str, steps: int, *more: str) -> list[str]:
    paths = [f"--run.root={base}/runs", f"--run.experiment={experiment}", f"--data.init_args.root={base}/data"]
    small = [
        "--data.init_args.batch_size=4",
        "--model.init_args.scheduler.init_args.warmup_steps=1",
        "--trainer.enable_model_summary=false",
    ]
    curve = [f"--trainer.max_steps={steps}", "--model.init_args.scheduler.init_args.total_steps=8", "--trainer.val_check_interval=2"]
    parents = [] if stage == "stage1" else [f"--model.init_args.parents.planner={base}/runs/whole/stage1"]
    if stage.startswith("stage3"):
        parents = [f"--model.init_args.parents={{'planner': '{base}/runs/whole/stage2'}}"] if stage == "stage3_joint" else []
        small += ["--model.init_args.sampler.init_args.steps=2", *SMALL_DIT_OPTIONS]
    return ["-c", f"experiments/{stage}.yaml", *paths, *small, *curve, *ADAMW, *parents, *more]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with its cache."""
    folder = tmp_path_factory.mktemp("zero")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    patch.syspath_prepend(folder)
    assert main(["shards", "world", f"{folder}/data", "--train", "16", "--val", "4", "--test", "2", "--workers", "0"]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/data", f"--run.root={folder}/runs"]) == 0
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def fit(base: Path) -> Callable[..., Path]:
    """Runs a stage, sharded on two processes or whole on this one; gives its folder."""

    def run(experiment: str, stage: str, strategy: str | None, steps: int = 2, *more: str, code: int = 0) -> Path:
        if strategy is None:
            assert main(["fit", *arguments(base, experiment, stage, steps, *more)]) == 0
            return base / "runs" / experiment / stage
        overlay = ["-c", f"experiments/strategy/{strategy}.yaml"]
        call(["fit", *arguments(base, experiment, stage, steps, *overlay, *more)], base / "said.txt", ranks=2, code=code)
        return base / "runs" / experiment / stage

    return run


def difference(one: Path, other: Path) -> float:
    a, b = (load_file(run / "weights.safetensors") for run in (one, other))
    assert a.keys() == b.keys() and {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


@pytest.mark.slow
def test_a_zero3_run_ends_with_the_weights_of_a_whole_run_and_is_scored_by_them(base: Path, fit: Callable[..., Path]) -> None:
    sharded, whole = fit("three", "stage1", "zero3_cpu"), fit("whole", "stage1", None)
    assert difference(sharded, whole) <= 1e-6
    held_out = [
        {k: v for k, v in json.loads((run / "manifest.json").read_text())["metrics"].items() if k.startswith("val/")}
        for run in (sharded, whole)
    ]
    assert len(held_out[0]) == 3 and held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    last = (sharded / "checkpoints/last.ckpt").resolve()
    assert checkpoints.fault(last) == "" and checkpoints.changed(last) == []
    require_resumable(last, CPUDeepSpeedStrategy(stage=3), 2)
    for name, checkpoint in (("finished", sharded / "weights.safetensors"), ("shards", sharded / "checkpoints/last.ckpt")):
        cli = BatonCLI(["validate", *expand(arguments(base, name, "stage1", 2, f"--ckpt_path={checkpoint}"))])
        found = {key: float(value) for key, value in cli.trainer.callback_metrics.items() if key.startswith("val/")}
        assert found == pytest.approx(held_out[0], abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_optimiser_of_whole_matrices_is_refused_under_zero(stage: int) -> None:
    module = torch.nn.Linear(2, 2)
    module._trainer = SimpleNamespace(strategy=CPUDeepSpeedStrategy(stage=stage))
    with pytest.raises(ValueError, match="MuonAdamW needs whole matrices.*torch.optim.AdamW"):
        build_optimizer(module, MuonAdamW)
    assert build_optimizer(module, torch.optim.AdamW)["optimizer"].param_groups


# ---- every stage; runs that are stopped are in tests/bench/test_resume.py and test_faults
@pytest.fixture(scope="module")
def parents(fit: Callable[..., Path]) -> None:
    """Finished whole runs of the planner's stages, to start from."""
    for stage in ("stage1", "stage2"):
        fit("whole", stage, None)


def steps_of(run: Path) -> list[str]:
    """Every step's line of the ledger: samples by digest, losses bit for bit."""
    return (run / "ledger.jsonl").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "strategy"),
    [
        ("stage3_joint", "zero3_cpu"),
        ("stage3_adapt", "zero2_cpu"),
        ("stage2", "zero3_cpu"),
        ("stage1", "zero1_cpu"),
        ("stage1", "zero3_offload_cpu"),
    ],
)
def test_a_sharded_run_ends_with_the_weights_of_a_whole_one(fit: Callable[..., Path], parents: None, stage: str, strategy: str) -> None:
    more = ["--model.init_args.dit.init_args.recompute=true"] if stage == "stage3_joint" else []  # which alters no number
    through, whole = fit(f"through-{strategy}", stage, strategy, 4, *more), fit("reference", stage, None, 4)
    assert difference(through, whole) <= 1e-6
    assert not any("planner" in key for key in load_file(through / "weights.safetensors")) or not stage.startswith("stage3")


@pytest.mark.slow
def test_a_sharded_step_of_several_batches_is_that_of_a_whole_run(fit: Callable[..., Path]) -> None:
    accumulated = ["--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.01"]
    sharded, whole = (fit(f"accumulated-{strategy}", "stage1", strategy, 2, *accumulated) for strategy in ("zero2_cpu", None))
    assert difference(sharded, whole) <= 1e-6
    norms = [json.loads((run / "manifest.json").read_text())["metrics"]["opt/grad_norm"] for run in (sharded, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.slow
def test_a_run_of_one_process_starts_from_a_sharded_one(fit: Callable[..., Path]) -> None:
    sharded, whole = fit("three", "stage1", "zero3_cpu"), fit("whole", "stage1", None)
    parent = f"--model.init_args.parents.planner={sharded}"
    from_shards, from_whole = fit("from-three", "stage2", None, 2, parent), fit("whole", "stage2", None)
    parents = [json.loads((run / "manifest.json").read_text())["parents"] for run in (from_shards, from_whole)]
    assert str(sharded) in str(parents[0]) and str(whole) in str(parents[1])
    assert difference(from_shards, from_whole) <= 1e-5


POWER_CUT = """
import os
from lightning.pytorch import Callback

class PowerCut(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 2 and trainer.ckpt_path is None:
            saving = trainer.checkpoint_callback
            saving._save_last_checkpoint(trainer, saving._monitor_candidates(trainer))
            os._exit(9)
"""


@pytest.mark.slow
def test_averages_under_zero_are_those_of_a_whole_run_and_survive_a_power_cut(base: Path, fit: Callable[..., Path]) -> None:
    (base / "power_cut.py").write_text(POWER_CUT)
    average = ["--trainer.callbacks+={class_path: callbacks.ema.EMA, init_args: {decay: 0.5}}"]
    whole, plain = fit("averaged", "stage1", None, 4, *average), fit("plain", "stage1", None, 4)
    two, three = (fit(f"averaged-{strategy}", "stage1", strategy, 4, *average) for strategy in ("zero2_cpu", "zero3_cpu"))
    cut = [*average, "--trainer.callbacks+=power_cut.PowerCut"]
    fit("averaged-stopped", "stage1", "zero3_cpu", 4, *cut, code=9)
    stopped = fit("averaged-stopped", "stage1", "zero3_cpu", 4, *cut)
    assert difference(two, whole) <= 1e-6 and difference(three, whole) <= 1e-6 and difference(stopped, three) == 0
    assert difference(whole, plain) > 1e-4 and steps_of(whole) == steps_of(plain) and steps_of(stopped) == steps_of(three)
    manifests = [json.loads((run / "manifest.json").read_text()) for run in (whole, two, three, plain)]
    held_out = [manifest["metrics"]["val/loss"] for manifest in manifests]
    assert held_out[1:3] == pytest.approx(held_out[:1] * 2, abs=1e-5) and abs(held_out[3] - held_out[0]) > 1e-4
    assert [manifest.get("weights") for manifest in manifests] == ["exponential moving average, decay 0.5"] * 3 + [None]


@pytest.fixture(scope="module")
def adapted(fit: Callable[..., Path]) -> Path:
    """A finished adaptation to start from."""
    return fit("adapted", "stage3_adapt", None)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "precision"), [("zero1_cpu", "32-true"), ("zero2_cpu", "bf16-mixed"), ("zero3_cpu", "bf16-mixed")])
def test_what_is_frozen_leaves_as_it_came_and_the_rest_is_trained(
    base: Path, adapted: Path, fit: Callable[..., Path], strategy: str, precision: str
) -> None:
    (base / "power_cut.py").write_text(POWER_CUT)
    plan_alone = ["--model.init_args.frozen=[dit]", "--model.init_args.trained=[dit.latent_mlp,dit.*.plan_attn]"]
    more = [*plan_alone, f"--trainer.precision={precision}", f"--model.init_args.parents={{'dit': '{adapted}'}}"]
    if strategy == "zero3_cpu":
        more.append("--trainer.callbacks+=power_cut.PowerCut")
        fit(f"warm-{strategy}", "stage3_adapt", strategy, 3, *more, code=9)
    run = fit(f"warm-{strategy}", "stage3_adapt", strategy, 3, *more)
    before, after = (load_file(folder / "weights.safetensors") for folder in (adapted, run))
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert moved == {key for key in after if ".plan_attn." in key or ".latent_mlp." in key} and before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values() if tensor.is_floating_point()} == {torch.float32}
    assert json.loads((run / "manifest.json").read_text())["plan_space_drift"] == {"video": 0.0, "audio": 0.0}


MIXED = """
import torch
from lightning.pytorch import Callback

class SoundAlone(Callback):
    def on_fit_start(self, trainer, module):
        for part in module.modules():
            if hasattr(part, "gradient_checkpointing_enable"):
                part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                self.recomputes = True

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        batch.has_video = torch.full((len(batch),), trainer.global_rank != 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage3_adapt"])
def test_a_rank_with_sound_alone_keeps_no_other_rank_waiting_under_zero3(base: Path, fit: Callable[..., Path], stage: str) -> None:
    (base / "mixed.py").write_text(MIXED)
    run = fit("mixed", stage, "zero3_cpu", 2, "--trainer.callbacks+=mixed.SoundAlone")
    steps = [json.loads(line) for line in steps_of(run)]
    assert [(step["video_samples"], step["audio_samples"]) for step in steps] == [(2, 4), (2, 4)]
