"""Upload of an export to a model repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def explain_hub_errors(what: str) -> Iterator[None]:
    """Converts any error of the hub's client inside the block to a ``ValueError`` of one line that begins with ``what``."""
    try:
        yield
    except Exception as error:  # of the client, of its HTTP library, or of the system
        first = (str(error).split("\n")[0] or type(error).__name__)[:300]
        raise ValueError(f"export: {what}; `hf auth login` stores a token that may write ({first})") from error


def require_account(repo: str) -> None:
    """Checks that a repository has a valid name and that the hub knows the user, before anything is written.

    Args:
        repo: ``OWNER/NAME``.

    Raises:
        ValueError: If the name is invalid, there is no token, or the hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise ValueError(f"export: --push must be OWNER/NAME, got {repo!r:.100}")
    with explain_hub_errors(f"--push {repo} needs an account of the hub, which cannot be asked"):
        validate_repo_id(repo)
        HfApi().whoami()


def push(folder: Path, repo: str) -> str:
    """Uploads a folder in one commit. A repository that does not exist is created, and is private.

    Args:
        folder: The export.
        repo: ``OWNER/NAME``.

    Returns:
        Address of the repository.

    Raises:
        ValueError: If the hub refuses. The export stays where it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with explain_hub_errors(f"{folder}/ is written, but {repo} did not take it"):
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of baton_lightning")
    return str(address)
