"""Probes of an export: those of its run, or those that were made in the folder that the export replaces."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from baton_lightning import hints
from baton_lightning.plain_files import require_no_link
from baton_lightning.plan.probes import NAME, Probes
from baton_lightning.runs import manifest
from baton_lightning.shards.stored_clip import clip_of

IN_CARD = f"`{NAME}` holds probes, with which `plan show` tells in words what a plan says and decodes its keyframes."


def copy_probes(run: Path, described: dict[str, Any], out: Path, part: Path) -> bool:
    """Copies probes into an export. The run's come first, then those in ``out``, if ``out`` is an earlier export of the same weights.

    Args:
        run: Folder of the run.
        described: Its manifest.
        out: Folder that the export will replace; it need not exist.
        part: Folder that is written.

    Returns:
        Whether there are probes. A line says so if an earlier export's are lost.

    Raises:
        ValueError: If the file is a link, is damaged, or its probes are of clips of another geometry.
    """
    file = run / NAME
    if not file.exists() and (out / NAME).exists():
        if not exports_same_weights(out, described):
            print(f"export: {out / NAME} was made for other weights and is left out; make it again: {made_by(out)}")
            return False
        file = out / NAME
    require_no_link(file)
    if not file.exists():
        return False
    if different := clip_of(described.get("clip", {})).at().differences(Probes.load(file).clip.to_dict()):
        raise ValueError(
            f"export: {file} must be of the run's geometry, they differ in {'; '.join(different)}; make it again: {made_by(run)}"
        )
    shutil.copyfile(file, part / NAME)
    return True


def exports_same_weights(out: Path, described: dict[str, Any]) -> bool:
    """Whether a folder is an export of the weights of a manifest."""
    try:
        return manifest.read(out).get("exported_from") == described["weights_sha256"]
    except ValueError:  # not readable, so not known
        return False


def made_by(folder: Path) -> str:
    """The command that makes probes of a run or export."""
    return hints.command("plan", "probes", "--run", folder, "--force")
