"""Loading of a stage-3 run for generation: its module with weights, and its datamodule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from baton_lightning import hints, settings, trust
from baton_lightning.clip import ClipSpec
from baton_lightning.generation.no_data import NoData
from baton_lightning.generation.run_description import require_own_checkpoint, run_description
from baton_lightning.models.planner import VAPlanner
from baton_lightning.runs import checkpoint_weights, checkpoints
from baton_lightning.runs import weights as stored
from baton_lightning.runs.paths import absolute_paths, candidate_folders, parent_of, replace_folder
from baton_lightning.shards.stored_clip import clip_of
from baton_lightning.stages.cached_networks import require_same
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
"""Trainer settings for generation. They replace strategy, devices, loggers and callbacks of the training."""


class WithoutPlanner(PlannedTokens):
    """Plan source of clips without a plan: no planner is built, and its run is not needed."""

    parent_role = None

    def set_planner(self, planner: Callable[[ClipSpec], VAPlanner]) -> None:
        """Builds no planner."""


def no_planner(clip: ClipSpec) -> VAPlanner:
    raise AssertionError("clips without a plan need no planner")


def load_run(
    run: Path,
    *,
    checkpoint: Path | None = None,
    data: Path | None = None,
    follows: bool = True,
    cached: bool = False,
    geometry: str | None = None,
    latents: bool = True,
    trusted: Sequence[str] = (),
) -> tuple[LightningModule, LightningDataModule, str]:
    """Builds a run's module and datamodule from its configuration and loads its weights, on the CPU.

    The first geometry of the module's clip is that of the clips to generate, and the datamodule has only clips of it.

    Args:
        run: Folder of a run.
        checkpoint: Checkpoint of the run to load; ``None`` = its final weights.
        data: Current folder of its data set; ``None`` = the configured folder, and no data for an export.
        follows: Whether clips have plans. Only then the parent run of the planner is needed.
        cached: Whether all prompts have cached plans, so that a run with a cached plan source needs no planner.
        geometry: Name of the geometry of the clips; ``None`` = the run's first one.
        latents: Whether the data set's latents and text embeddings are used, so that it must be encoded by the run's networks.
        trusted: Packages besides the library whose classes the run may name; classes of other packages are not imported.

    Returns:
        Module in evaluation mode, datamodule, and a description of the weights, which is empty for the final weights.

    Raises:
        ValueError: If the run is unfinished and ``checkpoint`` is ``None``, or the run was changed, names classes of other packages, or is
            not a stage 3. Also if its parents are missing, its settings or weights do not match, or the checkpoint is not in its folder.
    """
    from baton_lightning.cli import BatonCLI

    if checkpoint is not None:
        require_own_checkpoint(run, checkpoint)
    described = run_description(run, checkpoint)
    config = sections(described.get("config"), run)
    if "bundled" in described and data is None:
        config["data"] = {"class_path": f"{NoData.__module__}.{NoData.__name__}", "init_args": {}}
    trust.require(config, f"{run}/", trusted)
    require_makes_clips(config["model"]["class_path"], run)
    args = config["model"]["init_args"]
    reads = args["plan"]["class_path"].rpartition(".")[2] == CachedPlan.__name__
    planner = follows and not (reads and cached)
    frozen = checkpoint is not None and checkpoints.lacks_frozen(checkpoint) and has_frozen(args)
    if geometry is not None or (config.get("clip") or {}).get("geometries"):
        clip = clip_of(config.get("clip") or {})
        config["clip"] = clip.starting_with(geometry or clip.name).to_dict()
    config = with_current_paths(config, run, described, data, (*(["planner"] if planner else []), *(["dit"] if frozen else [])))
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config | {"trainer": TRAINER}))
        file.flush()
        with trust.limit_imports(trusted), explain_build_errors(run):
            cli = BatonCLI(["--config", file.name], run=False)
    model = cli.model
    if latents and hasattr(cli.datamodule, "root"):
        require_same(described, run, Path(cli.datamodule.root))
    if hasattr(cli.datamodule, "first_geometry"):
        cli.datamodule.first_geometry()
    if not planner and "planner" in (args.get("parents") or {}):
        model.make_plan = without_parent_role(model.make_plan) if reads else partial(WithoutPlanner, planner=no_planner)
    if checkpoint is None:
        model.parents["dit"] = str(run)  # the transformer is loaded tensor by tensor, as from a parent
    with trust.limit_imports(trusted), explain_build_errors(run):
        model.configure_model()
    if checkpoint is None:
        filled = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("dit.")}
        weights, what = filled | {f"plan.{key}": tensor for key, tensor in stored.read(run, "plan").items()}, ""
    else:
        weights, what = checkpoint_weights.weights_of(checkpoint, model)
    checkpoint_weights.fill(model, weights, str(checkpoint or f"{run}/"))
    return model.eval(), cli.datamodule, what


def has_frozen(args: dict[str, Any]) -> bool:
    """Whether a stage 3 with these settings does not train all of its transformer: parts are frozen, or a base under adapters."""
    dit = args.get("dit")
    network = dit.get("init_args") if isinstance(dit, dict) else None
    return bool(args.get("frozen") or (isinstance(network, dict) and network.get("lora")))


def sections(config: Any, run: Path) -> dict[str, Any]:
    """The sections of a run's configuration that generation uses.

    Raises:
        ValueError: If the configuration does not have the format of a run.
    """
    parts = [config.get(name) for name in ("model", "data")] if isinstance(config, dict) else []
    kinds = {"class_path": str, "init_args": dict}
    if not parts or not all(isinstance(part, dict) and isinstance(part.get(k), kind) for part in parts for k, kind in kinds.items()):
        raise ValueError(f"{run}/ must hold the configuration of a run, with class_path and init_args of `model` and `data`; restore it")
    if not isinstance(plan := config["model"]["init_args"].get("plan", {"class_path": ""}), dict) or "class_path" not in plan:
        raise ValueError(f"{run}/ must hold the configuration of a run, whose `plan` names a class_path; restore it")
    found = {key: config[key] for key in SECTIONS if key in config}
    try:
        settings.require_shallow(json.dumps(found), f"{run}/")
    except (RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{run}/ must hold the configuration of a run in YAML, which cannot be read ({type(error).__name__})") from error
    return found


def require_makes_clips(path: str, run: Path) -> None:
    """Refuses a run that is not a stage 3. The class must be trusted.

    Raises:
        ValueError: If its class does not exist or is not a stage 3.
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{run}/ is a run of {path}, which does not exist ({error}); the run was made with another version") from error
    if not (isinstance(kind, type) and issubclass(kind, JointTraining)):
        raise ValueError(
            f"{run}/ is a run of {name}, which makes no clips; give the run of a stage 3{hints.runs_near(run, JointTraining.__name__)}"
        )


