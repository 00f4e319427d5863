"""Every command of the README and of the documentation exists and takes the arguments it is shown with."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from baton_lightning.__main__ import LIGHTNING, main
from baton_lightning.estimate import cli as estimate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").rglob("*.md")))]
LINES = dict.fromkeys(line for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines())
COMMANDS = [words for line in LINES if (words := shlex.split(line, comments=True))]
OURS = [c[3:] for c in COMMANDS if c[:3] == ["python", "-m", "baton_lightning"]]


class Parsed(Exception):
    """Arguments were accepted; the command itself is not run."""


def test_every_command_is_of_a_kind_that_is_checked_here():
    scripts = [c[1] for c in COMMANDS if c[0] in ("python", ".venv/bin/python") and c[1] != "-m"]
    assert OURS and all(c[0] == "make" or c[:3] == ["python", "-m", "baton_lightning"] or c[1] in scripts for c in COMMANDS)
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("target", sorted({c[1] for c in COMMANDS if c[0] == "make"}))
def test_make_has_the_target(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("argv", OURS, ids=" ".join)
def test_the_command_is_accepted(argv, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if argv[0] in LIGHTNING:
        argv = [
            a for before, a in zip(["", *argv], argv, strict=False) if "ckpt" not in before + a
        ]  # a path that exists only after training
        with pytest.raises(SystemExit) as exit:
            main([*argv, *([] if "--print_config" in argv else ["--print_config"])])
        assert not exit.value.code, capsys.readouterr().err
        return
    if argv[0] == "estimate":  # it hands what it does not know on to the experiment
        assert estimate.parser().parse_known_args(argv[1:])[1] == []
        return
    name = "parse_known_args" if argv[0] in ("slurm", "chain") else "parse_args"  # these hand unknown words on to `fit`
    original = getattr(argparse.ArgumentParser, name)

    def parse(self, args=None, namespace=None, **more):
        original(self, args, namespace, **more)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, name, parse)
    with pytest.raises(Parsed):
        main(argv)


def test_every_folder_on_the_map_is_there():
    for row in re.findall(r"^\| (`baton_lightning/.*?|`datamodules.*?) \|", README, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            assert (ROOT / name).exists() or (ROOT / "baton_lightning" / name).exists(), name


def test_the_readme_is_one_screen():
    assert len(README.splitlines()) <= 120
