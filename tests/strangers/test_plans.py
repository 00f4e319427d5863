"""A plan, or a list of edits, from elsewhere is read within bounds: what is wrong with it is one line, and nothing is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.stored import FORMAT

CLIP = ClipSpec(seconds=1.0, plan_grid=(2, 2), video_plan_width=4, audio_plan_width=4)
TOLD = {"format": FORMAT, "clip": json.dumps(CLIP.to_dict()), "video_prompt": "a", "audio_prompt": "b"}
TOLD |= {"source": "planner", "planner": "null", "edits": "[]"}
STATISTICS = torch.tensor([[0.0] * 4, [1.0] * 4])
TENSORS = {
    "video": torch.randn(6, 2, 2, 4),
    "audio": torch.randn(40, 4),
    "statistics.video": STATISTICS,
    "statistics.audio": STATISTICS.clone(),
}


def geometry(**changes: Any) -> dict[str, str]:
    return {"clip": json.dumps(CLIP.to_dict() | changes)}


BAD: dict[str, dict[str, Any]] = {
    "NaN tokens": {"audio": torch.full((40, 4), float("nan"))},
    "tokens beyond float32": {"audio": torch.full((40, 4), 1e300, dtype=torch.float64)},
    "whole numbers": {"video": torch.ones(6, 2, 2, 4, dtype=torch.int64)},
    "complex numbers": {"video": torch.ones(6, 2, 2, 4, dtype=torch.complex64)},
    "another shape": {"video": torch.ones(6, 2, 2, 5)},
    "no tokens": {"video": None},
    "no statistics": {"statistics.audio": None},
    "statistics of another shape": {"statistics.audio": torch.ones(2, 5)},
    "NaN statistics": {"statistics.video": STATISTICS * float("nan")},
    "no deviation": {"statistics.video": STATISTICS * 0},
    "another format": {"format": "\x1b[31m" * 1000},
    "no format": {"format": None},
    "a field that lacks": {"source": None},
    "a geometry that is none": {"clip": "[]"},
    "a geometry of texts": geometry(seconds="x"),
    "a rate of 0": geometry(fps=0),
    "a width that is no whole number": geometry(video_plan_width=4.5),
    "a number for two": geometry(plan_grid=2),
    "three numbers for two": geometry(plan_grid=[2, 2, 1]),
    "a number below 0": geometry(text_tokens=-1),
    "a stride of 0": geometry(video_stride=[0, 0]),
    "a number without bound": geometry(seconds=10**400),
    "an infinite number": {"clip": TOLD["clip"].replace("1.0", "1e999", 1)},
    "a geometry without keyframes": geometry(keyframe_fps=1e-9) | {"video": torch.ones(0, 2, 2, 4)},
    "keyframes without tokens": geometry(keyframe_fps=1e12, plan_grid=[0, 0]) | {"video": torch.ones(0)},
    "another field": geometry(**{"\x1b[2Jcolour": 1}),
    "a nested geometry": {"clip": "[" * 100_000},
    "nested edits": {"edits": '{"a":' * 100_000},
    "edits that are none": {"edits": "[1]"},
    "edits that are a mapping": {"edits": "{}"},
    "NaN in edits": {"edits": '[{"op": "shift", "seconds": NaN}]'},
}


def write(file: Path, **changes: Any) -> Path:
    """A plan with some tensors or texts changed; ``None`` = it lacks them."""
    both = {name: value for name, value in (TENSORS | TOLD | changes).items() if value is not None}
    tensors = {name: value for name, value in both.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, file, {name: value for name, value in both.items() if isinstance(value, str)})
    return file


def require_one_line(words: list[str], folder: Path, capfd: pytest.CaptureFixture[str], told: str) -> None:
    """Runs a command that must fail with one printable line and leave the folder as it is."""
    before = sorted(folder.rglob("*"))
    assert main(words) == 1
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("baton_lightning: error: ") and told in said and said.isprintable() and len(said) < 1000
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", BAD)
def test_a_plan_that_is_none_is_one_line(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    require_one_line(["plan", "show", str(write(tmp_path / "p.safetensors", **BAD[kind]))], tmp_path, capfd, "p")


def test_files_that_are_no_files_or_too_large_are_not_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / "whole.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "header.safetensors").write_bytes((2**60).to_bytes(8, "little") + whole.read_bytes())
    (tmp_path / "sparse.safetensors").write_bytes(whole.read_bytes())
    os.truncate(tmp_path / "sparse.safetensors", 2**37)
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x02cos\nsystem\n(S'touch pwned'\ntR.")
    for name in ("pipe", "loop", "header", "sparse", "pickle"):
        for words in (["show"], ["diff", str(whole)], ["edit", "--out", str(tmp_path / "o.safetensors"), str(whole)]):
            file = str(tmp_path / f"{name}.safetensors")
            require_one_line(["plan", *words, file], tmp_path, capfd, name)


EDITS = [
    b'{"op": ["shift"]}',
    b'{"op": "' + b"x" * 100_000 + b'"}',
    b'{"op": "shift", "seconds": 1' + b"0" * 400 + b"}",
    b'{"op": "shift", "seconds": 1e308, "start": 0.5}',
    b'{"op": "shift", "seconds": 1e999}',
    b'{"op": "scale", "factor": 1e300}',
    b'{"op": "scale", "factor": NaN}',
    b'{"op": "scale", "factor": 2, "\\u001b[31mx": 1}',
    b'{"op": "scale", "factor": 2, "modality": {"a": "\\u001b[31m"}}',
    b'{"op": "scale", "factor": 2, "rows": [0, 1' + b"0" * 400 + b"]}",
    b'{"op": "move", "columns": [0, 1], "columns_by": 1e308}',
    b'{"op": "swap", "modality": "audio", "first": [0, 1' + b"0" * 400 + b'], "second": [0.5, 1]}',
    b'{"op": "swap", "modality": "audio", "first": [true, 0.5], "second": [0.5, 1]}',
    b'{"op": "mix", "other": "../../../etc/passwd"}',
    b'{"op": "mix", "other": "/dev/zero"}',
    b'{"op": "mix", "other": 3}',
    b'{"a":' * 100_000,
    b"[" * 100_000,
    b"[3]",
    b"\xff\xfe",
    b"\n" * 2_000_000,
]


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_edits_that_are_none_are_one_line(number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = write(tmp_path / "p.safetensors")
    (tmp_path / "edits.jsonl").write_bytes(EDITS[number])
    words = ["plan", "edit", str(plan), str(tmp_path / "edits.jsonl"), "--out", str(tmp_path / "o.safetensors")]
    require_one_line(words, tmp_path, capfd, "")


def test_a_list_of_edits_that_is_a_pipe_is_not_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "edits.jsonl")
    words = ["plan", "edit", str(write(tmp_path / "p.safetensors")), str(tmp_path / "edits.jsonl"), "--out", str(tmp_path / "o")]
    require_one_line(words, tmp_path, capfd, "edits.jsonl must be a regular file")


def test_a_picture_replaces_no_file_unasked_and_is_not_written_through_a_link(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("kept")
    plan = write(tmp_path / "p.safetensors", video_prompt=r"\x1b[31m$\frac{", audio_prompt="\x1b[31m" * 9999)
    (tmp_path / "p.png").symlink_to(tmp_path / "precious")
    require_one_line(["plan", "show", str(plan)], tmp_path, capfd, "--force")
    assert main(["plan", "show", str(plan), "--force"]) == 0
    assert "\x1b" not in capfd.readouterr().out
    assert (tmp_path / "precious").read_text() == "kept" and (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_a_plan_of_another_type_of_number_is_read(tmp_path: Path) -> None:
    plan = ClipPlan.load(write(tmp_path / "p.safetensors", video=TENSORS["video"].bfloat16()))
    assert plan.video.dtype == torch.float32 and plan.clip == CLIP and plan.planner is None
