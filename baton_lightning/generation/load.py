"""A finished run, ready to use: its module with its weights, and its datamodule."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile

from lightning.pytorch import LightningDataModule, LightningModule
from safetensors.torch import load_file

from baton_lightning.runs import manifest


def load_run(run: Path) -> tuple[LightningModule, LightningDataModule]:
    """Builds a run's module and datamodule from its own configuration and loads its weights.

    Args:
        run: Folder of a finished run.

    Raises:
        ValueError: If the run is not finished, was changed, or its weights do not fit its configuration.
    """
    import yaml

    from baton_lightning.cli import BatonCLI

    described = manifest.require(run)
    config = {k: v for k, v in described["config"].items() if k in ("seed_everything", "clip", "run", "trainer", "model", "data")}
    config["trainer"] |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config))
        file.flush()
        cli = BatonCLI(["--config", file.name], run=False)
    cli.model.configure_model()
    left_out = tuple(getattr(cli.model, "not_exported", ())) or ("\0",)
    missing, unexpected = cli.model.load_state_dict(load_file(run / manifest.WEIGHTS), strict=False)
    missing = [key for key in missing if not key.startswith(left_out)]
    if missing or unexpected:
        raise ValueError(f"the weights of {run}/ do not fit its configuration: missing {missing[:3]}, unexpected {list(unexpected)[:3]}")
    return cli.model.eval(), cli.datamodule
