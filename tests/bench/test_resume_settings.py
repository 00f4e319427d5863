"""One setting that differs when a killed run is started again is refused, or told, or of no effect; the bench tries all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton_lightning.bench import resume_settings
from baton_lightning.bench.resume_settings import CHANGES, Change, try_all

ROOT = Path(__file__).parents[2]
KEYS = ("optimizer.init_args.lr", "content of the data", "val_check_interval", "llm.init_args.width")


@pytest.mark.slow
def test_a_changed_setting_is_refused_or_of_no_effect_and_never_silent(survival: Path) -> None:
    rows = try_all(survival, tuple(change for change in CHANGES if change.key.endswith(KEYS)), ROOT / "experiments")
    assert [(row["auto"], row["changed"], row["fault"]) for row in rows] == [
        ("refused", "resumes", ""),
        ("refused", "refused", ""),
        ("refused", "resumes", ""),
        ("resumes, same weights", "", ""),
    ]


def test_a_change_that_is_not_reported_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segments.json").write_text('[{"changed": []}]')
    monkeypatch.setattr(resume_settings, "resume", lambda case, change, cut, *more: (0, "finished", tmp_path))
    monkeypatch.setattr(resume_settings, "first_difference", lambda whole, run: None)
    row = resume_settings.try_change(None, Change("trainer.precision", wanted="free"), tmp_path, tmp_path)  # type: ignore[arg-type]
    assert row["auto"].startswith("SILENT") and row["fault"] == "the change was neither reported nor recorded"
