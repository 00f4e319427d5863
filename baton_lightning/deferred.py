"""Deferred construction: networks are constructed on the meta device, without memory, and materialised later, one tensor at a time.

Operations of constructors on tensors are recorded on a tape. Replaying the tape runs them in the same order with the same random draws, so
the values equal those of a network that is constructed directly. Initialisations that are overwritten later are not computed; only their
random draws are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

OVERWRITING = {"uniform_", "normal_", "fill_", "zero_", "copy_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_"}
"""In-place operations that do not depend on the previous values."""
SILENT = ("_no_grad_trunc_normal_", "orthogonal_", "sparse_", "dirac_")
"""Initialisers of ``torch.nn.init`` that silently do nothing on the meta device."""
UNRECORDED_CONVERSION = torch.__version__ < "2.13"
"""Whether ``module.to`` sets a parameter's data instead of making a new parameter, which a tape does not see; so in torch 2.11."""
CURRENT: ContextVar[Tape | None] = ContextVar("tape", default=None)


@dataclass(frozen=True)
class Step:
    """One operation on tensors of the meta device.

    Args:
        run: Executes the operation; called with a function that maps meta tensors to real ones, and the device.
        reads: Storages that the operation depends on.
        writes: Storages that it changes or creates.
        covers: Storages that it overwrites completely.
        draws: Whether it draws random numbers.
        references: Tensors that are kept alive, so that no storage id is reused.
    """

    run: Callable[[Callable[[Tensor], Tensor], torch.device], Sequence[tuple[Tensor, Tensor]]]
    reads: frozenset[int]
    writes: frozenset[int]
    covers: frozenset[int]
    draws: bool = False
    references: Any = field(default=None, repr=False)


