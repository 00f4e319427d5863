"""The data of an export: none. So an export is loaded where its data set and the classes that read it are not."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule

from baton_lightning.clip import ClipSpec


class NoData(LightningDataModule):
    """A datamodule without clips.

    Args:
        clip: Geometry of the clips that are generated.
        seed: Unused; part of every datamodule's interface.
    """

    def __init__(self, clip: ClipSpec, seed: int = 0) -> None:
        super().__init__()
        self.clip = clip
