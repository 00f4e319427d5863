"""Codecs of an experiment that caches latents, for decoding its cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from baton_lightning.cli import BatonCLI, WrongArguments
from baton_lightning.config import expand
from baton_lightning.stages.encode import describe


def decoders_of(root: Path, config: Path, cache: dict[str, Any]) -> dict[str, Any]:
    """Video and audio codec of an experiment, after a check that they computed the cache.

    Args:
        root: Folder of the data set.
        config: Experiment file of the encoding.
        cache: Record of the cache.

    Raises:
        ValueError: If the experiment does not cache latents, or the cache was computed by other codecs.
    """

    class Blueprint(BatonCLI):
        """Builds the networks without a trainer."""

        def add_arguments_to_parser(self, parser: Any) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--return_predictions", type=bool | None, default=None)  # experiments of `predict` may set it

        def instantiate_trainer(self, **kwargs: Any) -> None:
            return None

    words = ["-c", str(config), f"--data.init_args.root={root}", "--trainer.callbacks=null", "--trainer.logger=false"]
    words += [f"--clip.{name}={json.dumps(value)}" for name, value in cache["clip"].items() if value is not None]
    try:
        model = Blueprint(expand(words), run=False).model
    except WrongArguments as error:
        raise ValueError(str(error)) from error
    if not hasattr(model, "makers"):
        raise ValueError(f"shards check: {config} must be the experiment that caches (Encode), got {type(model).__name__}")
    codecs = {}
    for name in ("video", "audio"):
        network = model.makers[f"{name}_codec"]().requires_grad_(False).eval()
        got, known = describe(network), cache["networks"][f"{name}_codec"]
        if got["sha256"] != known["sha256"]:
            raise ValueError(f"shards check: the {name} codec of {config} ({got['class']}) is not the one that made the cache "
                             f"({known['class']}), or has other weights or settings; give the experiment that cached with -c")  # fmt: skip
        codecs[name] = network
    return codecs
