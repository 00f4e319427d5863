"""What construction makes of networks that cannot be deferred, of released language models, and of what no checkpoint gave."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from baton_lightning import atomic
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.construction.networks import Loaded, Resumable, construct
from baton_lightning.frozen import language_files
from baton_lightning.frozen.llm import PretrainedLLM, TinyLLM
from baton_lightning.runs import manifest


class Stage(Resumable):
    """A stage with one network."""

    def __init__(self, make, parent: Path | None = None) -> None:
        super().__init__()
        self.make, self.parent = make, parent

    def configure_model(self) -> None:
        construct(self, self.build, self.load_parents, skip_pretrained=self.parent is not None)

    def build(self) -> None:
        with language_files.used_from(self.parent):
            self.net = self.make()

    def load_parents(self) -> None:
        if self.parent is not None:
            hand_over(self.net, self.parent, source="net")


class Looks(nn.Module):
    """A network whose constructor looks at its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.largest = self.weight.max().item()


def test_a_network_whose_constructor_looks_at_numbers_is_made_at_once_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    at_once = Looks()
    torch.manual_seed(0)
    stage = Stage(Looks)
    with caplog.at_level(logging.WARNING):
        stage.configure_model()
    assert torch.equal(stage.net.weight, at_once.weight) and stage.net.largest == at_once.largest
    assert "directly and completely" in caplog.text


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_language_model_in_bfloat16_is_filled_from_its_run_and_keeps_exact_frequencies(tmp_path: Path, lora_rank: int | None) -> None:
    tiny = TinyLLM(width=32, depth=2, vocabulary="a red square jumps".split())
    tiny.model.save_pretrained(tmp_path / "qwen")
    tiny.tokenizer.save_pretrained(tmp_path / "qwen")
    make = lambda: PretrainedLLM(str(tmp_path / "qwen"), dtype="bfloat16", lora_rank=lora_rank)  # noqa: E731
    trained, run = make(), tmp_path / "run"
    for parameter in trained.parameters():
        parameter.data += 0.01
    run.mkdir()
    save_file({f"net.{key}": value.contiguous() for key, value in trained.state_dict().items()}, run / manifest.WEIGHTS)
    language_files.save(trained, run)
    described = {"clip": ClipSpec().to_dict(), "weights_sha256": manifest.file_digest(run / manifest.WEIGHTS)}
    atomic.write_text(run / manifest.NAME, json.dumps(described))
    stage = Stage(make, run)
    stage.configure_model()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(stage.net.parameters(), trained.parameters(), strict=True))
    assert [p.requires_grad for p in stage.net.parameters()] == [p.requires_grad for p in trained.parameters()]
    assert [(n, b.dtype) for n, b in stage.net.named_buffers()] == [(n, b.dtype) for n, b in trained.named_buffers()]
    assert all(torch.equal(a, b) for a, b in zip(stage.net.buffers(), trained.buffers(), strict=True))
    released = Stage(make)  # no parent: its authors' weights
    released.configure_model()
    assert torch.equal(released.net.model.get_input_embeddings().weight, tiny.model.get_input_embeddings().weight.bfloat16())


class Computes(nn.Module):
    """A network that keeps tensors as buffers and as attributes, some of them drawn before and after its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.randn(2)
        self.layer = nn.Linear(2, 2)
        self.register_buffer("drawn", torch.randn(2), persistent=False)
        self.steps = torch.arange(3) * 0.5


def test_buffers_and_tensors_that_are_attributes_are_made_with_their_own_numbers() -> None:
    torch.manual_seed(0)
    at_once = Computes()
    torch.manual_seed(0)
    stage = Stage(Computes)
    stage.configure_model()
    for name in ("plain", "drawn", "steps"):
        assert torch.equal(getattr(stage.net, name), getattr(at_once, name))
    assert torch.equal(stage.net.layer.weight, at_once.layer.weight)


def test_what_no_checkpoint_gave_is_not_trained_on(tmp_path: Path) -> None:
    stage = Stage(lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    stage.resume_checkpoint = tmp_path / "step-2.ckpt"
    stage.configure_model()
    with pytest.raises(ValueError, match=r"4 parameters are not in .*step-2.ckpt.*net.0.weight"):
        Loaded().on_train_start(SimpleNamespace(), stage)
    stage.load_state_dict({name: torch.ones_like(value) for name, value in stage.state_dict().items()})
    Loaded().on_train_start(SimpleNamespace(), stage)
