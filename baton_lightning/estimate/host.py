"""Host memory of a node while a run starts, trains and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton_lightning.estimate.memory import Load
    from baton_lightning.estimate.parameters import Part


@dataclass(frozen=True)
class Host:
    """Bytes of a node's memory, without the processes themselves (about 5 GiB a rank) and the data's workers.

    Args:
        start: While networks are made and filled.
        training: What is offloaded, pinned.
        end: On rank 0's node while whole weights are gathered in float32 and written.
    """

    start: float
    training: float
    end: float

    @property
    def most(self) -> float:
        return max(self.start, self.training, self.training + self.end)


def host(model: Any, parts: list[Part], load: Load, strategy: str, ranks: int, offloaded: float) -> Host:
    """Host memory by strategy.

    Args:
        model: The stage, with networks on the meta device.
        parts: Its parameters.
        load: The run.
        strategy: A name of :func:`~baton_lightning.estimate.memory.peaks`.
        ranks: Processes on a node.
        offloaded: Bytes of a rank that lie in host memory.
    """
    from baton_lightning.frozen.llm import PretrainedLLM

    held, working = sum(part.num_bytes for part in parts), 2 if load.low else 4
    planner = getattr(model, "planner", None) or getattr(getattr(model, "plan", None), "planner", None)
    authors = 0  # a language model that starts from its authors' weights is read whole by every rank
    if planner is not None and isinstance(planner.language.llm, PretrainedLLM) and "planner" not in model.parents:
        authors = sum(p.numel() * p.element_size() for p in planner.language.llm.parameters())
    exported = load.trained + (0 if getattr(model, "not_exported", ()) else load.frozen)
    if strategy in ("none", "DDP"):
        return Host(ranks * held, 0, 4 * exported)
    if strategy in ("ZeRO-1", "ZeRO-2"):
        return Host(ranks * max(authors, working * (load.trained + load.frozen)), 0, 4 * exported)
    return Host(ranks * authors + 2 * 4 * load.largest, ranks * offloaded, 4 * exported)
