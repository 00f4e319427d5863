"""Host memory of a node at the start, during training and at the end of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton_lightning.estimate.memory import Load
    from baton_lightning.estimate.sampling import Sampling


@dataclass(frozen=True)
class Host:
    """Bytes of a node's memory, without the processes themselves (about 5 GiB per rank) and without the data loader's workers.

    Args:
        start: Peak during the construction of networks.
        training: Offloaded and pinned tensors, and frozen networks for samples.
        end: Memory on rank 0's node while weights are gathered in float32 and written.
    """

    start: float
    training: float
    end: float

    @property
    def most(self) -> float:
        return max(self.start, self.training + self.end)


def host(model: Any, load: Load, ranks: int, offloaded: float, sampled: Sampling | None) -> Host:
    """Host memory of a node.

    Construction is deferred, and tensors are materialised one by one (:mod:`~baton_lightning.construction.networks`). This happens on the
    GPU, or under ZeRO-3 on the CPU, where every rank holds the tensor that is broadcast.

    Args:
        model: The stage, with networks on the meta device.
        load: The run.
        ranks: Number of processes on a node.
        offloaded: Bytes of a rank in host memory.
        sampled: Memory of samples; every rank builds the text encoder once, on the CPU.
    """
    from baton_lightning.frozen.llm import PretrainedLLM

    planner = getattr(model, "planner", None) or getattr(getattr(model, "plan", None), "planner", None)
    authors = 0  # every rank reads all released weights of a language model that starts from them
    if planner is not None and isinstance(planner.language.llm, PretrainedLLM) and "planner" not in model.parents:
        authors = sum(p.numel() * p.element_size() for p in planner.language.llm.parameters())
    frozen = ranks * sampled.text if sampled is not None else 0
    exported = load.trained + (0 if getattr(model, "not_exported", ()) else load.frozen)
    reading = (4 + (2 if load.low else 0)) * load.largest  # one tensor, in float32 and in the working type
    return Host(ranks * (authors + reading), ranks * offloaded + frozen, 4 * exported)
