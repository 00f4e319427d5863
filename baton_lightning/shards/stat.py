"""Statistics of a data set: clips, hours and tokens of each split and bucket, coverage, rejections, and histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning import atomic
from baton_lightning.clip import ClipSpec
from baton_lightning.names import printable
from baton_lightning.plain_files import require_no_link
from baton_lightning.shards.format import BUCKETS, CACHE, Shard, SplitIndex, read_root
from baton_lightning.shards.records import is_number, metadata_of, read_build
from baton_lightning.shards.stored_clip import clip_of

if TYPE_CHECKING:
    from rich.table import Table

PICTURE = "stat.png"
BINS = 12
PLAUSIBLE = 1e9
"""Values of a histogram that are larger are left out: they come from the metadata of clips, and nothing that is measured reaches them."""
COVERED = ("video", "audio", "speech", "speakers")

TITLES = {
    "seconds": "duration of the recordings, s",
    "fps": "frame rate of the recordings, 1/s",
    "loudness": "loudness of the clips, dBFS",
    "motion": "motion of the clips, grey levels a frame",
}
"""Histogram -> title. The values come from `k.json`, where `shards build` wrote them; other sets have none."""


@dataclass
class Facts:
    """Statistics of the clips' metadata.

    Args:
        num_clips: Number of readable clips.
        covered: Number of clips with ``video``, ``audio``, ``speech`` and ``speakers``.
        values: Histogram -> one value per clip.
    """

    num_clips: int = 0
    covered: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TITLES})

    def add(self, metadata: dict[str, Any], bucket: str) -> None:
        """Adds a clip.

        Args:
            metadata: Content of its ``k.json``.
            bucket: Bucket of its shard.
        """
        self.num_clips += 1
        has = {"video": bucket != "audio", "audio": bucket != "video"}
        has |= {name: bool(metadata.get(name)) for name in ("speech", "speakers")}
        self.covered.update(name for name in COVERED if has[name])
        known = metadata.get("source", {}) | metadata.get("measured", {})
        for name, values in self.values.items():
            if is_number(value := known.get(name)) and abs(value) < PLAUSIBLE:
                values.append(float(value))


def facts_of(root: Path, splits: dict[str, SplitIndex]) -> Facts:
    """Statistics from every clip's ``k.json``; damaged clips are ignored."""
    from tqdm import tqdm

    facts = Facts()
    with tqdm(total=sum(index.num_clips for index in splits.values()), desc=f"stat {root}", unit="clip", leave=False) as bar:
        for index in splits.values():
            for number, entry in enumerate(index.shards):
                shard = Shard.open(index.tar(number))
                for key in shard.members:
                    bar.update()
                    try:
                        facts.add(metadata_of(shard.read(key, "json"), key), entry.get("bucket", BUCKETS[0]))
                    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
                        continue
    return facts


def print_stat(root: Path) -> None:
    """Prints tables and histograms of a set, or of one set for each geometry, and draws the histograms to ``stat.png``.

    Raises:
        ValueError: If there is no finished data set.
    """
    from rich.console import Console

    report = read_build(root)["report"] or {"clips": {"": {}}, "rejected": {}}
    console = Console()
    for geometry in report["clips"]:
        home = root / geometry
        require_no_link(*([home] if geometry else []))
        splits = {split: SplitIndex.read(home / split) for split in read_root(home)["splits"]}
        facts = facts_of(home, splits)
        console.print(contents(home, splits))
        shares = ", ".join(f"{name} {facts.covered[name] / max(facts.num_clips, 1):.1%}" for name in COVERED)
        console.print(f"clips with {shares}", highlight=False)
        drawn = {name: histogram(values) for name, values in facts.values.items() if values}
        for name, (counts, edges) in drawn.items():
            console.print(bars(TITLES[name], counts, edges))
        if drawn:
            draw(home / PICTURE, drawn)
            console.print(f"histograms: {home / PICTURE}", highlight=False)
        cached = (home / CACHE).exists()
        print(f"cache: {'present' if cached else 'none'}")
    if report["rejected"]:
        console.print(rejections(report["rejected"]))


