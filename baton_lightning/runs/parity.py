"""Does the transformer compute what Ovi computes? Replays a folder of recorded forwards and reports the largest relative errors.

A fixture folder holds ``config.json`` (both branches' settings, the cases and their flags), ``weights.safetensors`` (Ovi's keys),
``<case>.safetensors`` for every case, and, if gradients were recorded, ``grads.safetensors``.

    relative error = max |ours - theirs| / max |theirs|
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from baton_lightning.models.dit import FusedBranches

BARS = {"float64": 1e-10, "float32": 1e-5}
GRADIENT_BAR = 1e-8
GRADIENT_CASE = "t2av"
NAMES = {"vid": 0, "audio": 1}


@dataclass(frozen=True)
class Error:
    """One comparison: what was compared, the relative error, and the bar it must stay under."""

    case: str
    what: str
    relative: float
    bar: float

    @property
    def passed(self) -> bool:
        return self.relative <= self.bar  # false for NaN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench parity``."""
    parser.add_argument("--fixture", type=Path, required=True, metavar="DIR", help="folder with config.json, weights and cases")
    parser.add_argument("--dtype", choices=[*BARS, "both"], default="both", help="precision to run in (default: both)")


def main(options: argparse.Namespace) -> int:
    """Runs what the options ask for; the exit code is 0 if every error stays under its bar, 1 if not, 2 if the folder is malformed."""
    dtypes = list(BARS) if options.dtype == "both" else [options.dtype]
    try:
        return max([run(options.fixture, dtype) for dtype in dtypes])
    except ValueError as error:
        print(f"parity: {error}")
        return 2


def run(fixture: Path, dtype: str = "float64") -> int:
    """Prints a table of relative errors per case, per block and of gradients.

    Args:
        fixture: Folder of recorded forwards.
        dtype: ``float64`` or ``float32``. Gradients are compared in float64.

    Returns:
        0 if every error stays under its bar, else 1.

    Raises:
        ValueError: If the folder is not a fixture.
    """
    errors = compare(fixture, dtype)
    print(f"parity with {fixture}, {dtype}, bar {BARS[dtype]:g}" + (f", gradients {GRADIENT_BAR:g}" if dtype == "float64" else ""))
    print(f"{'case':<24} {'compared':<20} {'relative error':>14}")
    for error in errors:
        print(f"{error.case:<24} {error.what:<20} {error.relative:>14.2e}{'' if error.passed else '  ABOVE THE BAR'}")
    failed = sorted({error.case for error in errors if not error.passed})
    worst = max(errors, key=lambda e: (not e.passed, e.relative))
    print(f"worst {worst.relative:.2e} ({worst.case}, {worst.what}): " + (f"FAILED in {', '.join(failed)}" if failed else "passed"))
    return 1 if failed else 0


def compare(fixture: Path, dtype: str = "float64") -> list[Error]:
    """Every comparison that a fixture folder allows, in the order of its cases. Arguments and errors as for :func:`run`."""
    import torch

    if dtype not in BARS:
        raise ValueError(f"parity runs in {' or '.join(BARS)}, got {dtype}")
    config = read_config(fixture)
    model = load_model(fixture, config).to(getattr(torch, dtype))
    errors = []
    for case, flags in config["cases"].items():
        recorded = read_tensors(fixture / f"{case}.safetensors")
        with torch.no_grad():
            computed = replay(model, case, flags, recorded)
        for what in sorted(k for k in recorded if k.startswith(("blk.", "out."))):
            if what not in computed:
                raise ValueError(f"case {case} records {what}, which the model of config.json does not compute")
            pairs = valid_rows(what, computed[what], recorded)
            errors.append(Error(case, what, max(relative_error(ours, theirs) for ours, theirs in pairs), BARS[dtype]))
        if unrecorded := [k for k in computed if k.startswith("out.") and k not in recorded]:
            raise ValueError(f"case {case} must record every output of the model; missing: {', '.join(unrecorded)}")
    gradients = fixture / "grads.safetensors"
    if dtype == "float64" and gradients.exists():
        errors += compare_gradients(model, config, read_tensors(fixture / f"{GRADIENT_CASE}.safetensors"), read_tensors(gradients))
    return errors


def compare_gradients(
    model: FusedBranches, config: dict[str, Any], recorded: dict[str, Tensor], gradients: dict[str, Tensor]
) -> list[Error]:
    """Gradients of ``_loss`` = sum(out * ``_probe``) with respect to every parameter, one line for each part of the network."""
    import torch

    computed = replay(model, GRADIENT_CASE, config["cases"].get(GRADIENT_CASE, {}), recorded)
    probes = {name: gradients[f"_probe.{name}"] for name in NAMES if f"_probe.{name}" in gradients}
    if not probes:
        raise ValueError("grads.safetensors must hold _probe.vid and _probe.audio")
    loss = torch.stack([(computed[f"out.{name}.0"] * probe).sum() for name, probe in probes.items()]).sum()
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    worst: dict[str, float] = {}
    for key, theirs in gradients.items():
        if key.startswith("_"):
            continue
        if key not in parameters:
            raise ValueError(f"grads.safetensors has {key}, which is no parameter of the model of config.json")
        ours = parameters[key].grad
        part = ".".join(key.split(".")[: 3 if ".blocks." in key else 2])
        worst[part] = max(worst.get(part, 0.0), float("inf") if ours is None else relative_error(ours, theirs))
    errors = [Error("gradients", part, relative, GRADIENT_BAR) for part, relative in worst.items()]
    if "_loss" in gradients:
        errors.insert(0, Error("gradients", "loss", relative_error(loss, gradients["_loss"].squeeze()), GRADIENT_BAR))
    return errors


