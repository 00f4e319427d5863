"""A stage-3 run, ready to make clips: its module with its weights, and its datamodule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from baton_lightning import hints, trust
from baton_lightning.clip import ClipSpec
from baton_lightning.generation.described import described_of, require_of
from baton_lightning.generation.moved import bases, located, parent_of, with_data
from baton_lightning.models.planner import VAPlanner
from baton_lightning.runs import checkpoint_weights, checkpoints
from baton_lightning.runs import weights as stored
from baton_lightning.stages.cached_plan import CachedPlan
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import PlannedTokens

SECTIONS = ("seed_everything", "clip", "run", "model", "data")
TRAINER = {
    "accelerator": "auto",
    "devices": 1,
    "strategy": "auto",
    "logger": False,
    "callbacks": None,
    "enable_checkpointing": False,
}
"""Nothing of how a run was trained matters to whoever uses it: strategy, devices, loggers and callbacks stay behind."""


class WithoutPlanner(PlannedTokens):
    """The plan source of clips that follow no plan: no planner is built, and its run is not asked for."""

    parent_role = None

    def set_planner(self, planner: Callable[[ClipSpec], VAPlanner]) -> None:
        """Keeps nothing."""


def unasked(clip: ClipSpec) -> VAPlanner:
    raise AssertionError("clips that follow no plan ask for no planner")


def load_run(
    run: Path,
    *,
    checkpoint: Path | None = None,
    data: Path | None = None,
    follows: bool = True,
    cached: bool = False,
    trusted: Sequence[str] = (),
) -> tuple[LightningModule, LightningDataModule, str]:
    """Builds a run's module and datamodule from its own configuration and loads its weights, all on the CPU.

    Args:
        run: Folder of a run.
        checkpoint: Checkpoint of it whose weights are taken; ``None`` takes those that it finished with.
        data: Where its data set is now; ``None`` looks where it was.
        follows: Whether clips follow plans. A run's planner, which is a parent with weights of its own, is looked for only if they do.
        cached: Whether a run that was trained on cached plans finds its prompts among them, and so needs no planner either.
        trusted: Packages whose classes the run may name besides those of the library; nothing of others is imported.

    Returns:
        Module in evaluation mode, datamodule, and what the weights are, in words; empty for those it finished with.

    Raises:
        ValueError: If the run is not finished and no checkpoint was given, was changed, names other classes, makes no clips, its parents
            are not found, its settings or weights do not fit, or the checkpoint is not in its folder. Parents are those that hold weights
            which the run does not.
    """
    from baton_lightning.cli import BatonCLI

    if checkpoint is not None:
        require_of(run, checkpoint)
    described = described_of(run, checkpoint)
    config = sections(described.get("config"), run)
    trust.require(config, f"{run}/", trusted)
    require_makes_clips(config["model"]["class_path"], run)
    args = config["model"]["init_args"]
    reads = args["plan"]["class_path"].rpartition(".")[2] == CachedPlan.__name__
    planner = follows and not (reads and cached)
    frozen = checkpoint is not None and checkpoints.lacks_frozen(checkpoint) and args.get("frozen")
    config = moved(config, run, described, data, (*(["planner"] if planner else []), *(["dit"] if frozen else [])))
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        import yaml

        file.write(yaml.safe_dump(config | {"trainer": TRAINER}))
        file.flush()
        with trust.limited(trusted), fitting(run):
            cli = BatonCLI(["--config", file.name], run=False)
    model = cli.model
    if not planner and "planner" in (args.get("parents") or {}):
        model.make_plan = alone(model.make_plan) if reads else partial(WithoutPlanner, planner=unasked)
    if checkpoint is None:
        model.parents["dit"] = str(run)  # its transformer is filled tensor by tensor while it is made, as from any parent
    with trust.limited(trusted), fitting(run):
        model.configure_model()
    if checkpoint is None:
        filled = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("dit.")}
        weights, what = filled | {f"plan.{key}": tensor for key, tensor in stored.read(run, "plan").items()}, ""
    else:
        weights, what = checkpoint_weights.weights_of(checkpoint, model)
    checkpoint_weights.fill(model, weights, str(checkpoint or f"{run}/"))
    return model.eval(), cli.datamodule, what


def sections(config: Any, run: Path) -> dict[str, Any]:
    """What a run's configuration says of its module and its data.

    Raises:
        ValueError: If it is not as runs write it.
    """
    parts = [config.get(name) for name in ("model", "data")] if isinstance(config, dict) else []
    kinds = {"class_path": str, "init_args": dict}
    if not parts or not all(isinstance(part, dict) and isinstance(part.get(k), kind) for part in parts for k, kind in kinds.items()):
        raise ValueError(f"{run}/ must hold the configuration of a run, with class_path and init_args of `model` and `data`; restore it")
    if not isinstance(plan := config["model"]["init_args"].get("plan", {"class_path": ""}), dict) or "class_path" not in plan:
        raise ValueError(f"{run}/ must hold the configuration of a run, whose `plan` names a class_path; restore it")
    return {key: config[key] for key in SECTIONS if key in config}


def require_makes_clips(path: str, run: Path) -> None:
    """Refuses the run of another stage; the class is one that is trusted.

    Raises:
        ValueError: If it makes no clips.
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{run}/ is a run of {path}, which there is not ({error}); it was made with another version") from error
    if not (isinstance(kind, type) and issubclass(kind, JointTraining)):
        raise ValueError(
            f"{run}/ is a run of {name}, which makes no clips; give the run of a stage 3{hints.runs_near(run, JointTraining.__name__)}"
        )


@contextmanager
def fitting(run: Path) -> Iterator[None]:
    """Inside, a run is built from its own settings: what does not fit them is told of the run."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(f"{run}/ cannot be built from its own settings ({type(error).__name__}: {told}); restore them") from error


def alone(make: Callable[[ClipSpec], CachedPlan]) -> Callable[[ClipSpec], CachedPlan]:
    """A factory of cached plans that have all they need among the run's own weights."""

    def made(clip: ClipSpec) -> CachedPlan:
        plan = make(clip)
        plan.parent_role = None
        return plan

    return made


def moved(config: dict[str, Any], run: Path, described: dict[str, Any], data: Path | None, roles: tuple[str, ...]) -> dict[str, Any]:
    """A run's configuration whose paths lead to where things are now, and whose parents are only those whose weights it lacks."""
    starts = bases(run, config, described.get("directory"))
    digests = {role: parent["weights_sha256"] for role, parent in described.get("parents", {}).items()}
    own = config["model"]["init_args"].get("parents") or {}
    if not isinstance(own, dict) or not all(isinstance(parent, str) for parent in own.values()):
        raise ValueError(f"{run}/ must name its parents as `role: run folder`, got {own!r:.100}; restore its configuration")
    parents = {role: str(parent_of(run, config, role, starts, digests.get(role))) for role in own if role in roles}
    if data is not None:
        config = with_data(config, str(config["data"]["init_args"].get("root")), str(data.absolute()))
    config = config | {part: located(config[part], starts) for part in ("model", "data")}
    config["model"]["init_args"]["parents"] = parents
    return config
