"""Claims about the house itself: what is shipped, what is pinned, who may import whom, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIBRARY, WORKBENCH = ("baton_lightning",), ("datamodules", "callbacks")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".sh", ""}
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEV = PROJECT["optional-dependencies"]["dev"]


def name(requirement: str) -> str:
    """`jsonargparse[signatures]==4.53.0` -> `jsonargparse`, in the spelling indexes compare by."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()


def pins(requirements: list[str]) -> dict[str, str]:
    """Name -> exact version."""
    return {name(line): line.partition("==")[2].strip() for line in requirements if "==" in line}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def texts() -> Iterator[Path]:
    """Every text file of the tree, without what runs and builds leave behind."""
    yield from (
        path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT and path.name != ".git"
    )  # a file in a linked worktree
    for folder in (*LIBRARY, *WORKBENCH, "experiments", "tests", "docs", ".ci"):
        yield from (
            path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in TEXT and path.name != ".git"
        )  # a file in a linked worktree


def constraints() -> dict[str, str]:
    return pins([line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")])


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is in the dev extra: pip install -e .[dev]")
    wheel = next(builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    shipped = zipfile.ZipFile(wheel).namelist()
    assert {file.split("/")[0] for file in shipped if ".dist-info/" not in file} == {"baton_lightning"}
    assert {str(path.relative_to(ROOT)) for path in modules(*LIBRARY)} <= set(shipped)
    assert any(file.endswith("licenses/LICENSE") for file in shipped)


def test_every_requirement_is_pinned_and_the_constraints_agree() -> None:
    wanted = [*PROJECT["dependencies"], *DEV]
    assert len(pins(wanted)) == len(wanted), "a requirement without =="
    held = constraints()
    assert {key: held.get(key) for key in pins(wanted)} == pins(wanted)


def test_conda_and_make_install_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert "-c constraints.txt" in pip and "-e .[dev]" in pip
    torch = pins(PROJECT["dependencies"])["torch"]
    assert pins([line for line in pip if not line.startswith("-")]) == {"torch": torch}
    assert f"TORCH := torch=={torch}\n" in (ROOT / "Makefile").read_text()
    python = next(entry for entry in environment if str(entry).startswith("python="))
    assert python == "python=" + PROJECT["requires-python"].removeprefix(">=")


def test_the_compromised_releases_of_lightning_cannot_be_installed() -> None:
    assert constraints()["lightning"] not in ("2.6.2", "2.6.3")
    assert constraints()["pytorch-lightning"] == constraints()["lightning"]


def test_what_the_code_imports_is_declared() -> None:
    declared = {IMPORTED_AS.get(name(line), name(line)) for line in PROJECT["dependencies"]}
    known = declared | set(sys.stdlib_module_names) | {*LIBRARY, *WORKBENCH}
    for path in modules(*LIBRARY, *WORKBENCH):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = {str(node.module).split(".")[0]}
            else:
                continue
            assert imported <= known, f"{path.relative_to(ROOT)}:{node.lineno} imports {imported - known}; add it to pyproject.toml"


def test_rooms_import_only_what_the_contracts_allow() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_line_points_outside_the_tree() -> None:
    machine = re.compile(r"(?<![\w.}/-])/(?:" + "|".join(["work", "home", "root", "Users", "mnt", "scratch"]) + r")/")
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not machine.search(line), f"{path.relative_to(ROOT)}:{number} names a path of one machine: {line.strip()}"


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in modules(*LIBRARY, *WORKBENCH) if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_no_file_outgrows_one_idea() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules(*LIBRARY, *WORKBENCH, "tests")}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_every_package_is_a_package_and_tests_are_none() -> None:
    folders = {path.parent for path in modules(*LIBRARY, *WORKBENCH)}
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert not list((ROOT / "tests").rglob("__init__.py"))
