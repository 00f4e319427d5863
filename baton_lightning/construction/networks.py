"""How a stage's networks come to be: made without memory, then filled tensor by tensor from whatever their weights come from.

Weights come from a parent's files, from a constructor's own draws, or from the checkpoint that a run goes on from, in this order. Of a
network that ZeRO-3 shards, rank 0 makes one tensor at a time, and each rank keeps its share.
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


def construct(module: LightningModule, build: Callable[[], None], take_over: Callable[[], None], *, given: bool) -> None:
    """Makes the networks of a LightningModule in its ``configure_model``.

    Numbers are those of networks that are made at once, as constructors and hand-overs would leave them. Ranks of ZeRO-3 start from
    rank 0's weights.

    Args:
        module: The module.
        build: Sets the networks as attributes.
        take_over: Hands parents' weights over.
        given: Whether parents or a checkpoint hold every weight of pretrained networks, so that these need not be read.

    Note:
        A pretrained network that starts from its authors' weights, and one whose constructor looks at numbers, which there are none of
        yet, are made at once and whole on every rank.
    """
    strategy = getattr(module._trainer, "strategy", None)
    device = torch.get_default_device()
    with unsharded(zero_stage(strategy) == 3), emptied_if_it_fails(module):
        tape = Tape(given)
        try:
            with tape:
                with torch.device("meta"):
                    build()
                make_buffers(module, tape, device)
                take_over()
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise
            log.warning("every rank makes its networks at once and whole: %s", str(error).splitlines()[0])
            tape = Tape()
            build()
            take_over()
        for parameter in from_checkpoint(module):
            tape.fill(parameter, partial(nothing, parameter.shape, parameter.dtype))
        if zero_stage(strategy) == 3:
            shard(module, tape, strategy, device)
        else:
            dtype, places = half_precision(strategy), Places(module)
            for tensor, value in tape.replay(deferred(module.parameters()), device):
                assert value is not None
                places.put(tensor, cast(value, dtype))
    assert not any(tensor.is_meta for tensor in module.state_dict(keep_vars=True).values()), "a tensor was never made"
    assert not any(buffer.is_meta for buffer in module.buffers()), "a buffer was never made"


@contextmanager
def unsharded(shards: bool) -> Iterator[None]:
    """Networks that are made inside are left as they are, where ZeRO-3 would take each layer apart once its constructor returns."""
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
def emptied_if_it_fails(module: nn.Module) -> Iterator[None]:
    """Leaves nothing on the meta device if an error ends the construction: a trainer moves its module to the CPU when it gives up."""
    try:
        yield
    except BaseException:
        places = Places(module)
        for tensor in deferred([*module.parameters(), *module.buffers()]):
            places.put(tensor, torch.empty(0, dtype=tensor.dtype, device="cpu"))
        raise


def shard(module: LightningModule, tape: Tape, strategy: Any, device: torch.device) -> None:
    """Makes a module's parameters one by one on rank 0, and lets every rank keep its share of each."""
    import deepspeed

    dtype, first = half_precision(strategy), torch.distributed.get_rank() == 0
    init = deepspeed.zero.Init(config_dict_or_path=strategy.config, remote_device=strategy.remote_device)
    places = Places(module)
    for tensor, value in tape.replay(deferred(module.parameters()), device, run=first):
        if value is None:
            value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        made = places.put(tensor, cast(value, dtype))
        init._convert_to_zero_parameters([made])  # what Init does for each parameter of a module that is there: broadcast, partition
    if dtype is not None:
        for parameter in module.parameters():  # buffers and metrics keep their digits, as under ZeRO-1 and 2
            if not hasattr(parameter, "ds_id"):
                parameter.data = cast(parameter.data, dtype)
    deepspeed.zero.Init(module=module, config_dict_or_path=strategy.config, remote_device=strategy.remote_device)
    module.to(init.local_device)  # buffers and metrics; of parameters only shards are left, and these stay where they are


def cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor in half precision, if the strategy keeps masters and it is of floating point."""
    return value if dtype is None or not value.is_floating_point() else value.to(dtype)


def deferred(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that are not made yet."""
    return [tensor for tensor in tensors if tensor.is_meta]


def make_buffers(module: nn.Module, tape: Tape, device: torch.device) -> None:
    """Makes a module's buffers and the tensors that are attributes, which are small, on every rank.

    What is drawn for them is drawn again when parameters are made.
    """
    places = Places(module)
    attributes = [value for owner in module.modules() for value in vars(owner).values() if isinstance(value, Tensor)]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for tensor, value in tape.replay(deferred([*module.buffers(), *attributes]), device):
            assert value is not None
            places.put(tensor, value.clone())


class Places:
    """Where a module keeps its tensors of the meta device.

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
        """Puts a real tensor in the places of one of the meta device, and gives what is there now."""
        made = nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        made.__dict__.update(tensor.__dict__)
        for members, name in self.of[id(tensor)]:
            members[name] = made
        return made


def nothing(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """What stands in a parameter until a checkpoint is loaded: no number, so that one that is not loaded cannot pass unseen."""
    return torch.full(shape, torch.nan, dtype=dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


# ---- runs that go on from a checkpoint
def from_checkpoint(module: LightningModule) -> list[nn.Parameter]:
    """Parameters, not made yet, that the checkpoint which the module goes on from holds."""
    if goes_on_from(module) is None:
        return []
    lacks = left_out(module)
    return [parameter for name, parameter in module.named_parameters() if parameter.is_meta and name not in lacks]


def restored(module: LightningModule, part: nn.Module) -> bool:
    """Whether a module goes on from a checkpoint that holds every parameter of one of its parts."""
    if goes_on_from(module) is None:
        return False
    lacks, own = left_out(module), {id(parameter) for parameter in part.parameters()}
    return not any(id(parameter) in own for name, parameter in module.named_parameters(remove_duplicate=False) if name in lacks)


def goes_on_from(module: nn.Module) -> Path | None:
    """The checkpoint that will be loaded into a module once its networks are there; the command line says so."""
    return getattr(module, "goes_on_from", None)


def begun_with(module: nn.Module, role: str) -> str | None:
    """Digest of a parent's weights when the run began, if it goes on from a checkpoint and knows it."""
    known = getattr(module, "begun_with", {}).get(role, {}).get("weights_sha256", UNKNOWN)
    return None if known == UNKNOWN else known


def left_out(module: nn.Module) -> set[str]:
    """Names of what the checkpoint that a module goes on from does not hold: frozen parameters of shards that were saved without
    them, else what belongs to another run."""
    checkpoint = goes_on_from(module)
    if checkpoint is None:
        return set()
    if checkpoints.leaves_frozen_out(checkpoint):
        return {name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    foreign = tuple(getattr(module, "not_exported", ()))
    return set() if checkpoint.is_dir() or not foreign else {name for name in module.state_dict() if name.startswith(foreign)}


class Resumable(LightningModule):
    """A LightningModule that loads checkpoints strictly, also those that leave out what it has from elsewhere: its own weights stay."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        lacks = left_out(self) - state_dict.keys()
        own = {name: value for name, value in self.state_dict().items() if name in lacks} if lacks else {}
        return super().load_state_dict({**own, **state_dict}, strict, assign)


class Loaded(Callback):
    """Refuses to train on parameters that no checkpoint and no parent gave a number."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs once everything is loaded.

        Raises:
            ValueError: If there are such; the message names them.
        """
        empty = [name for name, parameter in pl_module.named_parameters() if getattr(parameter, "ds_tensor", parameter).isnan().any()]
        if empty:
            raise ValueError(
                f"{len(empty)} parameters are not in {goes_on_from(pl_module)}, or hold no numbers there: {', '.join(empty[:3])}; go on "
                "from another checkpoint, or begin again with --resume never"
            )
