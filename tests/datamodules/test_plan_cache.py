"""Cached plans: a planner's tokens for every prompt, once, known by the planner that made them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors import safe_open
from safetensors.torch import load, save, save_file

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.models.planner import VAPlanner
from baton_lightning.models.sem_mlp import SemMLP
from baton_lightning.models.towers import DualTowers
from baton_lightning.shards.check import check_set
from baton_lightning.shards.format import PLAN_CACHE, Shard, file_digest
from baton_lightning.shards.writer import write_shard
from baton_lightning.stages.cached_plan import CachedPlan
from baton_lightning.stages.plan_sources import PlannedTokens, plan_one_by_one
from baton_lightning.stages.plans import PlanEncoding
from callbacks.cache_writer import CacheWriter
from datamodules.webshards import WebShards

CLIP = ClipSpec(seconds=1.0, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=2, text_width=3, video_plan_width=5, audio_plan_width=4)
SEEN = ["a red circle on the left. first the red circle jumps.", "a blue square.", "a green star. then it jumps."]
HEARD = ["first a thump.", "", "a thump."]


def make_planner(clip: ClipSpec, seed: int = 0, num_heads: int = 2, system: str = "", depth: int = 1) -> VAPlanner:
    readout = partial(DualTowers, num_heads=num_heads)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        planner = VAPlanner(clip, lambda: TinyLLM(width=16, depth=depth, num_heads=2, num_kv_heads=1), readout, system=system)
        for parameter in planner.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    for norm in (planner.video_norm, planner.audio_norm):
        norm.fit(torch.full_like(norm.mean, 2.0), torch.full_like(norm.std, 3.0))
    return planner


def finished(folder: Path, planner: VAPlanner) -> Path:
    """A run that hands on a planner."""
    folder.mkdir(exist_ok=True)
    save_file({f"planner.{k}": v.contiguous() for k, v in planner.state_dict().items()}, folder / "weights.safetensors")
    digest = file_digest(folder / "weights.safetensors")
    (folder / "manifest.json").write_text(json.dumps({"weights_sha256": digest, "clip": planner.clip.to_dict()}))
    return folder


def cache(root: Path, run: Path, make: Any = make_planner, **options: Any) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, callbacks=[CacheWriter()],
    )  # fmt: skip
    module = PlanEncoding(CLIP, make, parents={"planner": str(run)}, **options)
    trainer.predict(module, WebShards(CLIP, str(root), batch_size=2), return_predictions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "stage2", make_planner(CLIP))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, make_set: Any, run: Path) -> Path:
    root = make_set(tmp_path_factory.mktemp("planned") / "set", [3, 4], ("train", "val"), CLIP)
    cache(root, run)
    return root


def opened(root: Path, **options: Any) -> WebShards:
    data = WebShards(CLIP, str(root), batch_size=7, fields=("text", "plans"), **options)
    data.setup("fit")
    return data


def source(run: Path, make: Any = make_planner) -> CachedPlan:
    made = CachedPlan(CLIP, make)
    made.run = run
    made.load_from_run(run)
    return made


def prompts(count: int = 3) -> Batch:
    return Batch([f"k{i}" for i in range(count)], torch.arange(count), 0, SEEN[:count], HEARD[:count])


def test_a_batch_of_the_cache_is_what_the_planner_gives_for_its_prompts(planned: Path, run: Path) -> None:
    for dataset in (opened(planned).train_dataset, opened(planned).val_dataset):
        batch = dataset.batch(range(7))
        plan = plan_one_by_one(make_planner(CLIP), batch)
        assert torch.equal(batch.video_plan, plan.video) and torch.equal(batch.audio_plan, plan.audio)
        cached = source(run)
        read = cached.planned(batch)
        assert not cached.built, "the planner was not needed"
        assert (
            torch.equal(read.video, plan.video) and torch.equal(read.video_times, plan.video_times) and read.video_grid == plan.video_grid
        )


def test_a_prompt_s_plan_does_not_depend_on_its_batch_or_the_trainer_s_precision() -> None:
    planner, batch = make_planner(CLIP), prompts()
    whole = plan_one_by_one(planner, batch)
    with torch.autocast("cpu", torch.bfloat16):
        alone = [
            plan_one_by_one(planner, replace(batch, keys=["k"], video_prompts=[v], audio_prompts=[a]))
            for v, a in zip(SEEN, HEARD, strict=True)
        ]
    assert torch.equal(whole.video, torch.cat([plan.video for plan in alone]))
    assert torch.equal(whole.audio, torch.cat([plan.audio for plan in alone]))


def test_ranks_with_fewer_clips_collect_the_planner_s_shards_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    planner, forwards = make_planner(CLIP), []
    whole = plan_one_by_one(planner, prompts())
    next(planner.parameters()).ds_id = 0
    planner.register_forward_hook(lambda *_: forwards.append(1))
    monkeypatch.setattr("baton_lightning.stages.plan_sources.gathered", lambda mine: [mine, mine + 1])
    again = plan_one_by_one(planner, prompts())
    assert len(forwards) == 4 and torch.equal(again.video, whole.video)


def test_tokens_of_another_planner_are_refused(planned: Path, run: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / "other", make_planner(CLIP, seed=1))
    data = opened(planned)
    with pytest.raises(ValueError, match="must come from the planner in .*/other/ .* got tokens of another one"):
        source(other).require_made_by(data.planned_by())
    with pytest.raises(ValueError, match="got tokens of another one"):
        source(other).planned(data.train_dataset.batch([0]))
    source(run).require_made_by(data.planned_by())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(make_planner, num_heads=4), "readout.audio_tower.cross_modal.num_heads: 4 here, 2 there"),
        (partial(make_planner, system="draw"), "language.system: 'draw' here, '' there"),
        (lambda clip: make_planner(clip).to(torch.bfloat16), "dtypes: bfloat16 here, float32 there"),
        (partial(make_planner, depth=2), r"stage2/ to `planner` must match key by key: missing in the parent \(11\)"),
    ],
)
def test_tokens_of_a_planner_of_other_settings_or_precision_are_refused(planned: Path, run: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(run, make).require_made_by(opened(planned).planned_by())


def test_prompts_that_were_written_again_make_the_tokens_stale(planned: Path, run: Path, tmp_path: Path, make_set: Any) -> None:
    root = make_set(tmp_path / "set", [3, 5], ("train", "val"), CLIP)
    shutil.copy(planned / PLAN_CACHE, root)
    with pytest.raises(ValueError, match="cache of plans in .* made from clips other .*experiments/plans.yaml"):
        opened(root)
    (root / PLAN_CACHE).unlink()
    with pytest.raises(ValueError, match="no finished cache of plans; run .*experiments/plans.yaml"):
        opened(root)


def test_another_type_makes_the_tokens_again_and_half_of_them_are_refused(planned: Path, run: Path, tmp_path: Path) -> None:
    root = shutil.copytree(planned, tmp_path / "set")
    before = opened(root).train_dataset.batch([0]).video_plan
    cache(root, run, dtype="bfloat16")
    after = opened(root).train_dataset.batch([0]).video_plan
    assert after.dtype == torch.float32 and torch.equal(after, before.bfloat16().float()) and not torch.equal(after, before)
    shutil.copy(planned / "train/plans-000000.json", root / "train")
    shutil.copy(planned / "train/plans-000000.tar", root / "train")
    with pytest.raises(ValueError, match="train/plans-000000.tar was not made by the networks that .*plans.json"):
        opened(root)


def test_a_second_run_plans_nothing_again(planned: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {file: file.stat().st_mtime_ns for file in planned.rglob("*")}
    monkeypatch.setattr("baton_lightning.stages.plans.plan_one_by_one", None)  # called, it would fail
    cache(planned, run)
    assert {file: file.stat().st_mtime_ns for file in planned.rglob("*")} == written


def test_clips_without_cached_tokens_are_refused_and_own_prompts_get_the_planner(run: Path) -> None:
    cached = source(run)
    assert not any(isinstance(module, (VAPlanner, SemMLP)) for module in cached.modules()) and not list(cached.parameters())
    with pytest.raises(ValueError, match="add `plans` to data.init_args.fields"):
        cached.planned(replace(prompts(), video_latents=torch.zeros(3, 1)))
    loop = PlannedTokens(CLIP, make_planner)
    assert torch.equal(cached.planned(prompts()).video, loop.planned(prompts()).video)
    assert not any("planner" in key for key in cached.state_dict())


def test_the_feature_space_is_the_planner_s_and_travels_with_the_weights(run: Path) -> None:
    cached = source(run)
    assert (cached.video_norm.mean == 2).all() and (cached.audio_norm.std == 3).all()
    again = CachedPlan(CLIP, make_planner)
    again.load_state_dict(cached.state_dict())
    assert again.digest == cached.digest == json.loads((run / "manifest.json").read_text())["weights_sha256"]


def test_a_shard_holds_tokens_under_their_names(planned: Path) -> None:
    shard = Shard.open(planned / "val" / "plans-000001.tar")
    assert len(shard.members) == 4 and all(list(members) == ["plans.safetensors"] for members in shard.members.values())
    key = next(iter(shard.members))
    file = planned / "one.safetensors"
    file.write_bytes(shard.read(key, "plans.safetensors"))
    with safe_open(file, "pt") as tensors:
        assert set(tensors.keys()) == {"video", "audio"}
    file.unlink()


def test_check_looks_at_cached_tokens(planned: Path, tmp_path: Path) -> None:
    root = shutil.copytree(planned, tmp_path / "set")
    tar = root / "val" / "plans-000000.tar"
    tokens = {key: load(Shard.open(tar).read(key, "plans.safetensors")) for key in Shard.open(tar).members}
    next(iter(tokens.values()))["audio"][0, 0] = float("nan")
    recipe = json.loads((root / PLAN_CACHE).read_text())["recipe"]
    write_shard(tar, ((key, {"plans.safetensors": save(named)}) for key, named in tokens.items()), made_by=recipe)
    (root / "train" / "plans-000001.tar").unlink()
    output = [str(problem) for _, problems in check_set(root) for problem in problems if "plans-" in problem.tar.name]
    assert len(output) == 2 and "plans-000001.tar: is missing" in output[0] and "audio holds 1 values that are not finite" in output[1]
