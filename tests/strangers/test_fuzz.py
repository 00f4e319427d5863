"""Run folders, data sets, prompts and plans from elsewhere, broken at random: nothing outside is written, nothing is run, nothing
hangs, and what cannot be read is told as a ValueError or an OSError.

    python tests/strangers/test_fuzz.py --number 5000 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save, save_file

ROOT = Path(__file__).parents[2]
SECONDS = 20
"""Longest time that one broken folder may take."""
BUILT = 0.02
"""Share of run folders that the parser sees as well."""
PAYLOAD = "import pathlib\npathlib.Path(__file__).parents[1].joinpath('outside/ran').touch()\nclass Model: ...\n"
VALUES: list[Any] = [None, True, -1, 0, 2**70, 1e308, float("nan"), "", "..", "../../outside/x", "/tmp/x", "a" * 3000, [], {}]
VALUES += ["\u202e\x1b[31m", [[[[]]]], {"": {"..": 1}}, "1", [1, "x"], "${oc.env:HOME}", "${a.b}", "stranger/payload.py"]
VALUES += ["stranger.payload.Model", {"class_path": "stranger.payload.Model"}, {"class_path": ["x"], "init_args": 3}]
VALUES += [{"class_path": "os.system"}, "baton_lightning.cli.os.abort"]


EDITS: list[Any] = [{"op": "scale", "factor": 2.0, "rows": [0, 1], "start": 0.0, "stop": 0.5, "modality": "video"}]
EDITS += [{"op": "mix", "other": "b.safetensors", "share": 0.5}, {"op": "swap", "first": [0, 1], "second": [1, 2]}]
EDITS += [
    {"op": "move", "columns": [0, 1], "columns_by": 1},
    {"op": "shift", "seconds": 0.2, "start": 0.1, "stop": 0.2, "modality": "audio"},
]
HOME = {"base", "outside", "stranger", "out"}


class Hang(BaseException):
    """A reader took too long."""


def make_base(home: Path) -> None:
    """A run folder, a data set, a file of prompts, and plans with their edits, that can be read."""
    from baton_lightning import settings
    from baton_lightning.clip import ClipSpec
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.runs import checkpoints
    from baton_lightning.shards.format import SplitIndex, file_digest, write_json
    from baton_lightning.shards.writer import write_shard

    run = home / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "language").mkdir()
    (run / "language/tokenizer.json").write_text("{}")
    save_file({"dit.a.weight": torch.zeros(2, 3), "plan.video_norm.mean": torch.zeros(2)}, run / "weights.safetensors")
    config = settings.read([ROOT / "experiments/stage3_adapt.yaml"])
    parents = {"planner": {"run": "runs/e/stage2", "weights_sha256": "0" * 64}}
    told = {"stage": "JointTraining", "clip": ClipSpec().to_dict(), "parents": parents, "metrics": {"val/loss": 0.5}, "config": config}
    told |= {"weights_sha256": file_digest(run / "weights.safetensors"), "directory": "x", "data": None, "seed": 0}
    (run / "manifest.json").write_text(json.dumps(told))
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "parents.json").write_text(json.dumps(parents))
    (run / "segments.json").write_text(json.dumps([{"step": 0, "began": 1.0, "changed": [], "config": config}]))
    (run / "ledger.jsonl").write_text('{"step": 1, "loss": "0x1p+0"}\n{"step": 2, "loss": "0x1p+0"}\n')
    checkpoint = run / "checkpoints/step-1.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "global_step": 1}, checkpoints.aside(checkpoint))
    checkpoints.commit(checkpoint, {".": checkpoints.described(checkpoints.aside(checkpoint), ["."])["."]}, step=1, ranks=1)
    clip, digests = ClipSpec(text_tokens=2, text_width=3), {}
    for split in ("train", "val"):
        (home / "data" / split).mkdir(parents=True)
        keys = [f"{split}-{i}" for i in range(3)]
        texts = {key: json.dumps({"video_prompt": key, "audio_prompt": "x", "tier": "a"}).encode() for key in keys}
        shard = write_shard(home / "data" / split / "clips-000000.tar", ((key, {"json": texts[key], "mp4": b""}) for key in keys))
        rows = ((key, {"text.safetensors": save({"context": torch.ones(1, 3)})}) for key in keys)
        write_shard(home / "data" / split / "text-000000.tar", rows, made_by="n")
        entry = {"name": shard.tar.name, "num_clips": 3, "num_bytes": shard.num_bytes, "sha256": shard.sha256}
        index = SplitIndex(home / "data" / split, 3, 6.0, clip.to_dict(), [entry])
        index.write()
        digests[split] = index.digest
    write_json(home / "data/index.json", {"version": 1, "splits": {name: {"num_clips": 3, "sha256": d} for name, d in digests.items()}})
    write_json(home / "data/cache.json", {"version": 1, "recipe": "n", "clip": clip.to_dict(), "splits": digests, "damaged": {}})
    write_json(home / "data/build.json", {"settings": {}, "report": {"clips": {"": {"train": {"av": 3}}}, "rejected": {"no_audio": 1}}})
    small = ClipSpec(seconds=0.5, plan_grid=(2, 2), video_plan_width=4, audio_plan_width=4)
    statistics = {name: torch.tensor([[0.0] * 4, [1.0] * 4]) for name in ("video", "audio")}
    for name in ("a", "b"):
        ClipPlan(torch.randn(3, 2, 2, 4), torch.randn(20, 4), small, statistics).save(home / f"plans/{name}.safetensors")
    (home / "plans/edits.json").write_text(json.dumps(EDITS))
    (home / "prompts").mkdir()
    write_json(home / "prompts/prompts.json", {"k": {"video_prompt": "a", "audio_prompt": "b", "speech": [{"speaker": "A", "text": "oh"}]}})


# ---- what is broken
def nodes(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything within plain values."""
    yield path
    for key, child in values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ():
        yield from nodes(child, (*path, key))


