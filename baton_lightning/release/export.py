"""`export`: writes the weights of a finished run in the layout of the Hub: one folder per component, a model card, a manifest."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import atomic, next_steps
from baton_lightning.arguments import Parser
from baton_lightning.plain_files import MOST_BYTES, read_json, require_no_link, require_own_files
from baton_lightning.release import adapters, hub

if TYPE_CHECKING:
    from torch import Tensor

LANGUAGE = "language"
"""Folder with configuration and tokenizer of a planner's language model, as :mod:`baton_lightning.frozen.language_files` saves them."""


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m baton_lightning export",
        description=__doc__,
        epilog="The folder is a parent like the run itself: `model.init_args.parents: {dit: OUT}`. LoRA adapters are written a second "
        "time in OUT/adapter/, in PEFT's own names for `peft.PeftModel.from_pretrained(model, 'OUT/adapter')`, and those of a transformer "
        "also in the names of diffusers.",
    )
    made.add_argument("run", type=Path, help="folder of a finished run, or of a conversion")
    made.add_argument("--out", type=Path, required=True, help="folder to write")
    made.add_argument(
        "--format",
        choices=["baton", "ovi"],
        default="baton",
        help="ovi: the transformer alone, under Ovi's names and without plan layers, as `convert ovi` reads it (default: %(default)s)",
    )
    made.add_argument("--merge", action="store_true", help="add LoRA adapters to the weights, which then need no adapters")
    made.add_argument("--force", action="store_true", help="replace --out, if `export` wrote it")
    made.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        default="float32",
        help="type of the floating weights in the files; half the size in half precision, and rounded (default: %(default)s)",
    )
    made.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload --out to this model repository of the Hugging Face hub too; one that does not exist is created, and is private",
    )
    made.add_argument("--shard-size", type=float, default=5.0, help="largest file, in GB (default: %(default)s)")
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    from rich.console import Console
    from rich.table import Table
    from safetensors import SafetensorError

    from baton_lightning.release.components import components_of
    from baton_lightning.runs import manifest

    if options.push:
        hub.require_account(options.push)
    described = manifest.require(options.run)
    components = components_of(options.run)
    require_free(options.out, force=options.force)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{options.out.name}.", dir=options.out.parent))
    part.chmod(0o777 & ~(mask := os.umask(0)))
    os.umask(mask)
    try:
        write = write_ovi if options.format == "ovi" else write_components
        facts = write(part, components, described, options)
        if options.out.exists():
            shutil.rmtree(options.out)
        part.rename(options.out)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"export: {options.out}/ could not be written ({error}); nothing is left behind") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"export: {options.run}/ has invalid settings ({error!r:.100}); restore them") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    table = Table(title=f"{options.out}/")
    for column in ("component", "tensors", "parameters", "bytes"):
        table.add_column(column, justify="left" if column == "component" else "right")
    for name, fact in facts.items():
        table.add_row(name, *(f"{fact[k]:,}" for k in ("tensors", "parameters", "bytes")))
    Console().print(table)
    if options.push:
        print(f"uploaded to {hub.push(options.out, options.push)}")
    if {"planner", "dit"} <= facts.keys():
        next_steps.name("try", "--run", options.out)
    return 0


def require_free(out: Path, *, force: bool) -> None:
    """Refuses an existing output path, except an earlier export with ``force``.

    Raises:
        ValueError: If the path exists and must not be replaced.
    """
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise ValueError(f"export: {out}/ exists; give another --out, or --force to replace what `export` wrote")
    card = out / "README.md"
    if out.is_symlink() or not card.is_file() or "library_name: baton_lightning" not in card.read_text(errors="replace")[:200]:
        raise ValueError(f"export: {out}/ was not written by export, so --force does not replace it; give another --out")


def write_components(part: Path, components: dict[str, dict[str, Tensor]], described: dict[str, Any], options: Any) -> dict[str, Any]:
    """Writes every component with its settings, then the model card, and the manifest last. Returns the facts of each component."""
    from baton_lightning.release.bundle import bundle_of
    from baton_lightning.release.model_card import model_card, networks_of
    from baton_lightning.release.probes import IN_CARD, copy_probes
    from baton_lightning.runs import manifest, weights

    facts = {}
    bundle = bundle_of(options.run, described)
    if bundle is not None:
        components = components | bundle.components
        bundle.copy_files(part)
    settings = {name: settings_of(options.run, described, name) for name in components}
    found = {name: adapter for name in components if (adapter := adapters.adapter_of(name, components[name], settings[name]))}
    if options.merge:
        if not found:
            raise ValueError(f"export --merge needs a run with LoRA adapters, {options.run}/ has none; leave --merge out")
        components = components | {name: adapters.merged(components[name], adapter) for name, adapter in found.items()}
        described = adapters.describe_merged(described, found)
        settings |= {name: adapters.without_adapters(settings[name]) for name in found}
        if bundle is not None:
            bundle.set_components({name: settings[name] for name in found})
    if options.dtype != "float32":
        components = {name: in_half(tensors, options.dtype) for name, tensors in components.items()}
    for name, tensors in components.items():
        facts[name] = write_one(part / name, tensors, options.shard_size)
        (part / name / "config.json").write_text(json.dumps(settings[name] | {"clip": described.get("clip", {})}, indent=1))
    with_language = bundle.parents.get("planner", options.run) if bundle is not None else options.run
    if (language := with_language / LANGUAGE).is_dir():
        require_no_link(language)
        require_own_files(language)  # the target of a link would be published
        if large := [file for file in language.rglob("*") if file.stat().st_size > MOST_BYTES]:
            raise ValueError(f"export: {large[0]} must be a file of a tokenizer or a configuration, with at most {MOST_BYTES:,} bytes")
        shutil.copytree(language, part / LANGUAGE)
    for adapter in found.values():
        adapters.write(part / "adapter", adapter)
    roles = ", ".join(f"{name}: {options.out}" for name in components if name in ("dit", "planner"))
    use = f"model.init_args.parents: {{{roles}}}"
    if bundle is not None:
        use = f'import baton_lightning as baton\n\npipe = baton.load("{options.out}")\n\n# as a parent in a YAML file\n{use}'
    networks = networks_of(options.run, described)
    others = [IN_CARD] if bundle is not None and copy_probes(options.run, described, options.out, part) else []
    (part / "README.md").write_text(
        model_card(f"Baton: {described.get('stage', options.run.name)}", facts, provenance(options.run, described), use, networks, others)
    )
    content = {k: v for k, v in described.items() if k != "weights_sha256"} | {
        "weights_sha256": weights.digest(part),
        "exported_from": described["weights_sha256"],
        "components": facts,
    }
    if bundle is not None:
        content |= {"config": bundle.config, "bundled": sorted(bundle.parents)}
    atomic.write_text(part / manifest.NAME, json.dumps(content, indent=1))
    return facts


