"""Page of tables from the JSON of `bench world`."""

from __future__ import annotations

from typing import Any

from baton_lightning.world.controls import SHIFTS, shift_name
from baton_lightning.world.score_table import SCORES

SHOWN = tuple(name for name in SCORES if name != "p_strict")
FIRST = ("truth", "codec ceiling")
TABLED_SHIFTS = (-0.3, 0.1, 0.7)
CURVE_ONLY = {shift_name(seconds) for seconds in SHIFTS if seconds not in TABLED_SHIFTS}
CURVES = ("p_acc", "desync", "desync_signed", "desync_p", "desync21", "sync_c")
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

SEEN = """## What each score sees: {geometry} ({settings})

*yes*: in every tier, the score's 95 % interval lies apart from that of the truth. *no*: in none; the score is blind to this error. *some*:
in some tiers. A dash: nothing to measure.
"""
CURVE = """## The error curve of a delayed sound: {geometry}

Means over the clips of all tiers, each tier with the same weight. The sound is early if the delay is negative; then its start is cut off,
with events that were heard before that time.
"""


def markdown(result: dict[str, Any]) -> str:
    """The page as Markdown.

    Args:
        result: Result of :func:`~baton_lightning.bench.world.measure`, with ``command``.
    """
    parts = [OPENING.format(command=result["command"], clips=result["clips"])]
    for geometry, tiers in result["scores"].items():
        parts += [SEEN.format(geometry=geometry, settings=SETTINGS[geometry]), which_scores_see(tiers)]
    for geometry, tiers in result["scores"].items():
        parts += [CURVE.format(geometry=geometry), _curve(tiers)]
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


def which_scores_see(tiers: dict[str, Any]) -> str:
    """Which errors change which scores."""
    names = [name for name in dict.fromkeys(c for rows in tiers.values() for c in rows) if name != "truth" and name not in CURVE_ONLY]
    lines = [_row(["error", *(SCORES[score].name for score in SHOWN)]), "|---|" + "---|" * len(SHOWN)]
    for name in names:
        pairs = [(rows["truth"], rows[name]) for rows in tiers.values() if name in rows]
        lines.append(_row([name, *(_seen_by(score, pairs) for score in SHOWN)]))
    return "\n".join(lines) + "\n"


def _seen_by(score: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    measured = [(true[score], wrong[score]) for true, wrong in pairs if true[score]["n"] and wrong[score]["n"]]
    apart = [wrong["low"] > true["high"] or wrong["high"] < true["low"] for true, wrong in measured]
    return "-" if not apart else "yes" if all(apart) else "some" if any(apart) else "no"


def _curve(tiers: dict[str, Any]) -> str:
    """Scores against the delay of the sound."""
    lines = [_row(["delay, s", *(SCORES[score].title for score in CURVES)]), "|---:|" + "---:|" * len(CURVES)]
    for seconds in sorted({*SHIFTS, 0.0}):
        name = shift_name(seconds) if seconds else "truth"
        found = [[rows[name][score]["mean"] for rows in tiers.values() if rows[name][score]["n"]] for score in CURVES]
        lines.append(_row([f"{seconds:+g}" if seconds else "0", *(_number(sum(v) / len(v) if v else None) for v in found)]))
    return "\n".join(lines) + "\n"


def _scores(tier: str, rows: dict[str, Any]) -> str:
    names = [*FIRST, *(name for name in rows if name not in FIRST and name not in CURVE_ONLY)]
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
