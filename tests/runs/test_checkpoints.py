"""Checkpoints on disk: whatever cuts a save or a removal off, what is taken afterwards is whole; what was changed is not opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from safetensors.torch import save_file

from baton_lightning.construction.deepspeed_cpu import CPUDeepSpeedStrategy
from baton_lightning.construction.sharding import require_resumable
from baton_lightning.runs import checkpoint_weights, checkpoints
from baton_lightning.runs.saving import AtomicCheckpoint, PlainFile, TrainingFile


def write(path: Path, text: str, folder: bool) -> None:
    """Something like a checkpoint."""
    if folder:
        (path / "checkpoint").mkdir(parents=True)
        for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
            (path / "checkpoint" / name).write_text(text + name)
    else:
        path.write_text(text)


def save(path: Path, text: str = "", folder: bool = False, step: int = 1, ranks: int = 1) -> Path:
    part = checkpoints.aside(path)
    write(part, text or path.name, folder)
    checkpoints.commit(path, checkpoints.described(part, checkpoints.files(part)), step=step, ranks=ranks)
    return path


class Cut(Exception):
    """The power went."""


def cut_off_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of everything that changes a folder, only so many calls are made."""
    left = [call]

    def limited(original: Callable) -> Callable:
        def one(*args, **more):
            left[0] -= 1
            if left[0] < 0:
                raise Cut
            return original(*args, **more)

        return one

    for name in ("replace", "unlink", "write_text", "symlink_to"):
        monkeypatch.setattr(Path, name, limited(getattr(Path, name)))


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_whatever_cuts_off_a_save_what_is_taken_afterwards_is_whole(tmp_path: Path, folder: bool) -> None:
    """After every single operation, to the end of saving the second and removing the first."""
    for call in range(20):
        home = tmp_path / str(call)
        home.mkdir()
        first = save(home / "step-1.ckpt", folder=folder)
        write(checkpoints.aside(home / "step-2.ckpt"), "new", folder)
        entries = checkpoints.described(checkpoints.aside(home / "step-2.ckpt"), checkpoints.files(checkpoints.aside(home / "step-2.ckpt")))
        with pytest.MonkeyPatch.context() as patch:
            cut_off_at(call, patch)
            try:
                checkpoints.commit(home / "step-2.ckpt", entries, step=2, ranks=1)
                checkpoints.point(home / "last.ckpt", home / "step-2.ckpt")
                checkpoints.remove(first)
            except Cut:
                done = False
            else:
                done = True
        found, passed_over = checkpoints.newest(home)
        assert found is not None and not passed_over and not checkpoints.changed(found)
        if done:
            assert found.name == "step-2.ckpt" == os.readlink(home / "last.ckpt") and call > 5
            assert sorted(os.listdir(home)) == ["last.ckpt", "step-2.ckpt", "step-2.ckpt.json"]
            return
    raise AssertionError("saving never ends")


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_one_that_was_cut_off_is_passed_over_by_name(tmp_path: Path, folder: bool) -> None:
    old, new = (save(tmp_path / f"step-{n}.ckpt", folder=folder, step=n) for n in (1, 2))
    assert checkpoints.newest(tmp_path) == (new, {})
    victim = new / "checkpoint/mp_rank_00_model_states.pt" if folder else new
    os.truncate(victim, 3)
    found, passed_over = checkpoints.newest(tmp_path)
    assert found == old and "has 3 bytes and had" in passed_over["step-2.ckpt"]
    if folder:
        victim.unlink()
        assert "files are not those of its manifest: checkpoint/mp_rank_00" in checkpoints.newest(tmp_path)[1]["step-2.ckpt"]
    checkpoints.manifest_of(old).unlink()
    with pytest.raises(ValueError, match=r"no complete checkpoint.*step-1.ckpt: it has no manifest.*--resume never"):
        checkpoints.newest(tmp_path)


def test_an_empty_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "none") == (None, {})


def test_a_file_beside_the_shards_that_no_manifest_names_is_not_opened(tmp_path: Path) -> None:
    new = save(tmp_path / "step-1.ckpt", folder=True)
    (new / "checkpoint/zero_pp_rank_1_mp_rank_00_optim_states.pt").write_text("foreign")
    assert "zero_pp_rank_1" in checkpoints.fault(new)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_changed_content_of_the_same_size_is_found_by_its_digest(tmp_path: Path, folder: bool) -> None:
    new = save(tmp_path / "step-1.ckpt", folder=folder)
    assert checkpoints.changed(new) == []
    name = "checkpoint/mp_rank_00_model_states.pt" if folder else "."
    victim = new / name
    victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    assert checkpoints.fault(new) == "" and checkpoints.changed(new) == [name]
    assert sorted(checkpoints.changed(new, 0, 2) + checkpoints.changed(new, 1, 2)) == [name]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {".": {}}}', '{"files": 3, "ranks": 1}'])
