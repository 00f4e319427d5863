"""An installed wheel works in an empty folder, without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what a wheel unpacks to, and nothing of the checkout."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is in the dev extra: pip install -e .[dev]")
    built, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(builders.WheelBuilder(str(ROOT)).build(directory=str(built), versions=["standard"]))) as wheel:
        wheel.extractall(site)
    return site


def run(site: Path, folder: Path, *argv: str) -> str:
    """Output of a command that sees the unpacked wheel before any checkout."""
    script = (  # an editable install of the test's environment must not lend its workbench
        "import sys, pathlib; "
        "sys.path = [p for p in sys.path if 'workbench' in p or not (pathlib.Path(p or '.') / 'datamodules').exists()]; "
        "from baton_lightning.__main__ import main; sys.exit(main())"
    )
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, *argv], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_generates_and_resolves_the_demo_in_an_empty_folder(installed, tmp_path):
    assert "baton-lightning 0.2.0" in run(installed, tmp_path, "--version")
    shown = run(installed, tmp_path, "fit", "-c", str(installed / "baton_lightning/workbench/experiments/stage1.yaml"), "--print_config")
    assert "datamodules.webshards.WebShards" in shown
    prompts = "--video-prompt=a red circle on the left. first the red circle jumps.", "--audio-prompt=first a thump."
    run(installed, tmp_path, "generate", "--run", "nano", "--out", "mine", *prompts)
    assert list((tmp_path / "mine").glob("*.mp4"))
