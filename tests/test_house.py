"""Claims about the house itself: what is shipped, what is pinned, who may import whom, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIBRARY, WORKBENCH = ("baton_lightning",), ("datamodules", "callbacks")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".sh", ""}
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEV = PROJECT["optional-dependencies"]["dev"]
LONGEST, LONGEST_TEST, LONGEST_RUNS = 300, 400, 1300


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


def test_the_wheel_holds_the_library_with_a_copy_of_the_workbench(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is in the dev extra: pip install -e .[dev]")
    wheel = next(builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    shipped = zipfile.ZipFile(wheel).namelist()
    assert {file.split("/")[0] for file in shipped if ".dist-info/" not in file} == {"baton_lightning"}
    assert {str(path.relative_to(ROOT)) for path in modules(*LIBRARY)} <= set(shipped)
    workbench = [path for folder in (*WORKBENCH, "experiments") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    assert {f"baton_lightning/workbench/{path.relative_to(ROOT)}" for path in workbench} <= set(shipped)
    assert any(file.endswith("licenses/LICENSE") for file in shipped)


def test_every_requirement_is_a_range_with_a_tested_bound_that_holds_the_constraint() -> None:
    held = constraints()
    for line in [*PROJECT["dependencies"], *DEV]:
        bounds = Requirement(line).specifier
        assert {bound.operator for bound in bounds} <= {">=", "<", "!="} and ">=" in {bound.operator for bound in bounds}, line
        assert held.get(name(line), "nothing") in bounds, f"{line} does not hold {held.get(name(line))} of constraints.txt"


def test_the_constraints_name_everything_that_is_dragged_in() -> None:
    if distribution("torch").version.partition("+")[0] != constraints()["torch"]:
        pytest.skip("this environment is not that of constraints.txt, so what it drags in may differ")
    held, seen, open_ = constraints(), set(), [Requirement(line) for line in [*PROJECT["dependencies"], *DEV]]
    while open_:
        wanted = open_.pop()
        key = (name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            inner = [Requirement(line) for line in distribution(wanted.name).requires or []]
        except PackageNotFoundError:  # another platform's
            continue
        assert key[0] in held, f"constraints.txt lacks {wanted.name}"
        open_ += [one for one in inner if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in (*wanted.extras, ""))]
    assert len(seen) > len(DEV)


def test_conda_and_make_install_the_constraints() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "torch", "-e .[dev]"]
    shown = subprocess.run(["make", "-n", "-B", "install"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'pip install --quiet -c constraints.txt "torch=={constraints()["torch"]}"' in shown
    assert 'pip install --quiet -c constraints.txt -e ".[dev]"' in shown
    python = next(entry for entry in environment if str(entry).startswith("python="))
    assert python == "python=" + PROJECT["requires-python"].removeprefix(">=")


def test_the_compromised_releases_of_lightning_cannot_be_installed() -> None:
    (bounds,) = (Requirement(line).specifier for line in PROJECT["dependencies"] if name(line) == "lightning")
    assert "2.6.1" in bounds and "2.6.2" not in bounds and "2.6.3" not in bounds
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


# ---- arrows
def layers() -> list[tuple[list[str], bool]]:
    """Rooms of the library from top to bottom, and whether the rooms of a layer may know each other; the contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (stack,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [([room.strip() for room in re.split("[|:]", layer)], "|" not in layer) for layer in stack]


def arrows(root: Path, *packages: str) -> dict[str, dict[str, int]]:
    """Module -> the modules of these packages that it imports, and on which line; inside functions and for type checkers, too."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for p in packages for path in (root / p).rglob("*.py")}
    files = {module.removesuffix(".__init__"): path for module, path in files.items()}
    found: dict[str, dict[str, int]] = {module: {} for module in files}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                upwards = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                base = ".".join([*upwards, *([node.module] if node.module else [])])
                named = [full if (full := f"{base}.{alias.name}") in files else base for alias in node.names]
            else:
                continue
            found[module] |= {name: node.lineno for name in named if name in files and name != module}
    return found


def circle(found: dict[str, dict[str, int]]) -> list[str]:
    """Modules that lead back to the first of them; none if no module leads back to itself."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def upward(found: dict[str, dict[str, int]], library: str, stack: list[tuple[list[str], bool]]) -> list[str]:
    """Imports that lead up, or aside into a room that a room may not know, or come from a room without a place."""
    place = {room: (height, together) for height, (rooms, together) in enumerate(stack) for room in rooms}
    rooms = {module: module.split(".")[1] for module in found if module.startswith(f"{library}.")}
    output = [f"{room} has no layer" for room in sorted({*rooms.values()} - place.keys())]
    for module, room in rooms.items():
        for name, line in found[module].items():
            other = rooms.get(name, room)
            if other == room or not {room, other} <= place.keys():
                continue
            (here, together), (there, _) = place[room], place[other]
            if there < here or (there == here and not together):
                output.append(f"{module}:{line} imports {name}")
    return output


def too_long(root: Path, library: str) -> list[str]:
    """Files of more than 300 lines, and the room of run folders if it has more than 1,300."""
    lengths = {path.relative_to(root): len(path.read_text().splitlines()) for path in (root / library).rglob("*.py")}
    output = [f"{path} has {length} lines" for path, length in sorted(lengths.items()) if length > LONGEST]
    runs = sum(length for path, length in lengths.items() if path.parts[1] == "runs")
    return output + ([f"runs/ has {runs} lines"] if runs > LONGEST_RUNS else [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(arrows(ROOT, *LIBRARY, *WORKBENCH)) == []


def test_every_arrow_between_rooms_points_downwards() -> None:
    assert upward(arrows(ROOT, *LIBRARY), LIBRARY[0], layers()) == []


def test_no_file_outgrows_one_idea_and_runs_holds_what_a_run_folder_is() -> None:
    assert [output for package in (*LIBRARY, *WORKBENCH) for output in too_long(ROOT, package)] == []
    assert {path.name: length for path in modules("tests") if (length := len(path.read_text().splitlines())) > LONGEST_TEST} == {}


def test_planted_circles_arrows_up_and_long_files_are_found(tmp_path: Path) -> None:
    planted = {
        "high/__init__.py": "",
        "high/a.py": "from house.low import b\n",
        "low/b.py": "def late():\n    from house.high.a import thing\n",
        "low/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import d\n",
        "low/d.py": "import house.low.c\n",
        "aside/e.py": "from ..low.d import x\n",
        "nowhere/f.py": "x = 1\n" * (LONGEST + 1),
        "runs/g.py": "x = 1\n" * LONGEST,
    } | {f"runs/h{i}.py": "x = 1\n" * LONGEST for i in range(4)}
    for name, text in planted.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    found = arrows(tmp_path, "house")
    assert {*circle(found)} == {"house.high.a", "house.low.b"}
    assert {*circle(found | {"house.low.b": {}})} == {"house.low.c", "house.low.d"}
    stack = [(["high"], True), (["low", "aside"], False), (["runs"], True)]
    wrong = ["nowhere has no layer", "house.low.b:2 imports house.high.a", "house.aside.e:1 imports house.low.d"]
    assert sorted(upward(found, "house", stack)) == sorted(wrong)
    assert too_long(tmp_path, "house") == ["house/nowhere/f.py has 301 lines", "runs/ has 1500 lines"]


def test_no_line_points_outside_the_tree() -> None:
    machine = re.compile(r"(?<![\w.}/-])/(?:" + "|".join(["work", "home", "root", "Users", "mnt", "scratch"]) + r")/")
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not machine.search(line), f"{path.relative_to(ROOT)}:{number} names a path of one machine: {line.strip()}"


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in modules(*LIBRARY, *WORKBENCH) if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_every_package_is_a_package_and_tests_are_none() -> None:
    folders = {path.parent for path in modules(*LIBRARY, *WORKBENCH)}
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert not list((ROOT / "tests").rglob("__init__.py"))
