"""WebShards under a trainer: a resumed run sees what an uninterrupted one sees, and data that does not fit is refused."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import CACHE, record_of, write_json
from datamodules.webshards import WebShards

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]
CLIP = ClipSpec(text_tokens=2, text_width=3)
SetMaker = Callable[..., Path]


class Recorder(LightningModule):
    """Remembers what it was trained on, and has a weight that depends on all of it in order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int], list[str]]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append((batch.epoch, batch.index.tolist(), batch.keys))
        assert batch.context is not None
        return ((self.weight - batch.context.mean()) ** 2).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", float(len(batch)), batch_size=len(batch))


def data(root: Path, **options: Any) -> WebShards:
    return WebShards(CLIP, str(root), **{"batch_size": 4, "fields": ("text",), "seed": 3} | options)


def fit(root: Path, folder: Path, steps: int = 8, ckpt_path: str | None = None, workers: int = 0, **checkpoint: Any) -> Recorder:
    module = Recorder()
    every = checkpoint or {"every_n_train_steps": 1}
    saver = ModelCheckpoint(folder, filename="{step}", auto_insert_metric_name=False, save_top_k=-1, **every)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saver], check_val_every_n_epoch=None, val_check_interval=2, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data(root, num_workers=workers), ckpt_path=ckpt_path)
    return module


@pytest.fixture(scope="module")
def root(make_set: SetMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("data") / "set", [5, 1, 7])  # 13 clips: 3 batches of 4 an epoch


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return fit(root, folder), folder


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_resumed_after_any_step_equals_the_uninterrupted_one(
    root: Path, whole: tuple[Recorder, Path], tmp_path: Path, step: int
) -> None:
    module, folder = whole
    resumed = fit(root, tmp_path, ckpt_path=str(folder / f"{step}.ckpt"))
    assert resumed.seen == module.seen[step:]
    assert torch.equal(resumed.weight, module.weight)


def test_three_resumes_in_a_row_one_with_a_reading_process_change_nothing(root: Path, whole: tuple[Recorder, Path], tmp_path: Path) -> None:
    module, seen = whole[0], []
    stops, checkpoint = [2, 4, 5, 8], None
    for n, stop in enumerate(stops):
        part = fit(root, tmp_path / str(n), steps=stop, ckpt_path=checkpoint, workers=n % 2)
        seen += part.seen
        checkpoint = str(tmp_path / str(n) / f"{stop}.ckpt")
    assert seen == module.seen and torch.equal(part.weight, module.weight)


@pytest.mark.parametrize("when", [{"every_n_epochs": 1, "save_on_train_epoch_end": at_end} for at_end in (True, False)])
def test_checkpoints_of_epoch_ends_and_of_validations_resume_exactly(
    root: Path, whole: tuple[Recorder, Path], tmp_path: Path, when: dict[str, Any]
) -> None:
    fit(root, tmp_path, **when)
    saved = sorted(int(file.stem) for file in tmp_path.glob("*.ckpt") if int(file.stem) < 8)
    assert saved
    for step in saved:
        resumed = fit(root, tmp_path / f"after{step}", ckpt_path=str(tmp_path / f"{step}.ckpt"))
        assert resumed.seen == whole[0].seen[step:]
        assert torch.equal(resumed.weight, whole[0].weight)


def test_thirteen_clips_come_once_each_though_an_epoch_has_twelve(whole: tuple[Recorder, Path]) -> None:
    seen = whole[0].seen
    assert [epoch for epoch, _, _ in seen] == [0, 0, 0, 1, 1, 1, 2, 2]
    for epoch in (0, 1):
        assert [place for e, places, _ in seen if e == epoch for place in places] == list(range(12))
    keys = [key for _, _, keys in seen for key in keys]
    assert len(set(keys[:13])) == len(set(keys[13:26])) == 13


