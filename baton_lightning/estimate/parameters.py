"""Networks of an experiment on the meta device, and the parameters of their parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Part:
    """Parameters of one part of a model.

    Args:
        name: Name of the part.
        total: Number of parameters.
        trained: Number of trained parameters.
        num_bytes: Bytes of the parameters.
    """

    name: str
    total: int
    trained: int
    num_bytes: int


def build(argv: list[str], device: str = "meta") -> tuple[Any, Any]:
    """The LightningModule of an experiment with its networks, without parents' weights, and its settings.

    Raises:
        ValueError: If the experiment's module builds no networks.
    """
    import torch

    from baton_lightning.cli import BatonCLI, WrongArguments
    from baton_lightning.config import expand

    class Blueprint(BatonCLI):
        """A command line without a trainer, so that the experiment's GPUs are not needed."""

        def add_arguments_to_parser(self, parser: Any) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--return_predictions", type=bool | None, default=None)  # an experiment of `predict` has it

        def before_instantiate_classes(self) -> None:
            super().before_instantiate_classes()
            self.asked = self.config.clone()
            self.config.trainer.callbacks, self.config.trainer.logger, self.config.trainer.strategy = None, False, "auto"

        def instantiate_trainer(self, **kwargs: Any) -> None:
            return None

    try:
        cli = Blueprint(expand(argv), run=False)
    except WrongArguments as error:
        raise ValueError(str(error)) from error
    model = cli.model
    if not hasattr(model, "build"):
        raise ValueError(f"estimate needs a training stage (a planner stage or JointTraining), got {type(model).__name__}")
    with torch.device(device):
        model.build()
    model.to(device)  # seeded tiny twins are always built on the CPU
    return model, cli.asked


def measure(model: nn.Module) -> Iterator[Part]:
    """Parameters of a stage, part by part; no parameter is counted twice."""
    for name, modules in pieces(model).items():
        parameters = [p for module in modules for p in module.parameters()]
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        yield Part(name, sum(p.numel() for p in parameters), trained, sum(p.numel() * p.element_size() for p in parameters))


def pieces(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Modules of each reported part, by its name."""
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
        if dit.plan_attention is not None:
            found["Latent-MLPs"] = [dit.latent_mlp]
    return found


def backbone(dit: nn.Module) -> tuple[int, int]:
    """Number of parameters of a dual-branch transformer without plan layers, and of its attention between branches."""
    from baton_lightning.models.ovi import PLAN_KEYS

    plain = {name: p.numel() for name, p in dit.named_parameters() if not any(plan_key in name for plan_key in PLAN_KEYS)}
    return sum(plain.values()), sum(count for name, count in plain.items() if "fusion" in name)
