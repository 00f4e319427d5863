"""`shards`: makes, summarises and checks data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from baton_lightning import next_steps
from baton_lightning.arguments import Parser
from baton_lightning.names import counted

BUILD_HELP = """\
Build a data set from recordings: read, check, cut to clips, and write webdataset tar shards with an index.

SOURCE is a CSV or JSONL file with one recording per row, or a folder of media files. Columns: file; text, or video_prompt and
audio_prompt; and, if known, speakers (in CSV separated by ;), speech or words, split, start, end (s), key. In a folder, a.mp4 has its
caption in a.txt, or these fields in a.json; hidden files are skipped.

start and end count from the first picture, as in players. A part costs the same at any position in a film. Frames are selected by time
stamps and converted as players show them: rotation, pixel aspect, interlacing and HDR are applied. Sound is the default track,
resampled and averaged to one channel. Pictures are cropped to the middle and resized.

A recording that is longer than a clip becomes several. `words` ([{"text": ..., "start": s, "end": s, "speaker": ...}]) are assigned to
clips by their times; a caption or `speech` without times is given to several clips only with --repeat. Rejected clips are listed in
OUT/rejected.jsonl with the reason; --limit changes the limits. Clips with the content of an earlier one are dropped. All rows of a
recording are in one split. docs/recordings.md describes what is read and what is refused.

An interrupted build continues when the same command is repeated, and its result is byte-identical. Until the end,
OUT/.build/ holds a second copy of the clips."""

BUILD_EPILOG = """\
With several --bucket, each recording goes to one of them: of those no longer than it, the nearest aspect ratio; then the longest;
then the largest that needs no enlarging. OUT/<bucket>/ is a data set of its own. A run trains on one of them, or on
all: list their sizes in clip.geometries, and give OUT as the root. Without --bucket, the geometries are those of the `clip:` section.

examples:
  python -m baton_lightning shards build films.csv data/films --clip experiments/base.yaml
  python -m baton_lightning shards build films/ data/films --clip experiments/paper/base.yaml --bucket 512x512x5s --bucket 960x544x5s
  python -m baton_lightning shards build films.jsonl data/films --modalities av audio --limit min_loudness=-40 --max-rejected 0.2
  python -m baton_lightning shards build phone/ data/phone --variable-rate --val 2 --test 0 --repeat caption --limit min_height=480
