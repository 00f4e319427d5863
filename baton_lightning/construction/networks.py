"""Construction of a stage's networks: deferred, then materialised tensor by tensor.

Weights are loaded from a parent's files, initialised by constructors, or loaded from the checkpoint to resume from. Under ZeRO-3, rank 0
materialises one tensor at a time, and each rank keeps its partition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from baton_lightning.construction.sharding import half_precision, zero_stage
from baton_lightning.deferred import Tape, is_meta
from baton_lightning.runs import checkpoints
from baton_lightning.runs.parents import UNKNOWN

log = logging.getLogger(__name__)


def construct(module: LightningModule, build: Callable[[], None], load_parents: Callable[[], None], *, skip_pretrained: bool) -> None:
    """Constructs the networks of a LightningModule in its ``configure_model``.

    The values equal those of direct construction followed by hand-overs. Ranks of ZeRO-3 start from rank 0's weights.

    Args:
        module: The module.
        build: Sets the networks as attributes.
        load_parents: Loads the parents' weights.
        skip_pretrained: Whether parents or a checkpoint hold all weights of pretrained networks, so that their files need not be read.

    Note:
        A pretrained network that starts from its released weights, or a network whose constructor reads values of tensors, is constructed
        directly and completely on every rank.
    """
    strategy = getattr(module._trainer, "strategy", None)
    device = torch.get_default_device()
    with without_partitioning(zero_stage(strategy) == 3), no_meta_tensors_after_errors(module):
        tape = Tape(skip_pretrained)
        try:
            with tape:
                with torch.device("meta"):
                    build()
                make_buffers(module, tape, device)
                load_parents()
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise
            log.warning("every rank constructs its networks directly and completely: %s", str(error).splitlines()[0])
            tape = Tape()
            build()
            load_parents()
        for parameter in from_checkpoint(module):
            tape.fill(parameter, partial(unset_values, parameter.shape, parameter.dtype))
        if zero_stage(strategy) == 3:
            shard(module, tape, strategy, device)
        else:
            dtype, slots = half_precision(strategy), TensorSlots(module)
            for tensor, value in tape.replay(deferred(module.parameters()), device):
                assert value is not None
                slots.put(tensor, cast(value, dtype))
    assert not any(tensor.is_meta for tensor in module.state_dict(keep_vars=True).values()), "a tensor was never made"
    assert not any(buffer.is_meta for buffer in module.buffers()), "a buffer was never made"


@contextmanager
def without_partitioning(shards: bool) -> Iterator[None]:
    """Context in which ZeRO-3 does not partition layers after their constructors."""
    if not shards:
        yield
        return
    from deepspeed.runtime.zero.partition_parameters import restore_init_context, shutdown_init_context

    shutdown_init_context()
    try:
        yield
    finally:
        restore_init_context()


@contextmanager
def no_meta_tensors_after_errors(module: nn.Module) -> Iterator[None]:
    """Replaces meta tensors by empty ones after an error, because the trainer moves its module to the CPU afterwards."""
    try:
        yield
    except BaseException:
        slots = TensorSlots(module)
        for tensor in deferred([*module.parameters(), *module.buffers()]):
            slots.put(tensor, torch.empty(0, dtype=tensor.dtype, device="cpu"))
        raise


def shard(module: LightningModule, tape: Tape, strategy: Any, device: torch.device) -> None:
    """Materialises a module's parameters one by one on rank 0; every rank keeps its partition of each.

    Raises:
        ValueError: If parameters are integers: ZeRO-3 holds all in one floating type.
    """
    import deepspeed

    if codes := [name for name, parameter in module.named_parameters() if not parameter.is_floating_point()]:
        raise ValueError(f"ZeRO-3 does not partition weights in int8, got {codes[0]}; leave out lora.base, or use another strategy")
    dtype, first = half_precision(strategy), torch.distributed.get_rank() == 0
    init = deepspeed.zero.Init(config_dict_or_path=strategy.config, remote_device=strategy.remote_device)
    slots = TensorSlots(module)
    for tensor, value in tape.replay(deferred(module.parameters()), device, run=first):
        if value is None:
            value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        real = slots.put(tensor, cast(value, dtype))
        init._convert_to_zero_parameters([real])  # as Init does for each parameter of an existing module: broadcast, partition
    if dtype is not None:
        for parameter in module.parameters():  # buffers and metrics keep full precision, as under ZeRO-1 and 2
            if not hasattr(parameter, "ds_id"):
                parameter.data = cast(parameter.data, dtype)
    deepspeed.zero.Init(module=module, config_dict_or_path=strategy.config, remote_device=strategy.remote_device)
    module.to(init.local_device)  # moves buffers and metrics; partitions of parameters stay where they are


def cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A floating-point tensor in ``dtype``; other tensors, and all if ``dtype`` is ``None``, are unchanged."""
    return value if dtype is None or not value.is_floating_point() else value.to(dtype)


