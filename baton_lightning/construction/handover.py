"""Hand-over: strict loading of named weights from a finished parent run. Unlike resume, nothing else is restored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.deferred import fill
from baton_lightning.int8 import QuantisedOnReading, quantised_on_reading
from baton_lightning.lora import A, B, is_adapter, under_base_names
from baton_lightning.runs.manifest import require
from baton_lightning.runs.weights import Stored, shared_digest, stored

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HandOverReport:
    """Result of a hand-over.

    Args:
        run: The parent.
        loaded: Keys that were loaded.
        fresh: Keys of the target that the parent lacks, and may lack.
        dropped: Keys of the parent that the target lacks, and may lack.
    """

    run: Path
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        return f"hand-over from {self.run}: {len(self.loaded)} tensors loaded, {len(self.fresh)} fresh, {len(self.dropped)} dropped"


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
    """Loads the parent's weights with the prefix ``source`` into ``target``, one tensor at a time; a meta tensor during its replay.

    Args:
        target: Module whose weights are loaded.
        run: Folder of a finished run, of an export or of a converted checkpoint; its manifest may list layers that it lacks. A parent
            without adapters is the base of a target with new ones. Weights that the target holds in int8 are quantised after reading.
        source: Prefix of the parent's keys, without the dot, e.g. ``planner``.
        clip: Required geometry of the parent.
        fresh: Prefixes of target keys that the parent may lack.
        dropped: Prefixes of parent keys that the target may lack.
        digest: Required digest of the parent's weights, for a resumed run; ``None`` = any.

    Raises:
        ValueError: If the parent is unfinished, changed or of another geometry, or keys, shapes or the manifest's network settings do not
            match; the message names them.
    """
    run = Path(run)
    manifest = require(run, clip, digest=shared_digest)
    require_same(run, manifest, digest)
    there, here = manifest.get("beyond_shapes", {}).get(source, {}), getattr(target, "beyond_shapes", {})
    if differs := [f"{name}: {here[name]:g} here, {there[name]:g} there" for name in here if there.get(name, here[name]) != here[name]]:
        raise ValueError(
            f"hand-over from {run}/ to `{source}` needs the same network settings, also those that tensor shapes do not determine: "
            f"{'; '.join(differs)}; set those of `{source}` to the parent's"
        )
    own = target.state_dict()
    weights = quantised_on_reading(own, under_base_names(own, stored(run, source)))
    lacks = [*manifest.get("lacks", []), *([] if any(map(is_adapter, weights)) else [A, B])]
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
    weights: Mapping[str, Stored | QuantisedOnReading],
    *,
    fresh: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    lacks: Sequence[str] = (),
) -> set[str]:
    """Common keys of a network and of a run's weights; only headers of the files are read.

    Args:
        own: The network's state dict, on any device.
        run: The run.
        source: Prefix of the weights' keys.
        weights: The weights.
        fresh: See :func:`hand_over`.
        dropped: See :func:`hand_over`.
        lacks: Substrings of keys that the weights may lack.

    Raises:
        ValueError: If there are no weights, or keys or shapes do not match; the message names them.
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
        details = "; ".join(f"{name} ({len(keys)}): {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}" for name, keys in parts if keys)
        fix = "give both stages the same settings"
        if any(is_adapter(key) or key.endswith(".scale") for key in unexpected):
            fix = (
                f"give both stages the same lora, or merge the parent's adapters: python -m baton_lightning export {run} --merge --out OUT"
            )
        raise ValueError(f"hand-over from {run}/ to `{source}` must match key by key: {details}; {fix}")
    return common


def require_same(run: Path, manifest: dict[str, Any], digest: str | None) -> None:
    """Refuses a parent whose weights changed after the start of a run.

    Args:
        run: The parent.
        manifest: Its manifest.
        digest: Digest of its weights at the start of the run; ``None`` = any.

    Raises:
        ValueError: If the parent has other weights.
    """
    if digest not in (None, now := manifest["weights_sha256"]):
        raise ValueError(
            f"{run}/ must hold the weights with which this run started, {str(digest)[:12]}, but it holds {now[:12]}; restore them, or "
            "start again with --resume never"
        )