def breaks_values(values: Any, draw: random.Random) -> Any:
    """Plain values with one of them replaced, removed, renamed or added."""
    *above, last = draw.choice([path for path in nodes(values) if path] or [(None,)])
    if last is None:
        return draw.choice(VALUES)
    made = copy.deepcopy(values)
    node = made
    for key in above:
        node = node[key]
    kind = draw.randrange(4)
    if kind == 0:
        del node[last]
    elif kind == 1 and isinstance(node, dict):
        node[draw.choice(["..", "../x", "", "a\nb", "colour", "x" * 300])] = node.pop(last)
    else:
        node[last] = copy.deepcopy(draw.choice(VALUES))
    return made


def break_bytes(file: Path, outside: Path, draw: random.Random) -> None:
    """Damages a file, or puts something else in its place."""
    content = file.read_bytes()
    place = draw.randrange(len(content) + 1)
    kind = draw.randrange(9)
    if kind < 3:
        damaged = (
            bytes([draw.randrange(256)]) + content[place + 1 :] if kind == 0 else b"\xff" * kind + content[place:] if kind == 1 else b""
        )
        file.write_bytes(content[:place] + damaged)
    elif kind == 3:
        file.write_bytes(b"[" * 100_000)
    elif kind == 4:
        os.truncate(file, 2**34)
    else:
        file.unlink()
        if kind == 5:
            file.mkdir()
        elif kind == 6:
            os.mkfifo(file)
        elif kind == 7:
            file.symlink_to(outside / "precious")
        else:
            file.symlink_to(file.name)


def break_tar(file: Path, draw: random.Random) -> None:
    """Writes a tar anew with members of other names, twice, or empty, and without its record."""
    with tarfile.open(file) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    file.with_suffix(".json").unlink(missing_ok=True)
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            if draw.random() < 0.3:
                suffix = member.name.partition(".")[2]
                member.name = draw.choice(["../../outside/x", "/tmp/x", "a/b", "..", "a\nb", "x" * 300, "", "train-0"]) + f".{suffix}"
            if draw.random() < 0.2 and member.name.endswith(".json"):
                content = draw.choice([b"[" * 50_000, b"{}", b"\xff", b'{"video_prompt": NaN, "audio_prompt": 1}', b"[]", b"3"])
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def break_header(file: Path, draw: random.Random) -> None:
    """Changes what a safetensors file says of its tensors."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(breaks_values(json.loads(content[8 : 8 + length]), draw)).encode()
    size = draw.choice([len(header), len(header), 2**60, 0, length])
    file.write_bytes(size.to_bytes(8, "little") + header + content[8 + length :])


def break_one(folder: Path, outside: Path, draw: random.Random) -> None:
    """Breaks one file of a folder, or the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 10**7)
    if not files:
        return
    file = draw.choice(files)
    if draw.random() < 0.05:
        link = draw.choice([path for path in (folder / "samples", folder / "train", folder / "checkpoints")])
        shutil.rmtree(link, ignore_errors=True)
        if not os.path.lexists(link):
            link.symlink_to(outside)
    elif file.suffix in (".json", ".yaml") and draw.random() < 0.7:
        with contextlib.suppress(ValueError, yaml.YAMLError, RecursionError):
            values = yaml.safe_load(file.read_text()) if file.suffix == ".yaml" else json.loads(file.read_text())
            made = breaks_values(values, draw)
            file.write_text(yaml.safe_dump(made) if file.suffix == ".yaml" else json.dumps(made))
    elif file.suffix == ".tar" and draw.random() < 0.7:
        with contextlib.suppress(tarfile.TarError, ValueError, OSError, AttributeError):
            break_tar(file, draw)
    elif file.suffix == ".safetensors" and draw.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            break_header(file, draw)
    else:
        break_bytes(file, outside, draw)


