"""What holds for every test: one thread, fixed seeds, no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports these libraries: a test that would download fails at once instead of waiting for a timeout.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny matrices lose more to threads than they gain, and sums keep their order
settings.register_profile("house", deadline=None, derandomize=True, database=None)  # examples are the same on every machine and run
settings.load_profile("house")


@pytest.fixture(autouse=True)
def same_draws_whatever_ran_before() -> None:
    """Seeds torch's global generator, so that a test draws the same numbers alone and in the suite."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def survival(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for runs that are stopped by force, with a small cached set; modules that lie in it can be named by settings."""
    from baton_lightning.bench.resume_case import Case

    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("survival")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("PYTHONPATH", f"{root}{os.pathsep}{folder}")  # of processes that are started
        patch.syspath_prepend(folder)  # of those that are forked
        Case(folder).prepare()
        yield folder