def test_a_manifest_that_is_none_was_changed_and_its_checkpoint_is_passed_over(tmp_path: Path, text: str) -> None:
    new = save(tmp_path / "step-2.ckpt", step=2)
    checkpoints.manifest_of(new).write_text(text)
    with pytest.raises(ValueError, match=r"no complete checkpoint.*step-2.ckpt.json must be the manifest.*changed afterwards"):
        checkpoints.newest(tmp_path)
    before = save(tmp_path / "step-1.ckpt", step=1)
    found, passed_over = checkpoints.newest(tmp_path)
    assert found == before and "changed afterwards" in passed_over["step-2.ckpt"]


def test_the_newest_is_of_the_highest_step_whatever_the_clock_said(tmp_path: Path) -> None:
    newest = save(tmp_path / "step-15.ckpt", step=15)
    save(tmp_path / "step-5.ckpt", step=5)
    assert checkpoints.newest(tmp_path)[0] == newest
    again = save(tmp_path / "step-15-v1.ckpt", step=15)
    assert checkpoints.newest(tmp_path)[0] == again


def test_shards_go_on_only_whole_vouched_for_and_on_as_many_ranks(tmp_path: Path) -> None:
    zero, whole = CPUDeepSpeedStrategy(stage=3), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).strategy
    shards, file = save(tmp_path / "a.ckpt", folder=True, ranks=2), save(tmp_path / "b.ckpt", ranks=2)
    require_resumable(shards, zero, 2)
    require_resumable(file, whole, 1)
    for checkpoint, strategy, ranks, message in (
        (shards, zero, 1, "written by 2 ranks, this run has 1"),
        (shards, whole, 2, "holds shards of DeepSpeed, but this run does not use it"),
        (file, zero, 2, "holds one file, but this run uses DeepSpeed"),
        (tmp_path / "none.ckpt", whole, 1, "it does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            require_resumable(checkpoint, strategy, ranks)
    for checkpoint in (shards, file):
        checkpoints.manifest_of(checkpoint).unlink()
    require_resumable(file, whole, 1)  # no code in it is run
    with pytest.raises(ValueError, match="no manifest"):
        require_resumable(shards, zero, 2)


# ---- code in a pickle
class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_run_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "evil": Payload(tmp_path / "ran")}, tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()  # so it would
    (tmp_path / "ran").unlink()
    with pytest.raises(ValueError, match="only tensors and plain values, so nothing in it was run"):
        PlainFile().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.ckpt"])
def test_a_run_does_not_continue_from_weights_alone(tmp_path: Path, name: str) -> None:
    (save_file if name.endswith("safetensors") else torch.save)({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} must .* (a finished run's weights with model.init_args.parents|that this library wrote)"):
        TrainingFile().load_checkpoint(tmp_path / name)
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": {}}, tmp_path / "a.ckpt")
    assert TrainingFile().load_checkpoint(tmp_path / "a.ckpt")["state_dict"] == {}


def test_shards_are_scored_with_the_word_that_they_are_not_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = {"w": torch.ones(2)}
    monkeypatch.setattr(checkpoint_weights, "consolidate", lambda folder: merged)
    shards = save(tmp_path / "a.ckpt", folder=True, step=7)
    assert checkpoint_weights.weights_of(shards, LightningModule()) == (
        merged,
        "the weights of step 7, consolidated from shards; they are not averages",
    )


# ---- retention
class Falling(LightningModule):
    """Logs a metric that falls, rises and falls again."""

    METRIC = (5.0, 3.0, 4.0, 6.0, 2.0, 7.0, 8.0)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.log("metric", self.METRIC[batch_idx])
        return (self.weight - batch).square().sum()


def fit(folder: Path, steps: int, start: Path | None = None, plugins: list | None = None, accumulate: int = 1, **saver) -> AtomicCheckpoint:
    defaults = {"filename": "step-{step}", "auto_insert_metric_name": False, "every_n_train_steps": 1, "save_last": True}
    checkpoint = AtomicCheckpoint(dirpath=folder, **defaults | saver)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=plugins,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(Falling(), torch.utils.data.DataLoader(torch.ones(7, 3)), ckpt_path=start)
    return checkpoint


def steps_kept(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, all of them whole; nothing else is there but the pointer to the newest."""
    kept = {path.name for path in folder.glob("*.ckpt") if not path.is_symlink()}
    assert set(os.listdir(folder)) == {"last.ckpt", *kept, *(f"{name}.json" for name in kept)}
    assert checkpoints.newest(folder) == (folder / os.readlink(folder / "last.ckpt"), {})
    assert all(json.loads((folder / f"{name}.json").read_text())["step"] == int(name[5:-5]) for name in kept)
    return sorted(int(name[5:-5]) for name in kept)


@pytest.mark.parametrize("stop", [None, 2, 3, 4])
def test_the_best_by_metric_and_the_newest_are_kept_also_by_a_run_that_stopped(tmp_path: Path, stop: int | None) -> None:
    if stop:
        fit(tmp_path, stop, monitor="metric", save_top_k=2)
        assert steps_kept(tmp_path) == {2: [1, 2], 3: [2, 3], 4: [2, 3, 4]}[stop]
    start = checkpoints.newest(tmp_path)[0]
    saver = fit(tmp_path, 6, start, monitor="metric", save_top_k=2)
    assert steps_kept(tmp_path) == [2, 5, 6]  # metrics 3, 2; and the newest
    assert Path(saver.best_model_path).name == "step-5.ckpt" and Path(saver.last_model_path).name == "step-6.ckpt"


@pytest.mark.parametrize(("top", "kept"), [(0, [6]), (1, [6]), (2, [4, 6]), (-1, [2, 4, 6])])
def test_without_a_metric_so_many_of_the_newest_are_kept_or_all(tmp_path: Path, top: int, kept: list[int]) -> None:
    fit(tmp_path, 4, save_top_k=top, every_n_train_steps=2)
    fit(tmp_path, 6, checkpoints.newest(tmp_path)[0], save_top_k=top, every_n_train_steps=2)
    assert steps_kept(tmp_path) == kept


def test_a_run_that_was_moved_or_saves_at_other_steps_leaves_no_old_checkpoints_and_others_alone(tmp_path: Path) -> None:
    fit(tmp_path / "a", 4, save_top_k=2)
    (tmp_path / "a").rename(tmp_path / "b")
    home = tmp_path / "b"
    for name in ("step-3.ckpt", "step-3.ckpt.json"):
        shutil.copy(home / name, home / f"kept-{name}")
    fit(home, 6, home / "step-4.ckpt", save_top_k=2, every_n_train_steps=2)
    assert sorted(path.name for path in home.glob("*.ckpt")) == ["kept-step-3.ckpt", "last.ckpt", "step-4.ckpt", "step-6.ckpt"]


def test_checkpoints_may_come_by_time_instead_of_steps(tmp_path: Path) -> None:
    by_time = {"every_n_train_steps": 0, "save_top_k": -1}
    fit(tmp_path, 3, train_time_interval=timedelta(0), **by_time)
    assert steps_kept(tmp_path) == [1, 2, 3]
    fit(tmp_path / "rare", 3, train_time_interval=timedelta(hours=1), **by_time)
    assert not list((tmp_path / "rare").glob("step-[12].ckpt"))


def test_nothing_is_saved_amid_a_step_that_accumulates(tmp_path: Path) -> None:
    saves = {"accumulate": 2, "every_n_train_steps": 2, "save_top_k": -1}
    fit(tmp_path, 2, **saves)
    fit(tmp_path, 3, tmp_path / "step-2.ckpt", **saves)  # its first batch ends at step 2 still
    batches = [PlainFile().load_checkpoint(path)["loops"]["fit_loop"]["epoch_loop.batch_progress"] for path in tmp_path.glob("step*.ckpt")]
    assert sorted(batch["current"]["ready"] for batch in batches) == [4, 6]


def test_a_name_that_was_cut_off_is_written_anew_and_what_lies_aside_is_cleared(tmp_path: Path) -> None:
    fit(tmp_path, 2)
    save(tmp_path / "step-4.ckpt", "garbage", step=4)
    os.truncate(tmp_path / "step-4.ckpt", 2)
    checkpoints.aside(tmp_path / "step-3.ckpt").write_text("half")
    fit(tmp_path, 4, tmp_path / "step-2.ckpt")
    assert steps_kept(tmp_path) == [4] and PlainFile().load_checkpoint(tmp_path / "step-4.ckpt")["global_step"] == 4


def test_a_save_that_fails_says_what_is_left_and_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = torch.save

    def full(values, file, *args, **more):
        if values["global_step"] == 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        saved(values, file, *args, **more)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"step 3 could not be saved.*No space left on device\); .*step-2.ckpt is complete"):
        fit(tmp_path, 4, plugins=[PlainFile()])
    assert steps_kept(tmp_path) == [2]


def test_saving_in_its_own_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="AsyncCheckpointIO saves asynchronously"):
        fit(tmp_path, 1, plugins=[AsyncCheckpointIO()])
