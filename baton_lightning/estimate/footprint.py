"""Memory and operations of one training step, measured on the meta device: the peak of live tensors, and floating-point operations.

Every tensor of the step is counted with its true size while it is alive. No memory is allocated and nothing is computed. The same step on
real tensors of a tiny model gives the same peak (tests/estimate/test_footprint.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.models import towers
from baton_lightning.models.planner import VAPlanner, timed_plan

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CALLERS = (functional, towers)
"""Modules whose ``scaled_dot_product_attention`` is replaced; transformers calls the first one."""


@dataclass(frozen=True)
class Footprint:
    """One training step on one device.

    Args:
        activations: Bytes at the peak besides parameters, gradients and optimiser states.
        flops: Floating-point operations of forward and backward, including recomputation; causal attention counts half.
    """

    activations: int
    flops: int


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of live tensors that are created in its context, and their peak. Views count nothing.

    Args:
        device: Kind of device whose tensors are counted.

    Attributes:
        now: Bytes of live tensors.
        peak: Largest number of bytes so far.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, num_bytes: int) -> None:
        self.known.discard(key)
        self.now -= num_bytes


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention without materialised scores, as on every real device; the meta device's implementation would materialise them."""
    if not query.is_meta:
        return attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
    return ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def attention_flops(
    query: Any, key: Any, value: Any, dropout: float = 0.0, is_causal: bool = False, *, out_shape: Any = None, **options: Any
) -> int:
    """Operations of two products per head: scores and weighted values. Causal attention has half the scores. Shapes are [B, H, L, D]."""
    batch, heads, queries, width = query
    scores = sum(min(i + 1, key[2]) for i in range(queries)) if is_causal else queries * key[2]
    return 4 * batch * heads * scores * width


def attention_backward_flops(
    gradient: Any,
    query: Any,
    key: Any,
    value: Any,
    made: Any,
    logsumexp: Any,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    out_shape: Any = None,
    **options: Any,
) -> int:
    """Operations of five products: the scores again, and the gradients of scores, queries, keys and values."""
    return attention_flops(query, key, value, dropout, is_causal) * 5 // 2


def footprint(model: nn.Module, step: Callable[[], Tensor]) -> Footprint:
    """Footprint of forward and backward of ``step``.

    Args:
        model: The module; gradients are dropped before and after.
        step: Returns the loss.
    """
    mapping = {ATTENTION: attention_flops, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops}
    counter, live = FlopCounterMode(display=False, custom_mapping=mapping), LiveTensors(next(model.parameters()).device.type)
    hooks = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters() if p.requires_grad]
    live.known.update(tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers()))
    with flash():
        with live:
            step().backward()
        with counter:  # in a second pass, because it keeps tensors alive
            step().backward()
    for hook in hooks:
        hook.remove()
    return Footprint(live.peak, counter.get_total_flops())


def forward_peak(model: nn.Module, forward: Callable[[], object]) -> int:
    """Peak bytes of a forward pass without gradients, besides the model.

    Args:
        model: The module; its parameters and buffers are not counted.
        forward: The forward pass.
    """
    live = LiveTensors(next(model.parameters()).device.type)
    live.known.update(tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers()))
    with flash(), torch.no_grad(), live:
        forward()
    return live.peak


def forward_flops(forward: Callable[[], object]) -> int:
    """Floating-point operations of a forward pass on the meta device."""
    counter = FlopCounterMode(display=False, custom_mapping={ATTENTION: attention_flops})
    with flash(), torch.no_grad(), counter:
        forward()
    return counter.get_total_flops()


@contextmanager
def flash() -> Iterator[None]:
    """Context in which attention does not materialise its scores, and nothing is compiled."""
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in CALLERS:
            stack.enter_context(patch.object(module, "scaled_dot_product_attention", flash_attention))
        yield


def drop(parameter: Tensor) -> None:
    """Drops a gradient as soon as it exists. Gradients are counted with the model's states, which ZeRO partitions."""
    parameter.grad = None


def joint_step(model: Any, num_clips: int, dtype: torch.dtype, device: str, prompt: int = 0) -> Callable[[], Tensor]:
    """A step of a :class:`~baton_lightning.stages.joint.JointTraining` on blank clips. It includes the planner, if there is one."""
    clip: ClipSpec = model.clip

    def blank(*shape: int) -> Tensor:
        return torch.zeros(num_clips, *shape, dtype=dtype, device=device)

    def step() -> Tensor:
        video = blank(clip.video_channels, *clip.latent_grid)
        audio, context = blank(clip.num_audio_latents, clip.audio_channels), blank(clip.text_tokens, clip.text_width)
        planner = getattr(model.plan, "planner", None)
        with torch.no_grad():
            plan = blank_plan(clip, blank) if planner is None else planner_tokens(planner, num_clips, prompt, device)
        velocities = model.dit(video, audio, torch.zeros(num_clips, device=device), context, context, plan)
        return sum((v - clean).square().mean() for v, clean in zip(velocities, (video, audio), strict=True))

    return step


def planner_step(model: Any, num_clips: int, dtype: torch.dtype, device: str, prompt: int) -> Callable[[], Tensor]:
    """A step of a planner stage on blank features and prompts of ``prompt`` tokens."""

    def step() -> Tensor:
        target = blank_plan(model.clip, lambda *shape: torch.zeros(num_clips, *shape, dtype=dtype, device=device))
        plan = planner_tokens(model.planner, num_clips, prompt, device)
        return (plan.video - target.video).square().mean() + (plan.audio - target.audio).square().mean()

    return step


def blank_plan(clip: ClipSpec, blank: Callable[..., Tensor]) -> Plan:
    """A plan of zeros."""
    return timed_plan(clip, blank(clip.num_video_planned, clip.video_plan_width), blank(clip.num_audio_planned, clip.audio_plan_width))


def planner_tokens(planner: VAPlanner, num_clips: int, prompt: int, device: str) -> Plan:
    """The plan for prompts with a given number of tokens."""
    from transformers import masking_utils

    ids = torch.zeros(num_clips, prompt, dtype=torch.long, device=device)
    given = (ids, torch.full((num_clips,), prompt, device=device))
    with (
        patch.object(planner.language, "prompt_ids", lambda *texts: given),
        patch.object(masking_utils, "find_packed_sequence_indices", lambda positions: None),  # it reads values, which meta tensors lack
    ):
        return planner([""] * num_clips, [""] * num_clips)
