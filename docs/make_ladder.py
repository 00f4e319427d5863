"""Draws docs/images/ladder.png, P-Acc against training operations for each rung, from docs/ladder.json.

    python docs/make_ladder.py

The JSON has, for each rung, training operations relative to nano, and P-Acc of each tier and plan as [mean, low, high].
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parent
TIERS = {"multi": "several events", "single": "one event"}
PLANS = {"truth": ("ground-truth plan", "s", "#5b8def"), "planned": ("the planner's plan", "o", "#d9622b")}


def main() -> None:
    rungs = json.loads((DOCS / "ladder.json").read_text())["rungs"]
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    for panel, (tier, title) in zip(panels, TIERS.items(), strict=True):
        for plan, (label, marker, colour) in PLANS.items():
            points = [(rung["operations"], *rung["p_acc"][tier][plan]) for rung in rungs]
            over, mean, low, high = zip(*points, strict=True)
            errors = [[m - v for m, v in zip(mean, low, strict=True)], [v - m for m, v in zip(mean, high, strict=True)]]
            panel.errorbar(over, mean, errors, label=label, marker=marker, color=colour, capsize=3)
        for rung in rungs:
            panel.annotate(rung["name"], (rung["operations"], 0.03), ha="center", fontsize=8)
        panel.axhline(0, color="#888888", linewidth=1, linestyle=":", label="no plan, or another prompt's")
        panel.set(xscale="log", ylim=(-0.04, 1.04), xlim=(0.7, 22), title=title, xlabel="training operations, nano = 1")
        panel.set_xticks([rung["operations"] for rung in rungs], [f"{rung['operations']:g}" for rung in rungs], minor=False)
        panel.tick_params(axis="x", which="minor", bottom=False)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("P-Acc")
    panels[1].legend(loc="center right", fontsize=8, frameon=False)
    file = DOCS / "images" / "ladder.png"
    figure.savefig(file, dpi=110)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
