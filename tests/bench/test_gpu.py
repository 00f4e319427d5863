"""`bench gpu` at tiny size on the CPU: its parts give sane figures, a part that fails is named and takes none with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from baton_lightning import settings
from baton_lightning.__main__ import main
from baton_lightning.bench import gpu, gpu_parts, gpu_runs
from baton_lightning.bench.gpu_page import markdown
from baton_lightning.bench.gpu_work import PAPER, SMALL, inputs
from baton_lightning.clip import ClipSpec

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_the_wide_clip_is_the_paper_s():
    asked = settings.read([ROOT / "experiments/paper/base.yaml"])["clip"]
    assert ClipSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}) == PAPER


def test_rounding_is_that_of_eight_bits():
    found = gpu_parts.rounding(CPU, SMALL)
    assert len(found) == 7
    assert all(1e-4 < error < 0.05 for name, error in found.items() if name != "depth")


def test_the_same_inputs_come_with_every_shape_and_no_number_on_the_meta_device():
    real, meta = inputs(SMALL.clip, "cpu"), inputs(SMALL.clip, "meta")
    assert [x.shape for x in real.clean] == [x.shape for x in meta.clean] and meta.plan.video.is_meta
    assert torch.equal(real.clean[0], inputs(SMALL.clip, "cpu").clean[0]) and not torch.equal(real.clean[0], real.noise[0])


@pytest.mark.parametrize("choices", [{}, {"recompute": True}, {"recompute": True, "window": 1}, {"recompute": True, "rank": 4}])
def test_arithmetic_is_the_model_s_own_whether_or_not_it_is_recomputed(choices):
    found = gpu_parts.training(CPU, SMALL, **choices)
    dit, given = gpu_parts.blueprint(SMALL, SMALL.most_blocks, **{**choices, "recompute": False})
    flops = gpu_parts.footprint(dit, lambda: given.loss(dit)).flops
    assert found["tflops"] * found["seconds"] * 1e12 == pytest.approx(flops) and "gib" not in found
    forward = gpu_parts.forward_flops(lambda: given.forward(dit))
    low, high = (1.5, 2.5) if "rank" in choices else (2.5, 3.25)  # attention backward takes 2.5 times its forward
    assert low * forward < flops <= high * forward


def test_memory_decides_how_deep_a_network_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100.0, 100.0))
    deepest = gpu_parts.deepest
    assert deepest(torch.device("cuda"), SMALL, lambda blocks: 10 + 50 * blocks) == 1
    assert deepest(torch.device("cuda"), SMALL, lambda blocks: 10 + 35 * blocks) == 2
    assert deepest(torch.device("cuda"), SMALL, lambda blocks: blocks) == SMALL.most_blocks == 2


def test_what_fails_is_named_and_the_rest_is_there(tmp_path, monkeypatch, capsys):
    found = {"sampling": {"depth": 2, "seconds": 0.5, "first": 1.0, "tflops": 0.01}, "runs": {"failed": "RuntimeError: a | b"}}
    monkeypatch.setattr(gpu, "run", lambda name, device, seconds: {**found[name], "wall": 1.0})
    argv = ["bench", "gpu", "--device", "cpu", "--parts", "runs", "sampling", "--json", str(tmp_path / "g.json")]
    assert main([*argv, "--markdown", str(tmp_path / "g.md")]) == 1
    result = json.loads((tmp_path / "g.json").read_text())
    assert (
        list(result["parts"]) == ["runs", "sampling"]
        and result["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    )
    page = (tmp_path / "g.md").read_text()
    assert page == markdown(result) and page in capsys.readouterr().out
    assert "| sampling | 2 | 0.500 | 1.0 | 0.01 |" in page and "| runs | RuntimeError: a / b |" in page and "GiB" not in page


def test_on_a_gpu_the_page_has_memory_and_the_share_of_the_peak():
    row = {"depth": 4, "seconds": 0.5, "first": 60.0, "tflops": 494.5, "gib": 60.04, "foreseen_gib": 58.0, "wall": 9.0}
    result = {"device": "NVIDIA H100 80GB HBM3", "gib": 79.1, "cuda": "12.8", "versions": {}, "command": "c", "parts": {"sampling": row}}
    assert "| sampling | 4 | 0.500 | 60.0 | 494 | 50.0% | 60.0 | 58.0 |" in markdown(result)


def test_a_part_that_raises_says_why(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu_parts, "rounding", lambda device, scale: 1 / 0)
    gpu.part("rounding", "cpu", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == {"failed": "ZeroDivisionError: division by zero"}
    assert "test_gpu.py" in capfd.readouterr().err  # the traceback, which the verb shows


@pytest.mark.parametrize("options", [["--parts", "sampeling"], ["--minutes", "0"], ["--device", "cuda"]])
def test_what_cannot_be_run_is_refused_in_a_line(options, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu", *options]) == 1
    assert capsys.readouterr().err.startswith("baton_lightning: error: bench gpu: --")


@pytest.mark.slow
def test_an_engine_of_deepspeed_takes_steps_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "g.json"
    assert main(["bench", "gpu", "--device", "cpu", "--json", str(out), "--parts", "training, ZeRO-3 engine"]) == 0
    found = json.loads(out.read_text())["parts"]["training, ZeRO-3 engine"]
    assert found["seconds"] > 0 and found["depth"] == 2


@pytest.mark.slow
def test_the_verbs_of_a_small_run_follow_each_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    whole = gpu_runs.commands
    monkeypatch.setattr(gpu_runs, "commands", lambda *args: [step for step in whole(*args) if step[0] != "fit, ZeRO-2"])
    assert set(gpu_runs.verbs(CPU)) == {"data", "encode", "fit, ZeRO-3", "generate"}
