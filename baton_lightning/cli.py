"""BatonCLI: LightningCLI with a `clip:` section that is passed to model and data, run folders, resume, and readable errors."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, Literal

import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from baton_lightning import next_steps, peers, preflight, settings, trust
from baton_lightning.clip import ClipSpec
from baton_lightning.config import configs, expand
from baton_lightning.construction import networks as construction
from baton_lightning.construction import sharding
from baton_lightning.explain import explain
from baton_lightning.folder_names import keep_names
from baton_lightning.names import printable
from baton_lightning.plain_files import require_own_files
from baton_lightning.quiet import silence
from baton_lightning.runs import checkpoint_weights, manifest, parents, saving
from baton_lightning.runs.lock import hold_lock
from baton_lightning.runs.run_spec import RunSpec
from baton_lightning.runs.saved_config import SavedConfig
from baton_lightning.sessions import finish, requirements, segments
from baton_lightning.sessions.failed_start import remove_on_failure
from baton_lightning.sessions.misfits import misfits_named
from baton_lightning.sessions.termination import REPEAT, Terminated, Termination
from baton_lightning.sessions.verified import Verified
from baton_lightning.settings_layers import settings_digest

set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
keep_names()
VOLATILE = ("base", "resume", "config", "ckpt_path", "weights_only")


SETTINGS: dict[str, Any] = {"parser_mode": "omegaconf+", "allow_abbrev": False, "exit_on_error": False}


class WrongArguments(ValueError):
    """The command line or a configuration file names an option, key or class that does not exist."""


class Finished(Exception):
    """The requested run is already finished."""


class BatonCLI(LightningCLI):
    """LightningCLI with sections ``clip`` and ``run``, which are linked to all arguments that need them."""

    def __init__(self, args: list[str], *, run: bool = True, callbacks: Sequence[Callback] = ()) -> None:
        silence()
        self.verbs = {verb: skipped for verb, skipped in LightningCLI.subcommands().items() if verb in args[:1]}
        self.settings_digest = settings_digest(args[1:]) if run else None
        self.lock: IO[str] | None = None
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else importing deepspeed prints a warning into --print_config
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SavedConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": list(callbacks)},
            parser_kwargs=SETTINGS | {verb: SETTINGS for verb in self.subcommands()},
            args=args,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:
        """The requested verb alone: a start does not wait for the parsers of the other three."""
        return self.verbs

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
        except (argparse.ArgumentError, OmegaConfBaseException) as error:
            verb = args[0] if self.subcommands().keys() & set(args[:1]) else None
            actions = self._parser(verb)._actions
            raise WrongArguments(explain(str(error), [action.dest for action in actions])) from error

    def _parse_ckpt_path(self) -> None:
        """Takes no settings from a checkpoint, which Lightning would read for them: the session compares those of the run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--base", type=str | None, default=None, help="Configuration file that this one extends. The path is relative to this file."
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto", "changed", "never"],
            default="auto",
            help="auto: resume from the run folder's last checkpoint, if it has one; settings must equal those of the checkpoint. "
            "changed: settings may differ; the manifest records each change with its step. never: start from scratch, or from "
            "--ckpt_path.",
        )
        parser.add_class_arguments(ClipSpec, "clip")
        parser.add_class_arguments(RunSpec, "run")
        for part in ("model", "data"):
            parser.link_arguments("clip", f"{part}.init_args.clip")
            parser.link_arguments("seed_everything", f"{part}.init_args.seed", compute_fn=int)

    # ---- before networks are constructed
    @property
    def chosen(self) -> Any:
        """The configuration of the current verb."""
        return self.config[self.subcommand] if self.subcommand else self.config

    def before_instantiate_classes(self) -> None:
        self.chosen.base = None  # the saved configuration is self-contained
        requirements.require_precision(self.chosen.trainer)
        requirements.require_srun(self.chosen.trainer)
        requirements.leave_out_bar(self.chosen.trainer)
        if self.subcommand != "fit":
            return
        requirements.require_accelerator(self.chosen.trainer)
        folder = Path(self.chosen.run.root) / self.chosen.run.experiment / self.chosen.run.stage
        if self.chosen.resume != "never" and (folder / manifest.NAME).exists():
            requirements.require_same(folder, self.plain_config)
            raise Finished(preflight.finished(folder))

    @functools.cached_property
    def plain_config(self) -> dict[str, Any]:
        """The resolved configuration as plain values, without the settings that only concern the start of this session."""
        parser = self._parser(self.subcommand)
        values = yaml.safe_load(parser.dump(self.chosen, skip_none=False, skip_link_targets=True))
        return {k: v for k, v in values.items() if k not in VOLATILE}

    def _run_subcommand(self, subcommand: str) -> None:
        with remove_on_failure(Path(self.config_init[subcommand].run.folder), self.before_first_batch):
            super()._run_subcommand(subcommand)

    def before_first_batch(self) -> bool:
        """Whether this process owns the run folder and no batch was requested yet."""
        owns = self.trainer.is_global_zero and (self.lock is not None or self.subcommand == "predict")
        loops = self.trainer.fit_loop.epoch_loop, self.trainer.predict_loop
        return owns and not any(loop.batch_progress.total.ready for loop in loops)

    # ---- fit
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        if isinstance(environment := trainer._accelerator_connector.cluster_environment, SLURMEnvironment):
            environment.auto_requeue = False  # it saves inside a signal handler; callbacks/requeue.py resumes from a checkpoint
        peers.watch_launched_ranks(trainer.strategy.launcher)
        sharding.keep_batch_precision(trainer)
        return trainer

    def before_fit(self) -> None:
        self.started = time.monotonic()
        folder = self.config_init.fit.run.folder
        if self.trainer.is_global_zero:
            require_own_files(folder)
            self.lock = hold_lock(folder)
        own = getattr(self.model, "parents", {})
        self.session = segments.begin(
            folder,
            resume=self.chosen.resume,
            given=self.chosen.ckpt_path,
            config=self.plain_config,
            data=segments.data_digest(self.datamodule),
            parents=own,
        )
        if self.trainer.is_global_zero:
            self.session.print_resume()
        self.trainer.callbacks += [Verified(self.session), *self.session.callbacks()]
        chosen = self.config_init.fit.ckpt_path = None if self.session.checkpoint is None else str(self.session.checkpoint)
        if chosen:
            sharding.require_resumable(Path(chosen).resolve(), self.trainer.strategy, self.trainer.world_size)
        self.read_safely(chosen)
        if isinstance(self.trainer.val_check_interval, int):  # optimiser steps here, batches in Lightning
            self.trainer.val_check_interval *= self.trainer.accumulate_grad_batches
        self.parents = parents.record(folder, own, afresh=chosen is None, write=self.trainer.is_global_zero)
        self.session.began_with = self.parents
        if chosen:
            self.model.parents_at_start = self.parents
            self.trainer.callbacks.append(construction.Loaded())
        if hasattr(self.model, "save_language_files") and self.trainer.is_global_zero:  # while parent and hub exist
            self.trainer.callbacks.append(LambdaCallback(on_fit_start=lambda *_: self.model.save_language_files(folder)))
        self.full_state_dict = sharding.GatherWeights() if sharding.zero_stage(self.trainer.strategy) else None
        if self.full_state_dict is not None:
            self.trainer.callbacks.append(self.full_state_dict)

    def before_validate(self) -> None:
        """Loads the weights to score: those of a finished run, or of a checkpoint, as moving averages if it holds some.

        Raises:
            ValueError: If ``validate`` or ``test`` are given no weights.
        """
        settings = self.config_init[self.subcommand]
        require_own_files(settings.run.folder)
        if settings.ckpt_path is None:
            if self.subcommand == "predict":
                return  # encoders and perceivers have their own weights
            raise ValueError(preflight.no_weights(self.subcommand, settings.run.folder))
        self.model.configure_model()
        weights, what = checkpoint_weights.weights_of(Path(settings.ckpt_path), self.model)
        checkpoint_weights.fill(self.model, weights, settings.ckpt_path)
        if self.trainer.is_global_zero:
            print(f"{settings.ckpt_path}: {what}", flush=True)
        settings.ckpt_path = None  # Lightning must not load them again

    before_test = before_predict = before_validate

    def read_safely(self, checkpoint: str | None) -> None:
        """Sets the checkpoint to resume from, and loads checkpoints without running code in them."""
        if isinstance(self.trainer.strategy.checkpoint_io, TorchCheckpointIO):
            self.trainer.strategy.checkpoint_io = saving.TrainingFile()
        if checkpoint is None:
            return
        self.model.resume_checkpoint = Path(checkpoint).resolve()

    def after_fit(self) -> None:
        """Exports the weights, and then writes the manifest, which completes the run."""
        if not self.trainer.state.finished or not self.trainer.is_global_zero:
            return
        folder = self.config_init.fit.run.folder
        finish.write_weights(folder, self.trainer, self.full_state_dict)
        finish.write_manifest(
            folder,
            self.trainer,
            clip=self.config_init.fit.clip,
            parents=self.parents,
            config=self.plain_config,
            seed=self.chosen.seed_everything,
            seconds=time.monotonic() - self.started,
            settings_digest=self.settings_digest,
        )
        print(f"finished {folder}/: {manifest.WEIGHTS} and {manifest.NAME} are written", flush=True)
        next_steps.name_after_run(folder)


