"""What an exported stage-3 run needs besides its own weights to generate anywhere: planner, local files of codecs, relative settings."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.runs.paths import PATHS, absolute_paths, candidate_folders, parent_of

if TYPE_CHECKING:
    from torch import Tensor

PLANNER = "planner"
COPIED = (".safetensors", "config.json")
"""Endings of files that are copied; a setting that names another file keeps its path, so that nothing else is published."""
GENERATES = ("video_codec", "audio_codec", "text_encoder")
"""Parts of stage 3 that only generation uses, besides the transformer and the plan source."""


@dataclass
class Bundle:
    """What is added to an export so that it generates without the run's other folders.

    Args:
        config: Configuration whose paths are relative to the exported folder.
        components: Component -> weights, of the parents.
        files: Path in the exported folder -> file to copy.
        parents: Role -> folder of the parent run.
        digests: Role -> digest of the parent's weights, for the record.
    """

    config: dict[str, Any]
    components: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    parents: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def set_components(self, settings: Mapping[str, Any]) -> None:
        """Replaces the settings of components, e.g. after their adapters were merged; a planner's are those of the plan source."""
        args = self.config["model"]["init_args"]
        for name, values in settings.items():
            owner = args if name in args else args["plan"]["init_args"]
            owner[name] = values

    def copy_files(self, out: Path) -> None:
        """Copies the files into the exported folder."""
        for name, file in self.files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / name)


def bundle_of(run: Path, described: dict[str, Any]) -> Bundle | None:
    """The bundle of a stage-3 run; ``None`` for other runs, which make no clips.

    Args:
        run: Folder of a finished run.
        described: Its manifest.

    Raises:
        ValueError: If the planner's run is not found.
    """
    from baton_lightning.runs import manifest, weights

    config = copy.deepcopy(described.get("config", {}))
    model = config.get("model")
    args = model.get("init_args") if isinstance(model, dict) else None
    if not isinstance(args, dict) or "dit" not in args or not isinstance(args.get("plan"), dict) or "data" not in config:
        return None
    starts = [run.resolve(), *candidate_folders(run, config, described.get("directory"))]
    made = Bundle(config)
    own = args.get("parents") or {}
    if PLANNER in own:
        digest = described.get("parents", {}).get(PLANNER, {}).get("weights_sha256")
        if PLANNER in described.get("bundled", []):
            folder = run
        else:
            folder = parent_of(run, config, PLANNER, starts, digest)
            manifest.require(folder)
        made.parents[PLANNER], made.digests[PLANNER] = folder, digest
        made.components[PLANNER] = weights.read(folder, PLANNER)
    args["parents"] = {role: "." for role in made.parents}
    for name in GENERATES:
        if isinstance(args.get(name), dict):
            args[name] = with_own_files(absolute_paths(args[name], starts), name, made.files)
    return made


def with_own_files(values: Any, name: str, files: dict[str, Path], key: str = "") -> Any:
    """Settings in which every existing local file or folder of weights has a path inside the exported folder.

    Args:
        values: Settings with absolute paths.
        name: Folder for the files.
        files: Receives path in the exported folder -> file.
        key: Key of these settings.
    """
    if isinstance(values, dict):
        return {k: with_own_files(v, name, files, str(k)) for k, v in values.items()}
    if isinstance(values, list):
        return [with_own_files(v, name, files, key) for v in values]
    if not isinstance(values, str) or not (os.path.isabs(values) and key in PATHS) or not os.path.exists(values):
        return values
    source = Path(values)
    found = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    found = [file for file in found if file.name.endswith(COPIED)]
    files |= {str(Path(name) / file.relative_to(source.parent)): file for file in found}
    return f"{name}/{source.name}" if found else values
