"""Commands that error messages suggest. They use the same experiment, folders and data set as the given command.

All suggestions of commands come from this module. Unknown parts are omitted, and only existing files are named.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

PROGRAM = "python -m baton_lightning"
EXPERIMENTS = Path("experiments")
WEIGHTS = Path(__file__).parent / "weights"
ENCODE, STATISTICS, PLANS = "encode.yaml", "statistics.yaml", "plans.yaml"
CARRIED = ("run.root", "run.experiment", "data.init_args.root")
"""Settings that a suggested command copies from the given one, together with the whole ``clip`` section."""
_given: ContextVar[tuple[str, ...]] = ContextVar("given", default=())


@contextmanager
def given_command(argv: Sequence[str]) -> Iterator[None]:
    """Context in which hints are based on this command line.

    Args:
        argv: The verb and its arguments.
    """
    token = _given.set(tuple(argv))
    try:
        yield
    finally:
        _given.reset(token)


def command(*words: str | Path) -> str:
    """A command with its arguments quoted for a shell, in backticks for a sentence."""
    return f"`{PROGRAM} {shlex.join(map(argument, words))}`"


def argument(word: str | Path) -> str:
    """An argument as a person gives it: weights that come with the library by their name."""
    return Path(word).name if Path(word).parent == WEIGHTS else str(word)


def fit(run: Path) -> str:
    """Part of a sentence with the command that trains the run of a folder; empty if no experiment for it is found."""
    config = experiment_of(run.name)
    return f"with {command('fit', '-c', config, *overrides_for(config, folder=run))}" if config is not None else ""


def predict(name: str, root: Path) -> str:
    """The command that caches a data set, or computes its statistics.

    Args:
        name: File of the experiment, e.g. :data:`ENCODE`.
        root: Folder of the data set.
    """
    config = experiment_file(name)
    return command("predict", "-c", config, *overrides_for(config, root=root))


def another_split(name: str, there: str) -> str:
    """Sentence, without its full stop, that says how to use an existing split instead of a missing one, or how to build it.

    Args:
        name: The missing split.
        there: An existing split.
    """
    verb = (*_given.get(), "")[0]
    if verb not in ("", "fit", "validate", "test", "predict"):
        return f"Use another, e.g. `--split {there}`" if verb in ("generate", "plan") else "Use another"
    role = name if name in ("train", "val", "test") else "val"
    again = f", or build again, with `shards build --{role} 1`" if name in ("val", "test") else ""
    return f"Use another with `--data.init_args.{role}_split={there}`{again}"


def runs_near(run: Path, stage: str = "") -> str:
    """Finished runs near a folder, as the end of a sentence; empty if there are none.

    Args:
        run: The folder.
        stage: Class of the runs; empty = any.
    """
    from baton_lightning.plain_files import read_json

    found = []
    for home in dict.fromkeys((run.parent, run.parent.parent, Path("runs"))):
        for file in sorted([*home.glob("*/manifest.json"), *home.glob("*/*/manifest.json")])[:50]:
            try:
                made = read_json(file, finite=False)
            except (OSError, ValueError):
                continue
            if isinstance(made, dict) and isinstance(made.get("stage"), str) and stage in ("", made["stage"]):
                found.append(str(file.parent))
    found = list(dict.fromkeys(found))
    return f"; there are {', '.join(found[:4])}{' ...' if found[4:] else ''}" if found else ""


# ---- parts of a command
def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields options of a command line with their values, given as ``--key value`` or ``--key=value``."""
    rest = iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        if key.startswith("-"):
            yield key, value if equals else next(rest, "")


def given_settings() -> dict[str, Any]:
    """Settings of the given command; empty if they cannot be read."""
    words = [(key, value) for key, value in options(_given.get()[1:])]
    configs = [value for key, value in words if key in ("-c", "--config")]
    overrides = [f"{key}={value}" for key, value in words if key.startswith(("--run.", "--clip.", "--data."))]
    from baton_lightning import settings

    try:
        return settings.read(configs, overrides) if configs or overrides else {}
    except ValueError:
        return {}


def changed_settings() -> dict[str, Any]:
    """Settings of the given command that differ from those of its first experiment file alone, by dotted keys."""
    from baton_lightning import settings

    words = [(key, value) for key, value in options(_given.get()[1:])]
    configs = [value for key, value in words if key in ("-c", "--config")]
    overrides = [f"{key}={value}" for key, value in words if key not in ("-c", "--config") and key.startswith("--")]
    try:
        first, whole = flat(settings.read(configs[:1])), flat(settings.read(configs, overrides))
    except ValueError:
        return {}
    return {key: value for key, value in whole.items() if first.get(key) != value}


def experiment_file(name: str) -> Path:
    """Path of an experiment in the folder of the given one, or in ``experiments/``."""
    folders = [Path(value).parent for key, value in options(_given.get()[1:]) if key in ("-c", "--config")]
    return next((folder / name for folder in folders if (folder / name).is_file()), EXPERIMENTS / name)


def experiment_of(stage: str) -> Path | None:
    """The file of an experiment whose run folder has this name; ``None`` if there is none."""
    from baton_lightning import settings

    folders = [Path(value).parent for key, value in options(_given.get()[1:]) if key in ("-c", "--config")]
    for folder in dict.fromkeys([*folders, EXPERIMENTS]):
        for file in sorted(folder.glob("*.yaml"), key=lambda file: (file.stem != stage, file.name)):
            try:
                if settings.folder(settings.read([file])).name == stage:
                    return file
            except ValueError:
                continue
    return None


def overrides_for(config: Path, *, folder: Path | None = None, root: Path | None = None) -> list[str]:
    """Overrides with which an experiment uses the same runs, data and clips as the given command.

    Args:
        config: File of the experiment.
        folder: Required run folder; ``None`` = the experiment's own stage, in the given root and experiment.
        root: Folder of the required data set; ``None`` = the given one.
    """
    from baton_lightning import settings

    try:
        own = settings.read([config])
    except ValueError:
        own = {}
    wanted = flat(given_settings())
    wanted = {key: value for key, value in wanted.items() if key in CARRIED or key.startswith("clip.")}
    if folder is not None and len(folder.parts) > 2:
        places = {"run.root": str(folder.parent.parent), "run.experiment": folder.parent.name, "run.stage": folder.name}
        wanted |= places
    if root is not None:
        wanted["data.init_args.root"] = str(root)
    known = flat(own)
    return [f"--{key}={value}" for key, value in wanted.items() if str(known.get(key)) != str(value)]


def flat(values: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if isinstance(values, dict):
        return {key: v for k, child in values.items() for key, v in flat(child, f"{name}.{k}" if name else str(k)).items()}
    return {name: values}
