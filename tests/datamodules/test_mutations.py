"""Shards that were changed at random: nothing crashes, nothing hangs, and every clip that is lost is counted."""

from __future__ import annotations

import random
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import record_of
from datamodules.webshards import WebShards

CLIP = ClipSpec(text_tokens=2, text_width=3)
SIZES = (3, 4)
SECONDS = 20
BLOCK = 512


def block(content: bytearray, dice: random.Random) -> int:
    """Where a block of a tar begins; a record is shorter than one."""
    return dice.randrange(max(1, len(content) // BLOCK)) * BLOCK


def flip_bits(content: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice([1, 1, 4, 64])):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def truncate(content: bytearray, dice: random.Random) -> None:
    del content[dice.randrange(len(content)) :]


def zero_a_block(content: bytearray, dice: random.Random) -> None:
    start = block(content, dice)
    content[start : start + BLOCK] = bytes(BLOCK)


def swap_blocks(content: bytearray, dice: random.Random) -> None:
    a, b = block(content, dice), block(content, dice)
    content[a : a + BLOCK], content[b : b + BLOCK] = content[b : b + BLOCK], content[a : a + BLOCK]


def rename_a_member(content: bytearray, dice: random.Random) -> None:
    start = content.find(b"train-", dice.randrange(len(content)))
    start = start if start >= 0 else content.find(b"train-")
    content[start : start + 10] = dice.choice([b"other-9999", b"train-0001", b"\x00" * 10, b"..////....", bytes(range(200, 210))])


def repeat_a_header(content: bytearray, dice: random.Random) -> None:
    start = block(content, dice)
    content[start:start] = content[:BLOCK]


def empty(content: bytearray, dice: random.Random) -> None:
    content.clear()


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, truncate, zero_a_block, swap_blocks, rename_a_member, repeat_a_header, empty,
)  # fmt: skip


def mutate(root: Path, dice: random.Random) -> str:
    """Changes a tar, or its record, or takes the record away."""
    tar = dice.choice(sorted((root / "train").glob("*.tar")))
    what = dice.choice(MUTATIONS)
    file = record_of(tar) if dice.random() < 0.15 and what is not empty else tar
    content = bytearray(file.read_bytes())
    what(content, dice)
    file.write_bytes(content)
    if dice.random() < 0.3:
        record_of(tar).unlink()
    return what.__name__


def outcome(root: Path) -> str:
    """Reads an epoch. The clips that are whole and the clips that are named as damaged must be all there were."""

    def too_long(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        data = WebShards(CLIP, str(root), batch_size=1, fields=("text",), max_damaged=sum(SIZES))
        data.setup("fit")
        seen = {key: batch for batch in data.train_dataloader() for key in batch.keys}
    except ValueError as error:
        return "refused" if str(error).startswith("data: ") else f"unclear: {error}"
    finally:
        signal.alarm(0)
    dataset = data.train_dataset
    keys = {key for _, key in dataset.places}
    assert len(keys) == sum(SIZES) and seen.keys() | dataset.damaged.keys() == keys and not seen.keys() & dataset.damaged.keys()
    for key, batch in seen.items():
        if key.startswith("train-") and all(shard.checksums for shards in dataset.shards.values() for shard in shards):
            assert batch.video_prompts == [key] and (batch.context[0, 0] == int(key[-4:])).all(), f"{key} was changed and nobody noticed"
    return f"{len(dataset.damaged)} clips lost" if dataset.damaged else "unharmed"


def run(make_set: Callable[..., Path], folder: Path, count: int) -> Counter[str]:
    pristine = make_set(folder / "set", SIZES)
    found: Counter[str] = Counter()
    for case in range(count):
        root = folder / "case"
        shutil.copytree(pristine, root)
        dice = random.Random(case)
        what = mutate(root, dice)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[outcome(root)] += 1
            except Exception as error:
                raise AssertionError(f"case {case} ({what}): {type(error).__name__}: {error}") from error
        shutil.rmtree(root)
    return found


def test_forty_mutated_sets_lose_nothing_uncounted(make_set, tmp_path):
    found = run(make_set, tmp_path, 40)
    assert not [name for name in found if name.startswith("unclear")], found
    assert len(found) > 2


@pytest.mark.slow
def test_a_thousand_mutated_sets_lose_nothing_uncounted(make_set, tmp_path, capsys):
    found = run(make_set, tmp_path, 1000)
    with capsys.disabled():
        print(f"\n1000 mutated shards: {dict(found.most_common())}")
    assert not [name for name in found if name.startswith("unclear")], found
