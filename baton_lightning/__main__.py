"""`python -m baton_lightning VERB ...`: the front door. Nothing heavy is imported before the verb is known."""

from __future__ import annotations

import os
import sys

# `python -m` looks for every module in the working directory first
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.append(os.getcwd())

import importlib

from baton_lightning.atomic import FULL
from baton_lightning.names import printable
from baton_lightning.signals import note_requeue

LIGHTNING = {
    "fit": "train a stage; an interrupted run resumes from its last checkpoint",
    "validate": "score a stage on the validation set",
    "test": "score a stage on the test set",
    "predict": "run a stage over the data, e.g. to cache latents and features (experiments/encode.yaml)",
}
OTHERS = {
    "shards": ("baton_lightning.verbs.shards", "make, list and check data sets of webdataset tar shards"),
    "generate": ("baton_lightning.verbs.generate", "write mp4s with sound from a finished stage-3 run"),
    "try": ("baton_lightning.playground.server", "a page in your browser: prompts, their plan, edits of it, and the clips"),
    "plan": ("baton_lightning.verbs.plan", "make, draw, compare and edit the plan of a clip"),
    "evaluate": (
        "baton_lightning.verbs.evaluate",
        "score a run or a folder of clips of the benchmark world; writes a page that marks errors",
    ),
    "report": ("baton_lightning.verbs.report", "one page of clips, plans, scores and stages, in one file without a server"),
    "metrics": ("baton_lightning.metrics.folder", "published metrics (WER, CLAP, FD, DeSync, ...) over a folder of clips"),
    "bench": (
        "baton_lightning.bench.cli",
        "benchmarks: parity with recorded Ovi forwards, data loading, the benchmark world's controls, resume after kills, a GPU",
    ),
    "convert": ("baton_lightning.release.convert", "convert a released checkpoint (Ovi's) into a parent run"),
    "export": ("baton_lightning.release.export", "write a run's weights as sharded safetensors with configuration and model card"),
    "estimate": ("baton_lightning.estimate.cli", "estimate tokens, parameters and memory of an experiment; downloads nothing"),
    "chain": ("baton_lightning.launch.chain", "run the stages of a chain file, here or as SLURM jobs, and show their status"),
    "slurm": (
        "baton_lightning.launch.slurm",
        "write an sbatch script for an experiment or an array of its variants; its job requeues itself",
    ),
    "ablate": ("baton_lightning.ablation.ablate", "run the rows of an ablation over seeds and write a report"),
    "demo": ("baton_lightning.launch.demo", "run the whole chain on a CPU and write a report"),
}


def usage() -> str:
    """The help text."""
    verbs = {**LIGHTNING, **{verb: text for verb, (_, text) in OTHERS.items()}}
    lines = [f"  {verb:<10} {text}" for verb, text in verbs.items()]
    return "\n".join(
        [
            "usage: python -m baton_lightning VERB ...   or, installed: baton VERB ...",
            "",
            "Plan-guided joint video-audio diffusion (Baton, arXiv 2605.25195).",
            "",
            *lines,
            "",
            "  python -m baton_lightning --version                         versions of the library, torch and lightning",
            "  python -m baton_lightning VERB --help                       options of a verb",
            "  python -m baton_lightning fit -c experiments/stage1.yaml    train the first stage",
            "  python -m baton_lightning fit -c FILE --print_config        show the resolved configuration",
        ]
    )


def versions() -> str:
    """Versions of the library, torch and lightning, as they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("baton-lightning", "torch", "lightning"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return ", ".join(f"{name} {number}" for name, number in found.items())


def main(argv: list[str] | None = None) -> int:
    """Runs a verb.

    Args:
        argv: Arguments without the program's name; ``None`` takes the process's.

    Returns:
        Exit code: 0 done, 1 a user's mistake or a failed run, 2 wrong arguments, 75 requeued by
            SLURM, 124 stalled, 130 interrupted (Ctrl+C), 143 terminated (SIGTERM).
    """
    note_requeue()
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(versions())
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in LIGHTNING and verb not in OTHERS:
        from difflib import get_close_matches

        near = get_close_matches(verb, [*LIGHTNING, *OTHERS], 1)
        hint = f"; did you mean `{near[0]}`?" if near else "; --help lists the verbs"
        print(f"baton_lightning: error: there is no verb {verb!r}{hint}", file=sys.stderr)
        return 2
    from baton_lightning import hints, next_steps

    try:
        with hints.given_command(argv), next_steps.collected() as commands:
            code = call(verb, rest)
            if code == 0:
                next_steps.show(commands)
            return code
    except KeyboardInterrupt:
        print(f"baton_lightning: {verb} was interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("BATON_DEBUG"):
            raise
        return report(error)


def call(verb: str, rest: list[str]) -> int:
    """Runs a verb with its arguments and returns its exit code."""
    if verb not in LIGHTNING:
        return importlib.import_module(OTHERS[verb][0]).main(rest)
    from baton_lightning import trust
    from baton_lightning.preflight import early_exit_code

    rest, trusted = trust.split_trust_options(rest)
    trust.require_saved(rest, trusted)
    if (code := early_exit_code(verb, rest)) is not None:
        return code
    from baton_lightning.cli import run

    return run(verb, rest, trusted)


def report(error: BaseException) -> int:
    """Prints an error the way a user reads it: what must hold, what was got, how to fix it."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1:]
    in_ours = all(any(part in frame.filename for part in ("baton_lightning", "callbacks", "datamodules")) for frame in last)
    raised = all((frame.line or "raise").startswith("raise") for frame in last)
    if isinstance(error, RuntimeError) and not (in_ours and raised):
        traceback.print_exception(error)  # not raised by us: a bug or a library's complaint, whose origin matters
    full = isinstance(error, OSError) and error.errno in FULL
    hint = "; free disk space, then repeat the command: it resumes from what is saved" if full else ""
    print(f"baton_lightning: error: {printable(error)}{hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
