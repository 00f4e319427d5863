"""What latents read in a plan: the share of plan attention on every planned token, block by block, and its picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.flow.given import MODALITIES
from baton_lightning.models.attention import KeyValueSource
from baton_lightning.models.plan_attention import PlanAttention
from baton_lightning.plan import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares(layer: PlanAttention, tokens: Tensor, phase: Tensor | None, plan: KeyValueSource) -> Float[Tensor, "B H L K"]:
    """The attention weights of a layer, which it computes with a kernel that does not return them.

    Args:
        layer: The layer.
        tokens: Tokens of the branch [B, L, C], before normalisation.
        phase: Rotary phases of the queries.
        plan: Planned tokens; outside a token's window the share is 0.
    """
    query, (key, _) = layer.queries(tokens, phase), layer.keys_and_values(plan)
    scores = torch.einsum("blhd,bkhd->bhlk", query.float(), key.float()) / layer.heads[1] ** 0.5
    if plan.windows is not None:
        outside = torch.ones(len(plan.windows), *scores.shape[2:], dtype=torch.bool, device=scores.device)
        for clip, windows in enumerate(plan.windows):
            first = 0
            for window in windows:
                outside[clip, first : first + window.num_tokens, window.start : window.stop] = False
                first += window.num_tokens
        scores = scores.masked_fill(outside[:, None], float("-inf"))
    return scores.softmax(-1).nan_to_num()


@contextmanager
def recording(dit: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Context in which every plan attention of a transformer adds its mean shares over heads, [L, K], to the list of its modality.

    Raises:
        ValueError: If the transformer has no layers of the plan's own.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in MODALITIES}
    hooks = []
    for path, module in dit.named_modules():
        if isinstance(module, PlanAttention):
            kept = found[path.partition("_")[0]]

            def record(layer: PlanAttention, args: tuple[Any, ...], kept: list[Tensor] = kept) -> None:
                kept.append(shares(layer, *args).mean(1)[0].cpu())

            hooks.append(module.register_forward_pre_hook(record))
    if not hooks:
        raise ValueError("shares of plan attention need layers of the plan's own, plan_attention.placement cascade or parallel")
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class PlanShares:
    """Shares of plan attention of one clip at one flow time, as means over heads. Every row sums to 1.

    Args:
        clip: Geometry.
        video: [blocks, video tokens, planned video tokens].
        audio: [blocks, audio latents, planned audio tokens].
        t: Flow time, 0 = clean, 1 = noise.
    """

    clip: ClipSpec
    video: Float[Tensor, "D L K"]
    audio: Float[Tensor, "D M J"]
    t: float

    @property
    def video_in_time(self) -> Float[Tensor, "D T N"]:
        """Share of each keyframe in what a latent frame reads, mean over its tokens."""
        frames, patches = self.clip.token_grid[0], self.clip.token_grid[1] * self.clip.token_grid[2]
        keyframes = self.clip.video_plan_grid[0]
        return self.video.unflatten(1, (frames, patches)).unflatten(-1, (keyframes, -1)).sum(-1).mean(2)

    def of_patch(self, frame: int, row: int, column: int) -> Float[Tensor, "N h w"]:
        """Share of each planned video token in what one video token reads, mean over blocks.

        Raises:
            ValueError: If the video has no such token.
        """
        place, grid = (frame, row, column), self.clip.token_grid
        if not all(0 <= at < size for at, size in zip(place, grid, strict=True)):
            raise ValueError(f"a video token lies in frame, row and column of a grid {grid}, counted from 0; got {place}")
        return self.video[:, (frame * grid[1] + row) * grid[2] + column].mean(0).unflatten(0, self.clip.video_plan_grid)

    def figure(self, patch: tuple[int, int, int] | None = None) -> Figure:
        """Two rows of matrices, latent time against planned time for every block, and what one video token reads, drawn as keyframes.

        Args:
            patch: Frame, row and column of this token; ``None`` = the middle one.
        """
        from matplotlib.figure import Figure

        depth, seconds = len(self.video), self.clip.seconds
        chosen = patch or tuple(size // 2 for size in self.clip.token_grid)
        read = self.of_patch(*chosen)
        figure = Figure(figsize=(max(6.0, 1.2 + 2.2 * depth), 6.6), layout="constrained")
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[5, 1.4])).tolist()
        for panels, (name, matrices) in zip(
            above.subplots(2, depth, squeeze=False), (("picture", self.video_in_time), ("sound", self.audio)), strict=True
        ):
            for block, (axes, matrix) in enumerate(zip(panels, matrices, strict=True)):
                axes.imshow(matrix.numpy(), extent=(0, seconds, seconds, 0), aspect="auto", interpolation="nearest", cmap="magma", vmin=0)
                axes.plot([0, seconds], [0, seconds], color="white", linewidth=0.8, linestyle=":")
                axes.set_title(f"{name}, block {block}", fontsize=9)
                axes.set_xlabel("time in the plan [s]", fontsize=8)
                axes.tick_params(labelsize=7)
            panels[0].set_ylabel("time in the clip [s]", fontsize=8)
        axes = below.subplots()
        grey = (read / read.max())[..., None].expand(*read.shape, 3)
        picture.strip(axes, grey, seconds, self.clip.keyframe_fps, "share\n(white\nmost)")
        axes.set_title(
            f"what the video token in frame {chosen[0]}, row {chosen[1]}, column {chosen[2]} reads, keyframe by keyframe", fontsize=9
        )
        figure.suptitle(f"plan attention at flow time {self.t:g}", fontsize=10)
        return figure

    def png(self, patch: tuple[int, int, int] | None = None) -> bytes:
        """The figure as a PNG; see :meth:`figure`."""
        return picture.encoded(self.figure(patch), dpi=110)

    def save_png(self, path: str | Path, patch: tuple[int, int, int] | None = None) -> None:
        """Writes the PNG of :meth:`png`, and creates its folder. A link at the path is replaced, not followed."""
        picture.write(self.png(patch), path)

    def _repr_png_(self) -> bytes:
        return self.png()
