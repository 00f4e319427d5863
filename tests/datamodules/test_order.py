"""The order of clips as a property: every clip once, whatever the ranks, wherever the run was stopped."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order import Buckets, bucket_of_batch, clips_before, epoch_length, held_out_batches, permutation, training_batches

worlds = st.sampled_from([1, 2, 3, 4])


NAMES = tuple(f"{geometry} {kind}" for geometry in ("32x32x2s", "48x32x2s", "32x32x1s") for kind in ("av", "video"))


def buckets_of(sizes: list[int], names: tuple[str, ...] = ("av", "video", "audio")) -> Buckets:
    """Buckets whose clips lie scattered over the split."""
    owners = sorted(range(sum(sizes)), key=lambda p: p * 7919 % 1009)
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return {name: sorted(owners[a:b]) for name, a, b in zip(names, bounds, bounds[1:], strict=False)}


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    world_size = draw(worlds)
    batch_size = world_size * draw(st.integers(1, 5))
    batches = draw(st.none() | st.integers(1, 7))
    return {
        "buckets": buckets_of(draw(st.lists(st.integers(batch_size, 60), min_size=1, max_size=3))),
        "batch_size": batch_size,
        "world_size": world_size,
        "seed": draw(st.integers(0, 99)),
        "epoch": draw(st.integers(0, 9)),
        "epoch_clips": None if batches is None else batches * batch_size,
    }


@st.composite
def runs_of_tokens(draw: st.DrawFn) -> dict[str, Any]:
    """Runs whose batches differ in size between buckets, as those of geometries do."""
    world_size = draw(worlds)
    sizes = draw(st.lists(st.integers(1, 5).map(lambda n: n * world_size), min_size=1, max_size=6))
    buckets = buckets_of([size + draw(st.integers(0, 40)) for size in sizes], NAMES)
    return {
        "buckets": buckets,
        "batch_size": dict(zip(buckets, sizes, strict=True)),
        "world_size": world_size,
        "seed": draw(st.integers(0, 99)),
        "epoch": draw(st.integers(0, 9)),
    }


def sizes_of(run: dict[str, Any]) -> dict[str, int]:
    """Clips of a batch of each bucket."""
    size = run["batch_size"]
    return size if isinstance(size, dict) else dict.fromkeys(run["buckets"], size)


def all_ranks(world_size: int, **run: Any) -> list[list[tuple[int, int, int]]]:
    """Global batches, each sorted by place."""
    by_rank = [list(training_batches(rank=rank, world_size=world_size, **run)) for rank in range(world_size)]
    assert len({len(batches) for batches in by_rank}) == 1
    return [sorted(slot for batches in by_rank for slot in batches[b]) for b in range(len(by_rank[0]))]


@given(runs() | runs_of_tokens())
def test_every_pass_over_a_bucket_shows_each_clip_exactly_once_whatever_the_epochs(run: dict[str, Any]) -> None:
    run.pop("epoch")
    buckets = run["buckets"]
    of = {position: name for name, clips in buckets.items() for position in clips}
    seen: dict[str, list[int]] = {name: [] for name in buckets}
    epoch = 0
    while min(len(seen[name]) / len(clips) for name, clips in buckets.items()) < 2:
        batches = all_ranks(epoch=epoch, **run)
        assert len(batches) == epoch_length(**{k: v for k, v in run.items() if k != "seed"})
        slots = [slot for batch in batches for slot in batch]
        assert [slot[:2] for slot in slots] == [(epoch, place) for place in range(len(slots))]
        for batch in batches:
            (name,) = {of[position] for _, _, position in batch}  # one bucket a batch
            assert len(batch) == sizes_of(run)[name]
            seen[name] += [position for _, _, position in batch]
        epoch += 1
    for name, clips in buckets.items():
        for number in range(2):
            one = seen[name][number * len(clips) : (number + 1) * len(clips)]
            assert sorted(one) == list(clips)
            assert one == [clips[i] for i in permutation(len(clips), seed=run["seed"], number=number)]


@given(st.integers(1, 4), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 5))
def test_an_epoch_of_buckets_that_divide_into_batches_shows_each_clip_once(batch_size: int, batches: list[int], epoch: int) -> None:
    buckets = buckets_of([count * batch_size for count in batches])
    seen = [slot for batch in training_batches(buckets, batch_size=batch_size, seed=1, epoch=epoch) for slot in batch]
    assert sorted(position for _, _, position in seen) == list(range(sum(batches) * batch_size))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=3), st.integers(0, 2000))
def test_buckets_take_turns_in_proportion_at_any_moment(sizes: list[int], start: int) -> None:
    counts = [0] * len(sizes)
    for number in range(start, start + 50):
        bucket, before = bucket_of_batch(number, sizes)
        assert abs(before - number * sizes[bucket] / sum(sizes)) < 2
        counts[bucket] += 1
        assert bucket_of_batch(number + sum(sizes), sizes) == (bucket, before + sizes[bucket])
    for count, size in zip(counts, sizes, strict=True):
        assert abs(count - 50 * size / sum(sizes)) < 3


@given(runs() | runs_of_tokens(), st.lists(st.integers(0, 20), max_size=3), st.lists(worlds, min_size=4, max_size=4))
def test_stops_and_other_ranks_leave_the_global_order_as_it_is(run: dict[str, Any], kills: list[int], later: list[int]) -> None:
    whole, world_size = all_ranks(**run), run.pop("world_size")
    pieces: list[list[tuple[int, int, int]]] = []
    for steps, next_world in zip([*kills, len(whole)], later, strict=False):
        pieces += all_ranks(world_size, consumed=sum(map(len, pieces)), **run)[:steps]
        world_size = next_world if not any(size % next_world for size in sizes_of(run).values()) else world_size
    assert pieces == whole


@given(runs_of_tokens())
def test_ranks_have_batches_of_the_same_geometry_and_size_in_every_step(run: dict[str, Any]) -> None:
    of = {position: name for name, clips in run["buckets"].items() for position in clips}
    ranks = [list(training_batches(rank=rank, **run)) for rank in range(run["world_size"])]
    for batches in zip(*ranks, strict=True):
        assert len({of[position] for batch in batches for _, _, position in batch}) == 1
        assert len({len(batch) for batch in batches}) == 1


@given(runs_of_tokens(), st.integers(0, 30))
def test_clips_of_earlier_batches_are_counted_without_making_them(run: dict[str, Any], count: int) -> None:
    run = {key: value for key, value in run.items() if key != "world_size"}
    batches = list(training_batches(**run))
    order = {key: value for key, value in run.items() if key not in ("buckets", "seed")}
    number = min(count, len(batches))
    assert clips_before(run["buckets"], number, num_batches=len(batches), **order) == sum(map(len, batches[:number]))


@given(runs_of_tokens())
def test_held_out_clips_of_geometries_come_once_in_batches_of_their_own_size(run: dict[str, Any]) -> None:
    world = {"batch_size": run["batch_size"], "world_size": run["world_size"]}
    by_rank = [held_out_batches(run["buckets"], rank=rank, **world) for rank in range(run["world_size"])]
    assert len({len(batches) for batches in by_rank}) == 1
    seen = Counter(position for batches in by_rank for batch in batches for _, _, position in batch)
    assert seen == Counter(range(sum(map(len, run["buckets"].values()))))
    for batches in zip(*by_rank, strict=True):
        positions = {position for batch in batches for _, _, position in batch}
        (name,) = [name for name, clips in run["buckets"].items() if positions <= set(clips)]
        assert len(positions) <= run["batch_size"][name] + run["world_size"]  # one more each, where a rank would have none


@given(st.lists(st.integers(1, 70), min_size=1, max_size=3), st.integers(1, 16), worlds)
def test_held_out_clips_come_once_and_ranks_keep_step(sizes: list[int], batch_size: int, world_size: int) -> None:
    buckets, num_clips = buckets_of(sizes), sum(sizes)
    if min(sizes) < world_size:
        with pytest.raises(ValueError, match="at most [123] devices"):
            held_out_batches(buckets, batch_size=batch_size, world_size=world_size)
        return
    by_rank = [held_out_batches(buckets, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    for batches in zip(*by_rank, strict=True):
        positions = {position for batch in batches for _, _, position in batch}
        assert any(positions <= set(clips) for clips in buckets.values())
    assert len({len(batches) for batches in by_rank}) == 1
    assert all(batch for batches in by_rank for batch in batches)
    assert Counter(position for batches in by_rank for batch in batches for _, _, position in batch) == Counter(range(num_clips))
    most = -(-batch_size // world_size) + (batch_size < 2 * world_size)
    assert max(len(batch) for batches in by_rank for batch in batches) <= most


def test_orders_differ_between_passes_and_seeds() -> None:
    orders = {tuple(permutation(20, seed=seed, number=number)) for seed in range(4) for number in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "world_size", "message"),
    [
        (7, 8, 2, "2 ranks x 4 clips = 8; set data.init_args.batch_size to 6"),
        (99, 9, 2, "9 clips / 2 ranks = 4.5; the nearest is 8 or 10"),
        (9, 1, 2, "the nearest is 2"),
    ],
)
def test_arithmetic_that_cannot_work_is_shown(num_clips: int, batch_size: int, world_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        epoch_length({"av": range(num_clips)}, batch_size=batch_size, world_size=world_size)


def test_batches_of_tokens_that_ranks_cannot_share_are_refused_by_bucket() -> None:
    buckets = {"32x32x2s av": range(30), "48x32x2s av": range(30, 60)}
    with pytest.raises(ValueError, match="batches of 3 clips of the bucket 48x32x2s av, which 2 ranks .* data.init_args.multiple_of to 2"):
        epoch_length(buckets, batch_size={"32x32x2s av": 4, "48x32x2s av": 3}, world_size=2)
    with pytest.raises(ValueError, match="30 clips of the bucket 48x32x2s av do not make .* give fewer data.init_args.tokens"):
        epoch_length(buckets, batch_size={"32x32x2s av": 4, "48x32x2s av": 31})
    assert epoch_length(buckets, batch_size={"32x32x2s av": 4, "48x32x2s av": 3}, accumulate=4) == 16
    with pytest.raises(ValueError, match="17 batches do not make one optimiser step; set trainer.accumulate_grad_batches to 17 or less"):
        epoch_length(buckets, batch_size={"32x32x2s av": 4, "48x32x2s av": 3}, accumulate=18)


def test_an_epoch_that_is_no_whole_number_of_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the batch of 4 clips, got 10; the nearest is 8 or 12"):
        epoch_length({"av": range(100)}, batch_size=4, epoch_clips=10)


def test_an_epoch_is_a_whole_number_of_steps_that_accumulate() -> None:
    clips = {"av": range(30)}
    assert epoch_length(clips, batch_size=4, accumulate=3) == 6
    with pytest.raises(ValueError, match="multiple of the optimiser step of 3 batches of 4 clips, got 16; the nearest is 12 or 24"):
        epoch_length(clips, batch_size=4, accumulate=3, epoch_clips=16)
    with pytest.raises(ValueError, match="30 clips do not make one .*accumulate_grad_batches to 7 or less, or .*epoch_clips to 32"):
        epoch_length(clips, batch_size=4, accumulate=8)


def test_a_bucket_that_makes_no_batch_is_named() -> None:
    with pytest.raises(ValueError, match="3 clips of the bucket audio do not make .* or leave the bucket out of data.init_args.buckets"):
        epoch_length({"av": range(100), "audio": range(3)}, batch_size=4)
