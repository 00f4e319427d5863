"""Real processes: a run that goes from 2 ranks to 1 and on to 4 sees what one rank sees, and no rank waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baton_lightning.clip import ClipSpec, Geometry

SCRIPT = """
import json, sys
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from baton_lightning.clip import ClipSpec, Geometry
from datamodules.webshards import WebShards

class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen, self.held_out = torch.nn.Parameter(torch.zeros(1)), [], []
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def training_step(self, batch, batch_idx):
        self.seen.append([[batch.epoch, i, k, batch.geometry] for i, k in zip(batch.index.tolist(), batch.keys)])
        return ((self.weight - batch.context.mean()) ** 2).sum()
    def validation_step(self, batch, batch_idx):
        self.held_out += [f"{batch.geometry} {key}" for key in batch.keys]
        self.log("val/loss", self.weight.sum(), sync_dist=True, batch_size=len(batch))

root, out, ranks, steps, workers, ckpt, several = sys.argv[1:]
saver = ModelCheckpoint(out, filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=1)
module = Recorder()
trainer = Trainer(accelerator="cpu", devices=int(ranks), strategy="ddp" if int(ranks) > 1 else "auto", max_steps=int(steps), max_epochs=-1,
                  logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[saver], num_sanity_val_steps=0,
                  check_val_every_n_epoch=None, val_check_interval=3, use_distributed_sampler=False)
sizes = (Geometry(32, 48, 2.0), Geometry(32, 32, 1.0)) if int(several) else ()
clip = ClipSpec(text_tokens=2, text_width=3, geometries=sizes)
size = {"batch_size": None, "tokens": 800, "multiple_of": 4} if sizes else {"batch_size": 4}  # batches of 4, 4 and 8 clips
data = WebShards(clip, root, **size, fields=("text",), seed=3, num_workers=int(workers))
trainer.fit(module, data, ckpt_path=None if ckpt == "-" else ckpt)
json.dump([module.seen, module.held_out, module.weight.item()], open(f"{out}/{trainer.global_rank}.json", "w"))
"""


@pytest.fixture(scope="module")
def leg(make_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[list[Any], list[str], float, str]]:
    folder = tmp_path_factory.mktemp("ranks")
    make_set(folder / "one", [5, 1, 7])
    for name, clip in ClipSpec(text_tokens=2, text_width=3, geometries=(Geometry(32, 48, 2.0), Geometry(32, 32, 1.0))).each.items():
        make_set(folder / "several" / name, {"32x32x2s": [5, 4], "48x32x2s": [6, 1], "32x32x1s": [9, 8]}[name], clip=clip)
    (folder / "train.py").write_text(SCRIPT)

    def run(
        name: str, ranks: int, steps: int, start: str = "-", workers: int = 0, *, several: bool = False
    ) -> tuple[list[Any], list[str], float, str]:
        """Global batches by place, held-out keys of all ranks, the weight, and the last checkpoint."""
        out, root = folder / f"{name}-{several}", folder / ("several" if several else "one")
        out.mkdir()
        command = [sys.executable, str(folder / "train.py"), str(root), str(out), str(ranks), str(steps), str(workers), start]
        command += [str(int(several))]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        records = [json.loads((out / f"{rank}.json").read_text()) for rank in range(ranks)]
        batches = [sorted(slot for seen, _, _ in records for slot in seen[step]) for step in range(len(records[0][0]))]
        return batches, [key for _, keys, _ in records for key in keys], records[0][2], str(out / f"{steps}.ckpt")

    return run


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.slow
@pytest.mark.parametrize(("several", "num_clips"), [(False, 13), (True, 33)])
def test_two_ranks_then_one_then_four_see_the_order_of_one(leg: Callable[..., Any], several: bool, num_clips: int) -> None:
    whole, _, weight, _ = leg("whole", 1, 8, several=several)
    pieces, start = [], "-"
    for ranks, steps, workers in ((2, 2, 1), (1, 5, 0), (4, 8, 0)):
        batches, keys, last, start = leg(f"ranks{ranks}", ranks, steps, start, workers, several=several)
        pieces += batches
        assert len(keys) % num_clips == 0 and {key: keys.count(key) for key in keys} == dict.fromkeys(keys, len(keys) // num_clips)
    assert pieces == whole
    assert {len({geometry for *_, geometry in batch}) for batch in whole} == {1}
    assert len({batch[0][3] for batch in whole}) == (3 if several else 1)
    assert last == pytest.approx(weight, rel=1e-5)