@contextmanager
def explain_build_errors(run: Path) -> Iterator[None]:
    """Context that converts errors of building a run from its settings to one-line errors that name the run."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"{run}/ cannot be built from its own settings ({type(error).__name__}: {text}); restore them") from error


def without_parent_role(make: Callable[[ClipSpec], CachedPlan]) -> Callable[[ClipSpec], CachedPlan]:
    """A factory of cached plans without a parent run, for plans that only need the run's own weights."""

    def make_without_parent(clip: ClipSpec) -> CachedPlan:
        plan = make(clip)
        plan.parent_role = None
        return plan

    return make_without_parent


def with_current_paths(
    config: dict[str, Any], run: Path, described: dict[str, Any], data: Path | None, roles: tuple[str, ...]
) -> dict[str, Any]:
    """A run's configuration with current paths, and with only the parents whose weights are needed."""
    starts = [run.resolve()] * ("bundled" in described) + candidate_folders(run, config, described.get("directory"))
    digests = {role: parent["weights_sha256"] for role, parent in described.get("parents", {}).items()}
    own = config["model"]["init_args"].get("parents") or {}
    if not isinstance(own, dict) or not all(isinstance(parent, str) for parent in own.values()):
        raise ValueError(f"{run}/ must name its parents as `role: run folder`, got {own!r:.100}; restore its configuration")
    bundled = described.get("bundled", ())  # an export holds these parents itself
    parents = {
        role: str(run if role in bundled else parent_of(run, config, role, starts, digests.get(role))) for role in own if role in roles
    }
    if data is not None:
        config = replace_folder(config, str(config["data"]["init_args"].get("root")), str(data.absolute()))
    config = config | {part: absolute_paths(config[part], starts) for part in ("model", "data")}
    config["model"]["init_args"]["parents"] = parents
    return config
