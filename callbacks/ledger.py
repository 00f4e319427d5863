"""The ledger: a record of the samples of every optimiser step, one JSON line per step. Interruptions of the run do not change it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from baton_lightning import atomic, ranks
from baton_lightning.batch import Batch

NAME = "ledger.jsonl"
COUNTS = ("samples", "video_samples", "audio_samples", "plan_samples", "video_tokens", "audio_latents", "planned_tokens")
COLUMNS = ("epoch", "index", "key", *COUNTS)
"""Values that are gathered for a sample: its place in the order, the digest of its key, and its counts."""
LONGEST_LINE = 2**20
"""Maximum length of a line, in bytes. A step has a few hundred bytes, and more with thousands of ranks."""
BRANCHES = {
    "video": re.compile(r"(^|[._])video([._]|$)"),
    "audio": re.compile(r"(^|[._])audio([._]|$)"),
    "plan": re.compile(r"(^|[._])(plan|latent_mlp)([._]|$)"),
}
"""Branch -> pattern of its parameters' names."""


class Ledger(Callback):
    """Writes ``ledger.jsonl`` to the run's folder, and stops a run in which a trained branch gets no samples.

    A line contains, for all ranks together: step, epoch, samples, samples with video, audio and plan (after plan dropout), and the video
    tokens, audio latents and planned tokens in the loss. It also contains a digest of the samples in the order of the epoch, which does
    not depend on the number of ranks, and the exact loss as a hexadecimal float: the mean over accumulated batches and over ranks.

    A resumed run first removes the lines after its checkpoint. Damaged clips that were replaced are listed in the manifest.

    Args:
        patience: Largest number of consecutive optimiser steps in which a trained branch may get no samples, >= 1.
        allow_absent: Branches (``video``, ``audio``, ``plan``) that never need samples, e.g. ``[video]`` for a run on sound only.

    Raises:
        ValueError: If ``patience`` is below 1, or a branch is unknown.
    """

    def __init__(self, patience: int = 200, allow_absent: Sequence[str] = ()) -> None:
        if patience < 1:
            raise ValueError(f"Ledger: patience counts optimiser steps and must be at least 1, got {patience}")
        if unknown := sorted(set(allow_absent) - set(BRANCHES)):
            raise ValueError(f"Ledger: allow_absent must be among {', '.join(BRANCHES)}, got {', '.join(unknown)}")
        self.patience, self.allow_absent = patience, tuple(allow_absent)
        self.totals = dict.fromkeys(COUNTS, 0)
        self.without = dict.fromkeys(BRANCHES, 0)
        """Branch -> steps since its last sample."""
        self.damaged: dict[str, str] = {}
        """Damaged clip -> shard and reason."""
        self.rows: list[Tensor] = []
        self.losses: list[float] = []

    # ---- the file
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step, self.rows, self.losses = trainer.global_step, [], []
        self.trained = {branch: name for branch in BRANCHES if (name := trained_parameter(pl_module, branch))}
        self.path = Path(trainer.default_root_dir) / NAME
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut(self.path, self.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.rows.append(rows_of(batch, pl_module))
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        whole = trainer.accumulate_grad_batches  # undoes Lightning's division of the loss
        self.losses.append(float(loss) * whole if loss is not None else float("nan"))
        if trainer.global_step == self.step:
            return  # gradients are being accumulated
        self.step = trainer.global_step
        self.damaged |= damage(trainer)
        rows, losses = self.gather(trainer)
        counts = dict(zip(COUNTS, rows[:, COLUMNS.index("samples") :].sum(0).tolist(), strict=True))
        line = {"step": self.step, "epoch": batch.epoch, **counts, "digest": digest(rows), "loss": (sum(losses) / len(losses)).hex()}
        if len(losses) > 1:
            line["rank_losses"] = [loss.hex() for loss in losses]
        if trainer.is_global_zero:
            with atomic.naming(self.path), self.path.open("ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
        self.totals = {name: total + counts[name] for name, total in self.totals.items()}
        if trainer.logger is not None and self.step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            trainer.logger.log_metrics({f"ledger/{name}": total for name, total in self.totals.items()}, self.step)
        self.require_samples(counts)

    def gather(self, trainer: Trainer) -> tuple[Tensor, list[float]]:
        """Rows of all ranks in the order of the epoch, and the mean loss of each rank. Clears the values collected for the step."""
        mean = torch.tensor([[sum(self.losses) / len(self.losses)]], dtype=torch.float64).view(torch.int64)
        rows = torch.cat([mean.expand(1, len(COLUMNS)), *self.rows])
        self.rows, self.losses = [], []
        gathered = trainer.strategy.all_gather(rows.to(trainer.strategy.root_device)).cpu().reshape(-1, *rows.shape)
        samples = gathered[:, 1:].flatten(0, 1)
        order = sorted(range(len(samples)), key=lambda i: samples[i, :2].tolist())
        return samples[order], gathered[:, 0, :1].contiguous().view(torch.float64).flatten().tolist()

    # ---- branches
    def require_samples(self, counts: dict[str, int]) -> None:
        """Checks that trained branches get samples. All ranks have the same counts, so all stop at the same step.

        Raises:
            ValueError: If a trained branch got no samples for ``patience`` steps.
        """
        for branch, parameter in self.trained.items():
            self.without[branch] = 0 if counts[f"{branch}_samples"] else self.without[branch] + 1
            if self.without[branch] >= self.patience and branch not in self.allow_absent:
                raise ValueError(
                    f"the {branch} branch is being trained ({parameter} and others), but no clip of the last {self.patience} steps up to "
                    f"step {self.step} had {branch}; check the data and data.init_args.fields, freeze the branch, or, if that is meant, "
                    f"set callbacks.ledger.Ledger allow_absent to [{branch}]"
                )

    # ---- the whole run
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.damaged = {key: why for found in ranks.gathered(self.damaged) for key, why in found.items()}
        if not trainer.is_global_zero:
            return
        print(f"trained on: {self.path}")  # a title would be broken to the width of the table
        table = Table(show_header=False)
        for name, total in self.totals.items():
            table.add_row(name.replace("_", " "), f"{total:,}")
        Console().print(table)

    def state_dict(self) -> dict[str, Any]:
        return {"totals": self.totals, "without": self.without, "damaged": self.damaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals, self.without = dict(state_dict["totals"]), dict(state_dict["without"])
        self.damaged = dict(state_dict.get("damaged", {}))

    @property
    def described(self) -> dict[str, Any]:
        """Entry of the manifest: the damaged clips, with shard and reason."""
        return {"damaged_clips": dict(sorted(self.damaged.items()))} if self.damaged else {}


def damage(trainer: Trainer) -> dict[str, str]:
    """Damaged clips that this rank has found in training -> shard and reason."""
    found = getattr(getattr(trainer.train_dataloader, "dataset", None), "damaged", {})
    return {key: f"{entry.shard}: {entry.reason}" for key, entry in found.items()}


def trained_parameter(module: LightningModule, branch: str) -> str:
    """Name of the first trained parameter of a branch; empty if there is none. A module that reads no plan has no plan branch."""
    if branch == "plan" and not hasattr(module, "plan_mask"):
        return ""
    return next((name for name, p in module.named_parameters() if p.requires_grad and BRANCHES[branch].search(name)), "")


def rows_of(batch: Batch, module: LightningModule) -> Tensor:
    """Values of :data:`COLUMNS` for the samples of a batch [B, len(COLUMNS)], int64.

    The planned tokens of a planner are its targets, for the modalities of each clip. The planned tokens of a generator are those it reads.
    """
    everyone = torch.ones(len(batch), dtype=torch.int64)
    video, audio = (everyone if has is None else has.cpu().long() for has in (batch.has_video, batch.has_audio))
    clip: Any = getattr(module, "clip", None)
    planned = (clip.num_video_planned, clip.num_audio_planned) if clip is not None else (0, 0)
    if hasattr(module, "plan_mask"):
        plan = module.plan_mask(batch).cpu().long()  # type: ignore[operator]
        planned_tokens = plan * sum(planned)
    else:
        plan = torch.zeros_like(everyone) if batch.video_features is None else video | audio
        planned_tokens = plan * (video * planned[0] + audio * planned[1])
    video_tokens = 0 if batch.video_latents is None or clip is None else clip.num_video_tokens
    audio_latents = 0 if batch.audio_latents is None else batch.audio_latents.shape[1]
    keys = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little", signed=True) for key in batch.keys]
    values = {
        "epoch": everyone * batch.epoch,
        "index": batch.index.cpu().long(),
        "key": torch.tensor(keys, dtype=torch.int64),
        "samples": everyone,
        "video_samples": video,
        "audio_samples": audio,
        "plan_samples": plan,
        "video_tokens": video * video_tokens,
        "audio_latents": audio * audio_latents,
        "planned_tokens": planned_tokens,
    }
    return torch.stack([values[name] for name in COLUMNS], 1)


def digest(rows: Tensor) -> str:
    """SHA-256, shortened to 16 hexadecimal digits, of epoch, index and key of the samples in their order."""
    return hashlib.sha256(json.dumps(rows[:, :3].tolist()).encode()).hexdigest()[:16]


def lines_of(path: Path) -> Iterator[bytes]:
    """Lines of a ledger, with their line breaks. A line longer than :data:`LONGEST_LINE` is split."""
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            yield line


def cut(path: Path, step: int) -> None:
    """Removes the lines after a step, and an incomplete last line.

    Raises:
        ValueError: If a line up to that step is damaged.
    """
    kept = 0
    if path.exists():
        for number, line in enumerate(lines_of(path), 1):
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path} must have a step in each line, but line {number} is damaged ({error}); restore it, or rename the file: "
                    f"the run then resumes from its checkpoint, and a new ledger starts after step {step}"
                ) from error
            kept += len(line)
    with path.open("ab") as file:
        file.truncate(kept)