"""


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m baton_lightning shards", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    world = verbs.add_parser("world", help="make a data set of the benchmark world")
    world.add_argument("root", type=Path, help="folder of the data set")
    world.add_argument("--train", type=int, default=2400, help="training clips, all tiers together (default: %(default)s)")
    world.add_argument("--val", type=int, default=128, help="validation clips, all tiers together (default: %(default)s)")
    world.add_argument("--test", type=int, default=128, help="test clips of each tier (default: %(default)s)")
    text = "out-of-distribution clips of each tier: held-out colours of shapes and pairs of events (default: %(default)s)"
    world.add_argument("--ood", type=int, default=0, help=text)
    world.add_argument("--tiers", nargs="+", default=["single", "multi"], choices=["single", "multi", "talk"], help="default: single multi")
    text = "scenes and prompts in which most later events refer to earlier ones: the other one, the one that was hit, the same words"
    world.add_argument("--references", action="store_true", help=text)
    text = "largest random delay before each event, in s; prompts do not tell it (default: %(default)s)"
    world.add_argument("--jitter", type=float, default=0.0, help=text)
    text = "patch codec of another set (its codec.safetensors), so that a transformer trained there can go on here (default: a new one)"
    world.add_argument("--codec", type=Path, metavar="FILE", help=text)
    world.add_argument("--seconds", type=float, default=2.0, help="duration of a clip, in s (default: %(default)s)")
    world.add_argument("--size", type=int, default=32, help="pixels per side (default: %(default)s)")
    world.add_argument("--channels", type=int, default=96, help="channels of the patch codec (default: %(default)s)")
    world.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    world.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    world.add_argument("--shard-size", type=int, default=100, help="clips per shard (default: %(default)s)")
    add_build(verbs.add_parser(
        "build", help="make a data set from recordings of your own", description=BUILD_HELP, epilog=BUILD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ))  # fmt: skip
    about = "what a data set holds: clips, hours, tokens, coverage, rejections, histograms (also as stat.png)"
    verbs.add_parser("stat", help=about, description=about).add_argument("root", type=Path, help="folder of the data set")
    about = "verify digests, that every clip decodes to the geometry of its bucket, and that cached tensors are complete and plausible"
    checking = verbs.add_parser("check", help=about, description=about)
    checking.add_argument("root", type=Path, help="folder of the data set")
    checking.add_argument(
        "--previews",
        nargs=2,
        metavar=("N", "DIR"),
        help="decode N clips of every split and bucket from their cached latents to mp4s in DIR",
    )
    checking.add_argument(
        "-c", "--config", type=Path, default=Path("experiments/encode.yaml"),
        help="experiment that made the cache; its codecs decode the previews (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.verb == "build":
        return build(options)
    if options.verb == "world":
        from baton_lightning.clip import ClipSpec
        from baton_lightning.shards.world import build_world

        clip = ClipSpec(seconds=options.seconds, height=options.size, width=options.size, video_channels=options.channels)
        count = len(options.tiers)
        splits = {"train": options.train, "val": options.val, "test": options.test * count, "ood": options.ood * count}
        recipe = {"references": options.references, "jitter": options.jitter, "codec": options.codec}
        build_world(options.root, clip, splits, options.tiers, options.seed, options.workers, options.shard_size, **recipe)
        next_steps.name_encoding(options.root)
        return stat(options.root)
    return stat(options.root) if options.verb == "stat" else check(options.root, options.previews, options.config)


def add_build(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `build`."""
    from baton_lightning.shards.captions import REPEATS
    from baton_lightning.shards.format import BUCKETS

    add = parser.add_argument
    add("source", type=Path, help="CSV or JSONL file, or folder")
    add("out", type=Path, help="folder of the data set")
    add("--clip", type=Path, metavar="FILE", help="experiment file whose `clip:` section is the geometry (default: that of the demo)")
    for name, kind, text in (
        ("seconds", float, "duration of a clip, in s"), ("fps", float, "frames per second"), ("height", int, "rows of pixels"),
        ("width", int, "columns of pixels"), ("sample-rate", int, "samples per second"),
    ):  # fmt: skip
        add(f"--{name}", type=kind, help=f"{text}, instead of the clip section's")
    add("--bucket", action="append", default=[], metavar="WxHxSs", help="a geometry, e.g. 960x544x5s; may be repeated")
    text = "kinds of clips to take: with picture and sound, picture alone, sound alone (default: av)"
    add("--modalities", nargs="+", default=["av"], choices=BUCKETS, help=text)
    add("--cut", default="all", choices=["all", "first"], help="all consecutive clips of a recording, or its first (default: all)")
    text = "which texts without times may stand on each of several clips of a recording: none, its caption, or all (default: none)"
    add("--repeat", default="none", choices=REPEATS, help=text)
    text = "how much of a recording or part is read, in s; it is held in memory, 0.2 GB per second at 1080p, 30 fps (default: %(default)g)"
    add("--max-seconds", type=float, default=60.0, help=text)
    for split in ("val", "test"):
        text = f"recordings held out for {split}, of those that name no split: a share, drawn by a hash, or a number (default: %(default)s)"
        add(f"--{split}", default="0.05", metavar="SHARE|N", help=text)
    add(
        "--audio-language",
        default="",
        metavar="LANG",
        help="track of the sound, by its language in the file, e.g. eng (default: the default track)",
    )
    text = (
        "trust the time stamps of frames however uneven (phones, screens): no limit on jitter, drift and rate; at least half the "
        "clip's fps is required"
    )
    add("--variable-rate", action="store_true", help=text)
    add("--limit", action="append", default=[], metavar="NAME=VALUE", help="change a limit for clips; an unknown name lists all limits")
    add("--max-rejected", type=float, default=1.0, metavar="FRACTION", help="exit with 1 if more than this share of clips is rejected")
    add(
        "--fit-codec",
        type=int,
        default=0,
        metavar="N",
        help="fit the demo's patch codec to N clips, for experiments/encode.yaml (default: 0)",
    )
    add("--shard-size", type=int, default=100, help="clips per shard (default: %(default)s)")
    add("--workers", type=int, default=2, help="processes, one thread each (default: %(default)s)")