class Tape(TorchDispatchMode):
    """Context that records operations on tensors of the meta device.

    Args:
        skip_pretrained: Whether the weights of pretrained networks are loaded elsewhere, so that their files need not be read.

    Note:
        ``orthogonal_``, ``sparse_`` and ``dirac_`` must be called as members of ``torch.nn.init``. They do nothing on the meta device, and
        functions that were imported by name cannot be intercepted.
    """

    def __init__(self, skip_pretrained: bool = False) -> None:
        super().__init__()
        self.skip_pretrained = skip_pretrained
        self.steps: list[Step] = []

    def __enter__(self) -> Tape:
        self.token = CURRENT.set(self)
        self.overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        if UNRECORDED_CONVERSION:
            torch.__future__.set_overwrite_module_params_on_conversion(True)
        self.initialisers = {name: getattr(torch.nn.init, name) for name in SILENT}
        for name, initialise in self.initialisers.items():
            setattr(torch.nn.init, name, self.recorded_initialiser(initialise))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, initialise in self.initialisers.items():
            setattr(torch.nn.init, name, initialise)
        torch.__future__.set_overwrite_module_params_on_conversion(self.overwrites)
        CURRENT.reset(self.token)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self.record(func, args, kwargs, output)
        return output

    def record(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Records an operation, unless it changes and creates no meta tensor."""
        inputs, outputs = (list(filter(is_meta, tree_flatten(values)[0])) for values in ((args, kwargs), output))
        known = {storage_id(t) for t in inputs}
        names = [argument.name for argument in func._schema.arguments]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        changed = [
            t
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for t in tree_flatten(arguments.get(argument.name))[0]
            if is_meta(t)
        ]
        new = [t for t in outputs if storage_id(t) not in known]
        if not changed and not new:
            return
        whole = [t for t in changed if func._schema.name.rpartition("::")[2] in OVERWRITING and covers_storage(t)]
        covered = {storage_id(t) for t in [*whole, *new]}
        sources = {storage_id(t) for t in inputs if not any(t is c for c in whole)}

        def run(real: Callable[[Tensor], Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
            def to_real(value: Any) -> Any:
                if isinstance(value, torch.device):
                    return device if value.type == "meta" else value
                return real(value) if is_meta(value) else value

            result = func(*tree_map(to_real, args), **tree_map(to_real, kwargs))
            pairs = zip(tree_flatten(output)[0], tree_flatten(result)[0], strict=True)
            return [(t, value) for t, value in pairs if any(t is n for n in new)]

        written = {storage_id(t) for t in [*changed, *new]}
        draws = torch.Tag.nondeterministic_seeded in func.tags
        self.steps.append(Step(run, frozenset(sources), frozenset(written), frozenset(covered), draws, (args, kwargs, output)))

    def recorded_initialiser(self, initialise: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A replacement of an initialiser that is recorded for meta tensors."""

        def initialise_later(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not tensor.is_meta:
                return initialise(tensor, *args, **kwargs)

            def run(real: Callable[[Tensor], Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
                initialise(real(tensor), *args, **kwargs)
                return []

            self.steps.append(overwriting_step(tensor, run, draws=True))
            return tensor

        return initialise_later

    def fill(self, target: Tensor, read: Callable[[], Tensor]) -> None:
        """Records that a meta tensor gets its values from a function.

        Args:
            target: Meta tensor.
            read: Returns the values, of any floating type; called during replay.
        """

        def run(real: Callable[[Tensor], Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
            real(target).copy_(read())
            return []

        self.steps.append(overwriting_step(target, run))

    @torch.no_grad()
    def replay(self, targets: Sequence[Tensor], device: torch.device, run: bool = True) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Materialises tensors, each after its last change, and releases it afterwards.

        Args:
            targets: Meta tensors.
            device: Device of the real tensors.
            run: Whether to materialise them; if not, they are only yielded in the same order.

        Yields:
            Each meta tensor with its real tensor, or with ``None``.
        """
        numbers = {storage_id(t) for t in targets}
        live, needed = set(numbers), [False] * len(self.steps)
        for at in reversed(range(len(self.steps))):
            step = self.steps[at]
            if step.writes & live:
                needed[at] = True
                live = (live - step.covers) | step.reads
        last_draw = max((at for at, step in enumerate(self.steps) if needed[at] and step.draws), default=-1)
        last_write = {n: at for at, step in enumerate(self.steps) if needed[at] for n in step.writes & numbers}
        done: dict[int, list[Tensor]] = {}
        for tensor in targets:
            done.setdefault(last_write[storage_id(tensor)], []).append(tensor)
        last_use = {n: at for at, step in enumerate(self.steps) if needed[at] for n in step.writes | step.reads}
        storages: dict[int, torch.UntypedStorage] = {}

        def real(tensor: Tensor, keep: bool = True) -> Tensor:
            number = storage_id(tensor)
            memory = storages.get(number)
            if memory is None:
                memory = torch.UntypedStorage(tensor.untyped_storage().nbytes(), device=device)
                if keep:
                    storages[number] = memory
            view = torch.empty(0, dtype=tensor.dtype, device=device)
            return view.set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride())

        for at, step in enumerate(self.steps):
            if run and needed[at]:
                for tensor, value in step.run(real, device):
                    if value.stride() == tensor.stride() and value.untyped_storage().nbytes() == tensor.untyped_storage().nbytes():
                        storages[storage_id(tensor)] = value.untyped_storage()
                    else:
                        real(tensor).copy_(value)
            elif run and step.draws and at < last_draw:
                step.run(lambda tensor: real(tensor, keep=False).zero_(), device)
            for tensor in done.get(at, ()):
                yield tensor, real(tensor) if run else None
            for number in (step.writes | step.reads) if needed[at] else ():
                if last_use[number] == at:
                    storages.pop(number, None)


def fill(target: Tensor, read: Callable[[], Tensor]) -> None:
    """Sets the values of a tensor: now, or during replay if it is a meta tensor."""
    if target.is_meta:
        tape = CURRENT.get()
        assert tape is not None, "a meta tensor can be filled only during deferred construction"
        tape.fill(target, read)
    else:
        with torch.no_grad(), immediate_construction():
            target.copy_(read())


def is_deferred() -> bool:
    """Whether construction is deferred at the moment."""
    return CURRENT.get() is not None


def skips_pretrained_weights() -> bool:
    """Whether pretrained networks constructed now need not read their weights, because these are loaded elsewhere."""
    return (tape := CURRENT.get()) is not None and tape.skip_pretrained


@contextmanager
def immediate_construction() -> Iterator[None]:
    """Context in which tensors are created directly, on the CPU, even during deferred construction."""
    with torch.device("cpu"), _disable_current_modes():
        yield


def overwriting_step(tensor: Tensor, run: Callable[..., list[tuple[Tensor, Tensor]]], draws: bool = False) -> Step:
    """A step that overwrites every element of a tensor."""
    number = frozenset({storage_id(tensor)})
    whole = covers_storage(tensor)
    return Step(run, frozenset() if whole else number, number, number if whole else frozenset(), draws, tensor)


def is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def storage_id(tensor: Tensor) -> int:
    """Identifier of a tensor's storage."""
    return tensor.untyped_storage()._cdata


def covers_storage(tensor: Tensor) -> bool:
    """Whether a tensor covers its whole storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes() and tensor.is_contiguous()
