"""A run that was cut off after step 3 and has saved step 2."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from baton_lightning.runs import manifest
from tests.sessions.interrupted_runs import MODULE, ROOT, Runs


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two sets of as many clips, two parents, and a run that was cut off after step 3 and has saved step 2."""
    folder = tmp_path_factory.mktemp("segments")
    spec = importlib.util.spec_from_file_location("text_sets", ROOT / "tests/datamodules/conftest.py")
    sets = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(sets)  # type: ignore[union-attr]
    from baton_lightning.clip import ClipSpec

    clip = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["clip"] | {"text_tokens": 2, "text_width": 3}
    clip = ClipSpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in clip.items()})
    sets.make_text_set(folder / "set", [5, 1, 7], clip=clip)
    sets.make_text_set(folder / "other", [5, 7, 1], clip=clip)
    for name in ("one", "two"):
        (folder / "parents" / name).mkdir(parents=True)
        (folder / "parents" / name / manifest.NAME).write_text(json.dumps({"weights_sha256": name * 8}))
    shutil.copytree(folder / "parents/one", folder / "parents/moved")
    (folder / "segments_toy.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(folder)
        (folder / "cut").mkdir()
        Runs(folder, folder / "cut/runs", patch).fit(cut=3)
        yield folder


@pytest.fixture
def cut(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The run that was cut off, for one test; its folder was moved."""
    shutil.copytree(base / "cut/runs", tmp_path / "runs", symlinks=True)
    return Runs(base, tmp_path / "runs", monkeypatch)
