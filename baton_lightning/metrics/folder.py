"""`metrics`: published metrics over a folder of clips, anybody's model.

Every ``k.mp4`` has its prompts in ``k.json`` beside it, as ``generate`` leaves them, or in ``--prompts FILE`` (Verse-Bench's own
JSON, or ``{"k": {"video_prompt": ..., "audio_prompt": ..., "speech": [{"speaker": ..., "text": ...}]}}``). Each metric stands on a
network that is found by name on the hub or in a local directory; one that cannot run is listed with what it lacks. What was
measured is kept in ``FOLDER/metrics/``, one JSON a clip and network, and measured again only if clip, prompts or network changed.

``--backends FILE`` says what measures instead, e.g. transcripts and answers that lie beside the clips:

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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from baton_lightning.metrics.backend import Backend
    from baton_lightning.metrics.clips import Clip
    from baton_lightning.metrics.result import ClipMetric, Result


class Choice(NamedTuple):
    """A metric by name.

    Args:
        text: What it says.
        metric: Module and class, or name, field and direction of a mean over clips.
        backend: Module and class of what measures, unless a file says otherwise.
        settings: Of the backend.
    """

    text: str
    metric: str | tuple[str, str, str]
    backend: str
    settings: dict[str, Any] = {}  # noqa: RUF012 (never changed)


CHOICES = {
    "wer": Choice("words said wrong", "wer.WordErrorRate", "transcripts.Whisper"),
    "cpwer": Choice("M-WER: the same, a speaker at a time, best assignment", "cpwer.CpWordErrorRate", "transcripts.MossDiariser"),
    "attributed": Choice("M-WER where the speaker counts", "cpwer.AttributedWordErrorRate", "backend.Recorded", {"kind": "transcript"}),
    "clap": Choice("sound fits the audio prompt", ("CLAP", "similarity", "up"), "clap.Clap"),
    "fd": Choice("Frechet distance of sounds from --references", "frechet.FrechetDistance", "audio_tags.AudioTags"),
    "kl": Choice("what a tagger hears, against --references", "kl.PairedKL", "audio_tags.AudioTags"),
    "id": Choice("frames show the reference image k.png", ("ID", "similarity", "up"), "identity.Dinov3Identity"),
    "dd": Choice("how much moves", ("DD", "magnitude", "up"), "dynamics.Raft"),
    "desync": Choice("seconds between picture and sound", "desync.MeanOffset", "synchformer.Synchformer"),
    "sync-c": Choice("lips fit the voice: confidence", ("Sync-C", "confidence", "up"), "syncnet.SyncNet"),
    "sync-d": Choice("lips fit the voice: distance", ("Sync-D", "distance", "down"), "syncnet.SyncNet"),
    "aq": Choice("beauty of frames", ("AQ", "aesthetic", "up"), "picture_quality.AestheticPredictor"),
    "iq": Choice("cleanness of frames", ("IQ", "quality", "up"), "picture_quality.Musiq"),
    "pq": Choice("production quality of the sound", ("PQ", "PQ", "up"), "audiobox.AudioBox"),
    "cu": Choice("usefulness of the sound", ("CU", "CU", "up"), "audiobox.AudioBox"),
    "p-acc": Choice("answers to k.checklist.json", "checklist.PromptAccuracy", "backend.Recorded", {"kind": "answers"}),
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m baton_lightning metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = "\n".join(f"  {name:<11} {choice.text}" for name, choice in CHOICES.items())
    made.epilog = f"metrics:\n{names}"
    made.add_argument("folder", type=Path, help="folder with k.mp4")
    made.add_argument("--metrics", nargs="+", choices=CHOICES, default=list(CHOICES), metavar="NAME", help="which (default: all)")
    made.add_argument("--prompts", type=Path, help="JSON with the prompts, for clips without k.json")
    made.add_argument("--references", type=Path, help="folder with the true clips under the same names, for fd and kl")
    made.add_argument("--backends", type=Path, help="YAML: metric -> class_path and init_args of what measures it")
    made.add_argument("--json", type=Path, help="where the result goes (default: FOLDER/metrics.json)")
    return made


def imported(path: str, where: str) -> Any:
    """A class by its path.

    Raises:
        ValueError: If there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: class_path must name a class that can be imported, got {path!r} ({error})") from error


