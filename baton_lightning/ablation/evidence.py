"""Report of a suite: the scores of its rows over seeds, as JSON, Markdown and a plot.

The interval of a score is Student's t over the seeds' means. Each seed trains all stages and is scored on the same test prompts. A claim
compares the means of two rows. The report states whether each claim holds, with the numbers and the interval of the paired difference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from baton_lightning import atomic
from baton_lightning.ablation.suite import ROWS, Row, Suite, scores_file
from baton_lightning.runs.manifest import git_commit
from baton_lightning.world.score_table import SCORES

SHOWN = ("p_acc", "p_check", "order", "m_ter", "desync", "desync_p", "id")
CLAIM_KEYS = ("row", "than", "tiers", "score", "by", "share", "apart")
PAIRED = "A claim is about means. *Better by* is the mean difference with its 95 % interval, as the seeds pair the two rows."


def interval(values: Sequence[float], score: str | None = None) -> tuple[float, float, float]:
    """Mean of the seeds' values with its 95 % interval.

    The interval is limited to the range of the score; without a score, the values are differences and there is no limit. For one seed there
    is no interval: low and high are ``nan``.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    bottom, top = -math.inf if score is None else 0.0, 1.0 if score in SCORES and SCORES[score].full == 1 else math.inf
    return mean, max(bottom, mean - half), min(top, mean + half)


