"""Losses by flow time: every clip counts in its own quarter, for the modalities that it has."""

from __future__ import annotations

import pytest
import torch

from baton_lightning.stages.loss_by_time import LossByTime


def test_a_clip_counts_in_its_quarter_and_only_for_what_it_has() -> None:
    losses = LossByTime()
    t = torch.tensor([0.0, 0.1, 0.9, 1.0])
    errors = {"video": torch.tensor([1.0, 3.0, 5.0, 7.0]), "audio": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    losses.update(t, errors, {"video": None, "audio": torch.tensor([True, False, False, True])})
    losses.update(torch.tensor([0.3]), {"video": torch.tensor([9.0]), "audio": torch.tensor([9.0])}, {"video": None, "audio": None})
    got = {name: value.item() for name, value in losses.compute().items()}
    assert got == pytest.approx(
        {"loss_video_t/0.00-0.25": 2, "loss_video_t/0.25-0.50": 9, "loss_video_t/0.75-1.00": 6}
        | {"loss_audio_t/0.00-0.25": 1, "loss_audio_t/0.25-0.50": 9, "loss_audio_t/0.75-1.00": 4}
    )
    losses.reset()
    assert losses.compute() == {}
