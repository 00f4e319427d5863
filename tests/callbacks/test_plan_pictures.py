"""Pictures of plans in the event file of a real fit."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.plan.picture import png
from callbacks.plan_pictures import PlanPictures

CLIP = ClipSpec(seconds=1.0, plan_grid=(2, 2), audio_plan_rate=10, video_plan_width=8, audio_plan_width=8)


def clips(first: int) -> SimpleNamespace:
    """Two clips; the first of the first batch has no sound."""
    keys = [f"clip{first}", f"clip{first + 1}"]
    return SimpleNamespace(
        geometry=None,
        keys=keys,
        video_prompts=keys,
        audio_prompts=keys,
        has_video=None,
        has_audio=torch.tensor([first > 0, True]),
        seed=first,
    )


def plan_of(seed: int) -> Plan:
    draw = torch.Generator().manual_seed(seed)
    return Plan(torch.randn(2, CLIP.num_keyframes * 4, 8, generator=draw), torch.randn(2, 10, 8, generator=draw), CLIP.video_plan_grid)


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.clip, self.weight = CLIP, torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return self.weight.square()

    def validation_step(self, batch, batch_idx):
        return {"plan": plan_of(batch.seed + 100), "target": plan_of(batch.seed)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_first_whole_clips_are_drawn_with_their_features(tmp_path: Path) -> None:
    trainer = Trainer(
        max_steps=2, val_check_interval=2, accelerator="cpu", callbacks=[PlanPictures(num_plans=2)], default_root_dir=tmp_path,
        logger=TensorBoardLogger(tmp_path, name="", version=""), enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    loader = DataLoader([clips(k) for k in (0, 2, 4)], batch_size=None, collate_fn=lambda batch: batch)
    trainer.fit(Tiny(), loader, loader)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["plans/clip1", "plans/clip2"]
    (drawn,) = events.Images("plans/clip1")
    assert drawn.step == 2
    plan, target = ({"video": p.video[1].reshape(*CLIP.video_plan_grid, 8), "audio": p.audio[1]} for p in (plan_of(100), plan_of(0)))
    wanted = Image.open(io.BytesIO(png(CLIP, plan, "clip1\nclip1", target))).convert("RGB")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawn.encoded_image_string))), np.asarray(wanted))