def collect(suite: Suite, out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One entry for each row, tier and score, over the seeds that have scores.

    Returns:
        ``{"name", "tier", "score", "mean", "low", "high", "seeds", "clips", "values"}``; low and high are ``None`` for a single seed.
    """
    entries = []
    for row in suite.rows:
        files = {seed: scores_file(suite, row, seed, out) for seed in seeds}
        found = {seed: json.loads(file.read_text())["tiers"] for seed, file in files.items() if file.exists()}
        for tier in dict.fromkeys(tier for tiers in found.values() for tier in tiers):
            for score in SHOWN:
                values = {seed: tiers[tier][score]["mean"] for seed, tiers in found.items() if tiers[tier][score]["mean"] is not None}
                if not values:
                    continue
                mean, low, high = interval(list(values.values()), score)
                entries.append(
                    {
                        "name": row.name,
                        "tier": tier,
                        "score": score,
                        "mean": round(mean, 4),
                        "low": None if math.isnan(low) else round(low, 4),
                        "high": None if math.isnan(high) else round(high, 4),
                        "seeds": list(values),
                        "clips": min(tiers[tier]["num_clips"] for tiers in found.values()),
                        "values": [round(value, 4) for value in values.values()],
                    }
                )
    return entries


def require_claims(suite: Suite) -> None:
    """Refuses invalid claims, before training.

    Raises:
        ValueError: If a claim lacks a row, another row or tiers, has an unknown key, or names a row, score or tier that does not exist.
    """
    rows = {path.stem for path in (suite.path.parent / ROWS).glob("*.yaml")}
    for claim in suite.claims:
        complete = isinstance(claim, dict) and {"row", "than", "tiers"} <= claim.keys() <= set(CLAIM_KEYS)
        if not (complete and {claim["row"], claim["than"]} <= rows and claim.get("score", "p_acc") in SHOWN):
            raise ValueError(
                f"ablate: {suite.path}: a claim must name row, than (files beside the suite's rows) and tiers, and may have a score "
                f"({', '.join(SHOWN)}), by, share and apart, got {claim}"
            )


def judge(claim: Mapping[str, Any], tier: str, entries: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> tuple[bool | None, str]:
    """Whether a claim holds in a tier, with its numbers; ``None`` if a row has no scores.

    Args:
        claim: ``row`` is better than ``than`` in ``score``. The margin is absolute (``by``, default 0; negative: at most that much worse)
            or a ``share`` of the value of ``than``. With ``apart``, the intervals must not overlap.
        tier: Tier.
        entries: Entries by row, tier and score.
    """
    score = claim.get("score", "p_acc")
    a, b = entries.get((claim["row"], tier, score)), entries.get((claim["than"], tier, score))
    if a is None or b is None:
        return None, "not measured"
    gain = (b["mean"] - a["mean"]) if SCORES[score].better == "lower" else (a["mean"] - b["mean"])
    needed = claim["share"] * b["mean"] if "share" in claim else claim.get("by", 0.0)
    holds = gain >= needed - 1e-9
    if claim.get("apart"):
        better, worse = (b, a) if SCORES[score].better == "lower" else (a, b)
        holds = holds and better["low"] is not None and worse["high"] is not None and better["low"] > worse["high"]
    return holds, f"{cell(a)} against {cell(b)}; better by {gain_of(a, b, score)}"


def gain_of(a: Mapping[str, Any], b: Mapping[str, Any], score: str) -> str:
    """Paired difference of two rows (positive if ``a`` is better): mean and interval over the seeds that both have."""
    values = [dict(zip(entry["seeds"], entry["values"], strict=True)) for entry in (a, b)]
    sign = -1 if SCORES[score].better == "lower" else 1
    mean, low, high = interval([sign * (values[0][seed] - values[1][seed]) for seed in values[0] if seed in values[1]])
    return cell({"mean": mean, "low": None if math.isnan(low) else low, "high": high})


def sentence(claim: Mapping[str, Any]) -> str:
    """A claim as a sentence."""
    score = SCORES[claim.get("score", "p_acc")].title
    if "share" in claim:
        how = f"{score} at least {claim['share']:.0%} better"
    elif claim.get("by", 0.0) < 0:
        how = f"{score} at most {-claim['by']:g} worse"
    else:
        how = f"{score} better by at least {claim['by']:g}" if claim.get("by") else f"{score} not worse"
    return f"{claim['row']} against {claim['than']}: {how}{', intervals apart' if claim.get('apart') else ''}"


def cell(entry: Mapping[str, Any] | None) -> str:
    """``mean [low, high]``, or a dash."""
    if entry is None:
        return "-"
    return f"{entry['mean']:.2f}" if entry["low"] is None else f"{entry['mean']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def write(
    suite: Suite,
    out: Path,
    report: Path,
    seeds: Sequence[int],
    command: str,
    seconds: Mapping[str, float],
    manifests: Iterable[Path] = (),
) -> dict[str, Any]:
    """Writes ``evidence.json``, ``evidence.md`` and ``evidence.png``.

    Args:
        suite: The suite.
        out: Folder of its runs.
        report: Folder of the report.
        seeds: Seeds to report.
        command: The command that made it.
        seconds: Wall time of every step, in s.
        manifests: Manifests of the suite's stages; those of finished runs have the commit of their training.
    """
    rows = collect(suite, out, seeds)
    if not rows:
        raise ValueError(f"ablate: there are no scores below {out}/clips/ yet; run the suite first")
    known = {(row["name"], row["tier"], row["score"]): row for row in rows}
    claims = []
    for claim in suite.claims:
        for tier in claim["tiers"]:
            holds, numbers = judge(claim, tier, known)
            claims.append({"claim": sentence(claim), "tier": tier, "holds": holds, "numbers": numbers})
    evidence = {
        "suite": str(suite.path),
        "command": command,
        "commit": ", ".join(commits(manifests)) or git_commit(),
        "seconds": round(sum(seconds.values())),
        "rows": rows,
        "claims": claims,
    }
    report.mkdir(parents=True, exist_ok=True)
    atomic.write_text(report / "evidence.json", json.dumps(evidence, indent=1) + "\n")
    atomic.write_text(report / "evidence.md", page(suite, evidence))
    draw(suite.rows, known, report / "evidence.png")
    return evidence


def commits(manifests: Iterable[Path]) -> list[str]:
    """The commits in the manifests of finished runs."""
    return sorted({commit for file in manifests if file.exists() and (commit := json.loads(file.read_text()).get("git_commit"))})


def page(suite: Suite, evidence: Mapping[str, Any]) -> str:
    """The report as Markdown, which depends only on ``evidence.json`` and the suite's titles."""
    known = {(row["name"], row["tier"], row["score"]): row for row in evidence["rows"]}
    tiers = list(dict.fromkeys(row["tier"] for row in evidence["rows"]))
    seeds = sorted({seed for row in evidence["rows"] for seed in row["seeds"]})
    clips = max(row["clips"] for row in evidence["rows"])
    commit = ", ".join(f"`{text[:12]}`" for text in (evidence["commit"] or "unknown").split(", "))
    lines = [
        "# Evidence",
        "",
        "Rows of the paper's ablation on the benchmark world, whose truth is computable. The scores are **not** a reproduction of the",
        "paper's numbers: other data, other sizes, other judges. Its P-Acc has a column of its own: other data, not comparable in level.",
        "",
        "```bash",
        evidence["command"],
        "```",
        "",
        f"Generated from `{suite.path.name}` at commit {commit} by single-threaded processes. They took",
        f"{evidence['seconds'] / 60:.0f} minutes in total. Seeds {', '.join(map(str, seeds))}; {clips} test prompts per tier,",
        "the same for all. Cells are the mean over seeds and its [95 % interval] by Student's t; each seed trains all stages.",
        "",
        "![P-Acc of every row](evidence.png)",
    ]
    for tier in tiers:
        columns = ["row", "the paper's P-Acc", *(SCORES[score].title for score in SHOWN)]
        lines += ["", f"## {tier}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in suite.rows:
            if (row.name, tier, "p_acc") in known:
                cells = [cell(known.get((row.name, tier, score))) for score in SHOWN]
                lines.append(f"| {row.title} | {'-' if row.paper is None else f'{row.paper:.2f}'} | {' | '.join(cells)} |")
    if evidence["claims"]:
        lines += ["", "## Claims", "", PAIRED, "", "| claim | tier | holds | numbers |", "|---|---|---|---|"]
        words = {True: "yes", False: "**no**", None: "not measured"}
        lines += [f"| {c['claim']} | {c['tier']} | {words[c['holds']]} | {c['numbers']} |" for c in evidence["claims"]]
    notes = suite.path.with_suffix(".md")
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], known: Mapping[tuple[str, str, str], Mapping[str, Any]], file: Path) -> None:
    """A forest plot: P-Acc of every row with its interval and its seeds, one panel per tier."""
    from matplotlib.figure import Figure

    tiers = list(dict.fromkeys(tier for _, tier, _ in known))
    shown = [row for row in rows if any(name == row.name for name, _, _ in known)]
    figure = Figure(figsize=(2 + 3 * len(tiers), 1 + 0.35 * len(shown)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tiers), sharey=True))
    for panel, tier in zip(panels, tiers, strict=True):
        for place, row in enumerate(shown):
            entry = known.get((row.name, tier, "p_acc"))
            if entry is None:
                continue
            if entry["low"] is not None:
                panel.plot([entry["low"], entry["high"]], [place, place], color="tab:blue", linewidth=2)
            panel.plot(entry["values"], [place] * len(entry["values"]), "|", color="tab:blue", alpha=0.6)
            panel.plot([entry["mean"]], [place], "o", color="tab:blue")
            if row.paper is not None:
                panel.plot([row.paper], [place], "x", color="0.7")
        panel.set(title=tier, xlim=(-0.03, 1.03), xlabel="P-Acc")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(shown)), [row.title for row in shown])
    panels[0].invert_yaxis()
    figure.suptitle("mean, 95 % interval and seeds; x: the paper's own, on other data, not comparable in level", fontsize=9)
    with atomic.aside(file) as part:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})
