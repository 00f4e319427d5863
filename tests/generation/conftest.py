"""A joint run as training leaves it, with a bfloat16 Qwen3 of a few thousand weights, but never trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from baton_lightning.cli import BatonCLI
from baton_lightning.config import expand
from baton_lightning.frozen import language_files
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.runs import manifest, weights
from baton_lightning.runs.manifest import file_digest
from baton_lightning.world.codecs import PatchPCA

ROOT = Path(__file__).parents[2]
LLM = "--model.init_args.plan.init_args.planner.init_args.llm"


def write_qwen(folder: Path) -> str:
    """Writes a tiny Qwen3 with its tokenizer, as the hub keeps them."""
    tiny = TinyLLM(width=96, depth=1)
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def qwen_in() -> Callable[[Path], str]:
    """Writes a tiny Qwen3 into a folder."""
    return write_qwen


def described(run: Path, cli: BatonCLI, parents: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    """Writes weights and manifest of a run that trained on eight GPUs of somebody else's machine."""
    run.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, run / weights.WEIGHTS)
    config = cli.plain_config
    config["trainer"] |= {"accelerator": "gpu", "devices": 8, "strategy": "ddp"}
    digests = {role: manifest.read(run.parent / Path(parent).name)["weights_sha256"] for role, parent in parents.items()}
    record = {
        "stage": type(cli.model).__name__,
        "clip": cli.config_init.clip.to_dict(),
        "parents": {role: {"run": parent, "weights_sha256": digests[role]} for role, parent in parents.items()},
        "weights_sha256": file_digest(run / weights.WEIGHTS),
        "config": config,
    }
    (run / manifest.NAME).write_text(json.dumps(record))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/d/codec.safetensors` and `runs/e/{stage2,stage3_joint}`, whose configurations name relative paths."""
    base = tmp_path_factory.mktemp("made")
    (base / "data/d").mkdir(parents=True)
    PatchPCA.fit(torch.randint(0, 255, (4, 25, 32, 32, 3), dtype=torch.uint8)).save(base / "data/d/codec.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        words = ["--run.root=runs", "--run.experiment=e", "--data.init_args.root=data/d", "--model.init_args.sampler.init_args.steps=2"]
        llm = [LLM, "baton_lightning.frozen.llm.PretrainedLLM", f"{LLM}.init_args.name_or_path={write_qwen(base / 'qwen')}"]
        llm += [f"{LLM}.init_args.dtype=bfloat16"]
        cli = BatonCLI(expand(["-c", str(ROOT / "experiments/stage3_joint.yaml"), *words, *llm]), run=False)
        model = cli.model
        model.build()
        for norm in (model.plan.planner.video_norm, model.plan.planner.audio_norm):
            norm.fit(torch.zeros(64), torch.ones(64))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for parameter in model.parameters():  # nothing may be silent
                parameter.data += 0.05 * torch.randn_like(parameter)
        tensors = model.state_dict()
        planner = {key.removeprefix("plan."): tensor for key, tensor in tensors.items() if key.startswith("plan.planner.")}
        described(base / "runs/e/stage2", cli, {}, planner)
        language_files.save(model.plan.planner.language.llm, base / "runs/e/stage2")
        own = {key: tensor for key, tensor in tensors.items() if not key.startswith(model.not_exported)}
        described(base / "runs/e/stage3_joint", cli, {"planner": "runs/e/stage2"}, own)
    shutil.rmtree(base / "qwen")
    return base
