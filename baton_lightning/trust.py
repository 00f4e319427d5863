"""Decides which classes a run from another user may name: those of this library and its dependencies, and of packages trusted by name.

The configuration of a run names the classes it consists of. Naming a class imports its module, and an import runs code. Therefore
configurations in run folders are checked before the parser reads them. The parser also refuses the import of any class that this check
missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from baton_lightning.names import quoted, wrong_with
from baton_lightning.plain_files import read_bytes

BUILT = (
    "baton_lightning",
    "callbacks",
    "datamodules",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers.csv_logs",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.tensorboard",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.nn",
    "torch.optim",
)
"""Packages, modules and classes that may be built without ``--trust``."""
NEVER = ("ablation", "bench", "cli", "launch", "release", "sessions", "shards", "verbs", "__main__")
"""Parts of the library that start processes, or write files to paths from their arguments."""
WORKBENCH = ("callbacks", "datamodules")
SAVED = ("manifest.json", "segments.json", "parents.json", "ledger.jsonl", "run.lock", "weights.safetensors", "checkpoints")
"""Files that a run saves beside its configuration."""


def verdicts(trusted: Sequence[str]) -> dict[str, bool]:
    """Dotted name -> whether classes below it may be built. The longest matching name decides."""
    return {**dict.fromkeys(BUILT, True), **{f"baton_lightning.{part}": False for part in NEVER}, **dict.fromkeys(trusted, True)}


def is_built(path: str, trusted: Sequence[str] = ()) -> bool:
    """Whether a run may name this class."""
    known, parts = verdicts(trusted), path.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return len(parts) > 1 and all(map(str.isidentifier, parts)) and next((known[name] for name in names if name in known), False)


def class_paths(values: Any) -> Iterator[Any]:
    """Yields all values of ``class_path`` in settings."""
    rest = [values]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if "class_path" in value:
                yield value["class_path"]
            rest += value.values()
        elif isinstance(value, list):
            rest += value


def require(values: Any, where: str, trusted: Sequence[str] = ()) -> None:
    """Checks that settings name only classes that may be built. Nothing is imported.

    Args:
        values: Settings.
        where: File or folder of the settings.
        trusted: Names of additional trusted packages.

    Raises:
        ValueError: If they name another class, or a package of the workbench that is found elsewhere. The message names the first one.
    """
    workbench = set()
    for path in class_paths(values):
        if not isinstance(path, str) or not is_built(path, trusted):
            raise ValueError(refusal(where, path))
        workbench |= {path.partition(".")[0]} & set(WORKBENCH)
    for name in sorted(workbench - set(trusted)):
        if (found := import_folder(name)) is not None and found != Path(__file__).resolve().parents[1]:
            raise ValueError(
                f"{where} needs the package {name}, which is in {found}/ and not installed beside the library, so it is not imported; "
                f"if you trust it, give --trust {name}"
            )


def refusal(where: str, path: object) -> str:
    """Error message about a class that may not be built, with the option that permits it."""
    top = path.partition(".")[0] if isinstance(path, str) else ""
    own = not wrong_with(top) and top.isidentifier() and top not in {name.partition(".")[0] for name in BUILT}
    fix = f"; if you trust who wrote that package, give --trust {top}" if own else ""
    return f"{where} names {quoted(path)}, which is not a known class of runs, so it is not imported{fix}"


def import_folder(package: str) -> Path | None:
    """Folder that a package would be imported from; ``None`` if there is none."""
    spec = find_spec(package)
    if spec is None or not spec.origin:
        return None
    return Path(spec.origin).resolve().parents[1]


@contextmanager
def limit_imports(trusted: Sequence[str] = ()) -> Iterator[None]:
    """Context in which parsers refuse all classes that may not be built, before their import and in every notation.

    Args:
        trusted: Names of additional trusted packages.
    """
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import parsing_settings  # pinned version: the public interface can add settings, but not remove them

    before = {name: parsing_settings[name] for name in ("import_path_verdicts", "import_paths_enforced")}
    known = verdicts(trusted)
    try:
        set_parsing_settings(
            import_path_denylist=["*", *(name for name, built in known.items() if not built)],
            import_path_allowlist=[name for name, built in known.items() if built],
        )
        yield
    finally:
        parsing_settings.update(before)


def split_trust_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without ``--trust NAME``, and the names.

    Raises:
        ValueError: If a name is missing or is not the name of a package.
    """
    rest, trusted, words = [], [], iter(argv)
    for word in words:
        flag, equals, name = word.partition("=")
        if flag == "--trust":
            trusted.append(package(name if equals else next(words, "")))
        else:
            rest.append(word)
    return rest, trusted


def package(name: str) -> str:
    """Validates a name given with ``--trust``.

    Raises:
        ValueError: If it is not a dotted name.
    """
    if not all(map(str.isidentifier, name.split("."))) or name.partition(".")[0] == "jsonargparse":
        raise ValueError(f"--trust must be followed by the name of a package, e.g. --trust my_models, got {quoted(name)}")
    return name


def saved_by_runs(argv: Sequence[str]) -> list[Path]:
    """Configuration files of a command line that were saved by runs, and the files in their ``base:`` chains."""
    from baton_lightning.config import chain, configs

    named = [file for file in configs(argv) if file.name == "config.yaml" or any((file.parent / name).exists() for name in SAVED)]
    return [path for file in named for path in chain(file)]


def require_saved(argv: Sequence[str], trusted: Sequence[str]) -> None:
    """Checks the configurations of a command line that were saved by runs. Other configurations may name any class.

    Args:
        argv: Arguments of a Lightning verb.
        trusted: Names given with ``--trust``.

    Raises:
        ValueError: If one names a class that may not be built.
    """
    for file in saved_by_runs(argv):
        from baton_lightning import settings

        require(settings.parsed(read_bytes(file), str(file)), str(file), trusted)
