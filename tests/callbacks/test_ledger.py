"""The ledger on a real trainer: what it counts, that a resumed run's is the uninterrupted one's, and what it refuses."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from callbacks.ledger import NAME, Ledger, cut, digest, rows_of

CLIP = ClipSpec()


def batch(step: int, **changes: Any) -> Batch:
    place = torch.arange(2) + 2 * step
    made = Batch(
        [f"clip{int(i)}" for i in place],
        place,
        0,
        ["v"] * 2,
        ["a"] * 2,
        video_latents=torch.ones(2, CLIP.video_channels, *CLIP.latent_grid),
        audio_latents=torch.ones(2, CLIP.num_audio_latents, CLIP.audio_channels),
    )
    return replace(made, **changes)


class Branches(LightningModule):
    """Something to train in each branch."""

    clip = CLIP

    def __init__(self) -> None:
        super().__init__()
        self.video_model, self.audio_model = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        x = batch.index[:, None].float() / 10
        return (self.video_model(x) - self.audio_model(x) - x.sin()).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Dropped(Branches):
    """A generator that drops the plan of even places."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_mlp = torch.nn.Linear(1, 1)

    def plan_mask(self, batch: Batch) -> torch.Tensor:
        return batch.index % 2 == 1


class Power(Callback):
    """Fails at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("the power failed")


class Rows(LightningDataModule):
    """Batches in order, from where the run stands."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    def train_dataloader(self) -> Any:
        data = self

        class Rest:
            def __len__(self) -> int:
                return 12

            def __iter__(self) -> Any:
                done = data.trainer.fit_loop.epoch_loop.batch_progress.current.ready
                return (batch(i, **data.changes) for i in range(done, 12))

            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: dict[str, Any]) -> None:
                pass

        return Rest()


def fit(
    folder: Path, *callbacks: Callback, module: LightningModule | None = None, start: str | None = None, accumulate: int = 1, **changes: Any
) -> Path:
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=TensorBoardLogger(folder, name="", version=""), enable_model_summary=False,
        enable_progress_bar=False, default_root_dir=folder, log_every_n_steps=1, accumulate_grad_batches=accumulate,
        callbacks=[*callbacks, ModelCheckpoint(folder / "checkpoints", every_n_train_steps=5, save_last=True)],
    )  # fmt: skip
    torch.manual_seed(1)
    trainer.fit(module or Branches(), Rows(**changes), ckpt_path=start)
    return folder / NAME


