"""Page of tables from the JSON of `bench world`."""

from __future__ import annotations

from typing import Any

from baton_lightning.world.score_table import SCORES

SHOWN = tuple(name for name in SCORES if name != "p_strict")
FIRST = ("truth", "codec ceiling")
SETTINGS = {"nano": "2 s, 32 px, 12 fps", "toy": "5 s, 48 px, 12 fps"}
SENSES = {"seen": "Picture", "heard": "Sound"}

OPENING = """# The benchmark world's scores of its own controls

Generated; do not edit. The command:

```bash
{command}
```

Every clip went through an mp4 (H.264, AAC) before it was scored. {clips} test prompts per tier; means over clips, rates as sums over
sums; intervals and counts are in `world.json`. `baton_lightning/world/` defines scores (`scores.py`), controls (`controls.py`) and
damages (`confusion.py`). A dash: nothing to measure. A single event has no order to reverse; `wrong speaker` is of clips with speech.
"""


def markdown(result: dict[str, Any]) -> str:
    """The page as Markdown.

    Args:
        result: Result of :func:`~baton_lightning.bench.world.measure`, with ``command``.
    """
    parts = [OPENING.format(command=result["command"], clips=result["clips"])]
    for geometry, tiers in result["scores"].items():
        parts.append(f"## Controls: {geometry} ({SETTINGS[geometry]})\n")
        for tier, rows in tiers.items():
            parts.append(_scores(tier, rows))
    for geometry, senses in result["confusion"].items():
        parts.append(f"## Detectors under damage: {geometry}\n")
        for sense, damages in senses.items():
            parts.append(_recall(SENSES[sense], damages))
            for damage in _worst(damages):
                parts.append(_matrix(SENSES[sense], damage, damages[damage]))
    return "\n".join(parts)


def _scores(tier: str, rows: dict[str, Any]) -> str:
    names = [*FIRST, *(name for name in rows if name not in FIRST)]
    lines = [_row([f"**{tier}**", "clips", *(SCORES[score].name for score in SHOWN)]), "|---|" + "---:|" * (len(SHOWN) + 1)]
    for name in names:
        values = [rows[name][score]["mean"] for score in SHOWN]
        lines.append(_row([name, str(rows[name]["num_clips"]), *map(_number, values)]))
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"
    return text if float(text) else "0"


def _recall(sense: str, damages: dict[str, Any]) -> str:
    """Share of each class that is detected correctly, and number of detections where nothing was. Each damage has a row."""
    kinds = [kind for kind in damages["none"] if kind != "nothing"]
    lines = [_row([f"{sense}: detected correctly", *(f"{k} (n = {sum(damages['none'][k].values())})" for k in kinds), "false detections"])]
    lines.append("|---|" + "---:|" * (len(kinds) + 1))
    for damage, table in damages.items():
        shares = [table[k].get(k, 0) / sum(table[k].values()) for k in kinds]
        lines.append(_row([damage, *(f"{share:.0%}" for share in shares), str(sum(table.get("nothing", {}).values()))]))
    return "\n".join(lines) + "\n"


def _worst(damages: dict[str, Any]) -> list[str]:
    """The last damage of each sort, which is the strongest."""
    last = {name.split()[0]: name for name in damages if name != "none"}
    return list(last.values())


def _matrix(sense: str, damage: str, table: dict[str, Any]) -> str:
    found = [*sorted({name for row in table.values() for name in row} - {"nothing"}), "nothing"]
    lines = [_row([f"{sense}, {damage}: true \\ found", *found]), "|---|" + "---:|" * len(found)]
    for true in sorted(table, key=lambda name: (name == "nothing", name)):
        lines.append(_row([true, *(str(table[true].get(name, 0)) for name in found)]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
