"""`README.md` of a folder of weights: contents, provenance and licences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from baton_lightning.plain_files import read_bytes

LICENCES = {
    "Ovi": "Apache-2.0 (code and weights, Character.AI)",
    "MMAudio": "CC BY-NC 4.0: the audio latents belong to MMAudio's VAE, whose weights are not for commercial use",
    "Wan2.2 VAE": "Apache-2.0",
    "Qwen3": "Apache-2.0",
    "SigLIP2": "Apache-2.0",
    "WavTokenizer": "MIT",
    "umT5": "Apache-2.0",
    "DINOv3": "DINOv3 License (Meta), with terms of its own for redistribution and use",
}
"""Network -> licence stated by its authors. Exported weights may be derived from, or may require, these networks."""
NO_NETWORKS = "The settings name no released network: all weights come from the training that the provenance names."
CLASSES = {
    "llm.PretrainedLLM": "Qwen3",
    "siglip.Siglip2": "SigLIP2",
    "dinov3.Dinov3": "DINOv3",
    "wavtokenizer.WavTokenizer": "WavTokenizer",
    "text.UMT5": "umT5",
    "wan_vae.WanVAE": "Wan2.2 VAE",
    "mmaudio_vae.MMAudio": "MMAudio",
    '"ovi": {': "Ovi",
}
"""Part of a class path or setting -> network that it loads."""


def networks_of(run: Path, described: dict[str, Any]) -> list[str]:
    """Released networks that are named by the settings of a run, of its parents, and of the networks that encoded its data.

    Args:
        run: Folder of the run, of an export or of a conversion.
        described: Its manifest.
    """
    text = "".join(named_in(run, described, depth=6))
    found = [network for part, network in CLASSES.items() if part in text]
    return found + [network for network in ("Wan2.2 VAE", "MMAudio") if "Ovi" in found and network not in found]


def named_in(run: Path, described: dict[str, Any], depth: int) -> Iterator[str]:
    """Settings of a run, of its components, of its data's networks and of its parents, as JSON; what is not found is left out."""
    from baton_lightning.runs import manifest
    from baton_lightning.runs.paths import candidate_folders
    from baton_lightning.shards.format import CACHE

    yield json.dumps(described.get("config", {}), default=str)
    yield from (read_bytes(file).decode(errors="replace") for file in sorted(run.glob("*/config.json")))
    config = described.get("config", {})
    starts = candidate_folders(run, config, described.get("directory"))
    data = config.get("data")
    root = (data.get("init_args") or {}).get("root") if isinstance(data, dict) else None
    if isinstance(root, str) and (caches := [start / root / CACHE for start in starts if (start / root / CACHE).is_file()]):
        yield read_bytes(caches[0]).decode(errors="replace")
    for parent in described.get("parents", {}).values() if depth else ():
        for folder in (start / parent["run"] for start in starts):
            if (folder / manifest.NAME).is_file():
                yield from named_in(folder, manifest.read(folder), depth - 1)
                break


def model_card(
    title: str,
    components: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
    use: str,
    networks: list[str],
    others: Sequence[str] = (),
) -> str:
    """Text of a model card.

    Args:
        title: Heading.
        components: Component -> its numbers of ``tensors``, ``parameters`` and ``bytes``.
        provenance: Label -> value; ``None`` is omitted.
        use: A command or a line of configuration that uses the folder.
        networks: Keys of :data:`LICENCES` that apply.
        others: A sentence about each file that is no component.
    """
    rows = [f"| `{name}/` | {c['tensors']:,} | {c['parameters']:,} | {c['bytes']:,} |" for name, c in components.items()]
    return "\n".join(
        [
            "---", "library_name: baton_lightning", "tags: [video-generation, audio-generation]", "---", "", f"# {title}", "",
            "| component | tensors | parameters | bytes |", "|---|---|---|---|", *rows, "",
            *(line for text in others for line in (text, "")),
            "## Use", "", "```", use, "```", "",
            "## Provenance", "", *[f"* {label}: `{value}`" for label, value in provenance.items() if value is not None], "",
            "## Licences", "", *([f"* {name}: {LICENCES[name]}" for name in networks] or [NO_NETWORKS]), "",
        ]
    )  # fmt: skip
