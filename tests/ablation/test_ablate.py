"""Suites of ablations: what rows share, what their files change, and what the report makes of the scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from baton_lightning.__main__ import main
from baton_lightning.ablation import evidence, suite
from baton_lightning.ablation.suite import Row, Suite, read_row, read_suite, runs_of, scores_file

ROOT = Path(__file__).parents[2]
SUITES = sorted((ROOT / "experiments/suites").glob("*.yaml"))
ROWS = sorted((ROOT / "experiments/ablations").glob("*.yaml"))
OUT = Path("out")


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def table() -> Suite:
    return read_suite(Path("experiments/suites/full_table.yaml"))


def folders(table: Suite, name: str, seed: int = 0) -> dict[str, str]:
    row = next(row for row in table.rows if row.name == name)
    return {stage: run.folder.name for stage, run in runs_of(table, row, seed, OUT).items()}


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_is_at_most_ten_lines_and_is_in_the_full_table(path: Path, table: Suite) -> None:
    assert len(path.read_text().splitlines()) <= 10
    assert read_row(path, table.stages) in table.rows


def test_rows_share_every_stage_up_to_their_change(table: Suite) -> None:
    full = folders(table, "full")
    assert folders(table, "oracle") == folders(table, "shuffled") == folders(table, "adaptation_alone") == full
    changed = {
        "no_rs_rope": {"stage3_adapt", "stage3_joint"},
        "no_queries": {"stage2", "stage3_joint"},
        "large_planner": {"stage1", "stage2", "stage3_joint"},
        "frozen_llm": {"stage1", "stage2", "stage3_joint"},
        "no_planner": {"stage3_adapt", "stage3_joint"},
    }
    for name, stages in changed.items():
        other = folders(table, name)
        assert {stage for stage in full if other[stage] != full[stage]} == stages, name
    assert not set(full.values()) & set(folders(table, "full", seed=1).values())


@pytest.mark.slow
def test_a_changed_parent_makes_a_new_child_and_new_clips(table: Suite) -> None:
    longer = replace(table, common={"stage1": {"trainer.max_steps": 7}})
    before, after = folders(table, "full"), folders(longer, "full")
    assert {stage for stage in before if before[stage] != after[stage]} == {"stage1", "stage2", "stage3_joint"}
    rows = {row.name: row for row in table.rows}
    same = {name for name, row in rows.items() if scores_file(table, row, 0, OUT) == scores_file(longer, row, 0, OUT)}
    own = {"no_planner", "adaptation_oracle", "adaptation_oracle_temporal"}
    assert same == own  # nothing of the planner is in them; the long one without a planner takes over its steps


def test_the_plan_free_rows_get_the_steps_of_what_they_leave_out(table: Suite) -> None:
    steps = {stage: suite.num_steps(table, stage) for stage in table.stages}
    rows = {row.name: row for row in table.rows}
    of = lambda name: runs_of(table, rows[name], 0, OUT)["stage3_adapt"].overlay  # noqa: E731
    assert of("no_planner")["trainer"]["max_steps"] == steps["stage3_adapt"] + steps["stage3_joint"]
    assert of("no_planner_long")["trainer"]["max_steps"] == sum(steps.values())
    assert of("no_planner")["model"]["init_args"]["dit"]["init_args"]["plan_attention"] is None


def test_a_row_without_a_stage_starts_from_the_others_alone(table: Suite) -> None:
    row = next(row for row in table.rows if row.name == "skip_adaptation")
    runs = runs_of(table, row, 0, OUT)
    assert set(runs) == {"stage1", "stage2", "stage3_joint"}
    parents = json.loads(next(word for word in runs["stage3_joint"].words if "parents" in word).partition("=")[2])
    assert parents == {"planner": str(runs["stage2"].folder)}


def test_nothing_is_run_twice_and_everything_comes_after_what_it_needs(table: Suite, tmp_path: Path) -> None:
    steps = suite.steps(table, tmp_path, (0, 1), Path("experiments"))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names) == len({step.done for step in steps})
    for number, step in enumerate(steps):
        assert set(step.needs) <= set(names[:number]), step.name
    assert sum(name.startswith("clips-") for name in names) == 2 * len(table.rows)


@pytest.mark.parametrize("file", ["row", "suite"])
def test_a_misspelt_key_or_stage_is_named(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load(SUITES[0].read_text())
    values["stages"] = {name: str((SUITES[0].parent / config).resolve()) for name, config in values["stages"].items()}
    (tmp_path / "ablations").mkdir()
    (tmp_path / "suites").mkdir()
    row = {"set": {"stage9": {"trainer.max_steps": 1}}} if file == "row" else {}
    (tmp_path / "ablations/mine.yaml").write_text(yaml.safe_dump(row | {"title": "mine"}))
    values |= {"rows": ["mine"]} | ({"sedes": [0]} if file == "suite" else {})
    (tmp_path / "suites/s.yaml").write_text(yaml.safe_dump(values))
    assert main(["ablate", str(tmp_path / "suites/s.yaml"), "--dry-run"]) == 1
    output = capsys.readouterr().err
    assert ("sedes" in output and "seeds" in output) if file == "suite" else ("mine.yaml" in output and "stage9" in output)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"claims": [{"row": "full", "than": "oracle"}]}, "a claim must name row, than"),
        ({"claims": [{"row": "full", "than": "orcale", "tiers": ["multi"]}]}, "orcale"),
        ({"claims": [{"row": "full", "than": "oracle", "tiers": ["multi"], "score": "pacc"}]}, "p_acc, p_check"),
        ({"claims": [{"row": "full", "than": "oracle", "tiers": ["multi"], "shares": 0.3}]}, "shares"),
        ({"seeds": 3}, "`seeds` must be a list"),
        ({"rows": "full"}, "`rows` must be a list"),
        ({"rows": ["broken"]}, "broken.yaml must be YAML"),
        ({"rows": ["strange"]}, "plan must be one of planned, truth, shuffled, none, ceiling, got 'wish'"),
    ],
    ids=str,
)
def test_what_could_only_fail_after_training_is_refused_before(
    wrong: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(SUITES[0].read_text()) | {"rows": ["full"]}
    values["stages"] = {name: str((SUITES[0].parent / config).resolve()) for name, config in values["stages"].items()}
    for path in (tmp_path / "ablations", tmp_path / "suites"):
        path.mkdir()
    for path in ROWS:
        (tmp_path / "ablations" / path.name).write_text(path.read_text())
    (tmp_path / "ablations/broken.yaml").write_text("set: {")
    (tmp_path / "ablations/strange.yaml").write_text("plan: wish")
    (tmp_path / "suites/s.yaml").write_text(yaml.safe_dump(values | wrong))
    assert main(["ablate", str(tmp_path / "suites/s.yaml"), "--dry-run"]) == 1
    assert message in capsys.readouterr().err


def test_a_slurm_script_gives_each_task_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "experiments/suites/key_rows.yaml", "--sbatch"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-2" in script and "seeds=(0 1 2)" in script and '--seeds "${seeds[$SLURM_ARRAY_TASK_ID]}"' in script


# ---- the report
def test_an_interval_is_students_over_seeds_and_a_single_seed_has_none() -> None:
    mean, low, high = evidence.interval([0.4, 0.5, 0.6], "p_acc")
    assert mean == pytest.approx(0.5) and high - mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert low == pytest.approx(2 * mean - high)
    assert evidence.interval([0.0, 0.1, 0.5], "p_acc")[1] == 0.0
    assert all(math.isnan(value) for value in evidence.interval([0.4], "p_acc")[1:])


def entry(mean: float, half: float = 0.05) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": [0, 1], "values": [mean - half, mean + half]}


@pytest.mark.parametrize(
    ("claim", "a", "b", "holds"),
    [
        ({"by": 0.25}, 0.50, 0.25, True),
        ({"by": 0.26}, 0.50, 0.25, False),
        ({"apart": True}, 0.50, 0.41, False),
        ({"apart": True}, 0.50, 0.39, True),
        ({"score": "desync_p", "share": 0.3}, 1.4, 2.0, True),
        ({"score": "desync_p", "share": 0.3}, 1.41, 2.0, False),
        ({"score": "m_ter", "apart": True}, 0.5, 0.4, False),
        ({"by": -0.05}, 0.46, 0.5, True),
    ],
)
def test_a_claim_holds_exactly_if_margin_and_intervals_do(claim: dict, a: float, b: float, holds: bool) -> None:
    score = claim.get("score", "p_acc")
    entries = {("full", "multi", score): entry(a), ("other", "multi", score): entry(b)}
    assert evidence.judge(claim | {"row": "full", "than": "other"}, "multi", entries)[0] is holds
    assert evidence.judge(claim | {"row": "full", "than": "absent"}, "multi", entries)[0] is None


def test_a_gain_pairs_seeds_so_that_what_two_rows_share_cancels() -> None:
    a = {"seeds": [0, 1, 2], "values": [0.1, 0.5, 0.9]}
    b = {"seeds": [2, 1, 5], "values": [0.7, 0.3, 0.0]}
    assert evidence.gain_of(a, b, "p_acc") == "0.20 [0.20, 0.20]"
    assert evidence.gain_of(a, b, "desync_p") == "-0.20 [-0.20, -0.20]"
    assert evidence.gain_of(a, b | {"seeds": [2, 7, 8]}, "p_acc") == "0.20"


def test_the_report_holds_every_rows_seeds_and_says_which_claims_fail(table: Suite, tmp_path: Path) -> None:
    table = replace(table, rows=(Row("full", "full", paper=0.82), Row("no_planner", "no planner")), seeds=(0, 1))
    for row, values in (("full", (0.5, 0.6)), ("no_planner", (0.5, 0.7))):
        for seed, value in enumerate(values):
            folder = scores_file(table, next(r for r in table.rows if r.name == row), seed, tmp_path).parent
            folder.mkdir(parents=True)
            scores = {name: {"mean": value} for name in evidence.SHOWN}
            (folder / "scores.json").write_text(json.dumps({"tiers": {"multi": scores | {"num_clips": 9}}}))
    table = replace(table, claims=({"row": "full", "than": "no_planner", "tiers": ["multi"], "by": 0.25},))
    made = evidence.write(table, tmp_path, tmp_path / "report", (0, 1), "the command", {"a": 60.0})
    assert made == json.loads((tmp_path / "report/evidence.json").read_text())
    row = next(row for row in made["rows"] if (row["name"], row["score"]) == ("full", "p_acc"))
    assert row["mean"] == 0.55 and row["seeds"] == [0, 1] and row["clips"] == 9 and np.allclose(row["values"], [0.5, 0.6])
    page = (tmp_path / "report/evidence.md").read_text()
    assert "-0.05 [-0.69, 0.59]" in page  # of -0.0 and -0.1 with 12.7 standard errors
    assert "the command" in page and "**no**" in page and "| full | 0.82 | 0.55 [" in page
    assert (tmp_path / "report/evidence.png").stat().st_size > 1000


# ---- for real
@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in ROWS])
def test_what_a_row_changes_is_taken_by_the_parser(name: str, table: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in table.rows if row.name == name)
    full = runs_of(table, table.rows[0], 0, tmp_path)
    for stage, run in runs_of(table, row, 0, tmp_path).items():
        if run.folder != full[stage].folder and (stage in row.changes or stage in row.steps_of):
            run.write_overlay()
            with pytest.raises(SystemExit) as end:
                main([*run.words, "--print_config"])
            assert end.value.code in (0, None), capsys.readouterr().err


@pytest.mark.slow
def test_a_suite_is_trained_once_scored_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load((ROOT / "experiments/suites/key_rows.yaml").read_text())
    values["stages"] = {name: str((ROOT / "experiments/suites" / config).resolve()) for name, config in values["stages"].items()}
    few = {"trainer.max_steps": 2, "data.init_args.batch_size": 4, "model.init_args.scheduler.init_args.warmup_steps": 1}
    values |= {"data": str(tmp_path / "data"), "set": {stage: few for stage in values["stages"]}, "seeds": [0], "clips": 1}
    values |= {
        "world": "--train 12 --val 3 --test 1 --tiers single multi talk --workers 0".split(),
        "rows": ["full", "adaptation_alone"],
    }
    for folder in ("suites", "ablations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "suites/few.yaml").write_text(yaml.safe_dump(values))
    for path in ROWS:
        (tmp_path / "ablations" / path.name).write_text(path.read_text())
    command = ["ablate", str(tmp_path / "suites/few.yaml"), "--out", str(tmp_path / "out")]
    assert main(command) == 0, capsys.readouterr()
    assert "evidence.md" in capsys.readouterr().out
    assert len(list((tmp_path / "out/stages").glob("*/manifest.json"))) == 4  # the rows share every stage
    rows = json.loads((tmp_path / "out/report/evidence.json").read_text())["rows"]
    assert {(row["name"], row["tier"]) for row in rows} == {(n, t) for n in values["rows"] for t in ("single", "multi", "talk")}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("manifest.json")}
    assert main(command) == 0
    assert made == {path: path.stat().st_mtime_ns for path in made}
