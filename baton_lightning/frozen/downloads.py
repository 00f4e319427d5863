"""Weights that are not there: one clear error instead of a library's long one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def weights_of(repo: str, *, file: str = "", folder: str = "", licence: str) -> Iterator[None]:
    """Turns a failed download or a missing path inside the block into a ``ValueError`` that says what to run.

    Args:
        repo: Hub repository or local path that is being read.
        file: The one file that is needed; empty for more than one.
        folder: The one folder that is needed; empty for all.
        licence: Licence of the weights, as their authors state it.
    """
    try:
        yield
    except OSError as error:
        part = file or folder
        missing = f"{repo}/{part}" if part else repo
        if Path(repo).is_absolute() or repo.startswith("."):
            fix = "check the path"
        else:
            argument = f" {file}" if file else f" --include '{folder}/*'" if folder else ""
            fix = f"run `hf download {repo}{argument}` on a machine with a network, or give a local path"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the weights {missing} could not be read: {fix}. Licence of these weights: {licence}. ({first})") from error


def hub_file(repo: str, file: str, *, licence: str, path: str | None = None) -> Path:
    """Local path of one file of a hub repository; ``path`` gives the file directly and is only checked."""
    if path is not None:
        with weights_of(str(Path(path).absolute()), licence=licence):
            if not Path(path).is_file():
                raise FileNotFoundError(f"no file at {path}")
        return Path(path)
    from huggingface_hub import hf_hub_download

    with weights_of(repo, file=file, licence=licence):
        return Path(hf_hub_download(repo, file))
