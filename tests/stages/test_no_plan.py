"""Plain Ovi as a stage: without a plan, and without features in the data set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import NoPlan

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)


def test_clips_without_features_are_trained_on_and_validated_by_one_curve(clips):
    dit = partial(DualBranchDiT, width=24, depth=1, num_heads=2, ffn_width=32, frequency_width=8, plan_attention=None)
    module, logged = JointTraining(CLIP, dit, NoPlan, torch.optim.AdamW), {}
    module.configure_model()
    module.log = lambda name, value, batch_size, **_: logged.update({name: (float(value.detach()), batch_size)})
    batch = replace(clips(3), video_features=None, audio_features=None)
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.dit.parameters() if p.requires_grad)
    logged.clear()
    module.validation_step(batch, 0)
    assert [name for name in logged if "flow_loss" in name] == ["val/flow_loss/none"]
    assert logged["val/loss"] == logged["val/flow_loss/none"] and logged["val/loss"][1] == 3
    assert not module.not_exported and all(key.startswith("dit.") for key in module.state_dict() if "losses" not in key)
