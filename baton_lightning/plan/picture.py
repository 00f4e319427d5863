"""A picture of a plan: video tokens as colours from their principal components on a time axis, and audio tokens below as a curve."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tempfile
import textwrap
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baton_lightning import atomic
from baton_lightning.clip import ClipSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.12
"""Gap between keyframes, as a share of the time between them."""
PICTURES_HEIGHT = 0.55
"""Height of decoded keyframes, as a share of the height of tokens: square for 12 keyframes."""


def colours(tokens: Float[Tensor, "K C"], fitted: Float[Tensor, "J C"]) -> Float[Tensor, "K 3"]:
    """Three principal components of tokens as red, green and blue in [0, 1].

    Args:
        tokens: Tokens to colour.
        fitted: Tokens from which the components are computed. Use the same tokens for several plans to make their colours comparable.

    Note:
        The sign of a component is chosen so that its largest weight is positive. Each component is scaled so that its 2nd and 98th
        percentiles are 0 and 1.
    """
    centre = fitted.double().mean(0)
    _, _, axes = torch.linalg.svd(fitted.double() - centre, full_matrices=False)
    axes = axes[:3]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    known, painted = (fitted.double() - centre) @ axes.T, (tokens.double() - centre) @ axes.T
    low, high = torch.quantile(known, 0.02, dim=0), torch.quantile(known, 0.98, dim=0)
    found = ((painted - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float()
    return torch.nn.functional.pad(found, (0, 3 - found.shape[1]), value=0.5)


def change(tokens: Float[Tensor, "K C"]) -> Float[Tensor, " K"]:
    """RMS distance over channels of each audio token from the median token, which stands for the clip's background sound."""
    return (tokens - tokens.median(0).values).square().mean(-1).sqrt()


def strip(axes: Axes, painted: Float[Tensor, "N h w 3"], clip_seconds: float, fps: float, label: str) -> None:
    """Draws the keyframes as small pictures at their times."""
    width = (1 - GAP) / fps
    for step, keyframe in enumerate(painted):
        axes.imshow(keyframe.numpy(), extent=(step / fps, step / fps + width, 0, 1), aspect="auto", interpolation="nearest")
    axes.set(xlim=(0, clip_seconds), ylim=(0, 1), yticks=[])
    axes.set_ylabel(label, rotation=0, ha="right", va="center")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(labelbottom=False, length=0)


def draw(
    clip: ClipSpec,
    plan: Mapping[str, Tensor],
    title: str = "plan",
    truth: Mapping[str, Tensor] | None = None,
    pictures: UInt8[Tensor, "N Y X 3"] | None = None,
) -> Figure:
    """Draws a plan.

    Args:
        clip: Geometry.
        plan: Modality -> tokens: video [N, h, w, C_v], audio [K_a, C_a].
        title: Title of the figure.
        truth: Ground-truth tokens of the same shapes. They are drawn below the plan, with the error of every video token.
        pictures: Decoded keyframes of the plan, drawn below it; see :mod:`baton_lightning.plan.decoder`.
    """
    from matplotlib.figure import Figure

    reference = (truth or plan)["video"].flatten(0, 2)
    rows = [("plan", colours(plan["video"].flatten(0, 2), reference).reshape(*clip.video_plan_grid, 3))]
    if pictures is not None:
        rows.append(("pictures", pictures))
    if truth is not None:
        error = (plan["video"] - truth["video"]).square().mean(-1).sqrt()
        grey = (1 - (error / error.max().clamp(min=1e-6)))[..., None].expand(*error.shape, 3)
        rows.append(("truth", colours(reference, reference).reshape(*clip.video_plan_grid, 3)))
        rows.append((f"error\n(black {error.max():.2f})", grey))
    heights = [PICTURES_HEIGHT if shown is pictures else 1.0 for _, shown in rows]
    figure = Figure(figsize=(9, 1.1 * sum(heights) + 2.4), layout="constrained")
    *panels, heard = figure.subplots(len(rows) + 1, 1, sharex=True, height_ratios=[*heights, 1.1])
    for axes, (label, painted) in zip(panels, rows, strict=True):
        strip(axes, painted, clip.seconds, clip.keyframe_fps, label)
    if truth is not None:
        heard.plot(clip.audio_plan_times, change(truth["audio"]), color="0.6", linewidth=3, label="truth")
    heard.plot(clip.audio_plan_times, change(plan["audio"]), color="C0", linewidth=1.4, label="plan")
    if truth is not None:
        heard.legend(loc="upper right", frameon=False)
    heard.set(xlabel="time [s]", xlim=(0, clip.seconds), ylim=(0, None))
    heard.set_ylabel("sound:\ndistance from\nmedian token", rotation=0, ha="right", va="center")
    heard.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(map(short, title.split("\n"))) or "plan", fontsize=10, ha="left", x=0.02, parse_math=False)
    return figure


def short(text: str, longest: int = 220) -> str:
    """A prompt, shortened and wrapped, without unprintable characters.

    Args:
        text: The prompt.
        longest: Maximum length, in characters.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.fill(line if len(line) <= longest else line[: longest - 1] + "…", width=120)


def png(
    clip: ClipSpec,
    plan: Mapping[str, Tensor],
    title: str = "plan",
    truth: Mapping[str, Tensor] | None = None,
    pictures: UInt8[Tensor, "N Y X 3"] | None = None,
) -> bytes:
    """The figure of :func:`draw` as a PNG, 1,350 pixels wide. Arguments as for :func:`draw`."""
    return encoded(draw(clip, plan, title, truth, pictures), dpi=150)


def encoded(figure: Figure, dpi: int) -> bytes:
    """A figure as a PNG without the name of the program that drew it."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi, metadata={"Software": None})
    return written.getvalue()


def write(picture: bytes, path: str | Path) -> None:
    """Writes a picture, and creates its folder. A link at the path is replaced, not followed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic.aside(Path(path)) as part:
        part.write_bytes(picture)


def show(picture: bytes) -> None:
    """Shows a PNG in a notebook. Outside a notebook, writes it to a file, opens the system's viewer and prints the path."""
    if "ipykernel" in sys.modules:
        notebook = importlib.import_module("IPython.display")  # present in every notebook; not a dependency of this package
        notebook.display(notebook.Image(picture))
        return
    file = Path(tempfile.mkdtemp(prefix="baton-plan-")) / "plan.png"
    file.write_bytes(picture)
    if sys.platform == "darwin":
        subprocess.run(["open", str(file)], check=False)
    else:
        webbrowser.open(file.as_uri())
    print(f"plan: {file}")
