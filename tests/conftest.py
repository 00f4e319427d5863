"""What holds for every test: one thread, fixed seeds, no network."""

from __future__ import annotations

import os

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
