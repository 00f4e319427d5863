"""The whole chain through the front door, as small as it gets: data, cache, three stages, generated mp4s, scores."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from baton_lightning.__main__ import main
from baton_lightning.cli import BatonCLI
from baton_lightning.config import expand
from baton_lightning.media import read_mp4

ROOT = Path(__file__).parents[1]
SMALL = {
    "stage1": ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--model.init_args.scheduler.init_args.warmup_steps=1"],
    "stage2": ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.scheduler.init_args.warmup_steps=1"],
    "stage3_adapt": ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.scheduler.init_args.warmup_steps=1"],
    "stage3_joint": ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.scheduler.init_args.warmup_steps=1"],
}


def fit(base: Path, stage: str, *more: str) -> int:
    paths = [f"--run.root={base}/runs", "--run.experiment=e", f"--data.init_args.root={base}/data", "--data.init_args.batch_size=4"]
    paths.append("--trainer.log_every_n_steps=1")
    steps = ["--model.init_args.sampler.init_args.steps=2"] if stage.startswith("stage3") else []
    small = SMALL[stage.removesuffix("_cached")]
    return main(["fit", "-c", f"experiments/{stage}.yaml", *paths, *small, *steps, *more])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A data set with its cache and four finished runs."""
    folder = tmp_path_factory.mktemp("chain")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    assert main(["shards", "world", f"{folder}/data", "--train", "16", "--val", "4", "--test", "2", "--workers", "0"]) == 0
    paths = [f"--data.init_args.root={folder}/data", f"--run.root={folder}/runs"]
    assert main(["predict", "-c", "experiments/encode.yaml", *paths]) == 0
    for stage in SMALL:
        assert fit(folder, stage) == 0
    yield folder
    patch.undo()


def test_every_run_leaves_weights_a_manifest_and_a_configuration_that_stands_alone(base):
    for stage in SMALL:
        run = base / "runs/e" / stage
        described = json.loads((run / "manifest.json").read_text())
        assert described["clip"]["keyframe_fps"] == 6 and described["metrics"]
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert saved["base"] is None and saved["run"]["stage"] == stage
        assert (run / "checkpoints/last.ckpt").exists() and list(run.glob("events.out.tfevents.*"))


def test_manifests_name_their_parents_by_digest(base):
    runs = base / "runs/e"
    joint = json.loads((runs / "stage3_joint/manifest.json").read_text())
    for role, parent in (("dit", "stage3_adapt"), ("planner", "stage2")):
        assert joint["parents"][role]["weights_sha256"] == json.loads((runs / parent / "manifest.json").read_text())["weights_sha256"]


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run))
    events.Reload()
    return events


def test_the_four_curves_and_samples_are_in_tensorboard(base):
    tags = events_of(base / "runs/e/stage3_joint").Tags()
    assert {f"val/flow_loss/{name}" for name in ("truth", "planned", "shuffled", "none")} <= set(tags["scalars"])
    assert any(tag.endswith("/frames") for tag in tags["images"]) and any(tag.endswith("/sound") for tag in tags["audio"])


def test_losses_by_modality_and_time_rates_norms_and_speed_are_in_tensorboard(base):
    joint = events_of(base / "runs/e/stage3_joint")
    for stage in SMALL:
        events = joint if stage == "stage3_joint" else events_of(base / "runs/e" / stage)
        tags = set(events.Tags()["scalars"])
        assert {"train/loss", "train/loss_video", "train/loss_audio", "val/loss"} <= tags
        assert {"opt/grad_norm", "perf/tokens_per_s", "perf/data_wait_share", "perf/memory_gib", "ledger/samples"} <= tags
        assert any(tag.startswith("opt/lr/") for tag in tags) and not any(tag.startswith("lr") for tag in tags)
    for split, parts in (("train", 1), ("val", 2)):  # four held-out clips are probed at the first four of eight times
        for modality in ("video", "audio"):
            by_time = {tag for tag in joint.Tags()["scalars"] if tag.startswith(f"{split}/loss_{modality}_t/")}
            assert parts <= len(by_time) <= 4
            assert all(np.isfinite(event.value) for tag in by_time for event in joint.Scalars(tag))


