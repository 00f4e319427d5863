"""Names that look like numbers are names, and the same ones, to fit, slurm and chain, on the command line and in files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from baton_lightning import settings
from baton_lightning.__main__ import main
from baton_lightning.folder_names import named

ROOT = Path(__file__).parents[1]
NAMES = ["007", "1e3", "77950e8", "0x1F", "1:30", "yes", "12_34", "1.50", "2024-11-25", "-3", "off"]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def config(tmp_path: Path, name: str) -> Path:
    file = tmp_path / "named.yaml"
    file.write_text(f"base: {ROOT}/experiments/stage1.yaml\nrun: {{root: 1e5, experiment: {name}, stage: 0o17}}\n")
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_text_that_was_written_wherever_it_is_read_without_the_parser(tmp_path, capsys, name):
    file = config(tmp_path, name)
    assert settings.folder(settings.read([file])) == Path("1e5") / name / "0o17"
    words = [f"--run.experiment={name}"]
    assert settings.folder(settings.read(["experiments/stage1.yaml"], words)) == Path("runs") / name / "stage1"
    assert main(["slurm", "write", "-c", str(file)]) == 0
    assert re.search(rf"--job-name={re.escape(name).replace(':', '_')}-0o17$".replace(":", "_"), capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", ["007", "77950e8", "yes"])
def test_the_parser_of_a_run_reads_names_so_and_saves_what_it_reads_back(tmp_path, capsys, name):
    for words in (["-c", str(config(tmp_path, name))], ["-c", "experiments/stage1.yaml", f"--run.experiment={name}"]):
        with pytest.raises(SystemExit):
            main(["fit", *words, "--print_config"])
        printed = capsys.readouterr().out
        assert (
            yaml.safe_load(printed)["run"]["experiment"] == name and f"/{name}/" in yaml.safe_load(printed)["trainer"]["default_root_dir"]
        )
        saved = tmp_path / "saved.yaml"
        saved.write_text(re.sub(r"^base:.*\n", "", printed, flags=re.MULTILINE))
        assert settings.read([saved])["run"]["experiment"] == name


def test_what_is_no_name_keeps_its_type():
    text = "run: {experiment: 007, checkpoint_every: 010}\nstage: 2\ndata: {init_args: {root: ~, batch_size: 1e3}}\n"
    values = named(yaml.safe_load(text), text)
    assert values == {
        "run": {"experiment": "007", "checkpoint_every": 8},
        "stage": 2,
        "data": {"init_args": {"root": None, "batch_size": "1e3"}},
    }
