"""Hand-over: a stage takes named weights from a finished parent run, strictly. It is not resume: everything else starts afresh."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.deferred import fill
from baton_lightning.runs.manifest import require
from baton_lightning.runs.weights import Stored, shared_digest, stored

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HandOverReport:
    """What a hand-over did.

    Args:
        run: The parent.
        loaded: Keys that were taken over.
        fresh: Keys of the target that the parent does not have and need not have.
        dropped: Keys of the parent that the target does not want.
    """

    run: Path
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        return f"hand-over from {self.run}: {len(self.loaded)} tensors taken over, {len(self.fresh)} fresh, {len(self.dropped)} dropped"


def hand_over(
    target: nn.Module,
    run: str | Path,
    *,
    source: str,
    clip: ClipSpec | None = None,
    fresh: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    digest: str | None = None,
) -> HandOverReport:
    """Loads the parent's weights below ``source`` into ``target``, one tensor at a time; a deferred one when it is made.

    Args:
        target: Module to fill.
        run: Folder of a finished run, of an export or of a converted checkpoint, whose manifest may say which layers it lacks.
        source: Prefix of the parent's keys, without the dot, e.g. ``planner``.
        clip: Geometry that the parent must share.
        fresh: Prefixes of target keys that the parent may lack.
        dropped: Prefixes of parent keys that the target may lack.
        digest: Digest that the parent's weights must have, for a run that goes on; ``None`` takes any.

    Raises:
        ValueError: If the parent is unfinished, changed or of another geometry, or keys, shapes or what the manifest says beyond them
            do not match; the message names them.
    """
    run = Path(run)
    manifest = require(run, clip, digest=shared_digest)
    require_same(run, manifest, digest)
    lacks = manifest.get("lacks", [])
    there, here = manifest.get("beyond_shapes", {}).get(source, {}), getattr(target, "beyond_shapes", {})
    if differs := [f"{name}: {here[name]:g} here, {there[name]:g} there" for name in here if there.get(name, here[name]) != here[name]]:
        raise ValueError(
            f"hand-over from {run}/ to `{source}` must be between the same network settings, also those that no tensor's shape shows: "
            f"{'; '.join(differs)}; give `{source}` the parent's"
        )
    own, weights = target.state_dict(), stored(run, source)
    common = require_match(own, run, source, weights, fresh=fresh, dropped=dropped, lacks=lacks)
    for key, tensor in own.items():
        if key in common:
            fill(tensor, weights[key].read)
    report = HandOverReport(run, tuple(sorted(common)), tuple(sorted(own.keys() - common)), tuple(sorted(weights.keys() - common)))
    log.info("%s", report)
    return report


def require_match(
    own: Mapping[str, Tensor],
    run: Path,
    source: str,
    weights: Mapping[str, Stored],
    *,
    fresh: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    lacks: Sequence[str] = (),
) -> set[str]:
    """Keys that a network and the weights below ``source`` have in common, of which only headers are looked at.

    Args:
        own: The network's state, on any device.
        run: Where the weights are.
        source: What they are called there.
        weights: The weights.
        fresh: See :func:`hand_over`.
        dropped: Likewise.
        lacks: Parts of keys that the weights need not have.

    Raises:
        ValueError: If there are none, or keys or shapes do not match; the message names them.
    """
    if not weights:
        raise ValueError(
            f"hand-over: the run {run}/ must hold weights below `{source}.`, it has none; it is not the kind of parent this stage needs"
        )
    common = {k for k in own.keys() & weights.keys() if not k.startswith(fresh or ("\0",))}
    missing = sorted(k for k in own.keys() - common if not k.startswith(fresh or ("\0",)) and not any(part in k for part in lacks))
    unexpected = sorted(k for k in weights.keys() - common if not k.startswith(dropped or ("\0",)))
    shapes = [f"{k}: {list(own[k].shape)} here, {list(weights[k].shape)} there" for k in sorted(common) if own[k].shape != weights[k].shape]
    if missing or unexpected or shapes:
        parts = [("missing in the parent", missing), ("unexpected from the parent", unexpected), ("shapes differ", shapes)]
        said = "; ".join(f"{name} ({len(keys)}): {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}" for name, keys in parts if keys)
        raise ValueError(f"hand-over from {run}/ to `{source}` must match key by key: {said}; give both stages the same network settings")
    return common


def require_same(run: Path, manifest: dict[str, Any], digest: str | None) -> None:
    """Refuses a parent that changed while a run that began with it was not running.

    Args:
        run: The parent.
        manifest: Its manifest.
        digest: Digest of its weights when the run began; ``None`` takes any.

    Raises:
        ValueError: If the parent has other weights now.
    """
    if digest not in (None, now := manifest["weights_sha256"]):
        raise ValueError(
            f"{run}/ must hold the weights this run began with, {str(digest)[:12]}, it holds {now[:12]}; restore them, or begin again with "
            "--resume never"
        )
