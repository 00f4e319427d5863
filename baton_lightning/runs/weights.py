"""Weights on disk: one file of a run, or a folder per component with safetensors shards and an index, as on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import atomic
from baton_lightning.runs.digests import digest_of

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
SHARD, INDEX = "model{suffix}.safetensors", "model.safetensors.index.json"


def files(run: Path) -> list[Path]:
    """Files that contain the weights of a run, or of an exported or converted folder."""
    return [run / WEIGHTS] if (run / WEIGHTS).exists() else sorted(run.glob("*/model*.safetensors"))


def digest(run: Path) -> str:
    """SHA-256 of all weights; ``no file`` if there are none."""
    found = files(run)
    if not found:
        return "no file"
    single = [digest_of(path) for path in found]
    if found == [run / WEIGHTS]:
        return single[0]
    named = "\n".join(f"{path.relative_to(run)} {one}" for path, one in zip(found, single, strict=True))
    return hashlib.sha256(named.encode()).hexdigest()


def shared_digest(run: Path) -> str:
    """:func:`digest`, computed by rank 0 for all ranks. A collective: every rank must call it.

    Raises:
        OSError: On every rank, if rank 0 could not read a file.
    """
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return digest(run)
    result: list[str | OSError | None] = [None]
    if distributed.get_rank() == 0:
        try:
            result = [digest(run)]
        except OSError as error:
            result = [error]
    distributed.broadcast_object_list(result, src=0)
    if isinstance(result[0], OSError):
        raise result[0]
    return str(result[0])


@dataclass(frozen=True)
class Stored:
    """A tensor on disk. Only the header of its file was read.

    Args:
        file: File in safetensors format.
        key: Name of the tensor in the file.
        shape: Shape of the tensor.
    """

    file: Path
    key: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Reads the tensor to the CPU."""
        with opened(self.file) as file:
            return file.get_tensor(self.key)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Context with an open safetensors file.

    Raises:
        ValueError: If the file is damaged or not a regular file.
    """
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a safetensors file, but is not a regular file; restore it")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, MemoryError) as error:
        fault = f"is none or is damaged ({error!s:.300})"
        raise ValueError(f"{path} must be a safetensors file, but {fault}; restore it, or give another") from error


def stored(run: Path, component: str) -> dict[str, Stored]:
    """Weights of a component by the component's own keys, without reading the tensors.

    Args:
        run: Folder of a run, of an export or of a conversion.
        component: E.g. ``dit`` or ``planner``, or a part of one such as ``planner.video_norm``. Other weights are not listed.
    """
    whole, _, part = component.partition(".")
    one = (run / WEIGHTS).exists()
    prefix = f"{component if one else part}."
    found: dict[str, Stored] = {}
    for path in [run / WEIGHTS] if one else sorted((run / whole).glob("model*.safetensors")):
        with opened(path) as file:
            keys = [key for key in file.keys() if key.startswith(prefix.lstrip("."))]  # noqa: SIM118
            found |= {key.removeprefix(prefix): Stored(path, key, tuple(file.get_slice(key).get_shape())) for key in keys}
    return found


def read(run: Path, component: str) -> dict[str, Tensor]:
    """Reads the weights of a component by the component's own keys; see :func:`stored`."""
    return {key: one.read() for key, one in stored(run, component).items()}


def mismatch(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Short description of the differences between weights and those of a model; empty if keys, shapes and types match.

    Args:
        own: The model's weights, on any device.
        given: The weights to compare.
    """
    common = own.keys() & given.keys()
    found = {
        "missing": own.keys() - given.keys(),
        "unexpected": given.keys() - own.keys(),
        "of another shape": {f"{k} {list(given[k].shape)}, not {list(own[k].shape)}" for k in common if given[k].shape != own[k].shape},
        "not floating-point": {f"{k} {given[k].dtype}" for k in common if own[k].is_floating_point() > given[k].is_floating_point()},
    }
    result = [
        f"{name} ({len(keys)}): {', '.join(sorted(keys)[:3])}{' ...' if len(keys) > 3 else ''}" for name, keys in found.items() if keys
    ]
    return "; ".join(result)


def write(folder: Path, tensors: dict[str, Tensor], shard_gigabytes: float) -> int:
    """Writes a component as ``model.safetensors``, or as shards with ``model.safetensors.index.json``.

    Returns:
        Size of all tensors in bytes.

    Raises:
        ValueError: If ``shard_gigabytes`` is not positive and finite.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    if not 0 < shard_gigabytes < float("inf"):
        raise ValueError(f"--shard-size must be positive and finite, in GB, got {shard_gigabytes:g}")
    folder.mkdir(parents=True, exist_ok=True)
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=SHARD, max_shard_size=int(shard_gigabytes * 1e9))
    for name, keys in split.filename_to_tensors.items():
        atomic.write_tensors(folder / name, {key: tensors[key].contiguous() for key in keys}, {"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=1))
    return sum(t.numel() * t.element_size() for t in tensors.values())
