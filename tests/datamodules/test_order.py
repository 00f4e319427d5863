"""The order of clips as a property: every clip once, whatever the ranks, wherever the run was stopped."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order import epoch_length, held_out_batches, permutation, training_batches

worlds = st.sampled_from([1, 2, 3, 4])


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    world_size = draw(worlds)
    batch_size = world_size * draw(st.integers(1, 5))
    batches = draw(st.none() | st.integers(1, 7))
    return {
        "num_clips": draw(st.integers(batch_size, 60)),
        "batch_size": batch_size,
        "world_size": world_size,
        "seed": draw(st.integers(0, 99)),
        "epoch": draw(st.integers(0, 9)),
        "epoch_clips": None if batches is None else batches * batch_size,
    }


def all_ranks(world_size: int, **run: Any) -> list[list[tuple[int, int, int]]]:
    """Global batches, each sorted by place."""
    by_rank = [list(training_batches(rank=rank, world_size=world_size, **run)) for rank in range(world_size)]
    assert len({len(batches) for batches in by_rank}) == 1
    return [sorted(slot for batches in by_rank for slot in batches[b]) for b in range(len(by_rank[0]))]


@given(runs())
def test_every_pass_over_the_clips_shows_each_exactly_once_whatever_the_epochs(run: dict[str, Any]) -> None:
    run.pop("epoch")
    seen: list[int] = []
    epoch = 0
    while len(seen) < 3 * run["num_clips"]:
        batches = all_ranks(epoch=epoch, **run)
        assert len(batches) == epoch_length(**{k: v for k, v in run.items() if k != "seed"})
        slots = [slot for batch in batches for slot in batch]
        assert [slot[:2] for slot in slots] == [(epoch, place) for place in range(len(batches) * run["batch_size"])]
        seen += [position for _, _, position in slots]
        epoch += 1
    for number in range(3):
        one = seen[number * run["num_clips"] : (number + 1) * run["num_clips"]]
        assert sorted(one) == list(range(run["num_clips"]))
        assert tuple(one) == permutation(run["num_clips"], seed=run["seed"], number=number)


@given(runs(), st.lists(st.integers(0, 20), max_size=3), st.lists(worlds, min_size=4, max_size=4))
def test_stops_and_other_ranks_leave_the_global_order_as_it_is(run: dict[str, Any], kills: list[int], later: list[int]) -> None:
    whole, world_size = all_ranks(**run), run.pop("world_size")
    pieces: list[list[tuple[int, int, int]]] = []
    for steps, next_world in zip([*kills, len(whole)], later, strict=False):
        pieces += all_ranks(world_size, consumed=len(pieces) * run["batch_size"], **run)[:steps]
        world_size = next_world if run["batch_size"] % next_world == 0 else world_size
    assert pieces == whole


@given(st.integers(1, 70), st.integers(1, 16), worlds)
def test_held_out_clips_come_once_and_ranks_keep_step(num_clips: int, batch_size: int, world_size: int) -> None:
    if num_clips < world_size:
        with pytest.raises(ValueError, match=f"at most {num_clips} devices"):
            held_out_batches(num_clips, batch_size=batch_size, world_size=world_size)
        return
    by_rank = [held_out_batches(num_clips, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
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
        epoch_length(num_clips, batch_size=batch_size, world_size=world_size)


def test_an_epoch_that_is_no_whole_number_of_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the batch of 4 clips, got 10; the nearest is 8 or 12"):
        epoch_length(100, batch_size=4, epoch_clips=10)