def replay(model: FusedBranches, case: str, flags: dict[str, Any], recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Runs one case and names its outputs as the recording does."""
    dtype = next(model.parameters()).dtype
    dropped = flags.get("drop")
    if dropped not in (None, *NAMES):
        raise ValueError(f"case {case}: drop must be one of {', '.join(NAMES)}, got {dropped!r}")
    if "in.t" not in recorded:
        raise ValueError(f"case {case} records no in.t")

    def inputs(name: str) -> list[Tensor]:
        keys = [f"in.{name}.{i}" for i in range(len(recorded["in.t"]))]
        if missing := [key for key in keys if key not in recorded]:
            raise ValueError(f"case {case} has {len(keys)} clips (in.t), but records no {missing[0]}")
        return [recorded[key].to(dtype) for key in keys]

    computed: dict[str, Tensor] = {}

    def keep(number: int, video: Tensor | None, audio: Tensor | None) -> None:
        computed.update({f"blk.{number}.{name}": x for name, x in zip(NAMES, (video, audio), strict=True) if x is not None})

    present = [name for name in NAMES if name != dropped]
    latents = [inputs(name) if name in present else None for name in NAMES]
    context = [inputs(f"{name}_context") if name in present else None for name in NAMES]
    outputs = model(
        *latents,
        recorded["in.t"].double() / 1000,
        *context,
        first_frame_clean=bool(flags.get("first_frame_is_clean", False)),
        skip_blocks=skipped_blocks(flags),
        on_block=keep,
    )
    for name, output in zip(NAMES, outputs, strict=True):
        computed.update({f"out.{name}.{i}": x for i, x in enumerate(output or ())})
    return computed


def skipped_blocks(flags: dict[str, Any]) -> tuple[int, ...]:
    """The fused block that a case leaves out. Ovi reads 0 and false as `none`, and a lone branch has no fused block to skip."""
    layer = int(flags.get("slg_layer") or 0)
    return (layer,) if layer > 0 and flags.get("drop") is None else ()


def valid_rows(what: str, ours: Tensor, recorded: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs to compare. A block's tokens are compared clip by clip without their padding, which nothing reads."""
    theirs = recorded[what]
    if what.startswith("out."):
        yield ours, theirs
        return
    counts = token_counts(what.rsplit(".", 1)[1], recorded, ours.shape[1])
    for mine, other, count in zip(ours, theirs, counts, strict=True):
        yield mine[:count], other[:count]


def token_counts(name: str, recorded: dict[str, Tensor], longest: int) -> list[int]:
    """Tokens of every clip of a case; latents are proportional to tokens, and the longest clip has ``longest`` tokens."""
    places = [recorded[f"in.{name}.{i}"].numel() for i in range(len(recorded["in.t"]))]
    return [longest * n // max(places) for n in places]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| / max |theirs|; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    scale = theirs.double().abs().max().item()
    difference = (ours.detach().double() - theirs.double()).abs().max().item()
    return difference / scale if scale > 0 else difference


def read_config(fixture: Path) -> dict[str, Any]:
    """``config.json`` of a fixture folder.

    Raises:
        ValueError: If there is none, or it lacks a section.
    """
    path = fixture / "config.json"
    if not path.is_file():
        raise ValueError(f"a fixture folder must hold config.json, {fixture} {'does not' if fixture.is_dir() else 'is not a folder'}")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if missing := [k for k in ("video", "audio", "cases") if not isinstance(config, dict) or not isinstance(config.get(k), dict)]:
        raise ValueError(f"{path} must have the sections video, audio and cases; missing: {', '.join(missing)}")
    if not config["cases"]:
        raise ValueError(f"{path} names no cases, so there is nothing to compare")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: If it is missing or unreadable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"the fixture must hold {path.name}, which {path.parent} does not")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def load_model(fixture: Path, config: dict[str, Any]) -> FusedBranches:
    """The transformer of ``config.json`` with the weights of the folder, strictly.

    Raises:
        ValueError: If configuration and weights do not fit.
    """
    from baton_lightning.models.dit import FusedBranches

    weights = read_tensors(fixture / "weights.safetensors")
    model = FusedBranches.from_ovi_config(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"weights.safetensors does not fit config.json: {error}") from error
    return model.eval()