def test_configuration_and_hyperparameters_are_in_tensorboard_once(base):
    events = events_of(base / "runs/e/stage1")
    (text,) = events.Tensors("config/text_summary")
    assert b"PlannerPretraining" in text.tensor_proto.string_val[0] and text.step == 0
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"seed_everything" in content and b"data.init_args.batch_size" in content
    assert b"val_check_interval" in content  # the command changes it
    assert b"model.init_args.planner.class_path" not in content and b"gradient_clip_val" not in content  # they are the experiment's


def test_the_frozen_planner_is_in_no_checkpoint_of_stage_3(base):
    import torch
    from safetensors import safe_open

    run = base / "runs/e/stage3_joint"
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    with safe_open(run / "weights.safetensors", "pt") as weights:
        keys = [*weights.keys(), *checkpoint["state_dict"]]
    assert keys and not any("planner" in key for key in keys)


def test_a_finished_run_is_not_run_again(base, capsys):
    before = (base / "runs/e/stage1/manifest.json").read_text()
    assert fit(base, "stage1") == 0
    assert "nothing to do" in capsys.readouterr().out and (base / "runs/e/stage1/manifest.json").read_text() == before


def test_a_finished_run_is_not_taken_for_one_of_other_settings(base, capsys):
    assert fit(base, "stage1", "--model.init_args.optimizer.init_args.lr=0.5") == 1
    assert "lr: 0.002 -> 0.5" in capsys.readouterr().err


def test_a_parent_of_another_geometry_is_refused_by_name(base, capsys):
    assert (
        fit(base, "stage2", "--run.experiment=x", f"--model.init_args.parents.planner={base}/runs/e/stage1", "--clip.keyframe_fps=3") == 1
    )
    assert "keyframe_fps: 3.0 != 6.0" in capsys.readouterr().err


def test_a_missing_parent_says_how_to_train_it(base, capsys):
    assert fit(base, "stage2", "--run.experiment=nowhere") == 1
    assert "fit -c experiments/stage1.yaml" in capsys.readouterr().err


def test_a_joint_run_needs_a_planner(base, capsys):
    assert fit(base, "stage3_joint", "--run.experiment=x", f"--model.init_args.parents={{'dit': '{base}/runs/e/stage3_adapt'}}") == 1
    assert "planner" in capsys.readouterr().err


@pytest.mark.parametrize("plan", ["planned", "none"])
def test_generate_writes_mp4s_with_sound_and_scores_them(base, plan):
    out = base / f"out-{plan}"
    assert main(["generate", "--run", f"{base}/runs/e/stage3_joint", "--plan", plan, "--num", "1", "--out", str(out)]) == 0
    files = sorted(out.glob("*.mp4"))
    assert len(files) == 2
    media = read_mp4(files[0])
    assert media.frames.shape == (25, 32, 32, 3) and abs(media.seconds - 2) < 0.05
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["tiers"]) == {"single", "multi"} and scores["tiers"]["single"]["num_clips"] == 1


def test_generate_takes_a_prompt_of_ones_own(base):
    words = ["--video-prompt", "a red circle on the left. first the red circle jumps.", "--audio-prompt", "first a thump."]
    assert main(["generate", "--run", f"{base}/runs/e/stage3_joint", *words, "--out", f"{base}/own"]) == 0
    assert (base / "own/prompt.mp4").exists() and not (base / "own/scores.json").exists()


