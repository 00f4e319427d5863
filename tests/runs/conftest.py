"""A small set with its cache, and a folder for runs that are stopped by force."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton_lightning.runs.bench_resume import Case

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def survival(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder; modules that lie in it can be named by a run's settings."""
    folder = tmp_path_factory.mktemp("survival")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")  # of processes that are started
        patch.syspath_prepend(folder)  # of those that are forked
        Case(folder).prepare()
        yield folder
