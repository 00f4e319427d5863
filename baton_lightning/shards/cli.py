"""`shards`: make, list and check data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton_lightning.shards.format import SplitIndex


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m baton_lightning shards", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    world = verbs.add_parser("world", help="make a data set of the benchmark world")
    world.add_argument("root", type=Path, help="folder of the data set")
    world.add_argument("--train", type=int, default=2400, help="training clips (default: %(default)s)")
    world.add_argument("--val", type=int, default=128, help="validation clips (default: %(default)s)")
    world.add_argument("--test", type=int, default=256, help="test clips (default: %(default)s)")
    world.add_argument("--tiers", nargs="+", default=["single", "multi"], choices=["single", "multi", "talk"], help="default: single multi")
    world.add_argument("--seconds", type=float, default=2.0, help="duration of a clip, in s (default: %(default)s)")
    world.add_argument("--size", type=int, default=32, help="pixels a side (default: %(default)s)")
    world.add_argument("--channels", type=int, default=96, help="channels of the patch codec (default: %(default)s)")
    world.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    world.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    world.add_argument("--shard-size", type=int, default=100, help="clips a shard (default: %(default)s)")
    for verb, text in (("stat", "what a data set holds"), ("check", "verify digests, and that every clip decodes")):
        verbs.add_parser(verb, help=text).add_argument("root", type=Path, help="folder of the data set")
    options = parser.parse_args(argv)
    if options.verb == "world":
        from baton_lightning.clip import ClipSpec
        from baton_lightning.shards.world import build_world

        clip = ClipSpec(seconds=options.seconds, height=options.size, width=options.size, video_channels=options.channels)
        splits = {"train": options.train, "val": options.val, "test": options.test}
        build_world(options.root, clip, splits, options.tiers, options.seed, options.workers, options.shard_size)
        return stat(options.root)
    return stat(options.root) if options.verb == "stat" else check(options.root)


def splits_of(root: Path) -> dict[str, SplitIndex]:
    """Every split of a data set.

    Raises:
        ValueError: If there is no finished data set.
    """
    from baton_lightning.shards.format import SplitIndex, read_root

    return {split: SplitIndex.read(root / split) for split in read_root(root)["splits"]}


def stat(root: Path) -> int:
    """Prints splits, clips, minutes, tokens and bytes."""
    from rich.console import Console
    from rich.table import Table

    from baton_lightning.shards.format import CACHE, clip_of

    splits = splits_of(root)
    clip = clip_of(next(iter(splits.values())).clip)
    table = Table(title=f"{root}: {clip.seconds:g} s at {clip.fps:g} fps, {clip.width} x {clip.height}")
    for column in ("split", "shards", "clips", "minutes", "video tokens", "audio latents", "planned tokens", "MiB"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, index in splits.items():
        planned = clip.num_video_planned + clip.num_audio_planned
        numbers = [index.num_clips * n for n in (clip.num_video_tokens, clip.num_audio_latents, planned)]
        size = sum(s["num_bytes"] for s in index.shards) / 2**20
        row = [str(len(index.shards)), str(index.num_clips), f"{index.seconds / 60:.1f}", *[f"{n:,}" for n in numbers], f"{size:.1f}"]
        table.add_row(split, *row)
    Console().print(table)
    cached = (root / CACHE).exists()
    print("cache: present" if cached else "cache: none; make it with `python -m baton_lightning predict -c experiments/encode.yaml`")
    return 0


def check(root: Path) -> int:
    """Verifies every shard and names what is damaged. Exit code 1 if anything is."""
    from tqdm import tqdm

    from baton_lightning.shards.check import check_set

    num_clips, problems = 0, []
    for count, found in tqdm(check_set(root), desc="check", unit="shard"):
        num_clips += count
        problems += found
    for problem in problems:
        print(problem)
    print(f"{num_clips} clips checked, {len(problems)} problems")
    return 1 if problems else 0
