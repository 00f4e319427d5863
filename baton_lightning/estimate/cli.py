"""`estimate`: what an experiment weighs before anything is downloaded or trained: tokens, parameters, memory on a GPU, days."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from baton_lightning.clip import ClipSpec
    from baton_lightning.estimate.footprint import Footprint

ADAMW_BYTES = 8
"""Of two moments in float32 for a trained parameter."""


@dataclass(frozen=True)
class Part:
    """Parameters of one piece of a model.

    Args:
        name: What it is.
        total: Its parameters.
        trained: Those that are trained.
        num_bytes: What they take in the type they are held in.
    """

    name: str
    total: int
    trained: int
    num_bytes: int


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m baton_lightning estimate",
        description=__doc__,
        epilog="Everything after the options below goes to the experiment, e.g. --clip.plan_grid '[9, 9]'. Nothing is read or downloaded: "
        "networks are built on the meta device, language models from their published sizes or a local config.json.",
        allow_abbrev=False,
    )
    made.add_argument("-c", "--config", action="append", required=True, help="experiment file, as for `fit`; several overlay each other")
    made.add_argument("--gpus", type=int, help="GPUs the states are divided over (default: trainer.devices x trainer.num_nodes)")
    made.add_argument("--gpu-memory", type=gigabytes, default=80.0, help="memory of one, in GiB, e.g. 80 or 80GB (default: %(default)s)")
    made.add_argument("--prompt-tokens", type=int, default=256, help="tokens of both prompts, for the planner (default: %(default)s)")
    made.add_argument("--clips", type=int, default=1_500_000, help="clips of the data set (default: %(default)s, the paper's)")
    made.add_argument("--tflops", type=float, default=989.0, help="peak of a GPU in bf16, in TFLOP/s (default: %(default)s, an H100)")
    made.add_argument("--mfu", type=float, default=0.4, help="share of that peak that training reaches (default: %(default)s, a guess)")
    return made


def gigabytes(text: str) -> float:
    """A number, with or without its unit, as cards are called."""
    return float(re.sub(r"(?i)\s*gi?b$", "", text))


def main(argv: list[str]) -> int:
    options, rest = parser().parse_known_args(argv)
    for name in ("gpus", "gpu_memory", "prompt_tokens", "clips", "tflops", "mfu"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"estimate: --{name.replace('_', '-')} must be positive and finite, got {value:g}")
    from rich.console import Console

    model, settings = build([*(word for file in options.config for word in ("-c", file)), *rest])
    trainer = settings.trainer
    gpus = options.gpus or max(1, int(trainer.devices if isinstance(trainer.devices, int) else 1) * int(trainer.num_nodes))
    parts = list(measure(model))
    console = Console()
    console.print(token_table(model.clip, settings.data.init_args.batch_size))
    console.print(parameter_table(type(model).__name__, parts))
    if hasattr(model, "dit"):
        console.print("Without plan attention and Latent-MLPs: {:,} parameters, of which fusion {:,}.".format(*backbone(model.dit)))
    console.print("[dim]Walking through a step on the meta device; at the paper's size this takes a minute.[/dim]")
    walked = {on: walk(model, on, options.prompt_tokens) for on in (True, False)}
    console.print(state_table(parts, walked, gpus, options.gpu_memory))
    console.print("[dim]On top come fragmentation, communication buffers and, under ZeRO-3, the layers gathered at a time.[/dim]")
    flops = walked[checkpoints(model)].flops
    days = flops * options.clips / (gpus * options.tflops * 1e12 * options.mfu) / 86400
    console.print(
        f"One step of one clip: {flops / 1e12:,.3g} TFLOP. One pass over {options.clips:,} clips: {days:,.3g} days "
        f"on {gpus} GPUs at {options.mfu:.0%} of {options.tflops:g} TFLOP/s."
    )
    return 0


def checkpoints(model: Any) -> bool:
    """Whether the experiment recomputes activations in the backward pass."""
    return (
        model.dit.recompute
        if hasattr(model, "dit")
        else bool(getattr(model.planner.language.llm.model, "is_gradient_checkpointing", False))
    )


def walk(model: Any, recompute: bool, prompt_tokens: int) -> Footprint:
    """One clip's step in bf16, with or without recomputation."""
    import copy

    import torch

    from baton_lightning.estimate.footprint import footprint, joint_step, planner_step

    model = copy.deepcopy(model).to(torch.bfloat16).train()
    if hasattr(model, "dit"):
        model.dit.recompute = recompute
        return footprint(model, joint_step(model, 1, torch.bfloat16, "meta", prompt_tokens))
    llm = model.planner.language.llm.model
    if recompute:
        llm.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif getattr(llm, "is_gradient_checkpointing", False):
        llm.gradient_checkpointing_disable()
    return footprint(model, planner_step(model, 1, torch.bfloat16, "meta", prompt_tokens))


