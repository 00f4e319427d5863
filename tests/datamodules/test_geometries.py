"""Several geometries in one run: a batch has one of them, and statistics are of all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.shards.moments import Moments
from datamodules.geometry_set import pooled
from datamodules.webshards import WebShards

SetMaker = Callable[..., Path]
CLIP = ClipSpec(text_tokens=2, text_width=3, geometries=(Geometry(32, 48, 2.0), Geometry(32, 32, 1.0)))
SIZES = {"32x32x2s": [5, 4], "48x32x2s": [6], "32x32x1s": [7, 8]}


@pytest.fixture(scope="session")
def root(make_set: SetMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("geometries")
    for name, clip in CLIP.each.items():
        make_set(folder / name, SIZES[name], clip=clip)
    return folder


def data(root: Path, clip: ClipSpec = CLIP, **options: Any) -> WebShards:
    made = WebShards(clip, str(root), **{"batch_size": None, "tokens": 525, "fields": ("text",), "seed": 3} | options)
    made.setup("fit")
    return made


def test_a_batch_has_one_geometry_carries_it_and_has_as_many_clips_as_its_tokens_allow(root: Path) -> None:
    loader = data(root).train_dataloader()
    assert [clip.num_tokens for clip in CLIP.each.values()] == [175, 231, 96]
    sizes = {"32x32x2s": 3, "48x32x2s": 2, "32x32x1s": 5}
    batches = list(loader)
    assert Counter(batch.geometry for batch in batches) == {"32x32x2s": 3, "48x32x2s": 3, "32x32x1s": 3}
    assert all(len(batch) == sizes[batch.geometry] for batch in batches) and len(batches) == len(loader)
    keys = Counter((batch.geometry, key) for batch in batches for key in batch.keys)
    assert set(keys.values()) == {1} and len(keys) == 9 + 6 + 15
    assert [place for batch in batches for place in batch.index.tolist()] == list(range(30))


def test_a_large_clip_comes_alone(root: Path) -> None:
    assert {len(batch) for batch in data(root, tokens=1).train_dataloader()} == {1}


def test_validation_reads_every_clip_of_every_geometry_once(root: Path) -> None:
    keys = Counter((batch.geometry, key) for batch in data(root).val_dataloader() for key in batch.keys)
    assert set(keys.values()) == {1} and len(keys) == 30


def test_an_equal_number_of_clips_may_be_given_instead(root: Path) -> None:
    assert {len(batch) for batch in data(root, batch_size=3, tokens=None).train_dataloader()} == {3}


def test_the_first_geometry_alone_is_read_as_a_data_set_of_its_own(root: Path) -> None:
    made = WebShards(CLIP, str(root), fields=("text",))
    made.first_geometry()
    made.setup("validate")
    assert len(made.val_dataset) == 9 and made.val_dataset.batch([0]).geometry == "32x32x2s"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "tokens": 100}, "takes batch_size or tokens, got batch_size 4 and tokens 100; .* batch_size to null"),
        ({"batch_size": None, "tokens": None}, "takes batch_size or tokens, got batch_size None and tokens None"),
        ({"batch_size": None, "tokens": 0}, "tokens must be at least 1, got 0"),
        ({"batch_size": None, "tokens": 9, "multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"batch_size": 4, "multiple_of": 2}, "multiple_of is for batches of tokens, got 2 with batch_size"),
        ({"batch_size": None, "tokens": 9, "epoch_clips": 8}, "epoch_clips counts clips of equal batches, got 8 with tokens"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WebShards(CLIP, str(root), **options)


def test_a_geometry_without_a_data_set_is_named(root: Path) -> None:
    more = ClipSpec(text_tokens=2, text_width=3, geometries=(Geometry(64, 64, 2.0),))
    with pytest.raises(ValueError, match="for each geometry of the clip section, it has none of 64x64x2s .32x32x1s, 32x32x2s, 48x32x2s."):
        data(root, more)


def test_a_folder_that_holds_clips_of_another_geometry_than_its_name_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "32x32x2s", tmp_path / "32x32x2s")
    shutil.copytree(root / "32x32x2s", tmp_path / "48x32x2s")
    with pytest.raises(ValueError, match="48x32x2s.* another geometry .*width: 48 != 32"):
        data(tmp_path, ClipSpec(text_tokens=2, text_width=3, geometries=CLIP.geometries[:1]))


def test_ranks_that_cannot_share_a_batch_of_tokens_are_refused(root: Path) -> None:
    made = data(root)
    made.trainer = SimpleNamespace(global_rank=0, world_size=2, accumulate_grad_batches=1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="tokens makes batches of 3 clips of the bucket 32x32x2s av, which 2 ranks cannot share"):
        made.train_dataloader()
    shared = data(root, multiple_of=2)
    assert {batch.geometry: len(batch) for batch in shared.train_dataloader()} == {"32x32x2s": 2, "48x32x2s": 2, "32x32x1s": 4}
    shared.trainer = made.trainer
    assert len(shared.train_dataloader()) == 11


def test_other_tokens_amid_an_epoch_are_refused(root: Path) -> None:
    def opened(tokens: int) -> WebShards:
        made, done = data(root, tokens=tokens), SimpleNamespace(ready=2, processed=2)
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=done)))
        ranks = {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1, "num_training_batches": 9}
        made.trainer, made.iterating = SimpleNamespace(current_epoch=0, fit_loop=loop, **ranks), 0  # type: ignore[assignment]
        return made

    state, again, other = opened(525).state_dict(), opened(525), opened(192)
    assert state["batch_size"] == {"32x32x2s av": 3, "48x32x2s av": 2, "32x32x1s av": 5} and state["consumed"] == 7
    again.load_state_dict(state)
    assert next(iter(again.train_dataloader())).index.tolist()[0] == 7
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="after 7 clips in batches of {.*restore data.init_args.tokens"):
        next(iter(other.train_dataloader()))


def test_damage_is_counted_and_named_by_geometry(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    tar = tmp_path / "set/48x32x2s/train/text-000000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.warns(UserWarning, match="skipped the clip"):
        made = data(tmp_path / "set")
    assert {name.partition("/")[0] for name in made.train_dataset.damaged} == {"48x32x2s"}
    assert len(list(made.train_dataloader())) == 9


def test_statistics_of_geometries_are_those_of_all_their_features() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(n, 4, dtype=torch.float64) * scale + scale for n, scale in ((30, 1.0), (7, 3.0), (12, 0.5))]
    own, together = [], Moments()
    for part in parts:
        sums = Moments()
        sums.add(part, -1)
        together.include(sums)
        own.append({"video": (sums.mean.float(), sums.std.float()), "audio": (torch.zeros(2), torch.ones(2))})
    found = pooled(own, [{"video": len(part), "audio": 0} for part in parts])
    torch.testing.assert_close(found["video"], (together.mean.float(), together.std.float()))
    assert found["audio"][0].tolist() == [0, 0] and found["audio"][1].tolist() == [1, 1]
    assert pooled(own[:1], [{"video": 30, "audio": 0}]) is own[0]
