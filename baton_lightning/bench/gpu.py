"""Training and sampling at the paper's width on a GPU: rounding, step times, memory, DeepSpeed's engine, and a small complete run.

Each part runs in a separate process, so a crash of one part does not affect the others. Without a GPU, all sizes are tiny, and the
benchmark only shows that the parts run. Compiled parts then run only if they are named.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

PARTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rounding": ("gpu_parts", "rounding", {}),
    "training, kept": ("gpu_parts", "training", {}),
    "training, recomputed": ("gpu_parts", "training", {"recompute": True}),
    "training, recomputed, window 1": ("gpu_parts", "training", {"recompute": True, "window": 1}),
    "training, adapters on int8": ("gpu_parts", "training", {"recompute": True, "rank": 32}),
    "training, ZeRO-2 engine": ("gpu_parts", "sharded", {"stage": 2}),
    "training, ZeRO-3 engine": ("gpu_parts", "sharded", {"stage": 3}),
    "sampling": ("gpu_parts", "sampling", {}),
    "sampling, window 1": ("gpu_parts", "sampling", {"window": 1}),
    "runs": ("gpu_runs", "verbs", {}),
    "training, kept, compiled": ("gpu_parts", "training", {"compile_backend": "inductor"}),
    "training, recomputed, compiled": ("gpu_parts", "training", {"recompute": True, "compile_backend": "inductor"}),
    "sampling, compiled": ("gpu_parts", "sampling", {"compile_backend": "inductor"}),
}
"""Name -> module, function, settings. The most important parts come first, because later ones are skipped if time runs out."""
PACKAGES = ("torch", "lightning", "deepspeed", "transformers", "triton")
LONGEST = 300.0
"""Time limit of a part, in s."""
LOG_LINES = 60
"""Lines of output that are shown of a part that failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.epilog = "examples:\n  python -m baton_lightning bench gpu --json gpu.json --markdown gpu.md\n" + (
        "  python -m baton_lightning bench gpu --device cpu --parts rounding sampling"
    )
    add = parser.add_argument
    add("--device", choices=["auto", "cuda", "cpu"], default="auto", help="cuda: the first GPU (default: cuda if there is a GPU, else cpu)")
    add("--parts", nargs="+", metavar="PART", help=f"what to run (default: all): {'; '.join(PARTS)}")
    add(
        "--minutes", type=float, default=25.0, help="time limit in minutes; parts that would start later are skipped (default: %(default)s)"
    )
    add("--json", type=Path, metavar="FILE", help="write the results as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")


def main(options: argparse.Namespace) -> int:
    """Runs the parts and prints the page. The exit code is 1 if a part failed or was skipped.

    Raises:
        ValueError: If a part does not exist, or a GPU is asked for and there is none.
    """
    import torch

    from baton_lightning import atomic
    from baton_lightning.bench.gpu_page import markdown

    if unknown := sorted(set(options.parts or ()) - set(PARTS)):
        raise ValueError(f"bench gpu: --parts must be among {', '.join(map(repr, PARTS))}, got {unknown[0]!r}")
    if not 0 < options.minutes < float("inf"):
        raise ValueError(f"bench gpu: --minutes must be positive and finite, got {options.minutes:g}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench gpu: --device cuda needs a GPU that torch can use, but this machine has none; give --device cpu")
    device = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "baton_lightning", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}",
        "gib": torch.cuda.get_device_properties(0).total_memory / 2**30 if device == "cuda" else None,
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES if installed(name)}},
        "cuda": torch.version.cuda,
        "parts": {},
    }
    chosen = options.parts or [name for name in PARTS if device == "cuda" or "compiled" not in name]
    until = time.monotonic() + 60 * options.minutes
    for number, name in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)}: {name} ...", flush=True)
        left = until - time.monotonic()
        found = run(name, device, min(LONGEST, left)) if left > 30 else {"failed": "skipped: no time left"}
        result["parts"][name] = found
        print(f"    {found.get('failed') or 'done'} ({found.get('wall', 0):.0f} s)", flush=True)
        if log := found.pop("log", None):
            print(log, file=sys.stderr, flush=True)
        if options.json:
            atomic.write_text(options.json, json.dumps(result, indent=1) + "\n")  # after every part, because the job may be cancelled
    page = markdown(result)
    if options.markdown:
        atomic.write_text(options.markdown, page)
    print(page)
    return 1 if any("failed" in found for found in result["parts"].values()) else 0


def installed(name: str) -> str | None:
    """Version of a package; ``None`` if it is not installed."""
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def run(name: str, device: str, seconds: float) -> dict[str, Any]:
    """Runs a part in a separate process.

    Returns:
        Its figures, or the reason of its failure as ``failed`` and the end of its output as ``log``; ``wall`` is its time in s.
    """
    since = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "baton_lightning.bench.gpu", name, device, str(out)]
        environment = os.environ | ({} if device == "cuda" else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""})
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            output = process.communicate(timeout=seconds)[0].strip().splitlines()
            found = json.loads(out.read_text()) if out.exists() else {"failed": f"exit code {process.returncode}: {' '.join(output[-1:])}"}
            if "failed" in found:
                found["log"] = "\n".join(output[-LOG_LINES:])
        except subprocess.TimeoutExpired:
            found = {"failed": f"took longer than {seconds:.0f} s"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also kills compilers and verbs that it started
            process.wait()
    return {**found, "wall": time.monotonic() - since}


def part(name: str, device: str, out: Path) -> None:
    """Runs a part in this process and writes its figures."""
    import torch

    from baton_lightning.bench.gpu_work import scale

    module, function, settings = PARTS[name]
    measure: Callable[..., dict[str, float]] = getattr(importlib.import_module(f"baton_lightning.bench.{module}"), function)
    place = torch.device(device)
    measure = measure if module == "gpu_runs" else partial(measure, scale=scale(place))
    try:
        found: dict[str, Any] = dict(measure(place, **settings))
    except Exception as error:  # the table shows the error of a failed part
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    part(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
