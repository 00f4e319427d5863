"""Deferred construction: networks are made on the meta device, where they take no memory, and filled later, one tensor at a time.

What constructors do to tensors is kept in order, as on a tape. Played back, it runs in the same order and with the same draws, so the
numbers are those of a network that was made at once; but of the first of two initialisations, or of one that a parent's weights
overwrite, only the draws remain.
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
"""Operations in place that do not depend on what was there before."""
SILENT = ("_no_grad_trunc_normal_", "orthogonal_", "sparse_", "dirac_")
"""Initialisers of ``torch.nn.init`` that return at once on the meta device, without a word."""
CURRENT: ContextVar[Tape | None] = ContextVar("tape", default=None)


@dataclass(frozen=True)
class Step:
    """One operation on tensors of the meta device.

    Args:
        run: Does it; called with the function that turns a tensor of the meta device into a real one, and the device.
        reads: Storages it depends on.
        writes: Storages it changes or makes.
        covers: Those of them that it determines wholly.
        draws: Whether it draws random numbers.
        kept: What must live as long as the step, so that no storage's number is used twice.
    """

    run: Callable[[Callable[[Tensor], Tensor], torch.device], Sequence[tuple[Tensor, Tensor]]]
    reads: frozenset[int]
    writes: frozenset[int]
    covers: frozenset[int]
    draws: bool = False
    kept: Any = field(default=None, repr=False)


class Tape(TorchDispatchMode):
    """Keeps what is done to tensors of the meta device while it is entered.

    Args:
        given: Whether all weights of pretrained networks come from elsewhere, so that their architecture is enough.

    Note:
        ``orthogonal_``, ``sparse_`` and ``dirac_`` have to be called as members of ``torch.nn.init``: they do nothing on the meta device,
        and a function that was imported by its own name cannot be seen here.
    """

    def __init__(self, given: bool = False) -> None:
        super().__init__()
        self.given = given
        self.steps: list[Step] = []

    def __enter__(self) -> Tape:
        self.token = CURRENT.set(self)
        self.initialisers = {name: getattr(torch.nn.init, name) for name in SILENT}
        for name, initialise in self.initialisers.items():
            setattr(torch.nn.init, name, self.kept(initialise))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, initialise in self.initialisers.items():
            setattr(torch.nn.init, name, initialise)
        CURRENT.reset(self.token)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self.keep(func, args, kwargs, made)
        return made

    def keep(self, func: Any, args: Any, kwargs: Any, made: Any) -> None:
        """Puts an operation on the tape, unless it only looks or works on real tensors."""
        inputs, outputs = (list(filter(is_meta, tree_flatten(values)[0])) for values in ((args, kwargs), made))
        known = {storage(t) for t in inputs}
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        changed = [
            t
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for t in tree_flatten(given.get(argument.name))[0]
            if is_meta(t)
        ]
        new = [t for t in outputs if storage(t) not in known]
        if not changed and not new:
            return
        whole = [t for t in changed if func._schema.name.rpartition("::")[2] in OVERWRITING and covers(t)]
        covered = {storage(t) for t in [*whole, *new]}
        sources = {storage(t) for t in inputs if not any(t is c for c in whole)}

        def run(real: Callable[[Tensor], Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
            def put(value: Any) -> Any:
                if isinstance(value, torch.device):
                    return device if value.type == "meta" else value
                return real(value) if is_meta(value) else value

            result = func(*tree_map(put, args), **tree_map(put, kwargs))
            pairs = zip(tree_flatten(made)[0], tree_flatten(result)[0], strict=True)
            return [(t, value) for t, value in pairs if any(t is n for n in new)]

        written = {storage(t) for t in [*changed, *new]}
        draws = torch.Tag.nondeterministic_seeded in func.tags
        self.steps.append(Step(run, frozenset(sources), frozenset(written), frozenset(covered), draws, (args, kwargs, made)))

    def kept(self, initialise: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """An initialiser that is put on the tape where it would do nothing."""

        def initialise_later(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not tensor.is_meta:
                return initialise(tensor, *args, **kwargs)

            def run(real: Callable[[Tensor], Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
                initialise(real(tensor), *args, **kwargs)
                return []

            self.steps.append(overwriting(tensor, run, draws=True))
            return tensor

        return initialise_later

    def fill(self, target: Tensor, read: Callable[[], Tensor]) -> None:
        """Lets a tensor of the meta device get its values from elsewhere.

        Args:
            target: Tensor of the meta device.
            read: Gives the values, of any floating type; called when the tensor is made.
        """

        def run(real: Callable[[Tensor], Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
            real(target).copy_(read())
            return []

        self.steps.append(overwriting(target, run))

    @torch.no_grad()
    def play(self, wanted: Sequence[Tensor], device: torch.device, run: bool = True) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Makes tensors, each as soon as nothing more changes it, and forgets it afterwards.

        Args:
            wanted: Tensors of the meta device.
            device: Where to make them.
            run: Whether to make them, or only to go through them in the same order.

        Yields:
            Each of them with its real counterpart, or ``None``.
        """
        numbers = {storage(t) for t in wanted}
        live, needed = set(numbers), [False] * len(self.steps)
        for at in reversed(range(len(self.steps))):
            step = self.steps[at]
            if step.writes & live:
                needed[at] = True
                live = (live - step.covers) | step.reads
        last_draw = max((at for at, step in enumerate(self.steps) if needed[at] and step.draws), default=-1)
        last_write = {n: at for at, step in enumerate(self.steps) if needed[at] for n in step.writes & numbers}
        done: dict[int, list[Tensor]] = {}
        for tensor in wanted:
            done.setdefault(last_write[storage(tensor)], []).append(tensor)
        last_use = {n: at for at, step in enumerate(self.steps) if needed[at] for n in step.writes | step.reads}
        storages: dict[int, torch.UntypedStorage] = {}

        def real(tensor: Tensor, keep: bool = True) -> Tensor:
            number = storage(tensor)
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
                        storages[storage(tensor)] = value.untyped_storage()
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
    """Gives a tensor its values: now, or, if it is on the meta device, when it is made."""
    if target.is_meta:
        tape = CURRENT.get()
        assert tape is not None, "a tensor of the meta device can be filled while it is built only"
        tape.fill(target, read)
    else:
        with torch.no_grad(), at_once():
            target.copy_(read())


def deferring() -> bool:
    """Whether a network that is made now is filled later."""
    return CURRENT.get() is not None


def weights_are_given() -> bool:
    """Whether a pretrained network that is made now gets its weights from elsewhere, so that reading its authors' would be for nothing."""
    return (tape := CURRENT.get()) is not None and tape.given


@contextmanager
def at_once() -> Iterator[None]:
    """Inside, tensors are made at once and on the CPU, also while a network around them is deferred."""
    with torch.device("cpu"), _disable_current_modes():
        yield


def overwriting(tensor: Tensor, run: Callable[..., list[tuple[Tensor, Tensor]]], draws: bool = False) -> Step:
    """A step that gives every element of a tensor a new value."""
    number = frozenset({storage(tensor)})
    whole = covers(tensor)
    return Step(run, frozenset() if whole else number, number, number if whole else frozenset(), draws, tensor)


def is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def storage(tensor: Tensor) -> int:
    """What tells a tensor's memory from any other's."""
    return tensor.untyped_storage()._cdata


def covers(tensor: Tensor) -> bool:
    """Whether a tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes() and tensor.is_contiguous()