def read(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_a_line_a_step_counts_samples_tokens_and_the_loss_to_the_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound_alone = {"has_video": torch.tensor([True, False])}
    module = Dropped()
    first = module.training_step(batch(0), 0).item()
    lines = read(fit(tmp_path, Ledger(), module=module, **sound_alone))
    assert [line["step"] for line in lines] == list(range(1, 13))
    counts = {
        "epoch": 0, "samples": 2, "video_samples": 1, "audio_samples": 2, "plan_samples": 1, "video_tokens": CLIP.num_video_tokens,
        "audio_latents": 2 * CLIP.num_audio_latents, "planned_tokens": CLIP.num_video_planned + CLIP.num_audio_planned,
    }  # fmt: skip
    assert counts.items() <= lines[3].items() and "rank_losses" not in lines[3]
    assert lines[0]["loss"] == first.hex()
    assert len({line["digest"] for line in lines}) == 12
    assert "video samples" in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("ledger/audio_latents")[-1].value == 24 * CLIP.num_audio_latents


def test_accumulated_batches_are_one_line(tmp_path: Path) -> None:
    lines = read(fit(tmp_path, Ledger(), accumulate=3))
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all(line["samples"] == 6 for line in lines)
    torch.manual_seed(1)
    module = Branches()
    rows = torch.cat([rows_of(batch(i), module) for i in range(3)])
    losses = [module.training_step(batch(i), i).item() for i in range(3)]
    assert lines[0]["digest"] == digest(rows)
    assert float.fromhex(lines[0]["loss"]) == pytest.approx(sum(losses) / 3)


def test_a_resumed_run_has_the_ledger_and_totals_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = Branches().state_dict()

    def module() -> Branches:
        made = Branches()
        made.load_state_dict(state)
        return made

    never, later = Ledger(), Ledger()
    whole = fit(tmp_path / "whole", never, module=module()).read_bytes()
    with pytest.raises(RuntimeError, match="the power failed"):
        fit(tmp_path / "stopped", Ledger(), Power(8), module=module())
    ledger = tmp_path / "stopped" / NAME
    assert len(read(ledger)) == 8
    with ledger.open("a") as file:
        file.write('{"step": 9, "ep')  # what a machine leaves that dies while it writes
    fit(tmp_path / "stopped", later, module=module(), start=str(tmp_path / "stopped/checkpoints/last.ckpt"))
    assert ledger.read_bytes() == whole and later.totals == never.totals


def test_a_run_that_starts_afresh_drops_the_lines_of_the_one_before(tmp_path: Path) -> None:
    ledger = tmp_path / NAME
    ledger.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    cut(ledger, 2)
    assert ledger.read_text() == '{"step": 1}\n{"step": 2}\n'
    cut(ledger, 0)
    assert ledger.read_bytes() == b""


def test_clips_that_were_replaced_are_named_for_the_manifest_also_those_of_an_earlier_session(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_train_start(self, trainer: Trainer, *_: Any) -> None:
            damaged = {"k3": SimpleNamespace(shard="clips-000001.tar", reason="OSError: cut off")}
            trainer.train_dataloader.dataset = SimpleNamespace(damaged=damaged)  # type: ignore[union-attr]

    whole, first, second = Ledger(), Ledger(), Ledger()
    fit(tmp_path / "whole", whole)
    assert whole.described == {}
    fit(tmp_path / "first", Broken(), first)
    second.load_state_dict(first.state_dict())
    fit(tmp_path / "second", second)
    assert second.described == {"damaged_clips": {"k3": "clips-000001.tar: OSError: cut off"}}


def test_a_full_disk_names_the_ledger(tmp_path: Path) -> None:
    class Full(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            (tmp_path / NAME).unlink()
            (tmp_path / NAME).symlink_to("/dev/full")

    with pytest.raises(OSError) as raised:
        fit(tmp_path, Full(), Ledger())
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / NAME))


def test_a_damaged_line_of_a_ledger_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"step": 1}\n{"stXp": 2}\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"ledger.jsonl must have a step in each line, but line 2 is damaged .*rename the file"):
        cut(tmp_path / NAME, 2)


@pytest.mark.parametrize("branch", ["video", "audio"])
def test_a_trained_branch_that_sees_nothing_stops_the_run_and_is_named(tmp_path: Path, branch: str) -> None:
    nothing = {f"has_{branch}": torch.zeros(2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=rf"the {branch} branch is being trained \({branch}_model.weight .* allow_absent to \[{branch}\]"):
        fit(tmp_path, Ledger(patience=4), **nothing)
    assert len(read(tmp_path / NAME)) == 4


def test_a_plan_that_is_always_dropped_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the plan branch is being trained \(latent_mlp.weight"):
        fit(tmp_path, Ledger(patience=4), module=Dropped(), index=torch.tensor([0, 2]))


def test_a_branch_that_is_allowed_to_or_is_frozen_may_go_without(tmp_path: Path) -> None:
    nothing = {"has_video": torch.zeros(2, dtype=torch.bool)}
    assert len(read(fit(tmp_path / "allowed", Ledger(patience=4, allow_absent=["video"]), **nothing))) == 12
    frozen = Branches()
    frozen.video_model.requires_grad_(False)
    assert len(read(fit(tmp_path / "frozen", Ledger(patience=4), module=frozen, **nothing))) == 12


def test_steps_without_a_branch_count_in_a_row_and_across_a_resume(tmp_path: Path) -> None:
    ledger = Ledger(patience=7)
    ledger.load_state_dict({"totals": ledger.totals, "without": {"video": 5, "audio": 5, "plan": 0}})
    with pytest.raises(ValueError, match="the video branch"):
        fit(tmp_path, ledger, has_video=torch.zeros(2, dtype=torch.bool))
    assert len(read(tmp_path / NAME)) == 2 and ledger.without["audio"] == 0


@pytest.mark.parametrize(("wrong", "message"), [({"patience": 0}, "at least 1, got 0"), ({"allow_absent": ["picture"]}, "got picture")])
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ledger(**wrong)
