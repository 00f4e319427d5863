"""A language model's configuration and tokenizer beside a run's weights, so that these are used without hub or original folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton_lightning.frozen.llm import TextLLM

LANGUAGE = "language"
"""Folder of a run that holds them, in transformers' own files."""
_current: ContextVar[Path | None] = ContextVar("language", default=None)


def keep(llm: TextLLM, run: Path) -> None:
    """Writes configuration and tokenizer of a language model into a run folder; no weights."""
    llm.model.config.save_pretrained(run / LANGUAGE)
    llm.tokenizer.save_pretrained(run / LANGUAGE)


def kept(run: str | Path | None) -> bool:
    """Whether a run folder holds them."""
    return run is not None and (Path(run) / LANGUAGE).is_dir()


@contextmanager
def of_run(run: str | Path | None) -> Iterator[None]:
    """Language models that are made inside are those of a run whose weights they are then given.

    They take configuration and tokenizer from it, where it keeps them, and are left unfilled: nothing else is read.

    Args:
        run: Folder of a run, of an export, or ``None`` where there is no parent.
    """
    token = _current.set(Path(run) / LANGUAGE if run is not None and kept(run) else None)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Path | None:
    """The folder that a language model which is made now takes its configuration and tokenizer from."""
    return _current.get()
