"""The code of every notebook runs, in a folder that is not the checkout, and its last values display themselves."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def cells(notebook: Path) -> list[str]:
    """Sources of the code cells."""
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def displayed(source: str) -> str:
    """A cell whose last expression is asked for its rich form, as a notebook does."""
    last = ast.parse(source).body[-1]
    if not isinstance(last, ast.Expr):
        return source
    shown = ast.unparse(last.value)
    return f"{source}\nassert any(len(getattr({shown}, form)()) > 1000 for form in ('_repr_png_', '_repr_html_') if hasattr({shown}, form))"


def test_notebooks_are_stored_without_outputs():
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        assert not any(cell.get("outputs") for cell in json.loads(notebook.read_text())["cells"]), notebook.name


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    script = "\n".join(displayed(source) for source in cells(notebook))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clip.mp4").stat().st_size > 1000
