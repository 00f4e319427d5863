"""Every stage under every strategy and precision that a user may choose: it trains, validates, shows a clip, survives a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from baton_lightning.__main__ import main
from baton_lightning.bench.resume_case import Case, first_difference
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.launch.processes import call, kill_at
from tests.small import SMALL_DIT

ROOT = Path(__file__).parents[2]
STAGES = ("stage1", "stage2", "stage3_adapt", "stage3_joint")
STRATEGIES = ("auto", "ddp", "zero1_cpu", "zero2_cpu", "zero3_cpu")
SETTINGS = ("float32", "bfloat16", "qwen")
"""32-true; bf16-mixed; bf16-mixed with a Qwen3 on disk that is held in bfloat16."""
CELLS = [
    (stage, strategy, setting)
    for stage in STAGES
    for strategy in STRATEGIES
    for setting in SETTINGS
    if (stage, setting) != ("stage3_adapt", "qwen")  # it has no language model
]
REFUSED = [(stage, strategy, "qwen") for stage in ("stage1", "stage2") for strategy in ("auto", "ddp")]
"""Weights in bfloat16 would be trained without float32 masters."""
PARENT = {"stage2": "stage1", "stage3_joint": "stage2"}
STEPS = 4
TWO_RANKS = {"ddp": {"float32"}, "zero1_cpu": {"float32"}, "zero2_cpu": {"float32"}, "zero3_cpu": {"float32", "bfloat16"}}
"""Settings that are run on two processes: everywhere float32, and what ZeRO-3 holds in bfloat16."""

WATCH = """
import json
import torch
from lightning.pytorch import Callback

def types(module):
    kept = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
    kept |= {f"{name}.{key}": getattr(m, key) for name, m in module.named_modules() for key in getattr(m, "_defaults", {})}
    return {name: str(t.dtype) for name, t in kept.items() if isinstance(t, torch.Tensor)}

class Watch(Callback):
    def on_validation_end(self, trainer, module):
        if trainer.is_global_zero:
            losses = {name: str(v.dtype) for name, v in trainer.callback_metrics.items()}
            with open(f"{trainer.default_root_dir}/types.json", "w") as file:
                json.dump({"kept": types(module), "losses": losses}, file)
