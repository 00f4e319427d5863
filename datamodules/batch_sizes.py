"""Sizes of global batches: a number of clips, or as many clips of a geometry as have a number of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from baton_lightning.clip import ClipSpec
from datamodules.order import BatchSize


@dataclass(frozen=True)
class BatchSizes:
    """Size of a global batch.

    Args:
        batch_size: Clips of a batch; ``None`` with ``tokens``.
        tokens: Tokens of the transformer in a batch; ``None`` with ``batch_size``.
        multiple_of: Number of which the clips of a batch of ``tokens`` are a multiple.
        epoch_clips: Clips of an epoch, which are only counted in batches of equal size.

    Raises:
        ValueError: If not exactly one of the sizes is given, numbers are below 1, or settings need ``tokens`` or exclude them.
    """

    batch_size: int | None
    tokens: int | None
    multiple_of: int | None = None
    epoch_clips: int | None = None

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.tokens is None):
            raise ValueError(
                f"data.init_args takes batch_size or tokens, got batch_size {self.batch_size} and tokens {self.tokens}; to give tokens, "
                "set batch_size to null"
            )
        for name, number in (("tokens", self.tokens), ("multiple_of", self.multiple_of)):
            if number is not None and number < 1:
                raise ValueError(f"data.init_args.{name} must be at least 1, got {number}")
        if self.multiple_of is not None and self.tokens is None:
            raise ValueError(f"data.init_args.multiple_of is for batches of tokens, got {self.multiple_of} with batch_size; leave it out")
        if self.tokens is not None and self.epoch_clips is not None:
            raise ValueError(f"data.init_args.epoch_clips counts clips of equal batches, got {self.epoch_clips} with tokens; leave it out")

    def num_clips(self, clip: ClipSpec) -> int:
        """Clips of a batch of one geometry, at least 1 or ``multiple_of``."""
        if self.tokens is not None:
            return clip.num_clips_in(self.tokens, self.multiple_of or 1)
        assert self.batch_size is not None
        return self.batch_size

    def of(self, buckets: Iterable[str], clips: Mapping[str, ClipSpec]) -> BatchSize:
        """Clips of a batch of each bucket; one number without ``tokens``.

        Args:
            buckets: Names of the buckets.
            clips: Bucket -> its geometry.
        """
        return self.batch_size if self.batch_size is not None else {name: self.num_clips(clips[name]) for name in buckets}