def test_generate_takes_a_file_of_prompts_and_evaluate_scores_what_it_made(base):
    seen, heard = "a red circle on the left. first the red circle jumps.", "first a thump."
    prompts = {key: {"video_prompt": seen.replace("red", key), "audio_prompt": heard} for key in ("red", "blue", "green")}
    (base / "prompts.json").write_text(json.dumps(prompts))
    words = ["--prompts", f"{base}/prompts.json", "--batch-size", "2"]
    assert main(["generate", "--run", f"{base}/runs/e/stage3_joint", *words, "--out", f"{base}/three"]) == 0
    assert {file.stem for file in (base / "three").glob("*.mp4")} == set(prompts)
    assert (base / "three/blue.mp4").read_bytes() != (base / "three/red.mp4").read_bytes()
    assert main(["evaluate", f"{base}/three"]) == 0
    assert json.loads((base / "three/scores.json").read_text())["tiers"]["single"]["num_clips"] == 3


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "at least one prompt"),
        ({"a/b": {"video_prompt": "x", "audio_prompt": "y"}}, "got 'a/b'"),
        ({"a": {"video_prompt": "x"}}, "audio_prompt must be a text"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used_is_refused(base, capsys, prompts, message):
    (base / "wrong.json").write_text(json.dumps(prompts))
    words = ["--prompts", f"{base}/wrong.json", "--out", f"{base}/never"]
    assert main(["generate", "--run", f"{base}/runs/e/stage3_joint", *words]) == 1
    assert message in capsys.readouterr().err and not (base / "never").exists()


def test_generate_says_which_parts_a_data_set_has(base, capsys):
    assert main(["generate", "--run", f"{base}/runs/e/stage3_joint", "--split", "ood", "--out", f"{base}/never"]) == 1
    assert "ood" in capsys.readouterr().err


def test_generate_repeats_itself_to_the_byte(base):
    for name in ("a", "b"):
        assert main(["generate", "--run", f"{base}/runs/e/stage3_joint", "--num", "1", "--out", f"{base}/{name}"]) == 0
    for file in (base / "a").glob("*.mp4"):
        assert file.read_bytes() == (base / "b" / file.name).read_bytes()


@pytest.mark.slow
def test_a_mix_of_tasks_is_trained_and_sampled_alike(base, capsys):
    words = [f"--run.root={base}/runs", "--run.experiment=e", f"--data.init_args.root={base}/data", "--data.init_args.batch_size=8"]
    sampler = "--model.init_args.sampler.init_args.steps=2"
    assert main(["fit", "-c", "experiments/tasks/all.yaml", *words, *SMALL["stage3_joint"], sampler]) == 0
    assert len((base / "runs/e/tasks/ledger.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    assert main(["bench", "parity", "--run", str(base / "runs/e/tasks")]) == 0
    assert "every tensor is bit-identical" in capsys.readouterr().out


def test_a_joint_run_is_sampled_as_it_was_trained(base, capsys):
    assert main(["bench", "parity", "--run", str(base / "runs/e/stage3_joint"), "--num", "2"]) == 0
    assert "every tensor is bit-identical" in capsys.readouterr().out


def test_generate_takes_what_is_given_from_held_out_clips(base):
    out = base / "given"
    assert main(["generate", "--run", str(base / "runs/e/stage3_joint"), "--num", "1", "--task", "video=given", "--out", str(out)]) == 0
    assert json.loads(next(out.glob("test-*.json")).read_text())["task"] == "video=given"


def test_both_clips_of_a_pair_have_the_known_parts_whether_or_not_they_were_known_in_time(base, capsys):
    words = ["--run", str(base / "runs/e/stage3_joint"), "--num", "1", "--json", str(base / "tasks.json")]
    assert main(["bench", "tasks", *words, "--task", "video=given", "--task", "audio=given"]) == 0
    assert "audio=given" in capsys.readouterr().out
    found = json.loads((base / "tasks.json").read_text())["tasks"]
    assert "psnr" not in found["video=given"]  # no difference from the true pictures
    assert found["audio=given"]["psnr"]["gain"]["n"] == 2 and found["audio=given"]["psnr"]["known"] < 40
    assert main(["bench", "tasks", *words, "--task", "first_frame=0"]) == 1
    assert "--task must make something known" in capsys.readouterr().err


@pytest.mark.slow
def test_data_of_another_codec_are_refused_by_training_and_sampling_and_a_set_can_take_the_codec_of_another(base, capsys):
    words = ["--train", "12", "--val", "2", "--test", "1", "--seed", "7", "--workers", "0"]
    for name, codec in (("other", []), ("same", ["--codec", f"{base}/data/codec.safetensors"])):
        root = base / name
        assert main(["shards", "world", str(root), *words, *codec]) == 0
        assert main(["predict", "-c", "experiments/encode.yaml", f"--run.root={base}/encodes", f"--data.init_args.root={root}"]) == 0
        sampled = ["generate", "--run", f"{base}/runs/e/stage3_joint", "--data", str(root), "--num", "1", "--out", f"{base}/by-{name}"]
        own = [f"--run.experiment={name}", f"--data.init_args.root={root}"]
        own += [f"--model.init_args.parents={{dit: {base}/runs/e/stage3_adapt, planner: {base}/runs/e/stage2}}"]
        capsys.readouterr()
        codes = fit(base, "stage3_joint", *own), main(sampled)
        told = capsys.readouterr().err
        assert codes == ((1, 1) if codec == [] else (0, 0)), told
        assert told.count("must be encoded by the video codec") == (2 if codec == [] else 0)


def test_a_run_without_a_planner_says_what_it_can_do(base, capsys):
    assert main(["generate", "--run", f"{base}/runs/e/stage3_adapt", "--out", f"{base}/no"]) == 1
    assert "--plan truth if it knows true plans" in capsys.readouterr().err


def scored(base: Path, stage: str, checkpoint: Path) -> float:
    """Loss that `validate` finds."""
    paths = [f"--data.init_args.root={base}/data", "--data.init_args.batch_size=4", f"--run.root={base}/elsewhere"]
    role = {"stage3_joint": [f"--model.init_args.parents={{'planner': '{base}/runs/e/stage2'}}"]}.get(stage, [])
    cli = BatonCLI(["validate", *expand(["-c", f"experiments/{stage}.yaml", *paths, *role, f"--ckpt_path={checkpoint}"])])
    return float(cli.trainer.callback_metrics["val/loss"])


@pytest.mark.parametrize("stage", ["stage1", pytest.param("stage3_joint", marks=pytest.mark.slow)])
def test_validate_scores_what_a_run_finished_with(base, stage, capsys):
    run = base / "runs/e" / stage
    metrics = json.loads((run / "manifest.json").read_text())["metrics"]
    assert scored(base, stage, run / "weights.safetensors") == pytest.approx(metrics["val/loss"], rel=1e-5)
    assert "the final weights of the run" in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "stage"), [("validate", "stage2"), ("test", "stage3_adapt")])
def test_weights_that_nobody_named_are_not_scored(base, capsys, verb, stage):
    words = [f"--data.init_args.root={base}/data", f"--run.root={base}/runs", "--run.experiment=e"]
    assert main([verb, "-c", f"experiments/{stage}.yaml", *words]) == 1
    assert f"got no --ckpt_path; give the finished run's {base}/runs/e/{stage}/weights.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_validate_scores_the_averages_of_a_checkpoint(base, capsys):
    paths = ["--run.experiment=averaged", "--trainer.callbacks+={class_path: callbacks.ema.EMA, init_args: {decay: 0.5}}"]
    assert fit(base, "stage1", *paths) == 0
    run = base / "runs/averaged/stage1"
    averaged = json.loads((run / "manifest.json").read_text())["metrics"]["val/loss"]
    assert scored(base, "stage1", run / "checkpoints/last.ckpt") == pytest.approx(averaged, rel=1e-5)
    assert "averages of the weights of step 3" in capsys.readouterr().out
    plain = json.loads((base / "runs/e/stage1/manifest.json").read_text())["metrics"]["val/loss"]
    assert abs(plain - averaged) > 1e-4


def test_validate_scores_a_checkpoint(base):
    last = base / "runs/e/stage1/checkpoints/last.ckpt"
    paths = [f"--data.init_args.root={base}/data", f"--run.root={base}/elsewhere"]
    assert main(["validate", "-c", "experiments/stage1.yaml", *paths, f"--ckpt_path={last}"]) == 0
    assert main(["test", "-c", "experiments/stage1.yaml", *paths, f"--ckpt_path={last}"]) == 0


@pytest.fixture(scope="module")
def cached(base):
    """A finished joint run whose plans come from a cache."""
    paths = [f"--data.init_args.root={base}/data", f"--run.root={base}/runs", "--run.experiment=e"]
    with redirect_stdout(StringIO()) as said:
        assert main(["predict", "-c", "experiments/plans.yaml", *paths, "--data.init_args.batch_size=3"]) == 0
    assert "cached plans of 24 clips" in said.getvalue()
    assert fit(base, "stage3_joint_cached") == 0
    return base / "runs/e/stage3_joint_cached"


@pytest.mark.slow
def test_cached_plans_train_as_the_planner_in_the_loop_does_to_the_bit(base, cached):
    from safetensors.torch import load_file

    loop = base / "runs/e/stage3_joint"
    weights, own = load_file(loop / "weights.safetensors"), load_file(cached / "weights.safetensors")
    assert weights.keys() == {key for key in own if not key.startswith("plan.")}
    assert all((own[key] == value).all() for key, value in weights.items())
    metrics, own_metrics = (json.loads((run / "manifest.json").read_text())["metrics"] for run in (loop, cached))
    compared = [name for name in metrics if name.startswith(("train/loss", "val/"))]
    assert {"val/flow_loss/planned", "val/flow_loss/shuffled", "train/loss"} <= set(compared)
    assert {name: own_metrics[name] for name in compared} == {name: metrics[name] for name in compared}
    assert not any("planner." in key or "language" in key for key in own)


@pytest.mark.slow
def test_cached_plans_of_another_planner_are_refused_before_anything_is_trained(base, cached, capsys):
    words = ["--run.experiment=x", f"--model.init_args.parents.dit={base}/runs/e/stage3_adapt"]
    planner = f"--model.init_args.parents.planner={base}/runs/e/stage2"
    other = "--model.init_args.plan.init_args.planner.init_args.system=draw"
    assert fit(base, "stage3_joint_cached", *words, planner, other) == 1
    assert "language.system: 'draw' here, '' there" in capsys.readouterr().err
    assert fit(base, "stage3_joint_cached", *words, planner, "--data.init_args.fields=[latents,features,text]") == 1
    assert "add `plans` to data.init_args.fields" in capsys.readouterr().err


@pytest.mark.slow
def test_clips_for_own_prompts_are_those_of_the_planner_in_the_loop(base, cached):
    words = ["--video-prompt", "a red circle on the left. first the red circle jumps.", "--audio-prompt", "first a thump."]
    for run in (base / "runs/e/stage3_joint", cached):
        assert main(["generate", "--run", str(run), *words, "--out", f"{base}/own-{run.name}"]) == 0
    assert (base / "own-stage3_joint/prompt.mp4").read_bytes() == (base / "own-stage3_joint_cached/prompt.mp4").read_bytes()


@pytest.mark.slow
def test_cached_plans_make_clips_of_held_out_prompts_without_the_planner_s_run(base, cached):
    words = ["--run", str(cached), "--num", "1"]
    assert main(["generate", *words, "--out", f"{base}/beside"]) == 0
    planner = base / "runs/e/stage2"
    planner.rename(base / "gone")
    try:
        assert main(["generate", *words, "--out", f"{base}/alone"]) == 0
    finally:
        (base / "gone").rename(planner)
    clips = sorted(file.name for file in (base / "beside").glob("*.mp4"))
    assert clips and all((base / "alone" / name).read_bytes() == (base / "beside" / name).read_bytes() for name in clips)
