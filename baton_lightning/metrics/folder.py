"""`metrics`: published metrics over a folder of clips of any model.

The prompts of every ``k.mp4`` are in ``k.json`` beside it, as ``generate`` writes them, or in ``--prompts FILE``, of Verse-Bench,
AVGen-Bench or JavisBench, or ``{"k": {"video_prompt": ..., "audio_prompt": ..., "speech": [{"speaker": ..., "text": ...}]}}``. Each
metric uses a network from the hub or a local directory. A metric that cannot be computed is listed with the reason. Measurements are
cached in ``FOLDER/metrics/``, one JSON file per clip and network; a clip is measured again if it, its prompts or the network changed.

``--backends FILE`` selects other backends, e.g. transcripts and answers in files beside the clips:

    wer: {class_path: baton_lightning.metrics.transcripts.Whisper, init_args: {name_or_path: weights/whisper-base.en}}
    cpwer: {class_path: baton_lightning.metrics.backend.Recorded, init_args: {kind: transcript}}
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from baton_lightning import atomic
from baton_lightning.arguments import Parser

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from baton_lightning.metrics.backend import Backend
    from baton_lightning.metrics.clips import Clip
    from baton_lightning.metrics.result import Better, ClipMetric, Result


class MetricSpec(NamedTuple):
    """Default configuration of a metric.

    Args:
        text: Description for ``--help``.
        metric: Module and class; or name, field and direction of a mean over clips.
        backend: Module and class of the default backend.
        settings: Arguments of the backend.
    """

    text: str
    metric: str | tuple[str, str, Better]
    backend: str
    settings: dict[str, Any] = {}  # noqa: RUF012 (never changed)


METRICS = {
    "wer": MetricSpec("word error rate", "wer.WordErrorRate", "transcripts.Whisper"),
    "cpwer": MetricSpec("M-WER: per speaker, best assignment (cpWER)", "cpwer.CpWordErrorRate", "transcripts.MossDiariser"),
    "attributed": MetricSpec("M-WER per named speaker", "cpwer.AttributedWordErrorRate", "backend.Recorded", {"kind": "transcript"}),
    "clap": MetricSpec("similarity of sound and audio prompt", ("CLAP", "similarity", "up"), "clap.Clap"),
    "fd": MetricSpec("Frechet distance of sounds, needs --references", "frechet.FrechetDistance", "audio_tags.AudioTags"),
    "kl": MetricSpec("KL divergence of audio tags, needs --references", "kl.PairedKL", "audio_tags.AudioTags"),
    "id": MetricSpec("similarity of frames and reference image k.png", ("ID", "similarity", "up"), "identity.Dinov3Identity"),
    "dd": MetricSpec("amount of motion", ("DD", "magnitude", "up"), "dynamics.Raft"),
    "desync": MetricSpec("offset of picture and sound, in s", "desync.MeanOffset", "synchformer.Synchformer"),
    "sync-c": MetricSpec("lip synchronisation: confidence", ("Sync-C", "confidence", "up"), "syncnet.SyncNet"),
    "sync-d": MetricSpec("lip synchronisation: distance", ("Sync-D", "distance", "down"), "syncnet.SyncNet"),
    "aq": MetricSpec("aesthetic quality of frames", ("AQ", "aesthetic", "up"), "picture_quality.AestheticPredictor"),
    "iq": MetricSpec("technical quality of frames", ("IQ", "quality", "up"), "picture_quality.Musiq"),
    "pq": MetricSpec("production quality of the sound", ("PQ", "PQ", "up"), "audiobox.AudioBox"),
    "cu": MetricSpec("content usefulness of the sound", ("CU", "CU", "up"), "audiobox.AudioBox"),
    "p-acc": MetricSpec("accuracy of answers to k.checklist.json", "checklist.PromptAccuracy", "backend.Recorded", {"kind": "answers"}),
}


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m baton_lightning metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "\n".join(f"  {name:<11} {spec.text}" for name, spec in METRICS.items())
    made.epilog = f"metrics:\n{names}"
    made.add_argument("folder", type=Path, help="folder with k.mp4")
    made.add_argument(
        "--metrics", nargs="+", choices=METRICS, default=list(METRICS), metavar="NAME", help="metrics to compute (default: all)"
    )
    made.add_argument("--prompts", type=Path, help="JSON with prompts, for clips without k.json")
    made.add_argument("--references", type=Path, help="folder with reference clips of the same names, for fd and kl")
    made.add_argument("--backends", type=Path, help="YAML: metric -> class_path and init_args of its backend")
    made.add_argument("--json", type=Path, help="output file (default: FOLDER/metrics.json)")
    return made


def import_class(path: str, where: str) -> Any:
    """Imports a class by its path.

    Raises:
        ValueError: If it does not exist.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: class_path must name a class that can be imported, got {path!r} ({error})") from error