def contents(root: Path, splits: dict[str, SplitIndex]) -> Table:
    """Shards, clips, hours and tokens of every split and bucket."""
    from rich.box import SIMPLE_HEAD
    from rich.filesize import decimal
    from rich.table import Table

    if not splits:
        raise ValueError(f"{root}/index.json must list the splits of a data set, it lists none; build the data set again")
    clip = clip_of(next(iter(splits.values())).clip)
    table = Table(
        title=f"{root}: {clip.seconds:g} s at {clip.fps:g} fps, {clip.width} x {clip.height}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in ("split", "bucket", "shards", "clips", "hours", "video tokens", "audio latents", "planned tokens", "size"):
        table.add_column(column, justify="left" if column in ("split", "bucket") else "right")
    for split, index in splits.items():
        for bucket in BUCKETS:
            shards = [entry for entry in index.shards if entry.get("bucket", BUCKETS[0]) == bucket]
            if shards:
                count = sum(entry["num_clips"] for entry in shards)
                size = decimal(sum(entry["num_bytes"] for entry in shards))
                tokens = [short(count * n) for n in tokens_of(clip, bucket)]
                table.add_row(split, bucket, str(len(shards)), str(count), f"{count * clip.seconds / 3600:.3g}", *tokens, size)
    return table


def short(number: int) -> str:
    """A count with three digits and a unit, e.g. 896k or 22.5G."""
    from rich.filesize import pick_unit_and_suffix

    unit, suffix = pick_unit_and_suffix(number, ["", "k", "M", "G", "T"], 1000)
    return f"{number / unit:.3g}{suffix}"


def tokens_of(clip: ClipSpec, bucket: str) -> tuple[int, int, int]:
    """Video tokens, audio latents and planned tokens of a clip in a bucket."""
    seen, heard = bucket != "audio", bucket != "video"
    return clip.num_video_tokens * seen, clip.num_audio_latents * heard, clip.num_video_planned * seen + clip.num_audio_planned * heard


def rejections(reasons: dict[str, int]) -> Table:
    """Number of rejected recordings or clips, by reason."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="rejected")
    table.add_column("reason")
    table.add_column("count", justify="right")
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(escape(printable(reason)), str(count))
    return table


Histogram = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Counts [N] and edges [N + 1]."""


def histogram(values: Sequence[float]) -> Histogram:
    """Counts of the values in bins of equal width over their range."""
    low, high = min(values), max(values)
    return np.histogram(values, BINS, (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5))


def bars(title: str, counts: NDArray[np.int64], edges: NDArray[np.float64]) -> Table:
    """A histogram for the terminal."""
    from rich.table import Table

    table = Table(title=title, box=None, show_header=False, title_justify="left")
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        table.add_row(f"{low:8.2f} .. {high:8.2f}", "█" * -(-40 * int(count) // max(int(counts.max()), 1)), str(count))
    return table


def draw(file: Path, histograms: dict[str, Histogram]) -> None:
    """Draws histograms side by side and saves them as PNG."""
    from PIL import Image, ImageDraw

    width, height, margin = 360, 240, 36
    picture = Image.new("RGB", (width * len(histograms), height), "white")
    pen = ImageDraw.Draw(picture)
    for column, (name, (counts, edges)) in enumerate(histograms.items()):
        left, right, floor = column * width + margin, (column + 1) * width - margin, height - margin
        step = (right - left) / len(counts)
        pen.text((left, 8), f"{TITLES[name]} (n = {int(counts.sum())})", fill="black")
        for i, count in enumerate(counts):
            top = floor - round((floor - margin) * int(count) / max(int(counts.max()), 1))
            pen.rectangle((left + i * step + 1, top, left + (i + 1) * step - 1, floor), fill=(70, 110, 170))
        pen.line((left, floor, right, floor), fill="black")
        pen.text((left, floor + 6), f"{edges[0]:.4g}", fill="black")
        pen.text((right, floor + 6), f"{edges[-1]:.4g}", fill="black", anchor="ra")
        pen.text((left - 4, margin), str(int(counts.max())), fill="black", anchor="ra")
    with atomic.aside(file) as part:
        picture.save(part, "PNG")
