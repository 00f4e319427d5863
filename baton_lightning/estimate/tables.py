"""Tables of `estimate`, at most 80 columns wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from baton_lightning.estimate.memory import Buckets, Load, Peak, enough

if TYPE_CHECKING:
    from baton_lightning.clip import ClipSpec
    from baton_lightning.estimate.footprint import Footprint
    from baton_lightning.estimate.host import Host
    from baton_lightning.estimate.parameters import Part
    from baton_lightning.estimate.sampling import Sampling

CARDS = {"24": 24.0, "48": 48.0, "80": 79.6, "141": 140.4}
"""Nominal memory of a card in GB -> memory that torch reports, in GiB."""
USABLE = 0.92
"""Share of a card that tensors may fill; the rest is CUDA's context, communication and fragmentation."""


def tokens(clip: ClipSpec, clips: int) -> Table:
    """Sequence lengths of a clip, and tokens of a step."""
    table = Table(title=f"{clip.seconds:g} s, {clip.width} x {clip.height} at {clip.fps:g} fps")
    table.add_column("tokens")
    table.add_column("grid")
    table.add_column("of a clip", justify="right")
    table.add_column(f"of a step, {clips} clips", justify="right")
    rows = [
        ("video", " x ".join(map(str, clip.token_grid)), clip.num_video_tokens),
        ("audio", f"{clip.audio_latent_rate:g} / s", clip.num_audio_latents),
        ("planned video", " x ".join(map(str, clip.video_plan_grid)), clip.num_video_planned),
        ("planned audio", f"{clip.audio_plan_rate} / s", clip.num_audio_planned),
        ("text", "", clip.text_tokens),
    ]
    for name, grid, number in rows:
        table.add_row(name, grid, f"{number:,}", f"{number * clips:,}")
    return table


def parameters(stage: str, parts: list[Part]) -> Table:
    """Parameters by part."""
    table = Table(title=stage, show_footer=True)
    totals = ["", *(f"{sum(getattr(p, field) for p in parts):,}" for field in ("total", "trained"))]
    for column, total in zip(("parameters", "all", "trained"), totals, strict=True):
        table.add_column(column, total, justify="left" if column == "parameters" else "right")
    for part in parts:
        table.add_row(part.name, f"{part.total:,}", f"{part.trained:,}")
    return table


def memory(found: dict[str, Peak], hosts: dict[str, Host], gpus: int, clips: int, samples: bool) -> Table:
    """Memory of a GPU and of a node by strategy, and the cards that are large enough."""
    table = Table(title=f"GiB on each of {gpus} GPUs, {clips} clip{'s' if clips > 1 else ''} per GPU")
    for column in ("strategy", "states", "backward", "step", "sample", "host", "fits on"):
        table.add_column(column, justify="left" if column in ("strategy", "fits on") else "right")
    for name, peak in found.items():
        cards = [card for card, room in CARDS.items() if peak.most <= USABLE * room * 2**30]
        sample = gib(peak.sample) if samples else "-"
        numbers = (gib(peak.states), gib(peak.backward), gib(peak.step), sample, gib(hosts[name].most))
        table.add_row(name, *numbers, f"{cards[0]} GB" if cards else "none")
    return table


def fewest(load: Load, sizes: Buckets) -> str:
    """Smallest number of GPUs of each size with which ZeRO-3 fits into memory, as a sentence."""
    found = {card: enough(load, sizes, USABLE * room * 2**30) for card, room in CARDS.items()}
    return "ZeRO-3 needs " + ", ".join(f"{n or 'over 1,024'} x {card} GB" for card, n in found.items()) + "."


def gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.3g}"


def assumptions(
    load: Load,
    sizes: Buckets,
    walked: dict[bool, Footprint],
    recomputes: bool,
    sampled: Sampling | None,
    hosts: dict[str, Host],
    node: int,
    disk: float,
    kept: int,
    perceives: bool,
) -> Table:
    """Explanations of the columns of :func:`memory`."""
    working = "bf16 with float32 masters; float32 without ZeRO" if load.low else "float32, with masters under ZeRO"
    temporaries = "of a whole group at once" if load.cost.group else "of one tensor at a time" if load.cost.tensor else "none"
    start = next(iter(hosts.values())).start
    table = Table.grid(padding=(0, 2))
    for name, text in (
        (
            "states",
            f"weights in {working}; for a trained element {load.cost.states:.3g} bytes of the optimiser"
            f"{' and 4 of an average' if load.average else ''}",
        ),
        (
            "backward",
            f"states, gradients, buckets, and activations: {gib(walked[True].activations)} if recomputed, {gib(walked[False].activations)} "
            f"if kept, here {'recomputed' if recomputes else 'kept'}; ZeRO-3 and offload gather up to 1 B parameters"
            + ("; perceivers that run in the step are not counted" if perceives else ""),
        ),
        (
            "step",
            f"gradients in float32, and the optimiser's temporaries, {temporaries}; ZeRO-3 steps {min(sizes.sub_group, load.trained):.3g} "
            "elements at a time",
        ),
        ("sample", sampling_line(sampled)),
        (
            "host",
            f"of a node, {node} of the ranks: the start ({gib(start)}), or what is offloaded, frozen networks of samples "
            "and, at the end, whole weights",
        ),
        ("fits on", f"the smallest of {', '.join(CARDS)} GB of which the largest column is {USABLE:.0%} or less"),
        ("disk", kept_line(disk, kept)),
        (
            "checked",
            "on CPUs at a small size: activations, and the step of AdamW and of DeepSpeed; on an H100 at the paper's width: steps of "
            "the transformer, whose peaks were at most 7% below the computed ones; the rest is computed",
        ),
    ):
        table.add_row(name, text)
    return table


def sampling_line(sampled: Sampling | None) -> str:
    """Explanation of the memory of samples."""
    if sampled is None:
        return "no clips are sampled"
    left_out = f"; not counted: {', '.join(sampled.unknown)}" if sampled.unknown else ""
    return (
        f"{sampled.clips} clip{'s' if sampled.clips > 1 else ''} at a time: states, and the largest of text encoder {gib(sampled.text)}, "
        f"denoising {gib(sampled.denoising)}, decoding {gib(sampled.decoding)}{left_out}"
    )


def kept_line(checkpoint: float, kept: int) -> str:
    """Disk space of checkpoints.

    Args:
        checkpoint: Bytes of one checkpoint.
        kept: Number of checkpoints that are kept (-1 = all). One more exists while it is written.
    """
    one = f"a checkpoint of DeepSpeed takes {checkpoint / 1e9:,.3g} GB"
    if kept < 0:
        return f"{one}, and all are kept"
    return f"{one}; {kept} kept and one being written: {(kept + 1) * checkpoint / 1e9:,.3g} GB"