def build(options: argparse.Namespace) -> int:
    """Builds a data set. The exit code is 1 if a larger share of clips is rejected than ``--max-rejected``."""
    from rich.console import Console

    from baton_lightning.shards.build import REJECTED, build_set
    from baton_lightning.shards.contract import Limits
    from baton_lightning.shards.geometries import clip_of_experiment, geometries, limits_with
    from baton_lightning.shards.lists import num_hidden
    from baton_lightning.shards.parts import Settings
    from baton_lightning.shards.sources import digest_of, read_sources
    from baton_lightning.shards.splits import amount
    from baton_lightning.shards.stat import rejections

    if not 0 <= options.max_rejected <= 1:
        raise ValueError(f"shards build: --max-rejected must lie in 0 .. 1, got {options.max_rejected}")
    base = options.source if options.source.is_dir() else options.source.parent
    changes = {name: getattr(options, name) for name in ("seconds", "fps", "height", "width", "sample_rate")}
    clips = geometries(clip_of_experiment(options.clip, changes), options.bucket)
    fps = next(iter(clips.values())).fps
    limits = limits_with(Limits(min_fps=fps / 2 if options.variable_rate else fps, trust_times=options.variable_rate), options.limit)
    sources = read_sources(options.source, {"val": amount(options.val), "test": amount(options.test)})
    if absent := list(dict.fromkeys(str(source.file) for source in sources if source.refused)):
        print(f"{len(absent)} files do not exist, or are links out of {base}/; their rows are rejected:", *absent[:20], sep="\n  ")
        if absent[20:]:
            print(f"  and {len(absent) - 20} more, all in {options.out / REJECTED}")
    if options.source.is_dir() and (count := num_hidden(options.source)):
        print(f"{count} hidden media files are skipped, e.g. of macOS")
    settings = Settings(
        clips=clips, buckets=tuple(sorted(options.modalities)), limits=limits, cut=options.cut,
        max_seconds=options.max_seconds, shard_clips=options.shard_size, sources=digest_of(sources, base), codec_clips=options.fit_codec,
        repeat=options.repeat, audio_language=options.audio_language,
    )  # fmt: skip
    report = build_set(sources, base, options.out, settings, options.workers)
    console = Console()
    num_rejected = sum(report["rejected"].values())
    num_clips = sum(count for splits in report["clips"].values() for buckets in splits.values() for count in buckets.values())
    if num_rejected:
        console.print(rejections(report["rejected"]))
    for geometry, splits in report["clips"].items():
        counts = "; ".join(f"{split}: " + ", ".join(f"{n} {bucket}" for bucket, n in buckets.items()) for split, buckets in splits.items())
        print(f"{options.out / geometry}: {counts}")
        if "val" not in splits:
            fix = "build with --val 1 into another folder, or train with --data.init_args.val_split=train"
            print(f"{options.out / geometry} has no clip in val, which `fit` validates on: {fix}")
    if report["enlarged"]:
        print(f"{report['enlarged']} clips have more pixels than their recordings; --limit min_height=N and min_width=N reject them")
    if report["upsampled"]:
        print(f"{report['upsampled']} clips have a higher sample rate than their recordings; --limit min_sample_rate=N rejects them")
    share = num_rejected / (num_clips + num_rejected)
    print(f"{counted(num_clips, 'clip')} accepted, {num_rejected} rejected ({share:.1%}); {options.out / REJECTED} names each")
    if share > options.max_rejected:
        print(f"more than --max-rejected {options.max_rejected:g} was rejected; the data set is complete and is kept")
        return 1
    next_steps.name("shards", "check", options.out)
    return 0


def stat(root: Path) -> int:
    """Prints a summary of a data set."""
    from baton_lightning.shards.stat import print_stat

    print_stat(root)
    return 0


def check(root: Path, previews: list[str] | None = None, config: Path | None = None) -> int:
    """Verifies every shard, prints the damaged clips and, if requested, decodes previews. The exit code is 1 if any is damaged.

    Args:
        root: Folder of the data set.
        previews: Number of clips and output folder; ``None`` = no previews.
        config: Experiment file of the encoding.
    """
    from tqdm import tqdm

    from baton_lightning.shards.check import check_set

    if previews is not None and not previews[0].isdigit():
        raise ValueError(f"shards check: --previews takes a number of clips and a folder, got {' '.join(previews)}")
    num_clips, problems = 0, []
    for home in homes(root):
        for count, found in tqdm(check_set(home), desc="check", unit="shard"):
            num_clips += count
            problems += found
    for problem in problems:
        print(problem)
    print(f"{counted(num_clips, 'clip')} checked, {counted(len(problems), 'problem')}")
    if previews is not None and config is not None:
        from functools import partial

        from baton_lightning.shards.previews import write_previews
        from baton_lightning.verbs.decoders import decoders_of

        for home in homes(root):
            decoders = partial(decoders_of, home, config)
            files = write_previews(home, int(previews[0]), Path(previews[1]) / ("" if home == root else home.name), decoders)
            done = f"{counted(len(files), 'clip')} decoded from cached latents to"
            print(f"{done} {files[0].parent}/" if files else f"{home}/ has no cached clips")
    for home in homes(root):
        next_steps.name_encoding(home)
    return 1 if problems else 0


def homes(root: Path) -> list[Path]:
    """Folders of the data sets in ``root``: ``root`` itself, or one folder per geometry if several were built."""
    from baton_lightning.shards.records import read_build

    report = read_build(root)["report"] or {"clips": {"": {}}}
    return [root / geometry for geometry in report["clips"]]
