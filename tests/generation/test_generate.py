"""Clips of a run: the same seed the same ones, any type of weights, one component at a time, in a folder of their own."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.batch import Batch, Plan
from baton_lightning.generation.load import load_run
from baton_lightning.generation.requests import Requests, of_prompts, split_into_batches
from baton_lightning.metrics.prompts import Prompt
from baton_lightning.runs import checkpoints
from baton_lightning.runs.manifest import file_digest
from baton_lightning.verbs.generate import plan_of

PROMPT = ["--video-prompt", "a red circle on the left. first the red circle jumps.", "--audio-prompt", "first a thump."]


def generate(made: Path, out: Path, *more: str, code: int = 0) -> Path:
    assert main(["generate", "--run", f"{made}/runs/e/stage3_joint", *PROMPT, "--out", str(out), "--device", "cpu", *more]) == code
    return out / "prompt.mp4"


@pytest.mark.slow
def test_a_run_that_was_moved_with_its_parents_makes_clips_without_its_language_model_s_folder(made, tmp_path, monkeypatch):
    shutil.copytree(made / "runs", tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = "../elsewhere/e/stage3_joint"
    assert main(["generate", "--run", run, *PROMPT, "--out", "clips", "--data", str(made / "data/d")]) == 0
    assert (tmp_path / "here/clips/prompt.mp4").exists()


def test_a_run_of_another_machine_is_loaded_without_its_trainer_and_with_every_weight(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its relative paths start where it lies
    model, _, what = load_run(made / "runs/e/stage3_joint")
    assert what == "" and model.parents["planner"] == str(made / "runs/e/stage2")
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    weights = load_file(made / "runs/e/stage3_joint/weights.safetensors")
    assert all(torch.equal(parameter, weights[f"dit.{name}"]) for name, parameter in model.dit.named_parameters())
    rotary = model.plan.planner.language.llm.model.rotary_emb
    assert rotary.inv_freq.dtype == torch.float32 and rotary.inv_freq.isfinite().all()


def test_two_seeds_make_two_clips_and_one_seed_makes_the_same(made, tmp_path):
    one, again, other = (generate(made, tmp_path / name, "--seed", seed) for name, seed in (("a", "3"), ("b", "3"), ("c", "4")))
    assert one.read_bytes() == again.read_bytes() != other.read_bytes()
    metadata = json.loads(one.with_suffix(".json").read_text())
    assert (metadata["seed"], metadata["steps"], metadata["dtype"]) == (3, 2, "float32")


def test_a_prompt_makes_the_same_clip_whatever_stands_beside_it():
    encoder = SimpleNamespace(contexts=lambda seen, heard, batch_size: torch.zeros(len(seen), 1, 1))
    several, alone = ({key: Prompt("a dog", "a bark") for key in keys} for keys in ("abc", "b"))
    (three, _), (one, _) = (of_prompts(encoder, prompts, 3)[0] for prompts in (several, alone))
    assert three.index[1] == one.index[0] and len(set(three.index.tolist())) == 3


@pytest.mark.slow
def test_with_offload_one_component_at_a_time_is_on_the_device_and_bfloat16_clips_resemble_float32_ones(made, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "baton_lightning.placement")
    from baton_lightning.media import read_mp4

    plain = read_mp4(generate(made, tmp_path / "plain", "--steps", "3", "--plan-scale", "1")).frames.astype(float)
    caplog.clear()
    low = generate(made, tmp_path / "low", "--steps", "3", "--plan-scale", "1", "--dtype", "bfloat16", "--offload")
    output = [record.getMessage() for record in caplog.records if record.name.endswith("placement")]
    order = ["text_encoder", "planner", "transformer", "video_codec", "audio_codec"]
    assert output == [line for name in order for line in (f"{name} to cpu", f"{name} away")]
    difference = abs(read_mp4(low).frames.astype(float) - plain)
    assert 0 < difference.mean() < 12 and json.loads(low.with_suffix(".json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("seen", "heard", "message"),
    [
        ("a purple dragon sings", "la la", "the run's vocabulary does not have: purple, dragon, sings"),
        ("A red circle jumps on the left", "thump", "the clip is made, but cannot be scored"),
    ],
)
def test_a_prompt_that_the_run_may_not_understand_is_told_of_once(made, tmp_path, capsys, recwarn, seen, heard, message):
    words = ["--video-prompt", seen, "--audio-prompt", heard, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["generate", "--run", f"{made}/runs/e/stage3_joint", *words]) == 0
    assert capsys.readouterr().err.count(message) == 1
    assert not [warning for warning in recwarn if "vocabulary" in str(warning.message)]


def test_scales_and_steps_of_the_command_line_are_used_and_the_run_s_own_are_kept_otherwise(made, tmp_path):
    first = generate(made, tmp_path / "a")
    saved = ["--keep-projections", "--plan-every", "2", "--guided", "0.2", "1"]
    assert first.read_bytes() != generate(made, tmp_path / "b", "--plan-scale", "1", "--video-scale", "3", *saved).read_bytes()
    metadata = [json.loads((tmp_path / name / "prompt.json").read_text()) for name in "ab"]
    assert [(t["video_scale"], t["audio_scale"], t["plan_scale"]) for t in metadata] == [(1, 1, 1.5), (3, 1, 1)]
    savings = {"keep_projections": True, "plan_every": 2, "guided": [0.2, 1.0], "one_batch": False}
    assert "savings" not in metadata[0] and metadata[1]["savings"] == savings


def test_a_saved_plan_makes_the_same_clip_again_and_is_removed_with_its_clip(made, tmp_path):
    clip = generate(made, tmp_path / "out", "--save-plans")
    before, plan = clip.read_bytes(), clip.with_suffix(".plan.safetensors")
    shutil.copy(plan, own := tmp_path / "prompt.safetensors")  # the noise depends on the key, which is the file's name
    words = ["--plan", str(own), "--out", str(tmp_path / "out"), "--device", "cpu", "--force"]
    assert main(["generate", "--run", f"{made}/runs/e/stage3_joint", *words]) == 0
    assert clip.read_bytes() == before and not plan.exists()


def test_clips_that_are_there_are_neither_overwritten_nor_mixed_in(made, tmp_path, capsys):
    clip = generate(made, tmp_path / "out")
    stale = clip.with_name("stale.mp4")
    shutil.copy(clip, stale)
    shutil.copy(clip.with_suffix(".json"), stale.with_suffix(".json"))
    before = clip.read_bytes()
    generate(made, tmp_path / "out", "--seed", "9", code=1)
    assert clip.read_bytes() == before and "--force" in capsys.readouterr().err
    generate(made, tmp_path / "out", "--seed", "9", "--force")
    assert clip.read_bytes() != before and not stale.exists() and not stale.with_suffix(".json").exists()
    (tmp_path / "out/mine.mp4").write_bytes(b"")
    generate(made, tmp_path / "out", "--force", code=1)
    assert (tmp_path / "out/mine.mp4").exists() and clip.exists() and "mine.mp4" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine without a GPU lacks")
def test_a_gpu_that_is_not_there_is_refused_in_a_line_that_says_what_is(made, tmp_path, capsys):
    generate(made, tmp_path / "x", "--device", "cuda:1", code=1)
    assert "--device cuda:1 must be a device of this machine, which has cpu" in capsys.readouterr().err
    generate(made, tmp_path / "x", "--device", "tpu", code=1)
    assert "auto, cpu, cuda or cuda:n, got 'tpu'" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--steps", "0"], "--steps must be at least 1"), (["--video-scale", "nan"], "--video-scale must be a finite number")],
)
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(made, tmp_path, capsys, words, message):
    generate(made, tmp_path / "x", *words, code=1)
    assert message in capsys.readouterr().err


def test_a_run_whose_parent_is_gone_or_was_trained_again_says_where_it_looked(made, tmp_path, capsys):
    shutil.copytree(made / "runs", tmp_path / "runs")
    parent = tmp_path / "runs/e/stage2/manifest.json"
    parent.write_text(json.dumps(json.loads(parent.read_text()) | {"weights_sha256": "0" * 64}))
    generate(tmp_path, tmp_path / "x", "--data", str(made / "data/d"), code=1)
    assert f"{tmp_path}/runs/e/stage2: holds weights 000000000000" in capsys.readouterr().err
    shutil.rmtree(parent.parent)
    generate(tmp_path, tmp_path / "x", "--data", str(made / "data/d"), code=1)
    assert f"{tmp_path}/runs/e/stage2: does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_clips_that_follow_no_plan_need_no_planner_s_run(made, tmp_path):
    shutil.copytree(made / "runs/e/stage3_joint", tmp_path / "runs/e/stage3_joint")
    alone = generate(tmp_path, tmp_path / "alone", "--data", str(made / "data/d"), "--plan", "none")
    assert alone.read_bytes() == generate(made, tmp_path / "beside", "--plan", "none").read_bytes()


@pytest.mark.slow
def test_another_run_s_transformer_is_told_of_and_must_know_the_plan_space(made, tmp_path, capsys):
    other = tmp_path / "adapted"
    shutil.copytree(made / "runs/e/stage3_joint", other)
    for shift, code in ((0.0, 0), (5.0, 1)):
        tensors = load_file(made / "runs/e/stage3_joint/weights.safetensors")
        for name in ("video", "audio"):
            norm = {"mean": torch.full((64,), shift), "std": torch.ones(64), "fitted": torch.tensor(True)}
            tensors |= {f"plan.{name}_norm.{key}": value for key, value in norm.items()}
        save_file(tensors, other / "weights.safetensors")
        metadata = json.loads((other / "manifest.json").read_text()) | {"weights_sha256": file_digest(other / "weights.safetensors")}
        (other / "manifest.json").write_text(json.dumps(metadata))
        clip = generate(made, tmp_path / str(code), "--dit", str(other), code=code)
    assert "differ by video 5.00 and audio 5.00 standard deviations" in capsys.readouterr().err
    assert not clip.exists()
    assert json.loads((tmp_path / "0/prompt.json").read_text())["dit"] == str(other)


def test_a_run_of_a_planner_makes_no_clips(made, tmp_path, capsys):
    shutil.copytree(made / "runs/e/stage2", tmp_path / "stage1")
    file = tmp_path / "stage1/manifest.json"
    metadata = json.loads(file.read_text())
    metadata["config"]["model"]["class_path"] = "baton_lightning.stages.pretraining.PlannerPretraining"
    file.write_text(json.dumps(metadata))
    for command in (["generate", *PROMPT, "--out", f"{tmp_path}/x"], ["evaluate", f"{tmp_path}/x"]):
        assert main([*command, "--run", str(file.parent)]) == 1
        output = capsys.readouterr().err
        assert "PlannerPretraining, which makes no clips" in output and len(output.splitlines()) == 1


@pytest.mark.parametrize(("count", "batch_size"), [(5, 2), (2, 1), (3, 3)])
def test_no_clip_follows_its_own_plan_when_plans_are_shuffled(count, batch_size):
    def read(part):
        names = [str(place) for place in part]
        return Batch(names, torch.tensor(part), 0, names, names, video_plan=torch.tensor(part).float()), [{}] * len(part)

    def plan(batch):
        assert batch.video_prompts == [str(int(place)) for place in batch.video_plan]  # computed or cached, of the same clip
        return Plan(batch.video_plan[:, None, None], batch.video_plan[:, None, None], (1, 1, 1))

    requests = Requests(split_into_batches(list(range(count)), batch_size), read)
    for place, (batch, _) in enumerate(requests):
        followed = plan_of(SimpleNamespace(plan=plan), requests, place, batch, "shuffled").video.flatten().tolist()
        assert len(followed) == len(batch) and all(f != float(key) for f, key in zip(followed, batch.keys, strict=True))


# ---- runs that are not finished
@pytest.fixture
def unfinished(made: Path, tmp_path: Path) -> Path:
    """The run as it is while it trains: configuration and a checkpoint, whose averages of matrices are zero."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    run = tmp_path / "runs/e/stage3_joint"
    (run / "config.yaml").write_text(yaml.safe_dump(json.loads((run / "manifest.json").read_text())["config"]))
    model, _, _ = load_run(made / "runs/e/stage3_joint")
    places = enumerate(p for group in model.configure_optimizers()["optimizer"].param_groups for p in group["params"])
    states = {place: {"average": torch.zeros_like(parameter)} for place, parameter in places if parameter.ndim == 2}
    saved = {"state_dict": load_file(run / "weights.safetensors"), "global_step": 7, "optimizer_states": [{"state": states}]}
    (run / "checkpoints").mkdir()
    checkpoint = run / "checkpoints/step-7.ckpt"
    torch.save(saved, checkpoints.aside(checkpoint))
    checkpoints.commit(checkpoint, checkpoints.described(checkpoints.aside(checkpoint), ["."]), step=7, ranks=1)
    (run / "manifest.json").unlink()
    (run / "weights.safetensors").unlink()
    return run