def create_backend(name: str, settings: Mapping[str, Any], made: dict[str, Backend]) -> Backend:
    """The backend of a metric; metrics with equal backends share one object.

    Args:
        name: Name of the metric.
        settings: ``class_path`` and ``init_args`` by metric; metrics without an entry have their default backend.
        made: Backends created so far; a new one is added.

    Raises:
        ValueError: If the class does not exist, or does not accept the settings.
    """
    spec = METRICS[name]
    chosen_backend = settings.get(name, {"class_path": f"baton_lightning.metrics.{spec.backend}", "init_args": spec.settings})
    if not isinstance(chosen_backend, dict) or "class_path" not in chosen_backend:
        raise ValueError(f"backends: {name} must be {{class_path: ..., init_args: ...}}, got {chosen_backend!r}")
    key = json.dumps(chosen_backend, sort_keys=True)
    if key not in made:
        try:
            made[key] = import_class(chosen_backend["class_path"], f"backends: {name}")(**chosen_backend.get("init_args", {}))
        except TypeError as error:
            raise ValueError(f"backends: {name} does not take these init_args: {error}") from error
    return made[key]


def score(name: str, clips: Sequence[Clip], backend: Backend, cache_folder: Path, num_absent: int = 0) -> Result:
    """One metric over all clips.

    Args:
        name: Name of the metric.
        clips: Clips of one folder.
        backend: Measures the clips.
        cache_folder: Folder of cached measurements.
        num_absent: Number of prompts without a clip, which is reported with the excluded clips.

    Raises:
        ValueError: If a package or weights are missing, or no clip could be measured.
    """
    from rich.progress import track

    from baton_lightning.metrics.backend import cached_measurement
    from baton_lightning.metrics.clips import ClipExcluded
    from baton_lightning.metrics.result import ClipMean

    what = METRICS[name].metric
    metric_class = ClipMean if isinstance(what, tuple) else import_class(f"baton_lightning.metrics.{what}", name)
    metric: ClipMetric | None = None
    left_out: Counter[str] = Counter({"prompts have no clip": num_absent} if num_absent else {})
    for clip in track(clips, description=name):
        try:
            metric_class.check_clip(clip)
            measured = cached_measurement(backend, clip, cache_folder)
            if metric is None and isinstance(what, tuple):
                metric = ClipMean(*what, measured_by=backend.protocol)
            elif metric is None:
                metric = metric_class.from_measured(measured, backend.protocol)
            metric.add(clip, measured)
        except ClipExcluded as reason:
            left_out[str(reason)] += 1
    if metric is None or not metric.n:
        raise ValueError("no clip could be measured: " + "; ".join(f"{reason} ({n})" for reason, n in left_out.items()))
    return metric.result(left_out)


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)

    from baton_lightning.metrics.clips import read_folder
    from baton_lightning.metrics.prompt_files import read_prompts
    from baton_lightning.plain_files import require_no_link, require_own_files

    settings = read_settings(options.backends) if options.backends else {}
    prompts = read_prompts(options.prompts) if options.prompts else None
    require_no_link(options.folder / "metrics", options.folder / "metrics.json")
    require_own_files(options.folder / "metrics")
    clips = read_folder(options.folder, prompts, options.references)
    absent = sorted((prompts or {}).keys() - {clip.key for clip in clips})
    made: dict[str, Backend] = {}
    results, missing = {}, {}
    for name in dict.fromkeys(options.metrics):
        backend = create_backend(name, settings, made)
        try:
            results[name] = score(name, clips, backend, options.folder / "metrics", len(absent))
        except ValueError as error:
            missing[name] = " ".join(str(error).split())
    file = options.json or options.folder / "metrics.json"
    measured = {name: result.to_dict() for name, result in results.items()}
    report = {"clips": len(clips), "prompts_without_clip": absent, "metrics": measured, "missing": missing}
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, json.dumps(report, indent=1, ensure_ascii=False))
    show(results, missing, len(clips))
    if absent:
        few = ", ".join(absent[:4]) + (", ..." if absent[4:] else "")
        print(f"{len(absent)} of {len(prompts or {})} prompts have no clip ({few}); the metrics cover only the others")
    print(f"wrote {file}")
    return 0 if results else 1


def read_settings(file: Path) -> dict[str, Any]:
    """Reads backends by metric.

    Raises:
        ValueError: If the file cannot be read, or has another content.
    """
    import yaml

    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"backends must be a YAML file, got {file}, which cannot be read ({error})") from error
    if not isinstance(settings, dict) or (unknown := settings.keys() - METRICS.keys()):
        got = sorted(map(str, unknown)) if isinstance(settings, dict) else settings
        raise ValueError(f"{file} must map metrics ({', '.join(METRICS)}) to class_path and init_args, got {got}")
    return settings


def show(results: Mapping[str, Result], missing: Mapping[str, str], num_clips: int) -> None:
    """Prints a table of the results and a list of the metrics that could not be computed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{num_clips} clips")
    for column in ("metric", "value", "better", "n", "beside it", "protocol"):
        table.add_column(column, justify="right" if column in ("value", "n") else "left")
    for result in results.values():
        value = "-" if result.value is None else f"{result.value:.4g}"
        beside = [f"{name} {'-' if number is None else f'{number:.4g}'}" for name, number in result.also.items()]
        beside += [f"left out {n}: {reason}" for reason, n in result.left_out.items()]
        table.add_row(result.metric, value, result.better, str(result.n), "\n".join(beside), result.protocol)
    if results:
        Console().print(table)
    for name, reason in missing.items():
        print(f"missing {name}: {reason}")