"""


def ranks_of(strategy: str, setting: str) -> int:
    """Two, but one where a cell differs in nothing but precision from what two have shown."""
    return 1 if strategy == "auto" or setting not in TWO_RANKS[strategy] else 2


class World:
    """A small set, a language model on disk, and finished planners to start from."""

    def __init__(self, base: Path) -> None:
        self.base = base
        Case(base, "stage1").prepare()
        model = TinyLLM(width=32, depth=1, num_heads=2, num_kv_heads=1)
        model.model.save_pretrained(base / "qwen")
        model.tokenizer.save_pretrained(base / "qwen")
        self.fit("stage1", "auto", "float32", "parents")
        self.fit("stage2", "auto", "float32", "parents")
        self.fit("stage1", "auto", "qwen", "parents_qwen", dtype="float32")
        self.fit("stage2", "auto", "qwen", "parents_qwen", dtype="float32")

    def overlay(self, stage: str, setting: str, experiment: str, dtype: str, steps: int) -> Path:
        """The settings of a cell as a file."""
        parents = self.base / "runs" / ("parents_qwen" if setting == "qwen" else "parents")
        model: dict[str, Any] = {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}}
        if stage in PARENT:
            model["parents"] = {"planner": str(parents / PARENT[stage])}
        small = {"init_args": {"llm": {"init_args": {"width": 32, "depth": 1}}}}
        if stage != "stage3_adapt" and setting != "qwen":
            model |= {"plan": {"init_args": {"planner": small}}} if stage == "stage3_joint" else {"planner": small}
        if setting == "qwen":
            llm = {
                "class_path": "baton_lightning.frozen.llm.PretrainedLLM",
                "init_args": {"name_or_path": f"{self.base}/qwen", "dtype": dtype},
            }
            readout = "sem_mlp.SemHeads" if stage == "stage1" else "towers.DualTowers"
            planner = {
                "class_path": "baton_lightning.models.planner.VAPlanner",
                "init_args": {"llm": llm, "readout": {"class_path": f"baton_lightning.models.{readout}"}, "placeholder_std": 0.2},
            }
            source = {"class_path": "baton_lightning.stages.plan_sources.PlannedTokens", "init_args": {"planner": planner}}
            model |= {"plan": source} if stage == "stage3_joint" else {"planner": planner}
        if stage.startswith("stage3"):
            model["dit"] = {"init_args": SMALL_DIT}
            model["sampler"] = {"class_path": "baton_lightning.flow.sampler.EulerSampler", "init_args": {"steps": 2, "shift": 1.0}}
        callbacks = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"]
        named = {entry["class_path"].rpartition(".")[2]: entry.setdefault("init_args", {}) for entry in callbacks}
        named["AtomicCheckpoint"]["every_n_train_steps"] = steps // 2
        named["SampleLogger"]["num_samples"] = 1
        file = self.base / f"{experiment}-{stage}.yaml"
        file.write_text(yaml.safe_dump({"model": {"init_args": model}, "trainer": {"callbacks": callbacks, "limit_val_batches": 1}}))
        return file

    def command(self, stage: str, strategy: str, setting: str, experiment: str, dtype: str = "bfloat16", steps: int = STEPS) -> list[str]:
        """How a cell is trained, first and again after a kill."""
        files = [f"experiments/{stage}.yaml", str(self.overlay(stage, setting, experiment, dtype, steps))]
        files += [f"experiments/strategy/{strategy}.yaml"] if strategy != "auto" else []
        precision = "32-true" if setting == "float32" or dtype == "float32" else "bf16-mixed"
        more = [
            f"--trainer.precision={precision}",
            f"--trainer.devices={ranks_of(strategy, setting)}",
            f"--trainer.val_check_interval={steps}",
        ]
        watched = ["--trainer.callbacks+=watch.Watch"]
        return [
            "fit",
            *(word for file in files for word in ("-c", file)),
            *Case(self.base, stage).words(experiment, steps),
            *more,
            *watched,
        ]

    def fit(self, stage: str, strategy: str, setting: str, experiment: str, code: int = 0, **more: Any) -> str:
        """Trains a cell to its end, and returns its output."""
        return call(self.command(stage, strategy, setting, experiment, **more), self.base / "output.txt", ranks_of(strategy, setting), code)

    def run(self, stage: str, experiment: str) -> Path:
        return self.base / "runs" / experiment / stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(base)
        (base / "watch.py").write_text(WATCH)
        yield World(base)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "strategy", "setting"),
    [cell for cell in CELLS if cell not in REFUSED],
)
def test_a_stage_trains_validates_shows_a_clip_and_survives_a_kill(world: World, stage: str, strategy: str, setting: str) -> None:
    name = f"{strategy}-{setting}"
    world.fit(stage, strategy, setting, name)
    run = world.run(stage, name)
    recorded = json.loads((run / "types.json").read_text())
    assert set(recorded["kept"].values()) <= {"torch.float32", "torch.float64"}, recorded
    assert set(recorded["losses"].values()) == {"torch.float32"}
    assert {t.dtype for t in load_file(run / "weights.safetensors").values() if t.is_floating_point()} == {torch.float32}
    cut = f"{name}-cut"
    ledger = world.run(stage, cut) / "ledger.jsonl"
    kill_at(world.command(stage, strategy, setting, cut), world.base / "output.txt", ranks_of(strategy, setting), ledger, STEPS - 1)
    assert "step-2.ckpt" in world.fit(stage, strategy, setting, cut)
    assert first_difference(run, world.run(stage, cut)) is None
    if stage.startswith("stage3"):
        assert len(list((run / "samples").glob("*/*.mp4"))) > 0
        plan = "planned" if stage == "stage3_joint" else "truth"
        clips = world.base / "clips" / f"{stage}-{name}"
        assert main(["generate", "--run", str(run), "--num", "1", "--plan", plan, "--out", str(clips)]) == 0
        assert list(clips.glob("*.mp4"))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "strategy", "setting"), REFUSED)
def test_weights_in_bfloat16_without_masters_are_refused(world: World, stage: str, strategy: str, setting: str) -> None:
    output = world.fit(stage, strategy, setting, f"{strategy}-{setting}", code=1)
    assert "float32 masters" in output and "Traceback" not in output


@pytest.fixture(scope="module")
def float32_losses(world: World) -> list[float]:
    world.fit("stage3_adapt", "auto", "float32", "curve-float32", steps=50)
    return losses_of(world.run("stage3_adapt", "curve-float32"))


def losses_of(run: Path) -> list[float]:
    """Loss of every optimiser step."""
    return [float.fromhex(json.loads(line)["loss"]) for line in (run / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fifty_steps_in_bfloat16_follow_those_in_float32(world: World, float32_losses: list[float], strategy: str) -> None:
    world.fit("stage3_adapt", strategy, "bfloat16", f"curve-{strategy}", steps=50)
    losses = losses_of(world.run("stage3_adapt", f"curve-{strategy}"))
    apart = [abs(low - exact) / exact for low, exact in zip(losses, float32_losses, strict=True)]
    assert 0 < max(apart) <= 0.01