def backend_of(name: str, settings: Mapping[str, Any], made: dict[str, Backend]) -> Backend:
    """What measures a metric; metrics with the same one share it.

    Args:
        name: The metric.
        settings: ``class_path`` and ``init_args`` by metric, where they are not the default.
        made: Backends that were made before; gains this one.

    Raises:
        ValueError: If there is no such class, or it takes other settings.
    """
    choice = CHOICES[name]
    chosen = settings.get(name, {"class_path": f"baton_lightning.metrics.{choice.backend}", "init_args": choice.settings})
    if not isinstance(chosen, dict) or "class_path" not in chosen:
        raise ValueError(f"backends: {name} must be {{class_path: ..., init_args: ...}}, got {chosen!r}")
    key = json.dumps(chosen, sort_keys=True)
    if key not in made:
        try:
            made[key] = imported(chosen["class_path"], f"backends: {name}")(**chosen.get("init_args", {}))
        except TypeError as error:
            raise ValueError(f"backends: {name} does not take these init_args: {error}") from error
    return made[key]


def score(name: str, clips: Sequence[Clip], backend: Backend, keep: Path, num_absent: int = 0) -> Result:
    """One metric over all clips.

    Args:
        name: The metric.
        clips: Of one folder.
        backend: What measures them.
        keep: Where values are kept.
        num_absent: Prompts without a clip; they are left out by name.

    Raises:
        ValueError: If something is missing, or no clip could be measured.
    """
    from rich.progress import track

    from baton_lightning.metrics.backend import kept
    from baton_lightning.metrics.clips import LeftOut
    from baton_lightning.metrics.result import ClipMean

    what = CHOICES[name].metric
    kind = ClipMean if isinstance(what, tuple) else imported(f"baton_lightning.metrics.{what}", name)
    metric: ClipMetric | None = None
    left_out: Counter[str] = Counter({"prompts have no clip": num_absent} if num_absent else {})
    for clip in track(clips, description=name):
        try:
            kind.require(clip)
            measured = kept(backend, clip, keep)
            if metric is None:
                metric = ClipMean(*what, measured_by=backend.protocol) if isinstance(what, tuple) else kind.over(measured, backend.protocol)
            metric.add(clip, measured)
        except LeftOut as reason:
            left_out[str(reason)] += 1
    if metric is None or not metric.n:
        raise ValueError("no clip could be measured: " + "; ".join(f"{reason} ({n})" for reason, n in left_out.items()))
    return metric.result(left_out)


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)

    from baton_lightning.metrics.clips import read_folder
    from baton_lightning.metrics.prompt_files import read_prompts

    settings = read_settings(options.backends) if options.backends else {}
    prompts = read_prompts(options.prompts) if options.prompts else None
    clips = read_folder(options.folder, prompts, options.references)
    absent = sorted((prompts or {}).keys() - {clip.key for clip in clips})
    made: dict[str, Backend] = {}
    results, missing = {}, {}
    for name in dict.fromkeys(options.metrics):
        backend = backend_of(name, settings, made)
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
        print(f"{len(absent)} of {len(prompts or {})} prompts have no clip ({few}); what is measured stands for the others alone")
    print(f"wrote {file}")
    return 0 if results else 1


def read_settings(file: Path) -> dict[str, Any]:
    """Backends by metric.

    Raises:
        ValueError: If the file is something else.
    """
    import yaml

    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"backends must be a YAML file, got {file}, which cannot be read ({error})") from error
    if not isinstance(settings, dict) or (strange := settings.keys() - CHOICES.keys()):
        got = sorted(map(str, strange)) if isinstance(settings, dict) else settings
        raise ValueError(f"{file} must map metrics ({', '.join(CHOICES)}) to class_path and init_args, got {got}")
    return settings


def show(results: Mapping[str, Result], missing: Mapping[str, str], num_clips: int) -> None:
    """Prints a table of what was measured and a list of what was not."""
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
