"""Parts of `bench gpu` that run the transformer: rounding, training steps, steps of DeepSpeed's engine, and sampling steps."""

from __future__ import annotations

import copy
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from baton_lightning.bench.gpu_work import Inputs, Scale, inputs
from baton_lightning.estimate.footprint import Footprint, footprint, forward_flops, forward_peak
from baton_lightning.estimate.memory import Buckets, Load, unsharded, zero
from baton_lightning.estimate.optimiser import cost
from baton_lightning.lora import LoraOptions
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.plan_attention import PlanAttention, PlanOptions
from baton_lightning.placement import cast_parameters

Figures = dict[str, float]
SHARE = 0.8
"""Share of a GPU's free memory for which the number of blocks is chosen."""


def fused(parameters: object) -> torch.optim.Optimizer:
    """Optimiser of the training parts."""
    return torch.optim.AdamW(parameters, lr=1e-5, fused=True)


# ---- rounding
def rounding(device: torch.device, scale: Scale) -> Figures:
    """Relative errors of bfloat16 against float32, in the l2 norm, of both velocities and of the gradient of all parameters.

    They are measured for both precisions that runs use: weights in float32 under autocast, and weights in bfloat16.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    with torch.device(device):
        torch.manual_seed(0)
        exact = scale.dit(scale.short, 2)
    for layer in exact.modules():  # fresh plan layers give zeros, which would hide their rounding
        if isinstance(layer, PlanAttention):
            nn.init.normal_(layer.o.weight, std=0.02)
    given = inputs(scale.short, device)
    low = copy.deepcopy(exact).to(torch.bfloat16)
    wanted = answers(exact, given)
    found = {"depth": 2.0}
    with torch.autocast(device.type, torch.bfloat16):
        found |= errors("autocast", answers(exact, given), wanted)
    return found | errors("bf16 weights", answers(low, given), wanted)


def answers(dit: DualBranchDiT, given: Inputs) -> dict[str, Tensor]:
    """Velocities and the gradient of the loss."""
    dit.zero_grad(set_to_none=True)
    video, audio = (v.detach().float() for v in given.forward(dit))
    given.loss(dit).backward()
    gradient = torch.cat([p.grad.float().flatten() for p in dit.parameters() if p.grad is not None])
    return {"video velocity": video, "audio velocity": audio, "gradient": gradient}


def errors(name: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Figures:
    return {f"{name}: {what}": ((found[what] - wanted[what]).norm() / wanted[what].norm()).item() for what in wanted}


# ---- training steps
def training(device: torch.device, scale: Scale, **choices: Any) -> Figures:
    """A training step of one clip: weights in float32 under bfloat16 autocast, fused AdamW.

    The depth is that which fits with kept activations, so that rows can be compared; with adapters it is the largest that fits.

    Args:
        device: Where the step runs.
        scale: Sizes.
        choices: See :func:`options`.
    """
    compared = choices if "rank" in choices else {}
    depth = deepest(device, scale, lambda blocks: unsharded(load(scale, blocks, **compared), 0).most)
    with torch.device(device):
        dit = scale.dit(scale.clip, depth, **options(**choices))
    optimizer, given = fused([p for p in dit.parameters() if p.requires_grad]), inputs(scale.clip, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = given.loss(dit)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    found = timed(step, device, scale)
    foreseen = unsharded(load(scale, depth, **choices), 0)
    rate = step_flops(scale, depth, **choices) / found["seconds"] / 1e12
    return {"depth": depth, **found, "tflops": rate} | memory(device, max(foreseen.backward, foreseen.step))


def options(
    recompute: bool = False, window: int | None = None, rank: int | None = None, compile_backend: str | None = None
) -> dict[str, Any]:
    """Arguments of the transformer.

    Args:
        recompute: Recompute activations.
        window: Window of plan attention; ``None`` = the whole plan.
        rank: Rank of adapters on frozen blocks in int8; ``None`` = all weights are trained.
        compile_backend: Backend of torch.compile.
    """
    lora = None if rank is None else LoraOptions(rank, base="int8")
    return {"recompute": recompute, "plan_attention": PlanOptions(window=window), "lora": lora, "compile_backend": compile_backend}


def sharded(device: torch.device, scale: Scale, stage: int) -> Figures:
    """A training step of one clip by DeepSpeed's engine in one process.

    Weights are in bfloat16 with float32 master weights. Activations are recomputed, and the optimiser is fused AdamW.
    """
    import deepspeed

    sizes = Buckets(sub_group=1_000_000_000)
    depth = deepest(device, scale, lambda blocks: zero(load(scale, blocks, recompute=True), 1, stage, sizes).most)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # otherwise a C++ all-reduce is compiled at the start
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    deepspeed.comm.init_distributed("nccl" if device.type == "cuda" else "gloo")
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": sizes.reduce,
            "allgather_bucket_size": sizes.gather,
            "sub_group_size": sizes.sub_group,
            "overlap_comm": sizes.overlap,
        },
    }
    with torch.device(device):
        dit = scale.dit(scale.clip, depth, recompute=True)
    if stage == 3:
        cast_parameters(dit, torch.bfloat16)
        deepspeed.zero.Init(module=dit, config_dict_or_path=config)
    engine, *_ = deepspeed.initialize(model=dit, optimizer=fused(dit.parameters()), config=config)
    given = inputs(scale.clip, device)

    def step() -> None:
        engine.backward(given.loss(engine))
        engine.step()

    found = timed(step, device, scale)
    foreseen = zero(load(scale, depth, recompute=True), 1, stage, sizes)
    rate = step_flops(scale, depth) / found["seconds"] / 1e12
    return {"depth": depth, **found, "tflops": rate} | memory(device, max(foreseen.backward, foreseen.step))


# ---- sampling steps
def sampling(device: torch.device, scale: Scale, **choices: Any) -> Figures:
    """A sampling step of one clip with guidance: two forward passes with weights in bfloat16.

    Args:
        device: Where the step runs.
        scale: Sizes.
        choices: See :func:`options`.
    """

    def foreseen(blocks: int) -> float:
        dit, given = blueprint(scale, blocks, **choices)
        return sum(2 * p.numel() for p in dit.parameters()) + forward_peak(dit, lambda: given.forward(dit))

    depth = deepest(device, scale, foreseen)
    with torch.device(device), default_dtype(torch.bfloat16):
        dit = scale.dit(scale.clip, depth, **options(**choices)).eval()
    given = inputs(scale.clip, device)

    @torch.no_grad()
    def step() -> None:
        for _ in range(2):
            given.forward(dit)

    found = timed(step, device, scale)
    dit, given = blueprint(scale, depth, **choices)
    rate = 2 * forward_flops(lambda: given.forward(dit)) / found["seconds"] / 1e12
    return {"depth": depth, **found, "tflops": rate} | memory(device, foreseen(depth))


# ---- shared
@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def timed(step: Callable[[], None], device: torch.device, scale: Scale) -> Figures:
    """Median time of a step after warm-up, and the time of the first step including compilation, in s."""
    taken = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # construction is over
    for _ in range(scale.warm_up + scale.steps):
        wait(device)
        since = time.perf_counter()
        step()
        wait(device)
        taken.append(time.perf_counter() - since)
    return {"seconds": statistics.median(taken[scale.warm_up :]), "first": taken[0]}


def free_port() -> int:
    """A free TCP port on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def blueprint(scale: Scale, depth: int, **choices: Any) -> tuple[DualBranchDiT, Inputs]:
    """A transformer in bfloat16 and its inputs, on the meta device."""
    with torch.device("meta"):
        return scale.dit(scale.clip, depth, **options(**choices)).to(torch.bfloat16), inputs(scale.clip, "meta")


