"""A user's mistake is one line that says what must hold and what was meant."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from baton_lightning.__main__ import main

ROOT = Path(__file__).parents[2]
STAGE1 = str(ROOT / "experiments/stage1.yaml")
BASE = f"base: {STAGE1}\n"
FILES = {
    "indented.yaml": BASE + "trainer:\n  max_steps: 3\n   val_check_interval: 1\n",
    "a_list.yaml": BASE + "trainer:\n  - 3\n",
    "a_list_below.yaml": BASE + "model: {init_args: {planner: [a, b]}}\n",
    "refers.yaml": BASE + "trainer:\n  max_steps: ${run.steps}\n",
}
MISTAKES = {
    "a verb's option": (["generate", "--run", "x", "--outt", "y"], "there is no option --outt; did you mean --out?"),
    "a verb of a verb": (["shards", "bild", "x"], "invalid choice: 'bild' .*; did you mean build?"),
    "an option below a verb": (["shards", "build", "x", "y", "--clp", "z"], "there is no option --clp; did you mean --clip?"),
    "a choice": (["metrics", "x", "--metrics", "clp"], "did you mean clap?"),
    "indentation": (["fit", "-c", "indented.yaml"], r"indented\.yaml must be YAML: .* line 4, column 22"),
    "a list for a section": (["fit", "-c", "a_list.yaml"], r"`trainer` in .*a_list\.yaml must be a mapping, .* got a list"),
    "a list for a class": (
        ["fit", "-c", "a_list_below.yaml", "--trainer.precision", "bf16-mixed"],
        r"`model\.init_args\.planner` must be a class with its arguments, .*, got \['a', 'b'\]$",
    ),
    "a reference": (["fit", "-c", "refers.yaml"], r"`trainer.max_steps` refers to \$\{run.steps\}"),
    "a word of a few": (
        ["fit", "-c", STAGE1, "--trainer.precision", "bf16-mixd"],
        r"`trainer.precision`: got bf16-mixd, .*did you mean bf16-mixed\?",
    ),
    "a class that is elsewhere": (
        ["fit", "-c", STAGE1, "--model.class_path", "baton_lightning.stages.PlannerPretrainin"],
        r"did you mean `baton_lightning\.stages\.pretraining\.PlannerPretraining`\?",
    ),
    "a class of a package": (["fit", "-c", STAGE1, "--model.class_path", "baton_lightning.stages.Nope"], "its modules are .*joint"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    words, told = MISTAKES[mistake]
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    said = capfd.readouterr().err
    assert code == 2 and len(said.strip().splitlines()) == 1 and said.startswith("baton_lightning: error: ")
    assert re.search(told, said), said
    assert not re.search(r"(has|are|there are) ?$", said.strip()), "the line breaks off"


def test_unknown_words_are_named_once_with_the_nearest_and_an_example() -> None:
    from baton_lightning.frozen.words import word_tokenizer
    from baton_lightning.generation.prompt_warnings import prompt_warnings
    from baton_lightning.metrics.prompts import Prompt

    tokenizer = word_tokenizer()
    (told,) = prompt_warnings(tokenizer, [Prompt("a purple circl on the left. first the red circle sings.", "first a thump.")])
    assert "purple" in told and "circl (did you mean circle?)" in told and "sings" in told and "a red circle on the left" in told
    assert told.count("purple") == 1
    (told,) = prompt_warnings(tokenizer, [Prompt("a orange squre and a bleu circle.", "hello.")])
    assert "orange," in told and "hello;" in told, "a far word, such as triangle for orange, is no advice"
    assert "squre (did you mean square?)" in told and "bleu (did you mean blue?)" in told
    (told,) = prompt_warnings(tokenizer, [Prompt("A red circle jumps on the left", "thump")])
    assert "cannot be scored" in told
    assert not prompt_warnings(tokenizer, [Prompt("a red circle on the left. first the red circle jumps.", "first a thump.")])
    assert not prompt_warnings(word_tokenizer(["a", "purple", "dog"]), [Prompt("a purple dog", "a dog")])


@pytest.mark.parametrize("texts", [("", ""), ("a red circle.", " ")])
def test_an_empty_prompt_is_refused_by_its_option(texts: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prompts = ["--video-prompt", texts[0], "--audio-prompt", texts[1]]
    assert main(["generate", "--run", "nano", "--out", str(tmp_path / "clips"), *prompts]) == 1
    named = "video" if not texts[0] else "audio"
    assert capfd.readouterr().err.startswith(f"baton_lightning: error: generate: --{named}-prompt must have words, got an empty text")


def test_an_output_folder_that_is_a_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    loads = f"import sys; from baton_lightning.__main__ import main; code = main({['generate', '--run', 'nano', '--out', 'README.md']}); "
    done = subprocess.run(
        [sys.executable, "-c", loads + "assert 'torch' not in sys.modules; sys.exit(code)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "baton_lightning: error: generate: --out must be a folder, README.md is a file; give another --out\n",
    )
    assert (tmp_path / "README.md").read_text() == "mine"
