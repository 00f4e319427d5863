"""Steps of DeepSpeed's engine on one process with every tensor counted; a line of JSON for each setting. Run by test_memory."""

from __future__ import annotations

import gc
import json
import logging
import os
from itertools import product

os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
os.environ["OMP_NUM_THREADS"] = "1"

import socket

import deepspeed
import torch
from torch import nn

from baton_lightning.estimate.footprint import LiveTensors

WIDTH, DEPTH = 256, 8
ELEMENTS = DEPTH * WIDTH * WIDTH


def measure(stage: int, foreach: bool, fused: bool, low: bool, sub_group: int) -> dict[str, float]:
    """Bytes that stay after a step, and at the peak of the next one."""
    gc.collect()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": low},
        "zero_optimization": {"stage": stage, "reduce_bucket_size": 1000, "allgather_bucket_size": 1000, "sub_group_size": sub_group},
    }
    with LiveTensors("cpu") as live:
        net = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)])
        if stage == 3:
            net.to(torch.bfloat16 if low else torch.float32)
            deepspeed.zero.Init(module=net, config_dict_or_path=config)
        optimizer = torch.optim.AdamW([{"params": list(net.parameters())}], foreach=foreach, fused=fused)
        engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
        for _ in range(2):
            loss = engine(torch.ones(1, WIDTH, dtype=torch.bfloat16 if low else torch.float32)).sum()
            engine.backward(loss)
            del loss
            live.peak = live.now
            engine.step()
        gc.collect()
        found = {"states": live.now, "step": live.peak}
    engine.destroy()
    return found


if __name__ == "__main__":
    deepspeed.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a C++ all-reduce is compiled at start
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    deepspeed.comm.init_distributed("gloo")
    settings = [(1, True, False, True, 10**12)]
    settings += [(stage, *kind, True, 10**12) for stage, kind in product((2, 3), ((True, False), (False, False), (False, True)))]
    settings += [(3, True, False, True, ELEMENTS // 4), (2, True, False, False, 10**12), (3, True, False, False, ELEMENTS // 4)]
    for stage, foreach, fused, low, sub_group in settings:
        named = {"stage": stage, "foreach": foreach, "fused": fused, "low": low, "sub_group": sub_group, "elements": ELEMENTS}
        print(json.dumps(named | measure(stage, foreach, fused, low, sub_group)), flush=True)
