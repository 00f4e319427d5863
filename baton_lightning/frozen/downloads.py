"""Weights that are not there: one clear error instead of a library's long one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, dtype


@contextmanager
def weights_of(repo: str, *, file: str = "", folder: str = "", licence: str) -> Iterator[None]:
    """Turns whatever fails inside the block, a download, a missing path or a damaged file, into a ``ValueError`` that says what to do.

    Args:
        repo: Hub repository or local path that is being read.
        file: The one file that is needed; empty for more than one.
        folder: The one folder that is needed; empty for all.
        licence: Licence of the weights, as their authors state it.
    """
    try:
        yield
    except Exception as error:  # libraries complain of a damaged file in every way there is
        part = file or folder
        damaged = not isinstance(error, OSError)
        if Path(repo).is_absolute() or repo.startswith(".") or Path(repo).exists():
            fix = "what is there is damaged or of another model" if damaged else "check the path"
        else:
            argument = f" {file}" if file else f" --include '{folder}/*'" if folder else ""
            fix = f"run `hf download {repo}{argument}` on a machine with a network, or give a local path"
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(
            f"the weights {f'{repo}/{part}' if part else repo} could not be read: {fix}. Licence of these weights: {licence}. ({first})"
        ) from error


def pretrained(kind: Any, repo: str, *, dtype: dtype, licence: str, folder: str = "") -> Any:
    """A network with every weight read from a hub repository or a local path; what is not there is never filled with random numbers.

    Args:
        kind: Class of transformers or diffusers.
        repo: Hub name or local directory.
        dtype: Type the weights are held in.
        licence: Licence of the weights.
        folder: Folder of the repository that holds the network, which makes it one of diffusers.

    Raises:
        ValueError: If weights cannot be read, are missing, or are of another shape; the message names the first.
    """
    own = {"subfolder": folder, "torch_dtype": dtype} if folder else {"dtype": dtype, "ignore_mismatched_sizes": True}
    with weights_of(repo, folder=folder, licence=licence):
        model, found = kind.from_pretrained(repo, output_loading_info=True, **own)
        for what, keys in (("missing", found["missing_keys"]), ("of another shape", found["mismatched_keys"])):
            if names := sorted(key if isinstance(key, str) else key[0] for key in keys):
                raise ValueError(f"{len(names)} weights of {type(model).__name__} are {what}, the first is {names[0]}")
    return model


def pretrained_tokenizer(repo: str, *, num_embeddings: int, licence: str) -> Any:
    """The tokenizer of a language model.

    Args:
        repo: Hub name or local directory.
        num_embeddings: Rows of the model's embedding, which must have one for every token.
        licence: Licence of the weights.

    Raises:
        ValueError: If it cannot be read, knows no words, or is another model's.
    """
    from transformers import AutoTokenizer

    with weights_of(repo, licence=licence):
        tokenizer = AutoTokenizer.from_pretrained(repo)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # where its files are not there, the library makes an empty one
            raise ValueError(f"its tokenizer knows no words: files such as tokenizer.json are missing from {repo}")
        if len(tokenizer) > num_embeddings:
            raise ValueError(f"its tokenizer has {len(tokenizer)} tokens, the model embeds {num_embeddings}: they do not belong together")
    return tokenizer


def checkpoint(path: Path, *, licence: str) -> Mapping[str, Any]:
    """What a pickled checkpoint holds by name, read without running code.

    Raises:
        ValueError: If it cannot be read or holds anything else.
    """
    import torch

    with weights_of(str(path.absolute()), licence=licence):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, Mapping):
            raise ValueError(f"it must hold tensors by name, it holds a {type(loaded).__name__}")
    return loaded


def load(module: Any, weights: Mapping[str, Tensor], what: str) -> None:
    """Loads a checkpoint strictly.

    Raises:
        ValueError: If it is not exactly the module's.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = str(error).splitlines()
        raise ValueError(f"the file does not hold {what}: {lines[min(1, len(lines) - 1)].strip()[:300]}") from error


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
