"""Parity of the transformer with Ovi, and parity of sampling with training for a run.

``--fixture`` replays a folder of recorded forward passes and reports the largest relative errors, max |ours - theirs| / max |theirs|.
``--run`` compares all inputs of a run's transformer in training with those in sampling, see :mod:`trained_as_sampled`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.arguments import require_at_least_one
from baton_lightning.bench.recording import NAMES, load_model, read_case, read_config, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from baton_lightning.models.fused_branches import FusedBranches

BARS = {"float64": 1e-10, "float32": 1e-5}
GRADIENT_BAR = 1e-8
GRADIENT_CASE = "t2av"


@dataclass(frozen=True)
class Error:
    """One comparison: the compared value, its relative error, and the largest allowed error."""

    case: str
    what: str
    relative: float
    bar: float

    @property
    def passed(self) -> bool:
        return self.relative <= self.bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bench parity``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--fixture", type=Path, metavar="DIR", help="folder with config.json, weights and cases: parity with Ovi")
    what.add_argument("--run", type=Path, metavar="RUN", help="run folder of a stage 3: test that sampling computes what training computes")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="with --run: current folder of its data set (default: the recorded one)"
    )
    parser.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="with --run: package whose classes the run's configuration may name"
    )
    parser.add_argument("--num", type=int, default=4, help="with --run: validation clips that are compared (default: %(default)s)")
    parser.add_argument("--dtype", choices=[*BARS, "both"], default="both", help="precision to run in (default: both)")


def main(options: argparse.Namespace) -> int:
    """Runs the chosen comparison. The exit code is 0 if no error is above its bar, 1 otherwise, and 2 if the folder is malformed."""
    if options.run is not None:
        from baton_lightning.bench import trained_as_sampled

        require_at_least_one("bench parity", options, "num")
        return trained_as_sampled.run(options.run, data=options.data, num=options.num, trusted=options.trust)
    dtypes = list(BARS) if options.dtype == "both" else [options.dtype]
    try:
        if options.dtype == "both" and read_config(options.fixture).get("dtype") == "float32":
            print("recorded in float32, so float64 is not compared")
            dtypes = ["float32"]
        return max([run(options.fixture, dtype) for dtype in dtypes])
    except ValueError as error:
        print(f"bench parity: error: {error}", file=sys.stderr)
        return 2


def run(fixture: Path, dtype: str = "float64") -> int:
    """Prints a table of relative errors of blocks, outputs and gradients for each case.

    Args:
        fixture: Folder of recorded forward passes.
        dtype: ``float64`` or ``float32``. Gradients are only compared in float64.

    Returns:
        0 if no error is above its bar, otherwise 1.

    Raises:
        ValueError: If the folder is not a fixture.
    """
    errors = compare(fixture, dtype)
    print(f"parity with {fixture}, {dtype}, tolerance {BARS[dtype]:g}" + (f", gradients {GRADIENT_BAR:g}" if dtype == "float64" else ""))
    print(f"{'case':<24} {'compared':<28} {'relative error':>14}")
    for case in dict.fromkeys(error.case for error in errors):
        of_case = [error for error in errors if error.case == case]
        for error in (*of_case, Error(case, "maximum", *max((e.relative, e.bar) for e in of_case))):
            print(f"{error.case:<24} {error.what:<28} {error.relative:>14.2e}{'' if error.passed else '  ABOVE TOLERANCE'}")
    failed = sorted({error.case for error in errors if not error.passed})
    worst = max(errors, key=lambda e: (not e.passed, e.relative))
    print(f"worst {worst.relative:.2e} ({worst.case}, {worst.what}): " + (f"FAILED in {', '.join(failed)}" if failed else "passed"))
    return 1 if failed else 0


def compare(fixture: Path, dtype: str = "float64") -> list[Error]:
    """All comparisons with the recorded values of a fixture folder, in the order of its cases. Arguments and errors as for :func:`run`."""
    import torch

    if dtype not in BARS:
        raise ValueError(f"parity runs in {' or '.join(BARS)}, got {dtype}")
    config = read_config(fixture)
    model = load_model(fixture, config).to(getattr(torch, dtype))
    cases = {case: (flags, read_case(fixture, case)) for case, flags in config["cases"].items()}
    errors = []
    for case, (flags, recorded) in cases.items():
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
        flags = config["cases"].get(GRADIENT_CASE, {})
        errors += compare_gradients(model, flags, read_case(fixture, GRADIENT_CASE), read_tensors(gradients))
    return errors


def compare_gradients(
    model: FusedBranches, flags: dict[str, Any], recorded: dict[str, Tensor], gradients: dict[str, Tensor]
) -> list[Error]:
    """Errors of the gradients of ``_loss`` = sum(out * ``_probe``) with respect to all parameters, one error per part of the network."""
    import torch

    probes = {name: gradients[f"_probe.{name}"] for name in NAMES if f"_probe.{name}" in gradients}
    parameters = dict(model.named_parameters())
    unknown = [key for key in gradients if not key.startswith("_") and key not in parameters]
    if not probes or unknown or len(gradients) == len(probes):
        raise ValueError(
            "grads.safetensors must hold _probe.vid, _probe.audio and gradients of parameters of the model of config.json; "
            + (f"got {unknown[0]}" if unknown else f"got {', '.join(sorted(gradients)[:3]) or 'nothing'}")
        )
    computed = replay(model, GRADIENT_CASE, flags, recorded)
    for name, probe in probes.items():
        if probe.shape != computed[f"out.{name}.0"].shape:
            shapes = f"{list(probe.shape)}, the output {list(computed[f'out.{name}.0'].shape)}"
            raise ValueError(f"grads.safetensors: _probe.{name} must have the shape of out.{name}.0 of {GRADIENT_CASE}; it has {shapes}")
    loss = torch.stack([(computed[f"out.{name}.0"] * probe).sum() for name, probe in probes.items()]).sum()
    model.zero_grad()
    loss.backward()
    worst: dict[str, float] = {}
    for key, theirs in gradients.items():
        if not key.startswith("_"):
            ours = parameters[key].grad
            part = ".".join(key.split(".")[: 3 if ".blocks." in key else 2])
            worst[part] = max(worst.get(part, 0.0), math.inf if ours is None else relative_error(ours, theirs))
    errors = [Error("gradients", part, relative, GRADIENT_BAR) for part, relative in worst.items()]
    if "_loss" in gradients:
        errors.insert(0, Error("gradients", "loss", relative_error(loss.reshape(1), gradients["_loss"].reshape(-1)), GRADIENT_BAR))
    return errors


def replay(model: FusedBranches, case: str, flags: dict[str, Any], recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Runs one case. The outputs have the same names as in the recording.

    Raises:
        ValueError: If inputs are missing or do not fit the model.
    """
    dtype = next(model.parameters()).dtype

    def inputs(name: str) -> list[Tensor]:
        keys = [f"in.{name}.{i}" for i in range(len(recorded["in.t"]))]
        if missing := [key for key in keys if key not in recorded]:
            raise ValueError(f"case {case} has {len(keys)} clips (in.t), but records no {missing[0]}")
        return [recorded[key].to(dtype) for key in keys]

    blocks: list[tuple[int, Tensor | None, Tensor | None]] = []
    present = [name for name in NAMES if name != flags.get("drop")]
    latents = [inputs(name) if name in present else None for name in NAMES]
    context = [inputs(f"{name}_context") if name in present else None for name in NAMES]
    skipped = skipped_blocks(flags)
    try:
        outputs = model(
            *latents,
            recorded["in.t"].double() / 1000,
            *context,
            known_video=[first_frame(x) for x in latents[0]] if latents[0] and flags.get("first_frame_is_clean") else None,
            skip_blocks=skipped,
            on_block=lambda *made: blocks.append(made),
        )
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"case {case} does not fit the model of config.json: {str(error).splitlines()[0]}") from error
    in_order = any(f"blk.{number}.{name}" in recorded for number in skipped for name in NAMES)
    computed = {
        f"blk.{order if in_order else number}.{name}": tokens
        for order, (number, *both) in enumerate(blocks)
        for name, tokens in zip(NAMES, both, strict=True)
        if tokens is not None
    }
    for name, output in zip(NAMES, outputs, strict=True):
        computed.update({f"out.{name}.{i}": x for i, x in enumerate(output or ())})
    return computed


