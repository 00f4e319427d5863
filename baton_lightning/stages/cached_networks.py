"""The frozen networks that made a data set's latents and text embeddings: a transformer that was trained on them needs the same ones.

Codecs of two data sets can have equal shapes and other meanings, e.g. patch codecs that are fitted to other clips. Then a transformer
would continue, or sample, with latents that mean nothing to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baton_lightning.plain_files import read_json
from baton_lightning.runs import manifest
from baton_lightning.shards.format import CACHE

ROLES = ("video_codec", "audio_codec", "text_encoder")


def networks_of(root: Path) -> dict[str, str]:
    """Digests of the codecs and the text encoder that made a data set's cache, by role; empty if there is no cache.

    Args:
        root: Folder of the data set, or of one data set per geometry, which have the same networks.
    """
    file = next((file for file in (root / CACHE, *sorted(root.glob(f"*/{CACHE}"))) if file.is_file()), None)
    networks = read_json(file, finite=False).get("networks") if file is not None else None
    found = networks if isinstance(networks, dict) else {}
    return {role: str(found[role].get("sha256")) for role in ROLES if isinstance(found.get(role), dict)}


def require_same(described: Mapping[str, Any], run: str | Path, root: Path) -> dict[str, str]:
    """Refuses a data set that other networks encoded than the one that a run was trained on. Runs without a record are not compared.

    Args:
        described: Manifest of the run.
        run: Its folder, for the message.
        root: Folder of the data set.

    Returns:
        The networks of the data set, see :func:`networks_of`.

    Raises:
        ValueError: If a network differs; the message names it.
    """
    found, known = networks_of(root), described.get("networks")
    for role, digest in found.items():
        if isinstance(known, Mapping) and known.get(role, digest) != digest:
            raise ValueError(
                f"the data set {root}/ must be encoded by the {role.replace('_', ' ')} that {run}/ was trained with, got another one "
                f"({digest[:12]}, not {str(known[role])[:12]}); encode it with that one. A set of the benchmark world gets the codec of "
                "another set by `shards world --codec FILE`"
            )
    return found


def of_training(data: Any, parent: str | Path | None) -> dict[str, str]:
    """The networks of a training's data set, which have to be those of the parent of its transformer.

    Args:
        data: The datamodule.
        parent: Run that the transformer is loaded from; ``None`` = none.
    """
    root = getattr(data, "root", None)
    if root is None:
        return {}
    if parent is None:
        return networks_of(Path(root))
    return require_same(manifest.read(Path(parent)), parent, Path(root))
