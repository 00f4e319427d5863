"""Start-up of a ZeRO-3 run on CPUs: host memory of each rank, and time until its networks are constructed.

A diffusion transformer in bfloat16 is constructed in three ways on all ranks: fresh, from a parent's weights in float32, and as if the run
resumed from a checkpoint. The checkpoint itself is not read.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CASES = ("fresh", "parent", "resumed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=1536, help="channels of both branches, a multiple of 128 (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=9, help="fused blocks (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which (default: all)")
    parser.add_argument("--work", type=Path, help="folder for the parent's weights, 4 bytes per parameter (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="output file of the results (JSON)")


def main(options: argparse.Namespace) -> int:
    """Measures every case and prints a table."""
    from rich.console import Console
    from rich.table import Table

    from baton_lightning.arguments import require_at_least_one

    require_at_least_one("bench startup", options, "ranks", "depth")
    if options.width < 128 or options.width % 128:
        raise ValueError(f"--width must be a positive multiple of 128, got {options.width}")
    with tempfile.TemporaryDirectory(prefix="bench-startup-", dir=options.work) as scratch:
        parent = Path(scratch) / "parent"
        parameters = in_process(write_parent, parent, options.width, options.depth)
        found = [row | {"case": case} for case in options.cases for row in measured(case, parent, options)]
    if options.json:
        options.json.write_text(json.dumps({"parameters": parameters, "ranks": options.ranks, "found": found}, indent=1) + "\n")
    table = Table(title=f"start-up of {parameters / 1e9:.2f} B parameters, ZeRO-3 in bfloat16 on {options.ranks} ranks")
    for column in ("case", "rank", "seconds", "peak, GB", "of it before", "kept after, GB"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in found:
        numbers = (f"{row[key]:.2f}" for key in ("seconds", "peak_gb", "before_gb", "after_gb"))
        table.add_row(row["case"], str(row["rank"]), *numbers)
    Console().print(table)
    return 0


def make_dit(clip: Any, width: int, depth: int) -> Any:
    """A transformer with Ovi's proportions."""
    from baton_lightning.models.dit import DualBranchDiT

    return DualBranchDiT(clip, width=width, depth=depth, num_heads=width // 128, ffn_width=width * 14 // 3 // 128 * 128)


def write_parent(folder: Path, width: int, depth: int) -> int:
    """Writes a finished run whose transformer has zeros as weights. Returns its number of parameters."""
    import torch

    from baton_lightning import atomic
    from baton_lightning.clip import ClipSpec
    from baton_lightning.runs import manifest

    clip = ClipSpec()
    with torch.device("meta"):
        outline = make_dit(clip, width, depth).state_dict()
    folder.mkdir()
    atomic.write_tensors(folder / manifest.WEIGHTS, {f"dit.{key}": torch.zeros(tensor.shape) for key, tensor in outline.items()})
    described = {"clip": clip.to_dict(), "weights_sha256": manifest.file_digest(folder / manifest.WEIGHTS)}
    atomic.write_text(folder / manifest.NAME, json.dumps(described))
    return sum(tensor.numel() for tensor in outline.values())


def in_process(work: Any, *args: Any) -> Any:
    """Result of a function that runs in a separate process, which frees its memory at the end."""
    context = multiprocessing.get_context("spawn")
    answer: SimpleQueue[Any] = context.SimpleQueue()
    process = context.Process(target=put_result, args=(answer, work, *args))
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"bench startup: {work.__name__} ended with exit code {process.exitcode}; see above")
    return answer.get()


def put_result(answer: SimpleQueue[Any], work: Any, *args: Any) -> None:
    answer.put(work(*args))


def measured(case: str, parent: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measurements of a case, whose networks are constructed on all ranks at the same time."""
    from baton_lightning.launch.processes import free_port

    context, port = multiprocessing.get_context("spawn"), free_port()
    answers: SimpleQueue[Any] = context.SimpleQueue()
    build_on = partial(start, case, parent, options.width, options.depth, options.ranks, port)
    processes = [context.Process(target=put_result, args=(answers, build_on, rank)) for rank in range(options.ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := [rank for rank, process in enumerate(processes) if process.exitcode]:
        raise ValueError(f"bench startup: rank {failed[0]} of the case {case!r} failed; see above")
    return sorted((answers.get() for _ in processes), key=lambda row: int(row["rank"]))


def start(case: str, parent: Path, width: int, depth: int, ranks: int, port: int, rank: int) -> dict[str, float]:
    """Constructs the networks of a stage on one rank as Lightning does at the start of a run, and measures time and memory."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "RANK": str(rank)}
    os.environ |= {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    import deepspeed
    import torch

    from baton_lightning.clip import ClipSpec
    from baton_lightning.construction.deepspeed_cpu import CPUDeepSpeedStrategy
    from baton_lightning.stages.joint import JointTraining
    from baton_lightning.stages.plan_sources import GroundTruthPlan

    strategy = CPUDeepSpeedStrategy(stage=3)
    strategy.config["bf16"] = {"enabled": True}
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    parents = {} if case == "fresh" else {"dit": str(parent)}
    module = JointTraining(ClipSpec(), partial(make_dit, width=width, depth=depth), GroundTruthPlan, torch.optim.AdamW, parents=parents)
    module._trainer = SimpleNamespace(strategy=strategy)
    if case == "resumed":
        module.resume_checkpoint = parent / "of-its-own.ckpt"
    torch.distributed.barrier()
    before, began = memory(), time.monotonic()
    with deepspeed.zero.Init(config_dict_or_path=strategy.config, remote_device=strategy.remote_device):
        module.configure_model()
    seconds = time.monotonic() - began
    after = memory()
    torch.distributed.destroy_process_group()
    return {"rank": rank, "seconds": seconds, "before_gb": before["VmRSS"], "peak_gb": after["VmHWM"], "after_gb": after["VmRSS"]}


def memory() -> dict[str, float]:
    """Resident memory of this process, current and peak, in GB. Mapped pages of files are included."""
    pairs = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 / 1e9 for name, value in pairs if name in ("VmRSS", "VmHWM")}
