"""Samples while a run trains: in its precision, as many as asked for, and nothing stays behind."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.generation.generator import Generator
from baton_lightning.stages.joint import JointTraining
from callbacks.sample_logger import SampleLogger


def batch(*places: int) -> Batch:
    return Batch([f"k{place}" for place in places], torch.tensor(places), 0, ["v"] * len(places), ["a"] * len(places))


class Sampling(JointTraining):
    """A stage 3 whose only network is one layer."""

    def __init__(self) -> None:
        super().__init__(ClipSpec(), None, None, None)
        self.layer = torch.nn.Linear(4, 4)

    def configure_model(self):
        pass

    def on_fit_start(self):
        pass

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        pass

    def training_step(self, batch, batch_idx):
        return self.layer(torch.ones(4)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_samples_are_made_in_the_run_s_precision_from_as_many_batches_as_it_takes_and_decoded_in_the_codecs_own(
    tmp_path, precision, monkeypatch
):
    module, seen = Sampling(), []

    def sample_own(_, batch):
        assert not module.training and not torch.is_grad_enabled()
        seen.append(("sample", str(module.layer(torch.ones(4)).dtype), *batch.keys))
        return torch.zeros(len(batch)), torch.zeros(len(batch))

    def decode(_, video, audio, geometry=None):
        seen.append(("decode", str(module.layer(torch.ones(4)).dtype)))
        return torch.zeros(len(video), 5, 16, 16, 3, dtype=torch.uint8), torch.zeros(len(video), 16000)

    monkeypatch.setattr(Generator, "sample_own", sample_own)
    monkeypatch.setattr(Generator, "decode", decode)
    trainer = Trainer(
        max_steps=1,
        precision=precision,
        accelerator="cpu",
        logger=False,
        callbacks=[SampleLogger(3)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=1,
    )
    held_out = [batch(0), batch(1), batch(2, 3), batch(4)]
    trainer.fit(module, DataLoader([batch(9)], batch_size=None), DataLoader(held_out, batch_size=None))
    low = "torch.float32" if precision == "32-true" else "torch.bfloat16"
    assert [line for line in seen if line[0] == "sample"] == [("sample", low, f"k{place}") for place in range(3)]
    assert [line for line in seen if line[0] == "decode"] == [("decode", "torch.float32")] * 3
    assert sorted(file.stem for file in (tmp_path / "samples/step-000001").glob("*.mp4")) == ["k0", "k1", "k2"]