def test_averages_of_a_checkpoint_stand_for_the_weights_they_are_averages_of(made, unfinished):
    model, _, what = load_run(unfinished, checkpoint=unfinished / "checkpoints/step-7.ckpt", data=made / "data/d")
    weights = load_file(made / "runs/e/stage3_joint/weights.safetensors")
    assert what == "averages of the weights of step 7"
    for name, parameter in model.dit.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.ndim == 2 else weights[f"dit.{name}"]
        assert torch.equal(parameter, expected), name


def test_an_unfinished_run_makes_clips_from_a_checkpoint_and_says_so(made, unfinished, tmp_path, capsys):
    data = ["--data", str(made / "data/d")]
    generate(tmp_path, tmp_path / "x", *data, code=1)
    assert f"is not finished; finish it, or give --ckpt {unfinished}/checkpoints/step-7.ckpt" in capsys.readouterr().err
    clip = generate(tmp_path, tmp_path / "x", *data, "--ckpt", f"{unfinished}/checkpoints/step-7.ckpt")
    assert "NOT the final weights" in capsys.readouterr().err
    assert "averages of the weights of step 7" in json.loads(clip.with_suffix(".json").read_text())["weights"]
    generate(tmp_path, tmp_path / "y", *data, "--ckpt", f"{unfinished}/checkpoints/step-8.ckpt", code=1)
    assert "step-8.ckpt must be a complete checkpoint, but it does not exist" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused_though_its_weights_would_fit(made, unfinished, tmp_path, capsys):
    checkpoint = f"{unfinished}/checkpoints/step-7.ckpt"
    generate(made, tmp_path / "x", "--ckpt", checkpoint, code=1)
    output = capsys.readouterr().err
    assert f"a checkpoint of the run, in {made}/runs/e/stage3_joint/, got {checkpoint}" in output and len(output.splitlines()) == 1