def deferred(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that are not materialised yet."""
    return [tensor for tensor in tensors if tensor.is_meta]


def make_buffers(module: nn.Module, tape: Tape, device: torch.device) -> None:
    """Materialises a module's buffers and tensor attributes, which are small, on every rank.

    Their random draws are repeated when parameters are materialised.
    """
    slots = TensorSlots(module)
    attributes = [value for owner in module.modules() for value in vars(owner).values() if isinstance(value, Tensor)]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for tensor, value in tape.replay(deferred([*module.buffers(), *attributes]), device):
            assert value is not None
            slots.put(tensor, value.clone())


class TensorSlots:
    """The attributes of a module and its submodules that hold meta tensors.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.of: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for owner in module.modules():
            for members in (owner._parameters, owner._buffers, vars(owner)):
                for name, member in members.items():
                    if is_meta(member):
                        self.of.setdefault(id(member), []).append((members, name))

    def put(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Replaces a meta tensor by a real one in all its attributes, and returns the new tensor or parameter."""
        real = nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        real.__dict__.update(tensor.__dict__)
        for members, name in self.of[id(tensor)]:
            members[name] = real
        return real


def unset_values(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Values of a parameter before a checkpoint is loaded: NaN, so that a parameter that is not loaded is detected."""
    return torch.full(shape, torch.nan, dtype=dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


# ---- resumed runs
def from_checkpoint(module: LightningModule) -> list[nn.Parameter]:
    """Parameters, not materialised yet, that the checkpoint to resume from contains."""
    if resume_checkpoint(module) is None:
        return []
    missing = missing_from_checkpoint(module)
    return [parameter for name, parameter in module.named_parameters() if parameter.is_meta and name not in missing]


def restored(module: LightningModule, part: nn.Module) -> bool:
    """Whether a module resumes from a checkpoint that contains every parameter of one of its parts."""
    if resume_checkpoint(module) is None:
        return False
    missing, own = missing_from_checkpoint(module), {id(parameter) for parameter in part.parameters()}
    return not any(id(parameter) in own for name, parameter in module.named_parameters(remove_duplicate=False) if name in missing)


def resume_checkpoint(module: nn.Module) -> Path | None:
    """The checkpoint that will be loaded into a module after construction, set by the command line; ``None`` = none."""
    return getattr(module, "resume_checkpoint", None)


def parents_at_start(module: nn.Module, role: str) -> str | None:
    """Digest of a parent's weights at the start of a resumed run; ``None`` = unknown, or not resumed."""
    known = getattr(module, "parents_at_start", {}).get(role, {}).get("weights_sha256", UNKNOWN)
    return None if known == UNKNOWN else known


def missing_from_checkpoint(module: nn.Module) -> set[str]:
    """Names of weights that the checkpoint to resume from does not contain: frozen parameters if it was saved without them, and weights of
    other runs."""
    checkpoint = resume_checkpoint(module)
    if checkpoint is None:
        return set()
    frozen = frozen_names(module) if checkpoints.lacks_frozen(checkpoint) else set()
    foreign = () if checkpoint.is_dir() else tuple(getattr(module, "not_exported", ()))
    return frozen | {name for name in module.state_dict() if foreign and name.startswith(foreign)}


def frozen_names(module: nn.Module) -> set[str]:
    """Names of a module's parameters that are not trained."""
    return {name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


class Resumable(LightningModule):
    """A LightningModule that loads checkpoints strictly; weights that a checkpoint deliberately lacks keep their values."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        missing = missing_from_checkpoint(self) - state_dict.keys()
        own = {name: value for name, value in self.state_dict().items() if name in missing} if missing else {}
        return super().load_state_dict({**own, **state_dict}, strict, assign)


class Loaded(Callback):
    """Refuses to train with parameters that neither a checkpoint nor a parent has set."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called after everything is loaded.

        Raises:
            ValueError: If a parameter has NaN values; the message names it.
        """
        empty = [name for name, parameter in pl_module.named_parameters() if getattr(parameter, "ds_tensor", parameter).isnan().any()]
        if empty:
            raise ValueError(
                f"{len(empty)} parameters are not in {resume_checkpoint(pl_module)}, or are NaN there: {', '.join(empty[:3])}; resume "
                "from another checkpoint, or start again with --resume never"
            )
