"""`shards`: make, list and check data sets."""

from __future__ import annotations

import argparse
from pathlib import Path


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
        build_world(
            options.root, clip, splits=splits, tiers=options.tiers, seed=options.seed, workers=options.workers, shard_size=options.shard_size
        )
        return stat(options.root)
    return stat(options.root) if options.verb == "stat" else check(options.root)


def stat(root: Path) -> int:
    """Prints splits, clips, minutes, tokens and bytes."""
    from rich.console import Console
    from rich.table import Table

    from baton_lightning.clip import ClipSpec
    from baton_lightning.shards.format import CACHE, read_index

    index = read_index(root)
    values = index["clip"]
    clip = ClipSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    table = Table(title=f"{root}: {clip.seconds:g} s at {clip.fps:g} fps, {clip.width} x {clip.height}, tiers {', '.join(index['tiers'])}")
    for column in ("split", "shards", "clips", "minutes", "video tokens", "audio latents", "planned tokens", "MiB"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, shards in index["splits"].items():
        clips = sum(s["count"] for s in shards)
        planned = clip.num_video_planned + clip.num_audio_planned
        numbers = [clips * n for n in (clip.num_video_tokens, clip.num_audio_latents, planned)]
        size = sum(s["bytes"] for s in shards) / 2**20
        table.add_row(split, str(len(shards)), str(clips), f"{clips * clip.seconds / 60:.1f}", *[f"{n:,}" for n in numbers], f"{size:.1f}")
    Console().print(table)
    print("cache: " + ("present" if (root / CACHE).exists() else "none; make it with `python -m baton_lightning predict -c experiments/encode.yaml`"))
    return 0


def check(root: Path) -> int:
    """Verifies every shard; names what is damaged. Exit code 1 if anything is."""
    from tqdm import tqdm

    from baton_lightning.media import MediaError, read_mp4
    from baton_lightning.runs.manifest import sha256
    from baton_lightning.shards.format import ShardError, read_index, read_member, scan

    damage: list[str] = []
    clips = 0
    for split, shards in read_index(root)["splits"].items():
        for shard in tqdm(shards, desc=split, unit="shard"):
            tar = root / split / shard["name"]
            if not tar.exists():
                damage.append(f"{tar}: missing")
                continue
            if sha256(tar) != shard["sha256"]:
                damage.append(f"{tar}: its digest is not the index's")
            try:
                offsets = scan(tar)
            except ShardError as error:
                damage.append(str(error))
                continue
            for key, members in offsets.items():
                clips += 1
                try:
                    read_mp4(read_member(tar, members["mp4"]))
                except (KeyError, MediaError, ShardError) as error:
                    damage.append(f"{tar}: {key}: {error if not isinstance(error, KeyError) else f'no {error} member'}")
    for line in damage:
        print(line)
    print(f"{clips} clips checked, {len(damage)} problems")
    return 1 if damage else 0