def run(verb: str, argv: list[str], trusted: Sequence[str] = ()) -> int:
    """Runs a Lightning verb.

    Args:
        verb: fit, validate, test or predict.
        argv: Its arguments.
        trusted: Packages whose classes may be named in configurations of runs.

    Returns:
        Exit code: 0 = success, 1 = the run failed, 2 = wrong arguments, 130 = interrupted, 143 = terminated.
    """
    termination = Termination(verb)
    limits = trust.limit_imports(trusted) if trust.saved_by_runs(argv) else nullcontext()
    peers.watch_launcher()
    try:
        with termination.signal_handlers(), limits, misfits_named():
            words = expand(argv)
            try:
                settings.require_mappings(configs(words))
            except ValueError as error:
                raise WrongArguments(str(error)) from error
            BatonCLI([verb, *words], callbacks=[termination])
    except Finished as finished:
        print(finished)
        return 0
    except WrongArguments as error:
        print(f"baton_lightning: error: {printable(error)}", file=sys.stderr)
        return 2
    except MisconfigurationException as error:  # e.g. a setting that this machine does not support
        message = " ".join(str(error).split())
        if "backend found" in message:
            message = (
                f"trainer.accelerator must be one that torch {torch.__version__} finds here ({message}); give --trainer.accelerator=cpu"
            )
        raise ValueError(message) from error
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OWN:
            raise
        raise ValueError(
            f"a setting needs a package that cannot be imported: {' '.join(str(error).split())}; install it, or give another setting"
        ) from error
    except Terminated as end:
        print(f"baton_lightning: {end.outcome}", file=sys.stderr, flush=True)
        return int(end.code or 0)
    except RuntimeError as error:
        if rank := peers.dead_rank(error):
            raise ValueError(f"{rank}; all ranks end; {REPEAT[verb]}") from error
        raise
    return 0


OWN = ("baton_lightning", "callbacks", "datamodules")
"""Packages that are always installed. An import that fails inside them is a bug."""