def test_another_batch_size_amid_an_epoch_is_refused_by_number(root: Path, whole: tuple[Recorder, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(whole[1] / "2.ckpt", weights_only=True)
    assert checkpoint["WebShards"] == {
        "epoch": 0,
        "consumed": 8,
        "batch_size": 4,
        "epoch_clips": None,
        "accumulate": 1,
        "seed": 3,
        "clips": {"av": 13},
    }
    datamodule = data(root, batch_size=6)
    trainer = Trainer(accelerator="cpu", max_steps=4, logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ValueError, match="after 8 clips in batches of 4.*set data.init_args.batch_size to 4"):
        trainer.fit(Recorder(), datamodule, ckpt_path=str(whole[1] / "2.ckpt"))


def test_epochs_of_another_length_are_refused(make_set: SetMaker, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", [9])
    _, state = Machine(made, 1, None, 4).run(1)
    with pytest.raises(ValueError, match="epoch_clips=8, and it cannot resume with None"):
        Machine(made, 1, state | {"epoch_clips": 8}, 4).run(1)


def test_a_run_does_not_go_on_in_the_order_of_another_seed(make_set: SetMaker, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", [9])
    _, state = Machine(made, 1, None, 4).run(1)
    with pytest.raises(ValueError, match="order is of seed 5, and it cannot resume with 3.*set seed_everything to 5"):
        Machine(made, 1, state | {"seed": 5}, 4).run(1)


def test_a_run_does_not_go_on_with_other_clips(make_set: SetMaker, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", [9])
    _, state = Machine(made, 1, None, 4).run(1)
    with pytest.raises(ValueError, match="order is of {'av': 9, 'audio': 4} clips, and it cannot resume with {'av': 9}"):
        Machine(made, 1, state | {"clips": {"av": 9, "audio": 4}}, 4).run(1)


def test_buckets_that_a_split_lacks_are_named(make_set: SetMaker, tmp_path: Path) -> None:
    datamodule = data(make_set(tmp_path / "set", [9]), buckets=["audio"])
    datamodule.setup("fit")
    with pytest.raises(ValueError, match="train/ has clips of the buckets av and none of audio; change data.init_args.buckets"):
        datamodule.train_dataloader()


class Machine:
    """Ranks that share a data set and stop when they are told: a trainer's counters without a trainer."""

    def __init__(self, root: Path, world_size: int, state: dict[str, int] | None, batch_size: int) -> None:
        self.ranks = []
        for rank in range(world_size):
            datamodule = data(root, batch_size=batch_size)
            self.count = SimpleNamespace(ready=0, processed=0)
            progress = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=self.count)))
            ranks = {"global_rank": rank, "world_size": world_size, "accumulate_grad_batches": 1}
            datamodule.trainer = SimpleNamespace(current_epoch=0, fit_loop=progress, **ranks)  # type: ignore[assignment]
            datamodule.setup("fit")
            if state is not None:
                datamodule.load_state_dict(state)
                datamodule.trainer.current_epoch = state["epoch"]
                self.count.ready = self.count.processed = state["consumed"] // batch_size
            self.ranks.append((datamodule, self.count))

    def run(self, steps: int) -> tuple[list[tuple[int, list[str]]], dict[str, int]]:
        """Global batches, in the order of their places, and the state to go on from."""
        shared: list[list[tuple[int, int, str]]] = [[] for _ in range(steps)]
        states = []
        for datamodule, count in self.ranks:
            loader, done = datamodule.train_dataloader(), 0
            datamodule.trainer.num_training_batches = len(loader)  # type: ignore[union-attr]
            while done < steps:
                for batch in loader:
                    count.ready += 1
                    shared[done] += zip([batch.epoch] * len(batch), batch.index.tolist(), batch.keys, strict=True)
                    count.processed, done = count.ready, done + 1
                    if done == steps:
                        break
                states.append(datamodule.state_dict()) if done == steps else None
                if count.ready == len(loader):
                    datamodule.trainer.current_epoch += 1  # type: ignore[union-attr]
                    count.ready = count.processed = 0
        assert all(state == states[0] for state in states)
        return [(batch[0][0], [key for _, _, key in sorted(batch)]) for batch in shared], states[0] if states else {}


@pytest.mark.slow
@settings(max_examples=25)
@given(
    shards=st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["av", "video", "audio"])), min_size=1, max_size=5),
    batch_size=st.sampled_from([4, 8]),
    legs=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 7)), min_size=1, max_size=4),
)
def test_ranks_that_change_between_runs_keep_the_global_order(
    make_set: SetMaker, shards: list[tuple[int, str]], batch_size: int, legs: list[tuple[int, int]]
) -> None:
    shards += [(batch_size, bucket) for bucket in sorted({bucket for _, bucket in shards})]  # each makes a batch
    sizes, buckets = zip(*shards, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        made = make_set(Path(folder) / "set", sizes, buckets=buckets)
        whole, _ = Machine(made, 1, None, batch_size).run(sum(steps for _, steps in legs))
        pieces, state = [], None
        for world_size, steps in legs:
            piece, state = Machine(made, world_size, state, batch_size).run(steps)
            pieces += piece
    assert pieces == whole
    owners = [bucket for size, bucket in shards for _ in range(size)]
    kinds = [{owners[int(key[-4:])] for key in batch} for _, batch in whole]
    assert all(len(kind) == 1 for kind in kinds)
    for bucket in set(buckets):
        keys, num_clips = (
            [key for kind, (_, batch) in zip(kinds, whole, strict=True) if kind == {bucket} for key in batch],
            owners.count(bucket),
        )
        for start in range(0, len(keys), num_clips):
            one = keys[start : start + num_clips]  # a pass, the last perhaps cut short
            assert len(set(one)) == len(one)


# ---- what is refused
def test_missing_data_cache_or_shards_say_what_makes_them(make_set: SetMaker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere/ does not exist; make it with `python -m baton_lightning shards world"):
        data(tmp_path / "nowhere").setup("fit")
    root = make_set(tmp_path / "set", [3, 3])
    with pytest.raises(ValueError, match=r"holds the splits \['train', 'val'\]"):
        data(root).setup("test")
    with pytest.raises(ValueError, match="latents-000000.tar does not exist; cache it with `python -m baton_lightning predict"):
        data(root, fields=("latents",)).setup("fit")
    (root / CACHE).unlink()
    with pytest.raises(ValueError, match="no finished cache of text; run `python -m baton_lightning predict"):
        data(root).setup("fit")
    data(root, fields=()).setup("fit")
    (root / "train" / "clips-000001.tar").unlink()
    with pytest.raises(ValueError, match="clips-000001.tar does not exist; build the data again"):
        data(root, fields=()).setup("fit")


def test_a_folder_of_several_geometries_says_which_roots_there_are(make_set: SetMaker, tmp_path: Path) -> None:
    for name in ("32x32x1s", "64x32x1s"):
        make_set(tmp_path / "set" / name, [3])
    with pytest.raises(
        ValueError, match="for each of the geometries 32x32x1s, 64x32x1s; name one as the root, .* list their sizes in clip.geometries"
    ):
        data(tmp_path / "set").setup("fit")


def test_stale_caches_are_refused_by_name(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [3])
    cache = json.loads((root / CACHE).read_text())
    for change, message in (
        ({"clip": cache["clip"] | {"text_width": 5}}, "another geometry .*text_width: 3 != 5"),
        ({"splits": cache["splits"] | {"val": "0"}}, "clips other than those in the splits val"),
        ({"recipe": "others"}, "text-000000.tar was not made by the networks"),
    ):
        write_json(root / CACHE, cache | change)
        with pytest.raises(ValueError, match=message):
            data(root).setup("fit")


def test_clips_of_another_geometry_are_refused_field_by_field(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [3])
    other = WebShards(ClipSpec(seconds=3.0, height=48, text_tokens=2, text_width=3), str(root), fields=())
    with pytest.raises(ValueError, match="height: 48 != 32; seconds: 3.0 != 2.0"):
        other.setup("fit")


def test_a_shard_without_clips_or_without_some_is_refused(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [2, 2])
    tar = root / "train" / "clips-000001.tar"
    record_of(tar).unlink()
    with tar.open("r+b") as file:
        file.truncate(1500)
    with pytest.raises(ValueError, match="clips-000001.tar must hold 2 clips, got 1"):
        data(root, fields=()).setup("fit")
    tar.write_bytes(b"")
    with pytest.raises(ValueError, match="clips-000001.tar must hold 2 clips, got 0"):
        data(root, fields=()).setup("fit")


def test_an_emptied_shard_is_refused_though_its_record_is_there(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [2, 2])
    (root / "train" / "clips-000001.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="clips-000001.tar must hold 2 clips, got 0"):
        data(root, fields=()).setup("fit")


def test_shards_without_their_records_are_read_from_their_headers(make_set: SetMaker, tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", [2, 3])
    before = data(root)
    before.setup("fit")
    copy = shutil.copytree(root, tmp_path / "copy")
    for record in copy.glob("*/*-*.json"):
        record.unlink()
    after = data(copy)
    after.setup("fit")
    for a, b in ((x.train_dataset.batch(range(5)) for x in (before, after)),):
        assert a.keys == b.keys and torch.equal(a.context, b.context)