def load(scale: Scale, depth: int, **choices: Any) -> Load:
    """Memory load of a training step, computed as in `estimate`."""
    dit, given = blueprint(scale, depth, **choices)
    walked: Footprint = footprint(dit, lambda: given.loss(dit))
    trained = [p.numel() for p in dit.parameters() if p.requires_grad]
    frozen = [p for p in dit.parameters() if not p.requires_grad]
    held = sum(p.numel() * (4 if p.is_floating_point() else p.element_size()) for p in frozen)  # a run holds floats in float32
    codes = sum(p.numel() for p in frozen if not p.is_floating_point())
    size = sum(p.numel() for p in frozen)
    return Load((sum(trained),), max(trained), size, held, True, cost(fused), False, walked.activations, 0, codes)


def deepest(device: torch.device, scale: Scale, foreseen: Callable[[int], float]) -> int:
    """Largest number of blocks that fits into memory, extrapolated from the estimates for one and two blocks.

    It is at least one. On the CPU it is the largest number of the scale.
    """
    if device.type != "cuda":
        return scale.most_blocks
    one, two = foreseen(1), foreseen(2)
    room = SHARE * torch.cuda.mem_get_info(device)[0]
    return max(1, min(scale.most_blocks, 1 + int((room - one) / (two - one))))


def step_flops(scale: Scale, depth: int, **choices: Any) -> float:
    """Operations of a training step without those of recomputation, extrapolated from one and two blocks."""

    def counted(blocks: int) -> int:
        dit, given = blueprint(scale, blocks, **{**choices, "recompute": False})
        return footprint(dit, lambda: given.loss(dit)).flops

    one, two = counted(1), counted(2)
    return one + (depth - 1) * (two - one)


def memory(device: torch.device, foreseen: float) -> Figures:
    """Peak of allocated memory on the GPU, and the peak that `estimate` predicts, in GiB."""
    if device.type != "cuda":
        return {}
    return {"gib": torch.cuda.max_memory_allocated(device) / 2**30, "foreseen_gib": foreseen / 2**30}
