"""Commands that errors suggest lead where the user is, and the parser takes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from baton_lightning import hints, settings
from baton_lightning.__main__ import LIGHTNING, OTHERS, main

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"`python -m baton_lightning ([^`]+)`")


def followed(command: str) -> dict[str, object]:
    """Settings that a suggested command of Lightning's verbs asks for."""
    found = COMMAND.search(command)
    assert found, command
    verb, *words = shlex.split(found[1])
    assert verb in {**LIGHTNING, **OTHERS}
    configs = [Path(word) for flag, word in pairwise(words) if flag == "-c"]
    assert configs and all(config.is_file() for config in configs)
    return settings.read(configs, [word for word in words if word.startswith("--")])


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    yield


def test_the_cache_of_another_data_set_is_made_in_that_one() -> None:
    with hints.given_command(["fit", "-c", "experiments/stage1.yaml", "--data.init_args.root", "data/tiny", "--clip.keyframe_fps=4"]):
        for name in (hints.ENCODE, hints.STATISTICS, hints.PLANS):
            asked = followed(hints.predict(name, Path("data/tiny")))
            assert asked["data"]["init_args"]["root"] == "data/tiny" and asked["clip"]["keyframe_fps"] == 4  # type: ignore[index]


def test_the_cache_is_made_by_the_experiment_beside_the_one_that_was_given() -> None:
    with hints.given_command(["fit", "-c", "experiments/paper/stage1.yaml"]):
        assert "experiments/paper/encode.yaml" in hints.predict(hints.ENCODE, Path("data/paper"))


@pytest.mark.parametrize("run", ["runs/demo/stage1", "runs/cc/stage1", "elsewhere/cc/stage2", "/tmp/runs/cc/stage3_adapt"])
def test_a_missing_parent_is_trained_where_it_is_looked_for(run: str) -> None:
    with hints.given_command(["fit", "-c", "experiments/stage2.yaml", "--run.experiment", "other"]):
        assert settings.folder(followed(hints.fit(Path(run)))) == Path(run)


@pytest.mark.parametrize(
    ("verb", "option"), [("fit", "--data.init_args.val_split=train"), ("generate", "--split train"), ("shards", "Use another")]
)
def test_another_split_is_named_as_the_verb_takes_it(verb: str, option: str) -> None:
    with hints.given_command([verb]):
        assert option in hints.another_split("val", "train")


def test_no_file_is_named_that_is_not_there() -> None:
    with hints.given_command(["generate", "--run", "runs/nope/stage17"]):
        assert hints.fit(Path("runs/nope/stage17")) == ""


def test_errors_of_missing_parents_and_caches_give_such_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    assert main(["fit", "-c", "experiments/stage2.yaml", f"--run.root={root}", "--run.experiment=cc"]) == 1
    assert settings.folder(followed(capfd.readouterr().err)) == root / "cc/stage1"


def test_a_set_without_a_cache_gives_the_command_that_caches_it_where_it_lies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "tiny"
    assert main(["shards", "world", str(root), "--train", "4", "--val", "2", "--test", "2", "--workers", "0"]) == 0
    capfd.readouterr()
    assert main(["fit", "-c", "experiments/stage1.yaml", f"--data.init_args.root={root}", f"--run.root={tmp_path}/runs"]) == 1
    asked = followed(capfd.readouterr().err)
    assert asked["data"]["init_args"]["root"] == str(root)  # type: ignore[index]


def test_a_run_that_is_not_there_names_those_that_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo/stage3_joint").mkdir(parents=True)
    (tmp_path / "demo/stage3_joint/manifest.json").write_text('{"stage": "JointTraining", "weights_sha256": ""}')
    assert main(["generate", "--run", str(tmp_path / "demo/stage17"), "--out", str(tmp_path / "out")]) == 1
    assert f"there are {tmp_path}/demo/stage3_joint" in capfd.readouterr().err