def build(argv: list[str], device: str = "meta") -> tuple[Any, Any]:
    """The LightningModule of an experiment with networks as their factories make them, no parent's weights, and its settings.

    Raises:
        ValueError: If the experiment's module builds no networks of its own.
    """
    import torch

    from baton_lightning.cli import BatonCLI, WrongArguments
    from baton_lightning.config import expand

    class Blueprint(BatonCLI):
        """No trainer: the machine need not have the GPUs that the experiment asks for."""

        def add_arguments_to_parser(self, parser: Any) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--return_predictions", type=bool | None, default=None)  # an experiment of `predict` has it

        def instantiate_trainer(self, **kwargs: Any) -> None:
            return None

    unmade = ["--trainer.callbacks=null", "--trainer.logger=false", "--trainer.strategy=auto"]
    try:
        cli = Blueprint([*expand(argv), *unmade], run=False)
    except WrongArguments as error:
        raise ValueError(str(error)) from error
    model = cli.model
    if not hasattr(model, "build"):
        raise ValueError(f"estimate needs a training stage (a planner stage or JointTraining), got {type(model).__name__}")
    with torch.device(device):
        model.build()
    model.to(device)  # seeded tiny twins are made on the CPU, whatever the default
    return model, cli.config


def measure(model: nn.Module) -> Iterator[Part]:
    """Parameters of a stage, piece by piece; no parameter is counted twice."""
    for name, modules in pieces(model).items():
        parameters = [p for module in modules for p in module.parameters()]
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        yield Part(name, sum(p.numel() for p in parameters), trained, sum(p.numel() * p.element_size() for p in parameters))


