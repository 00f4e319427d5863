"""Imports of CPU runs, preloaded by the server that forks them (:mod:`~baton_lightning.launch.processes`).

A run of a few steps spends half of its time on imports that its networks, its logger and DeepSpeed's engine make late. They are listed
here, so that each is imported once for all runs.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}  # read when torch and deepspeed are first imported

from importlib import import_module

import tqdm.std

for name in (
    "deepspeed.module_inject",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # which imports torch's compiler
    "av",
    "diffusers.schedulers",
    "torch.utils.tensorboard",
    "transformers.models.qwen3.modeling_qwen3",
    "baton_lightning.cli",
    "baton_lightning.frozen.codecs",
    "baton_lightning.frozen.llm",
    "baton_lightning.generation.generator",
    "baton_lightning.stages.alignment",
    "baton_lightning.stages.encode",
    "baton_lightning.stages.joint",
    "baton_lightning.stages.pretraining",
):
    import_module(name)

tqdm.std.TqdmDefaultWriteLock.mp_lock = None  # a killed process would leak one semaphore for each progress bar
