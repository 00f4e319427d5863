"""Results of `bench gpu` as Markdown."""

from __future__ import annotations

from typing import Any

from baton_lightning.gpus import peak_of


def markdown(result: dict[str, Any]) -> str:
    """Tables of times, rounding and verbs, with explanations.

    Args:
        result: Results in the format of :mod:`~baton_lightning.bench.gpu`.
    """
    parts: dict[str, dict[str, Any]] = result["parts"]
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    card = result["device"] + (f", {result['gib']:.1f} GiB, CUDA {result['cuda']}" if result["gib"] else "")
    lines = [f"**{card}**; {versions}", "", f"    {result['command']}", ""]
    timed = {name: found for name, found in parts.items() if "seconds" in found}
    if timed:
        lines += times(timed, peak_of(result["device"]))
    if "failed" not in (rounding := parts.get("rounding", {"failed": ""})):
        lines += ["| bfloat16 against float32 | relative error |", "|---|---|"]
        lines += [f"| {name} | {error:.2%} |" for name, error in rounding.items() if name not in ("depth", "wall")]
        lines += ["", "Errors are relative to the l2 norm; two blocks, random weights, non-zero plan layers.", ""]
    if "failed" not in (runs := parts.get("runs", {"failed": ""})):
        lines += ["| verb | s |", "|---|---|"]
        lines += [f"| {name} | {seconds:.0f} |" for name, seconds in runs.items() if name != "wall"]
        lines += [""]
    if failed := {name: found["failed"] for name, found in parts.items() if "failed" in found}:
        lines += ["| failed | reason |", "|---|---|"]
        lines += [f"| {name} | {why.replace('|', '/')} |" for name, why in failed.items()]
        lines += [""]
    return "\n".join(lines)


def times(timed: dict[str, dict[str, Any]], peak: float | None) -> list[str]:
    """Table of step times. Columns that this machine cannot measure are omitted."""
    gpu = any("gib" in found for found in timed.values())
    columns = ["step of one clip", "blocks", "s", "first, s", "TFLOP/s", *(["MFU"] if peak else []), *(["GiB", "foreseen"] if gpu else [])]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, found in timed.items():
        cells = [name, f"{found['depth']:.0f}", f"{found['seconds']:.3f}", f"{found['first']:.1f}", f"{found['tflops']:.3g}"]
        cells += [f"{found['tflops'] / peak:.1%}"] if peak else []
        cells += [f"{found['gib']:.1f}", f"{found['foreseen_gib']:.1f}"] if gpu else []
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "TFLOP/s count the model's operations: a training step forward and backward, a sampling step two passes forward; no recomputation."
    )
    return [*lines, "", note, ""]