# ---- what reads it
def read_run(run: Path, out: Path, draw: random.Random) -> Iterator[Callable[[], object]]:
    from baton_lightning import trust
    from baton_lightning.cli import run as lightning
    from baton_lightning.generation.load import load_run, sections
    from baton_lightning.generation.run_description import run_description
    from baton_lightning.plain_files import require_own_files
    from baton_lightning.preflight import early_exit_code
    from baton_lightning.release import export
    from baton_lightning.runs import checkpoint_weights, checkpoints, ledgers, manifest, weights
    from baton_lightning.sessions import segments
    from callbacks.ledger import cut

    yield lambda: trust.require(sections(run_description(run, None).get("config"), run), str(run))
    yield lambda: trust.require_saved(["-c", str(run / "config.yaml")], [])
    yield lambda: (trust.require_saved(["-c", str(run / "config.yaml")], []), early_exit_code("validate", ["-c", str(run / "config.yaml")]))
    yield lambda: segments.read(run)
    yield lambda: [one.read() for one in weights.stored(run, "dit").values()]
    yield lambda: manifest.require(run)
    yield lambda: export.main([str(run), "--out", str(out / "export")])
    yield lambda: export.main([str(run), "--out", str(out / "ovi"), "--format", "ovi"])
    yield lambda: (require_own_files(run), cut(run / "ledger.jsonl", 1))
    yield lambda: ledgers.last_step(run)
    yield lambda: [checkpoints.changed(path) for path in checkpoints.ranked(run / "checkpoints")[0]]
    yield lambda: checkpoint_weights.weights_of(run / "checkpoints/step-1.ckpt", torch.nn.Module())  # type: ignore[arg-type]
    if draw.random() < BUILT:
        yield lambda: load_run(run, follows=False)
        yield lambda: lightning("validate", ["-c", str(run / "config.yaml")])


def read_data(data: Path, out: Path, draw: random.Random) -> Iterator[Callable[[], object]]:
    from baton_lightning.clip import ClipSpec
    from baton_lightning.shards.check import check_set
    from baton_lightning.shards.format import BUCKETS, SplitIndex, read_root
    from baton_lightning.shards.previews import evenly
    from baton_lightning.shards.stat import print_stat
    from baton_lightning.verbs.shards import homes
    from datamodules.webshards import WebShards

    clip = ClipSpec(text_tokens=2, text_width=3)

    def train() -> None:
        module = WebShards(clip, str(data), batch_size=2, fields=["text"])
        module.setup("fit")
        for dataset in (module.train_dataset, module.val_dataset):
            batch = dataset.batch(range(len(dataset)))
            for key in batch.keys:
                (out / f"{key}.mp4").write_text(repr(dataset.metadata()))

    yield train
    yield lambda: [str(problem) for _, problems in check_set(data) for problem in problems]
    yield lambda: print_stat(data)
    yield lambda: homes(data)
    yield lambda: [evenly(SplitIndex.read(data / name), len(BUCKETS), set()) for name in read_root(data)["splits"]]


def read_prompt_file(folder: Path, out: Path, draw: random.Random) -> Iterator[Callable[[], object]]:
    from baton_lightning.generation.requests import own_prompts

    options = argparse.Namespace(prompts=folder / "prompts.json", video_prompt=None, audio_prompt=None, out=out, force=False)
    yield lambda: [(out / f"{key}.mp4").write_text(prompt.video_prompt) for key, prompt in own_prompts(options).items()]


