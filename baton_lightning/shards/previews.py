"""Clips as training sees them: cached latents, decoded to mp4 by the codecs that made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from baton_lightning.shards.format import BUCKETS, CACHE, Shard, SplitIndex, cache_suffix, clip_of, read_root


def write_previews(root: Path, count: int, folder: Path, config: Path) -> list[Path]:
    """Decodes cached latents of a few clips of every split, evenly over its shards.

    Args:
        root: Folder of the set.
        count: Clips of each split and bucket.
        folder: Where the mp4s go.
        config: Experiment that cached the latents; its codecs decode them.

    Returns:
        The files; a clip without picture or sound has none in its file either.

    Raises:
        ValueError: If there is no cache, or the codecs are not those that made it.
    """
    import torch
    from safetensors.torch import load as load_tensors

    from baton_lightning.media import write_mp4

    if count < 1:
        raise ValueError(f"shards check: --previews must count at least one clip, got {count}")
    splits = {name: SplitIndex.read(root / name) for name in read_root(root)["splits"]}
    if not (root / CACHE).exists():
        raise ValueError(f"shards check: {root}/ has no cache to show; make it with `python -m baton_lightning predict -c {config}`")
    cache: dict[str, Any] = json.loads((root / CACHE).read_text())
    clip = clip_of(cache["clip"])
    codecs = codecs_of(root, config, cache)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for split, index in splits.items():
        for number, key, bucket in evenly(index, count, set(cache["damaged"])):
            shard = Shard.open(index.tar(number, "latents"))
            latents = {name: t.float()[None] for name, t in load_tensors(shard.read(key, cache_suffix("latents"))).items()}
            with torch.no_grad():
                frames = None if bucket == "audio" else codecs["video"].decode(latents["video"])[0].cpu().numpy()
                sound = None if bucket == "video" else codecs["audio"].decode(latents["audio"], clip.num_samples)[0].cpu().numpy()
            files.append(folder / f"{split}-{key.replace('/', '_')}.mp4")
            write_mp4(files[-1], frames, clip.fps, sound, clip.sample_rate, pix_fmt="yuv420p")
    return files


def evenly(index: SplitIndex, count: int, damaged: set[str]) -> list[tuple[int, str, str]]:
    """Shard number, key and bucket of clips that lie evenly over a split, ``count`` of each bucket."""
    chosen = []
    for bucket in BUCKETS:
        numbers = [n for n, entry in enumerate(index.shards) if entry.get("bucket", BUCKETS[0]) == bucket]
        places = [(n, key, bucket) for n in numbers for key in Shard.open(index.tar(n)).members if key not in damaged]
        chosen += [places[len(places) * i // count] for i in range(min(count, len(places)))] if len(places) > count else places
    return chosen


def codecs_of(root: Path, config: Path, cache: dict[str, Any]) -> dict[str, Any]:
    """Video and audio codec of an experiment, if they made the cache.

    Raises:
        ValueError: If they are others.
    """
    from baton_lightning.cli import BatonCLI, WrongArguments
    from baton_lightning.config import expand
    from baton_lightning.stages.encode import describe

    class Blueprint(BatonCLI):
        """No trainer: only networks are wanted."""

        def add_arguments_to_parser(self, parser: Any) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--return_predictions", type=bool | None, default=None)  # an experiment of `predict` has it

        def instantiate_trainer(self, **kwargs: Any) -> None:
            return None

    words = ["-c", str(config), f"--data.init_args.root={root}", "--trainer.callbacks=null", "--trainer.logger=false"]
    words += [f"--clip.{name}={json.dumps(value)}" for name, value in cache["clip"].items() if value is not None]
    try:
        model = Blueprint(expand(words), run=False).model
    except WrongArguments as error:
        raise ValueError(str(error)) from error
    if not hasattr(model, "makers"):
        raise ValueError(f"shards check: {config} must be the experiment that caches (Encode), got {type(model).__name__}")
    codecs = {}
    for name in ("video", "audio"):
        network = model.makers[f"{name}_codec"]().requires_grad_(False).eval()
        got, known = describe(network), cache["networks"][f"{name}_codec"]
        if got["sha256"] != known["sha256"]:
            raise ValueError(f"shards check: the {name} codec of {config} ({got['class']}) is not the one that made the cache "
                             f"({known['class']}), or has other weights or settings; give the experiment that cached with -c")  # fmt: skip
        codecs[name] = network
    return codecs