def settings_of(run: Path, described: dict[str, Any], name: str) -> dict[str, Any]:
    """Settings of a component, from ``config.json`` beside the weights of a conversion or export, or from the run's configuration.

    Raises:
        ValueError: If they are not a mapping.
    """
    kept = run / name / "config.json"
    if kept.is_file():
        require_no_link(kept)
        found = read_json(kept)
    else:
        model = described.get("config", {}).get("model")
        settings = model.get("init_args") if isinstance(model, dict) else None
        settings = settings if isinstance(settings, dict) else {}
        source = settings.get("plan")
        inside = source.get("init_args") if isinstance(source, dict) else None
        found = settings.get(name) or (inside.get(name) if isinstance(inside, dict) else None)
        found = found or {"class_path": described.get("stage", "unknown")}
    if not isinstance(found, dict):
        raise ValueError(f"export: the settings of {name} in {run}/ must be a mapping, got a {type(found).__name__}; restore them")
    return found


def provenance(run: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Provenance of the weights for the model card, as label -> value."""
    return {
        "stage": described.get("stage"),
        "run": run,
        "weights of the run": described["weights_sha256"],
        "data": described.get("data"),
        "seed": described.get("seed"),
        "git commit": described.get("git_commit"),
        **{f"parent {role}": f"{p['run']} {p['weights_sha256'][:12]}" for role, p in described.get("parents", {}).items()},
        **{name: f"{value:.6g}" for name, value in described.get("metrics", {}).items() if name.startswith("val/")},
    }


def write_ovi(part: Path, components: dict[str, dict[str, Tensor]], described: dict[str, Any], options: Any) -> dict[str, Any]:
    """Writes the transformer as a checkpoint of Ovi, with the configuration that ``convert ovi`` and Ovi's own code read.

    Raises:
        ValueError: If the run has no transformer.
    """
    from baton_lightning.models.ovi import PLAN_KEYS, ovi_config
    from baton_lightning.release.model_card import model_card
    from baton_lightning.shards.stored_clip import clip_of

    if "dit" not in components:
        raise ValueError(f"export --format ovi needs a run with a transformer, {options.run}/ has {', '.join(components)}")
    settings, whole = settings_of(options.run, described, "dit"), components["dit"]
    if adapter := adapters.adapter_of("dit", whole, settings):
        print("export: the adapters are added to the weights; Ovi has none")
        whole = adapters.merged(whole, adapter)
    plain = {k: v for k, v in whole.items() if not any(plan_key in k for plan_key in PLAN_KEYS)}
    if left_out := len(whole) - len(plain):
        print(f"export: {left_out} tensors of plan attention and Latent-MLPs are left out; without them the model no longer reads a plan")
    facts = {"ovi": write_one(part, plain, options.shard_size)}
    config = settings.get("ovi") or ovi_config(plain, clip_of(described.get("clip", {})), num_heads_of(settings, options.run))
    (part / "config.json").write_text(json.dumps(config, indent=1))
    use = f"python -m baton_lightning convert ovi --config {options.out}/config.json --weights {options.out} --out weights/ovi"
    card = model_card("Ovi's transformer", facts, provenance(options.run, described), use, ["Ovi", "MMAudio", "Wan2.2 VAE"])
    (part / "README.md").write_text(card)
    return facts


def num_heads_of(settings: dict[str, Any], run: Path) -> int:
    """Number of attention heads of a run's transformer.

    Raises:
        ValueError: If its settings do not contain the number.
    """
    args = settings.get("init_args")
    heads = args.get("num_heads") if isinstance(args, dict) else None
    if not isinstance(heads, int):
        raise ValueError(f"export: the settings of the transformer in {run}/ must name num_heads, got {heads!r:.60}; restore them")
    return heads


def write_one(folder: Path, tensors: dict[str, Tensor], shard_size: float) -> dict[str, int]:
    """Writes a component. Returns its numbers of tensors, parameters and bytes."""
    from baton_lightning.runs import weights

    num_bytes = weights.write(folder, tensors, shard_size)
    return {"tensors": len(tensors), "parameters": sum(t.numel() for t in tensors.values()), "bytes": num_bytes}


def in_half(tensors: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Weights in half precision; statistics and tensors that are not floating stay as they are."""
    import torch

    kept = ("norm.mean", "norm.std", "preconditioning.", ".scale")
    return {
        k: t.to(getattr(torch, dtype)) if t.is_floating_point() and not any(part in k for part in kept) else t for k, t in tensors.items()
    }