def read_plans(folder: Path, out: Path, draw: random.Random) -> Iterator[Callable[[], object]]:
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.verbs.plan import main

    one, other, edits = (str(folder / name) for name in ("a.safetensors", "b.safetensors", "edits.json"))
    yield lambda: ClipPlan.load(one).require_fits(ClipPlan.load(other).clip, ClipPlan.load(other).statistics)
    yield lambda: main(["diff", one, other])
    yield lambda: main(["edit", one, edits, "--out", str(out / "c.safetensors")])
    if draw.random() < BUILT:
        yield lambda: main(["show", one, "--truth", other, "--out", str(out / "a.png"), "--html", str(out / "a.html")])


KINDS = {"run": read_run, "data": read_data, "prompts": read_prompt_file, "plans": read_plans}
SHARES = (5, 5, 1, 2)
OUTCOMES = ("read", "ValueError", "OSError")
FAULTS = ("written outside", "run", "hung", "traceback", "endless message")
LONGEST = 3000
"""Characters of the longest message."""


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every entry of a folder with its size and time; folders are not known by theirs."""
    entries = ((str(path), path.lstat()) for path in sorted(folder.rglob("*")))
    return {name: (found.st_size, found.st_mtime_ns) for name, found in entries}


def outcome_of(read: Callable[[], object]) -> tuple[str, str]:
    """What comes of a reader, one of :data:`OUTCOMES`, and a description if it is a fault."""
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read()
        return "read", ""
    except (ValueError, OSError) as error:
        if len(str(error)) > LONGEST:
            return "endless message", f"{str(error)[:200]} ..."
        return ("ValueError" if isinstance(error, ValueError) else "OSError"), ""
    except Hang:
        return "hung", f"no answer in {SECONDS} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error!s:.200} ({at.filename}:{at.lineno})"
    finally:
        signal.alarm(0)


def play(number: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Breaks and reads that many inputs.

    Returns:
        How often each outcome came of each kind of input, and one line per fault, which names the round and the reader.
    """
    found: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        home = Path(scratch)
        make_base(home / "base")
        (home / "outside").mkdir()
        (home / "outside/precious").write_text("kept")
        sys.path.insert(0, scratch)
        outside = snapshot(home / "outside")
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Hang()))
        for round_ in range(number):
            draw = random.Random(f"{seed}-{round_}")
            if round_ % 100 == 99:
                print(f"{round_ + 1} of {number}, {len(faults)} faults", file=sys.stderr, flush=True)
            kind = draw.choices(list(KINDS), SHARES)[0]
            stranger, out = home / "stranger", home / "out"
            for folder in (stranger, out):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(home / "base", stranger)
            (stranger / "payload.py").write_text(PAYLOAD)
            out.mkdir()
            for _ in range(draw.randint(1, 3)):
                break_one(stranger / kind, home / "outside", draw)
            found[kind, "inputs"] += 1
            for place, read in enumerate(KINDS[kind](stranger / kind, out, draw)):
                outcomes = [outcome_of(read)]
                now = snapshot(home / "outside")
                if ran := now.keys() - outside.keys() & {str(home / "outside/ran")}:
                    outcomes.append(("run", f"{ran} was written by the input's code"))
                elif now != outside or {path.name for path in home.iterdir()} != HOME:
                    outcomes.append(("written outside", f"{sorted(now.items() ^ outside.items())}"))
                outside = now
                for outcome, told in outcomes:
                    found[kind, outcome] += 1
                    if outcome in FAULTS:
                        faults.append(f"seed {seed}, round {round_}, {kind}, reader {place}: {outcome}: {told}")
                        print(faults[-1], file=sys.stderr, flush=True)
        sys.path.remove(scratch)
    return found, faults


def table(found: Counter[tuple[str, str]]) -> str:
    """One row per kind of input: the inputs, and how many readings of them had each outcome."""
    columns = ["inputs", *OUTCOMES, *FAULTS]
    rows = [["kind", *columns], *([kind, *(str(found[kind, name]) for name in columns)] for kind in KINDS)]
    rows.append(["all", *(str(sum(found[kind, name] for kind in KINDS)) for name in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


@pytest.mark.slow
def test_what_strangers_send_is_read_or_refused() -> None:
    found, faults = play(300, seed=0)
    assert not faults, "\n".join(faults[:40])
    assert found.keys() >= {(kind, outcome) for kind in KINDS for outcome in ("read", "ValueError")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counted, wrong = play(options.number, options.seed)
    print("\n".join([table(counted), f"{len(wrong)} faults", *wrong[:40]]))
    sys.exit(1 if wrong else 0)
