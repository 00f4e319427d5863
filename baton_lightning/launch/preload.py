"""Imports of CPU runs, preloaded by the server that forks them (:mod:`~baton_lightning.launch.processes`)."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}  # read when torch and deepspeed are first imported

import deepspeed  # noqa: F401
import tqdm.std

import baton_lightning.cli  # noqa: F401

tqdm.std.TqdmDefaultWriteLock.mp_lock = None  # a killed process would leak one semaphore for each progress bar
