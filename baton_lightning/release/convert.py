"""`convert`: converts a released checkpoint to a parent for a stage. Nothing is written unless all tensors match the configuration."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import atomic
from baton_lightning.arguments import Parser

if TYPE_CHECKING:
    from torch import Tensor


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m baton_lightning convert", description=__doc__)
    sources = made.add_subparsers(dest="source", required=True)
    ovi = sources.add_parser(
        "ovi",
        help="Ovi's transformer (2073 tensors as released)",
        description="Writes OUT/dit/ (safetensors with an index, config.json), a model card and a manifest. Start a stage from it with "
        "`model.init_args.parents: {dit: OUT}`; plan layers, which Ovi does not have, start fresh. `export --format ovi` is the way back.",
    )
    ovi.add_argument("--config", type=Path, nargs="+", required=True, help="JSON with sections `video` and `audio`, or one file a branch")
    ovi.add_argument("--weights", type=Path, required=True, help="safetensors file, folder of safetensors files, or .pth")
    ovi.add_argument("--out", type=Path, required=True, help="folder to write")
    ovi.add_argument("--shard-size", type=float, default=5.0, help="largest file, in GB (default: %(default)s)")
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    from rich.console import Console
    from safetensors import SafetensorError

    from baton_lightning.models.ovi import BRANCHES, PLAN_KEYS
    from baton_lightning.release.model_card import model_card
    from baton_lightning.runs import manifest, weights

    config = read_config(options.config)
    tensors = read_tensors(options.weights)
    beyond = require_fit(config, tensors, options.weights)
    source = source_digest(options.weights)
    if options.out.exists():
        existing = manifest.read(options.out) if (options.out / manifest.NAME).exists() else {}
        if existing.get("source_sha256") == source:
            manifest.require(options.out)
            print(f"{options.out}/ holds this conversion already; nothing to do")
            return 0
        raise ValueError(f"convert: {options.out}/ exists and is not a conversion of these weights; give another --out, or delete it")
    part = options.out.with_name(options.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        num_bytes = weights.write(part / "dit", tensors, options.shard_size)
        facts = {"tensors": len(tensors), "parameters": sum(t.numel() for t in tensors.values()), "bytes": num_bytes}
        described = {"class_path": "baton_lightning.models.fused_branches.FusedBranches", "ovi": {k: config[k] for k in BRANCHES}}
        (part / "dit" / "config.json").write_text(json.dumps(described, indent=1))
        provenance = {"converted from": options.weights, "sha256 of the source": source, "git commit": manifest.git_commit()}
        use = f"model.init_args.parents: {{dit: {options.out}}}"
        card = model_card("Ovi's transformer, converted", {"dit": facts}, provenance, use, ["Ovi", "MMAudio", "Wan2.2 VAE"])
        (part / "README.md").write_text(card)
        text = json.dumps(
            {
                "stage": "Ovi",
                "clip": geometry(config),
                "lacks": PLAN_KEYS,
                "beyond_shapes": {"dit": beyond},
                "parents": {},
                "weights_sha256": weights.digest(part),
                "source_sha256": source,
                "git_commit": manifest.git_commit(),
                "components": {"dit": facts},
            },
            indent=1,
        )
        atomic.write_text(part / manifest.NAME, text)
        part.rename(options.out)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"convert: {options.out}/ could not be written ({error}); nothing is left behind") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    Console().print(f"{facts['tensors']:,} tensors, {facts['parameters']:,} parameters, all accounted for: [bold]{options.out}/[/bold]")
    print(f"start from it with `{use}`; plan attention and Latent-MLPs start fresh")
    return 0


def read_config(paths: list[Path]) -> dict[str, Any]:
    """Settings of both branches.

    Args:
        paths: One JSON file with both branches, or one file per branch.

    Raises:
        ValueError: If a file is missing or is not JSON, or a branch is missing.
    """
    config: dict[str, Any] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"convert: --config {path} must be a JSON file ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"convert: --config {path} must hold an object, got {type(content).__name__}")
        if "patch_size" in content:  # a file of one branch; patches of video have three axes
            content = {"audio" if content["patch_size"] == [1] else "video": content}
        config |= content
    if missing := [name for name in ("video", "audio") if not isinstance(config.get(name), dict)]:
        raise ValueError(f"convert: --config must describe both branches, `{'` and `'.join(missing)}` is missing; give both files")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint. A pickle is loaded with ``weights_only=True``.

    Args:
        path: A safetensors file, a folder of them, or a .pth file.

    Raises:
        ValueError: If there is no such file, or it cannot be read.
    """
    import torch
    from safetensors.torch import load_file

    parts = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not parts or not all(part.is_file() for part in parts):
        raise ValueError(f"convert: --weights {path} must be a safetensors file, a folder of them or a .pth; found nothing")
    try:
        if parts[0].suffix == ".safetensors":
            shards = {part: load_file(part) for part in parts}
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"convert: {path} cannot be read as weights ({' '.join(str(error).split())[:120] or 'it is cut off'})") from error
    if parts[0].suffix == ".safetensors":
        return joined(shards)
    loaded = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()):
        raise ValueError(f"convert: {path} must hold a dictionary of tensors by name, but does not")
    return loaded


def joined(shards: dict[Path, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Merges the tensors of several files.

    Raises:
        ValueError: If two files contain a tensor of the same name.
    """
    whole: dict[str, Tensor] = {}
    for part, tensors in shards.items():
        if twice := sorted(whole.keys() & tensors.keys()):
            raise ValueError(f"convert: every tensor must be in one file; {part} holds {twice[0]} ({len(twice)} in all) a second time")
        whole |= tensors
    return whole


def require_fit(config: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> dict[str, int | float]:
    """Refuses a checkpoint that does not exactly match the model of the configuration.

    Returns:
        Settings of the model that the shapes of its tensors do not determine.

    Raises:
        ValueError: If settings are invalid, or tensors are missing, unexpected, or of another shape or type. The message names them.
    """
    import torch

    from baton_lightning.models.ovi import ovi_model
    from baton_lightning.runs.weights import mismatch

    with torch.device("meta"):
        model = ovi_model(config)
    own = model.state_dict()
    if mismatches := mismatch(own, tensors):
        raise ValueError(f"convert: {path} must hold the {len(own)} tensors that --config describes; {mismatches}")
    return model.beyond_shapes


def geometry(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a clip's geometry that determine the layers."""
    video, audio = config["video"], config["audio"]
    return {
        "video_channels": video["in_dim"],
        "video_patch": list(video["patch_size"]),
        "audio_channels": audio["in_dim"],
        "text_tokens": video["text_len"],
        "text_width": video["text_dim"],
        "audio_position_scale": audio.get("temporal_rope_scaling_factor", 1.0),
    }


def source_digest(path: Path) -> str:
    """SHA-256 over the digests of a checkpoint's files."""
    import hashlib

    from baton_lightning.shards.format import file_digest

    parts = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return hashlib.sha256("".join(file_digest(part) for part in parts).encode()).hexdigest()