def first_frame(latents: Tensor) -> Tensor:
    """Mask that marks the first frame of a clip's video latents [C, T, Y, X] as known: [T, Y, X], bool."""
    known = latents.new_zeros(latents.shape[1:]).bool()
    known[0] = True
    return known


def skipped_blocks(flags: dict[str, Any]) -> tuple[int, ...]:
    """Number of the fused block that a case skips, if any. Ovi treats 0 and false as no block. A single branch has no fused blocks.

    A recording numbers its blocks by their position in the network. If the number of the skipped block appears among them, they are
    numbered in the order of execution instead.
    """
    layer = int(flags.get("slg_layer") or 0)
    return (layer,) if layer > 0 and flags.get("drop") is None else ()


def valid_rows(what: str, ours: Tensor, recorded: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of tensors to compare. Tokens of a block are compared clip by clip without the padding, which is never read."""
    theirs = recorded[what]
    if what.startswith("out."):
        yield ours, theirs
        return
    if theirs.ndim != 3 or len(theirs) != len(ours):
        raise ValueError(f"{what} must be recorded as [clips, tokens, channels] of {len(ours)} clips, got {list(theirs.shape)}")
    counts = token_counts(what.rsplit(".", 1)[1], recorded, ours.shape[1])
    for mine, other, count in zip(ours, theirs, counts, strict=True):
        yield mine[:count], other[:count]


def token_counts(name: str, recorded: dict[str, Tensor], longest: int) -> list[int]:
    """Number of tokens of each clip of a case. It is proportional to the number of latents; the longest clip has ``longest`` tokens."""
    places = [recorded[f"in.{name}.{i}"].numel() for i in range(len(recorded["in.t"]))]
    return [longest * n // max(places) for n in places]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| / max |theirs|; infinite if the shapes differ or a value is not finite."""
    if ours.shape != theirs.shape:
        return math.inf
    scale = theirs.double().abs().max().item()
    difference = (ours.detach().double() - theirs.double()).abs().max().item()
    relative = difference / scale if scale > 0 else difference
    return relative if math.isfinite(relative) else math.inf