def pieces(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The pieces that a person asks about, by name."""
    from torch import nn

    found: dict[str, list[nn.Module]] = {}
    planner = getattr(model, "planner", None) or getattr(getattr(model, "plan", None), "planner", None)
    if planner is not None:
        language, readout = planner.language, planner.readout
        found["language model"] = [language.llm]
        own = [p for name, p in language.named_parameters() if not name.startswith("llm.")]
        found["placeholders"] = [nn.ParameterList(own)]
        for name, child in readout.named_children():
            kind = "towers" if "tower" in name else "codebooks" if "codebook" in name else "Sem-MLPs"
            found.setdefault(kind, []).append(child)
    if (dit := getattr(model, "dit", None)) is not None:
        branches = {"video branch": dit.video_model, "audio branch": dit.audio_model}
        for name, branch in branches.items():
            plan = {id(p) for block in branch.blocks if getattr(block, "plan_attn", None) is not None for p in block.plan_attn.parameters()}
            found[name] = [nn.ParameterList([p for p in branch.parameters() if id(p) not in plan])]
        for name, branch in branches.items():
            layers = [block.plan_attn for block in branch.blocks if getattr(block, "plan_attn", None) is not None]
            if layers:
                found[f"plan attention, {name.split()[0]}"] = layers
        if list(dit.latent_mlp.parameters()):
            found["Latent-MLPs"] = [dit.latent_mlp]
    return found


def backbone(dit: nn.Module) -> tuple[int, int]:
    """Parameters of a dual-branch transformer without its plan layers, and how many of them let the branches read each other."""
    from baton_lightning.models.ovi import LACKS

    plain = {name: p.numel() for name, p in dit.named_parameters() if not any(lacking in name for lacking in LACKS)}
    return sum(plain.values()), sum(count for name, count in plain.items() if "fusion" in name)


def token_table(clip: ClipSpec, clips: int) -> Any:
    """Sequence lengths of a clip, and tokens of a step of so many clips."""
    from rich.table import Table

    table = Table(title=f"{clip.seconds:g} s, {clip.width} x {clip.height} at {clip.fps:g} fps")
    table.add_column("tokens")
    table.add_column("grid")
    table.add_column("of a clip", justify="right")
    table.add_column(f"of a step, {clips} clips", justify="right")
    rows = [
        ("video", " x ".join(map(str, clip.token_grid)), clip.num_video_tokens),
        ("audio", f"{clip.audio_latent_rate:g} / s", clip.num_audio_latents),
        ("planned video", " x ".join(map(str, clip.video_plan_grid)), clip.num_video_planned),
        ("planned audio", f"{clip.audio_plan_rate} / s", clip.num_audio_planned),
        ("text", "", clip.text_tokens),
    ]
    for name, grid, number in rows:
        table.add_row(name, grid, f"{number:,}", f"{number * clips:,}")
    return table


def parameter_table(stage: str, parts: list[Part]) -> Any:
    """Parameters by piece."""
    from rich.table import Table

    table = Table(title=stage, show_footer=True)
    totals = ["", *(f"{sum(getattr(p, field) for p in parts):,}" for field in ("total", "trained"))]
    for column, total in zip(("parameters", "all", "trained"), totals, strict=True):
        table.add_column(column, total, justify="left" if column == "parameters" else "right")
    for part in parts:
        table.add_row(part.name, f"{part.total:,}", f"{part.trained:,}")
    return table


def states(parts: list[Part], gpus: int) -> dict[str, float]:
    """Bytes on a GPU of bf16 working copies, gradients, float32 masters and AdamW's moments, by ZeRO stage (arXiv 1910.02054, Fig. 1)."""
    trained, frozen = sum(p.trained for p in parts), sum(p.total - p.trained for p in parts)
    weights, gradients, optimiser = 2.0 * trained, 2.0 * trained, (4.0 + ADAMW_BYTES) * trained
    return {
        "DDP": weights + gradients + optimiser + 2.0 * frozen,
        "ZeRO-1": weights + gradients + optimiser / gpus + 2.0 * frozen,
        "ZeRO-2": weights + (gradients + optimiser) / gpus + 2.0 * frozen,
        "ZeRO-3": (weights + gradients + optimiser + 2.0 * frozen) / gpus,
    }


def state_table(parts: list[Part], walked: dict[bool, Footprint], gpus: int, gpu_memory: float) -> Any:
    """Memory on each GPU with one clip a step, by strategy, with and without recomputation; and what would fit."""
    from rich.table import Table

    table = Table(title=f"GiB on each of {gpus} x {gpu_memory:g} GiB, one clip a GPU: states in bf16 with float32 masters, AdamW")
    for column in ("strategy", "states", "+ activations", "+ recomputed instead", "verdict"):
        table.add_column(column, justify="left" if column in ("strategy", "verdict") else "right")
    for name, num_bytes in states(parts, gpus).items():
        whole, recomputed = (num_bytes + walked[on].activations for on in (False, True))
        limit = gpu_memory * 2**30
        if whole < limit:
            verdict = "fits"
        elif recomputed < limit:
            verdict = "fits if activations are recomputed"
        else:
            verdict = "does not fit"
            if name == "ZeRO-3" and (room := 0.9 * limit - walked[True].activations) > 0:
                verdict += f"; {math.ceil(num_bytes * gpus / room)} GPUs would do"
        table.add_row(name, *(f"{b / 2**30:.3g}" for b in (num_bytes, whole, recomputed)), verdict)
    return table
