"""Loading of released weights, with one-line errors if they are missing, damaged or of another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, dtype


@contextmanager
def explain_weight_errors(repo: str, *, file: str = "", folder: str = "", licence: str) -> Iterator[None]:
    """Converts any error inside the block (a failed download, a missing path, a damaged file) to a ``ValueError`` with a fix.

    Args:
        repo: Hub repository or local path that is read.
        file: The one file that is needed; empty for several files.
        folder: The one folder that is needed; empty for the whole repository.
        licence: Licence of the weights, as stated by their authors.
    """
    try:
        yield
    except Exception as error:  # libraries raise errors of many types for a damaged file
        part = file or folder
        damaged = not isinstance(error, OSError)
        if Path(repo).is_absolute() or repo.startswith(".") or Path(repo).exists():
            fix = "the files are damaged or belong to another model" if damaged else "check the path"
        else:
            argument = f" {file}" if file else f" --include '{folder}/*'" if folder else ""
            fix = f"run `hf download {repo}{argument}` on a machine with a network, or give a local path"
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(
            f"the weights {f'{repo}/{part}' if part else repo} could not be read: {fix}. Licence of these weights: {licence}. ({first})"
        ) from error


def load_pretrained(network_class: Any, repo: str, *, dtype: dtype, licence: str, folder: str = "") -> Any:
    """A network with every weight read from a hub repository or a local path. Missing weights are an error, not initialised.

    Args:
        network_class: Class of transformers or diffusers.
        repo: Hub name or local directory.
        dtype: Type of the weights.
        licence: Licence of the weights.
        folder: Subfolder of the repository that holds the network, for classes of diffusers; empty for classes of transformers.

    Raises:
        ValueError: If weights cannot be read, are missing, or are of another shape; the message names the first.
    """
    own = {"subfolder": folder, "torch_dtype": dtype} if folder else {"dtype": dtype, "ignore_mismatched_sizes": True}
    with explain_weight_errors(repo, folder=folder, licence=licence):
        model, found = network_class.from_pretrained(repo, output_loading_info=True, **own)
        for what, keys in (("missing", found["missing_keys"]), ("of another shape", found["mismatched_keys"])):
            if names := sorted(key if isinstance(key, str) else key[0] for key in keys):
                raise ValueError(f"{len(names)} weights of {type(model).__name__} are {what}, the first is {names[0]}")
    return model


def load_tokenizer(repo: str, *, num_embeddings: int, licence: str) -> Any:
    """The tokenizer of a language model.

    Args:
        repo: Hub name or local directory.
        num_embeddings: Rows of the model's embedding; the tokenizer must not have more tokens.
        licence: Licence of the weights.

    Raises:
        ValueError: If it cannot be read, has an empty vocabulary, or has more tokens than the model.
    """
    from transformers import AutoTokenizer

    with explain_weight_errors(repo, licence=licence):
        tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=False)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # without its files, transformers returns an empty tokenizer
            raise ValueError(f"its tokenizer has an empty vocabulary: files such as tokenizer.json are missing from {repo}")
        if len(tokenizer) > num_embeddings:
            raise ValueError(
                f"its tokenizer has {len(tokenizer)} tokens, but the model embeds {num_embeddings}: they do not belong together"
            )
    return tokenizer


def load_checkpoint(path: Path, *, licence: str) -> Mapping[str, Any]:
    """The content of a pickled checkpoint, a mapping of names, read with ``weights_only=True``.

    Raises:
        ValueError: If it cannot be read, or is not a mapping.
    """
    import torch

    with explain_weight_errors(str(path.absolute()), licence=licence):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, Mapping):
            raise ValueError(f"it must hold a mapping of names to tensors, got a {type(loaded).__name__}")
    return loaded


def load_strict(module: Any, weights: Mapping[str, Tensor], what: str) -> None:
    """Loads a state dict strictly.

    Raises:
        ValueError: If its keys or shapes differ from the module's.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = str(error).splitlines()
        raise ValueError(f"the file does not hold {what}: {lines[min(1, len(lines) - 1)].strip()[:300]}") from error


def hub_file(repo: str, file: str, *, licence: str, path: str | None = None) -> Path:
    """Local path of one file of a hub repository, downloaded if needed. If ``path`` is given, that file is used and must exist."""
    if path is not None:
        with explain_weight_errors(str(Path(path).absolute()), licence=licence):
            if not Path(path).is_file():
                raise FileNotFoundError(f"no file at {path}")
        return Path(path)
    from huggingface_hub import hf_hub_download

    with explain_weight_errors(repo, file=file, licence=licence):
        return Path(hf_hub_download(repo, file))
