"""Validation of the benchmark world: scores of clips with known errors after an mp4, and confusions of the detectors on damaged clips.

Ground truth must score 1, and every control must lose the score of the property that it lacks. The test clips of every tier, at two
geometries, are scored unchanged, after the codecs, and with one known error each. The JSON file holds all figures; the Markdown page
depends only on it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from baton_lightning.clip import ClipSpec

GEOMETRIES = {
    "nano": ClipSpec(),
    "toy": ClipSpec(seconds=5, height=48, width=48, video_channels=48),
}
CODEC_CLIPS = 32
"""Number of training clips of each tier to which a patch codec is fitted."""


@dataclass(frozen=True)
class Job:
    """One clip of the test set, and the clip of the next prompt, which controls use.

    Args:
        geometry: Key of :data:`GEOMETRIES`.
        tier: Tier of the scene.
        index: Number of the clip.
        count: Number of clips of the tier; the first clip follows the last one.
        codec: File of the patch codec.
        damaged: Whether the detectors are also tested on damaged versions of the clip.
    """

    geometry: str
    tier: str
    index: int
    count: int
    codec: Path
    damaged: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the benchmark."""
    parser.add_argument("--json", type=Path, default=Path("world.json"), help="output file of all figures, JSON (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, help="output file of the tables, Markdown")
    parser.add_argument("--clips", type=int, default=50, help="test clips of each tier and geometry (default: %(default)s)")
    parser.add_argument("--geometry", nargs="+", choices=list(GEOMETRIES), default=list(GEOMETRIES), help="default: all")
    parser.add_argument("--workers", type=int, default=2, help="worker processes; 0: none (default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    """Runs the benchmark, writes the JSON file and the Markdown page, and prints the tables."""
    from baton_lightning.bench.world_page import markdown

    if options.clips < 2:
        raise ValueError(f"bench world: --clips must be at least 2, because one control is another prompt's clip, got {options.clips}")
    result = measure(options.geometry, options.clips, options.workers)
    geometries = "" if options.geometry == list(GEOMETRIES) else f" --geometry {' '.join(options.geometry)}"
    result["command"] = (
        f"python -m baton_lightning bench world --clips {options.clips}{geometries} --json docs/world.json --markdown docs/world.md"
    )
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 0


def measure(geometries: list[str], count: int, workers: int) -> dict[str, Any]:
    """Scores of every control, and confusions of the detectors under every damage.

    Args:
        geometries: Keys of :data:`GEOMETRIES`.
        count: Number of test clips of each tier.
        workers: Number of worker processes; 0 = this process.

    Returns:
        ``{"clips", "scores": {geometry: {tier: {control: aggregate}}}, "confusion": {geometry: {"seen" | "heard": {damage: {true:
        {found: count}}}}}}``.
    """
    from tqdm import tqdm

    from baton_lightning.shards.workers import run_jobs
    from baton_lightning.world.scene import TIERS
    from baton_lightning.world.scores import aggregate

    scores: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    confusion: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(Counter)))
    with TemporaryDirectory() as folder:
        codecs = {name: fit_codec(name, Path(folder)) for name in geometries}
        jobs = [(Job(g, tier, i, count, codecs[g], i < count // 2),) for g in geometries for tier in TIERS for i in range(count)]
        for job, rows, damaged in tqdm(run_jobs(work, jobs, workers), total=len(jobs), desc="bench world", unit="clip", mininterval=5):
            for control, found in rows:
                scores[job.geometry][job.tier][control].append((job.index, found))
            for (sense, damage), counts in damaged.items():
                confusion[job.geometry][sense][damage] += counts
    in_order = {
        g: {
            tier: {c: aggregate([s for _, s in sorted(found, key=lambda pair: pair[0])]) for c, found in rows.items()}
            for tier, rows in tiers.items()
        }
        for g, tiers in scores.items()
    }
    return {
        "clips": count,
        "scores": in_order,
        "confusion": {g: {s: {d: table(c) for d, c in ds.items()} for s, ds in senses.items()} for g, senses in confusion.items()},
    }


def table(counts: Counter) -> dict[str, dict[str, int]]:
    """Counts by true class, then by detected class."""
    rows: dict[str, dict[str, int]] = {}
    for (true, found), count in sorted(counts.items()):
        rows.setdefault(true, {})[found] = count
    return rows


def fit_codec(geometry: str, folder: Path) -> Path:
    """Fits the patch codec of a geometry to training clips of all tiers."""
    from baton_lightning.world.clips import make_clip
    from baton_lightning.world.codecs import PatchPCA
    from baton_lightning.world.scene import TIERS

    clip = GEOMETRIES[geometry]
    frames = (make_clip(0, i, tier, clip).frames for tier in TIERS for i in range(CODEC_CLIPS))
    file = folder / f"{geometry}.safetensors"
    PatchPCA.fit(frames, channels=clip.video_channels).save(file)
    return file


def work(job: Job) -> tuple[Job, list, dict]:
    """Scores of one clip's controls after an mp4, and confusions of its damaged versions."""
    import numpy as np

    from baton_lightning.media import mp4_bytes, read_mp4
    from baton_lightning.world.clips import make_clip
    from baton_lightning.world.confusion import PICTURE, SOUND, audio_confusion, video_confusion
    from baton_lightning.world.controls import controls
    from baton_lightning.world.scores import score

    clip = GEOMETRIES[job.geometry]
    made, other = (make_clip(0, k % job.count, job.tier, clip, "test") for k in (job.index, job.index + 1))
    shown = [*controls(made, other, clip, job.index), ("codec ceiling", through_codecs(job.codec, made.frames, made.waveform, clip))]
    rows = []
    for name, (frames, waveform) in shown:
        media = read_mp4(mp4_bytes(frames, clip.fps, waveform, clip.sample_rate))
        rows.append((name, score(made.scene, media.frames, media.waveform, media.fps, media.sample_rate)))
    confusions = {}
    if job.damaged:
        rng = np.random.default_rng(job.index)
        for damage, change in PICTURE.items():
            confusions["seen", damage] = video_confusion(made.scene, change(made.frames, rng), clip.fps)
        for damage, change in SOUND.items():
            confusions["heard", damage] = audio_confusion(made.scene, change(made.waveform, rng), clip.sample_rate)
    return job, rows, confusions


def through_codecs(file: Path, frames: Any, waveform: Any, clip: ClipSpec) -> tuple[Any, Any]:
    """A clip after encoding and decoding by the codecs."""
    import torch

    from baton_lightning.world.codecs import ToneBank

    picture, sound = patch_codec(str(file)), ToneBank(clip.sample_rate, clip.audio_latent_rate)
    heard = sound.decode(sound.encode(torch.as_tensor(waveform)[None]), clip.num_samples)[0].numpy()
    return picture.decode(picture.encode(torch.as_tensor(frames)[None]))[0].numpy(), heard


@cache
def patch_codec(file: str) -> Any:
    """A fitted patch codec, which is read once per process."""
    from baton_lightning.world.codecs import PatchPCA

    return PatchPCA(file)
