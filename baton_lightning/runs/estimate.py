"""`estimate`: what an experiment weighs before anything is downloaded or trained: tokens, parameters, memory of the model's states."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from baton_lightning.clip import ClipSpec

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
    )
    made.add_argument("-c", "--config", action="append", required=True, help="experiment file, as for `fit`; several overlay each other")
    made.add_argument("--gpus", type=int, help="GPUs the states are divided over (default: trainer.devices x trainer.num_nodes)")
    made.add_argument("--gpu-memory", type=float, default=80.0, help="memory of one, in GiB (default: %(default)s)")
    return made


def main(argv: list[str]) -> int:
    options, rest = parser().parse_known_args(argv)
    from rich.console import Console

    model, settings = build([*(word for file in options.config for word in ("-c", file)), *rest])
    trainer = settings.trainer
    gpus = options.gpus or max(1, int(trainer.devices if isinstance(trainer.devices, int) else 1) * int(trainer.num_nodes))
    parts = list(measure(model))
    console = Console()
    console.print(token_table(model.clip))
    console.print(parameter_table(type(model).__name__, parts))
    if hasattr(model, "dit"):
        console.print("Without plan attention and Latent-MLPs: {:,} parameters, of which fusion {:,}.".format(*backbone(model.dit)))
    console.print(state_table(parts, gpus, options.gpu_memory))
    console.print("[dim]Model states only: activations, buffers and fragmentation come on top.[/dim]")
    return 0


def build(argv: list[str]) -> tuple[Any, Any]:
    """The LightningModule of an experiment with networks on the meta device and no parent's weights, and its settings.

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
    with torch.device("meta"):
        model.build()
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
    plain = {name: p.numel() for name, p in dit.named_parameters() if "plan_attn." not in name and not name.startswith("latent_mlp.")}
    return sum(plain.values()), sum(count for name, count in plain.items() if "fusion" in name)


def token_table(clip: ClipSpec) -> Any:
    """Sequence lengths of a clip."""
    from rich.table import Table

    table = Table(title=f"{clip.seconds:g} s, {clip.width} x {clip.height} at {clip.fps:g} fps")
    for column in ("tokens of a clip", "grid", "number"):
        table.add_column(column, justify="right" if column == "number" else "left")
    rows = [
        ("video", " x ".join(map(str, clip.token_grid)), clip.num_video_tokens),
        ("audio", f"{clip.audio_latent_rate:g} / s", clip.num_audio_latents),
        ("planned video", " x ".join(map(str, clip.video_plan_grid)), clip.num_video_planned),
        ("planned audio", f"{clip.audio_plan_rate} / s", clip.num_audio_planned),
        ("text", "", clip.text_tokens),
    ]
    for name, grid, number in rows:
        table.add_row(name, grid, f"{number:,}")
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


def state_table(parts: list[Part], gpus: int, gpu_memory: float) -> Any:
    """Memory of the model's states on each GPU, and what fits."""
    from rich.table import Table

    table = Table(title=f"model states in bf16 with float32 masters and AdamW, on each of {gpus} x {gpu_memory:g} GiB")
    for column in ("strategy", "GiB", "verdict"):
        table.add_column(column, justify="right" if column == "GiB" else "left")
    for name, num_bytes in states(parts, gpus).items():
        gib = num_bytes / 2**30
        verdict = f"leaves {gpu_memory - gib:.1f} GiB for activations" if gib < gpu_memory else "does not fit"
        if name == "ZeRO-3" and gib >= gpu_memory:
            verdict += f"; {-(-int(num_bytes * gpus) // int(0.8 * gpu_memory * 2**30))} GPUs would do, a fifth of each left for activations"
        table.add_row(name, f"{gib:.2f}", verdict)
    return table
