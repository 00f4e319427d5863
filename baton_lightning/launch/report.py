"""The demo's report: wall time and held-out metrics of every stage, and scores of every condition beside the codec ceiling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from baton_lightning.evaluation.report.found import CONDITIONS, condition_folder

STAGES = ("stage1", "stage2", "stage3_adapt", "stage3_joint")


def write(out: Path, data: Path, *, seconds: dict[str, float]) -> dict[str, Any]:
    """Collects manifests and scores in ``report.json``.

    Args:
        out: The demo's run folder.
        data: The demo's data folder.
        seconds: Wall time of every step, in s.

    Returns:
        The report. Everything except ``seconds`` is determined by the seed.
    """
    stages = {}
    for stage in STAGES:
        manifest = json.loads((out / stage / "manifest.json").read_text())
        stages[stage] = {"weights_sha256": manifest["weights_sha256"], "metrics": manifest["metrics"]}
    tiers: dict[str, dict[str, Any]] = {}
    for condition in CONDITIONS:
        scores = json.loads((condition_folder(out, condition) / "scores.json").read_text())
        for tier, aggregate in scores["tiers"].items():
            tiers.setdefault(tier, {})[condition] = aggregate
    gain = {
        tier: {f"planned_minus_{c}": round(rows["planned"]["p_acc"]["mean"] - rows[c]["p_acc"]["mean"], 4) for c in ("shuffled", "none")}
        | {"num_clips": rows["planned"]["num_clips"]}
        for tier, rows in tiers.items()
    }
    described = {name: text for name, (_, text) in CONDITIONS.items()}
    report = {"conditions": described, "p_acc_gain": gain, "scores": tiers, "stages": stages, "data": str(data), "seconds": seconds}
    (out / "report.json").write_text(json.dumps(report, indent=1))
    return report


def show(out: Path, console: Console) -> None:
    """Prints the report as tables, writes the page, and prints the paths of clips and logs, and last the numbers with the page's path."""
    from baton_lightning.evaluation.report.page import write_page
    from baton_lightning.evaluation.scores import table_of

    report = json.loads((out / "report.json").read_text())
    table = Table(title="stages")
    for column in ("stage", "wall time", "held-out metrics"):
        table.add_column(column)
    for stage, entry in report["stages"].items():
        chosen = {k.removeprefix("val/"): v for k, v in entry["metrics"].items() if k.startswith("val/")}
        table.add_row(stage, f"{report['seconds'].get(stage, 0):.0f} s", "  ".join(f"{k} {v:.3f}" for k, v in sorted(chosen.items())))
    console.print(table)
    for tier, rows in report["scores"].items():
        console.print(table_of(rows, f"{tier}: {rows['planned']['num_clips']} held-out prompts per condition, mean and 95 % interval"))
    page = write_page(out)
    console.print(f"report   {out / 'report.json'}\nclips    {out / 'samples'}/*.mp4\nlogs     tensorboard --logdir {out}", highlight=False)
    for note in page.notes:
        console.print(f"not on the page: {note}", highlight=False, markup=False)
    console.print(f"{page.headline}; open {page.file}", highlight=False, markup=False, soft_wrap=True)
