"""`estimate`: tokens, parameters, memory on a GPU and training time of an experiment, before anything is downloaded or trained."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from baton_lightning.arguments import Parser

if TYPE_CHECKING:
    from baton_lightning.estimate.footprint import Footprint
    from baton_lightning.estimate.memory import Load
    from baton_lightning.estimate.parameters import Part


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m baton_lightning estimate",
        description=__doc__,
        epilog="Further arguments are overrides of the experiment, e.g. --clip.plan_grid '[9, 9]'. Nothing is read or downloaded: "
        "networks are built on the meta device, language models and codecs from their published sizes or a local config.json.",
        allow_abbrev=False,
    )
    made.add_argument("-c", "--config", action="append", required=True, help="experiment file, as for `fit`; several overlay each other")
    made.add_argument("--gpus", type=int, help="number of GPUs that shard the states (default: trainer.devices x trainer.num_nodes)")
    made.add_argument(
        "--prompt-tokens", type=int, default=256, help="tokens of both prompts in the planner's sequence (default: %(default)s)"
    )
    made.add_argument("--clips", type=int, default=1_500_000, help="clips of the data set (default: %(default)s, the paper's)")
    made.add_argument(
        "--tflops", type=float, default=989.0, help="peak throughput of a GPU in bf16, in TFLOP/s (default: %(default)s, an H100)"
    )
    made.add_argument(
        "--mfu",
        type=float,
        default=0.28,
        help="model FLOPs utilisation, the share of the peak that is reached (default: %(default)s, measured with recomputation and "
        "ZeRO-2 on an H100)",
    )
    return made


def main(argv: list[str]) -> int:
    options, rest = parser().parse_known_args(argv)
    for name in ("gpus", "prompt_tokens", "clips", "tflops", "mfu"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"estimate: --{name.replace('_', '-')} must be positive and finite, got {value:g}")
    from rich.console import Console

    from baton_lightning.estimate import memory, tables
    from baton_lightning.estimate.geometries import clips_of_step, largest, overrides
    from baton_lightning.estimate.host import host
    from baton_lightning.estimate.parameters import backbone, build, measure
    from baton_lightning.estimate.sampling import sampling

    words = [*(word for file in options.config for word in ("-c", file)), *rest]
    model, settings = build(words)
    steps = clips_of_step(settings.data.init_args, model.clip)
    name = largest(steps, model.clip)
    if name != model.clip.name:
        model, settings = build([*words, *overrides(model.clip.starting_with(name))])
    trainer = settings.trainer
    devices = max(1, trainer.devices) if isinstance(trainer.devices, int) else 1
    gpus = options.gpus or devices * int(trainer.num_nodes)
    clips = math.ceil(steps[name] / gpus)
    parts = list(measure(model))
    console = Console()
    for geometry, count in steps.items():
        console.print(tables.tokens(model.clip.at(geometry), count))
    if len(steps) > 1:
        console.print(f"Memory and time below are those of {name}, whose steps have the most tokens.")
    console.print(tables.parameters(type(model).__name__, parts))
    if hasattr(model, "dit"):
        console.print("Without plan attention and Latent-MLPs: {:,} parameters, of which fusion {:,}.".format(*backbone(model.dit)))
    console.print("[dim]Tracing a step on the meta device; at the paper's size this takes a minute.[/dim]")
    own = checkpoints(model)
    walked = {on: walk(model, on and (own or True), clips, options.prompt_tokens) for on in (True, False)}
    recomputes = bool(own)
    sampled = sampling(model, settings, clips, options.prompt_tokens)
    load = weigh(model, settings, parts, walked[recomputes], 0 if sampled is None else sampled.most)
    sizes = memory.buckets(trainer.strategy)
    found = memory.peaks(load, gpus, sizes)
    node = min(gpus, devices) if isinstance(trainer.devices, int) and trainer.devices > 0 else min(gpus, 8)
    hosts = {name: host(model, load, node, peak.offloaded, sampled) for name, peak in found.items()}
    console.print(tables.memory(found, hosts, gpus, clips, sampled is not None))
    if "ZeRO-3" in found:
        console.print(tables.fewest(load, sizes))
    disk, perceives = load.checkpoint(memory.saves_frozen(trainer.strategy)), bool(getattr(settings.model.init_args, "features", None))
    console.print(tables.assumptions(load, sizes, walked, recomputes, sampled, hosts, node, disk, kept(settings), perceives))
    once, done = walked[False].flops / clips, walked[recomputes].flops / clips
    days = once * options.clips / (gpus * options.tflops * 1e12 * options.mfu) / 86400
    repeated = f", {done / 1e12:,.3g} with its repeated forward" if recomputes else ""
    console.print(
        f"One clip: {once / 1e12:,.3g} TFLOP forward and backward{repeated}. "
        f"One pass over {options.clips:,} clips: {days:,.3g} days on {gpus} GPUs at {options.mfu:.0%} MFU of {options.tflops:g} TFLOP/s; "
        "a repeated forward is no part of MFU."
    )
    return 0


def checkpoints(model: Any) -> bool | int:
    """Whether the experiment recomputes activations in the backward pass (activation checkpointing); n = in every n-th block."""
    from baton_lightning.frozen.activation_checkpointing import is_checkpointing

    return model.dit.recompute if hasattr(model, "dit") else is_checkpointing(model.planner.language.llm.model)


def walk(model: Any, recompute: bool | int, clips: int, prompt_tokens: int) -> Footprint:
    """Footprint of a step with a number of clips in bf16, with or without recomputation."""
    import copy

    import torch

    from baton_lightning.estimate.footprint import footprint, joint_step, planner_step
    from baton_lightning.frozen.activation_checkpointing import set_checkpointing

    model = copy.deepcopy(model).to(torch.bfloat16).train()
    if hasattr(model, "dit"):
        model.dit.recompute = recompute
        return footprint(model, joint_step(model, clips, torch.bfloat16, "meta", prompt_tokens))
    set_checkpointing(model.planner.language.llm.model, bool(recompute))
    return footprint(model, planner_step(model, clips, torch.bfloat16, "meta", prompt_tokens))


def weigh(model: Any, settings: Any, parts: list[Part], walked: Footprint, sampling: int) -> Load:
    """Memory load of a run of the experiment."""
    from baton_lightning.estimate.memory import Load
    from baton_lightning.estimate.optimiser import cost
    from baton_lightning.optim import parameter_groups

    groups = [group["params"] for group in parameter_groups(model, getattr(model, "rates", None))]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    callbacks = settings.trainer.callbacks or []
    return Load(
        groups=tuple(sum(p.numel() for p in group) for group in groups),
        largest=max(p.numel() for group in groups for p in group),
        frozen=sum(p.numel() for p in frozen),
        frozen_bytes=sum(p.numel() * p.element_size() for p in frozen),
        low=str(settings.trainer.precision).startswith(("16", "bf16")),
        cost=cost(model.make_optimizer),
        average=any(callback.class_path == "callbacks.ema.EMA" for callback in callbacks),
        activations=walked.activations,
        sampling=sampling,
        frozen_codes=sum(p.numel() for p in frozen if not p.is_floating_point()),
    )


def kept(settings: Any) -> int:
    """Number of checkpoints of a run on disk: that of its checkpoint callback, or 1, Lightning's default."""
    callbacks = settings.trainer.callbacks or []
    saver = next((callback for callback in callbacks if callback.class_path == "baton_lightning.runs.saving.AtomicCheckpoint"), None)
    return 1 if saver is None else int(saver.init_args.save_top_k)
