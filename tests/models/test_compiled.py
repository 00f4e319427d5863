"""Compiled blocks give what blocks give, and every n-th block can be recomputed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from baton_lightning.batch import Plan
from baton_lightning.bench.parity import relative_error
from baton_lightning.clip import ClipSpec
from baton_lightning.estimate.footprint import blank_plan, footprint
from baton_lightning.lora import LoraOptions
from baton_lightning.models.dit import DualBranchDiT

ROOT = Path(__file__).parents[2]
CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)


def make_dit(**more: Any) -> DualBranchDiT:
    torch.manual_seed(0)
    dit = DualBranchDiT(CLIP, **{"width": 24, "depth": 3, "num_heads": 2, "ffn_width": 32, "frequency_width": 8} | more)
    for parameter in dit.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return dit


def inputs(clips: int) -> tuple[Tensor | Plan, ...]:
    draw = torch.Generator().manual_seed(clips)
    shapes = [(CLIP.video_channels, *CLIP.latent_grid), (CLIP.num_audio_latents, CLIP.audio_channels), (CLIP.text_tokens, CLIP.text_width)]
    video, audio, context = (torch.randn(clips, *shape, generator=draw) for shape in shapes)
    plan = blank_plan(CLIP, lambda *shape: torch.randn(clips, *shape, generator=draw))
    return video, audio, torch.rand(clips, generator=draw), context, context, plan


def results(dit: DualBranchDiT, given: tuple[Any, ...]) -> list[Tensor]:
    """Velocities, and the gradient of every trained weight."""
    dit.zero_grad()
    velocities = dit(*given)
    sum(velocity.square().mean() for velocity in velocities).backward()
    return [*(v.detach() for v in velocities), *(p.grad for p in dit.parameters() if p.grad is not None)]


def compare_compiled() -> None:
    more = {"depth": 1, "recompute": True, "lora": LoraOptions(rank=2, targets=("q",), base="int8")}
    kept = make_dit(compile_backend="aot_eager", **more)
    first, wanted = results(kept, inputs(2)), results(make_dit(**more), inputs(2))
    assert len(first) == len(wanted) > 10
    errors = [relative_error(found, one) for found, one in zip(first, wanted, strict=True)]
    assert max(errors) < 1e-5, errors
    results(kept, inputs(3))  # another shape has a graph of its own
    assert all(torch.equal(a, b) for a, b in zip(results(kept, inputs(2)), first, strict=True))
    assert counters["stats"]["unique_graphs"] >= 2 and not counters["graph_break"], counters


@pytest.mark.slow
def test_compiled_blocks_give_the_outputs_and_gradients_of_blocks_whatever_ran_before():
    """In a process whose shapes are not checked, as the checks cannot be compiled."""
    code = f"import runpy; runpy.run_path({__file__!r})['compare_compiled']()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_backend_that_torch_lacks_is_named():
    with pytest.raises(ValueError, match=r"compile_backend must be a backend of torch.compile, got 'inducto'; torch has .*inductor"):
        make_dit(compile_backend="inducto")


def test_every_nth_block_is_recomputed_with_the_same_gradients(monkeypatch):
    dit, counts, given = make_dit(), {}, inputs(2)
    blocks = list(dit.video_model.blocks)
    block = dit.fused_block

    def counted(*arguments: Any) -> Any:
        counts[blocks.index(arguments[0])] = counts.get(blocks.index(arguments[0]), 0) + 1
        return block(*arguments)

    wanted = results(dit, given)
    monkeypatch.setattr(dit, "fused_block", counted)
    for dit.recompute, runs in ((True, [2, 2, 2]), (2, [2, 1, 2]), (3, [2, 1, 1]), (False, [1, 1, 1])):
        counts.clear()
        found = results(dit, given)
        assert [counts[number] for number in range(3)] == runs
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_recomputing_fewer_blocks_takes_memory_between_all_and_none():
    dit, given = make_dit(), inputs(2)
    taken = {}
    for dit.recompute in (1, 2, 0):
        taken[dit.recompute] = footprint(dit, lambda: sum(v.square().mean() for v in dit(*given))).activations
    assert taken[1] < taken[2] < taken[0]
    with pytest.raises(ValueError, match="recompute must be true, false, or n >= 1"):
        make_dit(recompute=-1)
